"""Files and folders that are whole or as they were, and JSON lines of which only an unfinished last one is left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vgt.core import files


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights").write_text("old")
    return tmp_path / "model"


def replace(folder: Path) -> None:
    with files.atomic_folder(folder) as part:
        (part / "weights").write_text("new")


def failing(monkeypatch, at: int, error: type[BaseException] = OSError) -> None:
    """Renaming fails the ``at``-th time."""
    rename, calls = os.replace, []

    def fail(*paths):
        calls.append(paths)
        if len(calls) == at:
            raise error("no")
        rename(*paths)

    monkeypatch.setattr(os, "replace", fail)


def test_a_folder_takes_the_place_of_another(checkpoint):
    replace(checkpoint)
    assert (checkpoint / "weights").read_text() == "new"
    assert os.listdir(checkpoint.parent) == ["model"]


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_rename_that_fails_leaves_what_was_there(checkpoint, monkeypatch, at, error):
    failing(monkeypatch, at, error)
    with pytest.raises(error):
        replace(checkpoint)
    assert (checkpoint / "weights").read_text() == "old"
    assert os.listdir(checkpoint.parent) == ["model"]


def test_a_folder_that_was_on_its_way_at_a_kill_comes_back(checkpoint):
    os.replace(checkpoint, checkpoint.with_name(".model.01234567.old"))  # killed between the two renames
    files.restore(checkpoint)
    assert (checkpoint / "weights").read_text() == "old"
    os.replace(checkpoint, checkpoint.with_name(".model.01234567.old"))
    with pytest.raises(ZeroDivisionError), files.atomic_folder(checkpoint):
        raise ZeroDivisionError
    assert (checkpoint / "weights").read_text() == "old"
    assert os.listdir(checkpoint.parent) == ["model"]


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path):
    """Its temporary file has a longer one."""
    for name in ("n" * 251 + ".txt", "ä" * 120 + ".txt", "a." + "n" * 250):
        files.check_writable(tmp_path / name)
        assert files.write_text(tmp_path / name, "text").read_text() == "text"
    with pytest.raises(OSError, match="too long"):
        files.check_writable(tmp_path / ("n" * 256))


def test_devices_and_pipes_are_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        files.check_writable(pipe)
        files.write_text(pipe, "text")
        assert os.read(reader, 10) == b"text"
    finally:
        os.close(reader)
    assert os.listdir(tmp_path) == ["pipe"] and pipe.is_fifo()
    files.write_text("/dev/null", "text")
    assert Path("/dev/null").is_char_device()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a system without it")
def test_a_full_disk_is_named(tmp_path):
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        files.write_text("/dev/full", "text")
    with pytest.raises(OSError, match="model'$"), files.atomic_folder(tmp_path / "model") as part:
        (part / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")  # as it comes from a write: without a name
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_written_is_said_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    files.check_writable(tmp_path / "file")
    files.check_writable(tmp_path / "new/place/file")
    files.check_writable(tmp_path / "new/place", folder=True)
    for path, folder, error in (
        ("file/below", False, NotADirectoryError),
        ("file/below", True, NotADirectoryError),
        ("file", True, NotADirectoryError),
        ("", False, IsADirectoryError),
    ):
        with pytest.raises(error):
            files.check_writable(tmp_path / path, folder)
    with pytest.raises(IsADirectoryError):
        files.write_text(tmp_path, "text")
    with pytest.raises(OSError, match="/proc/folder"):
        files.check_writable("/proc/folder", folder=True)
    assert os.listdir(tmp_path) == ["file"]


def test_what_a_kill_left_is_removed_by_the_next_writer_of_the_same_file(tmp_path):
    old, now = (1, 1), None
    for name, when in (
        (".scores.01234567.json", old), (".model.89abcdef", old), (".scores.76543210.json", now),
        (".other.01234567.json", old), (".scores.mine.json", old),
    ):  # fmt: skip
        path = tmp_path / name
        if name.startswith(".model"):
            path.mkdir()
            (path / "weights").write_text("half")
            os.utime(path / "weights", when)
        else:
            path.write_text("half")
        os.utime(path, when)
    files.write_text(tmp_path / "scores.json", "{}")
    with files.atomic_folder(tmp_path / "model") as part:
        (part / "weights").write_text("whole")
    left = [".other.01234567.json", ".scores.76543210.json", ".scores.mine.json"]  # others', at work, no temporary
    assert sorted(os.listdir(tmp_path)) == [*left, "model", "scores.json"]


def test_hidden_files_are_never_read(tmp_path):
    for name in ("a.json", "b/c.json", ".a.01234567.json", "._a.json", ".model.01234567/a.json", "b/.git/d.json"):
        files.write_text(tmp_path / ".place" / name, "{}")
    root = tmp_path / ".place"  # that the root itself lies in a hidden folder does not matter
    assert files.visible(root, "**/*.json") == [root / "a.json", root / "b/c.json"]
    assert files.visible(root, "*.json") == [root / "a.json"]
