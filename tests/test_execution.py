"""Who does what, what is kept, what a kill costs: shards, evidence, coverage, launching (docs/evaluators.md 0, 2.2)."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import socket
import threading
import time
import weakref
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from evals.engine import generation, launch, records
from evals.engine.api import origin
from evals.engine.generation import Run
from evals.engine.store import (
    WHOLE,
    Arrays,
    Rows,
    SampleError,
    Shard,
    check_finite,
    collect,
    exclusive,
    failures,
    parse_shard,
    read_rows,
)
from evals.subjects import fake
from evals.subjects.folder import folder
from vgt.core import files, record, samples
from vgt.core.images import read_image
from vgt.core.statistics import Interval

PROMPTS = [{"id": f"p{i}", "prompt": f"image {i}"} for i in range(5)]
FORK = multiprocessing.get_context("fork")


class Painter:
    """Draws slow 8 x 8 images and notes every batch in a log.  An image depends on its whole batch, as the last bits
    of a network's do."""

    name, fingerprint, full_batches = "painter", "painter-1", True

    def __init__(self, log: Path | None = None, pause: float = 0.0):
        self.log, self.pause = log, pause

    def generate(self, prompts, seeds):
        time.sleep(self.pause)
        pairs = list(zip(prompts, seeds, strict=True))
        drawn = [np.random.default_rng([s, *seeds]).integers(0, 256, (8, 8, 3), np.uint8) for s in seeds]
        note(self.log, f"batch {pairs}")
        return np.stack(drawn)


def note(log: Path | None, text: str) -> None:
    if log is not None:
        with open(log, "a") as lines:
            lines.write(text + "\n")


def job(subject=None, **changes) -> Run:
    return Run(**{
        "subject": subject or Painter(), "name": "painter", "accel": None, "suite": "five", "prompts": PROMPTS,
        "images_per_prompt": 3, "seed": 0, "batch": 2, **changes,
    })  # fmt: skip


def evaluate(work: Path, log: Path | None = None, pause: float = 0.0, shard: Shard = WHOLE) -> Path:
    """Draw and judge as an evaluator does; the judge measures the mean level."""
    run = job(Painter(log, pause))
    out = run.folder(work, "test")
    shown = generation.images(run, out, shard)
    names = {shown.name(*where): path for where, path in sorted(shown.paths.items())}

    def judge(name: str) -> dict:
        time.sleep(pause / 2)
        note(log, f"judged {name}")
        return {"mean": float(read_image(names[name]).mean())}

    stamps = {name: files.digest_file(path) for name, path in names.items()}
    collect(out / "means.jsonl", stamps, judge, "judged", shard)
    return out


def visible(root: Path) -> dict[str, bytes]:
    """Every file of a run that is not hidden (locks are)."""
    paths = [p for p in root.rglob("*") if p.is_file() and not p.name.startswith(".")]
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in paths}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> dict[str, bytes]:
    """The files of a run in one process that nobody disturbed."""
    return visible(evaluate(tmp_path_factory.mktemp("unbroken")))


# --------------------------------------------------------------------------------------------------------- shards


def test_shards_are_parsed_and_deal_everything_out():
    assert (parse_shard(None), parse_shard("2/4"), str(Shard(1, 4))) == (WHOLE, Shard(1, 4), "2/4")
    assert [[p for p in range(7) if Shard(k, 3).mine(p)] for k in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]
    for text in ("0/4", "5/4", "2", "a/b", "-1/2", "\u00b2/2", "\u0661/\u0662"):
        with pytest.raises(ValueError, match="k/n"):
            parse_shard(text)


def test_parts_of_one_division_work_side_by_side_and_nothing_else_does(tmp_path):
    with exclusive(tmp_path / "x", Shard(0, 2)):
        with exclusive(tmp_path / "x", Shard(1, 2)), exclusive(tmp_path / "y"):
            pass
        for other in (Shard(0, 2), Shard(0, 3), WHOLE):
            with pytest.raises(ValueError, match="part 1/2 of .* still at work"), exclusive(tmp_path / "x", other):
                pass
    with exclusive(tmp_path / "x"):
        pass


