"""The published checkpoints (hustvl: QueryAR and VGT-AE) as models of this project (docs/vgt.md 4).

A file (.safetensors, or .pth read as tensors only) becomes configurations, states under our keys, and a report on every
tensor.  Strict: nothing is missing, nothing is left over, and no code of a file runs: a training file also holds
bookkeeping of the training framework, whose objects are replaced by empty ones.

Configurations are read from the shapes of the weights (docs/vgt.md 2.10, 4.5: never trust the configuration, count the
layers in the checkpoint).  What shapes do not say (heads, rotary base, window) comes from the VLM that a model was made
of, or from the table of the published ones.  Shapes: D width of the language model, A width of the autoencoder's
projector.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vgt.checkpoints import checkpoint, shards
from vgt.checkpoints.pretrained import locate
from vgt.checkpoints.released_keys import INTERNVL, QWEN, ConversionReport, Sorted, same, sort
from vgt.core.config import Config
from vgt.methods import registry
from vgt.methods.flow_head import FlowHeadConfig
from vgt.methods.pixel_decoder import DecoderConfig
from vgt.methods.registry import System
from vgt.methods.vgt_ae import VGTAEConfig
from vgt.methods.visual_lm import VisualLMConfig
from vgt.vlm import backbones, known
from vgt.vlm.families import family_of, knows
from vgt.vlm.vlm import hf_config

START = "<img>"
GRID = 16  # tokens on a side of every released latent grid (docs/vgt.md 2.1)
TIME_SHIFT = {INTERNVL: 1.4, QWEN: 1.0}  # of training; inference does not use it (docs/vgt.md 2.8)
AGAIN = "download or copy the file again"
CHOICES = ("auto", "state_dict", "ema_state_dict")
# Where the reference's loader looks, in its order; the file itself comes last.
ORDER = ("ema_state_dict", "state_dict", "model")
# What stands under these names (docs/vgt.md 4.4): the training code swaps the two when it saves.
AVERAGED = "state_dict: the averaged weights (the training code swaps them in when it saves)"
RAW = "ema_state_dict: the raw weights of the last step, not their average (swapped when the file was saved)"
ALONE = "state_dict: the only weights in the file"
MODEL = "model: the only weights in the file"
BARE = "the file itself is a table of weights"
# Globals of bookkeeping in training files (message_hub and meta of mmengine, options of a command line), never of
# weights.
BOOKKEEPING = ("mmengine.", "numpy.", "argparse.Namespace")
NAMES = ("builtins.getattr", "__builtin__.getattr", "getattr", "_codecs.encode")

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Part:
    """One model of a file: ``state`` under our keys, in the precision of the file, not copied."""

    system: System
    config: Config
    state: dict[str, Tensor]
    where: str

    def build(self) -> nn.Module:
        """The model with these very tensors, in eval mode.  Raises ValueError where one is missing or of another
        shape."""
        with checkpoint.skeleton():
            model = self.system.part("model").build(self.config, None)
        checkpoint.adopt(model, dict(self.state), self.where)
        return model.eval()


@dataclass(frozen=True)
class Released:
    """``generator`` is None for an autoencoder's file; ``reports``: one per file; ``tokenizer``: the VLM's, None
    without one."""

    generator: Part | None
    autoencoder: Part
    reports: tuple[ConversionReport, ...]
    tokenizer: Any = None

    @property
    def taken(self) -> int:
        """How many tensors the models got."""
        return sum(report.taken for report in self.reports)

    @property
    def dropped(self) -> int:
        return sum(len(report.dropped) for report in self.reports)


def load(
    path: str | Path, vlm: str | Path | None = None, ae: str | Path | None = None, weights: str = "auto"
) -> Released:
    """The models in a released file, checked whole: depth, widths, vocabulary, heads of keys and values, latent
    channels and the KL variant are read from its tensors.

    ``vlm``: folder or hub id of the VLM that it was made from (its tokenizer, its number of heads), by default the
    table of the published ones; ``ae``: an autoencoder's file, for a generator's without one, or the one that it has in
    it; ``weights``: see ``read_table``.  Raises ValueError, in one line, for whatever does not fit."""
    whole = Path(path)
    sorted_ = second = read(whole, weights)
    reports = [sorted_.report]
    if ae is not None:
        second = read(ae, "auto")
        if second.generator:
            raise ValueError(f"{ae} holds a whole generator; give with --ae a file of the autoencoder alone")
        if sorted_.autoencoder:
            how = _check_same_autoencoder(sorted_, second, whole, ae)
            sorted_.report.notes.append(f"autoencoder: that of {Path(ae).name}, {how}")
            second, ae = sorted_, None
        else:
            reports.append(second.report)
    if not second.autoencoder:
        raise ValueError(f"{whole} has no autoencoder (vgt_ae.*); give its file with --ae")
    backbone = Backbone.of(vlm, sorted_.language or second.tower, whole) if vlm is not None else None
    hf = backbone.values if backbone is not None else None
    where = str(ae or whole)
    tower_hf = hf if hf is not None and hf["model_type"] == second.tower else None
    config = autoencoder_config(second.autoencoder, second.tower, tower_hf, where)
    autoencoder = Part(registry.VGT_AE, config, second.autoencoder | _buffers(config), where)
    generator = _generator(sorted_, config, backbone, str(whole)) if sorted_.generator else None
    for part in (generator, autoencoder):
        if part is not None:
            part.build()
    return Released(generator, autoencoder, tuple(reports), backbone.tokenizer if backbone is not None else None)


def _check_same_autoencoder(own: Sorted, other: Sorted, whole: Path, ae: str | Path) -> str:
    """How far the autoencoder in a generator's file is that of ``ae``.  Raises ValueError where it is another one: by
    its tensors, their shapes, or values that differ by more than the rounding to the narrower of two precisions."""
    a, b = own.autoencoder, other.autoencoder
    wrong, rounded = sorted(a.keys() ^ b.keys()), False
    for key in sorted(a.keys() & b.keys()):
        first, second = sorted((a[key], b[key]), key=lambda t: t.dtype.itemsize)
        rounded |= first.dtype != second.dtype
        if first.shape != second.shape or not same(first, second.to(first.dtype)):
            wrong.append(key)
    if own.tower != other.tower or wrong:
        first_wrong = f" in {len(wrong)} tensors, first {wrong[0]}" if wrong else ""
        raise ValueError(
            f"{whole} has an autoencoder in it, which differs from {ae}{first_wrong}; leave out --ae to take its own"
        )
    return "but for rounding to another precision" if rounded else "bit for bit"


def read(path: str | Path, weights: str = "auto") -> Sorted:
    """The tensors of one file under our keys, with the report.  Raises ValueError for a file that cannot be read, is
    no released model, or has keys that are left over."""
    found = read_table(path, weights)
    return sort(found.tensors, Path(path).name, found.weights)


def _buffers(config: VGTAEConfig) -> dict[str, Tensor]:
    """Statistics that our autoencoder stores and the published one does not have (they belong to an ablation)."""
    return {"batch_mean": torch.zeros(config.d_z), "batch_var": torch.ones(config.d_z)}


@dataclass(frozen=True)
class Backbone:
    """The VLM that a file was made from: its transformers configuration and its tokenizer."""

    values: dict[str, Any]
    tokenizer: Any
    start_ids: tuple[int, ...]

    @classmethod
    def of(cls, vlm: str | Path, family: str | None, path: Path) -> Backbone:
        """Raises ValueError for a VLM of another family, or a tokenizer without the start token (docs/vgt.md 2.3)."""
        config = backbones.read_config(vlm)
        found = family_of(config).name
        if found != family:
            raise ValueError(
                f"{path.name} is of family {family}, but {vlm} is a {found}; give the VLM it was made from"
            )
        tokenizer = backbones.read_tokenizer(locate(vlm))
        ids = tuple(tokenizer(START, add_special_tokens=False).input_ids)
        lost = family == INTERNVL and not knows(tokenizer, START)
        if lost or not ids or tokenizer.unk_token_id in ids:
            raise ValueError(f"the tokenizer of {vlm} has no start token {START!r}; give the VLM that the file is from")
        return cls(config.to_dict(), tokenizer, ids)


def _generator(found: Sorted, ae: VGTAEConfig, backbone: Backbone | None, where: str) -> Part:
    """Configuration and state of the generator in a file; ``ae``: its autoencoder's configuration."""
    state, family = found.generator, found.language
    if family is None:
        raise ValueError(f"{where} has no language model under 'lmm.'; download or copy the file again")
    text, layers = text_config(state, family, backbone and backbone.values, where)
    if text["num_hidden_layers"] < layers:
        found.report.notes.append(f"language model: the first {text['num_hidden_layers']} of {layers} layers")
    width, d_z = shape(state, "image_in_projector.weight", where)
    if d_z != ae.d_z:
        raise ValueError(f"{where} generates {d_z} latent channels, its autoencoder has {ae.d_z}; give the right --ae")
    if backbone is not None and len(backbone.tokenizer) > text["vocab_size"]:
        raise ValueError(
            f"{where} embeds {text['vocab_size']} tokens, the tokenizer has {len(backbone.tokenizer)}; give with --vlm "
            "the VLM that the file was made from"
        )
    side = ae.image_size // _stride(ae)
    config = VisualLMConfig(
        method=registry.QUERY_AR.name,
        text=text,
        start_ids=backbone.start_ids if backbone is not None else _known_start(family),
        query_grid=shape(state, "max_metaquery", where)[-1],
        latent_grid=(side, side),
        d_z=d_z,
        head=head_config(state, where),
        latent_norm=True,
        time_shift=TIME_SHIFT[family],
    )
    return Part(registry.QUERY_AR, config, state, where)


