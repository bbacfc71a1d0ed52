"""``vgt eval vqa``: how well a VLM answers questions about held-out scenes."""

from __future__ import annotations

import argparse
import functools

from evals.engine import options as common
from evals.engine.records import Outcome
from vgt.commands import options

HELP = "question answering of a VLM on the synthetic scenes"
EXAMPLE = "vgt eval vqa --subject vgt:vlm_internvl --encoder vgt:vgt_ae_internvl"


def arguments(parser: argparse.ArgumentParser) -> None:
    common.add_subject(parser, "vgt:<checkpoint of a VLM>, vlm:<folder>, blip:<folder> or process:<command>")
    parser.add_argument(
        "--encoder", metavar="AE", help="with the vision encoder of this VGT-AE: understanding after tuning"
    )
    common.add_count(parser)
    common.add_coverage(parser)
    common.add_common(parser)


def run(args: argparse.Namespace) -> Outcome:
    from evals.judges import answering
    from evals.vqa import run as vqa

    spec = common.subject(args, "vgt:vlm_internvl")
    if spec.partition(":")[0] not in ("vgt", "vlm", "blip", "process"):
        raise ValueError(f"subject {spec!r} is not a VLM; give vgt:<checkpoint>, vlm:<folder> or process:<command>")
    device = functools.partial(options.device, args.device)
    model = answering.load(spec, device, instruction=vqa.INSTRUCTION)
    answerer = model.answerer
    if args.encoder is not None:
        from evals.subjects import load_tokenizer

        if not spec.startswith("vgt:"):
            raise ValueError(f"--encoder is for our own VLMs, not for {spec!r}; give --subject vgt:<checkpoint>")
        answerer = vqa.with_encoder(answerer, load_tokenizer(args.encoder, device=device()))
    count = {"n": args.n} if args.n else {}
    shared = {"work": args.out, "records": args.out / "records", "partial_ok": args.partial_ok}
    try:
        return vqa.run(answerer, shard=common.shard(args), **shared, **count)
    finally:
        model.close()