def test_a_killed_process_holds_nothing(tmp_path):
    ready = tmp_path / "ready"

    def hold() -> None:
        with exclusive(tmp_path / "x", Shard(0, 2)):
            ready.touch()
            time.sleep(60)

    process = FORK.Process(target=hold)
    process.start()
    until(ready.exists)
    with pytest.raises(ValueError, match="still at work"), exclusive(tmp_path / "x"):
        pass
    process.kill()
    process.join()
    with exclusive(tmp_path / "x"):
        pass


def until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


# ------------------------------------------------------------------------------------------- images and evidence


@pytest.mark.parametrize("count", [2, 4])
def test_any_number_of_parts_ends_with_the_same_bytes(unbroken, tmp_path, count):
    log = tmp_path / "log"
    for index in reversed(range(count)):
        out = evaluate(tmp_path, log, shard=Shard(index, count))
    assert sorted(p.name for p in out.glob("*.jsonl")) == [f"means.{k + 1}-of-{count}.jsonl" for k in range(count)]
    assert len(log.read_text().splitlines()) == 8 + 15  # batches of two, 15 images
    evaluate(tmp_path, log)
    assert visible(out) == unbroken
    assert len(log.read_text().splitlines()) == 8 + 15


def test_a_replaced_image_and_an_edited_row_are_made_again(unbroken, tmp_path, capsys):
    out = evaluate(tmp_path)
    shutil.copy(out / "00001/samples/0001.png", out / "00000/samples/0000.png")
    (out / "means.jsonl").write_text((out / "means.jsonl").read_text().replace('"mean": ', '"mean": 1', 1))
    assert generation.replaced(out) == [out / "00000/samples/0000.png"]
    capsys.readouterr()
    log = tmp_path / "log"
    evaluate(tmp_path, log)
    said = capsys.readouterr().err
    assert "1 images are not those that were made" in said and "1 of 15 lines of" in said
    assert visible(out) == unbroken and len(log.read_text().splitlines()) == 1 + 1  # a batch and a verdict


@dataclass
class Model:
    name: str
    fingerprint: str
    origin: str | None = None


def recorded(root: Path, model: Model, name: str, suite: str = "s") -> None:
    estimate = records.Estimate(metric="m", estimate=records.plain(1.0), n=1, asked=1, n_expected=1)
    common = {"subject": name, "suite": suite, "protocol": "p", "suite_hash": "s", "fingerprint": model.fingerprint}
    records.write(root, {"m": model.fingerprint}, {}, {"m": estimate}, {**common, "origin": origin(model)})


def test_a_name_that_another_model_has_becomes_unique(tmp_path, capsys):
    """Snapshots of one name, names that share a folder, folders of one name: kept apart, or refused naming both."""
    a, b, c = Model("q", "aaaaaaaaaa"), Model("q", "bbbbbbbbbb"), Model("q", "cccccccccc")
    names = []
    for model in (a, b, c, a, b):
        names.append(records.settled(tmp_path, model))
        recorded(tmp_path, model, names[-1])
    assert names == ["q", "q-bbbbbbbb", "q-cccccccc", "q", "q-bbbbbbbb"]
    assert "records of another model as 'q'" in capsys.readouterr().err
    assert {r.fingerprint: r.subject for r in record.read(tmp_path)} == dict(
        zip(("aaaaaaaaaa", "bbbbbbbbbb", "cccccccccc"), names, strict=False)
    )
    with pytest.raises(ValueError, match="another model as 'q': aaaaaaaaaa.* would be of bbbbbbbbbb"):
        records.settled(tmp_path, b, "q")
    with pytest.raises(ValueError, match="another model as 'q': aaaaaaaaaa.* would be of bbbbbbbbbb"):
        recorded(tmp_path, b, "q", suite="another")
    recorded(tmp_path, Model("org/sdxl", "d"), "org/sdxl")
    assert records.settled(tmp_path, Model("org_sdxl", "eeeeeeeeee")) == "org_sdxl-eeeeeeee"
    with pytest.raises(ValueError, match="another model as 'org/sdxl'"):
        records.settled(tmp_path, Model("x", "e"), "org_sdxl")
    first, second = (Model("pairs-recon", f"in {x}", record.place(tmp_path / x)) for x in ("x1", "x2"))
    recorded(tmp_path, first, "pairs-recon")
    assert records.settled(tmp_path, second).startswith("pairs-recon-")
    again = Model("pairs-recon", "more images", record.place(tmp_path / "x1"))
    assert records.settled(tmp_path, again) == "pairs-recon"


