"""``vgt compare``: B against A, metric by metric (docs/evaluators.md 7.3), from stored evidence alone."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from evals.compare import contrasts, pairs
from evals.compare.contrasts import Contrast
from vgt.core import files, record, samples, sides, text
from vgt.core.record import Record
from vgt.core.sides import Pair, Side
from vgt.core.statistics import holm, holm_level, minimum_detectable

ALPHA = 0.05
VERSION = 1  # of kept differences: raise it when they change
POWER = 0.8
SAME, INCOMPARABLE = "no detectable difference", "incomparable"
FREE = ("accel", pairs.SETTINGS)  # may differ unasked: the sides' names tell the one, a note the other
NAMED = 4  # names in one line
# What simulations of tests/test_statistics.py and tests/test_gate.py give for ``minimum_detectable``.
POWER_NOTE = (
    "if it leaves the spread as it is; of yes/no images it widens it, and simulation gave 71 to 77 % instead of 80 %, "
    "with one image a prompt 50 to 70 %"
)


@dataclass(frozen=True)
class ComparedMetric:
    """One metric.  ``verdict`` is about B: better, worse (higher, lower where neither side is better), no detectable
    difference, or incomparable; ``notes``: why, and what a reader must know.  ``adjusted``: Holm's p-value;
    ``detectable``: the smallest difference that would have been seen with about 80 % power (POWER_NOTE)."""

    pair: Pair
    verdict: str
    notes: tuple[str, ...]
    contrast: Contrast | None = None
    adjusted: float | None = None
    detectable: float | None = None

    def __str__(self) -> str:
        """One line: metric, A, B, the difference with its interval, p-values and verdict."""
        name, a, b, d, interval, p, adjusted, _, verdict = _cells(self)
        tested = f", B - A {d} {interval}, p {p}, Holm {adjusted}" if self.contrast is not None else ""
        return f"{name}: A {a}, B {b}{tested}: {verdict}"


def chosen(found: Sequence[Pair], patterns: Sequence[str]) -> list[Pair]:
    """Pairs whose metric, or ``suite/metric``, fits a pattern.  Raises ValueError for a pattern that none fits."""

    def fits(pair: Pair, pattern: str) -> bool:
        one = (pair.a or pair.b).record
        return fnmatchcase(one.metric, pattern) or fnmatchcase(f"{one.suite}/{one.metric}", pattern)

    idle = [p for p in patterns if not any(fits(pair, p) for pair in found)]
    if idle:
        names = sorted({(pair.a or pair.b).record.metric for pair in found})
        raise ValueError(f"no metric fits {', '.join(idle)}; the records have {', '.join(names)}")
    return [pair for pair in found if any(fits(pair, p) for p in patterns)]


def _contrast(pair: Pair, allowed: Collection[str]) -> Contrast | list[str]:
    """B minus A, or why there is none."""
    a, b = pair.a.record, pair.b.record
    reasons = [*pairs.gaps("A", a, True), *pairs.gaps("B", b, True), *pairs.differences(a, b, {*FREE, *allowed})]
    if reasons:
        return reasons
    try:
        return contrasts.contrast(pair.a, pair.b)
    except ValueError as error:
        return [str(error)]


def _verdict(pair: Pair, difference: float, significant: bool) -> str:
    if not significant:
        return SAME
    direction = contrasts.better(pair.b.record)
    if direction is None:
        return "higher" if difference > 0 else "lower"
    return "better" if (difference > 0) == (direction == contrasts.HIGHER) else "worse"


def _notes(pair: Pair, contrast: Contrast, allowed: Collection[str]) -> tuple[str, ...]:
    a, b = pair.a.record, pair.b.record
    notes = [*contrast.notes, *pairs.permitted(a, b, {pairs.SETTINGS, *allowed})]
    notes += [f"{side} is partial: {r.n} of {r.n_expected}" for side, r in (("A", a), ("B", b)) if r.partial]
    if a.n != b.n:
        notes.append(f"n is {a.n} in A and {b.n} in B")
    if not contrast.tested:
        notes.append("the same measurement")
    return tuple(notes)


def compare(a: Side, b: Side, metrics: Sequence[str] = ("*",), allowed: Collection[str] = ()) -> list[ComparedMetric]:
    """A row per metric that both sides hold; p-values are adjusted for all of them together (Holm).

    ``metrics``: patterns of names; ``allowed``: settings that may differ.  Raises ValueError where the two sides have
    no metric in common, for a pattern that no common metric fits, and for a setting that no record has."""
    matched = sides.match(a, b)
    common = [p for p in matched if p.a is not None and p.b is not None]
    if not common:
        raise ValueError(f"{a.label} and {b.label} have no record in common; name one model of each with FOLDER:MODEL")
    chosen(matched, metrics)
    found = chosen(common, metrics)
    _check_allowed(found, allowed)
    made = [_contrast(pair, allowed) for pair in found]
    p_values = [c.comparison.p_value for c in made if isinstance(c, Contrast) and c.tested]
    adjusted, level = iter(holm(p_values)), holm_level(p_values, ALPHA)
    rows = []
    for pair, contrast in zip(found, made, strict=True):
        if not isinstance(contrast, Contrast):
            rows.append(ComparedMetric(pair, INCOMPARABLE, tuple(contrast)))
            continue
        p, result = next(adjusted) if contrast.tested else 1.0, contrast.comparison
        verdict = _verdict(pair, result.difference.value, p <= ALPHA)
        least = minimum_detectable(result.error, result.freedom, level, POWER)
        rows.append(ComparedMetric(pair, verdict, _notes(pair, contrast, allowed), contrast, p, least))
    return rows


def _check_allowed(found: Sequence[Pair], allowed: Collection[str]) -> None:
    """Raises ValueError for the name of a setting that none of the records has."""
    known = {*FREE}
    for one in (side.record for pair in found for side in (pair.a, pair.b)):
        known |= one.protocol_params.keys() | (pairs.settings(one) or {}).keys()
    for name in allowed:
        if name not in known:
            raise ValueError(f"no record has a setting {name!r} to allow; they have {', '.join(sorted(known))}")


def several(names: Sequence[str]) -> str:
    """The first few names, and how many more."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _unmatched(a: Side, b: Side, metrics: Sequence[str]) -> list[str]:
    """What only one of the two sides holds, a line for each."""
    found = chosen(sides.match(a, b), metrics)
    only = (a.label, [p.name for p in found if p.b is None]), (b.label, [p.name for p in found if p.a is None])
    return [f"only in {label}: {several(names)}" for label, names in only if names]


