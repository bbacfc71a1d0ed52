"""``vgt eval judge``: how far the judge of the synthetic scenes can be trusted, on images whose truth is known.

Two kinds of images, clean and degraded as autoencoders and generators degrade them: ``oracle`` images of the
``scenes-geneval`` prompts, judged by GenEval's rules (per task and overall), and test scenes, where the judge must find
exactly the (class, color) pairs that the scene holds (``exact-set``).
"""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from evals.engine import options
from evals.engine.api import Detector, named
from evals.engine.generation import prompt_id
from evals.engine.options import listed, option, positive
from evals.engine.records import Measure, Outcome, stored, write
from evals.engine.store import collect
from evals.geneval import rules
from evals.geneval import run as geneval
from evals.judges import canary
from evals.subjects.fake import Oracle
from vgt.core import files, record, suites
from vgt.core.scenes import TASKS, WORLD, item
from vgt.core.seeds import image_seed

SUITE = "scenes-geneval"
SCENES, IMAGES = 500, 2  # what the full calibration takes: test scenes, oracle images a prompt
METRICS = ("overall", *TASKS, "exact-set")


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur, ``sigma`` in pixels."""
    return ndimage.gaussian_filter(image, (sigma, sigma, 0))


def noisy(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """White noise of standard deviation ``sigma`` on 0..255."""
    return np.clip(np.rint(image + rng.normal(0, sigma, image.shape)), 0, 255).astype(np.uint8)


def compressed(image: np.ndarray, quality: int) -> np.ndarray:
    """JPEG at ``quality`` and back, chroma at half resolution."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(buffer))


def shrunk(image: np.ndarray, side: int) -> np.ndarray:
    """Bicubic to ``side`` pixels and back."""
    height, width = image.shape[:2]
    small = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


CONDITIONS: Mapping[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "clean": lambda image, rng: image,
    "blur1": lambda image, rng: blurred(image, 1.0),
    "blur1.5": lambda image, rng: blurred(image, 1.5),
    "noise10": lambda image, rng: noisy(image, 10, rng),
    "noise20": lambda image, rng: noisy(image, 20, rng),
    "jpeg50": lambda image, rng: compressed(image, 50),
    "jpeg25": lambda image, rng: compressed(image, 25),
    "shrink48": lambda image, rng: shrunk(image, 48),
    "shrink32": lambda image, rng: shrunk(image, 32),
}


@lru_cache(maxsize=1024)
def _pairs_of(detector: Detector, shape: tuple[int, ...], pixels: bytes) -> Counter:
    return canary.pairs(detector, np.frombuffer(pixels, np.uint8).reshape(shape))


