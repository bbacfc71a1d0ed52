"""Records survive the disk, are reused only while their key is right, and files are whole or absent."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys

import pytest
from pydantic import ValidationError

from vgt.core import env, files, record, seeds
from vgt.core.record import Record


def make(subject="query_ar_internvl", suite="scenes-geneval", metric="overall", value=0.5, **fields) -> Record:
    """A made-up record."""
    given = {"n": 120, "n_expected": 120, "protocol": "geneval", "fingerprint": "f", "suite_hash": "s", "key": "k"}
    return record.make(subject=subject, suite=suite, metric=metric, value=value, **{**given, **fields})


def test_names_and_paths():
    r = make(accel=4)
    assert r.model == "query_ar_internvl@4x"
    assert r.name == "query_ar_internvl@4x/scenes-geneval/overall"
    assert r.path.as_posix() == "query_ar_internvl@4x/scenes-geneval/overall.json"
    assert make().name == "query_ar_internvl/scenes-geneval/overall"
    assert make(subject="folder:a/b").path.as_posix() == "folder-a_b/scenes-geneval/overall.json"


def test_round_trip(tmp_path):
    r = make(accel=16, low=0.4, high=0.6, extra={"curve": [[1, 2.5]]}, protocol_params={"threshold": 0.3})
    path = record.write(r, tmp_path)
    assert path == tmp_path / r.path
    assert record.read(tmp_path) == [r] == record.read([tmp_path]) == record.read(path)
    assert record.find(tmp_path, r.name, r.key) == r


def test_provenance_is_stamped():
    r = make()
    assert {"python", "numpy", "pillow", "torchvision"} <= r.versions.keys()
    assert r.created.endswith("+00:00") and r.device
    assert make(device="H100").device == "H100"


def test_reuse_needs_the_same_key(tmp_path):
    r = make()
    record.write(r, tmp_path)
    assert record.find(tmp_path, r.name, "another") is None
    assert record.find(tmp_path, r.name.replace("overall", "colors"), r.key) is None
    (tmp_path / r.path).write_text("{ torn")
    assert record.find(tmp_path, r.name, r.key) is None


def test_find_takes_subjects_that_are_paths(tmp_path):
    r = make(subject="folder:some/images")
    record.write(r, tmp_path)
    assert record.find(tmp_path, r.name, r.key) == r


def test_keys_depend_on_every_part_and_not_on_order():
    key = record.make_key(subject="a", params={"x": 1, "y": [1, 2]}, seed=0)
    assert key == record.make_key(seed=0, params={"y": [1, 2], "x": 1}, subject="a")
    others = [
        record.make_key(subject="b", params={"x": 1, "y": [1, 2]}, seed=0),
        record.make_key(subject="a", params={"x": 1, "y": [2, 1]}, seed=0),
        record.make_key(subject="a", params={"x": 1, "y": [1, 2]}, seed=1),
        record.make_key(subject="a", params={"x": 1, "y": [1, 2]}),
    ]
    assert len({key, *others}) == 5


def test_partial():
    assert not make().partial
    assert make(n=119).partial
    assert make(n_failed=1).partial


@pytest.mark.parametrize(
    "fields",
    [
        {"colour": "red"},
        {"low": 0.6, "high": 0.4},
        {"value": float("nan")},
        {"value": float("inf")},
        {"low": float("nan"), "high": 1.0},
        {"n": None},
    ],
)
def test_wrong_records_are_refused(fields):
    with pytest.raises(ValidationError):
        make(**fields)


def test_records_never_change():
    with pytest.raises(ValidationError):
        make().value = 0.9


def test_collections(tmp_path):
    records = [make(metric=m, value=v, accel=a) for m, v, a in (("b", 0.1, 4), ("a", None, 1), ("a", 0.3, None))]
    path = record.write_collection(records, tmp_path / "all.jsonl")
    assert record.read(path) == sorted(records, key=lambda r: r.name)
    assert path.read_text().count("\n") == 3
    newer = make(metric="a", value=0.9)
    record.write(newer, tmp_path / "new")
    found = {r.name: r.value for r in record.read([path, tmp_path / "new"])}
    assert found[newer.name] == 0.9 and len(found) == 3  # a later root wins
    assert record.scores([newer]) == {newer.name: {"value": 0.9, "low": None, "high": None, "n": 120}}


def test_reading_names_the_faulty_file(tmp_path):
    with pytest.raises(ValueError, match="no records at .*nowhere"):
        record.read(tmp_path / "nowhere")
    (tmp_path / "odd.json").write_text("{}")
    with pytest.raises(ValueError, match="odd.json does not hold a record"):
        record.read(tmp_path)


def test_command_line_names_no_machine_path(monkeypatch):
    home = "/" + "home/somebody"
    words = [f"{home}/vgt/__main__.py", "eval", "--out", f"{home}/a/b", f"--data={home}/photos", f"folder:{home}/c"]
    monkeypatch.setattr(sys, "argv", [*words, "a photo of a red star", "runs/tiny"])
    assert env.command() == "vgt eval --out b --data=photos folder:c a photo of a red star runs/tiny"


def test_an_edited_record_is_never_used(tmp_path, capsys):
    r = make()
    path = record.write(r, tmp_path / "one")
    path.write_text(path.read_text().replace(": 0.5", ": 0.9"))
    assert (
        record.find(tmp_path / "one", r.name, r.key) is None
        and "edited since it was written" in capsys.readouterr().err
    )
    with pytest.raises(ValueError, match="overall.json .*edited since it was written"):
        record.read(tmp_path / "one")
    path = record.write_collection([make(metric="a"), make(metric="b")], tmp_path / "all.jsonl")
    path.write_text(path.read_text().replace('"n": 120', '"n": 12', 1))
    with pytest.raises(ValueError, match="edited since it was written"):
        record.read(path)
    path.write_text(
        '{"subject": "q", "suite": "s", "metric": "m", "value": 1.0, "n": 1, "n_expected": 1, "protocol": "p", '
        '"fingerprint": "f", "suite_hash": "s", "key": "k"}\n'
    )  # of an earlier version: no hash
    assert record.read(path)[0].value == 1.0
    told = json.loads(record.write(r, tmp_path / "two").read_text())
    del told["check"]
    (tmp_path / "two" / r.path).write_text(json.dumps({**told, "value": 0.9}))
    assert record.get(tmp_path / "two", r.name) is None
    with pytest.raises(ValueError, match="edited since it was written"):
        record.read(tmp_path / "two")


@pytest.mark.parametrize(
    "change, fault",
    [
        ({"n": -1}, "field 'n' -1: Input should be greater than or equal to 0"),
        ({"value": "high"}, "field 'value' 'high': Input should be a valid number"),
        ({"hashes": 5, "n_failed": -1}, "field 'n_failed' -1: .* .and 1 more."),
        ({"value": float("nan")}, "query_ar_internvl/scenes-geneval/overall: value is nan"),
        ({"colour": "red"}, "field 'colour' 'red': Extra inputs are not permitted"),
        (None, "it is no JSON object"),
    ],
)
def test_what_is_no_record_names_file_line_and_field(tmp_path, change, fault):
    told = {**json.loads(make().model_dump_json()), **change} if change is not None else []
    for path in (tmp_path / "x.json", tmp_path / "x.jsonl"):
        path.write_text(("\n" if path.suffix == ".jsonl" else "") + json.dumps(told) + "\n")
        where = ", line 2," if path.suffix == ".jsonl" else ""
        with pytest.raises(ValueError, match=f"^{path}{where} does not hold a record: {fault}[^\n]*$"):
            record.read(path)


def test_what_is_torn_names_its_line(tmp_path, capsys):
    r = make()
    path = record.write(r, tmp_path)
    path.write_text(path.read_text()[:400])
    assert record.get(tmp_path, r.name) is None
    assert re.match(rf"note: {path} is not used: line \d+: not valid JSON", capsys.readouterr().err)
    path.write_bytes(b"\xff\xfe")
    assert record.get(tmp_path, r.name) is None and "overall.json is not used: is not UTF-8" in capsys.readouterr().err
    with pytest.raises(ValueError, match="overall.json is not UTF-8"):
        record.read(tmp_path)


def test_a_work_folder_stands_for_its_records(tmp_path):
    record.write(make(), tmp_path / "records")
    (tmp_path / "recon").mkdir()
    (tmp_path / "recon" / "rows.jsonl").write_text("{}\n")
    record.write(make(subject="records"), tmp_path / "records")
    assert len(record.read(tmp_path)) == 2 and record.read(tmp_path) == record.read(tmp_path / "records")


@pytest.mark.parametrize(
    "a, b, two",
    [
        ({"origin": "w1", "fingerprint": "f1"}, {"origin": "w2", "fingerprint": "f2"}, True),
        ({"origin": "w1", "fingerprint": "f1"}, {"origin": "w1", "fingerprint": "f2", "accel": 4}, False),
        ({"origin": "w1", "fingerprint": "f1"}, {"origin": "w2", "fingerprint": "f2", "suite": "scenes-dpg"}, True),
        ({"fingerprint": "f1"}, {"fingerprint": "f2"}, True),
        ({"fingerprint": "f1"}, {"fingerprint": "f2", "suite": "scenes-dpg"}, False),
        (
            {"origin": record.place("x1/recon"), "fingerprint": "f1"},
            {"origin": record.place("x2/recon"), "fingerprint": "f2", "suite": "other"},
            True,
        ),
        (
            {"origin": record.place("x1", named=True), "fingerprint": "f1"},
            {"origin": record.place("x2", named=True), "fingerprint": "f2", "suite": "other"},
            False,
        ),
        (
            {"origin": record.place("x1", named=True), "fingerprint": "f1"},
            {"origin": record.place("x2", named=True), "fingerprint": "f2"},
            True,
        ),
        (
            {"origin": "w", "fingerprint": "f1", "extra": {"settings": {"guidance": 1.0}}},
            {"origin": "w", "fingerprint": "f2", "extra": {"settings": {"guidance": 3.0}}, "suite": "scenes-dpg"},
            True,
        ),
    ],
)
def test_one_name_is_one_model(tmp_path, a, b, two):
    record.write(make(**a), tmp_path / "a")
    record.write(make(**b), tmp_path / "b")
    assert record.of_two_models(make(**a), make(**b)) is two
    if not two:
        assert record.read([tmp_path / "a", tmp_path / "b"])
        return
    with pytest.raises(ValueError, match="f1.*f2.*two models under the name 'query_ar_internvl'"):
        record.read([tmp_path / "a", tmp_path / "b"])


@pytest.mark.parametrize("name", ["..", ".", "", " ", "a\0b", "a\nb", "../..", "x" * 200, "sdxl@4x"])
def test_names_that_cannot_be_one_are_refused(name):
    with pytest.raises(ValueError, match="--name"):
        record.checked_name(name)


@pytest.mark.parametrize("subject", ["..", "../../out", "a\0b", ".hidden", "x" * 300, "a\\b", "\udcff"])
def test_no_name_leaves_the_folder_of_records(tmp_path, subject):
    path = (tmp_path / make(subject=subject).path).resolve()
    assert path.relative_to(tmp_path.resolve()).parts[1:] == ("scenes-geneval", "overall.json")
    assert path.parts[-3].isprintable() and not path.parts[-3].startswith(".") and len(path.parts[-3].encode()) <= 200


def test_links_inside_a_folder_of_results_are_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "elsewhere")
    assert record.write(make(), tmp_path / "linked").exists(), "the folder itself may be a link"
    other = make(subject="other")
    (tmp_path / "linked" / "other").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="other is a link"):
        record.write(other, tmp_path / "linked")
    assert not (tmp_path / other.suite).exists()


def test_what_killed_writers_left_is_removed_by_the_next(tmp_path):
    r = make()
    folder = record.write(r, tmp_path).parent
    for name in (".overall.0123abcd.json", ".overall.samples.0123abcd.csv"):
        (folder / name).write_text("torn")
    record.write(r, tmp_path)
    assert [p.name for p in folder.iterdir()] == ["overall.json"]


# ------------------------------------------------------------------------------------------------- files


def test_a_failing_writer_leaves_the_old_file(tmp_path):
    path = files.write_text(tmp_path / "a.json", "old")

    def fail():
        with files.atomic(path) as part:
            part.write_text("new, half")
            raise RuntimeError("full disk")

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.json"]
    with open(path) as reader:
        with files.atomic(path) as part:
            part.write_text("new")
            assert path.read_text() == "old" and part.suffix == ".json"
        assert reader.read() == "old"  # another file took the name; whoever was reading the old one still has it whole
    assert path.read_text() == "new" and len(list(tmp_path.iterdir())) == 1


def test_a_failing_writer_leaves_the_old_folder(tmp_path):
    folder = tmp_path / "model"
    with files.atomic_folder(folder) as part:
        (part / "weights").write_text("old")

    def fail():
        with files.atomic_folder(folder) as part:
            (part / "weights").write_text("half")
            raise RuntimeError("full disk")

    with pytest.raises(RuntimeError):
        fail()
    assert (folder / "weights").read_text() == "old"
    with files.atomic_folder(folder) as part:
        (part / "other").write_text("new")
    assert [p.name for p in folder.iterdir()] == ["other"] and [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_killed_writer_leaves_readable_records(tmp_path):
    r = make()
    record.write(r, tmp_path)
    code = f"""