def _known_start(family: str) -> tuple[int, ...]:
    """The start tokens of the published tokenizers."""
    return next(known.START_IDS[hub] for hub, values in known.KNOWN.items() if values["model_type"] == family)


def _stride(config: VGTAEConfig) -> int:
    """Pixels per latent token."""
    values = hf_config(config.vlm)
    return family_of(values).stride(values)


# ------------------------------------------------------------------------------- configurations from shapes


def blocks(state: State, prefix: str) -> int:
    """One more than the largest number behind ``prefix``."""
    found = {key.removeprefix(prefix).partition(".")[0] for key in state if key.startswith(prefix)}
    return max((int(number) + 1 for number in found if number.isdigit()), default=0)


def shape(state: State, key: str, where: str) -> tuple[int, ...]:
    """Raises ValueError for a tensor that is not there."""
    if key not in state:
        raise ValueError(f"{where} lacks {key}; download or copy the file again")
    return tuple(state[key].shape)


def published(family: str, width: int | None) -> dict[str, Any] | None:
    """The configuration of the published VLM of a family, by the width of its language model; None without one."""
    return next(
        (
            known.hf_config_of(hub)
            for hub, values in known.KNOWN.items()
            if values["model_type"] == family and width in (None, values["text_config"]["hidden_size"])
        ),
        None,
    )


