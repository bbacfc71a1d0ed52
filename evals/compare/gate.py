"""``vgt gate``: is a candidate no worse than its baseline?  (docs/evaluators.md 7.5)

Gains are signed so that larger is better.  With the one-sided (1 - alpha) bounds L and U of candidate - baseline and a
margin delta: ``fail`` if U < 0 and the estimate < -delta, ``pass`` if L > -delta, otherwise ``inconclusive``; records
of another protocol, judge, prompt set, setting or n, or that miss samples, are ``incomparable``.

Many metrics: one failure fails the gate, so a failure must also be significant after Holm's correction over all gated
metrics; all must pass for the gate to pass, which needs no correction.

A pattern of the policy that fits no record of the baseline is ``incomparable`` too, unless its rule is optional: a gate
that compares less than it says must not pass.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal
from xml.etree import ElementTree

from pydantic import Field, StrictBool, StrictFloat, StrictStr, model_validator

from evals.compare import contrasts, pairs
from evals.compare.compare import POWER_NOTE, figures, several
from evals.compare.contrasts import Contrast
from vgt.core import files, sides, text
from vgt.core.config import Config, validated
from vgt.core.record import Record
from vgt.core.sides import Pair, Side
from vgt.core.statistics import holm, holm_level, minimum_detectable

PASS, FAIL, INCONCLUSIVE, INCOMPARABLE = "pass", "fail", "inconclusive", "incomparable"
# The verdict on everything is the first of these that any metric has: a broken comparison must be repaired first.
SEVERITY = (INCOMPARABLE, FAIL, INCONCLUSIVE, PASS)
DECIDING = ("torch", "numpy", "transformers")  # packages whose versions move borderline answers
ABSENT = "the candidate has no such record"


# ----------------------------------------------------------------------------------------------------------- the policy

Number = StrictFloat  # no text, no yes or no; whole numbers too
Share = Annotated[Number, Field(gt=0, lt=1)]
Margin = Annotated[Number, Field(ge=0, allow_inf_nan=False)]


class Rule(Config):
    """How much worse a metric may become: ``margin`` in its own unit, or ``relative`` to the baseline's value."""

    margin: Margin | None = None
    relative: Margin | None = None
    direction: Literal["higher", "lower"] | None = None  # what is better; by default as ``contrasts.better`` says
    optional: StrictBool = False  # gated where it was measured: no record of the baseline need fit

    @model_validator(mode="after")
    def _one_margin(self) -> Rule:
        if (self.margin is None) == (self.relative is None):
            raise ValueError("give either margin or relative")
        return self

    def allowance(self, baseline: float) -> float:
        return self.margin if self.margin is not None else self.relative * abs(baseline)


class Policy(Config):
    """``metrics`` maps patterns to rules; the first that fits a record decides, and records that none fits are not
    gated.  A pattern is of the metric, of ``suite/metric`` or of ``model/suite/metric``.

    Raises ValueError for a pattern that comes after one which fits all that it fits."""

    alpha: Annotated[Number, Field(gt=0, lt=0.5)] = 0.05
    power: Share = 0.8
    inconclusive: Literal["warn", "fail"] = "warn"
    allow_partial: StrictBool = False  # a part of the benchmark may be gated, where both sides cover the same n
    allow_different: tuple[StrictStr, ...] = ()  # names of what may differ, see ``pairs.differences``
    metrics: Annotated[dict[str, Rule], Field(min_length=1)]

    @model_validator(mode="after")
    def _all_reachable(self) -> Policy:
        before: list[str] = []
        for pattern in self.metrics:
            for earlier in before:
                if _covers(earlier, pattern):
                    raise ValueError(f"metrics: {pattern!r} decides nothing after {earlier!r}; put it before")
            before.append(pattern)
        return self

    def rule(self, record: Record) -> tuple[str, Rule] | None:
        """The pattern that decides for a record, and its rule."""
        return next(((pattern, rule) for pattern, rule in self.metrics.items() if _fits(record, pattern)), None)


def _fits(record: Record, pattern: str) -> bool:
    name = (record.metric, f"{record.suite}/{record.metric}", record.name)[min(pattern.count("/"), 2)]
    return fnmatchcase(name, pattern)


