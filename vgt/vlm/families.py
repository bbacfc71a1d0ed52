"""One small adapter per VLM family, in a table by transformers' ``model_type`` (docs/vgt.md 1.2, 1.3; ADDING_A_VLM.md).

An adapter says where the parts of a model are, how an image becomes features, and how an image stands in a prompt.
What it does not say is taken from the generic functions below, which serve any model of AutoModelForImageTextToText
that has a vision tower, a projector (or a merger within the tower) and a language model.

Shapes: B batch, hw image tokens, A width of the language model, L text length.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vgt.equations.latents import merge_patches, pixel_shuffle

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# Mean and deviation that towers of other models were trained with, by the tower's own model type.
TOWER_PIXELS = {
    "clip_vision_model": CLIP,
    "siglip_vision_model": HALF,
    "siglip2_vision_model": HALF,
    "internvl_vision": IMAGENET,
    "dinov2": IMAGENET,
}

TOWERS = ("vision_tower", "visual", "vision_model")
PROJECTORS = ("multi_modal_projector", "connector", "projector", "aligner")
LANGUAGES = ("language_model", "text_model")


@dataclass(frozen=True)
class Parts:
    """The modules of a whole model; ``projector`` is None where the tower ends with its own merger."""

    tower: nn.Module
    projector: nn.Module | None
    language: nn.Module


@dataclass(frozen=True)
class ImageText:
    """How an image stands in a prompt: ``opening``, one ``context`` token per feature, ``closing``.
    ``placeholders``: what a chat template may write for one image instead."""

    context: str
    opening: str = ""
    closing: str = ""
    placeholders: tuple[str, ...] = ()

    def show(self, tokens: int) -> str:
        return self.opening + self.context * tokens + self.closing


# -------------------------------------------------------------------------------- what most models have in common


def _first(model: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    return next((found for name in names if (found := getattr(model, name, None)) is not None), None)


def _unfit(config, part: str, names: tuple[str, ...]) -> ValueError:
    return ValueError(
        f"model type {config.model_type!r} has no {part} under the names {', '.join(names)}; "
        "give it an adapter of its own as ADDING_A_VLM.md says"
    )


def parts(hf: nn.Module) -> Parts:
    """Tower, projector and language model of ``hf`` by their usual names.  Raises ValueError naming a missing part."""
    inner = getattr(hf, "model", hf)
    tower, projector, language = (_first(inner, names) for names in (TOWERS, PROJECTORS, LANGUAGES))
    if tower is None:
        raise _unfit(hf.config, "vision tower", TOWERS)
    if projector is None and getattr(tower, "merger", None) is None:
        raise _unfit(hf.config, "projector", (*PROJECTORS, "merger in the tower"))
    if language is None:
        raise _unfit(hf.config, "language model", LANGUAGES)
    return Parts(tower, projector, language)


def image_side(config) -> int:
    """Pixels on a side of the square image that the tower is made for.  Raises ValueError where none is given."""
    size = getattr(config.vision_config, "image_size", None)
    if size is None:
        raise _unfit(config, "image size", ("vision_config.image_size",))
    return size[0] if isinstance(size, (list, tuple)) else size


def stride(config) -> int:
    """Pixels per feature on a side: from the number of features of one image where the configuration says it, else
    one patch (``features`` checks it)."""
    tokens = getattr(config, "mm_tokens_per_image", None) or getattr(config, "image_seq_length", None)
    if tokens is not None:
        return image_side(config) // round(tokens**0.5)
    patch = getattr(config.vision_config, "patch_size", None)
    if not isinstance(patch, int):
        names = ("mm_tokens_per_image", "image_seq_length", "vision_config.patch_size")
        raise _unfit(config, "number of image tokens", names)
    return patch


def check_fixed(config, height: int, width: int) -> None:
    """Raises ValueError unless the image has the one size of the tower."""
    side = image_side(config)
    if (height, width) != (side, side):
        raise ValueError(f"image of {width} x {height} px: this tower takes {side} x {side} px; resize or crop it")


def check_multiple(config, height: int, width: int) -> None:
    """Raises ValueError unless both sides are multiples of the stride."""
    step = family_of(config).stride(config)
    if height % step or width % step:
        raise ValueError(f"image of {width} x {height} px: sides must be multiples of {step} px; resize or crop it")


def features(encoder, x: Tensor) -> Tensor:
    """[B, hw, A] by the model's own ``get_image_features``.  Raises ValueError where its number of features is not
    what the configuration says."""
    wanted = inspect.signature(encoder.whole.get_image_features).parameters.values()
    more = [p.name for p in wanted if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if more != ["pixel_values"]:
        raise ValueError(
            f"model type {encoder.config.model_type!r} makes features of {', '.join(more)}, not of pixels alone; "
            "give it an adapter of its own as ADDING_A_VLM.md says"
        )
    found = encoder.whole.get_image_features(pixel_values=x)
    found = getattr(found, "pooler_output", found)
    rows = torch.stack(list(found)) if isinstance(found, (list, tuple)) else found
    rows = rows.reshape(len(x), -1, rows.shape[-1])
    side = encoder.stride
    expected = (x.shape[-2] // side) * (x.shape[-1] // side)
    if rows.shape[1] != expected:
        raise ValueError(
            f"model type {encoder.config.model_type!r} makes {rows.shape[1]} features of an image where its "
            f"configuration says {expected}; give it an adapter of its own as ADDING_A_VLM.md says"
        )
    return rows


def read(hf: nn.Module, inputs: dict[str, Any], shown: Tensor) -> Tensor:
    """Final hidden states [B, L, A] of the language model; ``shown`` bool [B, L] marks the places of image features."""
    return family_of(hf.config).parts(hf).language(**inputs).last_hidden_state


def pixels(config) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the pixels in [0, 1] for the vision tower.  Raises ValueError for an unknown tower."""
    tower = config.vision_config.model_type
    if tower not in TOWER_PIXELS:
        raise ValueError(
            f"model type {config.model_type!r}: pixel statistics of its tower {tower!r} are unknown; "
            "give it an adapter of its own as ADDING_A_VLM.md says"
        )
    return TOWER_PIXELS[tower]


