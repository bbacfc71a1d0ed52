"""Speed by pytest-benchmark: thin callers of the harness, which ``vgt bench`` runs too.

``pytest bench --benchmark-enable --benchmark-only --benchmark-json=FILE``, then ``bench.run.from_benchmark_json(FILE)``
makes the records of models.  pytest-benchmark runs one benchmark after the other; for ratios between methods ``vgt
bench`` measures in alternation.
"""

from __future__ import annotations

import shutil
from functools import lru_cache

import pytest
import torch

from bench import evaluators, suites, workloads
from bench.run import benchmark_info, limits_of, measure
from bench.subjects import bundled_names, subject
from bench.timing import resident_peak
from bench.workloads import Conditions, Training, Workload
from evals.features import Extractor
from evals.metrics import frechet, pixels
from vgt.methods.sampling import SamplingOptions

loaded = lru_cache(subject)


def timed(benchmark, work: Workload, *operations: str) -> dict[str, dict]:
    """The measurements of a workload, its rounds driven by pytest-benchmark: {operation: measurement}."""
    chosen = operations or work.operations
    found = measure([work], limits_of([work]), chosen, loop=lambda sweep, n: benchmark.pedantic(sweep, rounds=n))
    return found[work.name]


@pytest.mark.parametrize("acceleration", SamplingOptions.accelerations)
@pytest.mark.parametrize("spec", bundled_names("generator"))
def test_generate(benchmark, spec, acceleration):
    benchmark.group = f"generate {acceleration}x"
    (work,) = suites.plan(loaded(spec), Conditions(), [acceleration])
    found = timed(benchmark, work)["generate"]
    assert found["counts"]["decode_steps"] == loaded(spec).model.tokens // acceleration
    benchmark.extra_info |= benchmark_info(work, "generate", found)


@pytest.mark.parametrize("operation", workloads.Autoencoder.operations)
@pytest.mark.parametrize("spec", bundled_names("tokenizer"))
def test_autoencoder(benchmark, spec, operation):
    benchmark.group = operation
    (work,) = suites.plan(loaded(spec), Conditions())
    found = timed(benchmark, work, operation)[operation]
    assert all(seconds > 0 for seconds in found["seconds"])
    benchmark.extra_info |= benchmark_info(work, operation, found)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def against(benchmark, work: workloads.Pair) -> None:
    """Medians of alternating rounds; CPU time changes less on a busy machine than the clock does."""
    found = timed(benchmark, work)
    for key in ("seconds", "cpu_seconds"):
        call, plain = (sorted(found[n][key])[len(found[n][key]) // 2] / found[n]["images"] for n in ("call", "plain"))
        benchmark.extra_info[f"gain by {key}"] = plain / call


@pytest.mark.parametrize("rows", workloads.HEAD_ROWS)
@pytest.mark.parametrize("size", suites.SIZES[:2])
def test_flow_head(benchmark, size, rows):
    benchmark.group = f"flow head {size}"
    work = workloads.flow_head(suites.PRESETS["query-ar"][size][0], size, Conditions(rows, repeats=5))
    difference = work.ours() - work.theirs()
    channels = {"tiny": 16, "0.6b": 32}[size]  # of a latent token
    assert difference.shape == (rows // 2, channels) and difference.abs().max() < 1e-4
    against(benchmark, work)


@pytest.mark.parametrize("variants", [*((v,) for v in pixels.SSIM), tuple(pixels.SSIM)], ids="+".join)
def test_ssim(benchmark, one_thread, variants):
    against(benchmark, evaluators.ssim_pair(variants, Conditions(evaluators.IMAGES, repeats=7)))


def test_psnr(benchmark, one_thread):
    against(benchmark, evaluators.psnr_pair(Conditions(evaluators.IMAGES, repeats=7)))


@pytest.mark.parametrize("suite", suites.GENERATORS)
def test_training(benchmark, suite):
    benchmark.group = "training step"
    found = timed(benchmark, Training(suites.PRESETS[suite]["tiny"][0], Conditions(8, repeats=5, warmup=2)))["step"]
    assert len(found["seconds"]) == 5
    benchmark.extra_info |= {key: found[key] for key in ("positions", "parameters", "peak_mib")}


# -------------------------------------------------------------------------------------------------- evaluators

moments = lru_cache(lambda: (evaluators.stored(0), evaluators.stored(1)))


@pytest.mark.parametrize("route", [frechet.from_moments, evaluators.by_square_root], ids=["moments", "sqrtm"])
def test_frechet(benchmark, route):
    benchmark.group = "Frechet distance, d = 2048"
    value = benchmark.pedantic(route, args=moments(), rounds=1)
    assert value == pytest.approx(frechet.from_moments(*moments()), rel=1e-6)


@pytest.mark.parametrize("images", [1_000, 10_000])
def test_streaming(benchmark, images):
    benchmark.group = "moments of a stream, d = 2048"
    found = benchmark.pedantic(evaluators.stream_elsewhere, args=(images,), rounds=1)
    assert found["read"] == images
    benchmark.extra_info |= found


@pytest.mark.parametrize("count", [1_000, 10_000])
def test_memory_of_a_reconstruction_run(benchmark, tmp_path, monkeypatch, count):
    """Growth of the resident set during a whole evaluation with a Fréchet distance, MiB."""
    from evals.recon import run as recon

    monkeypatch.setattr(recon.datasets, "image_set", lambda data, n, size, geometry: evaluators.noise_images(n))
    facts = {"features": "thumbnail", "weights": ""}
    extractor = Extractor("efflite2", {"pool": 32}, facts, "", evaluators.thumbnails)
    monkeypatch.setattr(recon.recon_metrics.features, "load", lambda *_, **__: extractor)
    given = {"work": tmp_path, "records": tmp_path / "records", "data": "noise", "n": count, "batch": 100}
    chosen, outcomes = ["psnr-mean", "ssim-wang", "fd-efflite2"], []

    def run() -> float | None:
        return resident_peak(lambda: outcomes.append(recon.run(evaluators.Darker(), metrics=chosen, **given)))

    benchmark.extra_info |= {"images": count, "MiB": benchmark.pedantic(run, rounds=1)}
    assert {r.n for r in outcomes[0].records} == {count}


@pytest.fixture(scope="module")
def detections(tmp_path_factory):
    """Stored detections of 553 prompts x 4 images, 15 an image, with masks of 512 x 512."""
    return evaluators.geneval_evidence(tmp_path_factory.mktemp("geneval"))


def test_geneval_scored_again(benchmark, detections):
    """The aim is below 5 s."""
    from evals.geneval import run as geneval

    root = detections.parent
    outcome = benchmark.pedantic(
        lambda: geneval.rescore(root, work=root, records=root / "records"),
        setup=lambda: shutil.rmtree(root / "records", ignore_errors=True),
        rounds=3,
    )
    assert (outcome.computed, outcome.records[0].n) == (9, 2212)
    benchmark.extra_info["evidence_mib"] = round(detections.stat().st_size / 2**20, 1)


def test_geneval_masks(benchmark, detections):
    """Reading the same evidence and expanding masks, which scoring leaves alone."""
    from evals.engine.judging import read_judging
    from evals.geneval.official import decode_mask

    def decode() -> int:
        _, rows = read_judging(detections, "geneval")
        return sum(int(decode_mask(d["mask"]).sum()) for row in rows.values() for d in row["detections"][:3])

    assert benchmark.pedantic(decode, rounds=1) > 0
