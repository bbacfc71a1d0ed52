"""Record: one measured number and where it came from, one JSON file each.

``<root>/<subject>[@<accel>x]/<suite>/<metric>.json``.  A record is reused only while its ``key``, the hash of
everything that decides its value, is the one expected: delete a file or change an input and just that number is
computed again.  The file ends with a hash of its own content, so that an edited record is noticed.

A subject's name stands for one model: ``of_two_models`` says where two records under one name are of different ones,
and ``read`` refuses to put such records together.
"""

from __future__ import annotations

import datetime
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vgt.core import env, files, text

SAMPLES = ".samples.csv"  # ends the name of the samples beside a record (vgt/core/samples.py)
BF16 = ("bf16", "bfloat16")  # as settings and measurements name the precision
PLACE, NAMED = "place ", "named place "  # begin the origin of images made elsewhere; the latter's name was given
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
    n: int = Field(ge=0)  # items that entered the value
    n_expected: int = Field(ge=0)  # items that the full protocol asks for
    n_failed: int = Field(0, ge=0)
    protocol: str  # short id, e.g. "geneval", "ssim-wang"
    protocol_params: dict[str, Any] = {}
    judge: str | None = None  # model or rule that judged, with its version
    seed: int | None = None
    fingerprint: str  # content hash of the subject (checkpoint with its settings, folder of images)
    origin: str | None = None  # the model alone: hash of its content, or PLACE and a hash of where its images lie
    suite_hash: str  # content hash of prompts or data
    key: str  # content hash of everything that decides the value
    evidence: str | None = None  # per-sample file, relative to the run's folder
    hashes: dict[str, str] = {}  # content of the files that it was made with: "evidence", "samples"
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
        return Path(folder_name(self.model)) / _part(self.suite) / f"{_part(self.metric)}.json"

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


def folder_name(model: str) -> str:
    """The folder of a model below any root; where two models would share one, that is refused (``of_another``)."""
    return _part(model.replace(":", "-"))


def _part(name: str) -> str:
    """``name`` as one part of a path: no separators, nothing unprintable, no leading dot, at most 200 bytes."""
    plain = "".join("_" if c in "/\\" or not c.isprintable() else c for c in name) or "_"
    plain = "_" + plain[1:] if plain[0] == "." else plain
    if len(plain.encode()) <= 200:
        return plain
    return f"{plain.encode()[:180].decode(errors='ignore')}-{files.digest(name)[:12]}"


def write(record: Record, root: str | Path) -> Path:
    """Write one record under ``root`` atomically; what a writer that was killed left of it is removed."""
    path = files.inside(root, record.path.parent) / record.path.name
    files.remove_unfinished(path)
    return files.write_json(path, files.sealed(json.loads(record.model_dump_json())))


def _parsed(content: str | bytes) -> Record:
    """The record of a file or line.  Raises ValueError where it is none, or was edited since it was written."""
    try:
        data = text.parse_json(content, "")
    except ValueError as error:  # whose message begins with where it stands: nothing, or the line
        raise ValueError(str(error).lstrip(",: ")) from error
    if not isinstance(data, dict):
        raise ValueError("it is no JSON object")
    # What has neither field may be of an earlier version, which wrote no hash.
    plain = files.unsealed(data, must="origin" in data or "hashes" in data)
    try:
        found = Record.model_validate({k: v for k, v in data.items() if k != files.CHECK})
    except ValidationError as error:
        raise ValueError(_fault(error)) from error
    if plain is None:
        raise ValueError(f"{found.name} was edited since it was written; delete it and evaluate again")
    return found


def _fault(error: ValidationError) -> str:
    """The first fault of a record in one line: field, value, what is wrong."""
    first, more = error.errors(include_url=False)[0], error.error_count() - 1
    field = ".".join(map(str, first["loc"]))
    wrong = " ".join(first["msg"].removeprefix("Value error, ").split())
    shown = "" if first["type"] in ("missing", "value_error") else f" {text.shown(first['input'])}"
    return (f"field {field!r}{shown}: " if field else "") + wrong + (f" (and {more} more)" if more else "")


