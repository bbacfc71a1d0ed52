"""Made-up records and images for the tests of the report; they are no results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from reports import recipe
from reports.measured import CATEGORIES, TASKS
from reports.tables import DEGRADATIONS
from vgt.core import captions, files, photos, scenes, suites
from vgt.core.record import Record
from vgt.core.samples import REPLICATES

GENERATORS = {  # subject: (autoencoder, GenEval overall by acceleration, images a second by acceleration)
    "query_ar_internvl": ("vgt_ae_internvl", {1: 0.412, 4: 0.398, 16: 0.291}, {1: 6.1, 4: 14.8, 16: 29.3}),
    "mar_internvl": ("vgt_ae_internvl", {1: 0.371, 4: 0.322}, {1: 1.02, 4: 3.9}),
    "query_ar_qwen": ("vgt_ae_qwen", {1: 0.365}, {1: 6.0}),
    "query_ar_pixel": ("pixel_ae", {1: 0.233}, {1: 6.2}),
}
AES = {
    "vgt_ae_internvl": (28.41, 26.13, 0.931),
    "vgt_ae_qwen": (27.02, 24.9, 0.902),
    "pixel_ae": (30.18, 27.74, 0.958),
    "pca": (30.31, 27.02, 0.82),
}


def make(
    subject: str, suite: str, metric: str, value: float | None, spread: float = 0.0, n: int = 100, **fields
) -> Record:
    """A made-up record with an interval of ``spread`` to either side."""
    accel = fields.pop("accel", None)
    given = {
        "n_expected": n,
        "protocol": metric if suite in ("scenes", "photos") else suite,
        "fingerprint": files.digest(subject),
        "suite_hash": files.digest(suite),
        "key": files.digest(subject, suite, metric, str(accel)),
        "commit": "0123456789abcdef",
        "dirty": False,
        "versions": {"python": "3.12.3", "numpy": "2.3.0"},
        "device": "Test CPU, 2 cores",
        "created": "2026-01-31T12:00:00+00:00",
        "seconds": 1.5,
        "seed": 0,
    }
    if spread and value is not None:
        given |= {"low": value - spread, "high": value + spread, "interval": "cluster bootstrap, 2000 draws"}
    return Record(subject=subject, accel=accel, suite=suite, metric=metric, value=value, n=n, **{**given, **fields})


def invented() -> list[Record]:
    """What a run might leave behind: no MAR at 16x, no LPIPS, one partial score, one number that failed."""
    rng = np.random.default_rng(0)
    found = []
    for name, (scene_db, photo_db, agreement) in AES.items():
        for suite, db, n in (("scenes", scene_db, 500), ("photos", photo_db, 256)):
            ssim = 0.3 + db / 50
            for metric, value, spread in (
                ("psnr-mean", db, 0.3),
                ("ssim-wang", ssim, 0.01),
                ("ssim-taming", ssim + 0.04, 0.01),
                ("fd-efflite2", 900 / db, 1.2),
            ):
                extra = {"image": f"recon/{name}/{suite}/pairs.png"} if metric == "psnr-mean" else {}
                found.append(make(name, suite, metric, value, spread, n, extra=extra))
        found.append(make(name, "scenes", "judge-agreement", agreement, 0.02, 500, judge="analytic-1"))
        kinds = [(s, c) for s in scenes.SHAPES for c in scenes.COLORS for _ in range(3)]
        centers = {s: rng.normal(0, 12, 2) for s in scenes.SHAPES}
        points = [(centers[s] + rng.normal(0, 5, 2)).round(3).tolist() for s, _ in kinds]
        extra = {"points": points, "labels": [s for s, _ in kinds], "colors": [c for _, c in kinds]}
        found.append(make(name, "scenes-latents", "tsne", 0.93, n=len(kinds), extra=extra))
        found += [
            make(name, "scenes-latents", m, v, 0.02, 500, extra={"chance": 0.13} if "acc" in m else {})
            for m, v in (("knn-accuracy", 0.81), ("effective-rank", 11.3), ("silhouette", 0.12))
        ]
        found.append(make(name, "bench-b8", "encode-images-per-second", 410.0))
        found.append(make(name, "bench-b8", "decode-images-per-second", 233.0))
        curve = [[s, 0.02 + 0.3 * 0.97 ** (s / 40)] for s in range(0, 4001, 50)]
        found.append(
            make(name, "training", "loss", curve[-1][1], extra={"curve": curve, "samples": 128000, "minutes": 34.5})
        )
    for name, (ae, overall, speed) in GENERATORS.items():
        for accel, score in overall.items():
            n = 240 if (name, accel) == ("query_ar_pixel", 1) else 480
            evidence = f"geneval/{name}@{accel}x"
            common = {"accel": accel, "judge": "analytic-1", "extra": {"autoencoder": ae}, "evidence": evidence}
            found.append(make(name, "scenes-geneval", "overall", score, 0.03, n, **common | {"n_expected": 480}))
            for k, task in enumerate(TASKS):
                found.append(
                    make(
                        name,
                        "scenes-geneval",
                        task,
                        min(1.0, score * (1.5 - 0.2 * k)),
                        0.08,
                        n // 6,
                        **common | {"n_expected": 80},
                    )
                )
            found.append(make(name, "scenes-geneval", "held_out", score * 0.8, 0.09, 40, **common))
            found.append(make(name, "scenes-dpg", "dpg", 100 * score + 20, 3.1, 160, **common))
            for k, category in enumerate(CATEGORIES):
                found.append(make(name, "scenes-dpg", category, 90.0 - 6 * k, 2.5, 160, **common))
                found.append(make(name, "scenes-dpg", f"{category}-adjusted", 70.0 - 6 * k, 2.5, 160, **common))
        for batch, faster in ((8, 1.0), (1, 0.4)):
            for accel, rate in speed.items():
                found += invented_speeds(name, accel, batch, faster * rate, extra={"autoencoder": ae})
        curve = [[s, 0.25 + 0.9 * 0.98 ** (s / 60)] for s in range(0, 9001, 100)]
        found.append(make(name, "training", "loss", curve[-1][1], extra={"curve": curve}))
        found.append(
            make(f"oracle+{ae}", "scenes-geneval", "overall", AES[ae][2] - 0.02, 0.02, 480, judge="analytic-1")
        )
    found.append(make("shuffled", "scenes-geneval", "overall", 0.042, 0.01, 480, judge="analytic-1"))
    found.append(make("shuffled", "scenes-dpg", "dpg", 31.0, 2.0, 160, judge="analytic-1"))
    found.append(
        make("oracle", "scenes-geneval", "overall", 0.998, 0.002, 480, judge="analytic-1", evidence="geneval/oracle")
    )
    found.append(make("noise", "scenes-geneval", "overall", None, note="the judge found nothing to score"))
    for i, suite in enumerate(DEGRADATIONS):
        for metric in ("overall", "exact-set", *TASKS):
            found.append(
                make("judge-analytic", suite, metric, 1.0 - 0.01 * i * (2 if metric == "exact-set" else 1), 0.002, 120)
            )
    for vlm in ("vlm_internvl", "vlm_qwen"):
        found.append(make(vlm, "scenes-vqa", "accuracy", 0.94, 0.01, 2000))
    return list({r.name: r for r in found}.values())


def invented_speeds(name: str, accel: int, batch: int, rate: float, **fields) -> list[Record]:
    """What `vgt bench --against eager` leaves of one generator, acceleration and batch."""
    ms, split = 1000 / rate, {"prefill": 0.05, "language_model": 0.3, "head": 0.5, "decode": 0.1, "other": 0.05}
    times = {part: share * ms for part, share in split.items()} | {"total": ms}
    extra = {**fields.pop("extra", {}), "split_ms_per_image": times}
    values = {
        "images-per-second": rate,
        "ms-per-image": ms,
        "eager-ms-per-image": 2 * ms,
        "speedup-over-eager": 2.0,
        "floor-ms-per-image": 0.25 * ms,
    }
    how = {"accel": accel, "n": 5, "extra": extra, "protocol": "throughput", **fields}
    return [make(name, f"bench-b{batch}", metric, value, **how) for metric, value in values.items()]


def draw_strips(work: Path) -> None:
    """The strips of originals and reconstructions (here: coarser copies) that reconstruction scores leave."""
    for k, name in enumerate(AES):
        for suite, split in (("scenes", scenes.images), ("photos", photos.images)):
            originals = split("test", range(12), 64)
            coarse = [Image.fromarray(x).resize((48 - 10 * k,) * 2).resize((64, 64)) for x in originals]
            pairs = [np.concatenate(pair) for pair in zip(originals, map(np.asarray, coarse), strict=True)]
            path = work / "recon" / name / suite / "pairs.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(np.concatenate(pairs, axis=1)).save(path)


def draw_samples(work: Path, names: Sequence[str] = ()) -> None:
    """GenEval-layout folders with oracle images (blurred by the acceleration) and the judge's verdicts."""
    prompts = suites.geneval_prompts(per_task=3)
    names = names or [f"{g}@{a}x" for g, (_, overall, _) in GENERATORS.items() for a in overall] + ["oracle"]
    for name in names:
        accel = int(name.split("@")[1][:-1]) if "@" in name else 0
        results = []
        for i, prompt in enumerate(prompts):
            image = scenes.render(captions.scene_from_text(prompt["prompt"], i), 64).image
            shown = (
                Image.fromarray(image).resize((64 - 3 * accel,) * 2).resize((64, 64))
                if accel
                else Image.fromarray(image)
            )
            path = work / "geneval" / name / f"{i:05d}" / "samples" / "0000.png"
            path.parent.mkdir(parents=True)
            shown.save(path)
            files.write_text(path.parents[1] / "metadata.jsonl", json.dumps(prompt) + "\n")
            results.append({"filename": f"{i:05d}/samples/0000.png", "correct": (i + accel) % 3 != 0})
        files.write_text(work / "geneval" / name / "results.jsonl", "".join(json.dumps(r) + "\n" for r in results))


