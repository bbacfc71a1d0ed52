"""Pretrained VLMs from Hugging Face: a local directory or a hub id to a VLM (docs/vgt.md 0, 2.10).

Weights are read tensor by tensor from safetensors (one file or shards), strictly, and never by running code of the
checkpoint.  InternVL may come in transformers' native layout or in its original one (see internvl_layout.py).
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging as transformers_logging

from vgt.core import files
from vgt.vlm import layouts as internvl_layout
from vgt.vlm.families import Family, family_of, image_side, image_text, model_class
from vgt.vlm.vlm import VLM

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
WANTED = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]  # no code, no pickles
FREE_SIZE = 448  # pixels, for a tower that takes any size (docs/vgt.md 1.7)
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
AGAIN = "download or copy the model again"


def is_hub_id(spec: str | Path) -> bool:
    """Whether ``spec`` reads as "owner/name" and cannot be a path below an existing folder."""
    return HUB_ID.fullmatch(str(spec)) is not None and not Path(spec).exists() and not Path(spec).parent.exists()


def is_backbone(folder: str | Path) -> bool:
    """Whether the folder's config.json is that of a Hugging Face model (and not of one of this project)."""
    try:
        values = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and "model_type" in values and "vgt_format" not in values


def locate(spec: str | Path) -> Path:
    """The local directory of ``spec``: itself, or the snapshot of a hub id, fetched where it is not in the cache.

    Raises ValueError that says how to fetch it where neither is to be had."""
    folder = Path(spec)
    if folder.is_dir():
        return folder
    if not is_hub_id(spec):
        raise ValueError(f"no model directory {spec}; give a directory with {CONFIG}, or a hub id such as owner/name")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(spec), allow_patterns=WANTED))
    except Exception as error:  # the hub's client raises errors of its own, of its HTTP library, and of the system
        raise ValueError(
            f"{spec} is neither a directory here nor to be had from the hub ({type(error).__name__}); fetch it where "
            f"there is a network with `hf download {spec} --local-dir DIR`, and give DIR instead"
        ) from error


# --------------------------------------------------------------------------------------------------- configuration


def _values(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder} has no {CONFIG}; give the directory of a Hugging Face model") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); {AGAIN}") from error
    if not is_backbone(folder):
        raise ValueError(f"{path} is not the configuration of a Hugging Face model: it has no model_type")
    return values


def _is_original(values: dict[str, Any]) -> bool:
    return values["model_type"] == internvl_layout.MODEL_TYPE


def read_config(spec: str | Path):
    """The transformers configuration of ``spec``, native whatever the layout of its files, with no dtype: that belongs
    to the weights.  Raises ValueError for a model without an adapter, or that only its authors' code can read."""
    folder = locate(spec)
    values = _values(folder)
    try:
        if _is_original(values):
            native = internvl_layout.native_config(values)
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


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model, whole ones.  Raises ValueError for missing, torn and pickled weights."""
    if (folder / INDEX).is_file():
        try:
            shards = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder / INDEX} is no index of weights ({_line(error)}); {AGAIN}") from error
        found = [folder / name for name in sorted(shards)]
    else:
        found = [folder / WEIGHTS]
        if not found[0].is_file():
            raise ValueError(f"{folder} has neither {WEIGHTS} nor {INDEX}; {AGAIN}, as safetensors")
    lost = [path.name for path in found if not path.is_file()]
    if lost:
        raise ValueError(f"{folder} lacks {len(lost)} of {len(found)} weight files: {', '.join(lost[:3])}; {AGAIN}")
    for path in found:
        with _opened(path):
            pass
    return found


@contextlib.contextmanager
def _opened(path: Path):
    """A safetensors file for reading; its header is checked against its length."""
    try:
        with safe_open(path, framework="pt") as reader:
            yield reader
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({_line(error)}); {AGAIN}") from error


def _tensors(paths: list[Path], unwanted, dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors, read one by one; ``unwanted(name)`` are skipped."""
    for path in paths:
        with _opened(path) as reader:
            for key in sorted(reader.keys()):
                if not unwanted(key):
                    tensor = reader.get_tensor(key)
                    yield key, tensor if dtype is None else tensor.to(dtype)


def _pruned(layers: int | None):
    """A test for names of decoder layers behind the first ``layers``; the tower's are none."""

    def test(key: str) -> bool:
        place = re.search(r"(?:^|\.)layers\.(\d+)\.", key)
        inside = re.search(r"(?:^|\.)(?:vision\w*|visual|encoder)\.", key)
        return layers is not None and place is not None and inside is None and int(place[1]) >= layers

    return test


def _account(folder: Path, missing, extra, shapes) -> None:
    """Raises ValueError naming the first weights that do not fit."""
    parts = (("missing", missing), ("left over", extra), ("of another shape", shapes))
    faults = "; ".join(f"{len(keys)} {what}: {', '.join(sorted(keys)[:3])}" for what, keys in parts if keys)
    if faults:
        raise ValueError(f"weights in {folder} do not fit its configuration: {faults}; {AGAIN}")


@contextlib.contextmanager
def _quiet():
    """transformers without its progress bar and its report, which says again what the account says."""
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
    weight_files(folder)
    try:
        with _quiet():
            hf, info = model_class(config).from_pretrained(
                folder,
                config=config,
                dtype="auto" if dtype is None else dtype,
                local_files_only=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # the account names them
                output_loading_info=True,
            )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"weights in {folder} cannot be loaded ({_line(error)}); {AGAIN}") from error
    unwanted = _pruned(layers)
    shapes = {key[0] if isinstance(key, tuple) else key for key in info["mismatched_keys"]}
    _account(folder, info["missing_keys"], [k for k in info["unexpected_keys"] if not unwanted(k)], shapes)
    return hf


def _original(folder: Path, config, layers: int | None, dtype: torch.dtype | None) -> nn.Module:
    """The model from InternVL's original names, onto empty parameters."""
    from accelerate import init_empty_weights

    paths = weight_files(folder)
    with init_empty_weights(include_buffers=False):
        hf = model_class(config)._from_config(config, dtype=torch.float32)
    wanted = hf.state_dict()
    state = dict(internvl_layout.native_tensors(_tensors(paths, _pruned(layers), dtype)))
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    shapes = {key for key in wanted.keys() & state.keys() if wanted[key].shape != state[key].shape}
    _account(folder, wanted.keys() - state.keys() - tied, state.keys() - wanted.keys(), shapes)
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


def fingerprint(folder: str | Path) -> str:
    """Content hash of configuration, weights and tokenizer of a model directory: it reads every byte once."""
    folder = Path(folder)
    named = [CONFIG, *VOCABULARIES, "merges.txt", "tokenizer_config.json"]
    paths = [folder / name for name in named if (folder / name).is_file()] + weight_files(folder)
    return files.digest(*(part for path in paths for part in (path.name, files.digest_file(path))))
