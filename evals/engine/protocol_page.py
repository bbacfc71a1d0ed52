"""``python -m evals.engine.protocol_page``: evals/PROTOCOLS.md from the registry and from the measured tolerances."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from evals.engine.protocol import Protocol
from evals.engine.registry import protocols
from vgt.core import files
from vgt.core.text import read_json

HERE = Path(__file__).parents[1]
PAGE, TOLERANCES = HERE / "PROTOCOLS.md", HERE / "tolerances.json"
INTRODUCTION = """# Protocols

Every record names the protocol that its number was computed by. This page is written from the protocols of
all registered evaluators (`python -m evals.engine.protocol_page`); the differences to independent implementations are
measured by `python -m parity`. Never edit it by hand.
"""


def tolerances() -> dict[str, list[dict]]:
    """Protocol id -> what ``python -m parity`` measured for it."""
    found: dict[str, list[dict]] = {}
    for row in read_json(TOLERANCES) if TOLERANCES.exists() else []:
        found.setdefault(row["protocol"], []).append(row)
    return found


def _value(value) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_value, value))
    if isinstance(value, dict):
        return "; ".join(f"{key} {_value(each)}" for key, each in value.items())
    if value is None or isinstance(value, bool):
        return {None: "not set", True: "yes", False: "no"}[value]
    return str(value)


def _settings(settings) -> list[str]:
    return [f"  * {name.replace('_', ' ')}: {_value(value)}" for name, value in settings.items()]


def _section(protocol: Protocol, measured: list[dict]) -> list[str]:
    lines = [f"### `{protocol.id}`", "", f"{protocol.summary[0].upper()}{protocol.summary[1:]}.", ""]
    if protocol.settings:
        lines += ["* settings:", *_settings(protocol.settings)]
    if protocol.used_by:
        lines.append(f"* used by: {', '.join(protocol.used_by)}")
    if protocol.caution:
        lines.append(f"* caution: {protocol.caution}")
    for row in measured:
        lines.append(
            f"* checked against {row['against']} on {row['inputs']}: largest difference "
            f"{' '.join(filter(None, (format(row['difference'], '.2g'), row['unit'])))} (limit {row['limit']:.2g})"
        )
    return [*lines, ""]


def page() -> str:
    """The whole page."""
    measured, found = tolerances(), protocols()
    lines = [INTRODUCTION, "| protocol | `vgt eval` | what |", "|---|---|---|"]
    lines += [f"| `{p.id}` | {p.evaluator} | {p.summary.replace('|', '&#124;')} |" for p in found.values()]
    lines.append("")
    for evaluator, group in groupby(found.values(), key=lambda p: p.evaluator):
        lines += [f"## `vgt eval {evaluator}`", ""]
        for protocol in group:
            lines += _section(protocol, measured.get(protocol.id, []))
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    files.write_text(PAGE, page())
