"""The published GPTs over codes (CVMI-Lab: VFMTok) as models of this project (docs/vfmtok.md 19.2).

Their files hold tables of tensors beside what the training script was called with, which is never rebuilt
(``released.opened``).  Strict: nothing is missing, nothing is left over.  Sizes come from the shapes; the heads, which
shapes do not tell, from the table of the published sizes; the grid of the tokens, which is not stored, from the
tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vgt.checkpoints import checkpoint
from vgt.checkpoints.pretrained import Loaded
from vgt.checkpoints.released import AGAIN, BARE, Part, blocks, opened, shape
from vgt.checkpoints.released_keys import ConversionReport, strip
from vgt.methods import registry
from vgt.methods.code_gpt import CodeGPT, CodeGPTConfig

# Where the weights are, the first that is there; a file of FSDP is a table itself.
ORDER = {
    "ema": "ema: the averaged weights",
    "model": "model: the raw weights of the last step",
    "module": "module: the weights of a DeepSpeed run",
}
# Attention heads by layers and width (docs/vfmtok.md 11).
HEADS = {(12, 768): 12, (24, 1024): 16, (36, 1280): 20, (48, 1536): 24, (48, 1920): 32, (24, 3200): 32}
TABLE = "tok_embeddings.weight"  # a key that only these files have
CLASSES = "cls_embedding.embedding_table.weight"
RENAMED = {CLASSES: "cls_embedding.weight"}


def holds(found: Mapping[str, Any]) -> bool:
    """Whether a file's contents are a GPT's."""
    tables = [found, *(found[name] for name in ORDER if isinstance(found.get(name), Mapping))]
    return any(key in table for table in tables for key in (TABLE, f"module.{TABLE}"))


def load(
    path: str | Path, tokenizer: Loaded, grid: tuple[int, int], weights: str = "auto"
) -> tuple[Part, ConversionReport]:
    """The GPT of a file over the codes of ``tokenizer``, ``grid`` tokens an image, checked whole.  ``weights``: the
    table to take, "auto": the first of ORDER.

    Raises ValueError, in one line, for whatever does not fit."""
    where = str(path)
    found = opened(Path(path))
    tables = {name: found[name] for name in ORDER if isinstance(found.get(name), Mapping)}
    if weights != "auto" and weights not in tables:
        has = ", ".join(tables) or "bare weights only"
        raise ValueError(f"{where} has no {weights}; it has {has}; leave the choice to auto")
    name = weights if weights != "auto" else next(iter(tables), None)
    table = strip(found if name is None else tables[name], where)
    report = ConversionReport(Path(path).name, BARE if name is None else ORDER[name])
    state = {RENAMED.get(key, key): tensor for key, tensor in table.items()}
    config = _config(table, where, tokenizer, grid)
    with checkpoint.skeleton():
        known = CodeGPT(config).state_dict().keys()
    for key, tensor in table.items():
        ours = RENAMED.get(key, key)
        if ours not in known or not isinstance(tensor, Tensor):
            report.left_over.append(key)
        elif ours == key:
            report.kept.append(key)
        else:
            report.renamed[key] = (ours,)
    if report.left_over:
        shown = ", ".join(sorted(report.left_over)[:3])
        raise ValueError(f"{where} has {len(report.left_over)} entries of no known place: {shown}; nothing was taken")
    part = Part(registry.CODE_GPT, config, state, where)
    part.build()
    return part, report


def _config(table: Mapping[str, Tensor], where: str, tokenizer: Loaded, grid: tuple[int, int]) -> CodeGPTConfig:
    """Raises ValueError for a size that nobody published, and for a codebook that is not the tokenizer's."""
    rows, width = shape(table, CLASSES, where)
    entries, layers = shape(table, TABLE, where)[0], blocks(table, "layers.")
    if (layers, width) not in HEADS:
        sizes = ", ".join(f"{n} x {d}" for n, d in HEADS)
        raise ValueError(f"{where} has {layers} layers of width {width}; published are {sizes}: {AGAIN}")
    own = tokenizer.model.config.codebook_size
    if entries != own:
        raise ValueError(
            f"{where} is over {entries} codes and {tokenizer.name} has {own}; give with --autoencoder the tokenizer "
            "that it belongs to"
        )
    return CodeGPTConfig(
        classes=rows - 1,
        grid=grid,
        codebook_size=entries,
        layers=layers,
        heads=HEADS[layers, width],
        width=width,
        ffn=shape(table, "layers.0.feed_forward.w1.weight", where)[0],
        autoencoder=tokenizer.fingerprint,
        autoencoder_name=tokenizer.name,
    )
