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