def _covers(earlier: str, later: str) -> bool:
    """Whether a pattern fits every record that a later one fits; told for patterns of ``*`` and letters alone."""
    if set(earlier) & set("?[]") or (depth := earlier.count("/")) > min(later.count("/"), 2):
        return False
    return fnmatchcase(later if depth >= 2 else "/".join(later.split("/")[-depth - 1 :]), earlier)


def bundled_policies() -> list[str]:
    """Names of the policies that come with the package."""
    return sorted(
        p.name[:-5] for p in (resources.files("evals.compare") / "policies").iterdir() if p.name.endswith(".toml")
    )


def read_policy(name: str) -> Policy:
    """A policy by name or by path.  Raises ValueError naming the unknown key or the wrong value."""
    bundled = resources.files("evals.compare") / "policies" / f"{name}.toml"
    source = bundled if name in bundled_policies() and not Path(name).is_file() else Path(name)
    try:
        content = source.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ValueError(f"policy {name!r} is no file and none of {', '.join(bundled_policies())}") from error
    except UnicodeDecodeError as error:
        remedy = "save it as UTF-8"
        raise ValueError(f"policy {name!r} is not UTF-8 ({error.reason} at byte {error.start}); {remedy}") from error
    except OSError as error:
        raise ValueError(f"policy {name!r} cannot be read: {error}") from error
    return validated(Policy, text.parse_toml(content, f"policy {name}"), f"policy {name}")


# --------------------------------------------------------------------------------------------------------- the decision


@dataclass(frozen=True)
class GatedMetric:
    """One gated metric.  ``gain`` with its one-sided bounds ``low`` and ``high`` is candidate - baseline, larger is
    better; ``margin``: the loss that is allowed; ``detectable``: the smallest loss that would have been found with the
    policy's power; ``p`` and ``adjusted``: of a loss, alone and after Holm's correction."""

    name: str
    verdict: str
    reasons: tuple[str, ...]
    baseline: float | None = None
    candidate: float | None = None
    margin: float | None = None
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    adjusted: float | None = None
    detectable: float | None = None
    how: str = ""
    pairs: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """All gated metrics; ``verdict`` is the gravest; ``exit`` is 0, 1 or 2; ``warnings`` belong to no single metric,
    ``notes`` say what was not gated."""

    metrics: tuple[GatedMetric, ...]
    verdict: str
    exit: int
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    evidence: str | None = None


def decide(gain: float, low: float, high: float, margin: float, adjusted: float, alpha: float) -> tuple[str, str]:
    """(verdict, reason) of one metric from its gain, one-sided bounds and Holm-adjusted p-value of a loss."""
    if high < 0 and gain < -margin:
        if adjusted <= alpha:
            return FAIL, f"worse by {-gain:.4g}, at least {-high:.4g}; {margin:.4g} is allowed"
        return INCONCLUSIVE, f"a loss by itself, but not among all gated metrics (Holm p = {adjusted:.3g})"
    if low > -margin:
        return PASS, f"any loss is below {margin:.4g}"
    return INCONCLUSIVE, f"the loss may be as large as {-low:.4g}; {margin:.4g} is allowed"


def _prepare(pair: Pair, rule: Rule, policy: Policy) -> Contrast | list[str]:
    """Candidate - baseline, signed so that larger is better, or why the two are incomparable."""
    if pair.b is None:
        return [ABSENT]
    a, b = pair.a.record, pair.b.record
    reasons = pairs.differences(a, b, policy.allow_different)
    reasons += [*pairs.gaps("baseline", a, policy.allow_partial), *pairs.gaps("candidate", b, policy.allow_partial)]
    if (a.n, a.n_expected) != (b.n, b.n_expected):
        reasons.append(f"n is {a.n} of {a.n_expected} and {b.n} of {b.n_expected}")
    direction = rule.direction or contrasts.better(a)
    if direction is None:
        reasons.append(f"it is not known which way {a.metric} is better; give a direction in the policy")
    if reasons:
        return reasons
    sign = 1 if direction == contrasts.HIGHER else -1
    try:
        made = contrasts.contrast(pair.a, pair.b, sign=sign, level=1 - 2 * policy.alpha, alternative="less")
    except ValueError as error:
        return [str(error)]
    if made.matched is not None and made.matched.unmatched:
        return [f"{made.matched.unmatched} samples are on one side only: not the same prompts and images"]
    return made


