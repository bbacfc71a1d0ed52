"""``vgt generate``: one sheet, a row a prompt, or a folder of images with a list of what they are."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from vgt.commands import options
from vgt.core import files, text
from vgt.core.listing import IMAGE_LIST, listed

BATCH = 16  # images decoded together
ROWS = 64  # of a sheet; more prompts go into a folder


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "prompt",
        nargs="*",
        help='for example "a photo of a red star left of a blue circle"; a class where the model has those; or several',
    )
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="further prompts: a text file, one a line, or .jsonl with `prompt`"
    )
    parser.add_argument("--model", default="query_ar_internvl", help="a bundled model, a run or a checkpoint folder")
    parser.add_argument("--accel", type=int, default=1, help="tokens decoded per step (default 1)")
    parser.add_argument("-n", "--count", type=int, default=1, help="how many images of each prompt (default 1)")
    parser.add_argument("--scale", type=int, default=1, help="enlarge each pixel by this factor when writing")
    options.add_sampling(parser)
    options.add_dtype(parser)
    options.add_out(
        parser,
        Path("out.png"),
        "the image to write: a row a prompt, its images side by side; a name without suffix is a folder that gets each "
        f"image by itself, and {IMAGE_LIST}",
    )
    parser.add_argument(
        "--layout",
        choices=("flat", "geneval"),
        help="of a folder of images: all beside each other (default), or <00000>/samples/<0000>.png with "
        "metadata.jsonl, as GenEval has it",
    )
    options.add_seed(parser)
    options.add_device(parser)


def run(args: argparse.Namespace) -> dict:
    from tqdm import tqdm

    from vgt.inference.generator import open_generator
    from vgt.inference.images import check_name, grid, write_png
    from vgt.inference.pipeline import image_seeds
    from vgt.vlm.prompts import prompt_list

    given = [{"prompt": options.utf8(text)} for text in args.prompt]
    given += read_prompts(args.prompts) if args.prompts else []
    prompts = prompt_list([row["prompt"] for row in given])
    folder = not args.out.suffix
    if args.layout and not folder:
        raise ValueError(f"--layout {args.layout} is of a folder, and {args.out} is one image; name a folder with -o")
    files.check_writable(args.out if folder else check_name(args.out), folder)
    if args.count < 1 or args.scale < 1:
        raise ValueError(f"--count {args.count} and --scale {args.scale} must be 1 or more")
    if not folder and len(prompts) > ROWS:
        raise ValueError(f"{len(prompts)} prompts are too many for one sheet; name a folder, for example -o images")
    place = "{:05d}/samples/{:04d}.png" if args.layout == "geneval" else "{:05d}-{}.png"
    names = [place.format(i, sample) for i in range(len(prompts)) for sample in range(args.count)] if folder else []
    check_others(args.out, names)
    settings = options.sampling(args) | {"acceleration": args.accel}
    device, dtype = options.device(args.device), options.dtype(args.dtype)
    made = open_generator(args.model, settings, options.RUNS, device, args.autoencoder, dtype)
    read = {prompt: made.read(prompt) for prompt in dict.fromkeys(prompts)}
    asked = [prompt for prompt in prompts for _ in range(args.count)]
    seeds = image_seeds(args.seed, asked)
    images, rows = [], []
    if folder:
        (args.out / IMAGE_LIST).unlink(missing_ok=True)  # of an earlier call: these images replace its own
    for i, row in enumerate(given if args.layout == "geneval" else ()):
        files.write_text(args.out / f"{i:05d}/metadata.jsonl", json.dumps(row) + "\n")
    batches = [range(first, min(first + BATCH, len(asked))) for first in range(0, len(asked), BATCH)]
    tokens = made.loaded.model.tokens
    with tqdm(total=tokens * len(batches), desc="tokens", file=sys.stderr, disable=None) as bar:
        for number, batch in enumerate(batches):

            def on_step(done: int, total: int, _, before: int = number * tokens) -> None:
                bar.update(before + done - bar.n)

            drawn = made.generate([read[asked[k]] for k in batch], [seeds[k] for k in batch], on_step)
            if not folder:
                images += list(drawn)
                continue
            for k, image in zip(batch, drawn, strict=True):
                write_png(args.out / names[k], enlarged(image, args.scale))
                rows.append({"file": names[k], "prompt": asked[k], "seed": seeds[k]})
    h, w, _ = drawn[0].shape
    if folder:
        files.write_text(args.out / IMAGE_LIST, "".join(json.dumps(row) + "\n" for row in rows))
        written = [str(args.out / IMAGE_LIST)]
    else:
        written = [str(args.out)]
        write_png(args.out, enlarged(grid(images, args.count) if len(images) > 1 else images[0], args.scale))
    print(f"{args.out}: {len(asked)} x {w} x {h} px by {made.loaded.name} at {args.accel}x")
    return {"files": written}


def check_others(out: Path, names: list[str]) -> None:
    """Raises ValueError where the folder ``out`` holds other images than those of ``names``, which would be taken for
    some of this call."""
    found = listed(out, deep="/" in names[0], tell=False).images if names and out.is_dir() else ()
    others = sorted({*found} - {*names})
    if others:
        raise ValueError(
            f"{out} holds {len(others)} images that this call would not write, the first {others[0]}; name another "
            "folder with -o, or remove them"
        )


def read_prompts(path: Path) -> list[dict]:
    """Records with ``prompt``: the lines of a text file, blank ones passed over, or JSON lines.

    Raises ValueError naming file and line of what is none."""
    if path.suffix in (".jsonl", ".json"):
        found = [{**row, "prompt": row.text("prompt")} for row in text.objects(path)]
    else:
        found = [{"prompt": line.strip()} for line in text.read(path).split("\n") if line.strip()]
    if not found:
        raise ValueError(f"{path} has no prompts; write one a line")
    return found


def enlarged(image, scale: int):
    """uint8 [H, W, 3] with each pixel ``scale`` times as large."""
    return image.repeat(scale, 0).repeat(scale, 1)
