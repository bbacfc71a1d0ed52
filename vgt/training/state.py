"""The state of a run on disk: what resuming needs, readable by any number of processes.

``<run>/state-<step>/`` holds ``state.json`` and the tensors in ``training-<k>-of-<n>.safetensors``, cut by size.  A
folder is complete or absent; the older one goes once the newer stands.  Which processes wrote it leaves no trace.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vgt.training.distributed import Team, whole

LIMIT = 4 << 30  # bytes of one file, and so of host memory while writing
FREE = tuple(f"preset.train.{key}" for key in ("strategy", "activation_checkpointing", "compile"))  # how, not what

Tensors = dict[str, Tensor]


def states(out: Path) -> list[Path]:
    """Complete states of a run, oldest first."""
    return sorted(out.glob("state-????????"))


def seconds_spent(out: Path) -> float:
    """Wall time of training up to the newest stored state."""
    found = states(out)
    return json.loads((found[-1] / "state.json").read_text())["seconds"] if found else 0.0


def clear(out: Path, names: Iterable[str]) -> None:
    """Remove the states of a run and the folders ``names``, and nothing else that a user may keep there."""
    for path in [*states(out), *(out / name for name in names)]:
        shutil.rmtree(path, ignore_errors=True)


def changed(new, old, path: str = "") -> list[str]:
    """Dotted names of the settings in which two identities differ."""
    if not (isinstance(new, dict) and isinstance(old, dict)):
        return [] if new == old else [path]
    return [
        found
        for k in sorted(new.keys() | old.keys())
        for found in changed(new.get(k), old.get(k), f"{path}.{k}".strip("."))
    ]


# -------------------------------------------------------------------------------------------------- writing


def deal(tensors: Tensors, limit: int) -> list[list[str]]:
    """Names of the tensors of each file, in order: a file is full before it passes ``limit`` bytes."""
    shares: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        size += tensor.numel() * tensor.element_size()
        if shares[-1] and size > limit:
            shares.append([])
            size = tensor.numel() * tensor.element_size()
        shares[-1].append(name)
    return shares


def write(out: Path, step: int, seconds: float, identity: dict, tensors: Tensors, team: Team) -> None:
    """Store a state.  All processes call this; split tensors are put together one at a time, file k is written by
    process k modulo their number, and the first one puts the folder in place when all have written.
    Raises ValueError on all processes where one cannot write; what was stored before is then untouched."""
    part, place = out / f".state-{step:08d}.part", out / f"state-{step:08d}"
    if team.first:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    team.wait()
    try:
        info = json.dumps({"step": step, "seconds": seconds, "identity": identity})
        trouble = [error for error in team.gather(_write_files(part, info, tensors, team)) if error]
        if trouble:
            raise ValueError(
                f"{out}: the state of step {step} could not be written ({trouble[0]}); make room and run the same "
                "command again, it goes on from the last state"
            )
        if team.first:
            os.replace(part, place)
            for path in states(out):
                if path != place:
                    shutil.rmtree(path, ignore_errors=True)
        team.wait()
    finally:
        if team.first:
            shutil.rmtree(part, ignore_errors=True)


def _write_files(part: Path, info: str, tensors: Tensors, team: Team) -> str:
    """Write this process's files; returns what went wrong, "" if nothing did.  Goes on after an error, because the
    others need this process to put split tensors together."""
    shares, wrong = deal(tensors, LIMIT), ""
    for k, names in enumerate(shares):
        mine, held = k % team.size == team.rank, {}
        for name in names:
            value = whole(tensors[name].detach())
            if mine and not wrong:
                held[name] = value.cpu().clone().contiguous()
        if held:
            path = part / f"training-{k + 1:05d}-of-{len(shares):05d}.safetensors"
            wrong = _trouble(lambda path=path, held=held: save_file(held, path))
    if team.first and not wrong:
        wrong = _trouble(lambda: (part / "state.json").write_text(info))
    return wrong


def _trouble(write: Callable[[], object]) -> str:
    """What the file system says against ``write()``, "" if nothing."""
    try:
        write()
    except (OSError, SafetensorError) as error:
        return str(error).splitlines()[0]
    return ""


# -------------------------------------------------------------------------------------------------- reading


class Stored:
    """The tensors of a state folder, read one at a time; ``training.safetensors`` of earlier versions too."""

    def __init__(self, folder: Path):
        files = [safe_open(path, framework="pt") for path in sorted(folder.glob("training*.safetensors"))]
        self._home = {key: f for f in files for key in f.keys()}  # noqa: SIM118 - not a dict

    def __getitem__(self, name: str) -> Tensor:
        return self._home[name].get_tensor(name)

    def names(self, prefix: str) -> list[str]:
        """What follows ``prefix`` in the names that begin with it."""
        return [name.removeprefix(prefix) for name in self._home if name.startswith(prefix)]


def newest(out: Path, identity: dict, upgrade: Callable[[dict], dict] | None = None) -> tuple[int, Stored] | None:
    """The newest state's step and tensors, None where there is none.  ``upgrade`` brings an identity that an earlier
    version stored up to date (settings that it did not know).  Raises ValueError naming changed settings."""
    found = states(out)
    if not found:
        return None
    info = json.loads((found[-1] / "state.json").read_text())
    old = upgrade(info["identity"]) if upgrade else info["identity"]
    names = [name for name in changed(identity, old) if name not in FREE]
    if names:
        listed = ", ".join(name.removeprefix("preset.") for name in names)
        raise ValueError(f"{out} holds a run with other settings ({listed}); add --fresh or choose another --out")
    return info["step"], Stored(found[-1])
