"""Options that several evaluators share, and the subjects that they name."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from evals.engine.store import Shard, parse_shard
from vgt.commands import options
from vgt.core import suites


def add_common(parser: argparse.ArgumentParser) -> None:
    """--out, --seed, --device: the same everywhere."""
    options.add_out(parser, options.WORK, "work folder: evidence, and records below records/")
    options.add_seed(parser)
    options.add_device(parser)


def add_subject(parser: argparse.ArgumentParser, choices: str) -> None:
    parser.add_argument("--subject", help=choices)


def subject(args: argparse.Namespace, example: str) -> str:
    """What --subject names.  Raises ValueError, with an example, where it is missing."""
    if not args.subject:
        raise ValueError(f"--subject is missing; name one, for example --subject {example}")
    return args.subject


def add_count(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-n", type=int, default=None, help="fewer items than the protocol asks for: the result is partial"
    )


def add_coverage(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--partial-ok", action="store_true", help="give a value even where images are missing")
    parser.add_argument(
        "--shards",
        default=None,
        metavar="K/N",
        help="do part K of N and stop; run once more without it to score (accelerate launch sets it by itself)",
    )


def shard(args: argparse.Namespace) -> Shard:
    return parse_shard(args.shards)


def count(text: str) -> int:
    """Parse a number of 1 or more."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number; give 1 or more") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1; give 1 or more")
    return value


def add_images(parser: argparse.ArgumentParser) -> None:
    """Options of evaluators that look at images made from prompts."""
    add_subject(parser, "vgt:<checkpoint>, diffusers:<folder>, folder:<dir>, fake:oracle, fake:noise, fake:shuffled")
    parser.add_argument("--through", metavar="AE", help="send the subject's images through this autoencoder first")
    parser.add_argument("--suite", default=None, help="prompt suite, or a .jsonl file of `vgt prompts`")
    parser.add_argument("--accel", type=int, default=None, help="tokens per decode step (default 1 for vgt: subjects)")
    parser.add_argument("--images-per-prompt", type=count, default=4)
    parser.add_argument("--batch", type=count, default=32, help="images drawn at a time; it decides their last bits")
    add_count(parser)
    add_coverage(parser)
    options.add_sampling(parser)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="diffusers: subjects: steps, guidance, size, dtype, or any argument of the pipeline's call",
    )
    add_common(parser)


def prompts(name: str, n: int | None) -> tuple[str, list[dict]]:
    """A suite by name, or from a file of JSON lines (then named by its stem); ``n``: this many of it, evenly spaced,
    so that a few prompts touch every task."""
    if name in suites.SUITES:
        suite, found = name, suites.prompts(name)
    else:
        path = Path(name)
        if not path.is_file():
            raise ValueError(f"suite {name!r} is neither one of {', '.join(suites.SUITES)} nor a file")
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            suite, found = path.stem, [json.loads(line) for line in lines if line.strip()]
        except ValueError as error:
            raise ValueError(f"{path} is not JSON lines as written by `vgt prompts`: {error}") from error
    if n:
        count = min(n, len(found))
        found = [found[i * len(found) // count] for i in range(count)]
    return suite, found


def tokenizer(args: argparse.Namespace, work: Path):
    """The autoencoder that --subject names."""
    from evals.subjects import load_tokenizer

    if subject(args, "vgt:vgt_ae_internvl") in ("pca", "fake:pca"):
        from evals.subjects.pca import pca

        return pca(work)
    return load_tokenizer(args.subject, device=options.device(args.device))


def generator(args: argparse.Namespace, asked: list[dict]):
    """The generator that --subject names, and the acceleration that its records carry."""
    from evals.subjects import load_generator, parse_settings
    from evals.subjects.fake import through

    is_model = subject(args, "vgt:query_ar_internvl").startswith("vgt:")
    accel = (args.accel or 1) if is_model else None
    if args.set and not args.subject.startswith("diffusers:"):
        raise ValueError(f"--set {args.set[0]} is for diffusers: subjects; give --guidance and the like instead")
    settings = {**options.sampling(args), "autoencoder": args.autoencoder} if is_model else parse_settings(args.set)
    found = load_generator(
        args.subject,
        accel=accel,
        device=options.device(args.device),
        prompts=[p["prompt"] for p in asked],
        settings=settings,
    )
    if args.through:
        from evals.subjects import load_tokenizer

        found = through(load_tokenizer(args.through, device=options.device(args.device)), found)
    return found, accel


def checkpoint(args: argparse.Namespace, what: str, example: str) -> str:
    """The path or name in ``vgt:<checkpoint>``; ``what``: what is wrong with any other subject."""
    kind, _, path = subject(args, example).partition(":")
    if kind != "vgt" or not path:
        raise ValueError(f"subject {args.subject!r} {what}; give vgt:<checkpoint>")
    return path
