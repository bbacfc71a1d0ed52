"""Two sets of records side by side: reading them, matching them, and what makes two records incomparable."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from vgt.core import files, record, samples
from vgt.core.record import Record

SETTINGS = "settings"  # where one side does not tell the settings of its sampler
TIMED = ("images/s", "ms", "s", "MiB")  # units of measurements that belong to one machine


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


def _split(text: str) -> tuple[Path, str | None]:
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
    root, model = _split(text)
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


def _short(value: object) -> str:
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 40 else text[:37] + "..."


def settings(one: Record) -> dict | None:
    """The sampling settings of a generator's record, without the acceleration, which is a field of its own; None where
    the images came without them."""
    found = one.extra.get("settings")
    return {k: v for k, v in found.items() if k != "acceleration"} if isinstance(found, dict) else None


def varying(a: Record, b: Record) -> dict[str, str]:
    """What two measurements of one protocol differ in, by name: the acceleration, a key of ``protocol_params`` or of
    the sampling settings; "settings" where one side does not tell its own."""
    found = {"accel": f"accel {a.accel} and {b.accel}"} if a.accel != b.accel else {}
    chosen = settings(a), settings(b)
    sides = [(record.one_form(a.protocol_params), record.one_form(b.protocol_params))]
    if chosen[0] is not None and chosen[1] is not None:
        sides.append((record.one_form(chosen[0]), record.one_form(chosen[1])))
    elif chosen != (None, None):
        known, unknown = ("A", "B") if chosen[1] is None else ("B", "A")
        told = ", ".join(f"{name} {_short(value)}" for name, value in (chosen[0] or chosen[1] or {}).items())
        found[SETTINGS] = f"settings of the sampler: {known} has {told}; those of {unknown} are not known"
    for left, right in sides:
        for name in sorted({*left, *right}):
            if left.get(name) != right.get(name):
                found[name] = f"{name} {_short(left.get(name))} and {_short(right.get(name))}"
    return found


def differences(a: Record, b: Record, allowed: Collection[str] = ()) -> list[str]:
    """Why B must not be compared with A: another protocol, setting, judge, prompt set or unit (docs/evaluators.md 7.5).

    ``allowed``: names of what may differ (keys of ``protocol_params`` or of the sampling settings, "accel", or
    "settings" where one side does not tell them)."""
    reasons = []
    for field, what in (("protocol", "protocol"), ("unit", "unit"), ("judge", "judge")):
        if getattr(a, field) != getattr(b, field):
            reasons.append(f"{what} {getattr(a, field)!r} and {getattr(b, field)!r}")
    if a.suite_hash != b.suite_hash:
        reasons.append(f"other prompts or data: hashes {a.suite_hash[:8]} and {b.suite_hash[:8]}")
    reasons += [words for name, words in varying(a, b).items() if name not in allowed]
    if a.unit in TIMED and a.device != b.device:
        reasons.append(f"measured on {a.device!r} and {b.device!r}")
    return reasons


def permitted(a: Record, b: Record, allowed: Collection[str]) -> list[str]:
    """What differs between two records and may: the ``allowed`` settings, and the seed."""
    found = [f"{words} (allowed)" for name, words in varying(a, b).items() if name in allowed]
    return found + ([f"seeds {a.seed} and {b.seed}"] if None not in (a.seed, b.seed) and a.seed != b.seed else [])


def gaps(side: str, one: Record, allow_partial: bool) -> list[str]:
    """Why a record cannot stand for its benchmark: it was not measured, or covers less than the protocol asks for."""
    if one.value is None:
        return [f"{side} has no value{f': {one.note}' if one.note else ''}"]
    if one.n_failed:
        return [f"{side} is partial: {one.n_failed} samples failed"]
    if one.extra.get("n_extra"):
        return [f"{side} is partial: {one.extra['n_extra']} samples that nobody asked for"]
    if one.partial and not allow_partial:
        return [f"{side} is partial: {one.n} of {one.n_expected} samples"]
    return []