def _judged(pair: Pair, rule: Rule, policy: Policy, made: Contrast, adjusted: float, level: float) -> GatedMetric:
    baseline, result = pair.a.record.value, made.comparison
    margin, d = rule.allowance(baseline), result.difference
    verdict, reason = PASS, "the same measurement"
    if made.tested:
        verdict, reason = decide(d.value, d.low, d.high, margin, adjusted, policy.alpha)
    least = minimum_detectable(result.error, result.freedom, level, policy.power, sides=1)
    small = ("the margin is below the smallest loss that this n finds reliably",) if margin < least else ()
    allowed = pairs.permitted(pair.a.record, pair.b.record, policy.allow_different)
    return GatedMetric(
        name=pair.name, verdict=verdict, reasons=(reason,), baseline=baseline, candidate=pair.b.record.value,
        margin=margin, gain=d.value, low=d.low, high=d.high, p=result.p_value, adjusted=adjusted, detectable=least,
        how=made.how, pairs=made.pairs, warnings=(*made.notes, *small, *allowed),
    )  # fmt: skip


def conclude(
    gated: Sequence[tuple[Pair, Rule]], prepared: Sequence[Contrast | list[str]], policy: Policy
) -> list[GatedMetric]:
    """All gated metrics together, from the contrast of each or the reasons why it has none."""
    p_values = [made.comparison.p_value for made in prepared if isinstance(made, Contrast) and made.tested]
    adjusted, level = iter(holm(p_values)), holm_level(p_values, policy.alpha)
    metrics = []
    for (pair, rule), made in zip(gated, prepared, strict=True):
        if isinstance(made, Contrast):
            metrics.append(_judged(pair, rule, policy, made, next(adjusted) if made.tested else 1.0, level))
        else:
            values = (None if side is None else side.record.value for side in (pair.a, pair.b))
            metrics.append(GatedMetric(pair.name, INCOMPARABLE, tuple(made), *values))
    return metrics


def gate(baseline: Side, candidate: Side, policy: Policy, strict: bool = False) -> Result:
    """Every record of the baseline that the policy names, against the candidate's.

    Exit status: 0 pass, 1 fail, 2 incomparable; inconclusive is 0, or 1 where ``strict`` or the policy says so.
    Raises ValueError where the policy names none of the baseline's records."""
    matched = sides.match(baseline, candidate)
    there = [pair.a.record for pair in matched if pair.a is not None]
    gated = [
        (pair, found[1]) for pair in matched if pair.a is not None and (found := policy.rule(pair.a.record)) is not None
    ]
    if not gated:
        names = sorted({one.metric for one in there})
        raise ValueError(
            f"nothing to gate: {baseline.label} has {', '.join(names)}, the policy names {', '.join(policy.metrics)}"
        )
    idle = [p for p in policy.metrics if not any(_fits(one, p) for one in there)]
    metrics = conclude(gated, [_prepare(pair, rule, policy) for pair, rule in gated], policy)
    metrics += [
        GatedMetric(pattern, INCOMPARABLE, (_no_record(pattern, there),))
        for pattern in idle
        if not policy.metrics[pattern].optional
    ]
    verdict = min((metric.verdict for metric in metrics), key=SEVERITY.index)
    unsure = int(strict or policy.inconclusive == "fail")
    status = {INCOMPARABLE: 2, FAIL: 1, INCONCLUSIVE: unsure, PASS: 0}[verdict]
    warnings = _versions([pair for pair, _ in gated])
    notes = _ungated(matched, idle, policy) + _remedies([pair for pair, _ in gated], policy)
    evidence = sides.evidence(baseline, candidate)
    if all(metric.how == contrasts.IDENTICAL for metric in metrics):
        warnings.append("both sides hold the same measurements; nothing was measured again for the candidate")
    return Result(tuple(metrics), verdict, status, tuple(warnings), tuple(notes), evidence)