def agreement(detector: Detector, originals: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
    """bool [N]: where the judge finds the same multiset of (class, color) in both, uint8 [N, H, W, 3] each.  What it
    finds in an original is remembered: several autoencoders reconstruct the same images."""
    both = zip(originals, reconstructions, strict=True)
    return np.array([_pairs_of(detector, a.shape, a.tobytes()) == canary.pairs(detector, b) for a, b in both], bool)


def _prompt_correct(detector: Detector, prompt: dict, image: np.ndarray) -> bool:
    detections = detector.detect(image)
    wanted = rules.colored_classes(prompt)
    colors = [detector.color(image, d) if d.label in wanted else None for d in detections]
    return rules.judge_image(detections, prompt, colors)[0]


def _scene_exact(detector: Detector, index: int, degrade: Callable) -> bool:
    shown = item("test", index)
    truth = Counter((o.shape, o.color) for o in shown.scene.objects)
    return canary.pairs(detector, degrade(shown.image)) == truth


def judge_condition(
    detector: Detector, condition: str, prompts: list[dict], images_per_prompt: int, n: int, path: Path, seed: int
) -> tuple[dict[tuple[int, int], bool], dict[int, bool]]:
    """(prompt index, sample) -> judged correct, and test scene -> exact set found; evidence in ``path``."""
    oracle = Oracle()
    stamp = files.digest_json([detector.fingerprint, oracle.fingerprint, condition, seed, geneval.VERSION])
    images = {
        f"prompt-{prompt_id(prompts, i)}-{sample}": (i, sample)
        for i in range(len(prompts))
        for sample in range(images_per_prompt)
    }
    scenes = {f"scene-{index:05d}": index for index in range(n)}

    def judge(name: str) -> dict:
        rng = np.random.default_rng(image_seed(seed, condition, name))

        def degrade(image: np.ndarray) -> np.ndarray:
            return CONDITIONS[condition](image, rng)

        if name in scenes:
            return {"right": _scene_exact(detector, scenes[name], degrade)}
        index, sample = images[name]
        made = oracle.generate([prompts[index]["prompt"]], [image_seed(seed, prompt_id(prompts, index), sample)])
        return {"right": _prompt_correct(detector, prompts[index], degrade(made[0]))}

    stamps = {name: files.digest(stamp, prompts[i]["prompt"]) for name, (i, _) in images.items()}
    title = f"judge on {condition} images"
    evidence = collect(
        path, {**stamps, **dict.fromkeys(scenes, stamp)}, judge, title, check=lambda row: row.flag("right")
    )
    correct = {job: evidence[name]["right"] for name, job in images.items()}
    return correct, {index: evidence[name]["right"] for name, index in scenes.items()}


def _measures(prompts: list[dict], images_per_prompt: int, correct: dict, exact: dict) -> dict[str, Measure]:
    """The six tasks and overall as GenEval counts them, and exact-set over scenes; expected is the full calibration."""
    found = geneval.measures(prompts, images_per_prompt, correct, full=suites.prompts(SUITE))
    for task, measure in found.items():
        expected = max(measure.asked, measure.n_expected * IMAGES // max(geneval.IMAGES_PER_PROMPT, images_per_prompt))
        found[task] = replace(measure, n_expected=expected)
    found["exact-set"] = Measure(
        metric="exact-set",
        values=[float(v) for v in exact.values()],
        clusters=[f"scene {index}" for index in exact],
        n=len(exact),
        asked=len(exact),
        n_expected=max(SCENES, len(exact)),
    )
    return found


def run(
    detector: Detector,
    *,
    work: str | Path,
    records: str | Path,
    n: int = SCENES,
    prompts: list[dict] | None = None,
    images_per_prompt: int = IMAGES,
    conditions: tuple[str, ...] = tuple(CONDITIONS),
    seed: int = 0,
) -> Outcome:
    """Records of suites ``calibration-<condition>`` for the six tasks, overall and exact-set.

    ``n`` test scenes and ``images_per_prompt`` images of each prompt (default: the suite's) per condition.  Raises
    ValueError for unknown conditions, for suites that lack a task, and where the judge fails its canary."""
    unknown = [c for c in conditions if c not in CONDITIONS]
    if unknown:
        raise ValueError(f"condition {unknown[0]!r} is unknown; choose among {', '.join(CONDITIONS)}")
    prompts = suites.prompts(SUITE) if prompts is None else prompts
    if "overall" not in geneval.metrics(prompts) or n < 1:
        raise ValueError(f"calibration takes prompts of all six tasks and a scene or more; n is {n}")
    outcomes = []
    checked = False
    for condition in conditions:
        suite = f"calibration-{condition}"
        suite_hash = files.digest(WORLD, condition, suites.lines(prompts), str(n))
        parts = [detector.fingerprint, suite_hash, geneval.VERSION, images_per_prompt, seed]
        keys = {metric: record.make_key(parts=parts, metric=metric) for metric in METRICS}
        kept = stored(records, detector.name, suite, keys, work=work)
        if len(kept) == len(keys):
            outcomes.append(write(records, keys, kept))
            continue
        if not checked:
            canary.check_detector(detector)
            checked = True
        start = time.monotonic()
        path = Path(work) / "calibration" / detector.name / f"{condition}.jsonl"
        judged = judge_condition(detector, condition, prompts, images_per_prompt, n, path, seed)
        common = {
            "subject": detector.name,
            "suite": suite,
            "protocol": "judge-calibration",
            "protocol_params": {"condition": condition, "images_per_prompt": images_per_prompt, "scenes": n},
            "judge": f"{detector.name} {detector.fingerprint[:12]}",
            "seed": seed,
            "fingerprint": detector.fingerprint,
            "origin": files.digest("judge", detector.name),  # of whatever version
            "suite_hash": suite_hash,
            "evidence": path.relative_to(work).as_posix(),
            "seconds": round(time.monotonic() - start, 3),
        }
        outcomes.append(write(records, keys, kept, _measures(prompts, images_per_prompt, *judged), common, work=work))
    return sum(outcomes, Outcome.none())


EXAMPLE = "vgt eval judge"


class Options(options.Common):
    n: int | None = option(
        None, f"test scenes of exact-set (default {SCENES}); the prompts of the other metrics stay", type=positive
    )
    conditions: str = option(",".join(CONDITIONS), "how images are degraded (default: all)", metavar="A[,B...]")


def evaluate(given: Options) -> Outcome:
    from evals.judges.analytic import AnalyticJudge

    judge = AnalyticJudge()
    if given.name is not None:
        judge = named(judge, record.checked_name(given.name))
    return run(judge, **given.passed_to(run, conditions=tuple(listed(given.conditions))))
