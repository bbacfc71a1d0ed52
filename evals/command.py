"""``vgt eval recon|geneval|dpg|probes|vqa|judge|training``."""

from __future__ import annotations

import argparse
from pathlib import Path

from evals.api import Outcome
from vgt.commands import options
from vgt.core import record, suites

PROTOCOLS = {
    "default": "reconstruction at the model's own size, all metrics from the same rounded uint8 images",
    "ssim-wang": "SSIM, 11x11 Gaussian window sigma 1.5, data range 1 (Wang et al. 2004)",
    "ssim-sk": "SSIM, 7x7 uniform window, sample covariance, data range 1",
    "ssim-taming": "SSIM, 7x7 uniform window, data range 2 on [0, 1] images: inflated, as many papers print it",
    "ssim-tm": "SSIM, 11x11 Gaussian window, all channels, reflect padding (torchmetrics)",
    "ssim-y": "SSIM, 11x11 Gaussian window, luma only",
    "psnr-mean": "mean of per-image PSNR, capped at 100 dB",
    "psnr-global": "PSNR of the pooled mean squared error",
    "fd-efflite2": "Frechet distance of EfficientNet-Lite2 features; not FID",
    "geneval": "GenEval's scoring rules and thresholds (0.3; counting 0.9; position 0.1)",
    "dpg-fixed": "DPG-Bench's rules with all tiles, topological zeroing, nothing dropped",
}
EVALUATORS = ("recon", "geneval", "dpg", "probes", "vqa", "judge", "training")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("evaluator", choices=EVALUATORS)
    parser.add_argument(
        "--subject", help="vgt:<checkpoint>, folder:<dir>, fake:oracle, fake:noise, fake:shuffled; pca for recon"
    )
    parser.add_argument(
        "--through", metavar="AE", help="send the subject's pictures through this autoencoder first (geneval, dpg)"
    )
    parser.add_argument("--data", default="scenes", help="recon: scenes, photos or a folder of images (default scenes)")
    parser.add_argument("--pairs", nargs=2, type=Path, metavar=("REAL", "RECON"), help="recon: compare two folders")
    parser.add_argument("--protocol", default=None, help="see `vgt list protocols`")
    parser.add_argument("--suite", default=None, help="prompt suite, or a .jsonl file of `vgt prompts`")
    parser.add_argument("--accel", type=int, default=None, help="tokens per decode step (default 1 for vgt: subjects)")
    parser.add_argument("--images-per-prompt", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32, help="pictures drawn at a time; it decides their last bits")
    parser.add_argument(
        "-n", type=int, default=None, help="fewer items than the protocol asks for: the result is partial"
    )
    parser.add_argument("--partial-ok", action="store_true", help="give a value even where images are missing")
    options.add_sampling(parser)
    options.add_out(parser, options.WORK, "work folder: evidence, and records below records/")
    options.add_seed(parser)
    options.add_device(parser)


def run(args: argparse.Namespace) -> dict:
    if args.evaluator == "recon" and args.pairs:
        outcome = _pairs(args)
    elif args.subject is None and args.evaluator != "judge":
        raise ValueError("--subject is missing; name one, for example --subject vgt:query_ar_internvl")
    else:
        outcome = _RUNS[args.evaluator](args, args.out, args.out / "records")
    _show(outcome)
    partial = any(r.partial for r in outcome.records)
    return {
        "records": str(args.out / "records"),
        "partial": partial,
        "computed": outcome.computed,
        "reused": outcome.reused,
        "scores": record.scores(outcome.records),
    }


def _show(outcome: Outcome) -> None:
    width = max((len(r.name) for r in outcome.records), default=0)
    for r in outcome.records:
        value = "not measured" if r.value is None else f"{r.value:.4f}"
        interval = (
            f" [{r.low:.4f}, {r.high:.4f}]" if r.value is not None and r.low is not None and r.high is not None else ""
        )
        count = f"n={r.n}" + (f" of {r.n_expected}: partial" if r.partial else "")
        print(f"{r.name:<{width}}  {value}{interval}  {count}{f'  ({r.note})' if r.note else ''}")


def _pairs(args) -> Outcome:
    from evals.reconstruction import pairs

    return pairs(*args.pairs)


def _tokenizer(args, work: Path):
    from evals.subjects import load_tokenizer

    if args.subject in ("pca", "fake:pca"):
        from evals.subjects.pca import pca

        return pca(work)
    return load_tokenizer(args.subject, device=options.device(args.device))