def place_of(name: str) -> Path:
    """Where the record of that name lies, below any root."""
    model, suite, metric = name.rsplit("/", 2)
    return Path(folder_name(model)) / _part(suite) / f"{_part(metric)}.json"


def get(root: str | Path, name: str) -> Record | None:
    """The stored record of that name, else None.  Says on stderr that one is torn or was edited."""
    path = Path(root) / place_of(name)
    try:
        record = _parsed(path.read_bytes())
    except OSError:
        return None
    except ValueError as error:
        print(f"note: {path} is not used: {str(error).splitlines()[0]}", file=sys.stderr)
        return None
    return record if record.name == name else None


def find(root: str | Path, name: str, key: str) -> Record | None:
    """The same if its key is still right."""
    found = get(root, name)
    return found if found is not None and found.key == key else None


def folder(path: Path) -> Path:
    """Where the records at ``path`` lie: of a work folder in its ``records``, which may not be a model of that name."""
    inner = path / "records"
    return inner if inner.is_dir() and not any(inner.glob("*/*.json")) else path


def read(roots: str | Path | Iterable[str | Path], samples: bool = False) -> list[Record]:
    """All records below the given folders (``*.json`` files and ``*.jsonl`` collections, hidden files left out; of a
    work folder those in its ``records``), sorted by name; later roots win.

    ``samples``: look at the samples beside them too.  Raises ValueError naming a file that is not a record, or was
    edited since it was written, and naming both where records of one name are of two models."""
    roots = [roots] if isinstance(roots, (str, Path)) else list(roots)
    found: dict[str, tuple[Record, Path]] = {}
    for root in map(Path, roots):
        root = folder(root)
        if not root.exists():
            raise ValueError(f"no records at {root}; run `vgt reproduce tiny` or name a folder with --records")
        paths = [root] if root.is_file() else files.visible(root, "**/*.jsonl", "**/*.json")
        for path in paths:
            content = text.read(path)
            parts = enumerate(content.split("\n"), 1) if path.suffix == ".jsonl" else [(0, content)]
            for line, part in parts:
                if line and not part.strip():
                    continue
                try:
                    record = _parsed(part)
                except ValueError as error:
                    where = f"{path}, line {line}," if line else path
                    raise ValueError(f"{where} does not hold a record: {str(error).splitlines()[0]}") from error
                beside = path.with_suffix(SAMPLES)
                told = record.hashes.get("samples") if samples and path.suffix == ".json" else None
                if told is not None and beside.exists() and files.digest_file(beside) != told:
                    raise ValueError(f"{beside} was changed since it was written; evaluate again")
                if record.name in found:
                    _refuse(found[record.name], (record, path))
                found[record.name] = record, path
    refuse_mixtures(found.values())
    return [found[name][0] for name in sorted(found)]


def write_collection(records: Iterable[Record], path: str | Path) -> Path:
    """Many records in one JSON-lines file, sorted by name."""
    told = [r.model_dump(mode="json", exclude_defaults=True) for r in sorted(records, key=lambda r: r.name)]
    return files.write_text(path, "".join(json.dumps(files.sealed(each)) + "\n" for each in told))


def scores(records: Iterable[Record]) -> dict[str, dict]:
    """``{name: {value, low, high, n}}`` for the closing JSON line of a command."""
    return {r.name: r.score() for r in records}


def one_form(chosen: dict) -> dict:
    """Settings as they are compared: ``mar_schedule`` of earlier records, which QueryAR had without using it, by the
    name it has now, where it is not the default; those of the published mode say which attention (records without it
    are from before there were two, and dense), and not what the mode does anyway."""
    if "mar_schedule" in chosen:
        equal = {"schedule": "equal"} if chosen["mar_schedule"] == "uniform" else {}
        chosen = {name: value for name, value in chosen.items() if name != "mar_schedule"} | equal
    if chosen.get("compat") != "reference":
        return chosen
    own = {"cfg_schedule": "falling", "head_inputs": "bf16" if chosen.get("dtype") in BF16 else "fp32"}
    kept = {name: value for name, value in chosen.items() if value != own.get(name)}
    return kept | {"attention": chosen.get("attention", "dense") or "flash"}


