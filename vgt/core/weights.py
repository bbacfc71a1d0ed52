"""Published weights that no package brings along: which file, its checksum, and the command that gets it.

The one place that names them.  Addresses and checksums are those in the sources of torch-fidelity, pytorch-fid and
torchvision, whose file names end in the first eight hex digits of the sha256; hub ids those of the models' authors."""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """``use``: what needs them; ``option``: what gives them on the command line; ``file`` with ``sha256`` (or its
    first digits) at ``url``, or ``files`` (all where empty) of the model ``hub`` on the Hugging Face hub, or of
    ``modelscope`` there."""

    use: str
    option: str
    file: str = ""
    sha256: str = ""
    url: str = ""
    hub: str = ""
    files: tuple[str, ...] = ()
    modelscope: str = ""

    @property
    def command(self) -> str:
        """What gets them."""
        if self.url:
            return f"curl -L -O {self.url}"
        if self.hub:
            return " ".join(["hf download", self.hub, *self.files, "--local-dir", self.hub.rpartition("/")[2]])
        return f"modelscope download --model {self.modelscope} --local_dir {self.modelscope.rpartition('/')[2]}"

    @property
    def text(self) -> str:
        """The command, and what it gets."""
        checksum = f" (sha256 {self.sha256}{'' if len(self.sha256) == 64 else '...'})" if self.sha256 else ""
        what = f" gets {self.file}{checksum}" if self.file else ""
        return f"`{self.command}`{what}"


_FOLDER = ("config.json", "model.safetensors")
PUBLISHED = {
    "inception": Published(
        "FID, rFID, KID, inception score",
        "--weights tf-compat=FILE",
        "weights-inception-2015-12-05-6726825d.pth",
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    ),
    "lpips-alex": Published(
        "LPIPS (AlexNet)",
        "--weights lpips-alex=FILE",
        "alexnet-owt-7be5be79.pth",
        "7be5be79",
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    ),
    "lpips-vgg": Published(
        "LPIPS (VGG-16)",
        "--weights lpips-vgg=FILE",
        "vgg16-397923af.pth",
        "397923af",
        "https://download.pytorch.org/models/vgg16-397923af.pth",
    ),
    "dinov2": Published("FD-DINOv2", "--weights dinov2=FOLDER", hub="facebook/dinov2-large", files=_FOLDER),
    "clip": Published("CMMD", "--weights clip=FOLDER", hub="openai/clip-vit-large-patch14-336"),
    "mask2former": Published(
        "GenEval's judge m2f-hf",
        "--mask2former FOLDER",
        hub="facebook/mask2former-swin-small-coco-instance",
        files=_FOLDER,
    ),
    "clip-colors": Published("GenEval's judge m2f-hf", "--clip FOLDER", hub="openai/clip-vit-large-patch14"),
    "mplug": Published(
        "DPG-Bench's judge mplug",
        "--judge-weights FOLDER",
        modelscope="damo/mplug_visual-question-answering_coco_large_en",
    ),
}

_said: set[str] = set()


def say_once(line: str) -> None:
    """Print a line on stderr unless this run has said it."""
    if line not in _said:
        _said.add(line)
        print(line, file=sys.stderr)


def new_run() -> None:
    """Nothing has been said yet."""
    _said.clear()
