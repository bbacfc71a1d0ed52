"""``vgt list presets|models|protocols|suites``."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from vgt.commands import options
from vgt.core import text

KINDS = ("presets", "models", "protocols", "suites")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", choices=KINDS, help="what to list (default: these kinds)")


def run(args: argparse.Namespace) -> dict:
    if args.kind is None:
        print("\n".join(f"vgt list {kind}" for kind in KINDS))
        return {"kinds": list(KINDS)}
    rows = _ROWS[args.kind]()
    if rows:
        print(text.table(rows))
    return {args.kind: [name for name, _ in rows]}


def _presets() -> list[tuple[str, str]]:
    from vgt.core.config import preset_header, preset_names

    return [(name, preset_header(name)) for name in preset_names()]


def _models() -> list[tuple[str, str]]:
    from vgt.checkpoints.checkpoint import fingerprint, read_header
    from vgt.checkpoints.shards import weight_files
    from vgt.inference.load import bundled, trained, trained_steps, zoo

    def about(folder: Path) -> str:
        size = sum(path.stat().st_size for path in weight_files(folder)) / 2**20
        return f"{read_header(folder)['system']}, {size:.1f} MiB, fingerprint {fingerprint(folder)[:12]}"

    runs = trained(options.RUNS)
    rows = [
        (name, about(zoo() / name) + (f"; the name means {options.RUNS / name}" if name in runs else ""))
        for name in bundled()
    ]
    for name, folder in runs.items():
        try:
            told = about(folder) + trained_steps(folder)
        except ValueError as error:
            told = f"cannot be read: {error}"
        rows.append((str(options.RUNS / name), told))
    return rows


def _protocols() -> list[tuple[str, str]]:
    found = importlib.import_module("evals.engine.registry").protocols()
    return [(p.id, f"{p.evaluator}: {p.summary}") for p in found.values()]


def _suites() -> list[tuple[str, str]]:
    from vgt.core.suites import SUITES

    return list(SUITES.items())


_ROWS = {"presets": _presets, "models": _models, "protocols": _protocols, "suites": _suites}
