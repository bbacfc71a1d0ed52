"""LPIPS v0.1 (docs/evaluators.md 1.5): the ``lpips`` package with its backbone filled from a file that the user has,
for the training loss and for the metric.

The package brings the small linear heads and downloads the backbone; here nothing is downloaded.  A backbone is
torchvision's ImageNet state dict, as ``.pth`` (its checksum is known) or as ``.safetensors`` (its keys and shapes are).
"""

from __future__ import annotations

import os
import warnings
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from vgt.checkpoints import shards
from vgt.core import files

# torchvision's file names end in the first eight hex digits of their sha256.
BACKBONES = {"alex": "alexnet-owt-7be5be79", "vgg": "vgg16-397923af"}
SUFFIXES = (".pth", ".safetensors")


def find(net: str, given: str | Path | None = None) -> Path:
    """The backbone of "alex" or "vgg": ``given``, else by name in $VGT_WEIGHTS or torch.hub's folder.

    Raises ValueError saying which file is missing, its checksum and where to put it."""
    if net not in BACKBONES:
        raise ValueError(f"LPIPS net {net!r} is unknown; choose one of {', '.join(BACKBONES)}")
    name = BACKBONES[net]
    about = f"{name}.pth (torchvision's ImageNet weights, sha256 {name[-8:]}...) or the same as .safetensors"
    if given is not None:
        if not Path(given).is_file():
            raise ValueError(f"LPIPS {net}: there is no file {given}; it should be {about}")
        return Path(given)
    places = [Path(os.environ["VGT_WEIGHTS"])] if "VGT_WEIGHTS" in os.environ else []
    for place in (*places, Path(torch.hub.get_dir()) / "checkpoints"):
        for suffix in SUFFIXES:
            if (place / (name + suffix)).is_file():
                return place / (name + suffix)
    raise ValueError(
        f"LPIPS {net} lacks its backbone {about}; to evaluate, give it as --weights lpips-{net}=PATH, "
        "or put it in a folder and set VGT_WEIGHTS to that"
    )


@lru_cache(maxsize=8)
def _digest(path: Path, changed: int) -> str:
    del changed  # part of the cache's key
    return files.digest_file(path)


def checksum(net: str, path: Path) -> str:
    """sha256 of a backbone file.  Raises ValueError for a ``.pth`` that is not torchvision's."""
    found = _digest(path, path.stat().st_mtime_ns)
    if path.suffix != ".safetensors" and not found.startswith(BACKBONES[net][-8:]):
        raise ValueError(
            f"LPIPS {net}: {path.name} has sha256 {found[:8]}..., not {BACKBONES[net][-8:]}...; "
            f"get torchvision's {BACKBONES[net]}.pth again"
        )
    return found


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a backbone file.  Raises ValueError for one that cannot be read."""
    try:
        if path.suffix == ".safetensors":
            return shards.read_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path.name} cannot be read as a state dict: {reason}") from error


def network(net: str, state: dict[str, Tensor]) -> nn.Module:
    """The package's network with its backbone: its ``slice<k>.<i>.<p>`` are torchvision's ``features.<i>.<p>``.

    Raises ValueError where ``state`` lacks one of them, has another besides, or one of another shape."""
    from lpips import LPIPS

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision in an old way
        model = LPIPS(net=net, pnet_rand=True, verbose=False)
    trunk = {key: "features." + key.split(".", 1)[1] for key in model.net.state_dict()}
    extra = sorted(k for k in state if k.startswith("features.") and k not in trunk.values())
    missing = sorted(name for name in trunk.values() if name not in state)
    if missing or extra:
        raise ValueError(
            f"the LPIPS {net} backbone {f'has no {missing[0]}' if missing else f'has {extra[0]} besides'}; "
            f"it is not torchvision's {BACKBONES[net].split('-')[0]}"
        )
    for key, tensor in model.net.state_dict().items():
        found = state[trunk[key]]
        if found.shape != tensor.shape:
            raise ValueError(
                f"the LPIPS {net} backbone has {trunk[key]} of shape {tuple(found.shape)}, not {tuple(tensor.shape)}"
            )
    model.net.load_state_dict({key: state[name] for key, name in trunk.items()}, strict=True)
    return model.requires_grad_(False).eval()


def load(net: str, given: str | Path | None = None) -> nn.Module:
    """The frozen network "alex" or "vgg" on a backbone file.  Raises ValueError as ``find``, ``checksum``,
    ``read_state`` and ``network`` do."""
    path = find(net, given)
    checksum(net, path)
    return network(net, read_state(path))
