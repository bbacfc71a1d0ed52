"""Bench: what is counted and timed, in which order, what is kept and reused.  No test looks at times."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import bench as bench_package
from bench import compare as comparing
from bench import evaluators, generation, roofline, run, sources, suites, test_speed, timing, workloads
from bench.generation import TIMED_GENERATION
from bench.roofline import KNOWN
from bench.subjects import Subject, subject
from bench.workloads import TIMED, Autoencoder, Conditions
from evals.geneval import run as geneval
from evals.metrics import frechet
from vgt.__main__ import dispatch, main
from vgt.checkpoints import checkpoint
from vgt.commands import options
from vgt.core import config as configs
from vgt.core import record
from vgt.core.record import SPEED
from vgt.inference.generator import eager
from vgt.methods import registry
from vgt.methods.sampling import Sampling

FAST = {"flow_steps": 3, "guidance": 3.0}
QUICK = Sampling(**FAST, acceleration=4)


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


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """The machine never looks busy, and nobody measures what it can do."""
    settle(monkeypatch)


def settle(patch) -> None:
    patch.setattr(timing, "busy", lambda *_: None)
    patch.setattr(roofline, "measure_limits", lambda *_: KNOWN["h100"])
    patch.setattr(timing, "CPU", timing.CPU._replace(peak_memory=lambda call: (call(), 10.0)[1]))


@pytest.fixture
def bench(runs, tmp_path):
    """``run.run`` on the small models in one temporary folder."""

    def start(*names: str, fresh: bool = False, **given):
        how = {"accelerations": (4,), "batches": (2,), "repeats": 3, "settings": FAST, **given}
        return run.run(suites.models(names, runs=runs, **how), tmp_path, tmp_path / "records", fresh)

    return start


def loops(found: Subject) -> dict:
    return {"generate": found.engine, "eager": eager(found.model)}


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


def measure(call, **how) -> timing.Timing:
    return timing.alternate({"": call}, **how)[""]


def test_measure_times_the_rounds_after_the_warm_up(monkeypatch):
    clock = Clock(monkeypatch)
    found = measure(clock.work("a", 50, 70, 1, 2, 4, 9, 3), repeats=5, warmup=2)
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
    assert measure(launch, repeats=3, warmup=0, synchronize=synchronize).seconds == (7, 7, 7)


def test_another_harness_can_drive_the_rounds(monkeypatch):
    clock = Clock(monkeypatch)
    driven = []

    def loop(sweep, rounds):
        for _ in range(rounds):
            driven.append(clock.now)
            sweep()

    found = measure(clock.work("a", 5, 1, 2), repeats=2, warmup=1, loop=loop)
    assert found.seconds == (1, 2) and driven == [5, 6]


@pytest.mark.parametrize("repeats, warmup", [(0, 1), (-1, 1), (1, -1)])
def test_impossible_rounds_are_errors(repeats, warmup):
    with pytest.raises(ValueError, match="at least 1 repeat"):
        measure(lambda: None, repeats=repeats, warmup=warmup)


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
    found = measure(lambda: made.append(1), repeats=1, warmup=1)
    assert found.peak_mib is None and len(made) == 2
    assert measure(lambda: made.append(1), repeats=1, warmup=0).peak_mib is None and len(made) == 3


def test_quartiles():
    assert timing.quartiles([4, 1, 3, 2, 5]) == (2, 3, 4)
    assert timing.quartiles([7]) == (7, 7, 7)


def test_only_known_devices():
    with pytest.raises(ValueError, match="cannot be timed"):
        timing.instruments("tpu")


# -------------------------------------------------------------------------------------------------- generation

CASES = [
    ("query_ar", 1, 3.0, {}),
    ("query_ar", 3, 3.0, {}),
    ("query_ar", 5, 1.0, {}),  # groups of 6, 5, 5
    ("query_ar", 9, 3.0, {}),  # one group
    ("query_ar", 16, 1.0, {}),
    ("query_ar", 2, 3.0, {"schedule": "cosine"}),  # groups of one and larger ones
    ("query_ar", 4, 3.0, {"flow_budget": "falling", "flow_steps": 8, "order": "spread"}),
    ("mar", 1, 1.0, {}),
    ("mar", 4, 3.0, {}),
    ("mar", 4, 3.0, {"flow_budget": "falling", "flow_steps": 8}),
    ("mar", 3, 3.0, {"schedule": "equal"}),
]


@pytest.mark.parametrize("method, acceleration, guidance, chosen", CASES)
def test_counts_are_those_of_both_loops(loaded, method, acceleration, guidance, chosen):
    """The reference implementation by hooks on its modules, the engine by the tensors that its parts are given."""
    found, how = loaded[f"tiny_{method}"], Conditions(3, eager=True)
    settings = Sampling(**{"acceleration": acceleration, "guidance": guidance, "flow_steps": 3, **chosen})
    wanted = generation.counts(method, found.model.tokens, settings)
    read, heads = [], []
    hooks = [
        found.model.language_model.register_forward_pre_hook(
            lambda _, __, given: read.append(given["inputs_embeds"].shape[:2].numel()), with_kwargs=True
        ),
        found.model.image_head.input_proj.register_forward_pre_hook(lambda _, given: heads.append(len(given[0]))),
    ]
    try:
        generation.call(found, settings, how, loops(found)["eager"])()
    finally:
        for hook in hooks:
            hook.remove()
    assert wanted == {
        "decode_steps": len(read) - 1,
        "language_model_tokens_per_image": sum(read[1:]) / 3,
        "head_calls": len(heads),
        "head_evaluations_per_image": sum(heads) / 3,
    }
    engine, shapes = found.engine, []
    original = engine.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "read", lambda x, *rest: shapes.append(x.shape[:2].numel()) or original(x, *rest))
        generation.call(found, settings, how, found.engine)()
    assert len(shapes) == wanted["decode_steps"]
    assert sum(shapes) / 3 == wanted["language_model_tokens_per_image"]


@pytest.mark.parametrize("method", ["query_ar", "mar"])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_first_decode_steps_alone(loaded, method, steps, monkeypatch):
    found, settings = loaded[f"tiny_{method}"], QUICK
    how = Conditions(2, steps=steps, eager=True)
    monkeypatch.setattr(found.ae, "decode", None)  # no images
    for loop in loops(found).values():
        reads = []
        owner = found.engine if loop is found.engine else found.model
        original = owner.read
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, "read", lambda *x, read=original, seen=reads: seen.append(1) or read(*x))
            generation.call(found, settings, how, loop)()
        assert len(reads) == steps + (loop is not found.engine), (
            "the reference implementation also reads the text with it"
        )


def test_a_falling_budget_is_primed_and_bounded(loaded):
    """A single step of few evaluations, which alone could not fall; the bound is not that of a constant budget."""
    found = loaded["tiny_query_ar"]
    falling = {"flow_steps": 4, "flow_budget": "falling", "schedule": "cosine"}
    works = [
        generation.EngineGeneration(found, Conditions(2, settings=FAST | more), 4)
        for more in (falling, {"flow_steps": 4})
    ]
    generation.prime(found, works[0].settings, Conditions(2), found.engine)
    limits = roofline.Limits("p", 1e3, 1e30, "")
    assert works[0].bound(limits)["ms"] != pytest.approx(works[1].bound(limits)["ms"])


def test_throughput_makes_several_batches(loaded):
    found = loaded["tiny_query_ar"]
    how = Conditions(2, mode="throughput")
    made = generation.call(found, QUICK, how, found.engine)()
    assert len(made) == how.flights and all(x.shape == (2, 32, 32, 3) for x in made)
    one = generation.call(found, QUICK, Conditions(2 * how.flights), found.engine)()
    assert sum(np.abs(np.concatenate(made).astype(int) - one) > 1).sum() == 0, "the same images to a rounding"


def test_names_of_suites():
    assert Conditions(8).suite == "bench-b8" and Conditions(1, steps=8).suite == "bench-b1-n8"
    assert Conditions(64, mode="throughput").suite == "bench-b64-throughput"
    found = SPEED.fullmatch("bench-b1-n8")
    assert (found["batch"], found["steps"], found["throughput"]) == ("1", "8", None)
    assert SPEED.fullmatch("scenes-geneval") is None


def test_workload_mixes_the_tasks_and_is_fixed():
    prompts, seeds = generation.workload(8)
    assert len(set(prompts)) == 8 and len(set(seeds)) == 8
    assert generation.workload(8) == (prompts, seeds)
    assert generation.workload(6)[0] == prompts[:6] and generation.workload(8, seed=1)[1] != seeds
    assert sum("four" in p or "three" in p or "two " in p for p in prompts[:6]) == 1  # one counting prompt
    assert generation.workload_hash(8) != generation.workload_hash(7) != generation.workload_hash(7, seed=1)


@pytest.mark.parametrize("operation", ["generate", "eager"])
def test_split_covers_the_whole_and_leaves_the_model_as_it_was(loaded, operation):
    found = loaded["tiny_query_ar"]
    loop = loops(found)[operation]
    work = generation.call(found, QUICK, Conditions(2), loop)
    before, seen = work(), []
    parts = generation.split(found.model, found.ae, lambda: seen.append(work()), 2, lambda: None, loop)
    assert set(parts) == {*generation.PARTS, "other", "total"}
    assert all(parts[p] > 0 for p in generation.PARTS) and parts["other"] >= 0
    assert sum(parts.values()) - parts["total"] == pytest.approx(parts["total"])
    assert np.array_equal(before, seen[0]) and np.array_equal(before, work())
    for owner, method in ((found.model, "read"), (found.model.image_head, "sample"), (found.ae, "decode")):
        assert method not in vars(owner)
    assert not {"read", "prefill", "head"} & set(vars(found.engine)) and found.engine.graphs


def test_split_takes_its_clocks_off_after_an_error(loaded):
    found = loaded["tiny_mar"]

    def fail():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        generation.split(found.model, found.ae, fail, 2, lambda: None)
    assert "read" not in vars(found.model) and "decode" not in vars(found.ae)


def test_split_gives_each_second_to_its_part(monkeypatch):
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
    parts = generation.split(work.model, work.ae, work, 2, lambda: None)
    expected = {"prefill": 0.5, "language_model": 1, "head": 10, "decode": 50, "other": 500, "total": 561.5}
    assert parts == pytest.approx({k: 1000 * v for k, v in expected.items()})


# ------------------------------------------------------------------------------------------------- busy machines

BUSY = timing.busy


def test_a_busy_machine_shows_in_its_rounds():
    assert BUSY([1.0, 1.1, 0.9], [1.0, 1.0, 0.9], on_cpu=True) is None
    assert BUSY([1.0, 2.2, 1.0], [1.0, 1.9, 1.0], on_cpu=True) == "rounds spread by 60 % of their median"
    assert BUSY([1.0, 1.0], [0.5, 0.5], on_cpu=True) == "the process had a CPU for 50 % of the time"
    assert BUSY([1.0, 1.0], [0.5, 0.5], on_cpu=False) is None, "on a GPU the process may wait"


def test_what_a_busy_machine_spoils_is_measured_again_once(bench, monkeypatch):
    seen = []

    def busy(*_) -> str | None:
        seen.append(1)
        return "rounds spread by 60 % of their median" if len(seen) == 1 else None

    monkeypatch.setattr(timing, "busy", busy)
    (row,) = run.rows(bench("tiny_query_ar").records)
    assert len(seen) == 2 and row["busy"] is None


def test_what_stays_noisy_is_said_in_the_row_and_the_record(bench, monkeypatch):
    seen = []
    monkeypatch.setattr(timing, "busy", lambda *_: seen.append(1) or "rounds spread by 60 % of their median")
    found = bench("tiny_query_ar")
    (row,) = run.rows(found.records)
    assert len(seen) == 2 and row["busy"] == "rounds spread by 60 % of their median"
    rate = next(r for r in found.records if r.metric == "ms-per-image")
    assert rate.note == "measured on a busy machine: rounds spread by 60 % of their median"
    assert rate.extra["busy"] == row["busy"] and rate.value is not None


# ----------------------------------------------------------------------------------------------------- subjects


@pytest.mark.parametrize("name", ["query_ar_qwen", "mar_internvl", "query_ar_pixel"])
def test_random_subjects_have_the_shapes_of_their_preset(name):
    found = subject(f"random:{name}")
    assert (found.name, found.weights) == (f"random-{name}", "random")
    assert found.model.config.method == found.system.name == name.rsplit("_", 1)[0]
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


def test_a_system_from_outside_is_timed_by_its_own_generate(bench, runs, monkeypatch):
    """A class-conditional one of tests/toy_system, with a discrete tokenizer; bench has never heard of it."""
    monkeypatch.setattr(registry, "_SYSTEMS", dict(registry._SYSTEMS))
    importlib.reload(importlib.import_module("toy_system"))
    codebook, prior = importlib.import_module("toy_system.codebook"), importlib.import_module("toy_system.prior")
    ae = codebook.Codebook(codebook.CodebookConfig())
    place = runs / "toy_codebook" / "model"
    mark = checkpoint.save(place, "toy_codebook", "toy_codebook", ae.config.model_dump(mode="json"), ae.state_dict())
    own = {"classes": ["star", "ring", "moon"], "grid": (4, 4), "codebook_size": 16}
    config = prior.PriorConfig(**own, autoencoder=mark, autoencoder_name="toy_codebook")
    values, state = config.model_dump(mode="json"), prior.Prior(config).state_dict()
    checkpoint.save(runs / "toy_prior" / "model", "toy_prior", "toy_prior", values, state)
    asked = []
    monkeypatch.setattr(prior.LabelToImage, "generate", lambda self, labels, seeds: asked.append(labels))
    found = bench("toy_prior", "toy_codebook", accelerations=(1,), batches=(4,), settings={"temperature": 0.5})
    assert {r.metric for r in found.records if r.subject == "toy_prior"} == {
        "images-per-second", "ms-per-image", "energy-mj-per-image", "peak-memory-mib",
    }  # fmt: skip
    assert asked == [[0, 1, 2, 0]] * 4 and found.records[0].protocol_params["temperature"] == 0.5
    assert all(row["bound_ms"] is None for row in run.rows(found.records))
    work = suites.models(["toy_prior"], accelerations=(1,), runs=runs)[0]
    assert "toy_system.prior" in sources.timed("toy_system.prior")
    before = work.code()
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (path.name == "prior.py"))
    assert work.code() != before, "its own source decides the time too"
    for given in ({"eager": True}, {"steps": 1}):
        with pytest.raises(ValueError, match="toy_prior has no decode engine"):
            bench("toy_prior", settings={}, **given)
    with pytest.raises(ValueError, match="temperature"):
        bench("toy_prior", settings={"temperature": -1})


# ---------------------------------------------------------------------------------------------- records and reuse


def names(outcome) -> list[str]:
    return [r.name for r in outcome.records]


RATES = ("images-per-second", "ms-per-image", "floor-ms-per-image", "energy-mj-per-image", "peak-memory-mib")
IMAGES = ("encode-images-per-second", "decode-images-per-second", "peak-memory-mib")


def test_run_records_every_model(bench, runs, tmp_path):
    found = bench("tiny_query_ar", "tiny_mar", "tiny_ae", accelerations=(1, 4))
    speeds = [f"{m}+sde-3@{a}x" for m in ("tiny_query_ar", "tiny_mar") for a in (1, 4)]
    assert sorted(names(found)) == sorted(
        [f"{m}/bench-b2/{k}" for m in speeds for k in RATES] + [f"tiny_ae/bench-b2/{k}" for k in IMAGES]
    )
    assert (found.computed, found.reused) == (23, 0)
    assert names(found) == [r.name for r in found.records] and record.read(tmp_path / "records") == sorted(
        found.records, key=lambda r: r.name
    )
    by_name = {r.name: r for r in found.records}
    rate, ms, floor, energy_used = (by_name[f"tiny_query_ar+sde-3@4x/bench-b2/{k}"] for k in RATES[:4])
    seconds = rate.extra["seconds"]
    assert len(seconds) == 3 and rate.value == pytest.approx(2 / np.median(seconds))
    assert ms.value == pytest.approx(1000 / rate.value) and ms.extra == rate.extra
    assert (rate.low, rate.high) == pytest.approx(tuple(np.percentile([2 / s for s in seconds], (25, 75))))
    assert (rate.n, rate.n_expected, rate.partial, rate.interval) == (3, 3, False, "quartiles of 3 repeats")
    assert (rate.protocol, rate.unit) == ("throughput-b2-k3", "images/s")
    wanted = {"batch": 2, "acceleration": 4, "flow_steps": 3, "guidance": 3.0, "device": "cpu", "dtype": "float32"}
    assert wanted.items() <= rate.protocol_params.items()
    assert rate.protocol_params["threads"] == torch.get_num_threads() and rate.protocol_params["mode"] == "latency"
    assert rate.protocol_params["weights"] == "checkpoint" and rate.note is None
    assert rate.extra["autoencoder"] == "tiny_ae" and rate.extra["counts"]["decode_steps"] == 4
    assert rate.extra["notes"] == ["no CUDA graphs: the model is on cpu"]
    assert rate.fingerprint == subject("tiny_query_ar", runs).fingerprint and rate.device and rate.versions["torch"]
    assert (tmp_path / rate.evidence).is_file()
    assert sum(floor.extra["split"].values()) == pytest.approx(floor.value) and floor.extra["limits"]["flops"] > 0
    assert energy_used.value is None and energy_used.partial and "not an NVIDIA GPU" in energy_used.note
    encode = by_name["tiny_ae/bench-b2/encode-images-per-second"]
    assert encode.protocol == "throughput-b2" and encode.extra["images"] == 2 * Autoencoder.BATCHES
    assert encode.value == pytest.approx(encode.extra["images"] / np.median(encode.extra["seconds"]))
    rows = {row["model"]: row for row in run.rows(found.records)}
    assert set(rows) == {*speeds, "tiny_ae"}
    row = rows["tiny_query_ar+sde-3@4x"]
    assert row["images_per_second"] == rate.value and row["engine_ms"] == ms.value and row["bound_ms"] == floor.value
    assert row["of_bound"] == floor.value / ms.value and row["eager_ms"] is row["ratio"] is row["error"] is None
    assert (row["accel"], row["batch"], row["weights"]) == (4, 2, "checkpoint")


def test_another_batch_overwrites_nothing(bench, tmp_path):
    bench("tiny_query_ar")
    both = bench("tiny_query_ar", batches=(2, 3))
    assert (both.computed, both.reused) == (5, 5)
    assert {r.suite for r in record.read(tmp_path / "records")} == {"bench-b2", "bench-b3"}
    assert [row["batch"] for row in run.rows(both.records)] == [2, 3]


def test_against_the_reference_implementation(bench, monkeypatch):
    bench("tiny_query_ar")
    made = spy_on_loops(monkeypatch)
    found = bench("tiny_query_ar", eager=True)
    assert made == ["engine", "eager"] * (1 + 3), "in alternation: watched, timed"
    assert (found.computed, found.reused) == (7, 0), "times of one measurement stand together"
    by_metric = {r.metric: r for r in found.records}
    ours, theirs = by_metric["ms-per-image"], by_metric["eager-ms-per-image"]
    gain = by_metric["speedup-over-eager"]
    rounds = zip(theirs.extra["seconds"], ours.extra["seconds"], strict=True)
    assert gain.value == pytest.approx(np.median([a / b for a, b in rounds]))
    assert gain.low <= gain.value <= gain.high
    (row,) = run.rows(found.records)
    assert (row["engine_ms"], row["eager_ms"], row["ratio"]) == (ours.value, theirs.value, gain.value)
    assert set(theirs.extra["split_ms_per_image"]) == {*generation.PARTS, "other", "total"}
    assert bench("tiny_query_ar", eager=True).computed == 0
    assert bench("tiny_query_ar").computed == 0, "what was measured beside the other loop stands"


def spy_on_loops(monkeypatch) -> list[str]:
    """By what the whole calls from now on decode, priming left out."""
    made, original = [], generation.generate

    def generate(*given, decode=None):
        if given[-1].acceleration != 16:
            made.append("engine" if isinstance(decode, generation.Engine) else "eager")
        return original(*given, decode=decode)

    monkeypatch.setattr(generation, "generate", generate)
    return made


def test_a_part_never_passes_for_the_whole(bench, tmp_path):
    found = bench("tiny_query_ar", steps=2, eager=True)
    assert {r.suite for r in found.records} == {"bench-b2-n2"}
    by_metric = {r.metric: r for r in found.records}
    assert "images-per-second" not in by_metric and "energy-mj-per-image" not in by_metric
    for metric in ("ms-per-image", "eager-ms-per-image", "speedup-over-eager", "floor-ms-per-image"):
        assert by_metric[metric].partial and (by_metric[metric].n, by_metric[metric].n_expected) == (2, 4)
        assert "the first 2 of 4 decode steps" in by_metric[metric].note
    whole = {r.metric: r for r in bench("tiny_query_ar").records}
    assert by_metric["floor-ms-per-image"].value < whole["floor-ms-per-image"].value
    assert by_metric["floor-ms-per-image"].extra["split"]["decode"] == 0
    (row,) = run.rows(found.records)
    assert row["steps"] == 2 and row["images_per_second"] is None and row["engine_ms"] and row["of_bound"]


def test_a_batch_without_room_says_so_and_the_rest_goes_on(bench, monkeypatch):
    original = generation.generate

    def generate(model, ae, words, prompts, *rest, **how):
        if model.config.method == "mar" and len(prompts) > 3:
            raise torch.OutOfMemoryError("no room")
        return original(model, ae, words, prompts, *rest, **how)

    monkeypatch.setattr(generation, "generate", generate)
    found = bench("tiny_query_ar", "tiny_mar", batches=(8, 3), repeats=1)
    rows = {(row["model"], row["batch"]): row for row in run.rows(found.records)}
    lost = rows["tiny_mar+sde-3@4x", 8]
    assert lost["error"] == "out of memory with 8 images at a time; 2 images fit"
    assert lost["engine_ms"] is lost["images_per_second"] is lost["of_bound"] is None
    assert rows["tiny_mar+sde-3@4x", 3]["engine_ms"] and rows["tiny_query_ar+sde-3@4x", 8]["engine_ms"]
    gone = next(r for r in found.records if r.name == "tiny_mar+sde-3@4x/bench-b8/ms-per-image")
    assert gone.value is None and "out of memory" in gone.note and gone.partial


def test_an_engine_that_halves_its_batch_has_no_room(bench, loaded, monkeypatch):
    """The engine goes on with smaller batches; a record of the larger one would not be of that batch."""
    original = generation.Engine.__call__

    def call(self, ids, mask, seeds, *rest):
        if len(seeds) > 2:
            self.limit = 2
        return original(self, ids, mask, seeds, *rest)

    monkeypatch.setattr(generation.Engine, "__call__", call)
    (row,) = run.rows(bench("tiny_query_ar", batches=(5,)).records)
    assert row["error"] == "out of memory with 5 images at a time; 2 images fit"


def test_deleting_one_record_recomputes_just_that_one(bench, tmp_path, monkeypatch):
    first = bench("tiny_query_ar", "tiny_mar", "tiny_ae")
    again = bench("tiny_query_ar", "tiny_mar", "tiny_ae")
    assert (again.computed, again.reused) == (0, 13) and again.records == first.records
    gone = next(r for r in first.records if r.name == "tiny_mar+sde-3@4x/bench-b2/ms-per-image")
    (tmp_path / "records" / gone.path).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(timing, "alternate", None)  # evidence stands: nothing is measured
        third = bench("tiny_query_ar", "tiny_mar", "tiny_ae")
    assert (third.computed, third.reused) == (1, 12) and third.records == first.records
    (tmp_path / "records" / gone.path).unlink()
    (tmp_path / gone.evidence).unlink()
    measured = spy_on_models(monkeypatch)
    fourth = bench("tiny_query_ar", "tiny_mar", "tiny_ae")
    assert (fourth.computed, fourth.reused) == (5, 8) and set(measured) == {"mar"}, "all of that measurement"


def spy_on_models(monkeypatch) -> list[str]:
    """The methods of the generate calls from now on."""
    made, original = [], generation.generate

    def generate(model, *rest, **how):
        made.append(model.config.method)
        return original(model, *rest, **how)

    monkeypatch.setattr(generation, "generate", generate)
    return made


def test_methods_are_measured_in_alternation_at_each_acceleration(bench, monkeypatch):
    made = spy_on_models(monkeypatch)
    bench("tiny_query_ar", "tiny_mar", accelerations=(4, 16), repeats=4)
    assert made == 2 * (["query_ar", "mar"] * (1 + 1 + 4))  # primed, watched, timed


def test_what_decides_the_time_is_in_the_key(bench, loaded, monkeypatch):
    first = bench("tiny_query_ar").records[0]
    assert bench("tiny_query_ar").computed == 0
    changed = bench("tiny_query_ar", repeats=4)
    assert changed.computed == 5 and changed.records[0].key != first.key

    def key(**given) -> str:
        how = {"repeats": 3, "settings": FAST, **given}
        (work,) = suites.models([loaded["tiny_query_ar"]], accelerations=[4], batches=[2], **how)
        return work.heading["key"]

    assert key() == first.key
    changes = ({"seed": 1}, {"settings": FAST | {"flow_steps": 5}}, {"settings": FAST | {"guidance": 1.0}})
    keys = [first.key, *(key(**change) for change in changes)]
    for owner, name, other in (
        (torch, "get_num_threads", lambda: 77),
        (workloads, "device_name", lambda device: "another chip"),
        (sources, "code", lambda modules: "another loop"),
    ):
        monkeypatch.setattr(owner, name, other)
        keys.append(key())
    assert len(set(keys)) == len(keys) == 7


def test_no_bound_depends_on_what_was_measured_before(bench, monkeypatch):
    """Limits belong to a run: those of an earlier one, when the machine was quieter or another, say nothing here."""
    slow, asked = replace(KNOWN["h100"], flops=1e9, bandwidth=1e9), []
    before = bench("tiny_query_ar")
    monkeypatch.setattr(roofline, "measure_limits", lambda *key: asked.append(key) or slow)
    after = bench("tiny_query_ar", "tiny_mar", fresh=True)
    assert [key[:2] for key in asked] == [("cpu", torch.float32)], "once, as both read the same weights"
    bounds = [next(r for r in found.records if r.metric == "floor-ms-per-image") for found in (before, after)]
    assert bounds[1].extra["limits"]["flops"] == 1e9 and bounds[1].value > 10 * bounds[0].value


def test_all_of_the_engine_decides_the_time():
    found = sources.timed(*TIMED_GENERATION)
    wanted = {f"vgt.inference.{name}" for name in ("engine", "generator", "hoisted_head", "static_lm")}
    wanted |= {f"vgt.methods.{name}" for name in ("query_ar", "mar", "sampling", "visual_lm", "flow_head")}
    assert wanted | {"vgt.equations.flow", "vgt.equations.order", "vgt.equations.solvers"} <= set(found)
    assert [name for name in found if name.startswith("vgt.checkpoints")] == ["vgt.checkpoints.reference"]
    assert "vgt.methods.registry" not in found, "a further system makes no record stale"
    assert "vgt.methods.pixel_decoder" in sources.timed(*TIMED)
    assert sources.code(TIMED) != sources.code(TIMED_GENERATION)


def test_fresh_measures_again(bench, monkeypatch):
    bench("tiny_ae")
    assert bench("tiny_ae", fresh=True).computed == 3


def test_broken_evidence_is_measured_again(bench, tmp_path):
    first = bench("tiny_ae")
    (tmp_path / first.records[0].evidence).write_text("{")
    (tmp_path / "records" / first.records[0].path).unlink()
    assert bench("tiny_ae").computed == 3
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
        ({"batches": (0,)}, "batch 0"),
        ({"batches": (-2,)}, "batch -2"),
        ({"batches": (2, 2)}, "asked for twice"),
        ({"steps": 4}, "has 4 decode steps, so the first 4 are no part of them"),
        ({"steps": 0}, "0 decode steps are too few"),
        ({"mode": "burst"}, "mode 'burst' is unknown"),
        ({"settings": {"compat": "reference"}, "eager": True}, "there is no engine"),
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
    given |= {"suite": "bench-b8", **fields}
    return record.Record(subject=model, accel=accel, metric=metric, value=value, **given)


def test_compare_reads_ratios_the_right_way_round():
    a = [speed("q", 10.0), speed("q", 100.0, "ms-per-image"), speed("m", 10.0), speed("x", 10.0), speed("gone", 1.0)]
    b = [speed("q", 8.9), speed("q", 112.4, "ms-per-image"), speed("m", 9.1), speed("x", 11.2), speed("new", 1.0)]
    rows = {(r["model"], r["metric"]): r for r in comparing.compare(a, b, threshold=0.1)}
    assert all(r["suite"] == "bench-b8" for r in rows.values())
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
    assert {r["verdict"] for r in comparing.compare(a, b, threshold=0.2)} == {"same", "missing"}


def test_compare_refuses_other_conditions():
    a = speed("q", 10.0)
    for other in (
        speed("q", 10.0, device="Other CPU"),
        speed("q", 10.0, protocol="throughput-b1-k15"),
        speed("q", 10.0, protocol_params={"batch": 8, "threads": 2}),
    ):
        (row,) = comparing.compare([a], [other])
        assert row["verdict"] == "incomparable" and row["ratio"] is None and row["why"].startswith("different")
    (row,) = comparing.compare([a], [speed("q", 10.0, protocol_params={"batch": 8, "weights": "random"})])
    assert row["verdict"] == "same"
    early = speed("q", 10.0, protocol_params={"batch": 8, "mar_schedule": "cosine"})  # as every record had it once
    (row,) = comparing.compare([early], [a])
    assert row["verdict"] == "same"
    (row,) = comparing.compare([early], [speed("q", 10.0, protocol_params={"batch": 8, "schedule": "cosine"})])
    assert row["why"] == "different schedule"
    (row,) = comparing.compare([a], [speed("q", None)])
    assert row["verdict"] == "missing"
    with pytest.raises(ValueError, match="threshold"):
        comparing.compare([a], [a], threshold=1.5)


def test_ratios_compare_across_devices():
    """Engine over reference implementation, and QueryAR over MAR, wherever measured; times only on one device."""

    def side(device: str, threads: int, query_ar: float, gain: float):
        where = {"device": device, "protocol_params": {"batch": 8, "device": device, "threads": threads}}
        found = [speed("query_ar_x", query_ar, **where), speed("mar_x", 10.0, **where)]
        return [*found, speed("query_ar_x", gain, "speedup-over-eager", **where)]

    rows = {
        r["metric"] + r["model"]: r for r in comparing.compare(side("cpu", 2, 20.0, 2.0), side("cuda", 1, 500.0, 1.7))
    }
    assert rows["images-per-secondquery_ar_x@1x"]["verdict"] == "incomparable"
    assert rows["speedup-over-eagerquery_ar_x@1x"]["verdict"] == "regression"
    over = rows["speedup-over-marquery_ar_x@1x"]
    assert (over["a"], over["b"], over["verdict"]) == (2.0, 50.0, "improvement")
    assert len(rows) == 4
    mixed = [*side("cpu", 2, 20.0, 2.0)[:1], *side("cuda", 2, 20.0, 2.0)[1:2]]
    rows = {r["metric"]: r for r in comparing.compare(mixed, mixed)}
    assert rows["speedup-over-mar"]["verdict"] == "missing", "no ratio of speeds on two devices"


# ---------------------------------------------------------------------------------------------- pytest-benchmark


class Fixture:
    """What the suites use of pytest-benchmark's fixture."""

    def __init__(self, name: str):
        self.name, self.group, self.extra_info = name, None, {}

    def pedantic(self, function, args=(), setup=lambda: None, rounds=1):
        for _ in range(rounds):
            setup()
            made = function(*args)
        return made

    def json(self) -> dict:
        """Its clock runs a little longer than ours, which is inside."""
        seconds = [s + 1e-5 for s in self.extra_info.get("measurement", {"seconds": [1.0]})["seconds"]]
        stats = {"data": seconds, "median": float(np.median(seconds))}
        return {"name": self.name, "extra_info": self.extra_info, "stats": stats}