def _no_record(pattern: str, there: Sequence[Record]) -> str:
    """Why a pattern makes the gate incomparable, with what it may have meant."""
    depth = min(pattern.count("/"), 2)
    names = sorted({(one.metric, f"{one.suite}/{one.metric}", one.name)[depth] for one in there})
    near = difflib.get_close_matches(pattern, names, 1)
    meant = f"; did you mean {near[0]}?" if near else ", remove it or mark it optional"
    return f"no record of the baseline fits this pattern{meant}"


def _ungated(matched: Sequence[Pair], idle: Sequence[str], policy: Policy) -> list[str]:
    """What the two sides hold that this gate says nothing about."""
    optional = [pattern for pattern in idle if policy.metrics[pattern].optional]
    new = [p.name for p in matched if p.a is None and policy.rule(p.b.record) is not None]
    free = [p.name for p in matched if p.a is not None and policy.rule(p.a.record) is None]
    notes = [f"not in the baseline: {', '.join(optional)} (optional in the policy)"] if optional else []
    notes += [f"only in the candidate: {several(new)}"] if new else []
    return notes + ([f"not gated, for no pattern fits: {several(free)}"] if free else [])


def _remedies(gated: Sequence[Pair], policy: Policy) -> list[str]:
    """What a policy could allow that makes records incomparable here."""
    both = [(pair.a.record, pair.b.record) for pair in gated if pair.b is not None]
    partial = any(one.partial and not pairs.gaps("", one, True) for pair in both for one in pair)
    names = sorted({name for pair in both for name in pairs.varying(*pair)} - set(policy.allow_different))
    found = []
    if partial and not policy.allow_partial:
        found = ["parts of a benchmark are gated with --policy subset, or allow_partial = true in a policy of your own"]
    if names:
        found.append(f"settings that may differ are named in a policy: allow_different = {json.dumps(names)}")
    return found


def _versions(gated: Sequence[Pair]) -> list[str]:
    """Differences of the software that the two sides were measured with."""
    found: dict[str, None] = {}
    for a, b in ((pair.a.record.versions, pair.b.record.versions) for pair in gated if pair.b is not None):
        found |= {f"{p} {a.get(p)} and {b.get(p)}": None for p in DECIDING if a.get(p) != b.get(p)}
    return [f"measured with {change}: borderline answers may have moved" for change in found]


# ----------------------------------------------------------------------------------------------------------- the report

_HEADING = (
    "metric", "baseline", "candidate", "gain", "bounds", "margin", "detectable", "p (Holm)", "pairs", "verdict"
)  # fmt: skip
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def counts(result: Result) -> dict[str, int]:
    """Verdict -> number of metrics, gravest first."""
    found = Counter(metric.verdict for metric in result.metrics)
    return {verdict: found[verdict] for verdict in SEVERITY if found[verdict]}


def _cells(metric: GatedMetric) -> list[str]:
    verdict = f"{metric.verdict}: {'; '.join(metric.reasons)}"
    values = [metric.name, figures(metric.baseline), figures(metric.candidate)]
    if metric.gain is None:
        return [*values, *[""] * 6, verdict]
    return [
        *values,
        f"{'+' if metric.gain > 0 else ''}{figures(metric.gain)}",
        f"[{figures(metric.low)}, {figures(metric.high)}]",
        figures(metric.margin),
        figures(metric.detectable),
        f"{metric.adjusted:.4f}",
        str(metric.pairs or metric.how),
        verdict,
    ]


def table(result: Result, policy: Policy) -> str:
    """Table, warnings, and the verdict in the last line; records that the candidate lacks are one line."""
    found = ", ".join(f"{n} {verdict}" for verdict, n in counts(result).items())
    absent = [metric.name for metric in result.metrics if ABSENT in metric.reasons]
    shown = [_cells(metric) for metric in result.metrics if ABSENT not in metric.reasons]
    return "\n".join(
        [
            *([text.table(shown, align="l" + 8 * "r" + "l", header=_HEADING), ""] if shown else []),
            *([f"{INCOMPARABLE}: {ABSENT}, {len(absent)} times: {several(absent)}"] if absent else []),
            *_warnings(result),
            *(f"note: {note}" for note in result.notes),
            *([f"samples side by side: {result.evidence}"] if result.evidence is not None else []),
            f"gain: candidate - baseline, larger is better, with one-sided {100 * (1 - policy.alpha):g} % bounds",
            f"detectable: the smallest loss found with about {100 * policy.power:g} % power {POWER_NOTE}",
            "p: of a loss, adjusted for all gated metrics (Holm)",
            f"gate: {result.verdict} ({found})",
        ]
    )


