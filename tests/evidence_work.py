"""A small work folder with evidence of every kind, for the tests of the pages that show it; made by the evaluators
themselves from models that cost nothing."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evals.dpg import run as dpg
from evals.geneval import run as geneval
from evals.judges.analytic import AnalyticJudge
from evals.judges.answering import Reply
from evals.subjects import fake
from evals.vqa import run as vqa
from vgt.core import captions, files, scenes, suites

MARKUP = 'a photo of a <b>red</b> star</script><script>document.title = "run"</script>'
OWN = [{"id": "own/1", "tag": "single_object", "include": [{"class": "star", "count": 1}], "prompt": MARKUP}]
JUDGE = AnalyticJudge()


@dataclass(frozen=True)
class Sometimes:
    """Draws the right scene of some prompts, decided by its name, and noise for the others."""

    name: str

    @property
    def fingerprint(self) -> str:
        return files.digest("sometimes", self.name)

    def generate(self, prompts, seeds):
        right = [int(files.digest(self.name, prompt)[0], 16) < 9 for prompt in prompts]
        makers = [fake.Oracle() if one else fake.Noise() for one in right]
        return np.concatenate([m.generate([p], [s]) for m, p, s in zip(makers, prompts, seeds, strict=True)])


@dataclass(frozen=True)
class Scripted:
    """Knows the truth about the first scenes, and says "perhaps" of those in ``blind``."""

    name: str
    blind: tuple[int, ...] = ()

    @property
    def fingerprint(self) -> str:
        return files.digest("scripted", self.name)

    def replies(self, image, questions):
        index = next(i for i in range(9) if np.array_equal(image, scenes.item("test", i).image))
        scene = captions.scene_text(scenes.scene("test", index))
        return [Reply("perhaps" if index in self.blind else captions.answer(scene, q)) for q in questions]


@dataclass(frozen=True)
class Darker:
    """A tokenizer that takes some levels off every pixel."""

    name: str
    by: int
    size: int | None = None

    @property
    def fingerprint(self) -> str:
        return files.digest("darker", str(self.by))

    def reconstruct(self, images):
        return np.clip(images.astype(int) - self.by, 0, 255).astype(np.uint8)


def make(work: Path) -> Path:
    """Two models of each kind below ``work``; GenEval also of a suite whose prompt holds markup.  Reconstructions only
    where torch is installed."""
    shared = {"work": work, "records": work / "records", "partial_ok": True}
    quick = {**shared, "batch": 8, "images_per_prompt": 2, "check_judge": lambda judge: None}
    for model in map(Sometimes, ("ours", "theirs")):
        geneval.run(model, JUDGE, suite="scenes-geneval", prompts=suites.geneval_prompts(per_task=2), **quick)
        dpg.run(model, JUDGE, suite="scenes-dpg", prompts=suites.dpg_prompts(n=5), **quick)
    geneval.run(fake.Noise(), JUDGE, suite="own", prompts=OWN, **quick)
    for answerer in (Scripted("vlm", (0,)), Scripted("vlm-tuned", (0, 1))):
        vqa.run(answerer, n=3, **shared)
    if importlib.util.find_spec("torch") is None:  # as in the environment of the browser's tests
        return work
    from evals.recon import run as recon

    for tokenizer in (Darker("ae", 4), Darker("ae-dark", 9)):
        recon.run(tokenizer, data="scenes", n=14, size=32, metrics=["psnr-mean"], **shared)
    return work
