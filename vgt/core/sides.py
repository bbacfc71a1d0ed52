"""Two sets of records side by side: reading them and matching them.  Whether two matched records may be compared is
another question (evals/compare/pairs.py)."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vgt.core import files, record, samples
from vgt.core.record import Record


@dataclass(frozen=True)
class Stored:
    """A record, the file of its samples, None where a collection holds the record alone, and its own file."""

    record: Record
    samples: Path | None
    path: Path = Path()


@dataclass(frozen=True)
class Side:
    """One of the two sets: ``label`` as it was named, records by name."""

    label: str
    stored: dict[str, Stored]


@dataclass(frozen=True)
class Pair:
    """What two sides hold of one metric; ``name`` says what they share; a side that lacks it is None."""

    name: str
    a: Stored | None
    b: Stored | None


def split(text: str) -> tuple[Path, str | None]:
    """``FOLDER[:MODEL]``; a model's name may hold colons, and so may a folder's."""
    if Path(text).exists():
        return Path(text), None
    places = [i for i, letter in enumerate(text) if letter == ":"]
    for i in reversed(places):
        if Path(text[:i]).exists() and text[:i]:
            return Path(text[:i]), text[i + 1 :]
    raise ValueError(
        f"no records at {text}; give a folder of records, a work folder or a .jsonl file, or one model as FOLDER:MODEL"
    )


def _all(root: Path) -> dict[str, Stored]:
    """Every record at ``root``: a file, a folder of records, or a work folder with ``records`` in it."""
    root = record.folder(root)
    paths = [root] if root.is_file() else files.visible(root, "**/*.jsonl", "**/*.json")
    found: dict[str, Stored] = {}
    for path in paths:
        for one in record.read(path):
            if one.suite == samples.DIFFERENCES:  # made of two of the others
                continue
            if one.name in found:
                raise ValueError(f"{root} holds two records {one.name}; name the folder of one of them")
            found[one.name] = Stored(one, samples.beside(path) if path.suffix == ".json" else None, path)
    return found


def read(text: str) -> Side:
    """The records that ``FOLDER``, ``FOLDER:MODEL`` or ``FILE.jsonl[:MODEL]`` names; a model is a subject, with its
    acceleration (``mar@4x``) or, without it, at every acceleration.

    Raises ValueError where there are none, naming the models there are, and where those of one name are of two
    models, naming both."""
    root, model = split(text)
    found = _all(root)
    if not found:
        raise ValueError(f"{root} holds no records; evaluate first, for example with `vgt reproduce tiny`")
    if model is not None:
        chosen = {name: s for name, s in found.items() if model in (s.record.model, s.record.subject)}
        if not chosen:
            names = ", ".join(sorted({s.record.model for s in found.values()}))
            raise ValueError(f"{root} has no model {model!r}; it has {names}")
        found = chosen
    record.refuse_mixtures((one.record, one.path) for one in found.values())
    return Side(text, found)


def match(a: Side, b: Side) -> list[Pair]:
    """Records of the two sides that measure the same, in order of name.

    Matched by model, suite and metric; where each side is one subject, whatever its name, by acceleration, suite and
    metric; where each is one model, by suite and metric."""

    one_model = all(len({s.record.model for s in side.stored.values()}) == 1 for side in (a, b))
    one_subject = all(len({s.record.subject for s in side.stored.values()}) == 1 for side in (a, b))

    def key(one: Record) -> str:
        if one_model or (one_subject and one.accel is None):
            return f"{one.suite}/{one.metric}"
        return f"@{one.accel}x/{one.suite}/{one.metric}" if one_subject else one.name

    left, right = ({key(s.record): s for s in side.stored.values()} for side in (a, b))
    return [Pair(name, left.get(name), right.get(name)) for name in sorted({*left, *right})]


def work(one: Stored) -> Path:
    """The folder that a record's evidence is relative to: that of its records, or, where they lie in a ``records`` of
    their own, the one above."""
    root = one.path.parents[len(one.record.path.parts) - 1] if one.samples is not None else one.path.parent
    return root.parent if root.name == "records" else root


def evidence(a: Side, b: Side, metrics: Sequence[str] = ()) -> str | None:
    """The command that shows the samples of two sides beside each other; None where no metric has per-sample results on
    both.  ``metrics``: patterns of their names."""
    both = [(pair.a, pair.b) for pair in match(a, b) if pair.a is not None and pair.b is not None]
    if not any(all(one.samples is not None and one.samples.is_file() for one in pair) for pair in both):
        return None
    chosen = ["--metric", *metrics] if metrics else []
    return shlex.join(["vgt", "report", "evidence", "--a", a.label, "--b", b.label, *chosen])
