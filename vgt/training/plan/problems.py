"""What a run would miss on this machine: its data, and room on the disk."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from vgt.training.run import Preset
from vgt.training.sources import KINDS, parts
from vgt.training.sources.webdataset import shards

GIB = 2**30


def data_problems(preset: Preset) -> list[str]:
    """What of ``data.source`` is not here; nothing is opened or indexed.  Raises ValueError for an unknown kind."""
    if preset.system == "vlm":
        return []
    found = [_absent(part) for part in parts(preset.data.source) if part != "scenes"]
    return [f"data.source: {problem}" for problem in found if problem]


def _absent(source: str) -> str | None:
    kind, _, rest = source.partition(":")
    path = Path(rest).expanduser()
    if kind == "folder" and rest:
        return None if path.is_dir() else f"there is no folder {rest}; put the images there or name another"
    if kind == "webdataset" and rest:
        try:
            shards(str(path))
        except ValueError as error:
            return str(error)
        return None
    if kind == "datasets" and rest:
        if importlib.util.find_spec("datasets") is None:
            return f"{source} needs the package datasets; run `pip install datasets`"
        return None if path.is_dir() else f"{rest} is no folder here; it would be fetched from the hub at the start"
    raise ValueError(f"data.source {source!r} is unknown; write {', '.join(KINDS)}, or several joined by +")


def disk_problems(needed: float, runs: Path) -> list[str]:
    """Whether ``needed`` bytes fit on the disk of ``runs``."""
    place = next(p for p in (runs.absolute(), *runs.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    if free >= needed:
        return []
    return [
        f"disk: the states and the model take {needed / GIB:.1f} GiB, and {runs} has {free / GIB:.1f} free; "
        "choose another --out"
    ]
