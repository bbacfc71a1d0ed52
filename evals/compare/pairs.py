"""What makes two records incomparable, and what of them may differ (reading and matching: vgt/core/sides.py)."""

from __future__ import annotations

import json
from collections.abc import Collection

from vgt.core import record
from vgt.core.record import Record

SETTINGS = "settings"  # where one side does not tell the settings of its sampler
TIMED = ("images/s", "ms", "s", "MiB")  # units of measurements that belong to one machine


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
