"""``vgt reconstruct``: any images through an autoencoder.

An image that is not of the model's size is cut into tiles of that size (the rim mirrored) which are reconstructed one
by one, so that seams can show where they meet; ``--fit crop`` takes the centre square, shrunk to the model's size,
instead.  ``--regions`` shows where region-adaptive tokens looked.
"""

from __future__ import annotations

import argparse
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from vgt.commands import options
from vgt.core.images import SUFFIXES, ImageError, read_image
from vgt.core.listing import image_files
from vgt.core.text import printable

SEAMS = "Tiles are reconstructed one by one: seams can show where they meet. --fit crop has none."


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", type=Path, help="JPEG, PNG, ... files, or folders of them")
    parser.add_argument("--model", default="vgt_ae_internvl", help="a bundled model, a run or a checkpoint folder")
    parser.add_argument(
        "--fit",
        choices=("tile", "crop"),
        help="what to do with other sizes: tiles, whose seams can show, or the centre square (default tile)",
    )
    parser.add_argument("--side-by-side", action="store_true", help="write the original beside its reconstruction")
    parser.add_argument(
        "--regions",
        action="store_true",
        help="write where each token of a VFMTok looked instead, of the centre square",
    )
    options.add_out(parser, None, "the image to write (default out.png); of several images the folder (default out)")
    options.add_device(parser)


def run(args: argparse.Namespace) -> dict:
    from vgt.inference.images import grid, write_png
    from vgt.inference.load import expect, load
    from vgt.inference.region_map import look, region_map
    from vgt.inference.tokenizer import reconstruct, tile, untile
    from vgt.methods import registry

    if args.regions and (args.fit == "tile" or args.side_by_side):
        other = "--side-by-side" if args.side_by_side else "--fit tile"
        raise ValueError(f"--regions shows the centre square alone, {other} has no effect on it; leave one out")
    targets = _targets(args.images, args.out)
    failed: dict[str, str] = {}
    images = _read(targets, failed)
    first = next(images, None)
    if first is None:
        others = f" ({len(failed)} images, none of which can be read)" if len(failed) > 1 else ""
        raise ValueError(next(iter(failed.values())) + others)
    found = load(args.model, options.RUNS, options.device(args.device))
    size = expect(found, *registry.names("tokenizer")).model.config.image_size
    if args.regions and not hasattr(found.model, "regions"):
        raise ValueError(f"{found.name} is a {found.system}, whose tokens choose no regions; give a vfmtok as --model")
    written, seams = [], False
    for target, image in chain([first], images):
        h, w, _ = image.shape
        if args.fit == "crop" or args.regions:
            side = min(h, w)
            top, left = (h - side) // 2, (w - side) // 2
            square = Image.fromarray(image[top : top + side, left : left + side])
            image = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))
            if args.regions:
                write_png(target, region_map(image, *look(found.model, image)))
                written.append(str(target))
                print(f"{printable(str(target))}: where the tokens of {found.name} looked")
                continue
            made = reconstruct(found.model, image[None])[0]
            how = f"centre square of {w} x {h} px shrunk to {size} px"
        else:
            tiles, layout = tile(image, size)
            made = untile(reconstruct(found.model, tiles), layout, h, w)
            how = f"{w} x {h} px in {len(tiles)} tile{'s' if len(tiles) > 1 else ''} of {size} px"
            seams = seams or len(tiles) > 1
        error = np.square(made.astype(np.int16) - image, dtype=np.int32).mean()
        psnr = 100.0 if error == 0 else 10 * np.log10(255**2 / error)
        write_png(target, grid([image, made], 2) if args.side_by_side else made)
        written.append(str(target))
        print(f"{printable(str(target))}: {how}, by {found.name}, PSNR {psnr:.2f} dB")
    if seams:
        print(SEAMS)
    return {"files": written, **({"failed": failed, "exit": 2} if failed else {})}


def _targets(inputs: list[Path], out: Path | None) -> dict[Path, Path]:
    """The file to write of each image.  Raises ValueError where two images would be written to one file, an image onto
    itself, or where ``out`` is no name for what there is to write."""
    from vgt.inference.images import check_name

    found = list(_images(inputs))
    several = len(inputs) > 1 or inputs[0].is_dir()
    if not several and not (out is not None and out.is_dir()):
        targets = {found[0][0]: check_name(out or Path("out.png"))}
    else:
        folder = out or Path("out")
        for each in inputs:
            if each.is_dir() and _real(folder).is_relative_to(_real(each)):
                raise ValueError(f"--out {folder} lies in {each}, whose images are read; choose another --out")
        if folder.suffix.lower() in SUFFIXES and not folder.is_dir():
            raise ValueError(f"--out {folder} is the name of one image, and there are several; give a folder")
        targets = {}
        writers: dict[str, Path] = {}  # by name as file systems compare names that know no case
        for path, name in found:
            target = folder / f"{name}.png"
            other = writers.setdefault(unicodedata.normalize("NFC", str(target)).casefold(), path)
            if other is not path:
                names = f"{printable(str(other))} and {printable(str(path))}"
                raise ValueError(f"{names} would both be written to {printable(str(target))}; reconstruct them apart")
            targets[path] = target
    originals = set(map(_real, targets))
    for target in targets.values():
        if _real(target) in originals:
            raise ValueError(f"{printable(str(target))} is one of the images to read; choose another --out")
    return targets


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve raises for a link to itself


def _images(inputs: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """(file, its name without suffix) of all inputs; of a folder's images the path inside it."""
    for each in inputs:
        for path in image_files(each).values() if each.is_dir() else [each]:
            yield path, os.path.splitext(path.relative_to(each) if each.is_dir() else path.name)[0]


def _read(targets: dict[Path, Path], failed: dict[str, str]) -> Iterator[tuple[Path, np.ndarray]]:
    """(target, image) of all that can be read, one after the other; the others are said and go to ``failed``."""
    for path, target in targets.items():
        try:
            yield target, read_image(path)
        except ImageError as error:
            failed[printable(str(path))] = str(error)
            if len(targets) > 1:
                print(f"failed: {error}", file=sys.stderr)
