"""Training images from folders, tar shards and Hugging Face data sets: the same samples, and reasons for the rest."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import tarfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from vgt.core import scenes
from vgt.training.sources import Sample, Skipped, open_source, webdataset

CAPTIONS = ("a red star", "two blue rings", "a green moon")


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    rng = np.random.default_rng(0)
    drawn = [Image.fromarray(rng.integers(0, 255, (20 + i, 30, 3), dtype=np.uint8)) for i in range(3)]
    return [encoded(image) for image in drawn]


def pixels(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as opened:
        return np.asarray(opened.convert("RGB"))


def write(folder, **contents):
    for name, content in contents.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def shard(path, *members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def everything(source) -> list[tuple[str, str | None]]:
    """(name, caption or reason) of each sample."""
    found = [source.item(i) for i in range(len(source))]
    return [(each.name, each.reason if isinstance(each, Skipped) else each.caption) for each in found]


# ------------------------------------------------------------------------------------------------------- folders


@pytest.fixture
def folder(tmp_path, images):
    return write(tmp_path / "mine", b__2_png=images[1], a_PNG=images[0], b__c__3_webp=images[2], notes_md="no")


def test_a_folder_without_captions_is_sorted_by_path(tmp_path, folder, images):
    source = open_source(f"folder:{folder}", tmp_path)
    assert everything(source) == [("a.PNG", None), ("b/2.png", None), ("b/c/3.webp", None)]
    np.testing.assert_array_equal(np.asarray(source.item(1).image), pixels(images[1]))
    before = source.fingerprint
    shutil.move(folder, tmp_path / "moved")
    assert open_source(f"folder:{tmp_path / 'moved'}", tmp_path).fingerprint == before
    write(tmp_path / "moved", **{"z_png": images[0], ".hidden_png": images[0]})
    more = open_source(f"folder:{tmp_path / 'moved'}", tmp_path)
    assert len(more) == 4 and more.fingerprint != before


def test_captions_beside_the_images(tmp_path, folder):
    write(folder, a_txt="\ufeff  a red star\n", b__c__3_txt=" \n", b__2_txt=b"\xff\xfe\x00")
    source = open_source(f"folder:{folder}", tmp_path, captions=True)
    expected = ["a red star", "caption is not UTF-8", "no caption"]
    assert [said for _, said in everything(source)] == expected
    (folder / "b/2.txt").unlink()
    assert open_source(f"folder:{folder}", tmp_path, captions=True).item(1) == Skipped("b/2.png", "no caption")


ROWS = [("a.PNG", CAPTIONS[0]), ("b/2.png", CAPTIONS[1]), ("gone.png", "not there")]


@pytest.mark.parametrize("table", ["metadata.jsonl", "metadata.csv", "captions.csv"])
def test_captions_in_a_table(tmp_path, folder, table):
    lines = [json.dumps({"file_name": name, "text": text, "n": 1}) for name, text in ROWS]
    if table.endswith("csv"):
        lines = ["n,text,file_name", *(f'1,"{text}",./{name}' for name, text in ROWS)]
    (folder / table).write_text("\n".join(lines))
    source = open_source(f"folder:{folder}", tmp_path, captions=True)
    assert everything(source) == [*ROWS[:2], ("b/c/3.webp", "no caption"), ("gone.png", "missing file")]
    before = source.fingerprint
    (folder / table).write_text("\n".join(lines).replace("red", "pink"))
    assert open_source(f"folder:{folder}", tmp_path, captions=True).fingerprint != before


def test_columns_of_a_table_can_be_named(tmp_path, folder):
    row = {"photo": "a.PNG", "text": "short", "long": "a long one", "list": ["x"]}
    (folder / "metadata.jsonl").write_text(json.dumps(row) + "\n\n")
    named = open_source(f"folder:{folder}", tmp_path, True, image_column="photo", caption_column="long")
    assert named.item(0).caption == "a long one"
    lists = open_source(f"folder:{folder}", tmp_path, True, image_column="photo", caption_column="list")
    assert lists.item(0) == Skipped("a.PNG", "caption is not text")
    with pytest.raises(ValueError, match="has no 'wide'; set data.caption_column to one of photo, text, long"):
        open_source(f"folder:{folder}", tmp_path, True, image_column="photo", caption_column="wide")
    with pytest.raises(ValueError, match="columns photo, text, long, list; name the files file_name"):
        open_source(f"folder:{folder}", tmp_path, captions=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"file_name": "a.PNG", "text": "x"}\n{"file_name": ', "metadata.jsonl, line 2: not valid JSON"),
        ("[1]", r"metadata.jsonl, line 1: \[1\] is no JSON object"),
        (f"[{'[' * 9999}", "line 1: nested more than 100 levels deep"),
        ('{"file_name": "../a.PNG", "text": "x"}', r"line 1 names '../a.PNG', which leads out of the folder"),
        ('{"file_name": "/a.PNG", "text": "x"}', "leads out of the folder"),
        ('{"file_name": "", "text": "x"}', "line 1 names no file"),
        ('{"file_name": "a.PNG", "text": "x"}\n' * 2, "line 2 names a.PNG again"),
        ("", "has no captions; add NAME.txt"),
    ],
)
def test_a_faulty_table_is_named_with_its_line(tmp_path, folder, text, message):
    (folder / "metadata.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        open_source(f"folder:{folder}", tmp_path, captions=True)


def test_a_table_in_another_encoding_is_refused(tmp_path, folder):
    (folder / "captions.csv").write_bytes("file_name,text\na.PNG,Bär\n".encode("latin-1"))
    with pytest.raises(ValueError, match="captions.csv, line 2 is not UTF-8 .*save it as UTF-8"):
        open_source(f"folder:{folder}", tmp_path, captions=True)


def test_folder_errors(tmp_path, folder, images):
    with pytest.raises(ValueError, match="there is no folder .*absent"):
        open_source(f"folder:{tmp_path / 'absent'}", tmp_path)
    with pytest.raises(ValueError, match="has no captions; add NAME.txt beside each image"):
        open_source(f"folder:{folder}", tmp_path, captions=True)
    write(folder, metadata_jsonl="", captions_csv="")
    with pytest.raises(ValueError, match="metadata.jsonl and captions.csv; keep one"):
        open_source(f"folder:{folder}", tmp_path, captions=True)
    shard(tmp_path / "tars/1.tar", ("1.png", images[0]))
    with pytest.raises(ValueError, match="holds no images; write webdataset:"):
        open_source(f"folder:{tmp_path / 'tars'}", tmp_path)


def test_links_to_folders_are_followed_once(tmp_path, folder):
    (folder / "b/back").symlink_to(folder, target_is_directory=True)
    other = write(tmp_path / "other", x_png=b"")
    (folder / "linked").symlink_to(other, target_is_directory=True)
    names = [name for name, _ in everything(open_source(f"folder:{folder}", tmp_path))]
    assert names == ["a.PNG", "b/2.png", "b/c/3.webp", "linked/x.png"]


# -------------------------------------------------------------------------------------- images that are none


def sixteen_bit_colour() -> bytes:
    rows = b"".join(b"\0" + bytes(6 * 9) for _ in range(9))
    content = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", 9, 9, 16, 2, 0, 0, 0)
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return content


def test_bad_images_are_skipped_with_a_reason_and_others_converted(tmp_path, images, monkeypatch):
    with Image.open(io.BytesIO(images[0])) as opened:
        plain = opened.convert("RGB")
    clear = plain.convert("RGBA")
    clear.putalpha(100)
    jpeg = encoded(plain, "JPEG")
    write(
        tmp_path / "bad",
        bomb_png=encoded(Image.new("RGB", (300, 300))),
        clear_png=encoded(clear),
        cmyk_jpg=encoded(plain.convert("CMYK"), "JPEG"),
        deep_png=encoded(Image.fromarray(np.full((9, 9), 65535, np.uint16))),
        deepcolour_png=sixteen_bit_colour(),
        empty_png=b"",
        float_png=encoded(Image.fromarray(np.zeros((9, 9), np.float32)), "TIFF"),
        grey_png=encoded(plain.convert("L")),
        page_jpg="<html>404</html>",
        torn_jpg=jpeg[: len(jpeg) // 2],
        tornpng_png=images[0][:200],
    )
    (tmp_path / "bad/dangling.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "bad/folder.png").mkdir()  # no file: not listed
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)  # twice of it is refused
    source = open_source(f"folder:{tmp_path / 'bad'}", tmp_path)
    found = {each.name: each for each in map(source.item, range(len(source)))}
    reasons = {name: each.reason for name, each in found.items() if isinstance(each, Skipped)}
    assert reasons == {
        "bomb.png": "too many pixels",
        "clear.png": "transparent pixels",
        "dangling.png": "missing file",
        "empty.png": "empty file",
        "float.png": "pixels of mode F",
        "page.jpg": "not an image",
        "torn.jpg": "torn file",
        "tornpng.png": "torn file",
    }
    kinds = {name: each.kind for name, each in found.items() if isinstance(each, Sample)}
    assert kinds == {"cmyk.jpg": "CMYK", "deep.png": "16 bits", "deepcolour.png": "16 bits", "grey.png": "grey"}
    assert all(found[name].image.mode == "RGB" for name in kinds)
    assert found["deep.png"].image.getpixel((0, 0)) == (255, 255, 255)


# -------------------------------------------------------------------------------------------------------- shards


@pytest.fixture
def tars(tmp_path, images):
    """Two shards with six samples, one of them without an image, one without a caption."""
    shard(
        tmp_path / "tars/t-000.tar",
        ("x/0.png", images[0]),
        ("x/0.txt", CAPTIONS[0].encode()),
        ("x/0.json", b'{"text": "from json", "alt": "alternative"}'),
        ("1.json", json.dumps({"caption": CAPTIONS[1], "width": 3}).encode()),
        ("1.PNG", images[1]),
        ("only.txt", b"no image"),
    )
    shard(
        tmp_path / "tars/t-001.tar",
        ("2.webp", images[2]),
        ("2.seg.png", images[0]),
        ("3.json", b"{torn"),
        ("3.jpg", b"unread"),
        ("4.json", b'{"width": 3}'),
        ("4.jpg", b"unread"),
    )
    return tmp_path / "tars"


def test_shards_are_indexed_once_and_read_by_offset(tmp_path, tars, images, monkeypatch):
    cache = tmp_path / "cache"
    source = open_source(f"webdataset:{tars}/t-{{000..001}}.tar", cache, captions=True)
    assert everything(source) == [
        ("t-000.tar:x/0.png", CAPTIONS[0]),
        ("t-000.tar:1.PNG", CAPTIONS[1]),
        ("t-001.tar:2.webp", "no caption"),
        ("t-001.tar:3.jpg", "caption is not valid JSON"),
        ("t-001.tar:4.jpg", "no caption"),
    ]
    np.testing.assert_array_equal(np.asarray(source.item(1).image), pixels(images[1]))
    assert sorted(p.name for p in tars.iterdir()) == ["t-000.tar", "t-001.tar"], "nothing is written beside the shards"
    built = []
    monkeypatch.setattr(webdataset, "_rows", lambda path, make=webdataset._rows: built.append(path.name) or make(path))
    again = open_source(f"webdataset:{tars}/*.tar", cache, captions=True)
    assert not built and everything(again) == everything(source) and again.fingerprint == source.fingerprint
    shard(tars / "t-001.tar", ("9.png", images[0]), ("9.txt", b"new"))
    changed = open_source(f"webdataset:{tars}", cache, captions=True)
    assert built == ["t-001.tar"] and everything(changed)[-1] == ("t-001.tar:9.png", "new")
    assert changed.fingerprint != source.fingerprint
    size = (tars / "t-001.tar").stat().st_size
    shard(tars / "t-001.tar", ("9.txt", b"now"), ("9.png", images[0]))  # of the same size
    os.utime(tars / "t-001.tar", (1, 1))
    assert (tars / "t-001.tar").stat().st_size == size
    turned = open_source(f"webdataset:{tars}", cache, captions=True)
    assert everything(turned)[-1] == ("t-001.tar:9.png", "now")


def test_a_field_of_the_json_file_can_be_named(tmp_path, tars):
    named = open_source(f"webdataset:{tars / 't-000.tar'}", tmp_path, captions=True, caption_column="alt")
    assert [said for _, said in everything(named)] == ["alternative", "no caption"]


def test_a_shard_that_shrinks_under_a_run_gives_torn_samples(tmp_path, tars):
    source = open_source(f"webdataset:{tars / 't-001.tar'}", tmp_path)
    (tars / "t-001.tar").write_bytes((tars / "t-001.tar").read_bytes()[:600])
    assert source.item(0) == Skipped("t-001.tar:2.webp", "torn file")
    (tars / "t-001.tar").unlink()
    assert source.item(0).reason == "missing file"


def test_braces():
    assert webdataset.braced("a{08..10}{x,y}b") == ["a08xb", "a08yb", "a09xb", "a09yb", "a10xb", "a10yb"]
    assert webdataset.braced("{9..11}") == ["9", "10", "11"] and webdataset.braced("plain.tar") == ["plain.tar"]
    for text, message in (("{3..1}", "counts down"), ("{x}", "neither a range"), ("{a..c}", "neither a range")):
        with pytest.raises(ValueError, match=message):
            webdataset.braced(text)


def test_shard_errors(tmp_path, tars, images):
    for pattern in ("t-{000..002}.tar", "other-*.tar", "absent.tar"):
        with pytest.raises(ValueError, match="names no .tar file on this machine"):
            open_source(f"webdataset:{tars}/{pattern}", tmp_path)
    shard(tmp_path / "bare.tar", ("1.png", images[0]), ("2.cls", b"7"))
    with pytest.raises(ValueError, match=r"bare.tar has no captions; add KEY.txt or KEY.json"):
        open_source(f"webdataset:{tmp_path / 'bare.tar'}", tmp_path, captions=True)
    shard(tmp_path / "none.tar", ("2.cls", b"7"))
    with pytest.raises(ValueError, match="1 shards hold no .jpg"):
        open_source(f"webdataset:{tmp_path / 'none.tar'}", tmp_path)
    shard(tmp_path / "twice.tar", ("1.png", images[0]), ("1.jpg", images[0]))
    with pytest.raises(ValueError, match="twice.tar has two images for the key 1"):
        open_source(f"webdataset:{tmp_path / 'twice.tar'}", tmp_path)
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as archive:
        archive.add(tmp_path / "bare.tar", "1.png")
    with pytest.raises(ValueError, match="packed.tar is no plain tar file"):
        open_source(f"webdataset:{tmp_path / 'packed.tar'}", tmp_path)
    (tmp_path / "cut.tar").write_bytes((tmp_path / "bare.tar").read_bytes()[:700])
    with pytest.raises(ValueError, match="cut.tar is no plain tar file .*copy it again"):
        open_source(f"webdataset:{tmp_path / 'cut.tar'}", tmp_path)
    assert not list(tmp_path.glob(f"{webdataset.INDEX}/*.part*")) and not list(tmp_path.glob(f"{webdataset.INDEX}/.*"))


# ------------------------------------------------------------------------------------------------- Hugging Face


@pytest.fixture
def saved(tmp_path, images):
    """A data set on disk: images, one of them torn and one absent, and captions."""
    datasets = pytest.importorskip("datasets", reason="needs the datasets package")
    content = [images[0], images[1][:100], None, images[2]]
    rows = {
        "photo": [None if c is None else {"bytes": c, "path": None} for c in content],
        "text": [*CAPTIONS, None],
        "raw": [c or b"" for c in content],
        "n": list(range(4)),
    }
    features = {"photo": datasets.Image(), "text": datasets.Value("string")}
    features |= {"raw": datasets.Value("binary"), "n": datasets.Value("int64")}
    made = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    made.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": made, "test": made.select([0])}).save_to_disk(tmp_path / "parts")
    datasets.DatasetDict({"a": made, "b": made}).save_to_disk(tmp_path / "other")
    return tmp_path


def test_a_dataset_on_disk(saved, images):
    source = open_source(f"datasets:{saved / 'one'}", saved)
    assert everything(source) == [("row 0", None), ("row 1", "torn file"), ("row 2", "no image"), ("row 3", None)]
    np.testing.assert_array_equal(np.asarray(source.item(3).image), pixels(images[2]))
    told = open_source(f"datasets:{saved / 'one'}", saved, captions=True)
    assert [said for _, said in everything(told)] == [CAPTIONS[0], "torn file", "no image", "no caption"]
    assert told.fingerprint != source.fingerprint
    again = open_source(f"datasets:{saved / 'one'}", saved, captions=True)
    assert again.fingerprint == told.fingerprint


def test_splits_and_columns_of_a_dataset(saved):
    assert len(open_source(f"datasets:{saved / 'parts'}", saved)) == 4
    assert len(open_source(f"datasets:{saved / 'parts'}@test", saved)) == 1
    raw = open_source(f"datasets:{saved / 'parts'}", saved, image_column="raw")
    assert [said for _, said in everything(raw)] == [None, "torn file", "empty file", None]
    for text, options, message in (
        ("parts@val", {}, "has no split 'val'; write datasets:.*@ and one of train, test"),
        ("other", {}, "has no split 'train'.*one of a, b"),
        ("one@train", {}, "has no splits"),
        ("one", {"image_column": "n"}, "column 'n' holds Value.*it must hold images"),
        ("one", {"image_column": "gone"}, "has no 'gone'; set data.image_column to one of photo, text, raw, n"),
        ("one", {"captions": True, "caption_column": "gone"}, "set data.caption_column"),
        ("absent", {}, "there is no data set at"),
    ):
        with pytest.raises(ValueError, match=message):
            open_source(f"datasets:{saved / text}", saved, **options)


def test_a_folder_that_load_dataset_reads(tmp_path, images, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="needs the datasets package")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    rows = {"image": [{"bytes": c, "path": None} for c in images], "caption": list(CAPTIONS)}
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    (tmp_path / "parquet").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "parquet/train.parquet")
    source = open_source(f"datasets:{tmp_path / 'parquet'}", tmp_path, captions=True)
    assert [said for _, said in everything(source)] == list(CAPTIONS)
    (tmp_path / "parquet/train.parquet").write_bytes(b"torn")
    with pytest.raises(ValueError, match="parquet cannot be loaded"):
        open_source(f"datasets:{tmp_path / 'parquet'}", tmp_path)


def test_without_the_datasets_package_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="pip install datasets"):
        open_source(f"datasets:{tmp_path}", tmp_path)


# ---------------------------------------------------------------------------------------------------- by name


def test_sources_are_joined_by_plus(tmp_path, folder, tars):
    odd = tmp_path / "a+b"
    folder.rename(odd)
    source = open_source(f"scenes+folder:{odd}+webdataset:{tars}/t-000.tar", tmp_path, scenes=4)
    names = [name for name, _ in everything(source)]
    expected = ["a.PNG", "b/2.png", "b/c/3.webp", "t-000.tar:x/0.png", "t-000.tar:1.PNG"]
    assert names == [*(f"scene {i}" for i in range(4)), *expected]
    assert source.name == f"scenes+folder:{odd}+webdataset:{tars}/t-000.tar"
    turned = open_source(f"folder:{odd}+scenes", tmp_path, scenes=4)
    assert turned.fingerprint != open_source(f"scenes+folder:{odd}", tmp_path, scenes=4).fingerprint


def test_scenes_are_training_scenes_with_their_captions(tmp_path):
    source = open_source("scenes", tmp_path, captions=True, scenes=30)
    for index in range(30):
        sample, drawn = source.item(index), scenes.item("train", index, 128)
        np.testing.assert_array_equal(np.asarray(sample.image), drawn.image)
        assert sample.caption.startswith("There") == (drawn.scene.task == "dense")


def test_threads_read_what_one_thread_reads(saved, folder, tars):
    source = open_source(f"datasets:{saved / 'one'}+folder:{folder}+webdataset:{tars}", saved, scenes=4)
    plain = everything(source)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: everything(source), range(12)):
            assert found == plain


@pytest.mark.parametrize("text", ["", "photos", "folder", "folder:", "scenes+", "scenes+imagenet:x", "hub:x"])
def test_unknown_sources(tmp_path, text):
    with pytest.raises(ValueError, match="is unknown; write scenes, folder:DIR|there is no folder"):
        open_source(text, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"file_name,text\na.PNG,a cat, asleep\n", "captions.csv, line 2: 3 cells, the header has 2; quote cells"),
        (b"file_name,text\na.PNG,a\0cat\n", "captions.csv, line 2: holds a NUL byte"),
        (b'file_name,text\na.PNG,"a cat\nb.PNG,a dog\n', "captions.csv, line 3: not valid CSV"),
    ],
)
def test_a_faulty_csv_is_named_with_its_line(tmp_path, folder, content, message):
    (folder / "captions.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        open_source(f"folder:{folder}", tmp_path, captions=True)
