"""The state of a run on disk: what resuming needs, readable by any number of processes.

``<run>/state-<step>/`` holds ``state.json`` and the tensors in ``training-<k>-of-<n>.safetensors``, cut by size, whose
hashes stand in ``state.json`` beside its own (states of earlier versions have none).  A folder is complete or absent.
A run that is under way keeps two, so that one torn by a fault of the disk costs the steps since the one before; a
finished run keeps the last.  Which processes wrote a state leaves no trace.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from torch import Tensor

from vgt.checkpoints.shards import handle, write_file
from vgt.core import files
from vgt.core.text import Fields, read_json, shown
from vgt.training.distributed import Team, whole

try:
    import fcntl
except ImportError:  # a system without it: nothing is locked there
    fcntl = None

LIMIT = 4 << 30  # bytes of one file, and so of host memory while writing
FREE = tuple(f"preset.train.{key}" for key in ("strategy", "activation_checkpointing", "compile"))  # how, not what

Tensors = dict[str, Tensor]


def states(out: Path) -> list[Path]:
    """Complete states of a run, oldest first."""
    return sorted(out.glob("state-" + 8 * "[0-9]"))


def _remove(path: Path) -> None:
    """Remove a folder, or what stands in its place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive(out: Path, team: Team) -> Iterator[None]:
    """Make a run's folder and hold it: nobody else trains there meanwhile.  Raises ValueError on all processes where
    somebody does."""
    handle, taken = None, False
    if team.first:
        out.mkdir(parents=True, exist_ok=True)
    if team.first and fcntl is not None:
        handle = os.open(out, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            taken = True
        except OSError:  # a file system without locks
            pass
    try:
        if team.gather(taken)[0]:
            raise ValueError(f"another training is under way in {out}; wait for it, or choose another --out")
        yield
    finally:
        if handle is not None:
            os.close(handle)


def seconds_spent(out: Path) -> float:
    """Wall time of training up to the newest stored state."""
    found = states(out)
    return _info(found[-1])["seconds"] if found else 0.0


def _info(folder: Path) -> Fields:
    """What ``state.json`` says.  Raises ValueError for what ``write`` has not written so."""
    told = Fields.of(read_json(folder / "state.json"), "state.json")
    if files.unsealed(told, must="files" in told) is None:
        raise ValueError("state.json was changed since it was written")
    step, named = told.need("step"), int(folder.name.rpartition("-")[2])
    if type(step) is not int or step != named:
        raise ValueError(f"{told.place('step')}: {shown(step)} is not {named}")
    told.number("seconds", 0), Fields.of(told.need("identity"), told.place("identity"))
    return told


def clear(out: Path, names: Iterable[str]) -> None:
    """Remove the states of a run and the folders ``names``, and nothing else that a user may keep there."""
    for path in [*states(out), *(out / name for name in names)]:
        _remove(path)


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


def shard(tensors: Tensors, limit: int) -> list[list[str]]:
    """Names of the tensors of each file, in order: a file is full before it passes ``limit`` bytes."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        size += tensor.numel() * tensor.element_size()
        if shards[-1] and size > limit:
            shards.append([])
            size = tensor.numel() * tensor.element_size()
        shards[-1].append(name)
    return shards


def write(out: Path, step: int, seconds: float, identity: dict, tensors: Tensors, team: Team) -> None:
    """Store a state.  All processes call this; split tensors are put together one at a time, file k is written by
    process k modulo their number, and the first one puts the folder in place when all have written.
    Of the states before, the newest stays.
    Raises ValueError on all processes where one cannot write; what was stored before is then untouched."""
    part, place = out / f".state-{step:08d}.part", out / f"state-{step:08d}"
    keep_newest(out, team)
    if team.first:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    team.wait()
    try:
        told = team.gather(_write_files(part, tensors, team))
        trouble = [wrong for _, wrong in told if wrong]
        if not trouble:
            hashes = {name: found for each, _ in told for name, found in each.items()}
            info = files.sealed({"step": step, "seconds": seconds, "identity": identity, "files": hashes})
            write = (lambda: (part / "state.json").write_text(json.dumps(info))) if team.first else (lambda: None)
            trouble = [wrong for wrong in team.gather(_trouble(write)) if wrong]
        if trouble:
            raise ValueError(
                f"{out}: the state of step {step} could not be written ({trouble[0]}); make room and run the same "
                "command again, it goes on from the last state"
            )
        if team.first:
            files.flush(part)
            os.replace(part, place)
            files.flush_entry(out)
        team.wait()
    finally:
        if team.first:
            shutil.rmtree(part, ignore_errors=True)


def keep_newest(out: Path, team: Team) -> None:
    """Remove all states but the newest."""
    if team.first:
        for path in states(out)[:-1]:
            _remove(path)


def _write_files(part: Path, tensors: Tensors, team: Team) -> tuple[dict[str, str], str]:
    """Write this process's files; returns their hashes and what went wrong, "" if nothing did.  Goes on after an error,
    because the others need this process to put split tensors together."""
    shards, hashes, wrong = shard(tensors, LIMIT), {}, ""

    def write_one(path: Path, held: Tensors) -> None:
        write_file(path, held)
        hashes[path.name] = files.digest_file(path)

    for k, names in enumerate(shards):
        mine, held = k % team.size == team.rank, {}
        for name in names:
            value = whole(tensors[name].detach())
            if mine and not wrong:
                held[name] = value.cpu().clone().contiguous()
        if held:
            path = part / f"training-{k + 1:05d}-of-{len(shards):05d}.safetensors"
            wrong = _trouble(lambda path=path, held=held: write_one(path, held))
    return hashes, wrong


def _trouble(write: Callable[[], object]) -> str:
    """What the file system says against ``write()``, "" if nothing."""
    try:
        write()
    except OSError as error:
        return str(error).splitlines()[0]
    return ""


# -------------------------------------------------------------------------------------------------- reading


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


class Stored:
    """A state folder: ``step``, ``identity``, and its tensors, read one at a time (``training.safetensors`` of earlier
    versions too).  ``torn``: newer states that cannot be read, and why.

    Raises ValueError for a file that is absent, torn, changed since it was written or cannot be read."""

    def __init__(self, folder: Path):
        paths = sorted(folder.glob("training*.safetensors"))
        count = paths[0].stem.rpartition("-of-")[2] if paths else ""
        wanted = int(count) if count.isdecimal() else 1
        if len(paths) != wanted:
            raise ValueError(f"{len(paths)} of {wanted} files are there")
        try:
            info = _info(folder)
            for path in paths:
                if "files" in info and info["files"].get(path.name) != files.digest_file(path):
                    raise ValueError(f"{path.name} was changed since it was written")
            opened = [handle(path) for path in paths]
        except (OSError, ValueError) as error:
            raise ValueError(_line(error)) from error
        self.step, self.identity = info["step"], info["identity"]
        self.torn: dict[Path, str] = {}
        self._home = {key: f for f in opened for key in f.keys()}  # noqa: SIM118 - not a dict

    def __getitem__(self, name: str) -> Tensor:
        return self._home[name].get_tensor(name)

    def names(self, prefix: str) -> list[str]:
        """What follows ``prefix`` in the names that begin with it."""
        return [name.removeprefix(prefix) for name in self._home if name.startswith(prefix)]


def newest(out: Path, identity: dict, upgrade: Callable[[dict], dict] | None = None) -> Stored | None:
    """The newest whole state, None where there is none.  ``upgrade`` brings an identity that an earlier version stored
    up to date (settings that it did not know).

    Raises ValueError naming changed settings, and where all states are torn."""
    torn: dict[Path, str] = {}
    for folder in reversed(states(out)):
        try:
            found = Stored(folder)
            old = upgrade(found.identity) if upgrade else found.identity
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # the last ones: settings of another form
            torn[folder] = f"{folder} cannot be read ({_line(error)})"
            continue
        found.torn = torn
        names = [name for name in changed(identity, old) if name not in FREE]
        if names:
            listed = ", ".join(name.removeprefix("preset.") for name in names)
            raise ValueError(f"{out} holds a run with other settings ({listed}); add --fresh or choose another --out")
        return found
    if torn:
        raise ValueError(f"{next(iter(torn.values()))}; put it back as it was written, or start over with --fresh")
    return None


def remove_torn(stored: Stored, team: Team) -> None:
    """Say which newer states cannot be read, and remove them; what is stored next may have their names."""
    for folder, problem in stored.torn.items() if team.first else ():
        print(f"{problem}; going on from step {stored.step}, the state before it", file=sys.stderr)
        _remove(folder)
    team.wait()
