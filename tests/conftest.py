"""Small random models that the tests share: the real classes with small configurations, one per family.

Nothing here is trained.  Weights are drawn wide (standard deviation fan_in^-1/2, the flow head's zero layers too), so
that a wrong mask, position or neighbour shows in the outputs."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: sums then have one order

import pytest

FAMILIES = ("internvl", "qwen2_5_vl")
IMAGE = 32  # pixels; both towers fold it into 4 x 4 tokens
GRID = (4, 4)
CAPTIONS = ("a photo of a red star", "a photo of a blue ring left of a green moon", "a photo of two crosses")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes more than 20 seconds")


def vlm_values(family: str) -> dict:
    """A small transformers configuration of one family, as a dictionary."""
    text = {
        "model_type": "qwen2" if family == "internvl" else "qwen2_5_vl_text",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 64,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }
    if family == "internvl":
        vision = {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "image_size": [IMAGE, IMAGE],
            "patch_size": [4, 4],
            "attention_bias": True,
        }
        return {"model_type": family, "downsample_ratio": 0.5, "tie_word_embeddings": True,
                "vision_config": vision, "text_config": text}  # fmt: skip
    text["rope_parameters"]["mrope_section"] = [2, 3, 3]
    vision = {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 16,
        "out_hidden_size": 32,
        "fullatt_block_indexes": [1],
    }
    return {"model_type": family, "tie_word_embeddings": True, "vision_config": vision, "text_config": text}


def widen(module, seed: int):
    """Draw weights anew from ``seed``: matrices N(0, 1 / fan_in), vectors moved by N(0, 0.1^2); returns the module."""
    import torch

    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            drawn = torch.randn(parameter.shape, generator=rng)
            if parameter.ndim >= 2:
                parameter.copy_(drawn * parameter[0].numel() ** -0.5)
            else:
                parameter.add_(0.1 * drawn)
    return module


@pytest.fixture(scope="session")
def vlms() -> dict:
    """family -> a small random VLM in eval mode."""
    import torch

    from vgt.vlm import tokenizer, vlm

    made = {}
    for seed, family in enumerate(FAMILIES):
        with torch.random.fork_rng(devices=[]):
            config = vlm.VLMConfig(hf=vlm_values(family), image_size=IMAGE)
            made[family] = widen(vlm.VLM.build(config, tokenizer.build(family)), seed).eval().requires_grad_(False)
    return made


@pytest.fixture(scope="session")
def visual_lms(vlms) -> dict:
    """family -> a small random VisualLM (QueryAR and MAR share it) in eval mode, with a latent standardisation."""
    import torch

    from vgt.methods.flow_head import FlowHeadConfig
    from vgt.methods.visual_lm import VisualLM, VisualLMConfig

    made = {}
    for seed, (family, vlm) in enumerate(vlms.items()):
        config = VisualLMConfig(
            method="query_ar",
            text=vlm.config.text_config.to_dict(),
            start_ids=vlm.tokenizer("<img>", add_special_tokens=False).input_ids,
            query_grid=8,
            latent_grid=GRID,
            d_z=8,
            head=FlowHeadConfig(width=32, depth=2),
            latent_mean=(0.3, -0.2, 0.1, 0.0, 0.4, -0.5, 0.2, 0.1),
            latent_std=(0.9, 1.1, 0.8, 1.2, 1.0, 0.7, 1.3, 0.6),
        )
        with torch.random.fork_rng(devices=[]):
            model = widen(VisualLM(config), 10 + seed)
        with torch.no_grad():
            for grid in (model.max_metaquery, model.grid_embed):
                grid.mul_(20)
        made[family] = model.eval().requires_grad_(False)
    return made


@pytest.fixture(scope="session")
def pixel_autoencoder():
    """A small random pixel-only autoencoder whose latents fit the VisualLMs: stride 8, 8 channels, 4 x 4 at 32 px."""
    import torch

    from vgt.methods.pixel_decoder import DecoderConfig
    from vgt.methods.vgt_ae import VGTAE, VGTAEConfig

    decoder = DecoderConfig(widths=(8, 16, 16, 16), layers=(0, 1, 1, 1), attention=0, upsample="pixel_shuffle")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = VGTAEConfig(vlm=None, image_size=IMAGE, d_z=8, decoder=decoder, pixel_width=16, pixel_stride=8)
        return VGTAE(config).eval().requires_grad_(False)
