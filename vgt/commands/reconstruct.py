"""``vgt reconstruct``: any image through an autoencoder.

An image that is not of the model's size is cut into tiles of that size (the rim mirrored) which are reconstructed one
by one; ``--fit crop`` takes the centre square, shrunk to the model's size, instead.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vgt.commands import options


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", type=Path, help="JPEG, PNG, ... files")
    parser.add_argument("--model", default="vgt_ae_internvl", help="a bundled model, a run or a checkpoint folder")
    parser.add_argument(
        "--fit", choices=("tile", "crop"), default="tile", help="what to do with other sizes (default tile)"
    )
    options.add_out(parser, Path("out.png"), "the image to write; a folder where there are several")
    options.add_device(parser)


def run(args: argparse.Namespace) -> dict:
    import numpy as np
    from PIL import Image

    from vgt.core.images import read_image
    from vgt.inference.images import check_name, write_png
    from vgt.inference.load import expect, load
    from vgt.inference.tokenizer import reconstruct, tile, untile
    from vgt.methods import registry

    images = [read_image(path) for path in args.images]
    several = len(images) > 1
    if not several:
        check_name(args.out)
    found = load(args.model, options.RUNS, options.device(args.device))
    size = expect(found, *registry.names("tokenizer")).model.config.image_size
    written = []
    for path, image in zip(args.images, images, strict=True):
        h, w, _ = image.shape
        if args.fit == "crop":
            side = min(h, w)
            top, left = (h - side) // 2, (w - side) // 2
            square = Image.fromarray(image[top : top + side, left : left + side])
            image = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))
            made = reconstruct(found.model, image[None])[0]
            how = f"centre square of {w} x {h} px shrunk to {size} px"
        else:
            tiles, layout = tile(image, size)
            made = untile(reconstruct(found.model, tiles), layout, h, w)
            how = f"{w} x {h} px in {len(tiles)} tile{'s' if len(tiles) > 1 else ''} of {size} px"
        error = np.mean((made.astype(np.float64) - image) ** 2)
        psnr = 100.0 if error == 0 else 10 * np.log10(255**2 / error)
        target = args.out / f"{path.stem}.png" if several else args.out
        write_png(target, made)
        written.append(str(target))
        print(f"{target}: {how}, by {found.name}, PSNR {psnr:.2f} dB")
    return {"files": written}
