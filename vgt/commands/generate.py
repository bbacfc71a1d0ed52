"""``vgt generate``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vgt.commands import options


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "prompt", help='for example "a photo of a red star left of a blue circle"; a class where the model has those'
    )
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

    from vgt.core import files
    from vgt.core.seeds import image_seed
    from vgt.inference.generator import open_generator
    from vgt.inference.images import check_name, grid, write_png
    from vgt.vlm.prompts import prompt_list

    files.check_writable(check_name(args.out))
    prompt = options.utf8(args.prompt)
    prompt_list(prompt)
    if args.count < 1 or args.scale < 1:
        raise ValueError(f"--count {args.count} and --scale {args.scale} must be 1 or more")
    settings = options.sampling(args) | {"acceleration": args.accel}
    made = open_generator(args.model, settings, options.RUNS, options.device(args.device), args.autoencoder)
    asked = made.read(prompt)
    seeds = [image_seed(args.seed, prompt, k) for k in range(args.count)]
    with tqdm(total=made.loaded.model.tokens, desc="tokens", file=sys.stderr, disable=None) as bar:
        images = made.generate([asked] * args.count, seeds, lambda done, total, _: bar.update(done - bar.n))
    sheet = grid(list(images), args.count) if args.count > 1 else images[0]
    sheet = np.kron(sheet, np.ones((args.scale, args.scale, 1), np.uint8)) if args.scale > 1 else sheet
    write_png(args.out, sheet)
    size = f"{args.count} x {images.shape[2]} x {images.shape[1]} px"
    print(f"{args.out}: {size} by {made.loaded.name} at {args.accel}x")
    return {"files": [str(args.out)]}