@dataclass(frozen=True)
class Family:
    """``pixels(config)``: mean and deviation of the pixels; ``parts(hf)``; ``stride(config)`` in pixels per feature;
    ``check(config, h, w)`` raises ValueError for an image size; ``features(encoder, x)``: normalised images
    [B, 3, H, W] -> [B, hw, A] in raster order; ``read(hf, inputs, shown)`` runs the language model; ``images``: how an
    image stands in a prompt, the first form that the tokenizer knows; ``positions(shown, grid)``: [3, B, L] where the
    model places an image's features in more than one dimension; ``needs``: tokens without which nothing works."""

    name: str
    images: tuple[ImageText, ...] = ()
    pixels: Callable[[Any], tuple[tuple[float, ...], tuple[float, ...]]] = pixels
    parts: Callable[[nn.Module], Parts] = parts
    stride: Callable[[Any], int] = stride
    check: Callable[[Any, int, int], None] = check_fixed
    features: Callable[[Any, Tensor], Tensor] = features
    read: Callable[[nn.Module, dict[str, Any], Tensor], Tensor] = read
    positions: Callable[[Tensor, tuple[int, int]], Tensor] | None = None
    needs: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------------------------- InternVL


def _internvl_stride(config) -> int:
    return round(config.vision_config.patch_size[0] / config.downsample_ratio)


def _internvl_check(config, height: int, width: int) -> None:
    check_multiple(config, height, width)
    if height != width:
        raise ValueError(f"image of {width} x {height} px: InternVL's tower takes square images; crop it")


def _internvl_features(encoder, x: Tensor) -> Tensor:
    hidden = encoder.tower(pixel_values=x).last_hidden_state[:, 1:]  # [B, n, C], CLS dropped
    side = int(hidden.shape[1] ** 0.5)
    grid = hidden.reshape(len(x), side, side, -1)
    folded = pixel_shuffle(grid, round(1 / encoder.config.downsample_ratio))
    return encoder.projector(folded.flatten(1, 2))


# ----------------------------------------------------------------------------------------------------- Qwen2.5-VL


def _qwen_stride(config) -> int:
    return config.vision_config.patch_size * config.vision_config.spatial_merge_size


