"""From a name, folder or hub id to a model with its fingerprint."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import torch

from vgt.checkpoints import checkpoint, pretrained
from vgt.checkpoints.pretrained import Loaded, is_backbone, is_hub_id
from vgt.core import text
from vgt.core.config import preset_names
from vgt.methods import registry
from vgt.methods.registry import System

# The parts of a pipeline folder.
GENERATOR, AUTOENCODER = "generator", "autoencoder"
LOG = "training.jsonl"  # beside the weights of a run


def zoo() -> Path:
    """The bundled models."""
    return Path(str(resources.files("vgt") / "zoo"))


def bundled() -> list[str]:
    """Names of the bundled models."""
    return sorted(p.parent.name for p in zoo().glob("*/config.json"))


def trained(runs: Path) -> dict[str, Path]:
    """Checkpoint folders of the runs below ``runs``, by the name of the run."""
    found = sorted(p.parent for part in ("model", GENERATOR) for p in runs.glob(f"*/{part}/{checkpoint.CONFIG}"))
    return {folder.parent.name: folder for folder in reversed(found)}  # of a run with both: the model, as in `locate`


def trained_steps(folder: Path) -> str:
    """ " (step 50)" as the log beside a checkpoint tells; "" where it has none."""
    try:
        rows = text.log_rows(folder / LOG)
    except ValueError:
        return ""
    return f" (step {rows[-1]['step']})" if rows and "step" in rows[-1] else ""


@functools.cache
def _tell(line: str) -> None:
    """Once a process."""
    print(f"note: {line}", file=sys.stderr)


def locate(spec: str | Path, runs: Path | None = None) -> Path:
    """The checkpoint folder of ``spec``: a folder, the generator of a pipeline folder, a run of that name below
    ``runs``, a bundled model, or the snapshot of a hub id, in this order.  Says on stderr where a bundled model of the
    same name is passed over.

    Raises ValueError saying where it was looked for."""
    spec = str(spec)
    candidates = [Path(spec), Path(spec) / "model", Path(spec) / GENERATOR]
    if runs is not None:
        candidates += [runs / spec / "model", runs / spec / GENERATOR]
    if "/" not in spec:
        candidates.append(zoo() / spec)
    for folder in candidates:
        if (folder / checkpoint.CONFIG).is_file():
            if folder != zoo() / spec and spec in bundled():
                place = folder.parent if folder.name in ("model", GENERATOR) else folder
                _tell(f"{spec} is {place}{trained_steps(folder)}, not the bundled model")
            return folder
    if is_hub_id(spec):
        return pretrained.locate(spec)
    if spec in preset_names():
        raise ValueError(f"{spec} is not trained yet and not bundled; run `vgt train {spec}` first")
    known = ", ".join(bundled()) or "none"
    raise ValueError(f"no checkpoint {spec!r}: neither a folder, nor a trained run, nor a bundled model ({known})")


def system_of(folder: Path) -> System:
    """The system of a checkpoint folder; a VLM of Hugging Face's is one too.  Raises ValueError as reading it would."""
    return registry.VLM if is_backbone(folder) else registry.get(checkpoint.read_header(folder)["system"])


def load(spec: str | Path, runs: Path | None = None, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Loaded:
    """Load a checkpoint, or a VLM from Hugging Face as it is.

    Raises ValueError for one that is absent, unreadable or does not fit its configuration."""
    name = str(spec).split("/")[-1] if is_hub_id(spec) else None
    return pretrained.read(locate(spec, runs), dtype, device, name)


def expect(found: Loaded, *systems: str) -> Loaded:
    """``found`` if it is one of ``systems``.  Raises ValueError naming what it is."""
    check_system(found.system, found.folder, systems)
    return found


def check_system(name: str, folder: Path, systems: Sequence[str]) -> None:
    """Raises ValueError for the system of ``folder`` where it is none of ``systems``."""
    if name not in systems:
        raise ValueError(f"{folder} is a {name} checkpoint; give a {' or '.join(systems)} one")


def paired_autoencoder(
    found: Loaded,
    spec: str | None,
    runs: Path | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Loaded:
    """The autoencoder of a generator, checked by content hash; ``spec`` says where it is.  Default: beside
    the generator in a pipeline folder, else under its own name.

    Raises ValueError when it is another one than the generator was trained on."""
    config = found.model.config
    beside = found.folder.parent / AUTOENCODER
    own = beside if (beside / checkpoint.CONFIG).is_file() else config.autoencoder_name
    decoder = expect(load(spec or own, runs, device, dtype), *registry.names("tokenizer"))
    if decoder.fingerprint != config.autoencoder:
        raise ValueError(
            f"{found.name} was trained on autoencoder {config.autoencoder_name} ({config.autoencoder[:12]}), but "
            f"{decoder.folder} is {decoder.fingerprint[:12]}; give the right one with --autoencoder"
        )
    return decoder