def _warnings(result: Result) -> list[str]:
    """One line per warning, with the metrics that it is about."""
    about: dict[str, list[str]] = {}
    for metric in result.metrics:
        for warning in metric.warnings:
            about.setdefault(warning, []).append(metric.name)
    lines = []
    for warning, names in about.items():
        lines.append(f"warning: {several(names)}: {warning}")
    return lines + [f"warning: {warning}" for warning in result.warnings]


def as_json(result: Result, policy: Policy, baseline: str, candidate: str) -> dict:
    return {
        "verdict": result.verdict,
        "exit": result.exit,
        "baseline": baseline,
        "candidate": candidate,
        "policy": policy.model_dump(exclude_none=True),
        "warnings": list(result.warnings),
        "notes": list(result.notes),
        "evidence": result.evidence,
        "metrics": [asdict(metric) for metric in result.metrics],
    }


def junit(result: Result) -> str:
    """JUnit XML: a test case per metric; incomparable is an error, inconclusive is skipped, or a failure where it makes
    the gate fail."""
    strict = result.verdict == INCONCLUSIVE and result.exit == 1
    tags = {FAIL: "failure", INCOMPARABLE: "error", INCONCLUSIVE: "failure" if strict else "skipped"}
    found = Counter(tags.get(metric.verdict, "") for metric in result.metrics)
    suite = ElementTree.Element(
        "testsuite",
        name="vgt gate",
        tests=str(len(result.metrics)),
        failures=str(found["failure"]),
        errors=str(found["error"]),
        skipped=str(found["skipped"]),
    )
    for metric in result.metrics:
        place, _, name = metric.name.rpartition("/")
        case = ElementTree.SubElement(suite, "testcase", classname=_xml(place), name=_xml(name))
        if metric.verdict in tags:
            message = _xml(f"{metric.verdict}: {'; '.join(metric.reasons)}")
            ElementTree.SubElement(case, tags[metric.verdict], message=message)
        if metric.warnings:
            ElementTree.SubElement(case, "system-out").text = _xml("\n".join(metric.warnings))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=False) + "\n"


def _xml(message: str) -> str:
    """``message`` without the characters that XML forbids."""
    return _NOT_XML.sub("?", message)


# ------------------------------------------------------------------------------------------------------------- the verb


def arguments(parser: argparse.ArgumentParser) -> None:
    named = "folder of records, work folder or .jsonl file; FOLDER:MODEL takes one model"
    parser.add_argument("--baseline", required=True, metavar="RECORDS", help=named)
    parser.add_argument("--candidate", required=True, metavar="RECORDS", help="the same")
    parser.add_argument(
        "--policy", default="default", metavar="FILE", help="a .toml file, or default or subset (default: default)"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 where the result is inconclusive")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML")


def run(args: argparse.Namespace) -> dict:
    """Raises ValueError, after the verdict is printed, where a file cannot be written."""
    rules = read_policy(args.policy)
    if args.json and args.junit and args.json.absolute() == args.junit.absolute() and not args.json.is_char_device():
        raise ValueError(f"--json and --junit both name {args.json}; give each a file of its own")
    baseline, candidate = sides.read(args.baseline), sides.read(args.candidate)
    result = gate(baseline, candidate, rules, args.strict)
    outputs: dict[str, tuple[Path | None, Callable[[Path], object]]] = {
        "--json": (
            args.json,
            lambda path: files.write_json(path, as_json(result, rules, args.baseline, args.candidate)),
        ),
        "--junit": (args.junit, lambda path: files.write_text(path, junit(result))),
    }
    failed = []
    for option, (path, write) in outputs.items():
        try:
            if path is not None:
                write(path)
        except OSError as error:
            failed.append(f"{option} {path} cannot be written: {error.strerror or error}; give the path of a file")
    print(text.coloured(table(result, rules)))
    if failed:
        raise ValueError("; ".join(failed))
    return {"verdict": result.verdict, "exit": result.exit, **counts(result)}