def _qwen_features(encoder, x: Tensor) -> Tensor:
    vision = encoder.config.vision_config
    gh, gw = (side // vision.patch_size for side in x.shape[-2:])
    patches = merge_patches(x, vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)
    thw = torch.tensor([[1, gh, gw]], device=x.device).expand(len(x), 3)
    return encoder.tower(patches, grid_thw=thw).pooler_output.reshape(len(x), -1, vision.out_hidden_size)


def mrope_positions(shown: Tensor, grid: tuple[int, int]) -> Tensor:
    """Qwen2.5-VL's positions [3, B, L] (time, row, column) of text with at most one image of ``grid`` features a row,
    at the places ``shown`` [B, L]: text counts on all three axes; the image holds time still, counts rows and columns
    from where the text stopped; the text after it goes on behind the largest of them (docs/vgt.md 0, M-RoPE)."""
    height, width = grid
    before = shown.long().cumsum(1) - shown.long()  # image features left of each place
    place = torch.arange(shown.shape[1], device=shown.device)
    start = torch.where(shown.any(1), shown.int().argmax(1), shown.shape[1])[:, None]
    text = torch.where(place < start, place, place - before + max(height, width))
    axes = (torch.zeros_like(before), before // width, before % width)
    return torch.stack([torch.where(shown, start + axis, text) for axis in axes])


# ------------------------------------------------------------------------------------------------ further families


def _idefics_stride(config) -> int:
    return config.vision_config.patch_size * config.scale_factor


def _idefics_check(config, height: int, width: int) -> None:
    check_multiple(config, height, width)
    side = image_side(config)
    if height != width or height > side:
        raise ValueError(f"image of {width} x {height} px: this tower takes squares up to {side} px; resize or crop it")


def _idefics_features(encoder, x: Tensor) -> Tensor:
    # Not by get_image_features: it takes an image whose normalised pixels are all zero (even grey) for padding.
    tower = encoder.tower
    return encoder.projector(tower(pixel_values=x.to(tower.dtype)).last_hidden_state)


def _gemma_read(hf: nn.Module, inputs: dict[str, Any], shown: Tensor) -> Tensor:
    # The features of an image see each other in both directions; the whole model makes that mask.
    return hf.model(**inputs, token_type_ids=shown.long()).last_hidden_state


# ---------------------------------------------------------------------------------------------------------- table

_SMALL = ImageText("<IMG_CONTEXT>", "<img>", "</img>\n", ("<IMG_CONTEXT>\n", "<image>\n"))
_QWEN = ImageText(
    "<|image_pad|>", "<|vision_start|>", "<|vision_end|>", ("<|vision_start|><|image_pad|><|vision_end|>",)
)
_IDEFICS = ImageText("<image>", "<fake_token_around_image><global-img>", "<fake_token_around_image>", ("<image>",))
_GEMMA = ImageText(
    "<image_soft_token>", "\n\n<start_of_image>", "<end_of_image>\n\n", ("<start_of_image>", "<image_soft_token>")
)


def _idefics(name: str) -> Family:
    return Family(
        name,
        images=(_IDEFICS,),
        pixels=lambda config: HALF,
        stride=_idefics_stride,
        check=_idefics_check,
        features=_idefics_features,
    )


FAMILIES: dict[str, Family] = {
    "internvl": Family(
        "internvl",
        images=(_SMALL,),
        pixels=lambda config: IMAGENET,
        stride=_internvl_stride,
        check=_internvl_check,
        features=_internvl_features,
        needs=("<img>", "</img>", "<IMG_CONTEXT>"),
    ),
    "qwen2_5_vl": Family(
        "qwen2_5_vl",
        images=(_QWEN, _SMALL),
        pixels=lambda config: CLIP,
        stride=_qwen_stride,
        check=check_multiple,
        features=_qwen_features,
        positions=mrope_positions,
    ),
    "llava": Family("llava", images=(ImageText("<image>", closing="\n", placeholders=("<image>\n", "<image>")),)),
    "gemma3": Family("gemma3", images=(_GEMMA,), read=_gemma_read),
    "idefics3": _idefics("idefics3"),
    "smolvlm": _idefics("smolvlm"),
}


def model_class(config):
    """transformers' class for the whole model of ``config``, or None for a model that does not turn images to text."""
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    return MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config), None)


def family_of(config) -> Family:
    """The adapter of a transformers configuration: its own, or the generic one.  Raises ValueError for a model that
    transformers does not know as one from images and text to text."""
    if config.model_type in FAMILIES:
        return FAMILIES[config.model_type]
    if model_class(config) is None or getattr(config, "vision_config", None) is None:
        known = ", ".join(FAMILIES)
        raise ValueError(
            f"model type {config.model_type!r} has no adapter: it is no model from images and text to text; "
            f"use one of {known}, or another that transformers' AutoModelForImageTextToText knows"
        )
    return Family(config.model_type)


# --------------------------------------------------------------------------------------------------------- prompts


def knows(tokenizer, token: str) -> bool:
    """Whether ``token`` is one token of the tokenizer."""
    found = tokenizer.convert_tokens_to_ids(token)
    return found is not None and found != tokenizer.unk_token_id


def image_text(family: Family, config, tokenizer) -> ImageText:
    """How an image stands in a prompt of this tokenizer.  Raises ValueError naming the tokens that it lacks."""
    lost = [token for token in family.needs if not knows(tokenizer, token)]
    if lost:
        raise ValueError(
            f"the tokenizer has no token {', '.join(lost)}, which {family.name} needs; use the model's own tokenizer"
        )
    for form in family.images:
        if knows(tokenizer, form.context):
            return form
    wanted = [form.context for form in family.images]
    place = getattr(config, "image_token_id", None)
    if not wanted and place is not None and place < len(tokenizer):
        token = tokenizer.convert_ids_to_tokens(place)
        return ImageText(token, placeholders=(token,))
    raise ValueError(
        f"the tokenizer has no token for the place of an image ({', '.join(wanted) or 'image_token_id'}), which "
        f"{family.name} needs; use the model's own tokenizer"
    )
