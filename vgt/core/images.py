"""One image file of whatever kind to upright 8-bit RGB: the only reader of the images of users (which files of a folder
are images: vgt/core/listing.py).

What can be converted without a choice (grey, palette, opaque alpha, CMYK, 16 bits) is converted and named, so that a
caller can say how many there were; what cannot (transparency, several frames, floating point) is an error of that
image.  The EXIF orientation is applied; color profiles (ICC) are not, as no published evaluation applies them.
"""

from __future__ import annotations

import io
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vgt.core import files
from vgt.core.text import printable

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jfif", ".jpe", ".ppm", ".pgm")
ORIENTATION = 0x0112  # EXIF: 5 and more lie on their side
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # by content; others may start programs (EPS)
_LARGEST = 1 << 31  # bytes of a file; Pillow limits the pixels (``Image.MAX_IMAGE_PIXELS``)
_PNG = b"\x89PNG\r\n\x1a\n"
warnings.filterwarnings("ignore", module=r"PIL\.")  # what matters is an error here; the rest names no file


class ImageError(ValueError):
    """An image that cannot be used.  ``reason``: a few words without its name, the same for all images of its
    kind, to count by."""

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason


def _open(source: io.BytesIO | str | Path) -> Image.Image:
    return Image.open(source, formats=_FORMATS)


def convert(content: bytes, name: str) -> tuple[Image.Image, str | None]:
    """(image upright in 8-bit RGB, what it was converted from: None for RGB of 8 bits).

    Raises ImageError naming the image where it is broken or has no unambiguous RGB."""
    name = printable(name)
    try:
        with _open(io.BytesIO(content)) as opened:
            if getattr(opened, "is_animated", False) and opened.format != "MPO":  # an MPO's first frame is the photo
                raise ImageError(f"{name} has {opened.n_frames} frames; save the one that is meant", "several frames")
            opened.load()
            image = ImageOps.exif_transpose(opened)
            if content.startswith(_PNG) and len(content) > 24 and content[24] == 16:
                return _from_16_bits(image, name), "16 bits"
            return _to_rgb(image, name)
    except ImageError:
        raise
    except Exception as error:  # a decoder raises whatever a torn file makes it stumble over
        raise _unreadable(error, name, content) from error


def _unreadable(error: Exception, name: str, content: bytes) -> ImageError:
    """What a decoder's error means; ``content``: the file's beginning at least."""
    if isinstance(error, Image.DecompressionBombError):
        reason = "too many pixels"
    elif isinstance(error, UnidentifiedImageError):
        reason = "not an image" if content else "empty file"
    else:
        reason = "torn file" if content else "empty file"
    said = printable((str(error).splitlines() or [type(error).__name__])[0])
    fault = reason if isinstance(error, UnidentifiedImageError) else said  # Pillow names an object in memory
    return ImageError(f"{name} cannot be read: {fault}", reason)


def _to_rgb(image: Image.Image, name: str) -> tuple[Image.Image, str | None]:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image, None
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        if rgba.getextrema()[3][0] < 255:
            raise _transparent(name)
        return rgba.convert("RGB"), "opaque alpha" if image.mode != "P" else "palette"
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N"):
        return _from_16_bits(image, name), "16 bits"
    known = {"L": "grey", "1": "black and white", "P": "palette", "CMYK": "CMYK", "YCbCr": "YCbCr"}
    if image.mode not in known:
        fault = f"{name} has pixels of mode {image.mode}; save it as RGB with 8 bits first"
        raise ImageError(fault, f"pixels of mode {image.mode}")
    return image.convert("RGB"), known[image.mode]


def _transparent(name: str) -> ImageError:
    return ImageError(f"{name} has transparent pixels; flatten it onto a background first", "transparent pixels")


def _from_16_bits(image: Image.Image, name: str) -> Image.Image:
    """Grey: round(v / 257).  Pillow has already kept the high byte of 16-bit colour, at most one level lower."""
    if image.mode in ("RGB", "RGBA", "LA"):
        return _to_rgb(image, name)[0]
    levels = np.asarray(image).astype(np.int64)
    if "transparency" in image.info and (levels == image.info["transparency"]).any():
        raise _transparent(name)
    return Image.fromarray(np.rint(levels / 257).clip(0, 255).astype(np.uint8)).convert("RGB")


def read_image(path: str | Path) -> np.ndarray:
    """The image of a file, upright: uint8 [H, W, 3].  Raises ImageError naming a file that is not there, cannot be read
    whole or has no unambiguous RGB."""
    return np.asarray(convert(content(path), Path(path).name)[0])


def image_size(path: str | Path) -> tuple[int, int]:
    """Width and height of the upright image in pixels, from the file's header alone.  Raises ImageError for a file that
    is not there or is no image."""
    name = printable(Path(path).name)
    _check_file(path)
    try:
        with _open(path) as opened:
            width, height = opened.size
            return (height, width) if opened.getexif().get(ORIENTATION, 1) >= 5 else (width, height)
    except Exception as error:  # as above
        raise _unreadable(error, name, b"any" if Path(path).stat().st_size else b"") from error


def is_whole(path: str | Path) -> bool:
    """Whether a PNG file of our own is there and undamaged, by its checksums, without decoding it."""
    try:
        with Image.open(path) as opened:
            opened.verify()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False
    return True


def _check_file(path: str | Path) -> int:
    """The bytes of a file.  Raises ImageError for what is none: a folder, a link to nothing, a pipe."""
    shown = printable(str(path))
    try:
        found = Path(path).stat()
    except FileNotFoundError as error:
        raise ImageError(f"no image at {shown}", "missing file") from error
    except OSError as error:
        raise ImageError(f"{shown} cannot be read: {error.strerror or error}", "unreadable file") from error
    if not stat.S_ISREG(found.st_mode):
        what = "folder" if stat.S_ISDIR(found.st_mode) else "special file"
        raise ImageError(f"{shown} is a {what}, not an image", what)
    if found.st_size > _LARGEST:
        raise ImageError(f"{shown} has {found.st_size:,} bytes, more than an image may have", "too many bytes")
    return found.st_size


def content(path: str | Path) -> bytes:
    """The bytes of an image file.  Raises ImageError where there is none or it cannot be read."""
    _check_file(path)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        shown = printable(str(path))
        raise ImageError(f"{shown} cannot be read: {error.strerror or error}", "unreadable file") from error


def digest(path: str | Path) -> str:
    """sha256 hex of an image file; of one that cannot be read, why: it stays in its set and is counted as failed."""
    try:
        _check_file(path)
        return files.digest_file(path)
    except ImageError as error:
        return error.reason
    except OSError:
        return "unreadable file"
