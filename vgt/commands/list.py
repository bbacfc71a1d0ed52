"""``vgt list presets|models|protocols|suites``."""

from __future__ import annotations

import argparse
import importlib

from vgt.core import text

KINDS = ("presets", "models", "protocols", "suites")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=KINDS, help="what to list")


def run(args: argparse.Namespace) -> dict:
    rows = _ROWS[args.kind]()
    if rows:
        print(text.table(rows))
    return {args.kind: [name for name, _ in rows]}


def _presets() -> list[tuple[str, str]]:
    from vgt.core.config import preset_header, preset_names

    return [(name, preset_header(name)) for name in preset_names()]


def _models() -> list[tuple[str, str]]:
    from vgt.checkpoints.checkpoint import fingerprint, read_header
    from vgt.inference.load import bundled, zoo

    rows = []
    for name in bundled():
        size = (zoo() / name / "model.safetensors").stat().st_size / 2**20
        header = read_header(zoo() / name)
        rows.append((name, f"{header['system']}, {size:.1f} MiB, fingerprint {fingerprint(zoo() / name)[:12]}"))
    return rows


def _protocols() -> list[tuple[str, str]]:
    found = importlib.import_module("evals.engine.registry").protocols()
    return [(p.id, f"{p.evaluator}: {p.summary}") for p in found.values()]


def _suites() -> list[tuple[str, str]]:
    from vgt.core.suites import SUITES

    return list(SUITES.items())


_ROWS = {"presets": _presets, "models": _models, "protocols": _protocols, "suites": _suites}
