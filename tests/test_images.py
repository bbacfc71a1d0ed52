"""One reader of image files for every entry point: kinds of files, sizes from headers, and that nobody else opens
one."""

from __future__ import annotations

import ast
import io

import numpy as np
import pytest
from PIL import Image
from test_architecture import FILES, ROOT

from vgt.core.images import ImageError, image_size, is_whole, read_image

LEVELS = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)


def saved(path, image: Image.Image, **how) -> np.ndarray:
    image.save(path, **how)
    return read_image(path)


def test_kinds_of_files(tmp_path):
    plain = Image.fromarray(LEVELS)
    assert np.array_equal(saved(tmp_path / "plain.png", plain), LEVELS)
    grey = saved(tmp_path / "grey.png", plain.convert("L"))
    assert np.array_equal(grey, np.asarray(plain.convert("L"))[..., None].repeat(3, 2))
    deep = LEVELS[..., 0].astype(np.uint16) * 257
    assert np.array_equal(saved(tmp_path / "deep.png", Image.fromarray(deep))[..., 1], LEVELS[..., 0])
    opaque = Image.fromarray(np.dstack([LEVELS, np.full((6, 5), 255, np.uint8)]))
    assert np.array_equal(saved(tmp_path / "opaque.png", opaque), LEVELS)
    cmyk = saved(tmp_path / "cmyk.tif", plain.convert("CMYK"))
    assert np.array_equal(cmyk, np.asarray(plain.convert("CMYK").convert("RGB")))
    icc = saved(tmp_path / "profile.png", plain, icc_profile=b"a profile that nobody applies")
    assert np.array_equal(icc, LEVELS)
    with pytest.raises(ImageError, match="transparent"):
        saved(tmp_path / "glass.png", Image.fromarray(np.dstack([LEVELS, LEVELS[..., 0]])))


def test_sizes_are_those_of_the_upright_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    turned = saved(tmp_path / "turned.jpg", Image.fromarray(LEVELS), exif=exif)
    assert turned.shape == (5, 6, 3) and image_size(tmp_path / "turned.jpg") == (6, 5)
    assert saved(tmp_path / "plain.png", Image.fromarray(LEVELS)).shape == (6, 5, 3)
    assert image_size(tmp_path / "plain.png") == (5, 6)
    for read in (image_size, read_image):
        with pytest.raises(ImageError, match=r"absent\.png"):
            read(tmp_path / "absent.png")


def test_damage_is_seen(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(LEVELS).save(buffer, "PNG")
    whole, path = buffer.getvalue(), tmp_path / "a.png"
    assert not is_whole(path)
    path.write_bytes(whole)
    assert is_whole(path)
    for broken in (b"", whole[: len(whole) // 2], whole[:60] + bytes([whole[60] ^ 1]) + whole[61:]):
        path.write_bytes(broken)
        assert not is_whole(path)
        with pytest.raises(ImageError, match=r"a\.png"):
            read_image(path)


# What these open is no user's file: photos of installed packages, an image just encoded in memory, images that a record
# names as its own evidence, and a program that runs in an environment without this project.
OWN_IMAGES = (
    "vgt/core/images.py",
    "vgt/core/photos.py",
    "evals/calibration/run.py",
    "evals/judges/mplug_child.py",
    "reports/figures/",
)


def test_what_is_no_image_is_said_without_objects_in_memory(tmp_path):
    for content, fault in ((b"", "empty file"), (b"some text", "not an image")):
        (tmp_path / "x.png").write_bytes(content)
        with pytest.raises(ImageError, match=f"x.png cannot be read: {fault}$"):
            read_image(tmp_path / "x.png")


def test_nobody_else_opens_an_image():
    for path in FILES:
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(OWN_IMAGES):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "open" and isinstance(node.value, ast.Name):
                assert node.value.id != "Image", f"{name} opens an image; use vgt.core.images"