def test_another_division_goes_on_where_the_first_stopped(unbroken, tmp_path):
    log = tmp_path / "log"
    evaluate(tmp_path, log, shard=Shard(0, 2))
    for index in range(3):
        out = evaluate(tmp_path, log, shard=Shard(index, 3))
    evaluate(tmp_path, log)
    assert visible(out) == unbroken
    lines = log.read_text().splitlines()
    assert len(lines) == len(set(lines)) == 8 + 15


def test_killed_twice_and_finished_by_two_processes(unbroken, tmp_path):
    """SIGKILL at random places; then the rest in two processes, then the whole: same bytes, and at most the batch or
    image in hand is done again."""
    log, rng = tmp_path / "log", np.random.default_rng(7)
    log.touch()
    for _ in range(2):
        place = len(log.read_text().splitlines()) + int(rng.integers(3, 9))
        process = FORK.Process(target=evaluate, args=(tmp_path, log, 0.02))
        process.start()
        until(lambda place=place: len(log.read_text().splitlines()) >= place)
        process.kill()
        process.join()
        assert process.exitcode == -9
    parts = [FORK.Process(target=evaluate, args=(tmp_path, log, 0.0, Shard(k, 2))) for k in range(2)]
    for part in parts:
        part.start()
    for part in parts:
        part.join()
    assert [part.exitcode for part in parts] == [0, 0]
    done = len(log.read_text().splitlines())
    out = evaluate(tmp_path, log)
    assert visible(out) == unbroken
    assert len(log.read_text().splitlines()) == done <= 8 + 15 + 2
    assert not list(out.glob("*/samples/.*"))


def test_images_stream_through_full_batches():
    """Sample by sample without a gap; what fills the last batch is what would come next."""
    three = generation._batches(job(images_per_prompt=3))
    assert all(len(batch) == 2 for batch in three)
    stream = [where for batch in three for where in batch]
    assert stream == [(index, sample) for sample in range(3) for index in range(5)] + [(0, 3)]
    assert generation._batches(job(images_per_prompt=6))[:8] == three
    assert generation._batches(job(prompts=PROMPTS[:1], batch=4, images_per_prompt=2)) == [[(0, k) for k in range(4)]]


def test_a_subject_of_others_is_asked_for_what_is_left_only():
    subject = Painter()
    subject.full_batches = False
    assert generation._batches(job(subject, images_per_prompt=1)) == [[(0, 0), (1, 0)], [(2, 0), (3, 0)], [(4, 0)]]
    assert generation._batches(job(subject, images_per_prompt=1, batch=32)) == [[(k, 0) for k in range(5)]]


def test_few_images_of_a_foreign_generator_are_few_calls(tmp_path):
    asked = []

    class Foreign:
        name, fingerprint = "foreign", "1"

        def generate(self, prompts, seeds):
            asked.append(list(prompts))
            return np.zeros((len(prompts), 8, 8, 3), np.uint8)

    run = job(Foreign(), images_per_prompt=1, batch=32)
    assert len(generation.images(run, tmp_path / "out").paths) == 5
    assert asked == [[p["prompt"] for p in PROMPTS]]
    through = fake.through(fake.Identity(), Foreign())
    assert not through.full_batches and fake.through(fake.Identity(), Painter()).full_batches


