"""Per-sample values behind a record, in one format for all evaluators, so that records can be compared in pairs.

Beside ``<records>/<model>/<suite>/<metric>.json`` lies ``<metric>.samples.csv`` with the columns id, value, cluster,
group: one line per sample that entered the value, which is their mean (of group means, where there are groups).

Metrics that are no mean over samples, such as Frechet distances, have none.  Their records may hold
``extra[REPLICATES]`` instead: the value without block 1, 2, ... B of the samples, sample i of the suite in block i mod
B, so that the difference of two records of one suite can be jackknifed on common blocks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vgt.core import files
from vgt.core.intervals import estimate, grouped
from vgt.core.record import SAMPLES, Record, folder
from vgt.core.text import csv_plain, csv_rows, csv_text

DIFFERENCES = "differences"  # the suite of records of what two others differ by; see ``difference``
COLUMNS = ("id", "value", "cluster", "group")
REPLICATES = "replicates"


def difference(a: Record, b: Record) -> tuple[str, str]:
    """(subject, metric) of the record of A minus B, tested in pairs, in the suite DIFFERENCES.  Its ``extra`` holds
    "p", "test" and the keys of the two, "of"."""
    return f"{a.model}~{b.model}", f"{a.suite}-{a.metric}"


@dataclass(frozen=True)
class Samples:
    """``values`` in the record's unit; ``ids`` name a sample across models (for example prompt id and sample number);
    ``clusters``: what varies together; ``groups``: parts that weigh the same, None for one part."""

    ids: Sequence[str]
    values: Sequence[float]
    clusters: Sequence[str]
    groups: Sequence[str] | None = None


Lookup = Callable[[Record], Samples | None]  # finds the samples of a record; see ``lookup``


def path(root: str | Path, record: Record) -> Path:
    return beside(Path(root) / record.path)


def write(samples: Samples, root: str | Path, record: Record) -> Path:
    """Write the samples of one record atomically.  Raises ValueError for ids that repeat or lengths that differ."""
    if len(set(samples.ids)) < len(samples.ids):
        raise ValueError(f"{record.name}: sample ids repeat; a sample needs an id of its own")
    files.inside(root, record.path.parent)
    return files.write_text(path(root, record), _text(samples))


def digest(samples: Samples) -> str:
    """The hash of the file that ``write`` makes."""
    return hashlib.sha256(_text(samples).encode()).hexdigest()


def _text(samples: Samples) -> str:
    groups = samples.groups if samples.groups is not None else [""] * len(samples.ids)
    rows = zip(samples.ids, map(float, samples.values), samples.clusters, groups, strict=True)
    return csv_text([COLUMNS, *rows])


def beside(path: str | Path) -> Path:
    """Where the samples of the record at ``path`` lie."""
    return Path(path).with_suffix(SAMPLES)


def read(root: str | Path, record: Record) -> Samples | None:
    """The samples of a record, None where there are none.  Raises ValueError naming a file that is none of ours."""
    return read_file(path(root, record))


def checked(where: Path, record: Record) -> Samples | None:
    """The samples of ``record`` in one file, None where there are none or the record has no value.  Raises ValueError
    where they were changed, or do not give its value: they belong to another run."""
    found = read_file(where)
    if found is None or record.value is None:
        return None
    told = record.hashes.get("samples")
    if told is not None and files.digest_file(where) != told:
        raise ValueError(f"{where} was changed since it was written; evaluate again")
    if not len(found.ids):
        raise ValueError(f"{where} is empty; delete it and evaluate again")
    everything = found.groups if found.groups is not None else ["all"] * len(found.ids)
    mean = estimate(grouped(found.values, everything, everything))
    if not abs(mean - record.value) <= 1e-6 * max(1.0, abs(mean)):
        raise ValueError(
            f"the samples of {record.name} give {mean:.6g}, the record says {record.value:.6g}; they are of another "
            "run: evaluate again"
        )
    return found


def lookup(roots: str | Path | Iterable[str | Path]) -> Lookup:
    """Finds the samples of records that were read from these folders (``record.read``), each file once; of those of one
    name the later root's, as with records.  None where there are none; raises as ``checked``."""
    folders = [folder(Path(root)) for root in ([roots] if isinstance(roots, (str, Path)) else roots)]
    kept: dict[str, Samples | None] = {}

    def of(record: Record) -> Samples | None:
        if record.name not in kept:
            places = [place for root in reversed(folders) if (place := path(root, record)).exists()]
            kept[record.name] = checked(places[0], record) if places else None
        return kept[record.name]

    return of


def read_file(where: Path) -> Samples | None:
    """The samples in one file; see ``read``."""
    if not where.exists():
        return None
    try:
        rows = list(csv_rows(where, COLUMNS))
        values = [row.figure("value") for row in rows]
    except ValueError as error:
        raise ValueError(f"{error}; delete these samples and evaluate again") from error
    ids, clusters, groups = ([csv_plain(row[name]) for row in rows] for name in ("id", "cluster", "group"))
    return Samples(ids, values, clusters, groups if any(groups) else None)
