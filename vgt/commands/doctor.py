"""``vgt doctor``: what is installed, which device, which weights are present or missing and where they go."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path

from vgt.core import env, weights
from vgt.core.text import coloured

NEEDED = (
    "torch",
    "torchvision",
    "transformers",
    "diffusers",
    "accelerate",
    "skimage",
    "sklearn",
    "pandas",
    "matplotlib",
)


def arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> dict:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    for name, version in env.versions().items():
        print(f"{name:<16} {version}")
    for name in missing:
        print(f"{name:<16} MISSING: reinstall with `pip install .`")
    if "torch" not in missing:
        import torch

        from vgt.training.distributed import device_name, native_bf16

        for device in [*(f"cuda:{i}" for i in range(torch.cuda.device_count())), "cpu"]:
            threads = f", {torch.get_num_threads()} threads" if device == "cpu" else ""
            print(f"device           {device} {device_name(device)}{threads}")
            bf16 = "yes" if native_bf16(device) else "emulated and slow; train with --set train.precision=fp32"
            print(f"bf16             {device} {bf16}")
    found = _weights()
    for name, (present, text) in found.items():
        print(coloured(f"{name:<16}  {'present' if present else 'absent'}: {text}"))
        if not present:
            missing.append(name)
    for name, wanted in weights.PUBLISHED.items():
        if name not in found:
            print(f"{name:<16} {wanted.text}; give it with {wanted.option} ({wanted.use}; optional)")
    needed = {*NEEDED, "efflite0", "efflite2", "bundled models"}
    ok = not needed.intersection(missing)
    print(
        "everything that the synthetic scenes need is there" if ok else "something that is needed is missing, see above"
    )
    return {"ok": ok, "missing": missing}


def _optional() -> dict[str, Callable[[], Path]]:
    """Weights that some protocols need and no package brings along: name -> what finds the file."""
    from evals import features
    from vgt.methods import perceptual

    found = {f"lpips-{net}": partial(perceptual.lpips_file, net) for net in perceptual.LPIPS_BACKBONES}
    names = {"inception": "tf-compat", "dinov2": "dinov2", "clip": "clip"}
    return found | {name: features.SOURCES[source].find for name, source in names.items()}


def _weights() -> dict[str, tuple[bool, str]]:
    """Weights files by use: whether each is there, and where it is or belongs."""
    from vgt.inference.load import bundled
    from vgt.methods import perceptual

    found: dict[str, tuple[bool, str]] = {}
    for name, use in (("efflite0", "perceptual training loss"), ("efflite2", "fd-efflite2")):
        try:
            found[name] = (True, f"{perceptual.weights_path(name).name} ({use})")
        except ValueError as error:
            found[name] = (False, f"{error} ({use})")
    for name, find in _optional().items():
        wanted = weights.PUBLISHED[name]
        try:
            found[name] = (True, f"{find().name} ({wanted.use})")
        except ValueError:
            where = f"give it with {wanted.option}, or put it where VGT_WEIGHTS points to"
            found[name] = (False, f"{wanted.text}; {where} ({wanted.use}; optional)")
    names = bundled()
    found["bundled models"] = (bool(names), ", ".join(names) or "train them with `vgt reproduce tiny --train`")
    return found
