"""Sets of images: synthetic scenes, photo crops, a folder of the user's own, WebDataset shards; and how an image comes
to the size that a protocol asks for.

An ``ImageSet`` loads one image at a time, so a folder may be larger than memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from vgt.core import files, tars
from vgt.core import images as reader
from vgt.core import photos as photo_crops
from vgt.core import scenes as world
from vgt.core.images import SUFFIXES, ImageError
from vgt.core.listing import folder_name, image_files, image_name, listed, tell_left_out
from vgt.core.text import printable

SCENES, PHOTOS = 500, 256  # how many images the full protocol asks for


def _nothing(_: int) -> None:
    return None


@dataclass(frozen=True)
class ImageSet:
    """``load(i)`` -> uint8 [H, W, 3]; it raises ValueError naming a file that cannot be read.

    ``ids``: one name per image; ``clusters``: images of one cluster vary together; ``expected``: how many the full
    protocol has; ``fingerprint``: content hash; ``params``: how the images came to their size; ``converted(i)``: what
    kind of file image i was converted from, None for 8-bit RGB; ``floats(i)``: image i as float32 [H, W, 3] in [0, 1]
    before it was rounded, where its geometry works on floats."""

    name: str
    ids: tuple[str, ...]
    clusters: tuple[str, ...]
    load: Callable[[int], np.ndarray]
    expected: int
    fingerprint: str
    params: dict
    converted: Callable[[int], str | None] = _nothing
    floats: Callable[[int], np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.ids)


def padded(images: np.ndarray, batch: int) -> np.ndarray:
    """A last, smaller batch filled up with copies of its last image: models always run one shape, so that the bytes
    of an image do not depend on how many others there are.  Cut the result to ``len(images)``."""
    return np.concatenate([images, np.repeat(images[-1:], max(0, batch - len(images)), 0)])


BUILT_IN = ("scenes", "photos")


def which(spec: str, flag: str) -> str | Path:
    """A built-in set of images by its name, or the path that ``spec`` names; ``built-in:NAME`` and ``folder:PATH`` say
    which is meant.  Raises ValueError where a name of ``flag`` is that of a built-in set and of a folder that is there.
    """
    kind, _, rest = spec.partition(":")
    if kind == "built-in":
        if rest not in BUILT_IN:
            raise ValueError(f"{flag} {spec}: there is no such set; give built-in:{' or built-in:'.join(BUILT_IN)}")
        return rest
    if spec in BUILT_IN and Path(spec).exists():
        raise ValueError(
            f"{flag} {spec} is both the built-in set and what lies here under that name; "
            f"give built-in:{spec} or folder:{spec}"
        )
    return spec if spec in BUILT_IN else Path(rest if kind == "folder" and rest else spec)


def image_set(data: str | Path, n: int | None, size: int, geometry: str = "adm-crop") -> ImageSet:
    """The images that ``data`` names: "scenes", "photos" (always the built-in sets; see ``which``), a folder of images,
    a ``.tar`` shard or a folder of shards.

    ``geometry``: how images of any shape come to ``size``; scenes and photo crops are made at that size."""
    if data == "scenes":
        return scenes("test", n, size)
    if data == "photos":
        return photos(n, size)
    return folder(data, n, size, geometry)


def _count(n: int | None, full: int) -> int:
    if n is not None and n < 1:
        raise ValueError(f"n = {n} images; give 1 or more")
    return full if n is None else n


def scenes(split: str = "test", n: int | None = None, size: int = 64, task: str | None = None) -> ImageSet:
    """The first ``n`` (default 500) items of the synthetic scenes' ``split``; ``task``: of that kind alone.  Raises
    ValueError for an unknown kind."""
    if task is not None and task not in (*world.TASKS, "dense"):
        raise ValueError(f"task {task!r} is unknown; choose one of {', '.join((*world.TASKS, 'dense'))}")
    count = _count(n, SCENES)
    kind = {} if task is None else {"task": task}
    return ImageSet(
        name="-".join(["scenes", *kind.values()]),
        ids=tuple(f"{split}-{i:05d}" for i in range(count)),
        clusters=tuple(f"{split}-{i:05d}" for i in range(count)),
        load=lambda i: world.item(split, i, size, task).image,
        expected=SCENES,
        fingerprint=files.digest_json([world.WORLD, split, count, size, *kind.values()]),
        params={"world": world.WORLD, "split": split, "size": size, "cluster": "image"}
        | ({"task": task} if kind else {}),
    )


def photos(n: int | None = None, size: int = 64, split: str = "test") -> ImageSet:
    """The first ``n`` (default 256) crops of the photographs; a cluster is a photograph."""
    count = _count(n, PHOTOS)
    names = sorted(photo_crops.IMAGES[split]) if split == "test" else None
    chosen = [names[i % len(names)] if names else photo_crops.crop(split, i, size).photo for i in range(count)]
    return ImageSet(
        name="photos",
        ids=tuple(f"{split}-{i:05d}" for i in range(count)),
        clusters=tuple(chosen),
        load=lambda i: photo_crops.crop(split, i, size).image,
        expected=PHOTOS,
        fingerprint=files.digest_json([photo_crops.fingerprint(split), count, size]),
        params={"crops": photo_crops.PHOTOS, "split": split, "size": size, "cluster": "photo"},
    )


# ------------------------------------------------------------------------------------------------ folders and shards


@dataclass(frozen=True)
class _File:
    """An image file, with the face of a shard's member."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def read(self) -> bytes:
        return reader.content(self.path)

    def digest(self) -> str:
        return reader.digest(self.path)


