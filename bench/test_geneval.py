"""GenEval scored again from stored evidence: 553 prompts x 4 images, 15 detections an image with masks of 512 x 512.

``pytest bench/test_geneval.py --benchmark-enable --benchmark-only``; the aim is below 5 s for ``rescore``.
``read and decode`` reads the same evidence and also expands every mask, which scoring leaves alone.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from evals.engine.generation import Run, place
from evals.engine.judging import Named, read_judging, write_judging
from evals.geneval import official
from evals.geneval import run as geneval
from vgt.core import files, geneval_prompts

SIDE, DETECTIONS = 512, 15


def ellipse(rng: np.random.Generator) -> tuple[tuple[float, ...], dict]:
    """A box and the mask of an ellipse with a ragged edge in it."""
    y, x = np.mgrid[:SIDE, :SIDE]
    (cx, cy), (a, b) = rng.uniform(150, 360, 2), rng.uniform(40, 140, 2)
    mask = ((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1 + 0.1 * rng.normal(size=(SIDE, SIDE))
    rows, columns = np.nonzero(mask)
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    return tuple(map(float, box)), official.encode_mask(mask)


def detection(prompt: dict, drawn: list, rng: np.random.Generator) -> dict:
    """One that the prompt may or may not ask for."""
    clause = prompt["include"][rng.integers(len(prompt["include"]))]
    name = clause["class"] if rng.random() < 0.4 else str(rng.choice(geneval_prompts.CLASSES))
    color = (clause["color"] if rng.random() < 0.8 else "red") if "color" in clause else None
    box, mask = drawn[rng.integers(len(drawn))]
    return {"class": name, "score": round(float(rng.random()), 6), "box": box, "color": color, "mask": mask}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder with the evidence of 2,212 images."""
    root, rng = tmp_path_factory.mktemp("geneval"), np.random.default_rng(0)
    prompts = geneval_prompts.prompts()
    drawn = [ellipse(rng) for _ in range(40)]
    job = Run(Named("synthetic", "0" * 64), "synthetic", None, "geneval", prompts, 4, 0, 32)
    places = {(i, s): place(i, s) for i in range(len(prompts)) for s in range(4)}
    judging = geneval.judging_of(job, Named("m2f-hf", "1" * 64), root)
    write_judging(replace(judging, path=root / "detections.jsonl", images=places))
    lines = []
    for (index, _), name in places.items():
        found = [detection(prompts[index], drawn, rng) for _ in range(DETECTIONS)]
        lines.append({"id": name, "stamp": "2" * 64, "image": "3" * 64, "size": [SIDE, SIDE], "detections": found})
    files.write_text(root / "detections.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    return root


def test_rescore(benchmark, stored):
    def fresh():
        shutil.rmtree(stored / "records", ignore_errors=True)

    def score():
        return geneval.rescore(stored, work=stored, records=stored / "records")

    outcome = benchmark.pedantic(score, setup=fresh, rounds=3)
    assert (outcome.computed, outcome.records[0].n) == (9, 2212)
    benchmark.extra_info["evidence_mib"] = round((stored / "detections.jsonl").stat().st_size / 2**20, 1)


def test_read_and_decode(benchmark, stored):
    def decode():
        _, rows = read_judging(stored / "detections.jsonl", "geneval")
        return sum(int(official.decode_mask(d["mask"]).sum()) for row in rows.values() for d in row["detections"][:3])

    assert benchmark.pedantic(decode, rounds=1) > 0