def invented_paper(scale: str = "micro", seeds: tuple[int, ...] = (0, 1, 2)) -> list[Record]:
    """What `vgt reproduce paper` leaves of every arm of the recipe, and of two generators at four training steps."""
    of = recipe.load("vgt")
    rng = np.random.default_rng(1)
    found = [make("shuffled", "scenes-geneval", "overall", 0.03, 0.01, 480, judge="analytic-1")]
    found.append(
        make("oracle", "scenes-geneval", "overall", 0.99, 0.005, 480, judge="analytic-1", evidence="geneval/oracle")
    )
    for place, arm in enumerate(of.arms):
        for seed, name in recipe.models(scale, arm, seeds).items():
            if arm.kind == "autoencoder":
                db = 21.0 + place % 7 + rng.normal(0, 0.1)
                values = {
                    "psnr-mean": db,
                    "ssim-wang": 0.3 + db / 60,
                    "ssim-taming": 0.36 + db / 60,
                    "fd-efflite2": 900 / db,
                }
                for suite, n in (("scenes", 500), ("photos", 256)):
                    found += [make(name, suite, metric, value, 0.01 * value, n) for metric, value in values.items()]
                found.append(
                    make(name, "scenes", "judge-agreement", 0.9 + 0.01 * (place % 7), 0.01, 500, judge="analytic-1")
                )
                found.append(make(f"oracle+{name}", "scenes-geneval", "overall", 0.95, 0.02, 480, judge="analytic-1"))
                if "vlm" in arm.parents:
                    vlm = recipe.model(scale, of[arm.parents["vlm"]], seed)
                    found.append(
                        make(f"{vlm}+{name}", "scenes-vqa", "accuracy", 0.9 - 0.3 * ("nodistill" in arm.id), n=2000)
                    )
                if any("probes" in line for line in arm.measure):
                    kinds = [(s, c) for s in scenes.SHAPES for c in scenes.COLORS]
                    points = [rng.normal(0, 10, 2).round(3).tolist() for _ in kinds]
                    extra = {"points": points, "labels": [s for s, _ in kinds], "colors": [c for _, c in kinds]}
                    found.append(make(name, "scenes-latents", "tsne", 0.93, n=len(kinds), extra=extra))
                    maps = rng.integers(0, 4, (2, 16)).tolist()
                    extra = {"maps": maps, "grid": [4, 4], "ids": ["a/0", "a/1"], "class": "star"}
                    extra["scenes"] = {"split": "test", "size": 32, "task": "single_object", "indices": [0, 1]}
                    found.append(make(name, "scenes-latents", "cluster-maps", 0.5, n=2, extra=extra))
                    for metric in ("effective-rank", "uniformity", "correlation", "silhouette", "knn-accuracy", "nmi"):
                        found.append(make(name, "scenes-latents", metric, rng.uniform(0.2, 0.8), n=500))
            elif arm.kind == "generator":
                accels = (1, 2, 4, 8, 16) if "accelerations" in arm.measure else (1,)
                for accel in accels:
                    score = 0.05 + 0.03 * (place % 8) + rng.normal(0, 0.01)
                    found += invented_scores(name, accel, score, evidence=f"geneval/{name}@{accel}x")
                curve = [[step, 1 / (1 + step / 500)] for step in range(0, 2001, 100)]
                found.append(
                    make(
                        name, "training", "loss", curve[-1][1], extra={"curve": curve, "samples": 128000, "steps": 2000}
                    )
                )
                if arm.id in ("query_ar_qwen", "query_ar_internvl", "query_ar_pixel"):
                    for step in (250, 500, 1000):
                        found += invented_scores(
                            f"{name}-step{step}", 1, 0.05 + 0.1 * step / 1000 + rng.normal(0, 0.01)
                        )
            elif arm.kind == "vlm":
                found.append(make(name, "scenes-vqa", "accuracy", 0.96, 0.01, 2000))
    return list({r.name: r for r in found}.values())