def _tar_members(archives: list[Path]) -> dict[str, tars.Member]:
    """{key: image} of all shards, sorted; with several shards a key begins with its shard's name.  Shards are taken by
    name and members by key, so the order in an archive decides nothing.

    Raises ValueError naming an archive that cannot be listed (compressed ones among them), has two images for one key,
    or where no shard holds an image."""
    found: dict[str, tars.Member] = {}
    left_out: Counter[str] = Counter()
    for shard in archives:
        samples, kinds = tars.samples(shard)
        left_out.update(kinds)
        for sample in samples:
            key = image_name(f"{shard.stem}/{sample.key}" if len(archives) > 1 else sample.key)
            if key in found:
                raise ValueError(f"{shard.name} has two images for the key {key}; keep one of them")
            found[key] = sample.image
    tell_left_out(archives[0] if len(archives) == 1 else archives[0].parent, left_out)
    if not found:
        raise ValueError(f"{', '.join(s.name for s in archives)} hold no {', '.join(SUFFIXES)} images")
    return dict(sorted(found.items()))


def _members(path: str | Path) -> Mapping[str, _File | tars.Member]:
    archives = tars.archives(path)
    if archives:
        images = listed(path, tell=False).images if Path(path).is_dir() else ()
        if images:
            raise ValueError(
                f"{path} holds {len(archives)} .tar files and {len(images)} images beside them; give one kind, for "
                f"example {archives[0]}"
            )
        return _tar_members(archives)
    return {stem: _File(found) for stem, found in image_files(path).items()}


def folder(path: str | Path, n: int | None = None, size: int = 64, geometry: str = "adm-crop") -> ImageSet:
    """The first ``n`` (default all) images of a folder, an ImageFolder tree or WebDataset shards, resized to ``size``
    by ``geometry``.

    Broken files stay in the set: ``load`` names them, and the evaluator counts them as failed."""
    found = list(_members(path).items())
    chosen = found[: _count(n, len(found))]
    hashes = [member.digest() for _, member in chosen]
    names = tuple(stem for stem, _ in chosen)
    kinds: dict[int, str | None] = {}

    def read(i: int) -> Image.Image:
        image, kinds[i] = reader.convert(chosen[i][1].read(), chosen[i][1].name)
        if size * max(image.size) / min(image.size) * size > Image.MAX_IMAGE_PIXELS:
            fault = f"{printable(chosen[i][1].name)} is {image.width}x{image.height} pixels, too long for {size} px"
            raise ImageError(f"{fault}; cut it first", "too long and thin")
        return image

    whole = ImageSet(
        name=f"folder-{folder_name(path).removesuffix('.tar')}",
        ids=names,
        clusters=names,
        load=lambda i: resize(read(i), size, geometry),
        expected=len(found),
        fingerprint=files.digest_json([names, hashes, geometry, size]),
        params={"geometry": geometry, "size": size, "cluster": "image"},
        converted=kinds.get,
        floats=(lambda i: resize_crop_float(read(i), size)) if geometry == "resize-crop" else None,
    )
    return of(whole, n or 0)


