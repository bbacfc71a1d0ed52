"""What a gate says: a table for people, JSON and JUnit XML for CI."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict
from xml.etree import ElementTree

from evals.compare.compare import columns, figures
from evals.compare.gate import FAIL, INCOMPARABLE, INCONCLUSIVE, SEVERITY, Check, Result
from evals.compare.policy import Policy

SHOWN = 4  # metrics named in one line of warnings
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def counts(result: Result) -> dict[str, int]:
    """Verdict -> number of metrics, gravest first."""
    found = Counter(check.verdict for check in result.checks)
    return {verdict: found[verdict] for verdict in SEVERITY if found[verdict]}


def _line(check: Check) -> list[str]:
    gain = "" if check.gain is None else f"{'+' if check.gain > 0 else ''}{figures(check.gain)}"
    bounds = "" if check.low is None else f"[{figures(check.low)}, {figures(check.high)}]"
    blank = check.gain is None
    return [
        check.name,
        figures(check.baseline),
        figures(check.candidate),
        gain,
        bounds,
        "" if blank else figures(check.margin),
        "" if blank else figures(check.detectable),
        "" if blank else f"{check.adjusted:.4f}",
        "" if blank else str(check.pairs or check.how),
        f"{check.verdict}: {'; '.join(check.reasons)}",
    ]


def table(result: Result, policy: Policy) -> str:
    """Table, warnings, and the verdict in the last line."""
    heading = [
        "metric",
        "baseline",
        "candidate",
        "gain",
        "bounds",
        "margin",
        "detectable",
        "p (Holm)",
        "pairs",
        "verdict",
    ]
    lines = [columns([heading, *map(_line, result.checks)]), ""]
    lines += _warnings(result)
    lines += [
        f"gain: candidate - baseline, larger is better, with one-sided {100 * (1 - policy.alpha):g} % bounds",
        f"detectable: the smallest loss found with {100 * policy.power:g} % power",
        "p: of a loss, adjusted for all gated metrics (Holm)",
    ]
    lines.append(f"gate: {result.verdict} ({', '.join(f'{n} {verdict}' for verdict, n in counts(result).items())})")
    return "\n".join(lines)


def _warnings(result: Result) -> list[str]:
    """One line per warning, with the metrics that it is about."""
    about: dict[str, list[str]] = {}
    for check in result.checks:
        for text in check.warnings:
            about.setdefault(text, []).append(check.name)
    lines = []
    for text, names in about.items():
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        lines.append(f"warning: {', '.join(names[:SHOWN])}{more}: {text}")
    return lines + [f"warning: {text}" for text in result.warnings]


def as_json(result: Result, policy: Policy, baseline: str, candidate: str) -> dict:
    return {
        "verdict": result.verdict,
        "exit": result.exit,
        "baseline": baseline,
        "candidate": candidate,
        "policy": policy.model_dump(exclude_none=True),
        "warnings": list(result.warnings),
        "metrics": [asdict(check) for check in result.checks],
    }


def junit(result: Result) -> str:
    """JUnit XML: a test case per metric; incomparable is an error, inconclusive is skipped, or a failure where it makes
    the gate fail."""
    strict = result.verdict == INCONCLUSIVE and result.exit == 1
    tags = {FAIL: "failure", INCOMPARABLE: "error", INCONCLUSIVE: "failure" if strict else "skipped"}
    found = Counter(tags.get(check.verdict, "") for check in result.checks)
    suite = ElementTree.Element(
        "testsuite",
        name="vgt gate",
        tests=str(len(result.checks)),
        failures=str(found["failure"]),
        errors=str(found["error"]),
        skipped=str(found["skipped"]),
    )
    for check in result.checks:
        place, _, metric = check.name.rpartition("/")
        case = ElementTree.SubElement(suite, "testcase", classname=_xml(place), name=_xml(metric))
        if check.verdict in tags:
            message = _xml(f"{check.verdict}: {'; '.join(check.reasons)}")
            ElementTree.SubElement(case, tags[check.verdict], message=message)
        if check.warnings:
            ElementTree.SubElement(case, "system-out").text = _xml("\n".join(check.warnings))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=False) + "\n"


def _xml(text: str) -> str:
    """``text`` without the characters that XML forbids."""
    return _NOT_XML.sub("?", text)