def invented_codes(scale: str = "micro", seeds: tuple[int, ...] = (0, 1, 2)) -> list[Record]:
    """What `vgt reproduce paper --paper vfmtok` leaves: of two GPTs also at three training steps."""
    of = recipe.load("vfmtok")
    rng = np.random.default_rng(2)
    found = []

    def distances(name: str, value: float, guidance: float) -> None:
        blocks = (value + rng.normal(0, 0.2, 20)).tolist()
        extra = {"settings": {"guidance": guidance}, REPLICATES: blocks}
        for metric, score in {"fd": value, "kid": value / 100, "precision": 0.6, "recall": 0.5}.items():
            found.append(
                make(
                    name,
                    "scenes-single_object",
                    f"{metric}-efflite2",
                    score,
                    0.02 * score,
                    2400,
                    n_expected=50_000,
                    extra=extra,
                )
            )
        told = {"extra": {"settings": {"guidance": guidance}}, "judge": "analytic-1", "unit": "share"}
        for metric in ("accuracy", "accuracy-held-out"):
            found.append(make(name, "classes-80-uniform", metric, 20 / value, 0.02, 2400, **told))

    for place, arm in enumerate(a for a in of.arms if a.id not in of.scale(scale).without):
        for name in recipe.models(scale, arm, seeds).values():
            wave = place % 5 + rng.normal(0, 0.2)
            if arm.kind == "autoencoder":
                values = {"psnr-mean": 22 + wave, "fd-efflite2": 30 + 4 * wave, "codebook-usage": 0.9}
                found += [make(name, s, m, v, 0.02 * v, 500) for s in ("scenes", "photos") for m, v in values.items()]
                found.append(make(name, "scenes", "judge-agreement", 0.8, 0.02, 500))
                found += [
                    make(name, "scenes-latents", f"linear-probe-{label}", 0.5 + 0.05 * wave, 0.03, 480)
                    for label in ("shape", "color")
                ]
            elif arm.kind == "class_generator":
                curve = [[step, 6 / (1 + step / 500)] for step in range(0, 3001, 100)]
                told = {"curve": curve, "samples": 192_000, "steps": 3000}
                found.append(make(name, "training", "loss", curve[-1][1], extra=told))
                distances(name, 60 + 6 * wave, 1.0)
                distances(f"{name}-guided", 50 + 6 * wave, 1.5)
                if "curve" in arm.measure:
                    distances(f"{name}-guided2", 55 + 6 * wave, 2.0)
                    for step in (375, 750, 1500):
                        distances(f"{name}-step{step}", 60 + 6 * wave + 20_000 / step, 1.0)
    return found


def invented_scores(name: str, accel: int, score: float, **fields) -> list[Record]:
    """Both benchmarks of one generator."""
    common = {"accel": accel, "judge": "analytic-1", **fields}
    found = [make(name, "scenes-geneval", "overall", score, 0.02, 480, unit="share", **common)]
    found += [
        make(name, "scenes-geneval", task, score * (1.4 - 0.2 * k), 0.05, 80, **common) for k, task in enumerate(TASKS)
    ]
    found.append(make(name, "scenes-dpg", "dpg", 100 * score + 20, 2.0, 160, **common))
    return found + [
        make(name, "scenes-dpg", c, 100 * score + 20 + k, 2.5, 160, **common) for k, c in enumerate(CATEGORIES)
    ]
