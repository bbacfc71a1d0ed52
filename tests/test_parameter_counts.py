"""The full-size configurations have the paper's parameter counts (spec vgt 1.7, 2.7, 7), built without memory."""

from __future__ import annotations

import pytest
import torch

from vgt.models.critic import Critic, CriticConfig
from vgt.models.flow_head import FlowHead, FlowHeadConfig
from vgt.models.pixel_decoder import DecoderConfig, build_decoder
from vgt.models.vgt_ae import VGTAE, VGTAEConfig
from vgt.models.visual_lm import VisualLM, VisualLMConfig

QWEN2 = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "intermediate_size": 4864,
    "vocab_size": 151674,
}
QWEN25_VL = {
    "model_type": "qwen2_5_vl_text",
    "hidden_size": 2048,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "intermediate_size": 11008,
    "vocab_size": 151936,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}
INTERNVL3_1B = {
    "model_type": "internvl",
    "text_config": QWEN2,
    "vision_config": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "image_size": [448, 448],
        "patch_size": [14, 14],
        "attention_bias": True,
    },
}
QWEN25_VL_3B = {
    "model_type": "qwen2_5_vl",
    "text_config": QWEN25_VL,
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "out_hidden_size": 2048,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
}


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(autouse=True)
def meta():
    with torch.device("meta"):
        yield


@pytest.mark.parametrize(
    ("vlm", "total", "parts"),
    [
        (INTERNVL3_1B, 472_577_475, {"encoder": 308_495_104, "down_blocks": 4_827_648, "down_mlp": 31_552}),
        (QWEN25_VL_3B, 853_168_579, {"encoder": 668_684_288, "down_blocks": 25_190_400, "down_mlp": 70_720}),
    ],
    ids=["internvl", "qwen"],
)
def test_vgt_ae(vlm, total, parts):
    ae = VGTAE(VGTAEConfig(vlm=vlm))
    assert {name: count(getattr(ae, name)) for name in parts} == parts
    assert count(ae) == total
    assert ae.stride == 28


def test_decoder():
    decoder = build_decoder(DecoderConfig(), 32)
    assert count(decoder) == 159_223_171
    assert len(decoder.state_dict()) == 196


@pytest.mark.parametrize(("width", "total"), [(896, 150_641_696), (1536, 151_624_736), (2048, 152_411_168)])
def test_flow_head(width, total):
    assert count(FlowHead(FlowHeadConfig(), 32, width)) == total


def test_critic():
    assert count(Critic(CriticConfig())) == 1_909_889


@pytest.mark.parametrize(
    ("text", "layers"), [(QWEN2, 357_900_000), (QWEN25_VL, 2_775_000_000)], ids=["internvl", "qwen"]
)
def test_what_the_generator_adds_to_the_language_model(text, layers):
    """Two grids of 4096 D, in-projector 33 D, out-projector D (D + 1), flow head (spec vgt 2.10); transformer layers
    as in section 0."""
    d = text["hidden_size"]
    model = VisualLM(VisualLMConfig(method="query_ar", text=text, start_ids=(0,)))
    head = count(model.image_head)
    assert count(model) - count(model.language_model) - head == 2 * 4096 * d + 33 * d + d * (d + 1)
    assert count(model.language_model.layers) == pytest.approx(layers, rel=1e-3)