# ---------------------------------------------------------------------------------------- whose a name is


def place(*paths: str | Path, named: bool = False) -> str:
    """The origin of images made elsewhere: a hash of where they lie, so that no record tells it.  ``named``: their name
    was given, and does not come from the place."""
    return (NAMED if named else PLACE) + files.digest(*(str(Path(path).resolve()) for path in paths))[:32]


def of_two_models(a: Record, b: Record) -> bool:
    """Whether two records of one subject's name are of different models.

    So they are where two models' contents differ; for images made elsewhere, where images of two places differ under a
    name that only comes from the place ("folder:samples"), or under any name in one and the same score; and where one
    model sampled by different settings."""
    if a.subject != b.subject or a.fingerprint == b.fingerprint:
        return False
    settings = [r.extra.get("settings") for r in (a, b)]
    if a.accel == b.accel and None not in settings and one_form(settings[0]) != one_form(settings[1]):
        return True
    if a.origin is None or b.origin is None:  # of an earlier version, whose times do not tell the weights alone
        return a.name == b.name and not SPEED.fullmatch(a.suite)
    if a.origin == b.origin:
        return False
    models = not any(r.origin.startswith((PLACE, NAMED)) for r in (a, b))
    return models or a.name == b.name or all(r.origin.startswith(PLACE) for r in (a, b))


def whose(record: Record) -> str:
    """A few words on what a record is of."""
    command = f", from `{record.command}`" if record.command else ""
    settings = record.extra.get("settings")
    sampled = f" sampled with {json.dumps(settings, sort_keys=True)}" if settings else ""
    return f"{record.fingerprint[:12]}{sampled}{command}"


def below(root: str | Path, subject: str) -> Iterator[Record]:
    """The records below ``root`` in the folders of a subject, at every acceleration; broken ones are left out."""
    name = folder_name(subject)
    pattern = re.compile(re.escape(name) + r"(@\d+x)?")
    for folder in sorted(Path(root).iterdir()) if Path(root).is_dir() else ():
        for path in sorted(folder.glob("*/[!.]*.json")) if pattern.fullmatch(folder.name) else ():
            try:
                yield _parsed(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue


def of_another(there: Iterable[Record], new: Record) -> Record | None:
    """The first of the records in the place of ``new``'s subject (``below``) that is of another model, if any."""
    return next((r for r in there if r.subject != new.subject or of_two_models(r, new)), None)


def clean(name: str) -> str:
    """A name made elsewhere (a folder's, a checkpoint's) without what names cannot hold."""
    return text.printable(name).strip() or "unnamed"


def checked_name(name: str) -> str:
    """A name that somebody gave.  Raises ValueError where it cannot be one."""
    if not name.strip() or not name.isprintable() or not name.strip("./\\ ") or len(name.encode()) > 150:
        raise ValueError(f"--name {name!r} cannot be a name; give a printable one of 1 to 150 bytes, for example sdxl")
    if re.search(r"@\d+x$", name):
        raise ValueError(f"--name {name!r} ends like an acceleration; leave that out, --accel adds it")
    return name.strip()


def _refuse(a: tuple[Record, Path], b: tuple[Record, Path]) -> None:
    if of_two_models(a[0], b[0]):
        raise ValueError(
            f"{a[0].name} in {a[1]} is of {whose(a[0])}, {b[0].name} in {b[1]} of {whose(b[0])}: two models under the "
            f"name {a[0].subject!r}; evaluate one of them again with --name, or leave its records out"
        )


def refuse_mixtures(found: Iterable[tuple[Record, Path]]) -> None:
    """Raises ValueError naming both where records of one subject are of two models."""
    kinds: dict[tuple, tuple[Record, Path]] = {}
    for record, path in found:
        settings = json.dumps(record.extra.get("settings"), sort_keys=True)
        kinds.setdefault((record.subject, record.origin, record.accel, settings), (record, path))
    subjects: dict[str, list[tuple[Record, Path]]] = {}
    for kind in kinds.values():
        for other in subjects.setdefault(kind[0].subject, []):
            _refuse(other, kind)
        subjects[kind[0].subject].append(kind)
