"""What GenEval keeps of a judging, so that it can be scored again without images or a judge (docs/evaluators.md 0.5).

A folder with ``detections.jsonl`` (one line an image: every detection above KEPT with box, mask and, where the prompt
asks for one, color), ``prompts.jsonl``, and ``run.json``, which says whose images these are and who judged them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evals.engine.api import Detector
from evals.engine.generation import Images, Run
from evals.engine.store import WHOLE, Shard, collect
from evals.geneval import masks
from evals.geneval.rules import OFFICIAL, Box, Thresholds, colored_classes, judge_image, select
from vgt.core import files, geneval_prompts, suites
from vgt.core.images import read_image

KEPT = 0.05  # detections with less are not even stored (docs/evaluators.md 2.7)
SUITE = "geneval"  # the benchmark's own prompts
WORLD_JUDGE = "judge-analytic"  # its evidence lies beside the images; another judge's in a folder of its own

Job = tuple[int, int]  # prompt index, sample


def detections_entry(detector: Detector, path: Path, prompt: dict) -> dict:
    """JSON-able evidence of one image: its content hash, size and detections; or {"error": why} for a file that is not
    an image."""
    try:
        image = read_image(path)
    except (OSError, ValueError) as error:
        return {"error": f"{type(error).__name__}: unreadable image"}
    wanted = colored_classes(prompt)
    return {
        "image": files.digest_file(path),
        "size": list(image.shape[:2]),
        "detections": [
            {
                "class": d.label,
                "score": round(float(d.score), 6),
                "box": [float(v) for v in d.box],
                "color": detector.color(image, d) if d.label in wanted else None,
                "mask": masks.encode(d.mask),
            }
            for d in detector.detect(image)
            if d.score >= KEPT
        ],
    }


def from_entry(entry: dict) -> tuple[list[Box], list[str | None]]:
    """Detections, without their masks, and their colors from stored evidence."""
    stored = entry["detections"]
    return [Box(d["class"], d["score"], tuple(d["box"])) for d in stored], [d["color"] for d in stored]


def result(name: str, prompt: dict, entry: dict, rules: Thresholds = OFFICIAL) -> dict:
    """One line of the official results file (docs/evaluators.md 2.7)."""
    detections, colors = from_entry(entry)
    correct, reason = judge_image(detections, prompt, colors, rules)
    details = {
        label: [[*detections[i].box, detections[i].score] for i in indices]
        for label, indices in select(detections, prompt["tag"], rules).items()
    }
    return {
        "filename": name,
        "tag": prompt["tag"],
        "prompt": prompt["prompt"],
        "correct": correct,
        "reason": reason,
        "metadata": json.dumps(prompt),
        "details": json.dumps(details),
    }


def official_lines(results: list[dict]) -> str:
    """Results as the official scorer writes them (pandas' JSON lines: no spaces, slashes escaped)."""
    # In JSON text a slash stands inside strings only.
    return "".join(json.dumps(line, separators=(",", ":")).replace("/", "\\/") + "\n" for line in results)


def judge_all(run: Run, detector: Detector, shown: Images, out: Path, shard: Shard = WHOLE) -> dict[str, dict]:
    """Image name -> evidence of every image there is, from ``detections.jsonl`` where it still holds.  ``shown``: the
    images of this ``shard``."""
    jobs = {shown.name(*job): job for job in sorted(shown.paths)}
    stamps = {
        name: files.digest_json(
            [files.digest_file(shown.paths[job]), detector.fingerprint, colored_classes(run.prompts[job[0]])]
        )
        for name, job in jobs.items()
    }

    def look(name: str) -> dict:
        return detections_entry(detector, shown.paths[jobs[name]], run.prompts[jobs[name][0]])

    return collect(out / "detections.jsonl", stamps, look, f"{run.model}: {run.suite} judged", shard)


# ---------------------------------------------------------------------------------------------- whose, and by whom


@dataclass(frozen=True)
class Known:
    """A subject or a judge of which only what records tell is at hand; ``settings``: a subject's own, for sampling."""

    name: str
    fingerprint: str
    settings: dict[str, Any] | None = None


@dataclass(frozen=True)
class Judging:
    """Whose images were judged by whom.  ``variant``: "official" or a named prompt set with its hash; ``floor``: the
    loosest settings that the evidence can be scored with; ``extra``: images that nobody asked for; ``note`` goes into
    every record."""

    job: Run
    judge: Detector | Known
    variant: str
    floor: Thresholds = Thresholds(KEPT, KEPT, 10**6, 1.0, 0.0)
    extra: tuple[str, ...] = ()
    note: str | None = None

    def folder(self, work: str | Path) -> Path:
        """Where the evidence lies."""
        images = self.job.folder(work, "geneval")
        return images if self.judge.name == WORLD_JUDGE else images / self.judge.name.replace(":", "-")

    def protocol(self, rules: Thresholds) -> str:
        """The protocol's id: the judge is part of it wherever it is not the synthetic scenes' own."""
        if rules.variant:
            return "geneval-variant"
        return "geneval" if self.judge.name == WORLD_JUDGE else f"geneval[{self.judge.name.removeprefix('official:')}]"


def prompt_variant(suite: str, prompts: list[dict], name: str | None = None) -> str:
    """ "official" for GenEval's own prompts (all, or some of them in order), else ``name``, by default the suite's,
    with the hash of the prompts (docs/evaluators.md 2.8).

    Raises ValueError for other prompts under the benchmark's name, and for its own under another variant's."""
    official = geneval_prompts.is_official(prompts)
    if official and name not in (None, "official"):
        raise ValueError(f"--prompt-variant {name!r} names GenEval's own prompts; leave it out")
    if not official and (name == "official" or suite == SUITE):
        raise ValueError(
            f"these {len(prompts)} prompts of suite {suite!r} are not GenEval's own; give the file another name, and "
            f"name the set with --prompt-variant"
        )
    return "official" if official else f"{name or suite}:{files.digest(suites.lines(prompts))[:12]}"


def write_judging(judging: Judging, place: dict[Job, str], out: Path) -> None:
    """``run.json`` and ``prompts.jsonl`` beside the evidence; ``place``: (prompt index, sample) -> image name."""
    job = judging.job
    settings = getattr(job.subject, "settings", None)
    told = {
        "subject": {
            "name": job.name,
            "fingerprint": job.subject.fingerprint,
            "settings": None if settings is None else dict(settings),
        },
        "judge": {"name": judging.judge.name, "fingerprint": judging.judge.fingerprint},
        **{key: getattr(job, key) for key in ("accel", "suite", "images_per_prompt", "seed", "batch")},
        "prompt_variant": judging.variant,
        "floor": asdict(judging.floor),
        "extra": list(judging.extra),
        "note": judging.note,
        "images": {name: list(where) for where, name in place.items()},
    }
    files.write_text(out / "prompts.jsonl", suites.lines(job.prompts))
    files.write_json(out / "run.json", told)


def read_judging(out: str | Path) -> tuple[Judging, dict[Job, str], dict[str, dict]]:
    """A stored judging, the name of each (prompt index, sample), and the evidence by image name.

    Raises ValueError for a folder that does not hold all of it."""
    out = Path(out)
    try:
        told = json.loads((out / "run.json").read_text(encoding="utf-8"))
        prompts = [json.loads(line) for line in (out / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]
        lines = (out / "detections.jsonl").read_text(encoding="utf-8").splitlines()
        found = {entry["id"]: entry for entry in map(json.loads, lines)}
        place = {(index, sample): name for name, (index, sample) in told["images"].items()}
        entries = {name: found[name] for name in place.values()}
        subject, judge = Known(**told["subject"]), Known(**told["judge"])
        counts = (told["images_per_prompt"], told["seed"], told["batch"])
        job = Run(subject, subject.name, told["accel"], told["suite"], prompts, *counts)
        floor, extra = Thresholds(**told["floor"]), tuple(told["extra"])
        judging = Judging(job, judge, told["prompt_variant"], floor, extra, told["note"])
        return judging, place, entries
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{out} holds no finished judging ({type(error).__name__}: {error}); it needs run.json, prompts.jsonl and "
            f"detections.jsonl of `vgt eval geneval`"
        ) from error
