"""One lister of image folders for every entry point: what is an image, what is left out and said, in which order."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evals.dpg.data import grid_files
from evals.engine.images import folder as image_set
from evals.recon.source import folders
from evals.subjects.folder import folder as subject
from vgt.core import tars
from vgt.core.images import SUFFIXES, ImageError, read_image
from vgt.core.listing import image_files, in_order, listed
from vgt.training.sources import Sample, Skipped, open_source

KINDS = {"0.PNG": "PNG", "a.png": "PNG", "c.webp": "WEBP", "d.JPEG": "JPEG", "e.Tif": "TIFF", "f.bmp": "BMP"}
STRANGE = os.fsdecode(b"h\xff.png")  # not UTF-8
NAMES = (*KINDS, STRANGE, "i\n.png", "gone.png")  # the last one is a link to nothing


def picture(k: int, size: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(k).integers(0, 255, (size, size, 3), dtype=np.uint8))


@pytest.fixture
def mess(tmp_path) -> Path:
    """A folder with images of all names, and what macOS, Windows, editors, killed writers and moved data leave."""
    root = tmp_path / "mess"
    root.mkdir()
    for k, (name, kind) in enumerate(KINDS.items()):
        picture(k).save(root / name, kind)
    for k, name in enumerate((STRANGE, "i\n.png")):
        picture(10 + k).save(root / name, "PNG")
    (root / "gone.png").symlink_to("/nowhere/gone.png")
    (root / "itself.heic").symlink_to("itself.heic")
    for name in ("._a.png", ".a.0123abcd.png", ".DS_Store", "Thumbs.db", "a.png~", "notes.txt", "metadata.json"):
        (root / name).write_bytes(b"\0\5\26\7Mac OS X\xff")
    (root / "folder.png").mkdir()
    (root / ".git").mkdir()
    picture(0).save(root / ".git" / "x.png")
    return root


def test_every_entry_point_sees_the_same_images(mess, tmp_path, capsys):
    assert listed(mess, deep=False).images == tuple(sorted(NAMES))
    assert {p.name for p in image_files(mess).values()} == set(NAMES)
    assert {p.name for p in grid_files(mess).values()} == set(NAMES)
    assert len(image_set(mess, size=16)) == len(folders(mess, mess).ids) == len(NAMES)
    found, extra = subject(mess).samples([{"prompt": str(k)} for k in range(len(NAMES))], 1)
    assert {p.name for p in found.values()} == set(NAMES) and not extra
    assert len(open_source(f"folder:{mess}", tmp_path)) == len(NAMES)
    said = capsys.readouterr().err
    assert said.count("left out") == 2, "once for the folder, once for the folder with all that is in it"
    for kind in (".db file", ".heic file", ".png~ file", "hidden folder", "folder"):
        assert f"1 x {kind}" in said
    assert "3 x hidden file" in said
    assert "txt" not in said and "json" not in said


def test_one_unreadable_image_is_one_failed_image(mess, tmp_path):
    found = image_set(mess, size=16)
    source = open_source(f"folder:{mess}", tmp_path)
    skipped = [each for each in map(source.item, range(len(source))) if isinstance(each, Skipped)]
    assert [(each.name, each.reason) for each in skipped] == [("gone.png", "missing file")]
    for k, name in enumerate(found.ids):
        assert name.isprintable() and source.item(k).name.isprintable()
        if name == "gone":
            with pytest.raises(ImageError, match=r"no image at .*gone\.png"):
                found.load(k)
        else:
            assert found.load(k).shape == (16, 16, 3)
    batch = folders(mess, mess).batch(range(len(NAMES)), 32)
    assert sum(len(group.positions) for group in batch.groups) == len(NAMES) - 1 and len(batch.errors) == 1


def test_links_to_folders_are_followed_but_never_upwards(tmp_path, capsys):
    root, store = tmp_path / "tree", tmp_path / "store"
    for k, place in enumerate((root / "c0", store)):
        place.mkdir(parents=True)
        picture(k).save(place / f"{k}.png")
    (root / "c1").symlink_to(store, target_is_directory=True)
    (root / "c0/again").symlink_to(root, target_is_directory=True)
    (store / "other").symlink_to(root / "c0", target_is_directory=True)  # a way around, which ends too
    assert list(image_files(root)) == ["c0/0", "c1/1", "c1/other/0"]
    assert "left out 2 x link to a folder above it" in capsys.readouterr().err


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path, monkeypatch):
    picture(0).save(tmp_path / "0.png")
    (tmp_path / "closed").mkdir()

    def scandir(path, real=os.scandir):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ValueError, match=r"closed cannot be listed \(Permission denied\)"):
        listed(tmp_path)


def test_names_that_differ_in_case_are_two_and_in_suffix_refused(tmp_path):
    for name in ("a.png", "A.PNG"):
        picture(0).save(tmp_path / name, "PNG")
    assert list(image_files(tmp_path)) == ["A", "a"]
    picture(0).save(tmp_path / "a.webp")
    with pytest.raises(ValueError, match=r"a\.png and a\.webp .*have the same name"):
        image_files(tmp_path)


def test_accents_match_however_they_are_written(tmp_path):
    for folder, name in (("real", "caf\u00e9"), ("made", "cafe\u0301")):
        (tmp_path / folder).mkdir()
        picture(0).save(tmp_path / folder / f"{name}.png")
    assert folders(tmp_path / "real", tmp_path / "made").ids == ["caf\u00e9"]


def test_shards_with_images_beside_them_are_refused(tmp_path):
    shard(tmp_path / "a.tar", ["1.png"])
    (tmp_path / "c").mkdir()
    picture(0).save(tmp_path / "c/1.png")
    with pytest.raises(ValueError, match=r"1 \.tar files and 1 images beside them"):
        image_set(tmp_path)


# ------------------------------------------------------------------------------------------------- what is no image


def broken(folder: Path) -> dict[str, str]:
    """Files of all kinds that cannot be used, and why."""
    picture(0).save(folder / "whole.jpg")
    content = (folder / "whole.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(content[: len(content) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_bytes(b"<html>404</html>")
    (folder / "program.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    frames = [picture(k) for k in range(2)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    frames[0].save(folder / "pages.tif", save_all=True, append_images=frames[1:])
    Image.fromarray(np.full((4, 4), 7, np.uint16)).save(folder / "hole16.png", transparency=7)
    Image.fromarray(np.dstack([np.zeros((4, 4), np.uint8)] * 2)).save(folder / "hole.png")
    Image.new("F", (4, 4)).save(folder / "floats.tif")
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (60_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    import zlib

    crc = zlib.crc32(header[12:])
    (folder / "huge.png").write_bytes(header + crc.to_bytes(4, "big") + b"\0\0\0\0IDAT5\xaf\x06\x1e")
    return {
        "cut.jpg": "torn file", "empty.png": "empty file", "text.png": "not an image", "program.png": "not an image",
        "folder.png": "folder", "pipe.png": "special file", "moving.gif": "several frames",
        "moving.webp": "several frames", "pages.tif": "several frames", "hole16.png": "transparent pixels",
        "hole.png": "transparent pixels", "floats.tif": "pixels of mode F", "huge.png": "too many pixels",
    }  # fmt: skip


def test_what_cannot_be_used_says_why(tmp_path):
    for name, reason in broken(tmp_path).items():
        with pytest.raises(ImageError, match=name.replace(".", r"\.")) as error:
            read_image(tmp_path / name)
        assert error.value.reason == reason, name
        assert "\n" not in str(error.value) and "0x" not in str(error.value)


def test_first_frames_of_photos_and_all_suffixes_are_read(tmp_path):
    picture(0).save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[picture(1)])
    assert read_image(tmp_path / "phone.jpg").shape == (16, 16, 3)
    for suffix in SUFFIXES:
        picture(0).save(tmp_path / f"x{suffix}")
        assert read_image(tmp_path / f"x{suffix}").shape == (16, 16, 3)


def test_an_image_too_long_to_resize_is_one_failed_image(tmp_path):
    Image.new("RGB", (30_000, 2)).save(tmp_path / "line.png")
    with pytest.raises(ImageError, match="line.png is 30000x2 pixels, too long for 256 px"):
        image_set(tmp_path, size=256).load(0)


# ----------------------------------------------------------------------------------------------------------- order


@pytest.mark.parametrize(
    "names",
    [
        "0 1 2 9 10 11",
        "img_1 img_2 img_10 img_100",
        "p1_s2 p1_s10 p2_s1 p10_s1",
        "00000 00001 00010",
        "00000_a_cat 00001_The_dog 00002_2_dogs",
        "a b c",
    ],
)
def test_numbers_in_names_are_read_as_numbers(names):
    wanted = [Path(f"{name}.png") for name in names.split()]
    assert in_order(reversed(wanted)) == wanted


@pytest.mark.parametrize(
    "names",
    [
        "1.png 01.png", "1.png 1.jpg", "2_cats.png 10_dogs.png", "a1.png A2.png", "a.png a-1.png", "0.5.png 0.25.png",
        "9f.png 10a.png",
    ],
)  # fmt: skip
def test_names_without_a_clear_order_are_refused(names):
    with pytest.raises(ValueError, match="which comes first, .* is not clear"):
        in_order(map(Path, names.split()))


def test_a_flat_folder_is_read_in_that_order(tmp_path):
    for k in range(12):
        picture(k).save(tmp_path / f"{k}.png")
    found, _ = subject(tmp_path).samples([{"prompt": str(k)} for k in range(6)], 2)
    assert [path.name for _, path in sorted(found.items())] == [f"{k}.png" for k in range(12)]


# ---------------------------------------------------------------------------------------------------------- shards


def shard(path: Path, names: list[str]) -> Path:
    """A tar file with these members; images and captions tell their own name."""
    with tarfile.open(path, "w") as archive:
        for name in names:
            place = path.parent / "member"
            if name.lower().endswith((".png", ".webp")):
                picture(len(name), 90).save(place, "PNG")
            else:
                place.write_text(name)
            archive.add(place, name)
    return path


def test_dotted_names_in_shards_are_samples(tmp_path):
    names = [f"v{k}.5{end}" for k in range(3) for end in (".png", ".txt")] + ["v0.7.png", "v0.7.txt", "./w.x.y.PNG"]
    path = shard(tmp_path / "dotted.tar", [*names, "w.txt"])
    source = open_source(f"webdataset:{path}", tmp_path / "cache", captions=True)
    captions = [each.caption for each in map(source.item, range(len(source))) if isinstance(each, Sample)]
    assert captions == ["v0.5.txt", "v1.5.txt", "v2.5.txt", "v0.7.txt", "w.txt"]
    assert image_set(path, size=16).ids == ("v0.5", "v0.7", "v1.5", "v2.5", "w.x.y")


def test_what_is_left_out_of_a_shard_is_said_from_the_index_too(tmp_path, capsys):
    path = shard(tmp_path / "t.tar", ["7.png", "7.txt", "7.seg.png", "._7.png", ".git/8.png", "9.heic", "7.cls"])
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("10.png")
        link.type, link.linkname = tarfile.SYMTYPE, "7.png"
        archive.addfile(link)
    samples, left_out = tars.samples(path)
    assert [each.key for each in samples] == ["7"]
    assert left_out == {"image beside that of its sample": 1, "hidden file": 2, ".heic file": 1, "link": 1}
    for cache in ("cache", "cache"):
        assert len(open_source(f"webdataset:{path}", tmp_path / cache)) == 1
    assert "webdataset:" in (said := capsys.readouterr().err) and said.count("1 x .heic file") == 1
    assert len(image_set(path, size=16)) == 1 and "2 x hidden file" in capsys.readouterr().err


TORN = {
    "at a member": lambda data, second: data[:second],
    "in a header": lambda data, second: data[: second + 100],
    "in a member": lambda data, second: data[: second + 600],
    "one bit": lambda data, second: data[: second + 150] + bytes([data[second + 150] ^ 1]) + data[second + 151 :],
    "a hole": lambda data, second: data[:second] + bytes(512) + data[second + 512 :],
    "two holes": lambda data, second: data[:second] + bytes(1024) + data[second + 1024 :],
    "one block at the end": lambda data, second: data[: 512 * (-(-len(data.rstrip(b"\0")) // 512) + 1)],
    "two archives": lambda data, second: data + data,
    "something behind": lambda data, second: data + b"x",
}


@pytest.mark.parametrize("torn", TORN)
def test_a_torn_shard_is_refused_after_its_last_member(tmp_path, torn):
    path = shard(tmp_path / "x.tar", ["1.png", "2.png", "3.png"])
    with tarfile.open(path) as archive:
        second = archive.getmember("2.png").offset
    data = path.read_bytes()
    path.write_bytes(data + bytes(512))
    assert len(tars.samples(path)[0]) == 3  # more zeros at the end are padding
    path.write_bytes(TORN[torn](data, second))
    last = {
        "one block at the end": "3.png",
        "two archives": "3.png",
        "something behind": "3.png",
    }
    for read in (tars.samples, lambda shard: image_set(shard, size=16)):
        with pytest.raises(ValueError, match=rf"^x\.tar is torn after member {last.get(torn, '1.png')} \("):
            read(path)


def test_our_own_files_beside_images_are_not_left_out(tmp_path):
    """Hashes and locks of a folder that an evaluator filled."""
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    for name in ("images.hashes", ".images.hashes.lock", ".images.hashes.1-of-1.lock"):
        (tmp_path / name).touch()
    assert not listed(tmp_path).left_out