def test_a_subject_whose_batches_matter_keeps_them():
    subject = Painter()
    subject.batch_matters = True
    passes = [[(0, s), (1, s), (2, s), (3, s), (4, s), (4, s)] for s in range(2)]
    batches = generation._batches(job(subject, images_per_prompt=2))
    assert batches == [one[k : k + 2] for one in passes for k in (0, 2, 4)]
    assert generation._batches(job(subject, images_per_prompt=2, batch=6)) == passes


@pytest.mark.parametrize("matters", [False, True])
def test_more_samples_later_end_with_the_same_bytes(tmp_path, matters):
    """Though the painter's images depend on all of their batch."""

    def draw(work: Path, *counts: int) -> dict[str, bytes]:
        for count in counts:
            subject = Painter(work / "log")
            subject.batch_matters = matters
            run = job(subject, images_per_prompt=count)
            generation.images(run, work / "out")
        return visible(work / "out")

    (tmp_path / "once").mkdir()
    (tmp_path / "more").mkdir()
    assert draw(tmp_path / "once", 3) == draw(tmp_path / "more", 1, 2, 3)
    made = [len((tmp_path / name / "log").read_text().splitlines()) for name in ("once", "more")]
    # 15 images in 8 batches, of which the one between samples 0 and 1 is made twice; or 3 of their own each sample
    assert made == ([9, 9] if matters else [8, 9])


class Classes(Painter):
    """A generator that is asked with the numbers of three classes."""

    name, fingerprint, conditions, classes = "by-class", "by-class-1", "labels", 3

    def generate(self, asked, seeds):
        assert all(0 <= label < 3 for label in asked)
        return np.stack([np.full((8, 8, 3), 10 * label + 1, np.uint8) for label in asked])


def test_a_generator_may_be_asked_with_class_labels(tmp_path):
    run = generation.of_classes(Classes(), 6, seed=0, batch=4)
    generation.check(run)
    assert (run.suite, run.images_per_prompt, len(run.prompts)) == ("classes-3", 2, 3)
    shown = generation.images(run, tmp_path / "out")
    assert [int(read_image(shown.paths[label, 1])[0, 0, 0]) for label in range(3)] == [1, 11, 21]
    assert json.loads((tmp_path / "out/00002/metadata.jsonl").read_text()) == {"id": "class-0002", "label": 2}
    with pytest.raises(ValueError, match="is asked with labels, suite 'five' holds prompts; compare its images with"):
        generation.check(job(Classes()))
    with pytest.raises(ValueError, match="is asked with prompts, suite 'classes' holds labels"):
        generation.check(job(prompts=run.prompts, suite="classes"))
    with pytest.raises(ValueError, match="7 images do not divide among 3 classes; give a multiple, for example -n 6"):
        generation.of_classes(Classes(), 7, 0, 4)
    with pytest.raises(ValueError, match="'painter' is asked with prompts: make its images with `vgt eval geneval`"):
        generation.of_classes(Painter(), 6, 0, 4)


class Doomed(Painter):
    """A painter that ends after ``batches``: by ``end``."""

    def __init__(self, batches: int, end):
        super().__init__()
        self.batches, self.end = batches, end

    def generate(self, prompts, seeds):
        self.batches -= 1
        if self.batches < 0:
            self.end()
        return super().generate(prompts, seeds)


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("end", [interrupt, lambda: os.kill(os.getpid(), signal.SIGKILL)], ids=["Ctrl-C", "kill"])
@pytest.mark.parametrize("batches", [0, 1, 5])
def test_an_end_costs_one_batch_at_most(unbroken, tmp_path, monkeypatch, end, batches):
    """However slow the disk: Ctrl-C waits for what is drawn, a kill finds all but the last finished batch on it."""
    run, write = job(Doomed(batches, end)), generation._write
    out = run.folder(tmp_path, "test")
    monkeypatch.setattr(generation, "_write", lambda *args: time.sleep(0.1) or write(*args))
    process = FORK.Process(target=generation.images, args=(run, out))
    process.start()
    process.join()
    assert process.exitcode == (1 if end is interrupt else -signal.SIGKILL)
    drawn = {name: data for name, data in visible(out).items() if name.endswith(".png")}
    finished = batches if end is interrupt else batches - 1
    assert 2 * finished <= len(drawn) <= 2 * batches and drawn.items() <= unbroken.items()
    generation.images(job(Doomed(8 - max(0, finished), interrupt)), out)
    assert {name: data for name, data in unbroken.items() if "means" not in name} == visible(out)
    assert not list(out.glob("*/samples/.*"))


