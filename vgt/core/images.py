"""One image file of whatever kind to upright 8-bit RGB: the only reader of the images of users.

What can be converted without a choice (grey, palette, opaque alpha, CMYK, 16 bits) is converted and named, so that a
caller can say how many there were; what cannot (transparency, floating point) is an error of that image.  The EXIF
orientation is applied; color profiles (ICC) are not, as no published evaluation applies them.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

ORIENTATION = 0x0112  # EXIF: 5 and more lie on their side
_PNG = b"\x89PNG\r\n\x1a\n"


class ImageError(ValueError):
    """An image that cannot be used.  ``reason``: a few words without its name, the same for all images of its
    kind, to count by."""

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason


def convert(content: bytes, name: str) -> tuple[Image.Image, str | None]:
    """(image upright in 8-bit RGB, what it was converted from: None for RGB of 8 bits).

    Raises ImageError naming the image where it is broken or has no unambiguous RGB."""
    try:
        with Image.open(io.BytesIO(content)) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened)
            if content.startswith(_PNG) and len(content) > 24 and content[24] == 16:
                return _from_16_bits(image, name), "16 bits"
            return _to_rgb(image, name)
    except ImageError:
        raise
    except Exception as error:  # a decoder raises whatever a torn file makes it stumble over
        reason = _reason(error, content)
        said = (str(error).splitlines() or [type(error).__name__])[0]
        fault = reason if isinstance(error, UnidentifiedImageError) else said  # Pillow names an object in memory
        raise ImageError(f"{name} cannot be read: {fault}", reason) from error


def _reason(error: Exception, content: bytes) -> str:
    if not content:
        return "empty file"
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return "too many pixels" if isinstance(error, Image.DecompressionBombError) else "torn file"


def _to_rgb(image: Image.Image, name: str) -> tuple[Image.Image, str | None]:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image, None
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        if rgba.getextrema()[3][0] < 255:
            fault = f"{name} has transparent pixels; flatten it onto a background first"
            raise ImageError(fault, "transparent pixels")
        return rgba.convert("RGB"), "opaque alpha" if image.mode != "P" else "palette"
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N"):
        return _from_16_bits(image, name), "16 bits"
    known = {"L": "grey", "1": "black and white", "P": "palette", "CMYK": "CMYK", "YCbCr": "YCbCr"}
    if image.mode not in known:
        fault = f"{name} has pixels of mode {image.mode}; save it as RGB with 8 bits first"
        raise ImageError(fault, f"pixels of mode {image.mode}")
    return image.convert("RGB"), known[image.mode]


def _from_16_bits(image: Image.Image, name: str) -> Image.Image:
    """Grey: round(v / 257).  Pillow has already kept the high byte of 16-bit colour, at most one level lower."""
    if image.mode in ("RGB", "RGBA", "LA"):
        return _to_rgb(image, name)[0]
    levels = np.asarray(image).astype(np.int64)
    return Image.fromarray(np.rint(levels / 257).clip(0, 255).astype(np.uint8)).convert("RGB")


def read_image(path: str | Path) -> np.ndarray:
    """The image of a file, upright: uint8 [H, W, 3].  Raises ImageError naming a file that is not there, cannot be read
    whole or has no unambiguous RGB."""
    return np.asarray(convert(_content(path), Path(path).name)[0])


def image_size(path: str | Path) -> tuple[int, int]:
    """Width and height of the upright image in pixels, from the file's header alone.  Raises ImageError for a file that
    is not there or is no image."""
    name = Path(path).name
    try:
        with Image.open(path) as opened:
            width, height = opened.size
            return (height, width) if opened.getexif().get(ORIENTATION, 1) >= 5 else (width, height)
    except Exception as error:  # as above
        raise ImageError(f"{name} cannot be read: {type(error).__name__}", "not an image") from error


def is_whole(path: str | Path) -> bool:
    """Whether a PNG file of our own is there and undamaged, by its checksums, without decoding it."""
    try:
        with Image.open(path) as opened:
            opened.verify()
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def _content(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ImageError(f"no image at {path}", "missing file") from error
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}", "unreadable file") from error
