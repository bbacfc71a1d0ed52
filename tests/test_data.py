"""Photo crops, drawn scenes and folders as sets of images."""

import hashlib
import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from evals.engine import images as data
from vgt.core import photos, scenes
from vgt.core.images import read_image


def test_a_crop_is_a_pure_function_of_its_name():
    first = [photos.crop("train", i, 64) for i in (5, 3, 4)]
    again = [photos.crop("train", i, 64) for i in (3, 4, 5)]
    np.testing.assert_array_equal(first[1].image, again[0].image)
    np.testing.assert_array_equal(first[0].image, again[2].image)
    assert first[0].image.shape == (64, 64, 3) and first[0].image.dtype == np.uint8
    assert not np.array_equal(first[0].image, first[1].image)
    # PNG images and Pillow's integer resampling: the same bytes on every machine.
    cat = photos.crop("test", 0, 64)
    assert cat.photo == "cat"
    assert hashlib.sha256(cat.image.tobytes()).hexdigest()[:16] == "5df96b8194ed0ff6"


def test_splits_share_no_image_and_the_stereo_pair_stays_together():
    paths = {split: {photos.image_path(split, name) for name in names} for split, names in photos.IMAGES.items()}
    assert not paths["train"] & paths["test"]
    assert {"motorcycle-left", "motorcycle-right"} <= set(photos.IMAGES["train"])
    assert {photos.crop("train", i).photo for i in range(100)} == set(photos.IMAGES["train"])
    counts = [photos.crop("test", i).photo for i in range(256)]
    assert {counts.count(name) for name in photos.IMAGES["test"]} == {64}


def test_images_are_in_color_and_ship_with_their_packages():
    for split, names in photos.IMAGES.items():
        for name in names:
            with Image.open(photos.image_path(split, name)) as opened:
                assert opened.mode == "RGB" and min(opened.size) >= 300


def test_crops_come_at_several_scales_inside_their_image():
    crops = [photos.crop("test", i, 64) for i in range(200)]
    sides = np.array([c.square[2] for c in crops])
    assert sides.min() < 80 and sides.max() > 250 and np.median(sides) < 190
    for c in crops:
        with Image.open(photos.image_path("test", c.photo)) as opened:
            x, y, side = c.square
            assert x >= 0 and y >= 0 and x + side <= opened.width and y + side <= opened.height
    assert len({c.square for c in crops}) == 200


@pytest.mark.parametrize("size", [32, 128, 448])
def test_native_crops_of_other_sizes(size):
    assert photos.images("test", range(4), size).shape == (4, size, size, 3)