def test_an_image_that_cannot_be_written_stops_the_run(tmp_path, monkeypatch):
    subject = Doomed(8, interrupt)

    def full(path: Path, image) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(generation, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        generation.images(job(subject), tmp_path / "out")
    assert subject.batches == 6  # it went on for one batch only


def no_room() -> None:
    raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of 79 GiB")


def test_out_of_memory_names_the_batch_and_keeps_what_is_drawn(unbroken, tmp_path):
    out = job().folder(tmp_path, "test")
    with pytest.raises(ValueError) as caught:
        generation.images(job(Doomed(3, no_room)), out)
    told = str(caught.value)
    assert "\n" not in told and "'painter' ran out of memory on a batch of 2; give --batch 1" in told
    assert len(list(out.glob("*/samples/*.png"))) == 6
    generation.images(job(Doomed(5, no_room)), out)  # the five batches that are missing
    assert {name: data for name, data in unbroken.items() if "means" not in name} == visible(out)
    with pytest.raises(ValueError, match="on a batch of 1; give another --device"):
        generation.images(job(Doomed(0, no_room), batch=1), tmp_path / "one")

    def broken() -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        generation.images(job(Doomed(0, broken)), tmp_path / "broken")


def test_other_weights_or_another_batch_size_never_meet_what_is_there(tmp_path):
    runs = [job(), job(batch=3), job(seed=1), job(prompts=PROMPTS[:2])]
    impostor = Painter()
    impostor.fingerprint = "painter-2"
    assert len({run.folder(tmp_path, "test") for run in [*runs, job(impostor)]}) == 5
    assert job(images_per_prompt=9).folder(tmp_path, "test") == runs[0].folder(tmp_path, "test")


def test_several_processes_may_start_at_once(tmp_path):
    """The folder, its stamp and its metadata are made by whoever comes first."""
    parts = [FORK.Process(target=evaluate, args=(tmp_path, None, 0.0, Shard(k, 2))) for k in range(2)]
    for part in parts:
        part.start()
    for part in parts:
        part.join()
    assert [part.exitcode for part in parts] == [0, 0]


def test_evidence_keeps_what_holds_and_its_bytes(tmp_path):
    path, made = tmp_path / "e.jsonl", []

    def make(name: str) -> dict:
        made.append(name)
        return {"value": len(made)}

    wanted = {name: "s1" for name in "dacb"}
    collect(path, wanted, make, "")
    text = path.read_text()
    assert [json.loads(line)["id"] for line in text.splitlines()] == list("dacb")
    with open(path, "a") as lines:
        lines.write('{"id": "x", "st')
    collect(path, wanted, make, "")
    assert path.read_text() == text and len(made) == 4
    changed = collect(path, wanted | {"c": "s2"}, make, "")
    assert made[4:] == ["c"] and changed["c"]["value"] == 5 and changed["a"]["value"] == 2


def test_a_sample_that_cannot_be_judged_is_a_row_and_is_asked_again(tmp_path):
    path = tmp_path / "e.jsonl"

    def make(name: str) -> dict:
        if name == "b" and not path.with_name("mended").exists():
            raise SampleError("too\ndark")
        return {"value": 1}

    wanted = {"a": "s", "b": "s", "c": "s"}
    found = collect(path, wanted, make, "")
    assert found["b"]["error"] == "too dark" and list(found) == ["a", "b", "c"]
    assert failures(found) == "1 failed, the first b: too dark"
    path.with_name("mended").touch()
    found = collect(path, wanted, make, "")
    assert found["b"]["value"] == 1 and failures(found) is None


def test_what_is_no_fault_of_the_sample_ends_the_run_and_keeps_what_is_made(tmp_path):
    """A lost judge or a fault of the program must not be counted as bad samples."""
    path, made = tmp_path / "e.jsonl", []

    def make(name: str) -> dict:
        if name == "c" and len(made) == 2:
            raise RuntimeError("the judge is gone")
        made.append(name)
        return {"value": name}

    wanted = dict.fromkeys("abcd", "s")
    with pytest.raises(RuntimeError, match="the judge is gone"):
        collect(path, wanted, make, "")
    assert [row["id"] for row in read_rows(path)] == ["a", "b"]
    made.append("mended")
    assert list(collect(path, wanted, make, "")) == list("abcd") and made == ["a", "b", "mended", "c", "d"]


def test_rows_come_in_batches_from_parts_and_end_in_order(tmp_path):
    path, ids = tmp_path / "rows.jsonl", list("abcdef")
    batches = [ids[:2], ids[2:4], ids[4:]]

    def fill(shard: Shard, most: int = 9) -> list[str]:
        rows, done = Rows(path, ids if shard.whole else sum(shard.take(batches), []), shard), []
        for batch in [b for b in shard.take(batches) if rows.lacks(b)][:most]:
            rows.add({name: {"error": "torn"} if name == "c" else {"value": name} for name in reversed(batch)})
            done += batch
        if most == 9:
            rows.finish()
        return done

    assert fill(WHOLE, most=1) == ["a", "b"]
    path.write_bytes(path.read_bytes()[:-5])  # a kill in the middle of the line of "a"
    assert fill(Shard(1, 2)) == ["c", "d"] and (tmp_path / "rows.2-of-2.jsonl").exists()
    assert fill(WHOLE) == ["a", "b", "e", "f"]
    assert [row["id"] for row in read_rows(path)] == ids and not (tmp_path / "rows.2-of-2.jsonl").exists()
    text = path.read_bytes()
    assert fill(WHOLE) == [] and path.read_bytes() == text, "without stamps an error is a result as others are"


def test_arrays_are_whole_or_absent(tmp_path):
    kept, other = Arrays(tmp_path / "f", "a-"), Arrays(tmp_path / "f", "a-b-", 2)
    for number in (7, 0):
        kept.add(number, positions=np.array([number]), values=np.full((1, 3), number, np.float32))
    other.add(3, sums=np.zeros(2))
    assert kept.path(7).name == "a-00000007.npz" and other.path(3).name == "a-b-03.npz"
    assert [kept.lacks(n) for n in (0, 1, 7)] == [False, True, False]
    assert [one["positions"].tolist() for one in kept] == [[0], [7]] and list(kept.read(7)) == ["positions", "values"]
    (tmp_path / "f" / ".a-00000001.1234abcd.npz").touch()
    with exclusive(tmp_path / "f"):
        pass
    assert sorted(p.name for p in (tmp_path / "f").iterdir()) == ["a-00000000.npz", "a-00000007.npz", "a-b-03.npz"]
    check_finite(np.ones((2, 3)), ["x", "y"], "values")
    with pytest.raises(ValueError, match="of image y are not finite"):
        check_finite(np.array([[1.0, 2.0], [3.0, np.nan]]), ["x", "y"], "values")


def test_drawing_holds_one_batch_and_judging_one_image(tmp_path):
    alive: list[int] = []

    class Watched(Painter):
        refs: list = []

        def generate(self, prompts, seeds):
            alive.append(sum(ref() is not None for ref in self.refs))
            found = super().generate(prompts, seeds)
            self.refs.append(weakref.ref(found))
            return found

    run = job(Watched(), images_per_prompt=20)
    shown = generation.images(run, run.folder(tmp_path, "test"))
    assert len(alive) == 50 and max(alive) <= 1
    watched: list[weakref.ref] = []
    names = {shown.name(*where): path for where, path in shown.paths.items()}

    def judge(name: str) -> dict:
        assert not any(ref() is not None for ref in watched), "an image that was judged is still held"
        image = read_image(names[name]).copy()
        watched.append(weakref.ref(image))
        return {"mean": float(image.mean())}

    found = collect(tmp_path / "e.jsonl", dict.fromkeys(names, "s"), judge, "")
    assert len(found) == 100 and failures(found) is None


# ------------------------------------------------------------------------------------------------- coverage, records


def settled(root: Path, partial_ok: bool = False, **changes) -> record.Record:
    """The record of three values 0, 1, 1 in percent."""
    measure = records.Measure(**{
        "metric": "m", "values": [0.0, 1.0, 1.0], "clusters": ["a", "b", "c"], "ids": ["a/0", "b/0", "c/0"],
        "n": 3, "asked": 3, "n_expected": 3, "scale": 100.0, **changes,
    })  # fmt: skip
    common = {
        "subject": "painter", "suite": "five", "protocol": "test", "fingerprint": "f", "suite_hash": "h",
        "extra": {"settings": {"steps": 3}},
    }  # fmt: skip
    return records.write(root, {"m": "key"}, {}, {"m": measure}, common, partial_ok).records[0]


def test_a_record_of_means_has_its_samples(tmp_path):
    made = settled(tmp_path)
    assert made.extra == {"settings": {"steps": 3}, "samples": 3}
    kept = samples.read(tmp_path, made)
    assert (list(kept.ids), kept.values, list(kept.clusters)) == (["a/0", "b/0", "c/0"], [0, 100, 100], ["a", "b", "c"])
    assert made.value == pytest.approx(np.mean(kept.values))
    assert list(records.stored(tmp_path, "painter", "five", {"m": "key"})) == ["m"]
    samples.path(tmp_path, made).unlink()
    assert not records.stored(tmp_path, "painter", "five", {"m": "key"})
    assert samples.read(tmp_path, settled(tmp_path, ids=())) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n": 3, "asked": 4}, "3 of 4 samples judged, 1 missing or unreadable"),
        ({"n_extra": 2}, "3 of 3 samples judged, 2 that nobody asked for"),
        ({"asked": 5, "n_extra": 1}, "2 missing or unreadable, 1 that nobody asked for"),
    ],
)
def test_missing_and_extra_samples_withhold_the_value(tmp_path, changes, words):
    held = settled(tmp_path, **changes)
    assert held.value is None and words in held.note and "withheld" in held.note
    assert samples.read(tmp_path, held) is None and held.extra.get("n_extra", 0) == changes.get("n_extra", 0)
    given = settled(tmp_path, partial_ok=True, **changes)
    assert given.value == pytest.approx(200 / 3) and words in given.note
    assert len(samples.read(tmp_path, given).ids) == 3


