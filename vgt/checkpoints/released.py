"""The published checkpoints (hustvl: QueryAR and VGT-AE) as models of this project (docs/vgt.md 4).

A file becomes configurations, states under our keys, and an account of every tensor.  Strict: nothing is missing,
nothing is left over, and no code of a file runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vgt.checkpoints import checkpoint, released_config, released_files, released_keys
from vgt.checkpoints.released_keys import INTERNVL, Account, Sorted
from vgt.core.config import Config
from vgt.methods import registry
from vgt.methods.registry import System
from vgt.methods.vgt_ae import VGTAEConfig
from vgt.methods.visual_lm import VisualLMConfig
from vgt.vlm import backbones, known
from vgt.vlm.families import family_of, knows

START = "<img>"


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
    """``generator`` is None for an autoencoder's file; ``accounts``: one per file; ``tokenizer``: the VLM's, None
    without one."""

    generator: Part | None
    autoencoder: Part
    accounts: tuple[Account, ...]
    tokenizer: Any = None

    @property
    def taken(self) -> int:
        """How many tensors the models got."""
        return sum(account.taken for account in self.accounts)

    @property
    def dropped(self) -> int:
        return sum(len(account.dropped) for account in self.accounts)


def load(
    path: str | Path, vlm: str | Path | None = None, ae: str | Path | None = None, weights: str = "auto"
) -> Released:
    """The models in a released file, checked whole: depth, widths, vocabulary, heads of keys and values, latent
    channels and the KL variant are read from its tensors.

    ``vlm``: folder or hub id of the VLM that it was made from (its tokenizer, its number of heads), by default the
    table of the published ones; ``ae``: an autoencoder's file, for a generator's without one; ``weights``: see
    released_files.py.  Raises ValueError, in one line, for whatever does not fit."""
    whole = Path(path)
    sorted_ = read(whole, weights)
    accounts = [sorted_.account]
    if ae is not None:
        if sorted_.autoencoder:
            raise ValueError(f"{whole} has an autoencoder of its own; leave out --ae {ae}")
        second = read(ae, "auto")
        if second.generator:
            raise ValueError(f"{ae} holds a whole generator; give with --ae a file of the autoencoder alone")
        accounts.append(second.account)
    else:
        second = sorted_
    if not second.autoencoder:
        raise ValueError(f"{whole} has no autoencoder (vgt_ae.*); give its file with --ae")
    backbone = Backbone.of(vlm, sorted_.language or second.tower, whole) if vlm is not None else None
    hf = backbone.values if backbone is not None else None
    where = str(ae or whole)
    tower_hf = hf if hf is not None and hf["model_type"] == second.tower else None
    config = released_config.autoencoder_config(second.autoencoder, second.tower, tower_hf, where)
    autoencoder = Part(registry.VGT_AE, config, second.autoencoder | _buffers(config), where)
    generator = _generator(sorted_, config, backbone, str(whole)) if sorted_.generator else None
    for part in (generator, autoencoder):
        if part is not None:
            part.build()
    return Released(generator, autoencoder, tuple(accounts), backbone.tokenizer if backbone is not None else None)


def read(path: str | Path, weights: str = "auto") -> Sorted:
    """The tensors of one file under our keys, with the account.  Raises ValueError for a file that cannot be read, is
    no released model, or has keys that are left over."""
    found = released_files.read(path, weights)
    return released_keys.sort(found.tensors, Path(path).name, found.weights)


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
        tokenizer = backbones.read_tokenizer(backbones.locate(vlm))
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
    text, layers = released_config.text_config(state, family, backbone and backbone.values, where)
    if text["num_hidden_layers"] < layers:
        found.account.notes.append(f"language model: the first {text['num_hidden_layers']} of {layers} layers")
    width, d_z = released_config.shape(state, "image_in_projector.weight", where)
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
        query_grid=released_config.shape(state, "max_metaquery", where)[-1],
        latent_grid=(side, side),
        d_z=d_z,
        head=released_config.head_config(state, where),
        latent_norm=True,
        time_shift=released_config.TIME_SHIFT[family],
    )
    return Part(registry.QUERY_AR, config, state, where)


def _known_start(family: str) -> tuple[int, ...]:
    """The start tokens of the published tokenizers."""
    return next(known.START_IDS[hub] for hub, values in known.KNOWN.items() if values["model_type"] == family)


def _stride(config: VGTAEConfig) -> int:
    """Pixels per latent token."""
    from vgt.vlm.vlm import hf_config

    values = hf_config(config.vlm)
    return family_of(values).stride(values)