def test_photo_errors(monkeypatch):
    with pytest.raises(ValueError, match="'val'.*train, test"):
        photos.crop("val", 0)
    with pytest.raises(ValueError, match="crop -1"):
        photos.crop("test", -1)
    monkeypatch.setattr(photos.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install scikit-image"):
        photos.image_path("test", "cat")


def test_image_sets_of_the_embedded_world_and_of_photos():
    drawn, crops = data.scenes("test", 3), data.photos(5)
    np.testing.assert_array_equal(drawn.load(2), scenes.item("test", 2).image)
    np.testing.assert_array_equal(crops.load(1), photos.crop("test", 1).image)
    assert (len(data.scenes()), len(data.photos())) == (500, 256)
    assert drawn.expected == 500 and crops.clusters == ("cat", "coffee", "rocket", "temple", "cat")
    assert len(set(drawn.clusters)) == 3
    prints = [data.scenes("test", 3), data.scenes("test", 4), data.scenes("val", 3), data.scenes("test", 3, 32), crops]
    assert len({s.fingerprint for s in prints}) == 5
    with pytest.raises(ValueError, match="n = 0"):
        data.photos(0)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name, size in (("b/2.png", (90, 64)), ("a/1.jpg", (64, 200)), ("c.JPEG", (300, 260))):
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    (tmp_path / "mine" / "notes.txt").write_text("no image")
    return tmp_path / "mine"


def test_a_folder_is_sorted_and_cropped(folder):
    found = data.folder(folder)
    assert found.ids == ("a/1", "b/2", "c") and found.name == "folder-mine" and found.expected == 3
    assert all(found.load(i).shape == (64, 64, 3) for i in range(3))
    with Image.open(folder / "b/2.png") as opened:
        np.testing.assert_array_equal(found.load(1), np.asarray(opened)[:, 13:77])
    before = found.fingerprint
    Image.new("RGB", (70, 70)).save(folder / "c.JPEG")
    assert data.folder(folder).fingerprint != before
    assert len(data.folder(folder, n=2)) == 2 and data.folder(folder, n=2).expected == 3


def test_adm_crop_halves_then_resizes_then_cuts_the_center():
    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (300, 520, 3), dtype=np.uint8))
    halved = image.resize((260, 150), Image.Resampling.BOX).resize((130, 75), Image.Resampling.BOX)
    wanted = halved.resize((111, 64), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(data.adm_crop(image, 64), np.asarray(wanted)[:, 23:87])


def test_upright_rgb_and_broken_files(folder):
    turned = Image.new("RGB", (20, 30), (9, 9, 9))
    turned.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    turned.save(folder / "turned.png", exif=exif)
    assert read_image(folder / "turned.png").shape == (20, 30, 3)
    Image.new("L", (8, 8), 77).save(folder / "gray.png")
    assert read_image(folder / "gray.png")[0, 0].tolist() == [77, 77, 77]
    whole = (folder / "a/1.jpg").read_bytes()
    (folder / "a/1.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    found = data.folder(folder)
    assert len(found) == 6
    for name in ("a/1", "empty"):
        with pytest.raises(ValueError, match=name.split("/")[-1]):
            found.load(found.ids.index(name))


def test_folder_errors(tmp_path, folder):
    with pytest.raises(ValueError, match="no folder .*absent"):
        data.folder(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no .jpg"):
        data.folder(tmp_path / "empty")
    Image.new("RGB", (8, 8)).save(folder / "c.png")
    with pytest.raises(ValueError, match="same name"):
        data.folder(folder)


# ------------------------------------------------------------------------------------------- all kinds of files


def saved(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


@pytest.fixture
def image():
    noise = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((48, 40), Image.Resampling.BICUBIC)


def loaded(tmp_path, name):
    found = data.folder(tmp_path / "kinds", size=32)
    i = found.ids.index(name)
    return found.load(i), found.converted(i)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    levels = np.arange(40 * 40, dtype=np.uint16).reshape(40, 40) * 40
    saved(tmp_path / "kinds/deep.png", Image.fromarray(levels))
    image, kind = loaded(tmp_path, "deep")
    assert kind == "16 bits"
    wanted = np.rint(levels / 257).astype(np.uint8)
    np.testing.assert_array_equal(image, data.adm_crop(Image.fromarray(wanted).convert("RGB"), 32))


def test_sixteen_bit_colour_keeps_its_high_byte(tmp_path):
    import struct
    import zlib

    levels = np.random.default_rng(1).integers(0, 65536, (40, 40, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    content = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", 40, 40, 16, 2, 0, 0, 0)
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    (tmp_path / "kinds").mkdir()
    (tmp_path / "kinds/deep.png").write_bytes(content)
    image, kind = loaded(tmp_path, "deep")
    assert kind == "16 bits"
    wanted = data.adm_crop(Image.fromarray((levels >> 8).astype(np.uint8)), 32)
    assert np.abs(image.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("CMYK", "CMYK", {"format": "JPEG", "quality": 95}),
        ("L", "grey", {"format": "PNG"}),
        ("1", "black and white", {"format": "PNG"}),
        ("P", "palette", {"format": "PNG"}),
        ("RGBA", "opaque alpha", {"format": "PNG"}),
    ],
)
def test_other_kinds_are_converted_and_named(tmp_path, image, mode, kind, options):
    saved(tmp_path / f"kinds/one.{options['format'].lower()}", image.convert(mode), **options)
    saved(tmp_path / "kinds/plain.png", image)
    seen, found = loaded(tmp_path, "one")
    assert found == kind and seen.shape == (32, 32, 3)
    plain, nothing = loaded(tmp_path, "plain")
    assert nothing is None
    if mode in ("RGBA", "CMYK"):
        assert np.abs(seen.astype(int) - plain).mean() < (1 if mode == "RGBA" else 12)


def test_transparency_and_floats_are_errors_of_their_image(tmp_path, image):
    clear = image.convert("RGBA")
    clear.putalpha(128)
    saved(tmp_path / "kinds/clear.png", clear)
    palette = image.convert("P")
    saved(tmp_path / "kinds/hole.png", palette, transparency=palette.getpixel((0, 0)))
    float_tiff = Image.fromarray(np.zeros((40, 40), np.float32))
    saved(tmp_path / "kinds/floats.tif", float_tiff)
    (tmp_path / "kinds/floats.tif").rename(tmp_path / "kinds/floats.png")
    for name, message in (("clear", "transparent pixels"), ("hole", "transparent pixels"), ("floats", "mode F")):
        with pytest.raises(ValueError, match=f"{name}.png has .*{message}"):
            loaded(tmp_path, name)


# ----------------------------------------------------------------------------------------------------- WebDataset


def encoded(image):
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def shard(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


@pytest.fixture
def pieces(image):
    turned = [image.rotate(90 * i, expand=True) for i in range(4)]
    return [encoded(one) for one in turned]


def test_shards_are_read_by_offset_in_the_order_of_their_names(tmp_path, pieces):
    shard(tmp_path / "sets/b.tar", [("2.png", pieces[2]), ("1.cls", b"7"), ("1.png", pieces[1])])
    shard(tmp_path / "sets/a.tar", [("x/3.seg.png", pieces[3]), ("x/0.json", b"{}"), (".hidden.png", b"")])
    found = data.folder(tmp_path / "sets", size=32)
    assert found.ids == ("a/x/3.seg", "b/1", "b/2") and found.name == "folder-sets" and found.expected == 3
    for i, k in enumerate((3, 1, 2)):
        with Image.open(io.BytesIO(pieces[k])) as opened:
            np.testing.assert_array_equal(found.load(i), data.adm_crop(opened.convert("RGB"), 32))
    before = found.fingerprint
    single = data.folder(tmp_path / "sets/b.tar", size=32)
    assert single.ids == ("1", "2") and single.name == "folder-b"
    shard(tmp_path / "sets/b.tar", [("1.png", pieces[1]), ("2.png", pieces[2])])
    assert data.folder(tmp_path / "sets", size=32).fingerprint == before, "the order in an archive decides nothing"
    shard(tmp_path / "sets/b.tar", [("1.png", pieces[0]), ("2.png", pieces[2])])
    assert data.folder(tmp_path / "sets", size=32).fingerprint != before


def test_shards_and_folders_give_the_same_images(tmp_path, pieces):
    shard(tmp_path / "all.tar", [(f"{i}.png", content) for i, content in enumerate(pieces)])
    (tmp_path / "folder").mkdir()
    for i, content in enumerate(pieces):
        (tmp_path / "folder" / f"{i}.png").write_bytes(content)
    one, other = data.folder(tmp_path / "all.tar", size=32), data.folder(tmp_path / "folder", size=32)
    assert one.fingerprint == other.fingerprint and one.ids == other.ids
    assert data.image_set(str(tmp_path / "all.tar"), 2, 32, "squash").params["geometry"] == "squash"


def test_shard_errors(tmp_path, pieces):
    (tmp_path / "none.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(ValueError, match="none.tar is no plain tar file"):
        data.folder(tmp_path / "none.tar")
    shard(tmp_path / "empty.tar", [("1.txt", b"words")])
    with pytest.raises(ValueError, match="empty.tar hold no"):
        data.folder(tmp_path / "empty.tar")
    shard(tmp_path / "double.tar", [("1.png", pieces[0]), ("1.jpg", pieces[1])])
    with pytest.raises(ValueError, match="two images for the key 1"):
        data.folder(tmp_path / "double.tar")
    shard(tmp_path / "broken.tar", [("1.png", pieces[0]), ("2.png", b"no image")])
    found = data.folder(tmp_path / "broken.tar", size=32)
    assert found.load(0).shape == (32, 32, 3)
    with pytest.raises(ValueError, match="2.png cannot be read"):
        found.load(1)
    shard(tmp_path / "cut.tar", [("1.png", pieces[0])])
    found = data.folder(tmp_path / "cut.tar", size=32)
    (tmp_path / "cut.tar").write_bytes((tmp_path / "cut.tar").read_bytes()[:600])
    with pytest.raises(ValueError, match="1.png in cut.tar is cut off"):
        found.load(0)
