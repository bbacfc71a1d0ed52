"""Configurations of the published backbones, so that they can be planned for without their files (docs/vgt.md 0, 2.3).

Every entry is in transformers' native layout, whatever the layout of the published files: facts of the models, not
copies of their configuration files.  Sizes that transformers' own defaults would change stand here explicitly.
"""

from __future__ import annotations

import copy
from typing import Any


def _internvl3(text: dict[str, Any]) -> dict[str, Any]:
    """InternVL3 with InternViT-300M and pixel shuffle; ``text`` holds the sizes of its language model."""
    return {
        "model_type": "internvl",
        "downsample_ratio": 0.5,
        "image_seq_length": 256,
        "image_token_id": 151667,
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": False,
        "vision_config": {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "image_size": [448, 448],
            "patch_size": [14, 14],
            "attention_bias": True,
            "use_qk_norm": False,
            "norm_type": "layer_norm",
            "layer_norm_eps": 1e-6,
            "hidden_act": "gelu",
        },
        "text_config": {
            "model_type": "qwen2",
            "vocab_size": 151674,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2.0},
            "tie_word_embeddings": False,
            "bos_token_id": 151643,
            "eos_token_id": 151645,
            **text,
        },
    }


_INTERNVL3_1B = _internvl3(
    {
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
    }
)
_INTERNVL3_2B = _internvl3(
    {
        "hidden_size": 1536,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "intermediate_size": 8960,
    }
)
_QWEN25_VL_3B = {
    "model_type": "qwen2_5_vl",
    "tie_word_embeddings": True,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "hidden_act": "silu",
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "out_hidden_size": 2048,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
    "text_config": {
        "model_type": "qwen2_5_vl_text",
        "hidden_size": 2048,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "intermediate_size": 11008,
        "vocab_size": 151936,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 128000,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        "tie_word_embeddings": True,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
    },
}

KNOWN: dict[str, dict[str, Any]] = {
    "OpenGVLab/InternVL3-1B": _INTERNVL3_1B,
    "OpenGVLab/InternVL3-1B-hf": _INTERNVL3_1B,
    "OpenGVLab/InternVL3-2B": _INTERNVL3_2B,
    "OpenGVLab/InternVL3-2B-hf": _INTERNVL3_2B,
    "Qwen/Qwen2.5-VL-3B-Instruct": _QWEN25_VL_3B,
}

# What the backbone's tokenizer makes of "<img>": one added token in InternVL3, "<img" and ">" in Qwen2.5-VL.
START_IDS: dict[str, tuple[int, ...]] = {
    hub: (151665,) if values["model_type"] == "internvl" else (20092, 29) for hub, values in KNOWN.items()
}


def hf_config_of(spec: str) -> dict[str, Any] | None:
    """The configuration of a known hub id as a dictionary that the caller may change; None for any other spec."""
    return copy.deepcopy(KNOWN.get(spec))