def _agree(found: Mapping[str, int], stated: Mapping[str, Any], what: str, where: str) -> None:
    """Raises ValueError naming the first size of ``found`` that ``stated`` has otherwise."""
    for name, size in found.items():
        if stated.get(name) != size:
            raise ValueError(
                f"{where}: {what} has {name} {size}, but the VLM's configuration says {stated.get(name)}; give with "
                "--vlm the VLM that the file was made from"
            )


# ------------------------------------------------------------------------------------------------- generator


def text_config(state: State, family: str, vlm: Mapping[str, Any] | None, where: str) -> tuple[dict[str, Any], int]:
    """transformers' configuration of the language model in a generator's ``state``, and how many layers the VLM has.

    ``vlm``: the whole VLM's; None takes the published one of that width.  Raises ValueError where sizes disagree, or
    for a width that nobody published."""
    vocabulary, width = shape(state, "language_model.embed_tokens.weight", where)
    values = vlm or published(family, width)
    if values is None:
        raise ValueError(f"{where}: no {family} of width {width} was published; give the VLM's folder with --vlm")
    text = values["text_config"]
    if text["hidden_size"] != width:
        _agree({"hidden_size": width}, text, "the language model", where)
    first = "language_model.layers.0"
    head = text.get("head_dim") or width // text["num_attention_heads"]
    found = {
        "intermediate_size": shape(state, f"{first}.mlp.gate_proj.weight", where)[0],
        "num_attention_heads": shape(state, f"{first}.self_attn.q_proj.weight", where)[0] // head,
        "num_key_value_heads": shape(state, f"{first}.self_attn.k_proj.weight", where)[0] // head,
    }
    _agree(found, text, "the language model", where)
    depth = blocks(state, "language_model.layers.")
    if depth > text["num_hidden_layers"]:
        _agree({"num_hidden_layers": depth}, text, "the language model", where)
    return backbones.first_layers({**text, "vocab_size": vocabulary}, depth), text["num_hidden_layers"]


