"""Small configurations, tokenizers and chat templates of further families, and InternVL's original layout on disk."""

from __future__ import annotations

import json

import torch
from conftest import IMAGE, vlm_values, widen
from safetensors.torch import save_file

from vgt.vlm import tokenizer, vlm

TEXT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
    "intermediate_size": 64, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": None,
    "eos_token_id": 3,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": IMAGE, "patch_size": 4,
}  # fmt: skip
SIGLIP = {"model_type": "siglip_vision_model", **VISION, "vision_use_head": False}
LLAMA = {"model_type": "llama", **TEXT}
FURTHER = {
    "llava": {"image_seq_length": 64, "text_config": LLAMA,
              "vision_config": {"model_type": "clip_vision_model", **VISION, "projection_dim": 16}},
    "gemma3": {"mm_tokens_per_image": 16, "vision_config": SIGLIP,
               "text_config": {"model_type": "gemma3_text", **TEXT, "sliding_window": 16,
                               "query_pre_attn_scalar": 16}},
    "idefics3": {"scale_factor": 2, "text_config": LLAMA,
                 "vision_config": {"model_type": "idefics3_vision", **VISION}},
    "smolvlm": {"scale_factor": 2, "text_config": LLAMA,
                "vision_config": {"model_type": "smolvlm_vision", **VISION}},
    "paligemma": {"projection_dim": 32, "text_config": {"model_type": "gemma", **TEXT},
                  "vision_config": {**SIGLIP, "projection_dim": 32}},
}  # fmt: skip
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}"
    "{{ PLACE if c.type == 'image' else c.text }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PIECES = {
    "llava": ["<image>"],
    "gemma3": ["<image_soft_token>", "<start_of_image>", "<end_of_image>"],
    "idefics3": ["<image>", "<fake_token_around_image>", "<global-img>"],
    "smolvlm": ["<image>", "<fake_token_around_image>", "<global-img>"],
    "paligemma": ["<image>"],
    "qwen2_5_vl": ["<|vision_start|>", "<|image_pad|>", "<|vision_end|>"],
}


def words(family: str, place: str | None = None):
    """The tiny tokenizer with the image tokens of a family's published one; ``place``: what its chat template writes
    for an image, None without a template."""
    made = tokenizer.build("internvl" if family == "internvl" else "qwen2_5_vl")
    made.add_special_tokens({"additional_special_tokens": PIECES.get(family, [])}, replace_extra_special_tokens=False)
    if place is not None:
        made.chat_template = CHATML.replace("PLACE", repr(place))
    return made


def further(family: str, place: str | None = None) -> vlm.VLM:
    """A small random VLM of a further family (its one image of 32 px)."""
    found = words(family, place)
    values = {"model_type": family, **FURTHER[family]}
    values["text_config"] = {**values["text_config"], "vocab_size": len(found)}
    values["image_token_id"] = found.convert_tokens_to_ids(PIECES[family][0])
    with torch.random.fork_rng(devices=[]):
        hf = widen(vlm.whole_model(vlm.hf_config(values)), 7)
        return vlm.VLM(hf, found, IMAGE).eval().requires_grad_(False)


# ------------------------------------------------------------------------------------- InternVL's original layout


def untied() -> dict:
    """The small InternVL of the tests with a head of its own, as InternVL3 has."""
    values = vlm_values("internvl")
    return {**values, "tie_word_embeddings": False, "text_config": {**values["text_config"],
                                                                     "tie_word_embeddings": False}}  # fmt: skip


def original_config(config) -> dict:
    """config.json as the authors write it, of a native configuration."""
    vision, text = config.vision_config, config.text_config.to_dict()
    rope = text.pop("rope_parameters")
    return {
        "architectures": ["InternVLChatModel"],
        "auto_map": {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig",
                     "AutoModel": "modeling_internvl_chat.InternVLChatModel"},
        "model_type": "internvl_chat", "downsample_ratio": config.downsample_ratio, "dynamic_image_size": True,
        "force_image_size": vision.image_size[0], "ps_version": "v2", "select_layer": -1, "template": "internvl2_5",
        "use_thumbnail": True, "torch_dtype": "bfloat16",
        "llm_config": {**text, "architectures": ["Qwen2ForCausalLM"], "rope_theta": rope["rope_theta"],
                       "torch_dtype": "bfloat16", "tie_word_embeddings": config.tie_word_embeddings},
        "vision_config": {
            "model_type": "intern_vit_6b", "architectures": ["InternVisionModel"], "hidden_size": vision.hidden_size,
            "num_hidden_layers": vision.num_hidden_layers, "num_attention_heads": vision.num_attention_heads,
            "intermediate_size": vision.intermediate_size, "image_size": vision.image_size[0],
            "patch_size": vision.patch_size[0], "hidden_act": "gelu", "norm_type": "layer_norm",
            "layer_norm_eps": 1e-6, "qk_normalization": False, "qkv_bias": True, "drop_path_rate": 0.0,
            "use_flash_attn": True,
        },
    }  # fmt: skip


def original_state(state: dict) -> dict:
    """The authors' keys (docs/vgt.md 4.3) of a native state, by plain replacement; fused attention matrices."""
    made = {}
    for key, value in state.items():
        if ".attention.k_proj" in key or ".attention.v_proj" in key:
            continue
        if ".attention.q_proj" in key:
            value = torch.cat([state[key.replace("q_proj", f"{name}_proj")] for name in "qkv"])
        for new, old in (
            ("model.vision_tower.encoder.layer.", "vision_model.encoder.layers."),
            ("model.vision_tower.", "vision_model."), ("embeddings.cls_token", "embeddings.class_embedding"),
            ("embeddings.position_embeddings", "embeddings.position_embedding"),
            ("patch_embeddings.projection", "patch_embedding"), ("lambda_1", "ls1"), ("lambda_2", "ls2"),
            ("layernorm_before", "norm1"), ("layernorm_after", "norm2"), ("attention.q_proj", "attn.qkv"),
            ("attention.projection_layer", "attn.proj"), ("model.multi_modal_projector.layer_norm", "mlp1.0"),
            ("model.multi_modal_projector.linear_1", "mlp1.1"), ("model.multi_modal_projector.linear_2", "mlp1.3"),
            ("model.language_model.", "language_model.model."), ("lm_head.", "language_model.lm_head."),
        ):  # fmt: skip
            if key.startswith(new) or (new in key and not new.startswith(("model.", "lm_head"))):
                key = key.replace(new, old)
        made[key] = value.clone().contiguous()
    return made


def write_shards(folder, state: dict, shards: int) -> None:
    """``state`` in one safetensors file, or in several with an index."""
    names = sorted(state)
    if shards == 1:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return
    files = [f"model-{k + 1:05d}-of-{shards:05d}.safetensors" for k in range(shards)]
    place = {name: files[i * shards // len(names)] for i, name in enumerate(names)}
    for file in files:
        save_file({n: state[n] for n in names if place[n] == file}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": place}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