def _recon(args, work: Path, records: Path) -> Outcome:
    from evals import calibration, reconstruction
    from evals.judges.analytic import AnalyticJudge

    judge = AnalyticJudge()
    return reconstruction.run(
        _tokenizer(args, work),
        work=work,
        records=records,
        data=args.data,
        n=args.n,
        protocol=args.protocol or "default",
        agreement=lambda a, b: calibration.agreement(judge, a, b),
        judge=f"{judge.name} {judge.fingerprint[:12]}",
    )


def _probes(args, work: Path, records: Path) -> Outcome:
    from evals import probes

    return probes.run(_tokenizer(args, work), work=work, records=records, **({"n": args.n} if args.n else {}))


def _prompts(name: str) -> tuple[str, list[dict]]:
    """A suite by name, or from a file of JSON lines (then named by its stem)."""
    import json

    if name in suites.SUITES:
        return name, suites.prompts(name)
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"suite {name!r} is neither one of {', '.join(suites.SUITES)} nor a file")
    try:
        return path.stem, [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except ValueError as error:
        raise ValueError(f"{path} is not JSON lines as written by `vgt prompts`: {error}") from error


def _generator(args, prompts: list[dict]):
    """The generator of the arguments and the acceleration that its records carry."""
    from evals.subjects import load_generator
    from evals.subjects.fake import through

    is_model = args.subject.startswith("vgt:")
    accel = (args.accel or 1) if is_model else None
    settings = {**options.sampling(args), "autoencoder": args.autoencoder} if is_model else None
    generator = load_generator(
        args.subject,
        accel=accel,
        device=options.device(args.device),
        prompts=[p["prompt"] for p in prompts],
        settings=settings,
    )
    if args.through:
        from evals.subjects import load_tokenizer

        generator = through(load_tokenizer(args.through, device=options.device(args.device)), generator)
    return generator, accel


def _geneval(args, work: Path, records: Path) -> Outcome:
    from evals import geneval
    from evals.judges.analytic import AnalyticJudge

    return _text_to_image(args, work, records, geneval.run, AnalyticJudge(), "scenes-geneval")


def _dpg(args, work: Path, records: Path) -> Outcome:
    from evals import dpg
    from evals.judges.analytic import AnalyticJudge

    return _text_to_image(args, work, records, dpg.run, AnalyticJudge(), "scenes-dpg")


def _text_to_image(args, work: Path, records: Path, evaluate, judge, default_suite: str) -> Outcome:
    suite, prompts = _prompts(args.suite or default_suite)
    if args.n:  # evenly spaced, so that a few prompts touch every task
        count = min(args.n, len(prompts))
        prompts = [prompts[i * len(prompts) // count] for i in range(count)]
    generator, accel = _generator(args, prompts)
    return evaluate(
        generator,
        judge,
        work=work,
        records=records,
        suite=suite,
        prompts=prompts,
        images_per_prompt=args.images_per_prompt,
        seed=args.seed,
        batch=args.batch,
        accel=accel,
        partial_ok=args.partial_ok,
    )


def _vqa(args, work: Path, records: Path) -> Outcome:
    from evals import vqa
    from evals.subjects import vgt

    kind, _, path = args.subject.partition(":")
    if kind != "vgt" or not path:
        raise ValueError(f"subject {args.subject!r} is not a VLM; give vgt:<checkpoint>")
    answerer = vgt.answerer(path, options.device(args.device))
    return vqa.run(answerer, work=work, records=records, **({"n": args.n} if args.n else {}))


def _judge(args, work: Path, records: Path) -> Outcome:
    from evals import calibration
    from evals.judges.analytic import AnalyticJudge

    return calibration.run(AnalyticJudge(), work=work, records=records, **({"n": args.n} if args.n else {}))


def _training(args, work: Path, records: Path) -> Outcome:
    from evals import training
    from evals.subjects import vgt

    kind, _, path = args.subject.partition(":")
    if kind != "vgt" or not path:
        raise ValueError(f"subject {args.subject!r} has no training log; give vgt:<checkpoint>")
    return training.run(*vgt.training_log(path), records=records)


_RUNS = {
    "training": _training,
    "recon": _recon,
    "geneval": _geneval,
    "dpg": _dpg,
    "probes": _probes,
    "vqa": _vqa,
    "judge": _judge,
}