def head_config(state: State, where: str) -> FlowHeadConfig:
    return FlowHeadConfig(
        width=shape(state, "image_head.input_proj.weight", where)[0], depth=blocks(state, "image_head.res_blocks.")
    )


# ----------------------------------------------------------------------------------------------- autoencoder


def _vision_sizes(state: State, family: str, where: str) -> dict[str, Any]:
    """Sizes of the tower, under the names that transformers' configuration has for them."""
    tower = "encoder.tower."
    if family == INTERNVL:
        patch = shape(state, f"{tower}embeddings.patch_embeddings.projection.weight", where)
        positions = shape(state, f"{tower}embeddings.position_embeddings", where)[1]
        side = round((positions - 1) ** 0.5) * patch[-1]
        return {
            "hidden_size": patch[0],
            "num_hidden_layers": blocks(state, f"{tower}encoder.layer."),
            "intermediate_size": shape(state, f"{tower}encoder.layer.0.mlp.fc1.weight", where)[0],
            "patch_size": [patch[-1]] * 2,
            "image_size": [side] * 2,
        }
    width, _, frames, _, patch = shape(state, f"{tower}patch_embed.proj.weight", where)
    merged = shape(state, f"{tower}merger.mlp.0.weight", where)[1]
    return {
        "hidden_size": width,
        "depth": blocks(state, f"{tower}blocks."),
        "intermediate_size": shape(state, f"{tower}blocks.0.mlp.gate_proj.weight", where)[0],
        "patch_size": patch,
        "temporal_patch_size": frames,
        "spatial_merge_size": round((merged / width) ** 0.5),
        "out_hidden_size": shape(state, f"{tower}merger.mlp.2.weight", where)[0],
    }


def _as_list(value):
    return list(value) if isinstance(value, tuple) else value


def vision_config(state: State, family: str, vlm: Mapping[str, Any] | None, where: str) -> dict[str, Any]:
    """The VLM configuration that an autoencoder is built from.  Its text part only tells the width A: the 1.6B
    InternVL3 has the autoencoder of the 1B model (docs/vgt.md 0).

    Raises ValueError where the tower is not that of ``vlm``, or of the published one."""
    width = shape(state, "down_blocks.0.mlp.0.weight", where)[0]
    matching = vlm if vlm is not None and vlm["text_config"]["hidden_size"] == width else published(family, width)
    values = dict(vlm or matching or published(family, None) or {})
    sizes = _vision_sizes(state, family, where)
    stated = {name: _as_list(value) for name, value in values["vision_config"].items()}
    # The width that a Qwen tower puts out is A, which may be another model's.
    _agree({k: v for k, v in sizes.items() if k != "out_hidden_size"}, stated, "the vision tower", where)
    if matching is not None:
        text = matching["text_config"]
    else:
        text = {**values["text_config"], "hidden_size": width, "num_attention_heads": 1, "num_key_value_heads": 1}
        text.pop("head_dim", None)
    return {**values, "vision_config": {**values["vision_config"], **sizes}, "text_config": text}


def decoder_config(state: State, where: str) -> DecoderConfig:
    """AutoencoderDC's decoder by its keys (docs/vgt.md 4.3): child 0 is the up-sampler, except in the deepest stage."""
    stages = blocks(state, "decoder.up_blocks.")
    widths, layers, attention, head = [], [], 0, DecoderConfig().head_dim
    for i in range(stages):
        place = f"decoder.up_blocks.{i}"
        first = 0 if i == stages - 1 else 1
        layers.append(blocks(state, f"{place}.") - first)
        attends = f"{place}.{first}.attn.norm_out.weight" in state
        name = "attn.norm_out.weight" if attends else "norm.weight"
        widths.append(shape(state, f"{place}.{first}.{name}", where)[0])
        if attends:
            attention += 1
            head = shape(state, f"{place}.{first}.attn.to_qkv_multiscale.0.proj_out.weight", where)[1]
    return DecoderConfig(widths=tuple(widths), layers=tuple(layers), attention=attention, head_dim=head)


