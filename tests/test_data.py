"""Photo crops, drawn scenes and folders as sets of images."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from evals import data
from vgt.core import photos, scenes


def test_a_crop_is_a_pure_function_of_its_name():
    first = [photos.crop("train", i, 64) for i in (5, 3, 4)]
    again = [photos.crop("train", i, 64) for i in (3, 4, 5)]
    np.testing.assert_array_equal(first[1].image, again[0].image)
    np.testing.assert_array_equal(first[0].image, again[2].image)
    assert first[0].image.shape == (64, 64, 3) and first[0].image.dtype == np.uint8
    assert not np.array_equal(first[0].image, first[1].image)
    # PNG pictures and Pillow's integer resampling: the same bytes on every machine.
    cat = photos.crop("test", 0, 64)
    assert cat.picture == "cat"
    assert hashlib.sha256(cat.image.tobytes()).hexdigest()[:16] == "5df96b8194ed0ff6"


def test_splits_share_no_picture_and_the_stereo_pair_stays_together():
    paths = {split: {photos.picture_path(split, name) for name in names} for split, names in photos.PICTURES.items()}
    assert not paths["train"] & paths["test"]
    assert {"motorcycle-left", "motorcycle-right"} <= set(photos.PICTURES["train"])
    assert {photos.crop("train", i).picture for i in range(100)} == set(photos.PICTURES["train"])
    counts = [photos.crop("test", i).picture for i in range(256)]
    assert {counts.count(name) for name in photos.PICTURES["test"]} == {64}


def test_pictures_are_in_color_and_ship_with_their_packages():
    for split, names in photos.PICTURES.items():
        for name in names:
            with Image.open(photos.picture_path(split, name)) as opened:
                assert opened.mode == "RGB" and min(opened.size) >= 300


def test_crops_come_at_several_scales_inside_their_picture():
    crops = [photos.crop("test", i, 64) for i in range(200)]
    sides = np.array([c.square[2] for c in crops])
    assert sides.min() < 80 and sides.max() > 250 and np.median(sides) < 190
    for c in crops:
        with Image.open(photos.picture_path("test", c.picture)) as opened:
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
        photos.picture_path("test", "cat")


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
    assert data.read_image(folder / "turned.png").size == (30, 20)
    Image.new("L", (8, 8), 77).save(folder / "gray.png")
    assert data.read_image(folder / "gray.png").getpixel((0, 0)) == (77, 77, 77)
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
