"""Pretrained VLMs from Hugging Face: a local directory or a hub id to a VLM (docs/vgt.md 0, 2.10).

Weights are read tensor by tensor from safetensors (one file or shards), strictly, and never by running code of the
checkpoint.  InternVL may come in transformers' native layout or in its original one (see layouts.py).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging as transformers_logging

from vgt.checkpoints import shards
from vgt.checkpoints.checkpoint import CONFIG, skeleton
from vgt.checkpoints.pretrained import VOCABULARIES, is_backbone, locate
from vgt.checkpoints.shards import AGAIN
from vgt.core.text import read_json
from vgt.vlm import layouts
from vgt.vlm.families import Family, family_of, image_side, image_text, model_class
from vgt.vlm.vlm import VLM

FREE_SIZE = 448  # pixels, for a tower that takes any size (docs/vgt.md 1.7)


# --------------------------------------------------------------------------------------------------- configuration


def _values(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.exists():
        raise ValueError(f"{folder} has no {CONFIG}; give the directory of a Hugging Face model")
    try:
        values = read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); {AGAIN}") from error
    if not is_backbone(folder):
        raise ValueError(f"{path} is not the configuration of a Hugging Face model: it has no model_type")
    return values


def _is_original(values: dict[str, Any]) -> bool:
    return values["model_type"] == layouts.MODEL_TYPE


def read_config(spec: str | Path):
    """The transformers configuration of ``spec``, native whatever the layout of its files, with no dtype: that belongs
    to the weights.  Raises ValueError for a model without an adapter, or that only its authors' code can read."""
    folder = locate(spec)
    values = _values(folder)
    try:
        if _is_original(values):
            native = layouts.native_config(values)
            config = AutoConfig.for_model(**native)
        else:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            text = values.get("text_config", {})
            # The class's own default would be read instead, and it differs between classes.
            if "tie_word_embeddings" not in values and "tie_word_embeddings" in text:
                config.tie_word_embeddings = text["tie_word_embeddings"]
    except (OSError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / CONFIG} is no complete configuration ({_line(error)}); {AGAIN}") from error
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: {_line(error)}") from error
    family_of(config)
    for part in (config, config.vision_config, config.text_config):
        part.dtype = None
    return config


def _line(error: Exception) -> str:
    """The first line of an error's message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def first_layers(text_config: dict[str, Any], n: int) -> dict[str, Any]:
    """The configuration of a language model cut to its first ``n`` decoder layers; the final norm stays (docs/vgt.md
    2.10).  Raises ValueError for more layers than there are."""
    depth = text_config["num_hidden_layers"]
    if not 1 <= n <= depth:
        raise ValueError(f"the language model has {depth} layers; {n} of them are impossible, choose 1 .. {depth}")
    cut = {**text_config, "num_hidden_layers": n}
    if text_config.get("layer_types"):
        cut["layer_types"] = text_config["layer_types"][:n]
    if text_config.get("max_window_layers") is not None:
        cut["max_window_layers"] = min(text_config["max_window_layers"], n)
    return cut


def _image_size(values: dict[str, Any], config, family: Family) -> int:
    if values.get("force_image_size"):
        return values["force_image_size"]
    if getattr(config.vision_config, "image_size", None) is None:
        return FREE_SIZE
    return image_side(config)


# --------------------------------------------------------------------------------------------------------- weights


def _pruned(layers: int | None) -> Callable[[str], bool]:
    """A test for names of decoder layers behind the first ``layers``; the tower's are none."""

    def test(key: str) -> bool:
        place = re.search(r"(?:^|\.)layers\.(\d+)\.", key)
        inside = re.search(r"(?:^|\.)(?:vision\w*|visual|encoder)\.", key)
        return layers is not None and place is not None and inside is None and int(place[1]) >= layers

    return test


def _check_fit(folder: Path, missing, extra, shapes) -> None:
    """Raises ValueError naming the first weights that do not fit."""
    parts = (("missing", missing), ("left over", extra), ("of another shape", shapes))
    faults = "; ".join(f"{len(keys)} {what}: {', '.join(sorted(keys)[:3])}" for what, keys in parts if keys)
    if faults:
        raise ValueError(f"weights in {folder} do not fit its configuration: {faults}; {AGAIN}")