import os, signal
from vgt.core import files
with files.atomic({str(tmp_path / r.path)!r}) as part:
    part.write_text('{{"subject": ')
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert len(list((tmp_path / r.path).parent.iterdir())) == 2  # the torn copy lies beside it
    assert record.read(tmp_path) == [r]


def test_digests():
    assert files.digest("ab", "c") != files.digest("a", "bc")
    assert files.digest("a") == files.digest(b"a")
    assert files.digest_json({"a": 1, "b": 2}) == files.digest_json({"b": 2, "a": 1})


def test_json_files_end_with_a_newline(tmp_path):
    path = files.write_json(tmp_path / "deep" / "a.json", {"b": 1, "a": [1]})
    assert json.loads(path.read_text()) == {"b": 1, "a": [1]} and path.read_text().endswith("\n")


def test_image_seeds():
    made = [seeds.image_seed(0, prompt, k) for prompt in ("a", "b", "a1") for k in range(20)]
    assert len(set(made)) == 60 and all(0 <= s < 2**63 for s in made)
    assert seeds.image_seed(0, "a", 1) == seeds.image_seed(0, "a", 1) != seeds.image_seed(1, "a", 1)
    assert seeds.image_seed(0, "a", 11) != seeds.image_seed(0, "a1", 1)


def test_freed_memory_is_kept_unless_the_user_has_set_the_allocator(monkeypatch):
    """Run in a process of its own: the setting holds for the whole process."""
    code = "from vgt.core import env; print(env.keep_freed_memory())"

    def told(**more: str) -> str:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        return subprocess.run([sys.executable, "-c", code], env=clean | more, capture_output=True, text=True).stdout

    assert told(MALLOC_ARENA_MAX="2") == "False\n"
    assert told() == f"{platform.libc_ver()[0] == 'glibc'}\n"
    monkeypatch.setattr(env.ctypes, "CDLL", lambda name: object())  # another C library
    assert env.keep_freed_memory() is False


def test_digests_take_any_text():
    assert files.digest("caf\udce9") != files.digest("caf\udcea") and len(files.digest("\ud800")) == 64
    assert files.digest("é") == files.digest("é".encode())