def autoencoder_config(state: State, family: str, vlm: Mapping[str, Any] | None, where: str) -> VGTAEConfig:
    """Configuration of a released autoencoder.  Raises ValueError where its shapes belong to no such model."""
    d_z = shape(state, "decoder.conv_in.weight", where)[1]
    rows = shape(state, "down_mlp.1.weight", where)[0]
    if rows not in (d_z, 2 * d_z):
        raise ValueError(f"{where}: down_mlp.1.weight has {rows} rows; a decoder of {d_z} channels needs that or twice")
    values = vision_config(state, family, vlm, where)
    vision = values["vision_config"]
    size = vision["image_size"][0] if family == INTERNVL else GRID * vision["patch_size"] * vision["spatial_merge_size"]
    return VGTAEConfig(
        vlm=values,
        image_size=size,
        d_z=d_z,
        normalize="position",
        decoder=decoder_config(state, where),
        kl=rows == 2 * d_z,
    )


# --------------------------------------------------------------------------------------- files as they are


@dataclass(frozen=True)
class Contents:
    """``tensors``: what the chosen table holds, as it stands there; ``weights``: which table, and what it really is."""

    tensors: dict[str, Any]
    weights: str


class _Ignored:
    """Takes the place of a bookkeeping object, or of a call: accepts everything, does and keeps nothing."""

    def __new__(cls, *args):
        return object.__new__(cls)

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        pass


def read_table(path: str | Path, weights: str = "auto") -> Contents:
    """The table of weights in a file, mapped and not copied.  ``weights``: one of CHOICES; "auto" takes the reference's
    order.

    Raises ValueError for a file that is absent, torn, holds code, or has no such table."""
    if weights not in CHOICES:
        raise ValueError(f"weights {weights!r} is unknown; choose one of {', '.join(CHOICES)}")
    return choose(opened(Path(path)), weights, path)


def opened(path: Path) -> Mapping[str, Any]:
    """What a file holds: tensors and plain values, mapped.  Raises ValueError for one that is absent, cannot be read or
    holds code."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise ValueError(f"{path} {what}; give a .pth or .safetensors file of a released model")
    try:
        found = shards.read_file(path) if path.suffix == ".safetensors" else _pickled(path)
    except (OSError, EOFError, RuntimeError, KeyError, pickle.UnpicklingError, shards.Unreadable) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"{path} cannot be read as tensors ({reason:.120}); {AGAIN}") from error
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} holds a {type(found).__name__}, not a table of weights; give a released checkpoint")
    return found


def _pickled(path: Path) -> Any:
    """Tensors and plain values of a file of torch.save.  Raises ValueError naming what in it is neither."""
    mapped = zipfile.is_zipfile(path)  # older files are not, and cannot be mapped
    unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path) if mapped else []
    strange = [name for name in unsafe if not name.startswith(BOOKKEEPING) and name not in NAMES]
    if strange:
        raise ValueError(
            f"{path} holds objects that run code when they are read ({', '.join(sorted(strange)[:3])}); nothing of it "
            "was run. Give a file with tensors only"
        )
    with torch.serialization.safe_globals([(_Ignored, name) for name in unsafe]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def choose(found: Mapping[str, Any], weights: str, where: str | Path) -> Contents:
    """The table that ``weights`` names.  Raises ValueError where there is none of that name."""
    tables = {name: found[name] for name in ORDER if isinstance(found.get(name), Mapping)}
    if weights != "auto" and weights not in tables:
        has = ", ".join(tables) or "bare weights only"
        raise ValueError(f"{where} has no {weights}; it has {has}; leave the choice to auto")
    name = weights if weights != "auto" else next(iter(tables), None)
    if name is None:
        return Contents(dict(found), BARE)
    both = "ema_state_dict" in tables
    stated = {"ema_state_dict": RAW, "state_dict": AVERAGED if both else ALONE, "model": MODEL}
    return Contents(dict(tables[name]), stated[name])