@contextlib.contextmanager
def _quiet():
    """transformers without its progress bar and its report, which says again what our own check says."""
    level, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bar:
            transformers_logging.enable_progress_bar()


def _native(folder: Path, config, layers: int | None, dtype: torch.dtype | None) -> nn.Module:
    """The model by transformers' own loader, which knows the names that earlier versions of it wrote."""
    shards.checked_files(folder)
    try:
        with _quiet():
            hf, info = model_class(config).from_pretrained(
                folder,
                config=config,
                dtype="auto" if dtype is None else dtype,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # the check below names them
                output_loading_info=True,
            )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"weights in {folder} cannot be loaded ({_line(error)}); {AGAIN}") from error
    unwanted = _pruned(layers)
    shapes = {key[0] if isinstance(key, tuple) else key for key in info["mismatched_keys"]}
    _check_fit(folder, info["missing_keys"], [k for k in info["unexpected_keys"] if not unwanted(k)], shapes)
    return hf


def _original(folder: Path, config, layers: int | None, dtype: torch.dtype | None) -> nn.Module:
    """The model from InternVL's original names, onto empty parameters."""
    unwanted = _pruned(layers)
    paths = shards.checked_files(folder)
    with skeleton():
        hf = model_class(config)._from_config(config, dtype=torch.float32)
    wanted = hf.state_dict()
    stored = shards.items(paths, lambda key: not unwanted(key))
    state = dict(layouts.native_tensors((key, tensor if dtype is None else tensor.to(dtype)) for key, tensor in stored))
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    shapes = {key for key in wanted.keys() & state.keys() if wanted[key].shape != state[key].shape}
    _check_fit(folder, wanted.keys() - state.keys() - tied, state.keys() - wanted.keys(), shapes)
    for key in tied & state.keys():
        if torch.equal(state[key], state["model.language_model.embed_tokens.weight"]):
            del state[key]
        else:
            raise ValueError(f"{folder} ties its embeddings by its configuration, but stores another {key}; {AGAIN}")
    hf.load_state_dict(state, strict=False, assign=True)
    hf.tie_weights()
    return hf


# ----------------------------------------------------------------------------------------------------------- whole


def read_tokenizer(folder: Path):
    """The tokenizer beside a model.  Raises ValueError where there is none that reads without code of its own."""
    if not any((folder / name).is_file() for name in VOCABULARIES):  # transformers would make an empty one
        raise ValueError(f"{folder} has no tokenizer: none of {', '.join(VOCABULARIES)}; {AGAIN}")
    try:
        with _quiet():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # its parsers, in three languages, raise what they like for a file they cannot read
        raise ValueError(f"{folder} has no tokenizer that can be read ({_line(error)}); {AGAIN}") from error


def load_backbone(
    spec: str | Path,
    layers: int | None = None,
    image_size: int | None = None,
    dtype: torch.dtype | None = torch.float32,
) -> VLM:
    """The VLM in a directory or at a hub id, in eval mode.

    ``layers``: only the first decoder layers; ``image_size``: pixels, default what the model was made for;
    ``dtype``: None keeps that of the file.  Raises ValueError, in one line, for whatever does not fit."""
    folder = locate(spec)
    values, config = _values(folder), read_config(folder)
    family = family_of(config)
    size = image_size or _image_size(values, config, family)
    family.check(config, size, size)
    if layers is not None:
        config.text_config = type(config.text_config)(**first_layers(config.text_config.to_dict(), layers))
    tokenizer = read_tokenizer(folder)
    try:
        place = tokenizer.convert_tokens_to_ids(image_text(family, config, tokenizer).context)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    rows = config.text_config.vocab_size
    if place >= rows:
        raise ValueError(f"{folder}: the tokenizer's image token is {place}, but there are only {rows} embeddings")
    config.image_token_id = place
    with torch.random.fork_rng(devices=[]):
        hf = (_original if _is_original(values) else _native)(folder, config, layers, dtype)
        vlm = VLM(hf, tokenizer, size, mrope=family.positions is not None)
    # The files decide what is tied; a model rebuilt from this configuration must have the same parameters.
    config = hf.config
    config.tie_word_embeddings = hf.get_output_embeddings().weight is hf.get_input_embeddings().weight
    for part in (config, config.vision_config, config.text_config):
        part.dtype = None
    return vlm.eval()
