"""``vgt gate``: is a candidate no worse than its baseline?  (docs/evaluators.md 7.5)

Gains are signed so that larger is better.  With the one-sided (1 - alpha) bounds L and U of candidate - baseline and a
margin delta: ``fail`` if U < 0 and the estimate < -delta, ``pass`` if L > -delta, otherwise ``inconclusive``; records
of another protocol, judge, prompt set, setting or n, or that miss samples, are ``incomparable``.

Many metrics: one failure fails the gate, so a failure must also be significant after Holm's correction over all gated
metrics; all must pass for the gate to pass, which needs no correction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evals.compare import contrasts, directions, pairs
from evals.compare.contrasts import Contrast
from evals.compare.pairs import Pair, Side
from evals.compare.policy import Policy, Rule
from vgt.core.record import Record
from vgt.core.statistics import holm, holm_level, minimum_detectable

PASS, FAIL, INCONCLUSIVE, INCOMPARABLE = "pass", "fail", "inconclusive", "incomparable"
# The verdict on everything is the first of these that any metric has: a broken comparison must be repaired first.
SEVERITY = (INCOMPARABLE, FAIL, INCONCLUSIVE, PASS)
DECIDING = ("torch", "numpy", "transformers")  # packages whose versions move borderline answers


@dataclass(frozen=True)
class Check:
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
    """All checks; ``verdict`` is the gravest; ``exit`` is 0, 1 or 2; ``warnings`` belong to no single metric."""

    checks: tuple[Check, ...]
    verdict: str
    exit: int
    warnings: tuple[str, ...] = ()


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
        return ["the candidate has no such record"]
    a, b = pair.a.record, pair.b.record
    reasons = pairs.differences(a, b, policy.allow_different)
    reasons += [*pairs.gaps("baseline", a, policy.allow_partial), *pairs.gaps("candidate", b, policy.allow_partial)]
    if (a.n, a.n_expected) != (b.n, b.n_expected):
        reasons.append(f"n is {a.n} of {a.n_expected} and {b.n} of {b.n_expected}")
    direction = rule.direction or directions.of(a)
    if direction is None:
        reasons.append(f"it is not known which way {a.metric} is better; give a direction in the policy")
    if reasons:
        return reasons
    sign = 1 if direction == directions.HIGHER else -1
    try:
        made = contrasts.contrast(pair.a, pair.b, sign=sign, level=1 - 2 * policy.alpha, alternative="less")
    except ValueError as error:
        return [str(error)]
    if made.matched is not None and made.matched.lonely:
        return [f"{made.matched.lonely} samples are on one side only: not the same prompts and images"]
    return made


def _check(pair: Pair, rule: Rule, policy: Policy, made: Contrast, adjusted: float, level: float) -> Check:
    baseline, candidate, result = pair.a.record.value, pair.b.record.value, made.comparison
    margin, d = rule.allowance(baseline), result.difference
    if not made.tested:
        verdict, reason = PASS, "the same measurement"
    else:
        verdict, reason = decide(d.value, d.low, d.high, margin, adjusted, policy.alpha)
    least = minimum_detectable(result.error, result.freedom, level, policy.power, sides=1)
    warnings = list(made.notes)
    if margin < least:
        warnings.append("the margin is below the smallest loss that this n finds reliably")
    return Check(
        pair.name,
        verdict,
        (reason,),
        baseline,
        candidate,
        margin,
        d.value,
        d.low,
        d.high,
        result.p_value,
        adjusted,
        least,
        made.how,
        made.pairs,
        tuple(warnings),
    )


def gate(baseline: Side, candidate: Side, policy: Policy, strict: bool = False) -> Result:
    """Every record of the baseline that the policy names, against the candidate's.

    ``strict``: an inconclusive gate exits with 1, as with the policy's inconclusive = "fail".
    Raises ValueError where the policy names none of the baseline's records."""
    gated = [
        (pair, found[1])
        for pair in pairs.match(baseline, candidate)
        if pair.a is not None and (found := policy.rule(pair.a.record)) is not None
    ]
    if not gated:
        names = sorted({s.record.metric for s in baseline.stored.values()})
        raise ValueError(
            f"nothing to gate: {baseline.label} has {', '.join(names)}, the policy names {', '.join(policy.metrics)}"
        )
    prepared = [_prepare(pair, rule, policy) for pair, rule in gated]
    checks = conclude(gated, prepared, policy)
    return settle(checks, strict or policy.inconclusive == "fail", _versions([pair for pair, _ in gated]))


def conclude(
    gated: Sequence[tuple[Pair, Rule]], prepared: Sequence[Contrast | list[str]], policy: Policy
) -> list[Check]:
    """The checks of all gated metrics together, from the contrast of each or the reasons why it has none."""
    p_values = [made.comparison.p_value for made in prepared if isinstance(made, Contrast) and made.tested]
    adjusted, level = iter(holm(p_values)), holm_level(p_values, policy.alpha)
    checks = []
    for (pair, rule), made in zip(gated, prepared, strict=True):
        if isinstance(made, Contrast):
            checks.append(_check(pair, rule, policy, made, next(adjusted) if made.tested else 1.0, level))
        else:
            values = (None if side is None else side.record.value for side in (pair.a, pair.b))
            checks.append(Check(pair.name, INCOMPARABLE, tuple(made), *values))
    return checks


def settle(checks: Sequence[Check], strict: bool, warnings: Sequence[str] = ()) -> Result:
    """The verdict on all checks, and the exit status: 0 pass, 1 fail, 2 incomparable; inconclusive 0, strict 1."""
    verdict = min((check.verdict for check in checks), key=SEVERITY.index)
    status = {INCOMPARABLE: 2, FAIL: 1, INCONCLUSIVE: int(strict), PASS: 0}[verdict]
    return Result(tuple(checks), verdict, status, tuple(warnings))


def _versions(gated: Sequence[Pair]) -> list[str]:
    """Differences of the software that the two sides were measured with."""

    def changed(a: Record, b: Record) -> list[str]:
        return [
            f"{p} {a.versions.get(p)} and {b.versions.get(p)}"
            for p in DECIDING
            if a.versions.get(p) != b.versions.get(p)
        ]

    found = {text: None for pair in gated if pair.b is not None for text in changed(pair.a.record, pair.b.record)}
    return [f"measured with {text}: borderline answers may have moved" for text in found]
