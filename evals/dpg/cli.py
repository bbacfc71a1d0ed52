"""``vgt eval dpg``: DPG-Bench's rules on the images of a subject."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evals import judges
from evals.agreement import run as agreement
from evals.dpg import data
from evals.dpg import rules as dpg_rules
from evals.dpg import run as dpg
from evals.engine import options
from evals.engine.options import listed, option
from evals.engine.records import Outcome
from vgt.core import files

EXAMPLE = (
    "vgt eval dpg --subject vgt:query_ar_internvl --accel 4\n"
    "  vgt eval dpg --csv dpg_bench.csv --prompts prompts/ --subject folder:grids --resolution 512 "
    "--judge mplug --judge-python mplug/bin/python --trust-judge-code --protocol dpg-fixed,dpg-ella,dpg-vgt"
)


class Options(options.Images):
    csv: Path | None = option(None, "DPG-Bench's dpg_bench.csv instead of a suite")
    texts: Path | None = option(
        None, "its folder of <item_id>.txt, or JSON lines (default: the CSV's text)", flag="--prompts"
    )
    protocol: str = option("dpg-fixed", "dpg-fixed, dpg-ella, dpg-vgt, dpg-vgt-normalized, several with commas, or all")
    judge: str | None = option(None, f"{judges.JUDGES} (default on scenes-dpg: analytic)")
    judge_python: str | None = option(None, "for mplug: the interpreter that has modelscope", metavar="PYTHON")
    judge_weights: str | None = option(None, "for mplug: a local copy of the model", metavar="DIR")
    trust_judge_code: bool = option(False, "for mplug: let modelscope and code beside its model run, with your rights")
    against: str | None = option(None, "ask a second judge too, and record how far the two agree", metavar="JUDGE")
    answers: Path | None = option(None, "score a stored answers.jsonl; no subject, no judge")
    resolution: int | None = option(None, "a folder: subject holds 2x2 grids <item_id>.png of tiles of this size")
    grids: Path | None = option(None, "write the images as 2x2 grids too", flag="--export-grids", metavar="DIR")

    @property
    def protocols(self) -> list[str]:
        return list(dpg_rules.RULES) if self.protocol == "all" else listed(self.protocol)

    def given(self) -> dict[str, Any]:
        return {**super().given(), "protocols": self.protocols}


def _suite(given: Options) -> tuple[str, list[dict], list[dict]]:
    """Name, the prompts that were asked for, and the whole suite."""
    if given.csv is None:
        if given.texts is not None:
            raise ValueError("--prompts goes with --csv; name another suite with --suite")
        suite, whole = options.prompts(given.suite or "scenes-dpg")
    else:
        suite, whole = given.suite or data.SUITE, data.load(given.csv, given.texts)
    return suite, options.evenly(whole, given.n), whole


def _subject(given: Options, prompts: list[dict], whole: list[dict]) -> tuple[Any, int | None]:
    """The subject and its acceleration; a folder of grids is unpacked first."""
    if given.resolution is None:
        return given.generator(prompts, whole)
    given.refuse("the images of a folder of grids are made already", *options.MAKING[1:], "seed")
    kind, _, root = options.named_subject(given.subject, "folder:grids").partition(":")
    if kind != "folder" or not root:
        raise ValueError(f"--resolution is for a folder of grids, not for {given.subject!r}; give folder:<dir>")
    return data.unpack_grids(root, prompts, given.out, given.resolution, whole), None


def evaluate(given: Options) -> Outcome:
    if given.answers is not None:
        asked = ("csv", "texts", "judge", "judge_python", "judge_weights", "trust_judge_code", "against", "grids")
        stored = (*options.MAKING, *options.RUNNING, *asked, "resolution", "suite", "images_per_prompt")
        given.refuse("--answers scores what is stored", "name", *stored)
        return dpg.rescore(given.answers, **given.passed_to(dpg.rescore))
    suite, prompts, whole = _suite(given)
    if given.judge is None and given.csv is not None:
        raise ValueError("--judge is missing; DPG-Bench needs one, for example --judge blip:<folder>")
    dpg_rules.check_prompts(suite, whole)
    dpg_rules.chosen(given.protocols, prompts)
    if given.grids is not None:
        data.file_names(whole)
        files.check_writable(given.grids, folder=True)
        if given.images_per_prompt != data.TILES:
            raise ValueError(f"--export-grids takes {data.TILES} images a prompt; leave out --images-per-prompt")
    specs = [spec for spec in (given.judge or "analytic", given.against) if spec]
    mplug = {"python": given.judge_python, "weights": given.judge_weights, "trusted": given.trust_judge_code}
    if any(mplug.values()) and "mplug" not in specs:
        raise ValueError(f"--judge-python, --judge-weights and --trust-judge-code are for judge mplug, not {specs[0]}")
    grids = None if given.resolution is None else _subject(given, prompts, whole)
    if grids is None:
        given.check_folder(prompts, whole)
    else:
        given.tell_lacks(grids[0], prompts)
    asked = [judges.load(spec, given.on, **mplug) for spec in specs]
    generator, accel = grids or _subject(given, prompts, whole)
    generator = given.named(generator, accel)
    images = {"suite": suite, "prompts": prompts, "accel": accel}
    outcomes = []
    for judge in asked:
        try:
            settings = given.passed_to(dpg.run, **images, check_judge=judge.check)
            outcomes.append(dpg.run(generator, judge.answerer, **settings))
        finally:
            judge.close()
    if given.shard.whole and given.against:
        stored = [given.out / outcome.records[0].evidence for outcome in outcomes]
        outcomes.append(agreement.of_answers(*stored, **given.passed_to(agreement.of_answers)))
    if given.shard.whole and given.grids is not None:
        dpg.export_grids(generator, given.grids, **given.passed_to(dpg.export_grids, **images))
    return sum(outcomes, Outcome.none())
