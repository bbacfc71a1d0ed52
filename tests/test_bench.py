"""Bench: what is counted and timed, in which order, what is kept and reused.  No test looks at times."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import bench as bench_package
from bench import autoencoder as autoencoders
from bench import generation, run, timing
from bench.subjects import Subject, subject
from vgt.core import record
from vgt.models import checkpoint
from vgt.models.sampling import Sampling

FAST = Sampling(flow_steps=2, guidance=3.0)


@pytest.fixture(scope="module")
def runs(vlms, visual_lms, pixel_autoencoder, tmp_path_factory) -> Path:
    """A folder of runs: an autoencoder, a QueryAR and a MAR on it, and a VLM."""
    folder = tmp_path_factory.mktemp("runs")
    ae, base, words = pixel_autoencoder, visual_lms["internvl"], vlms["internvl"].tokenizer
    place = folder / "tiny_ae" / "model"
    mark = checkpoint.save(place, "vgt_ae", "tiny_ae", ae.config.model_dump(mode="json"), ae.state_dict())
    for method in ("query_ar", "mar"):
        config = base.config.model_copy(
            update={"method": method, "autoencoder": mark, "autoencoder_name": str(place)}
        ).model_dump(mode="json")
        checkpoint.save(folder / f"tiny_{method}" / "model", method, f"tiny_{method}", config, base.state_dict(), words)
    vlm = vlms["internvl"]
    config = {"hf": vlm.config.to_dict(), "image_size": vlm.image_size}
    checkpoint.save(folder / "tiny_vlm" / "model", "vlm", "tiny_vlm", config, vlm.state_dict(), words)
    return folder


@pytest.fixture(scope="module")
def loaded(runs) -> dict[str, Subject]:
    return {name: subject(name, runs) for name in ("tiny_query_ar", "tiny_mar", "tiny_ae")}


@pytest.fixture
def bench(runs, tmp_path):
    """``run.run`` on the small models in one temporary folder."""

    def start(*names: str, **given):
        how = {"accelerations": (4,), "batch": 2, "repeats": 3, "settings": FAST, **given}
        return run.run(names, work=tmp_path, records=tmp_path / "records", runs=runs, **how)

    return start


# ------------------------------------------------------------------------------------------------------ timing


class Clock:
    """A clock that only the measured work moves."""

    def __init__(self, monkeypatch):
        self.now, self.log = 0.0, []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(timing.time, "process_time", lambda: self.now / 2)

    def work(self, name: str, *seconds: float):
        left = iter(seconds)

        def call():
            self.now += next(left)
            self.log.append(name)

        return call


def test_measure_times_the_rounds_after_the_warm_up(monkeypatch):
    clock = Clock(monkeypatch)
    found = timing.measure(clock.work("a", 50, 70, 1, 2, 4, 9, 3), repeats=5, warmup=2)
    assert found.seconds == (1, 2, 4, 9, 3)
    assert found.cpu_seconds == (0.5, 1, 2, 4.5, 1.5)
    assert found.median == 3 and found.spread == (2, 4)


def test_calls_are_measured_in_alternation(monkeypatch):
    clock = Clock(monkeypatch)
    calls = {"a": clock.work("a", 9, 9, 1, 2), "b": clock.work("b", 9, 10, 20)}
    found = timing.alternate(
        calls, repeats=2, warmup=2, watched={"b": clock.work("hooked b", 9)}, on_call=lambda: clock.log.append("|")
    )
    assert "".join(clock.log) == "a|b|" + "a|hooked b|" + "a|b|a|b|"
    assert found["a"].seconds == (1, 2) and found["b"].seconds == (10, 20)


def test_a_round_ends_when_the_device_has_finished(monkeypatch):
    clock = Clock(monkeypatch)
    pending = []

    def synchronize():
        clock.now += sum(pending)
        pending.clear()

    def launch():
        pending.append(7.0)

    pending.append(100.0)  # work of an earlier call does not count
    assert timing.measure(launch, repeats=3, warmup=0, synchronize=synchronize).seconds == (7, 7, 7)


def test_another_harness_can_drive_the_rounds(monkeypatch):
    clock = Clock(monkeypatch)
    driven = []

    def loop(sweep, rounds):
        for _ in range(rounds):
            driven.append(clock.now)
            sweep()

    found = timing.measure(clock.work("a", 5, 1, 2), repeats=2, warmup=1, loop=loop)
    assert found.seconds == (1, 2) and driven == [5, 6]


@pytest.mark.parametrize("repeats, warmup", [(0, 1), (-1, 1), (1, -1)])
def test_impossible_rounds_are_errors(repeats, warmup):
    with pytest.raises(ValueError, match="at least 1 repeat"):
        timing.measure(lambda: None, repeats=repeats, warmup=warmup)


@pytest.mark.skipif(not timing.RESET.exists(), reason="the high-water mark can be reset on Linux only")
def test_resident_peak_sees_what_a_call_used_and_freed():
    def call():
        np.ones(64 * 2**20, np.uint8).sum()

    for _ in range(3):  # the allocator's leftovers of an earlier call hide nothing
        assert 60 < timing.resident_peak(call) < 100
    assert timing.resident_peak(lambda: None) < 8


def test_memory_is_none_where_the_system_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(timing, "RESET", tmp_path / "absent" / "clear_refs")
    made = []
    found = timing.measure(lambda: made.append(1), repeats=1, warmup=1)
    assert found.peak_mib is None and len(made) == 2
    assert timing.measure(lambda: made.append(1), repeats=1, warmup=0).peak_mib is None and len(made) == 3


def test_quartiles():
    assert timing.quartiles([4, 1, 3, 2, 5]) == (2, 3, 4)
    assert timing.quartiles([7]) == (7, 7, 7)


def test_only_known_devices():
    with pytest.raises(ValueError, match="cannot be timed"):
        timing.instruments("tpu")


# -------------------------------------------------------------------------------------------------- generation

CASES = [
    ("query_ar", 1, 3.0, "cosine"),
    ("query_ar", 3, 3.0, "cosine"),
    ("query_ar", 5, 1.0, "cosine"),  # groups of 6, 5, 5
    ("query_ar", 9, 3.0, "cosine"),  # one group
    ("query_ar", 16, 1.0, "cosine"),
    ("mar", 1, 1.0, "cosine"),
    ("mar", 4, 3.0, "cosine"),
    ("mar", 3, 3.0, "uniform"),
]


@pytest.mark.parametrize("method, acceleration, guidance, schedule", CASES)
def test_counts_are_those_of_the_running_model(loaded, method, acceleration, guidance, schedule):
    found, batch = loaded[f"tiny_{method}"], 3
    settings = Sampling(acceleration=acceleration, guidance=guidance, flow_steps=3, mar_schedule=schedule)
    read, heads = [], []
    hooks = [
        found.model.language_model.register_forward_pre_hook(
            lambda _, __, given: read.append(given["inputs_embeds"].shape[:2].numel()), with_kwargs=True
        ),
        found.model.image_head.input_proj.register_forward_pre_hook(lambda _, given: heads.append(len(given[0]))),
    ]
    try:
        generation.call(found, settings, batch)()
    finally:
        for hook in hooks:
            hook.remove()
    prefix = generation.prefix_length(found, settings, batch)
    assert generation.counts(method, found.model.tokens, prefix, settings) == {
        "decode_steps": len(read) - 1,
        "language_model_calls": len(read),
        "language_model_tokens_per_image": sum(read) / batch,
        "head_calls": len(heads),
        "head_evaluations_per_image": sum(heads) / batch,
    }


def test_workload_mixes_the_tasks_and_is_fixed():
    prompts, seeds = generation.workload(8)
    assert len(set(prompts)) == 8 and len(set(seeds)) == 8
    assert generation.workload(8) == (prompts, seeds)
    assert generation.workload(6)[0] == prompts[:6] and generation.workload(8, seed=1)[1] != seeds
    assert sum("four" in p or "three" in p or "two " in p for p in prompts[:6]) == 1  # one counting prompt
    assert generation.workload_hash(8) != generation.workload_hash(7) != generation.workload_hash(7, seed=1)


def test_split_covers_the_whole_and_leaves_the_model_as_it_was(loaded):
    found = loaded["tiny_query_ar"]
    work = generation.call(found, FAST.model_copy(update={"acceleration": 4}), 2)
    before, seen = work(), []
    parts = generation.split(found, lambda: seen.append(work()), 2, lambda: None)
    assert set(parts) == {*generation.PARTS, "other", "total"}
    assert all(parts[p] > 0 for p in generation.PARTS) and parts["other"] >= 0
    assert sum(parts.values()) - parts["total"] == pytest.approx(parts["total"])
    assert np.array_equal(before, seen[0]) and np.array_equal(before, work())
    for owner, method in ((found.model, "read"), (found.model.image_head, "sample"), (found.ae, "decode")):
        assert method not in vars(owner)


def test_split_takes_its_clocks_off_after_an_error(loaded):
    found = loaded["tiny_mar"]

    def fail():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        generation.split(found, fail, 2, lambda: None)
    assert "read" not in vars(found.model) and "decode" not in vars(found.ae)


def test_split_gives_each_second_to_its_part(loaded, monkeypatch):
    found = loaded["tiny_query_ar"]
    now = [0.0]
    monkeypatch.setattr(generation.time, "perf_counter", lambda: now[0])

    def spend(seconds):
        def spent(*_, **__):
            now[0] += seconds

        return spent

    class Spender:  # stands for generate: the text, two decode steps, the pixels
        model = type("M", (), {"read": spend(1), "image_head": type("H", (), {"sample": spend(10)})()})()
        ae = type("A", (), {"decode": spend(100)})()

        def __call__(self):
            for call in (self.model.read, self.model.read, self.model.image_head.sample, self.model.read):
                call()
            self.model.image_head.sample()
            self.ae.decode()
            now[0] += 1000

    work = Spender()
    parts = generation.split(replace(found, model=work.model, ae=work.ae), work, 2, lambda: None)
    expected = {"prefill": 0.5, "language_model": 1, "head": 10, "decode": 50, "other": 500, "total": 561.5}
    assert parts == pytest.approx({k: 1000 * v for k, v in expected.items()})


# ----------------------------------------------------------------------------------------------------- subjects


@pytest.mark.parametrize("name", ["query_ar_qwen", "mar_internvl", "query_ar_pixel"])
def test_random_subjects_have_the_shapes_of_their_preset(name):
    found = subject(f"random:{name}")
    assert (found.name, found.weights) == (f"random-{name}", "random")
    assert found.model.config.method == found.system == name.rsplit("_", 1)[0]
    assert found.model.tokens == 64 and found.model.config.d_z == found.ae.config.d_z
    assert (found.ae.config.vlm is None) == name.endswith("pixel")
    assert len(found.model.config.start_ids) == (2 if name.endswith("qwen") else 1)
    state = torch.random.get_rng_state()
    assert subject(f"random:{name}").fingerprint == found.fingerprint != subject("random:query_ar_internvl").fingerprint
    assert torch.equal(state, torch.random.get_rng_state())


def test_subjects_that_cannot_be_timed_are_errors(runs, tmp_path):
    with pytest.raises(ValueError, match="vlm"):
        subject("tiny_vlm", runs)
    with pytest.raises(ValueError, match="vlm"):
        subject("random:vlm_internvl")
    with pytest.raises(ValueError, match="unknown"):
        subject("random:query_ar_enormous")
    with pytest.raises(ValueError, match="no checkpoint"):
        subject("absent", runs)


def test_a_generator_wants_its_own_autoencoder(runs, pixel_autoencoder, loaded, tmp_path):
    ae = pixel_autoencoder
    other = checkpoint.save(
        tmp_path / "other",
        "vgt_ae",
        "other",
        ae.config.model_dump(mode="json"),
        {k: v + 1 for k, v in ae.state_dict().items()},
    )
    found = loaded["tiny_query_ar"]
    assert found.ae_name == "tiny_ae" and other != found.model.config.autoencoder
    config = found.model.config.model_copy(update={"autoencoder_name": str(tmp_path / "other")}).model_dump(mode="json")
    checkpoint.save(tmp_path / "ar", "query_ar", "ar", config, found.model.state_dict(), found.tokenizer)
    with pytest.raises(ValueError, match="was trained on autoencoder"):
        subject(str(tmp_path / "ar"), runs)
    assert subject(str(tmp_path / "ar"), runs, autoencoder="tiny_ae").ae_name == "tiny_ae"


# ---------------------------------------------------------------------------------------------- records and reuse


def names(outcome) -> list[str]:
    return [r.name for r in outcome.records]


def test_run_records_every_model(bench, runs, tmp_path):
    found = bench("tiny_query_ar", "tiny_mar", "tiny_ae", accelerations=(1, 4))
    speeds = [f"{m}@{a}x" for m in ("tiny_query_ar", "tiny_mar") for a in (1, 4)]
    metrics = ("images-per-second", "ms-per-image", "peak-memory-mib")
    ae = ("encode-images-per-second", "decode-images-per-second", "peak-memory-mib")
    assert sorted(names(found)) == sorted(
        [f"{m}/bench/{k}" for m in speeds for k in metrics] + [f"tiny_ae/bench/{k}" for k in ae]
    )
    assert (found.computed, found.reused) == (15, 0)
    assert names(found) == [r.name for r in found.records] and record.read(tmp_path / "records") == sorted(
        found.records, key=lambda r: r.name
    )
    by_name = {r.name: r for r in found.records}
    rate, ms = (by_name[f"tiny_query_ar@4x/bench/{k}"] for k in metrics[:2])
    seconds = rate.extra["seconds"]
    assert len(seconds) == 3 and rate.value == pytest.approx(2 / np.median(seconds))
    assert ms.value == pytest.approx(1000 / rate.value) and ms.extra == rate.extra
    assert (rate.low, rate.high) == pytest.approx(tuple(np.percentile([2 / s for s in seconds], (25, 75))))
    assert (rate.n, rate.n_expected, rate.partial, rate.interval) == (3, 3, False, "quartiles of 3 repeats")
    assert (rate.protocol, rate.unit) == ("throughput-b2-k2", "images/s")
    wanted = {"batch": 2, "acceleration": 4, "flow_steps": 2, "guidance": 3.0, "device": "cpu", "dtype": "float32"}
    assert wanted.items() <= rate.protocol_params.items()
    assert rate.protocol_params["threads"] == torch.get_num_threads()
    assert rate.protocol_params["weights"] == "checkpoint" and rate.note is None
    assert rate.extra["autoencoder"] == "tiny_ae" and rate.extra["counts"]["decode_steps"] == 4
    assert rate.fingerprint == subject("tiny_query_ar", runs).fingerprint and rate.device and rate.versions["torch"]
    assert (tmp_path / rate.evidence).is_file()
    encode = by_name["tiny_ae/bench/encode-images-per-second"]
    assert encode.protocol == "throughput-b2" and encode.extra["images"] == 2 * autoencoders.BATCHES
    assert encode.value == pytest.approx(encode.extra["images"] / np.median(encode.extra["seconds"]))
    rows = {row["model"]: row for row in run.rows(found.records)}
    assert set(rows) == {*speeds, "tiny_ae"} and rows["tiny_query_ar@4x"]["images_per_second"] == rate.value


def test_deleting_one_record_recomputes_just_that_one(bench, tmp_path, monkeypatch):
    first = bench("tiny_query_ar", "tiny_mar", "tiny_ae")
    again = bench("tiny_query_ar", "tiny_mar", "tiny_ae")
    assert (again.computed, again.reused) == (0, 9) and again.records == first.records
    gone = next(r for r in first.records if r.name == "tiny_mar@4x/bench/ms-per-image")
    (tmp_path / "records" / gone.path).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(timing, "alternate", None)  # evidence stands: nothing is measured
        third = bench("tiny_query_ar", "tiny_mar", "tiny_ae")
    assert (third.computed, third.reused) == (1, 8) and third.records == first.records
    (tmp_path / "records" / gone.path).unlink()
    (tmp_path / gone.evidence).unlink()
    measured = spy_on_models(monkeypatch)
    fourth = bench("tiny_query_ar", "tiny_mar", "tiny_ae")
    assert (fourth.computed, fourth.reused) == (1, 8) and set(measured) == {"mar"}


def spy_on_models(monkeypatch) -> list[str]:
    """The methods of the generate calls from now on."""
    made, original = [], generation.generate

    def generate(model, *rest):
        made.append(model.config.method)
        return original(model, *rest)

    monkeypatch.setattr(generation, "generate", generate)
    return made


def test_methods_are_measured_in_alternation_at_each_acceleration(bench, monkeypatch):
    made = spy_on_models(monkeypatch)
    bench("tiny_query_ar", "tiny_mar", accelerations=(4, 16), repeats=4)
    assert made == 2 * (["query_ar", "mar"] * (1 + 1 + 4))  # primed, watched, timed


def test_what_decides_the_time_is_in_the_key(bench, monkeypatch):
    first = bench("tiny_query_ar").records[0]
    assert bench("tiny_query_ar").computed == 0
    for change in (
        {"batch": 3},
        {"repeats": 4},
        {"seed": 1},
        {"settings": FAST.model_copy(update={"flow_steps": 3})},
        {"settings": FAST.model_copy(update={"guidance": 1.0})},
    ):
        changed = bench("tiny_query_ar", **change)
        assert changed.computed == 3 and changed.records[0].key != first.key
    keys = {first.key}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    keys.add(bench("tiny_query_ar").records[0].key)
    monkeypatch.setattr(run, "device_name", lambda device: "another chip")
    keys.add(bench("tiny_query_ar").records[0].key)
    monkeypatch.setattr(run, "_code", lambda *tables: "another loop")
    keys.add(bench("tiny_query_ar").records[0].key)
    assert len(keys) == 4


def test_fresh_measures_again(bench, monkeypatch):
    bench("tiny_ae")
    assert bench("tiny_ae", fresh=True).computed == 3


def test_broken_evidence_is_measured_again(bench, tmp_path):
    first = bench("tiny_ae")
    (tmp_path / first.records[0].evidence).write_text("{")
    (tmp_path / "records" / first.records[0].path).unlink()
    assert bench("tiny_ae").computed == 1
    assert json.loads((tmp_path / first.records[0].evidence).read_text())["key"] == first.records[0].key


def test_too_few_repeats_are_partial(bench):
    found = bench("tiny_ae", repeats=1).records[0]
    assert found.partial and (found.n, found.n_expected) == (1, 3)


def test_memory_that_cannot_be_read_is_no_number(bench, monkeypatch):
    monkeypatch.setattr(timing, "CPU", timing.CPU._replace(peak_memory=lambda call: None))
    found = {r.metric: r for r in bench("tiny_ae").records}["peak-memory-mib"]
    assert found.value is None and found.partial and "cannot be read" in found.note


@pytest.mark.parametrize(
    "given, message",
    [
        ({"accelerations": (17,)}, "acceleration 17 is impossible"),
        ({"accelerations": (0,)}, "acceleration 0 is impossible"),
        ({"accelerations": (4, 4)}, "asked for twice"),
        ({"batch": 0}, "batch 0"),
        ({"repeats": 0}, "0 repeats"),
        ({"warmup": 0}, "0 warm-ups"),
        ({"device": "tpu"}, "cannot be timed"),
    ],
)
def test_impossible_conditions_are_errors_before_any_work(bench, tmp_path, monkeypatch, given, message):
    monkeypatch.setattr(timing, "alternate", None)
    with pytest.raises(ValueError, match=message):
        bench("tiny_ae", "tiny_query_ar", **given)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------- compare


def speed(model: str, value: float | None, metric: str = "images-per-second", accel: int | None = 1, **fields):
    given = {
        "n": 3,
        "n_expected": 3,
        "protocol": "throughput-b8-k15",
        "protocol_params": {"batch": 8, "weights": "checkpoint"},
        "fingerprint": model,
        "suite_hash": "s",
        "key": "k",
        "device": "Test CPU",
    }
    return record.Record(subject=model, accel=accel, suite="bench", metric=metric, value=value, **{**given, **fields})


def test_compare_reads_ratios_the_right_way_round():
    a = [speed("q", 10.0), speed("q", 100.0, "ms-per-image"), speed("m", 10.0), speed("x", 10.0), speed("gone", 1.0)]
    b = [speed("q", 8.9), speed("q", 112.4, "ms-per-image"), speed("m", 9.1), speed("x", 11.2), speed("new", 1.0)]
    rows = {(r["model"], r["metric"]): r for r in run.compare(a, b, threshold=0.1)}
    verdicts = {model + metric[:2]: row["verdict"] for (model, metric), row in rows.items()}
    assert verdicts == {
        "q@1xim": "regression",
        "q@1xms": "regression",
        "m@1xim": "same",
        "x@1xim": "improvement",
        "gone@1xim": "missing",
        "new@1xim": "missing",
    }
    assert rows["q@1x", "images-per-second"]["ratio"] == pytest.approx(0.89)
    assert rows["q@1x", "ms-per-image"]["ratio"] == pytest.approx(100 / 112.4)
    assert rows["gone@1x", "images-per-second"]["why"] == "B has no value"
    assert {r["verdict"] for r in run.compare(a, b, threshold=0.2)} == {"same", "missing"}


def test_compare_refuses_other_conditions():
    a = speed("q", 10.0)
    for other in (
        speed("q", 10.0, device="Other CPU"),
        speed("q", 10.0, protocol="throughput-b1-k15"),
        speed("q", 10.0, protocol_params={"batch": 8, "threads": 2}),
    ):
        (row,) = run.compare([a], [other])
        assert row["verdict"] == "incomparable" and row["ratio"] is None and row["why"].startswith("different")
    (row,) = run.compare([a], [speed("q", 10.0, protocol_params={"batch": 8, "weights": "random"})])
    assert row["verdict"] == "same"
    (row,) = run.compare([a], [speed("q", None)])
    assert row["verdict"] == "missing"
    with pytest.raises(ValueError, match="threshold"):
        run.compare([a], [a], threshold=1.5)


# ---------------------------------------------------------------------------------------------- pytest-benchmark


@pytest.fixture(scope="module")
def benchmark_json(tmp_path_factory) -> Path:
    """What the suites write for one generator at 16x and one autoencoder."""
    path = tmp_path_factory.mktemp("suite") / "bench.json"
    empty = path.with_name("pytest.ini")
    empty.write_text("[pytest]\n")
    wanted = "(test_generate and mar_internvl and 16) or (test_autoencoder and pixel_ae)"
    suites = str(Path(bench_package.__file__).parent)  # the installed one where the tests run against a wheel
    words = [
        suites,
        "-c",
        str(empty),
        "-p",
        "no:cacheprovider",
        "--benchmark-only",
        f"--benchmark-json={path}",
        "-k",
        wanted,
    ]
    done = subprocess.run([sys.executable, "-m", "pytest", *words], cwd=path.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return path


def test_the_suites_json_becomes_records(benchmark_json):
    found = run.from_benchmark_json(benchmark_json)
    assert [(r.accel, r.metric) for r in found if r.accel] == [
        (16, "images-per-second"),
        (16, "ms-per-image"),
        (16, "peak-memory-mib"),
    ]
    assert sum(r.accel is None for r in found) == 3
    clocked = {b["name"]: b["stats"] for b in json.loads(benchmark_json.read_text())["benchmarks"]}
    median = next(stats["median"] for name, stats in clocked.items() if name.startswith("test_generate"))
    rate = found[[r.metric for r in found].index("images-per-second")]
    assert rate.value == pytest.approx(8 / median, rel=0.02) and rate.n == 3 and not rate.partial
    assert rate.extra["counts"]["decode_steps"] == 4 and "head" in rate.extra["split_ms_per_image"]
    assert all(r.evidence is None and r.device and r.protocol.startswith("throughput-b8") for r in found)


def test_the_suite_and_the_command_line_measure_the_same_thing(benchmark_json):
    """Equal keys: what decides a value is the same."""
    rate = next(r for r in run.from_benchmark_json(benchmark_json) if r.accel)
    name = rate.subject.replace("random-", "random:")
    (job,) = run.plan(subject(name), run.Conditions(), [16])
    assert job.heading["key"] == rate.key and job.model == rate.model


def test_benchmark_files_that_do_not_fit_are_errors(benchmark_json, tmp_path):
    path = tmp_path / "bench.json"
    with pytest.raises(ValueError, match="no file"):
        run.from_benchmark_json(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="not the JSON of pytest-benchmark"):
        run.from_benchmark_json(path)
    whole = json.loads(benchmark_json.read_text())
    for change, message in (
        (lambda b: b["extra_info"].clear(), "none of this project's"),
        (lambda b: b["stats"]["data"].pop(), "not those that pytest-benchmark clocked"),
        (lambda b: b["extra_info"]["measurement"].update(seconds=[9.0, 9.0, 9.0]), "not those that"),
    ):
        edited = json.loads(json.dumps(whole))
        change(edited["benchmarks"][0])
        path.write_text(json.dumps(edited))
        with pytest.raises(ValueError, match=message):
            run.from_benchmark_json(path)


def test_half_of_an_autoencoder_has_no_memory_record(benchmark_json, tmp_path):
    whole = json.loads(benchmark_json.read_text())
    whole["benchmarks"] = [b for b in whole["benchmarks"] if b["extra_info"]["operation"] == "encode"]
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(whole))
    assert [r.metric for r in run.from_benchmark_json(path)] == ["encode-images-per-second"]
