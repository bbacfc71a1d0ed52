"""Record: one measured number and where it came from, one JSON file each.

``<root>/<subject>[@<accel>x]/<suite>/<metric>.json``.  A record is reused only while its ``key``, the hash of
everything that decides its value, is the one expected: delete a file or change an input and just that number is
computed again.
"""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from vgt.core import env, files

# Suites of speeds: "bench-b8"; "bench-b1-n8", of the first 8 decode steps; "bench-b8-throughput", without waiting.
SPEED = re.compile(r"bench-b(?P<batch>\d+)(?:-n(?P<steps>\d+))?(?P<throughput>-throughput)?")


class Record(BaseModel):
    """One number.  ``value`` is None where it could not be measured, and ``note`` says why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: str  # what was measured, e.g. "query_ar_internvl"
    accel: int | None = None  # tokens decoded per step, for generators
    suite: str  # prompts, data set or benchmark, e.g. "scenes-geneval", "photos", "bench-b8"
    metric: str  # e.g. "overall", "psnr-mean"
    value: float | None
    unit: str = ""
    low: float | None = None  # 95 % interval
    high: float | None = None
    interval: str | None = None  # how it was made, e.g. "cluster bootstrap by prompt, 2000 draws"
    n: int  # items that entered the value
    n_expected: int  # items that the full protocol asks for
    n_failed: int = 0
    protocol: str  # short id, e.g. "geneval", "ssim-wang"
    protocol_params: dict[str, Any] = {}
    judge: str | None = None  # model or rule that judged, with its version
    seed: int | None = None
    fingerprint: str  # content hash of the subject (checkpoint, folder of images)
    suite_hash: str  # content hash of prompts or data
    key: str  # content hash of everything that decides the value
    evidence: str | None = None  # per-sample file, relative to the run's folder
    note: str | None = None
    extra: dict[str, Any] = {}  # small further results, e.g. standard deviation, curve, points of a plot
    commit: str | None = None
    dirty: bool | None = None
    versions: dict[str, str] = {}
    device: str = ""
    created: str = ""  # UTC, ISO 8601
    seconds: float | None = None  # wall time of the measurement
    command: str = ""

    @model_validator(mode="after")
    def _ordered(self) -> Record:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"{self.name}: interval low {self.low} > high {self.high}")
        for field in ("value", "low", "high"):  # JSON has no NaN: it would come back as "not measured"
            number = getattr(self, field)
            if number is not None and not math.isfinite(number):
                raise ValueError(f"{self.name}: {field} is {number}; use None and say why in note")
        return self

    @property
    def partial(self) -> bool:
        """True where the value covers less than the protocol asks for, on either side of a comparison, or samples that
        nobody asked for were there: it must not be read as the benchmark."""
        lacks = self.n < self.n_expected or self.n_failed > 0
        return lacks or any(self.extra.get(about) for about in ("n_extra", "n_real_expected"))

    @property
    def model(self) -> str:
        """Subject with its acceleration, e.g. "query_ar_internvl@4x"."""
        return self.subject + (f"@{self.accel}x" if self.accel is not None else "")

    @property
    def name(self) -> str:
        return f"{self.model}/{self.suite}/{self.metric}"

    @property
    def path(self) -> Path:
        return Path(self.model.replace(":", "-").replace("/", "_")) / self.suite / f"{self.metric}.json"

    def score(self) -> dict[str, float | int | None]:
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


def make_key(**parts: Any) -> str:
    """Key of a record from everything that decides its value (JSON-able)."""
    return files.digest_json(parts)


def make(**fields: Any) -> Record:
    """A record stamped with commit, versions, time and command."""
    revision, dirty = env.commit()
    stamp = {
        "commit": revision,
        "dirty": dirty,
        "versions": env.versions(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": env.command(),
        "device": env.processor(),
    }
    return Record(**{**stamp, **fields})


def write(record: Record, root: str | Path) -> Path:
    """Write one record under ``root`` atomically."""
    return files.write_text(Path(root) / record.path, record.model_dump_json(indent=1) + "\n")


def find(root: str | Path, name: str, key: str) -> Record | None:
    """The stored record of that name if its key is still right, else None."""
    model, suite, metric = name.rsplit("/", 2)
    path = Path(root) / model.replace(":", "-").replace("/", "_") / suite / f"{metric}.json"
    try:
        record = Record.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if record.key == key else None


def read(roots: str | Path | Iterable[str | Path]) -> list[Record]:
    """All records below the given folders (``*.json`` files and ``*.jsonl`` collections, hidden files left out), sorted
    by name; later roots win.

    Raises ValueError naming a file that is not a record."""
    roots = [roots] if isinstance(roots, (str, Path)) else list(roots)
    found: dict[str, Record] = {}
    for root in map(Path, roots):
        if not root.exists():
            raise ValueError(f"no records at {root}; run `vgt reproduce tiny` or name a folder with --records")
        paths = [root] if root.is_file() else files.visible(root, "**/*.jsonl", "**/*.json")
        for path in paths:
            texts = path.read_text(encoding="utf-8")
            for text in texts.splitlines() if path.suffix == ".jsonl" else [texts]:
                try:
                    record = Record.model_validate_json(text)
                except ValueError as error:
                    raise ValueError(f"{path} does not hold a record: {str(error).splitlines()[0]}") from error
                found[record.name] = record
    return [found[name] for name in sorted(found)]


def write_collection(records: Iterable[Record], path: str | Path) -> Path:
    """Many records in one JSON-lines file, sorted by name."""
    lines = [json.dumps(r.model_dump(exclude_defaults=True)) for r in sorted(records, key=lambda r: r.name)]
    return files.write_text(path, "".join(line + "\n" for line in lines))


def scores(records: Iterable[Record]) -> dict[str, dict]:
    """``{name: {value, low, high, n}}`` for the closing JSON line of a command."""
    return {r.name: r.score() for r in records}