def test_a_number_with_an_interval_of_its_own_follows_the_same_rule(tmp_path):
    common = {"subject": "p", "suite": "s", "protocol": "t", "fingerprint": "f", "suite_hash": "h"}

    def written(partial_ok: bool = False, **changes) -> record.Record:
        given = {
            "metric": "m",
            "n": 3,
            "asked": 3,
            "n_expected": 5,
            "estimate": Interval(1 / 3, 0.1, 0.9, 0.95, "jack"),
        }
        found = records.Estimate(**{**given, **changes})
        return records.write(tmp_path, {"m": "key"}, {}, {"m": found}, common, partial_ok).records[0]

    kept = samples.Samples(["a", "b"], [0.0, 2 / 3], ["a", "b"])
    made = written(kept=kept, fields={"protocol": "own", "seconds": 2.0}, extra={"x": 1})
    assert (made.value, made.low, made.high, made.interval) == (1 / 3, 0.1, 0.9, "jack")
    assert (made.protocol, made.seconds, made.extra) == ("own", 2.0, {"x": 1, "samples": 2})
    assert samples.read(tmp_path, made).values == [0.0, 2 / 3] and records.stored(tmp_path, "p", "s", {"m": "key"})
    held = written(n=2, n_failed=1, kept=kept)
    assert held.value is None and "2 of 3 samples judged, 1 missing or unreadable: value withheld" in held.note
    assert samples.read(tmp_path, held) is None and not records.stored(tmp_path, "p", "s", {"m": "key"})
    assert written(True, n=2, n_failed=1).value == 1 / 3
    undefined = written(estimate=None, note="not defined")
    assert (undefined.value, undefined.note) == (None, "not defined")
    assert not records.stored(tmp_path, "p", "s", {"m": "key"})
    assert records.stored(tmp_path, "p", "s", {"m": "key"}, undefined_ok=True)
    both = sum([records.Outcome([made], 1, 0), records.Outcome([held], 0, 1)], records.Outcome.none())
    assert both == records.Outcome([made, held], 1, 1)


