"""Real images: deterministic crops of the photographs inside the scikit-image and scikit-learn wheels.

``crop(split, index, size)`` is a pure function.  An image belongs to one split, and both halves of the stereo pair
to the same one.  The crops of one image vary together, so intervals are clustered by ``Crop.image``.
numpy and Pillow only; the two packages are located, not imported, and nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import util
from pathlib import Path

import numpy as np
from PIL import Image

from vgt.core import files
from vgt.core.seeds import image_seed

PHOTOS = "photos-v1"

# Colour photographs that lie in the wheels themselves: (package, path inside it).  scikit-learn's two are under
# CC BY 2.0: china.jpg by Daniel Buechele, flower.jpg by vultilion (both on Flickr).
IMAGES = {
    "train": {
        "astronaut": ("skimage", "data/astronaut.png"),
        "flower": ("sklearn", "datasets/images/flower.jpg"),
        "motorcycle-left": ("skimage", "data/motorcycle_left.png"),
        "motorcycle-right": ("skimage", "data/motorcycle_right.png"),
        "hubble": ("skimage", "data/hubble_deep_field.jpg"),
        "retina": ("skimage", "data/retina.jpg"),
        "tissue": ("skimage", "data/ihc.png"),
    },
    "test": {
        "cat": ("skimage", "data/chelsea.png"),
        "coffee": ("skimage", "data/coffee.png"),
        "rocket": ("skimage", "data/rocket.jpg"),
        "temple": ("sklearn", "datasets/images/china.jpg"),
    },
}
_DISTRIBUTIONS = {"skimage": "scikit-image", "sklearn": "scikit-learn"}


@dataclass(frozen=True)
class Crop:
    """``image`` uint8 [size, size, 3]; the image's name; the square (x, y, side) that was cut, in its pixels."""

    image: np.ndarray
    photo: str
    square: tuple[int, int, int]


def _check(split: str) -> None:
    if split not in IMAGES:
        raise ValueError(f"photo split {split!r} is unknown; choose one of {', '.join(IMAGES)}")


def image_path(split: str, name: str) -> Path:
    """The file of one image.  Raises ValueError naming a missing package or file."""
    package, inside = IMAGES[split][name]
    found = util.find_spec(package)
    if found is None or found.origin is None:
        raise ValueError(f"photo {name!r} ships with {_DISTRIBUTIONS[package]}; pip install {_DISTRIBUTIONS[package]}")
    path = Path(found.origin).parent / inside
    if not path.is_file():
        raise ValueError(f"photo {inside} is missing from {_DISTRIBUTIONS[package]}; reinstall that package")
    return path


@lru_cache(maxsize=32)
def _image(split: str, name: str) -> Image.Image:
    with Image.open(image_path(split, name)) as opened:
        return opened.convert("RGB")


def _below(n: int, *key: str | int) -> int:
    """Uniform integer in 0 .. n-1 from names alone (a hash, so the same with every NumPy)."""
    return image_seed(0, PHOTOS, *key) % n


def _side(smallest: int, largest: int, *key: str | int) -> int:
    """A side between the two, log-uniform: fine detail comes as often as wide views."""
    share = _below(1 << 20, *key) / (1 << 20)
    return min(largest, int(smallest * (largest / smallest) ** share))


def crop(split: str, index: int, size: int = 64) -> Crop:
    """Crop number ``index`` (>= 0) of ``split`` ("train" or "test") at ``size`` x ``size`` pixels.

    A random square with a side between ``size`` and the image's short side, reduced with Pillow's antialiased
    bicubic filter.  Test crops take the images in turn; training crops draw one, and are mirrored half the time.
    An image smaller than ``size`` gives its whole short side, enlarged."""
    _check(split)
    if index < 0 or size < 1:
        raise ValueError(f"crop {index} of size {size}; index must be >= 0 and size >= 1")
    names = sorted(IMAGES[split])
    key = (split, index, size)
    chosen = index % len(names) if split == "test" else _below(len(names), *key, "picture")
    source = _image(split, names[chosen])
    short = min(source.size)
    side = _side(min(size, short), short, *key, "side")
    x = _below(source.width - side + 1, *key, "x")
    y = _below(source.height - side + 1, *key, "y")
    cut = source.crop((x, y, x + side, y + side))
    if side != size:
        cut = cut.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=2.0)
    image = np.asarray(cut)
    if split == "train" and _below(2, *key, "mirror"):
        image = image[:, ::-1]
    return Crop(np.ascontiguousarray(image), names[chosen], (x, y, side))


def images(split: str, indices, size: int = 64) -> np.ndarray:
    """uint8 [N, size, size, 3]."""
    return np.stack([crop(split, int(i), size).image for i in indices])


def train_photo(index: int, size: int = 64) -> np.ndarray:
    """Training crop number ``index``: uint8 [size, size, 3]."""
    return crop("train", index, size).image


@lru_cache(maxsize=4)
def fingerprint(split: str) -> str:
    """Content hash of the split's image files and of how crops are cut."""
    _check(split)
    names = sorted(IMAGES[split])
    return files.digest(PHOTOS, split, *names, *(files.digest_file(image_path(split, name)) for name in names))
