"""The front door: ``vgt <verb>``.  Looks the verb up by name and imports what it needs, nothing before.

stdout carries the result for people and ends with one JSON line for programs; stderr carries progress.
Bad input: one line on stderr, exit status 2.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys

from vgt.core import env

# verb -> (module, one line of help, example)
VERBS = {
    "reproduce": (
        "vgt.commands.reproduce",
        "run the main job: evaluate and time the bundled models, render the report",
        "vgt reproduce tiny",
    ),
    "train": ("vgt.commands.train", "train a preset", "vgt train query_ar_internvl --set train.steps=1000"),
    "generate": (
        "vgt.commands.generate",
        "generate an image from a prompt",
        'vgt generate "a photo of a red star" --accel 4 -o star.png',
    ),
    "reconstruct": (
        "vgt.commands.reconstruct",
        "send an image through an autoencoder",
        "vgt reconstruct my_photo.jpg -o out.png",
    ),
    "convert": (
        "vgt.commands.convert",
        "bring a released checkpoint into this project's format",
        "vgt convert iter_5000.pth converted --vlm InternVL3-2B --ae vgt_ae_internvl3.pth",
    ),
    "prompts": (
        "vgt.commands.prompts",
        "write a prompt suite as JSON lines",
        "vgt prompts scenes-geneval -o prompts.jsonl",
    ),
    "eval": ("evals.engine.registry", "score a subject", "vgt eval geneval --subject vgt:query_ar_internvl --accel 4"),
    "compare": (
        "evals.compare.compare",
        "compare two models or two runs, metric by metric, from their records",
        "vgt compare runs/tiny:query_ar_internvl@4x runs/tiny:query_ar_internvl@16x --metric overall dpg",
    ),
    "gate": (
        "evals.compare.gate",
        "hold a candidate's records against a baseline's; exit status 0 pass, 1 fail, 2 incomparable",
        "vgt gate --baseline runs/main --candidate runs/branch --junit gate.xml",
    ),
    "bench": (
        "bench.cli",
        "time generation and autoencoders",
        "vgt bench query_ar_internvl mar_internvl --accel 1,4,16",
    ),
    "report": ("reports.cli", "render the report from records", "vgt report --records runs/tiny/records"),
    "list": ("vgt.commands.list", "list presets, models, protocols or suites", "vgt list models"),
    "doctor": ("vgt.commands.doctor", "say what is installed, present and missing", "vgt doctor"),
}


def _parser(verb: str):
    module_name, text, example = VERBS[verb]
    module = importlib.import_module(module_name)
    parser = argparse.ArgumentParser(
        prog=f"vgt {verb}",
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.arguments(parser)
    return module, parser


def dispatch(argv: list[str]) -> dict | None:
    """Run one verb in this process and return what its closing JSON line holds (None: it prints none); "exit" in it is
    the exit status, 0 where it is absent.

    Raises ValueError for bad input, SystemExit for usage errors."""
    verb, *rest = argv
    module, parser = _parser(verb)
    return module.run(parser.parse_args(rest))


def _usage() -> str:
    width = max(map(len, VERBS))
    lines = "\n".join(f"  {verb:<{width}}  {text}" for verb, (_, text, _) in VERBS.items())
    return (
        "usage: vgt <verb> [options]\n\nVisual Generation Tuning: train, evaluate, time and report.\n\n"
        f"verbs:\n{lines}\n\n`vgt <verb> --help` shows options and an example; start with `vgt reproduce tiny`."
    )


def main(argv: list[str] | None = None) -> int:
    """The ``vgt`` command; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    os.environ.setdefault("TQDM_MININTERVAL", "1")
    env.keep_freed_memory()
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if argv[0] == "--version":
        print(f"vgt {env.versions().get('vgt', 'source tree')}")
        return 0
    if argv[0] not in VERBS:
        print(f"vgt: verb {argv[0]!r} is unknown; choose one of {', '.join(VERBS)}", file=sys.stderr)
        return 2
    try:
        result = dispatch(argv)
    except ValueError as error:
        print(f"vgt {argv[0]}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"vgt {argv[0]}: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if result is None:
        return 0
    print(json.dumps(result))
    return result.get("exit", 0)


if __name__ == "__main__":
    sys.exit(main())