def test_images_that_nobody_asked_for_are_named(tmp_path):
    out = evaluate(tmp_path)
    subject = folder(out)
    shown = generation.images(job(subject), Path("unused"))
    assert len(shown.paths) == 15 and shown.extra == ()
    (out / "00001" / "samples" / "spare.png").write_bytes((out / "00001" / "samples" / "0000.png").read_bytes())
    fewer = generation.images(job(folder(out), images_per_prompt=2, prompts=PROMPTS[:4]), Path("unused"))
    assert len(fewer.paths) == 8
    extra = [f"0000{i}/samples/0002.png" for i in range(4)] + [f"00004/samples/000{k}.png" for k in range(3)]
    assert sorted(fewer.extra) == sorted([*extra, "00001/samples/spare.png"])
    part = generation.images(job(folder(out)), Path("unused"), Shard(0, 2))
    assert 0 < len(part.paths) < 15


# ------------------------------------------------------------------------------------------------------- launching


def launched(work, count: int = 2, patience: float = 60.0) -> list:
    """What ``together`` gives or raises in each of ``count`` processes, played by threads that share a store."""
    from torch.distributed import HashStore

    store, ends = HashStore(), [None] * count

    def play(index: int) -> None:
        try:
            ends[index] = launch.together(Shard(index, count), work, store=store, patience=patience, beat=0.02)
        except (ValueError, RuntimeError) as error:
            ends[index] = error

    threads = [threading.Thread(target=play, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ends


def test_the_first_process_does_the_whole_after_all_parts():
    done: list[Shard] = []

    def work(shard: Shard) -> str:
        time.sleep(0.05 * shard.index)
        done.append(shard)
        return str(shard)

    assert launched(work, 3) == ["1/1", None, None]
    assert done == [Shard(0, 3), Shard(1, 3), Shard(2, 3), WHOLE]
    assert launch.together(WHOLE, work) == "1/1"


def test_the_first_process_names_the_one_that_failed():
    def work(shard: Shard) -> None:
        assert not shard.whole, "the rest must not be done over a failed part"
        if shard.index == 1:
            raise RuntimeError("disk is full")

    first, second, third = launched(work, 3)
    assert isinstance(first, ValueError) and "process 2/3 failed (RuntimeError: disk is full)" in str(first)
    assert "run the same command again" in str(first)
    assert isinstance(second, RuntimeError) and third is None


def test_the_first_process_notices_one_that_died():
    from torch.distributed import HashStore

    with pytest.raises(ValueError, match="process 2/2 gave no sign of life"):
        launch.together(Shard(0, 2), lambda shard: None, store=HashStore(), patience=0.1, beat=0.01)


def test_two_processes_meet_as_a_launcher_starts_them(unbroken, tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in {**place, "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    assert launch.place() == Shard(0, 2)

    def second() -> None:
        os.environ["RANK"] = "1"
        assert launch.together(launch.place(), lambda shard: evaluate(tmp_path, shard=shard)) is None

    process = FORK.Process(target=second)
    process.start()
    try:
        out = launch.together(launch.place(), lambda shard: evaluate(tmp_path, shard=shard))
    finally:
        launch._launcher_store.cache_clear()
        process.join()
    assert process.exitcode == 0 and visible(out) == unbroken


def test_processes_without_a_meeting_place_are_told(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ValueError, match="--shards k/n"):
        launch.together(launch.place(), lambda shard: None)
