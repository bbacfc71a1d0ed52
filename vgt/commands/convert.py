"""``vgt convert``: a released checkpoint into this project's format.

A generator becomes a pipeline folder (generator/, autoencoder/, model_index.json); an autoencoder, a VFMTok tokenizer,
or a GPT over the codes of a tokenizer that is here already, one checkpoint folder.  What was written is read again and
compared with the source to the bit.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

STORAGE = ("bf16", "fp32", "fp16")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SRC", help="a .pth or .safetensors file of a released model")
    parser.add_argument("target", type=Path, metavar="DST", help="the folder to write")
    parser.add_argument("--vlm", metavar="DIR", help="folder or hub id of the VLM that it was made from: its tokenizer")
    parser.add_argument(
        "--ae", type=Path, metavar="FILE", help="the autoencoder's file; compared where SRC has one in it"
    )
    parser.add_argument(
        "--vision",
        metavar="PATH",
        help="of a VFMTok tokenizer: DINOv2 ViT-L/14 with registers, its release file or the folder of its port",
    )
    parser.add_argument(
        "--weights",
        choices=("auto", "state_dict", "ema_state_dict", "ema", "model", "module"),
        default="auto",
        help="which table of a training file (default auto: the order of the reference, of a GPT ema first)",
    )
    parser.add_argument(
        "--autoencoder", metavar="NAME", help="of a GPT over codes: the tokenizer that it was trained on, which is here"
    )
    parser.add_argument(
        "--storage", choices=STORAGE, default=None, help="precision on the disk (default: that of the source)"
    )


def run(args: argparse.Namespace) -> dict:
    from vgt.checkpoints import released, released_gpt, released_vfmtok
    from vgt.core import files

    _check(args)
    contents = released.opened(args.source)
    if released_gpt.holds(contents):
        return _gpt(args)
    if args.autoencoder is not None:
        raise ValueError(f"--autoencoder {args.autoencoder} has no effect: {args.source} is no GPT over codes")
    if released_vfmtok.is_tokenizer(contents):
        return _tokenizer(args)
    if args.vision is not None:
        raise ValueError(f"--vision is for a VFMTok tokenizer, which {args.source} is not; leave it out")
    found = released.load(args.source, args.vlm, args.ae, args.weights)
    if found.generator is not None and found.tokenizer is None:
        raise ValueError(
            f"{args.source} is a generator and has no tokenizer; give with --vlm the folder of the VLM it was made from"
        )
    for report in found.reports:
        print("\n".join(report.lines()))
    sources = [path for path in (args.source, args.ae) if path is not None]
    hashes = [(path.name, files.digest_file(path)) for path in sources]
    print(f"writing {args.target}", file=sys.stderr)
    _write(found, args.target, args.storage, _origin(found.reports, hashes))
    print(f"{args.target}: {found.taken} tensors written and compared with the source, {found.dropped} dropped")
    return {
        "checkpoint": str(args.target),
        "kept": found.taken,
        "dropped": found.dropped,
        "sha256": hashes[0][1],
    }


def _tokenizer(args: argparse.Namespace) -> dict:
    """A VFMTok tokenizer's file as a checkpoint folder."""
    from vgt.checkpoints import released_vfmtok

    for name, usual in (("vlm", None), ("ae", None), ("weights", "auto")):
        if getattr(args, name) != usual:
            raise ValueError(f"--{name} has no effect on a VFMTok tokenizer; leave it out")
    return _folder(args, *released_vfmtok.load(args.source, args.vision))


def _gpt(args: argparse.Namespace) -> dict:
    """A GPT over the codes of a tokenizer that is here."""
    from vgt.checkpoints import released_gpt
    from vgt.commands.options import RUNS
    from vgt.inference.load import expect, load
    from vgt.inference.tokenizer import token_grid
    from vgt.methods import registry

    for name in ("vlm", "ae", "vision"):
        if getattr(args, name) is not None:
            raise ValueError(f"--{name} has no effect: {args.source} is a GPT over codes; give --autoencoder")
    if args.autoencoder is None:
        raise ValueError(f"{args.source} is a GPT over codes; give with --autoencoder the tokenizer that it belongs to")
    tokenizer = expect(load(args.autoencoder, RUNS), *registry.names("tokenizer", latents="discrete"))
    return _folder(args, *released_gpt.load(args.source, tokenizer, token_grid(tokenizer.model), args.weights))


def _folder(args: argparse.Namespace, part, report) -> dict:
    """One model of a file as a checkpoint folder."""
    from vgt.checkpoints import checkpoint
    from vgt.core import files

    print("\n".join(report.lines()))
    digest = files.digest_file(args.source)
    print(f"writing {args.target}", file=sys.stderr)
    origin = _origin((report,), [(args.source.name, digest)])
    with checkpoint.disk_errors(args.target), files.atomic_folder(args.target) as folder:
        _write_part(part, folder, args.target.resolve().name, args.storage, origin)
    print(f"{args.target}: {report.taken} tensors written and compared with the source, {len(report.dropped)} dropped")
    counts = {"kept": report.taken, "dropped": len(report.dropped)}
    return {"checkpoint": str(args.target), **counts, "sha256": digest}