def _allowable(rows: Sequence[ComparedMetric], allowed: Collection[str]) -> list[str]:
    """Names of the settings that make rows incomparable."""
    apart = [row.pair for row in rows if row.contrast is None]
    return sorted({name for p in apart for name in pairs.varying(p.a.record, p.b.record)} - {*FREE, *allowed})


def figures(value: float | None) -> str:
    """A number with as many decimals as its size deserves."""
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}" if abs(value) < 1000 else f"{value:.1f}"


def _would_be_seen(row: ComparedMetric) -> str:
    largest = contrasts.span(row.pair.a.record)
    if largest is not None and row.detectable > largest:
        return "too few samples to see any"
    return f"{figures(row.detectable)} would have been seen"


def _cells(row: ComparedMetric) -> list[str]:
    value_a, value_b = figures(row.pair.a.record.value), figures(row.pair.b.record.value)
    if row.contrast is None:
        return [row.pair.name, value_a, value_b, "", "", "", "", "", f"{row.verdict}: {'; '.join(row.notes)}"]
    result = row.contrast.comparison
    d = result.difference
    seen = f" ({_would_be_seen(row)})" if row.verdict == SAME and row.detectable else ""
    count = str(row.contrast.pairs or row.contrast.how)
    return [
        row.pair.name,
        value_a,
        value_b,
        f"{'+' if d.value > 0 else ''}{figures(d.value)}",
        f"[{figures(d.low)}, {figures(d.high)}]",
        f"{result.p_value:.4f}",
        f"{row.adjusted:.4f}",
        count,
        row.verdict + seen + (f"; {'; '.join(row.notes)}" if row.notes else ""),
    ]


def table(
    a: Side, b: Side, rows: Sequence[ComparedMetric], metrics: Sequence[str] = ("*",), allowed: Collection[str] = ()
) -> str:
    """The rows as text, then what was not compared; ``metrics`` and ``allowed`` as for ``compare``."""
    heading = ("metric", "A", "B", "B - A", "95 % interval", "p", "p (Holm)", "pairs", "B is")
    rows_of_text = text.table(map(_cells, rows), align="l" + 7 * "r" + "l", header=heading)
    compared = sum(row.contrast is not None and row.contrast.tested for row in rows)
    lines = [f"A: {a.label}", f"B: {b.label}", "", rows_of_text, ""]
    for row in rows:
        if row.contrast is not None and row.contrast.matched is not None:
            for name, found in contrasts.per_prompt(row.contrast.matched).items():
                lines.append(
                    f"{row.pair.name}, {name} of a prompt's images: A {found['a']}, B {found['b']} of "
                    f"{found['prompts']} prompts; only A {found['only_a']}, only B {found['only_b']}; "
                    f"exact McNemar p = {found['p']:.4f}"
                )
    lines += _unmatched(a, b, metrics)
    if names := _allowable(rows, allowed):
        lines.append(f"settings that differ; allow them by name where they may: --allow {' '.join(names)}")
    if any(row.verdict == SAME and row.detectable for row in rows):
        lines.append(f"would have been seen: with about {100 * POWER:g} % power {POWER_NOTE}")
    if compared:
        lines.append(
            f"{compared} comparisons, p-values adjusted for all of them (Holm), level {ALPHA:g}; intervals are over "
            "other prompts of the kind"
        )
    return "\n".join(lines)


