"""``vgt generate``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vgt.commands import options


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", help='for example "a photo of a red star left of a blue circle"')
    parser.add_argument("--model", default="query_ar_internvl", help="a bundled model, a run or a checkpoint folder")
    parser.add_argument("--accel", type=int, default=1, help="tokens decoded per step (default 1)")
    parser.add_argument("-n", "--count", type=int, default=1, help="how many images, side by side (default 1)")
    parser.add_argument("--scale", type=int, default=1, help="enlarge each pixel by this factor when writing")
    options.add_sampling(parser)
    options.add_out(parser, Path("out.png"), "the image to write")
    options.add_seed(parser)
    options.add_device(parser)


def run(args: argparse.Namespace) -> dict:
    import numpy as np
    from tqdm import tqdm

    from vgt.core.config import validated
    from vgt.core.seeds import image_seed
    from vgt.inference.generator import generate
    from vgt.inference.images import check_name, grid, write_png
    from vgt.inference.load import expect, load, paired_autoencoder
    from vgt.inference.prompts import prompt_list, within_budget
    from vgt.methods.sampling import Sampling, usual
    from vgt.vlm.tokenizer import unknown_words

    check_name(args.out)
    prompt_list(args.prompt)
    if args.count < 1 or args.scale < 1:
        raise ValueError(f"--count {args.count} and --scale {args.scale} must be 1 or more")
    device = options.device(args.device)
    found = expect(load(args.model, options.RUNS, device), "query_ar", "mar")
    decoder = paired_autoencoder(found, args.autoencoder, options.RUNS, device)
    given = usual(found.model.tokens) | options.sampling(args) | {"acceleration": args.accel}
    settings = validated(Sampling, given, "sampling settings")
    found.model.check_acceleration(args.accel)
    within_budget(found.tokenizer, args.prompt)
    strange = unknown_words(found.tokenizer, args.prompt)
    if strange:
        print(
            f"warning: {found.name} does not know {', '.join(map(repr, strange))} and reads them as blanks",
            file=sys.stderr,
        )
    seeds = [image_seed(args.seed, args.prompt, k) for k in range(args.count)]
    with tqdm(total=found.model.tokens, desc="tokens", file=sys.stderr) as bar:
        images = generate(
            found.model,
            decoder.model,
            found.tokenizer,
            [args.prompt] * args.count,
            seeds,
            settings,
            lambda done, total, _: bar.update(done - bar.n),
        )
    sheet = grid(list(images), args.count) if args.count > 1 else images[0]
    sheet = np.kron(sheet, np.ones((args.scale, args.scale, 1), np.uint8)) if args.scale > 1 else sheet
    write_png(args.out, sheet)
    print(f"{args.out}: {args.count} x {images.shape[2]} x {images.shape[1]} px by {found.name} at {args.accel}x")
    return {"files": [str(args.out)]}