def of(images: ImageSet, expected: int) -> ImageSet:
    """A set that is a part of one of ``expected`` images, where it has fewer: its records are partial, and no others
    than those of the whole set are reused."""
    if expected <= images.expected:
        return images
    return replace(images, expected=expected, fingerprint=files.digest_json([images.fingerprint, expected]))


# --------------------------------------------------------------------------------------------------------- to a size


GEOMETRIES = {
    "adm-crop": "halve (box) while the short side is at least twice the target, short side to target, centre crop",
    "resize-crop": "short side to target (bilinear, antialiased, in float), centre crop",
    "squash": "resize to a square (bilinear, antialiased), aspect ratio not kept",
}


def resize(image: Image.Image, size: int, geometry: str) -> np.ndarray:
    """An RGB image by one of GEOMETRIES: uint8 [size, size, 3]."""
    if geometry not in GEOMETRIES:
        raise ValueError(f"geometry {geometry!r} is unknown; choose one of {', '.join(GEOMETRIES)}")
    return {"adm-crop": adm_crop, "resize-crop": resize_crop, "squash": squash}[geometry](image, size)


def adm_crop(image: Image.Image, size: int) -> np.ndarray:
    """``adm-crop`` (docs/evaluators.md 1.1): halve with a box filter while the short side is at least 2 x ``size``,
    resize the short side to ``size`` (bicubic), cut the centre.  -> uint8 [size, size, 3]"""
    image = _halved(image, size)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    x, y = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((x, y, x + size, y + size)))


def shrink(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """As ``adm-crop`` makes an image smaller, to a width and a height, without a crop."""
    return _halved(image, min(size)).resize(size, Image.Resampling.BICUBIC)


def _halved(image: Image.Image, short: int) -> Image.Image:
    while min(image.size) >= 2 * short:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    return image


def resize_crop(image: Image.Image, size: int) -> np.ndarray:
    """``resize-crop`` (docs/evaluators.md 1.1) in 8 bits, rounded half up.  -> uint8 [size, size, 3]"""
    return (resize_crop_float(image, size) * 255 + np.float32(0.5)).clip(0, 255).astype(np.uint8)


def resize_crop_float(image: Image.Image, size: int) -> np.ndarray:
    """Short side to ``size`` as torchvision's Resize does on a float tensor (bilinear, antialiased; the long side
    rounded down), centre crop.  -> float32 [size, size, 3] in [0, 1]"""
    import torch
    from torch.nn import functional

    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    short = min(image.size)
    height, width = (int(size * side / short) for side in (image.height, image.width))
    if (height, width) != tuple(x.shape[-2:]):
        x = functional.interpolate(x, (height, width), mode="bilinear", align_corners=False, antialias=True)
    top, left = round((height - size) / 2), round((width - size) / 2)
    return x[0, :, top : top + size, left : left + size].permute(1, 2, 0).contiguous().numpy()


def squash(image: Image.Image, size: int) -> np.ndarray:
    """``squash`` (docs/evaluators.md 1.1): to ``size`` x ``size`` whatever the shape, as torchvision's Resize does on a
    Pillow image (bilinear, antialiased).  -> uint8 [size, size, 3]"""
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