def report(a: Side, b: Side, rows: Sequence[ComparedMetric]) -> dict:
    """The rows as JSON-able values."""
    return {"a": a.label, "b": b.label, "alpha": ALPHA, "metrics": {row.pair.name: _entry(row) for row in rows}}


def _entry(row: ComparedMetric) -> dict:
    entry = {"verdict": row.verdict, "a": row.pair.a.record.value, "b": row.pair.b.record.value}
    if row.contrast is not None:
        result = row.contrast.comparison
        entry |= {
            "difference": result.difference.value,
            "low": result.difference.low,
            "high": result.difference.high,
            "p": result.p_value,
            "p_holm": row.adjusted,
            "test": result.test,
            "how": row.contrast.how,
            "pairs": row.contrast.pairs,
            "clusters": result.clusters,
            "detectable": row.detectable,
        }
        if row.contrast.matched is not None:
            entry["same_prompts"] = contrasts.same_prompts(row.contrast.matched)
            entry |= {"per_prompt": found} if (found := contrasts.per_prompt(row.contrast.matched)) else {}
    return entry | ({"notes": list(row.notes)} if row.notes else {})


# ------------------------------------------------------------------------------------------- kept for reports


def keep(root: str | Path, wanted: Iterable[tuple[Record, Record]]) -> list[Record]:
    """The differences A - B of pairs of records below ``root``, tested in pairs, as records beside them, for reports,
    which read records alone.  Those that cannot be paired have none; those that stand are not computed again."""
    kept = []
    for a, b in wanted:
        subject, metric = samples.difference(a, b)
        key = record.make_key(version=VERSION, of=[a.key, b.key])
        found = record.find(root, f"{subject}/{samples.DIFFERENCES}/{metric}", key)
        if found is None and (made := _paired(Path(root), a, b)) is not None:
            found = record.make(
                subject=subject, suite=samples.DIFFERENCES, metric=metric, key=key, unit=a.unit, n=made.pairs,
                n_expected=max(made.pairs, a.n_expected, b.n_expected), protocol="paired-difference",
                protocol_params={"level": contrasts.LEVEL}, judge=a.judge, suite_hash=a.suite_hash,
                fingerprint=files.digest(a.fingerprint, b.fingerprint),
                value=made.comparison.difference.value, low=made.comparison.difference.low,
                high=made.comparison.difference.high, interval=made.comparison.difference.method,
                extra={"p": made.comparison.p_value, "test": made.comparison.test, "of": [a.key, b.key]},
            )  # fmt: skip
            record.write(found, root)
        kept += [] if found is None else [found]
    return kept


def _paired(root: Path, a: Record, b: Record) -> Contrast | None:
    """A minus B from their samples, None where they cannot be paired."""
    stored_a, stored_b = (sides.Stored(one, samples.path(root, one)) for one in (a, b))
    made = _contrast(Pair("", stored_b, stored_a), ())
    return made if isinstance(made, Contrast) and made.how == contrasts.PAIRED else None


# ----------------------------------------------------------------------------------------------- the verb


def arguments(parser: argparse.ArgumentParser) -> None:
    named = "folder of records, work folder or .jsonl file; FOLDER:MODEL takes one model, for example runs/tiny:mar@4x"
    parser.add_argument("a", metavar="A", help=named)
    parser.add_argument("b", metavar="B", help="the same; may be another model of the same folder")
    parser.add_argument(
        "--metric", nargs="+", default=["*"], metavar="GLOB", help="metrics, or suite/metric, to compare (default all)"
    )
    parser.add_argument(
        "--allow",
        nargs="+",
        default=[],
        metavar="SETTING",
        help="settings of protocol or sampler that may differ, e.g. batch guidance",
    )


def run(args: argparse.Namespace) -> dict:
    """The exit status is 2 where nothing could be compared."""
    a, b = sides.read(args.a), sides.read(args.b)
    rows = compare(a, b, args.metric, args.allow)
    print(text.coloured(table(a, b, rows, args.metric, args.allow)))
    evidence = sides.evidence(a, b, () if args.metric == ["*"] else args.metric)
    if evidence is not None:
        print(f"their samples side by side: {evidence}")
    nothing = all(row.contrast is None for row in rows)
    return report(a, b, rows) | {"evidence": evidence} | ({"exit": 2} if nothing else {})