@pytest.fixture(scope="module")
def benchmark_json(loaded, tmp_path_factory) -> Path:
    """What the suites leave of one generator at 16x and one autoencoder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_speed, "loaded", loaded.__getitem__)
        settle(patch)
        made = [Fixture("test_generate[16-tiny_mar]")]
        test_speed.test_generate(made[0], "tiny_mar", 16)
        for operation in Autoencoder.operations:
            made.append(Fixture(f"test_autoencoder[tiny_ae-{operation}]"))
            test_speed.test_autoencoder(made[-1], "tiny_ae", operation)
    made.append(Fixture("test_psnr"))  # no model: no record
    path = tmp_path_factory.mktemp("suite") / "bench.json"
    path.write_text(json.dumps({"benchmarks": [one.json() for one in made]}))
    return path


def test_what_evaluators_are_timed_with_runs(tmp_path, monkeypatch):
    """The same work as in the suites, small."""
    assert evaluators.stream(64, d=8)["read"] == 64
    moments = evaluators.stored(0, 8, 100), evaluators.stored(1, 8, 100)
    assert evaluators.by_square_root(*moments) == pytest.approx(frechet.from_moments(*moments), rel=1e-6)
    (tmp_path / "recon").mkdir()
    test_speed.test_memory_of_a_reconstruction_run(Fixture("memory"), tmp_path / "recon", monkeypatch, 100)
    root = evaluators.geneval_evidence(tmp_path / "geneval", samples=1, side=32, detections=2).parent
    assert geneval.rescore(root, work=root, records=root / "records").records[0].n == 553
    test_speed.test_geneval_masks(Fixture("masks"), root / "detections.jsonl")


@pytest.mark.slow
def test_the_suites_under_pytest_benchmark(tmp_path):
    """Generation at 16x and an autoencoder, bundled models, by the command that the documentation names."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    wanted = "(test_generate and mar_internvl and 16) or (test_autoencoder and pixel_ae)"
    place = str(Path(bench_package.__file__).parent)  # the installed one where the tests run against a wheel
    words = [place, "-c", str(tmp_path / "pytest.ini"), "-p", "no:cacheprovider", "--benchmark-only", "-k", wanted]
    words.append(f"--benchmark-json={tmp_path / 'bench.json'}")
    done = subprocess.run([sys.executable, "-m", "pytest", *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    check_benchmark_json(tmp_path / "bench.json", "mar_internvl", "pixel_ae", steps=4)


def test_the_suites_json_becomes_records(benchmark_json):
    check_benchmark_json(benchmark_json, "tiny_mar", "tiny_ae", steps=1)


def check_benchmark_json(path: Path, generator: str, autoencoder: str, steps: int) -> None:
    found = run.from_benchmark_json(path)
    assert {r.subject for r in found} == {generator, autoencoder}
    assert [(r.accel, r.metric) for r in found if r.accel] == [(16, metric) for metric in sorted(RATES)]
    assert sum(r.accel is None for r in found) == 3
    clocked = {b["name"]: b["stats"] for b in json.loads(path.read_text())["benchmarks"]}
    median = next(stats["median"] for name, stats in clocked.items() if name.startswith("test_generate"))
    rate = found[[r.metric for r in found].index("images-per-second")]
    assert rate.value == pytest.approx(8 / median, rel=0.02) and rate.n == 3 and not rate.partial
    assert rate.extra["counts"]["decode_steps"] == steps and "head" in rate.extra["split_ms_per_image"]
    assert all(r.evidence is None and r.device and r.protocol.startswith("throughput-b8") for r in found)
    assert {r.suite for r in found} == {"bench-b8"}


def test_the_suite_and_the_command_line_measure_the_same_thing(benchmark_json, loaded):
    """Equal keys: what decides a value is the same."""
    rate = next(r for r in run.from_benchmark_json(benchmark_json) if r.accel)
    (work,) = suites.models([loaded["tiny_mar"]], accelerations=[16])
    assert work.heading["key"] == rate.key and work.model == rate.model


def test_benchmark_files_that_do_not_fit_are_errors(benchmark_json, tmp_path):
    path = tmp_path / "bench.json"
    with pytest.raises(ValueError, match="does not exist; make it with"):
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
    whole["benchmarks"] = [b for b in whole["benchmarks"] if b["extra_info"].get("operation") == "encode"]
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(whole))
    assert [r.metric for r in run.from_benchmark_json(path)] == ["encode-images-per-second"]


# -------------------------------------------------------------------------------------------------- command line


def vgt_bench(*words: str) -> dict:
    return dispatch(["bench", *words]) or {}


@pytest.fixture
def checkpoints(runs, monkeypatch):
    """The small models in the place where runs are."""
    monkeypatch.setattr(options, "RUNS", runs)


def test_the_closing_line_has_every_field(checkpoints, tmp_path, capsys):
    words = ("--accel", "4,16", "--batch", "1,2", "--against", "eager", "--repeats", "1", "--device", "cpu")
    found = vgt_bench("tiny_query_ar", "tiny_mar", *words, "--flow-steps", "3", "-o", str(tmp_path))
    assert len(found["rows"]) == 8 and found["computed"] == 56 and not found.get("exit")
    for row in found["rows"]:
        assert {"model", "accel", "batch", "engine_ms", "eager_ms", "ratio", "bound_ms", "of_bound"} <= row.keys()
        assert row["ratio"] == pytest.approx(row["eager_ms"] / row["engine_ms"])
        assert row["of_bound"] == pytest.approx(row["bound_ms"] / row["engine_ms"])
        assert row["images_per_second"] == pytest.approx(1000 / row["engine_ms"])
    assert json.loads(json.dumps(found)) == found
    table = capsys.readouterr().out.splitlines()
    assert table[0].split()[:3] == ["model", "batch", "engine_ms"] and len(table) == 9
    same = vgt_bench("compare", str(tmp_path / "records"), str(tmp_path / "records"))
    assert same["exit"] == 0 and {row["verdict"] for row in same["rows"]} <= {"same", "missing"}
    assert any(row["metric"] == "speedup-over-mar" for row in same["rows"])


def test_the_table_says_what_the_numbers_do_not(checkpoints, tmp_path, capsys):
    common = ("--repeats", "1", "--device", "cpu", "--flow-steps", "3", "-o", str(tmp_path))
    vgt_bench("tiny_ae", "tiny_query_ar", "--accel", "4", "--batch", "2", "--mode", "throughput", *common)
    ae, generator = capsys.readouterr().out.splitlines()[1:3]
    assert "encode" in ae and "decode" in ae and generator.endswith("throughput")
    vgt_bench("tiny_query_ar", "--accel", "4", "--batch", "2", "--steps", "2", *common)
    assert capsys.readouterr().out.splitlines()[1].endswith("first 2 steps only")


def test_a_regression_is_an_exit_status(tmp_path):
    for folder, rate in (("a", 10.0), ("b", 8.0)):
        record.write(speed("q", rate), tmp_path / folder)
    assert vgt_bench("compare", str(tmp_path / "a"), str(tmp_path / "b"))["exit"] == 1
    assert vgt_bench("compare", str(tmp_path / "a"), str(tmp_path / "b"), "--threshold", "0.3")["exit"] == 0


def test_compare_reads_the_records_of_a_work_folder(tmp_path, capsys):
    """And nothing else that lies there; where nothing could be compared the exit status is 2."""
    for folder, rate in (("a", 10.0), ("b", 8.0)):
        record.write(speed("q", rate), tmp_path / folder / "records")
        (tmp_path / folder / "bench").mkdir()
        (tmp_path / folder / "bench" / "rounds.jsonl").write_text('{"seconds": 1}\n')
    record.write(speed("other", 8.0), tmp_path / "c" / "records")
    a, b, c = (str(tmp_path / name) for name in "abc")
    assert vgt_bench("compare", a, b)["exit"] == 1
    assert vgt_bench("compare", a, c)["exit"] == 2 and "nothing compared" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        (["query-ar", "--size", "7b"], "size '7b' is unknown; choose one of tiny, 0.6b, 1.6b"),
        (["query_ar_internvl", "--size", "0.6b"], "--size 0.6b goes with a suite"),
        (["query-arr"], "no checkpoint 'query-arr'"),
        (["query-ar", "--steps", "0", "--device", "cpu"], "0 decode steps are too few"),
        (["query-ar", "--sampler", "heun", "--flow-steps", "8", "--device", "cpu"], "flow steps 8 does not suit heun"),
        (["flow-head", "--batch", "3", "--device", "cpu"], "3 rows of the flow head are impossible"),
        (["flow-head", "--order", "spread", "--device", "cpu"], "order 'spread' has no effect on the flow head alone"),
        (["training", "metrics", "--guidance", "2"], "have no effect on training, metrics; name a generator"),
        (["vgt_ae_internvl", "--order", "raster"], "have no effect on vgt_ae_internvl; name a generator"),
        (["query-ar", "--device", "cuda"], "torch sees no GPU"),
        (["compare", "here"], "compare takes two folders"),
    ],
)
def test_bad_input_is_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    known = lambda spec, *rest: subject(spec, *rest) if spec == "query-arr" else pytest.fail("loaded")  # noqa: E731
    monkeypatch.setattr(suites, "subject", known)
    assert main(["bench", *words, "-o", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("batch", ["0", "-1", "1,0", "x"])
def test_bad_batches_are_usage_errors(batch, capsys):
    with pytest.raises(SystemExit) as error:
        main(["bench", "query-ar", f"--batch={batch}"])
    assert error.value.code == 2 and "--batch" in capsys.readouterr().err


def test_sizes_name_presets_that_are_there():
    presets = {name for table in suites.PRESETS.values() for names in table.values() for name in names}
    assert presets <= set(configs.preset_names())
    assert suites.specs("mar", "1.6b") == ["random:mar_internvl3_2b"]
    assert all(set(table) == set(suites.SIZES) for table in suites.PRESETS.values())


@pytest.mark.parametrize("suite, rows", [("flow-head", 1), ("training", 1), ("metrics", 8)])
def test_other_suites_leave_records_and_rows(suite, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluators, "SIDE", 64)
    real = workloads.optimizers
    adamw = lambda model, train, scale: real(model, train.model_copy(update={"optimizer": "adamw"}), scale)  # noqa: E731
    monkeypatch.setattr(workloads, "optimizers", adamw)  # Muon's bf16 takes seconds on many CPUs
    sampled = ("--flow-steps", "3") if suite == "flow-head" else ()
    words = (suite, "--smoke", "--device", "cpu", *sampled, "-o", str(tmp_path))
    found = vgt_bench(*words)
    assert vgt_bench(*words)["computed"] == 0, "what stands is not measured again"
    assert len(found["rows"]) == rows and {r.name for r in record.read(tmp_path / "records")} == set(found["scores"])
    for row in found["rows"]:
        assert row["batch"] == 2 and row["engine_ms"] > 0
    if suite != "training":
        assert all(row["ratio"] == pytest.approx(row["eager_ms"] / row["engine_ms"]) for row in found["rows"])
    if suite == "flow-head":
        assert found["rows"][0]["of_bound"] > 0


def test_the_hoisted_head_makes_what_the_plain_one_does():
    pair = workloads.flow_head("query_ar_internvl", "tiny", Conditions(4, settings={"flow_steps": 4}))
    assert torch.allclose(pair.ours(), pair.theirs(), atol=1e-5) and pair.bound(KNOWN["h100"])["ms"] > 0