def _check(args: argparse.Namespace) -> None:
    """Raises ValueError where DST is something that must not be replaced, OSError where nothing can be written."""
    from vgt.checkpoints.checkpoint import CONFIG
    from vgt.core import files
    from vgt.inference.pipeline import INDEX

    target: Path = args.target
    ours = (target / CONFIG).is_file() or (target / INDEX).is_file()
    if target.exists() and not ours and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} is there and is no checkpoint; choose a new folder")
    files.check_writable(target, folder=True)


def _origin(reports, hashes: list[tuple[str, str]]) -> str:
    """What a model card says about where the weights came from."""
    sources = "".join(f"* file: `{name}`, sha256 `{weights_hash}`\n" for name, weights_hash in hashes)
    tables = "".join(f"* {report.weights}\n" for report in reports)
    notes = "".join(f"* {note}\n" for report in reports for note in report.notes)
    taken, dropped = sum(report.taken for report in reports), sum(len(report.dropped) for report in reports)
    counts = f"* {taken} tensors taken, {dropped} dropped\n"
    return f"\n## Where it came from\n\nConverted from a released checkpoint.\n\n{sources}{tables}{notes}{counts}"


def _write(found, target: Path, storage: str | None, origin: str) -> None:
    """A pipeline folder, or an autoencoder's checkpoint folder.

    Raises ValueError where the disk refuses or the copy is not exact; what was there is then unchanged."""
    from vgt.checkpoints import checkpoint
    from vgt.core import files

    name = target.resolve().name
    with checkpoint.disk_errors(target), files.atomic_folder(target) as part:
        if found.generator is None:
            _write_part(found.autoencoder, part, name, storage, origin)
        else:
            _write_pipeline(found, part, name, storage, origin)


def _write_pipeline(found, folder: Path, name: str, storage: str | None, origin: str) -> None:
    from dataclasses import replace

    from vgt.checkpoints import checkpoint
    from vgt.core import files
    from vgt.inference.load import AUTOENCODER, GENERATOR
    from vgt.inference.pipeline import INDEX, VGTPipeline, card

    weights_hash = _write_part(found.autoencoder, folder / AUTOENCODER, f"{name}_ae", storage, origin)
    config = found.generator.config.model_copy(update={"autoencoder": weights_hash, "autoencoder_name": f"{name}_ae"})
    generator = replace(found.generator, config=config)
    _write_part(generator, folder / GENERATOR, name, storage, origin, found.tokenizer)
    parts = {GENERATOR: generator, AUTOENCODER: found.autoencoder}
    kinds = {key: ["vgt", one.system.part("model").__name__] for key, one in parts.items()}
    files.write_json(folder / INDEX, {"_class_name": VGTPipeline.__name__, **kinds})
    sizes = {key: sum(t.numel() for t in one.state.values()) for key, one in parts.items()}
    (folder / checkpoint.CARD).write_text(card(name, generator.system.name, sizes) + origin, encoding="utf-8")


def _write_part(part, folder: Path, name: str, storage: str | None, origin: str, tokenizer=None) -> str:
    """One checkpoint folder, read again and compared; returns its fingerprint."""
    from vgt.checkpoints import checkpoint

    storage = storage or natural_storage(part.state)
    _check_range(part.state, storage)
    config = part.config.model_dump(mode="json")
    weights = sum(t.numel() for t in part.state.values() if t.is_floating_point())
    texts = {checkpoint.CARD: checkpoint.card(name, part.system.name, config, weights, storage) + origin}
    weights_hash = checkpoint.save(
        folder, part.system.name, name, config, part.state, tokenizer, texts, storage=storage
    )
    compare(folder, part.state, storage)
    return weights_hash


def natural_storage(state) -> str:
    """The narrowest precision that loses nothing: bf16 or fp16 where all weights are, else fp32."""
    import torch

    # Our own statistics beside the weights do not count: they are 0 and 1.
    dtypes = {t.dtype for key, t in state.items() if t.is_floating_point() and not key.startswith("batch_")}
    return {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(dtypes.pop(), "fp32") if len(dtypes) == 1 else "fp32"


def _check_range(state, storage: str) -> None:
    """Raises ValueError for a finite weight that half precision would make infinite."""
    import torch

    for key, tensor in state.items() if storage == "fp16" else ():
        if bool((tensor.to(torch.float16).isinf() & tensor.isfinite()).any()):
            raise ValueError(f"{key} holds values beyond the range of {storage}; use --storage bf16 or fp32")


def compare(folder: Path, state, storage: str) -> None:
    """Raises ValueError unless the checkpoint folder holds exactly ``state`` in the stored precision."""
    from vgt.checkpoints import checkpoint
    from vgt.checkpoints.released_keys import same

    stored = checkpoint.read_state(folder, None)
    wrong = sorted(stored.keys() ^ state.keys())
    for key in stored.keys() & state.keys():
        wanted = state[key].to(checkpoint.STORAGE[storage]) if state[key].is_floating_point() else state[key]
        if not same(stored[key], wanted):
            wrong.append(key)
    if wrong:
        raise ValueError(
            f"{folder} was written, but {len(wrong)} tensors differ from the source: {', '.join(wrong[:3])}"
        )
