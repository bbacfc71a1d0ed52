"""``vgt eval geneval``: GenEval's rules on the images of a subject, on stored detections, or on an official file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from evals.engine import options
from evals.engine.options import option
from evals.engine.records import Outcome
from evals.geneval import run as geneval
from evals.geneval.rules import OFFICIAL, Thresholds, check_prompts
from vgt.core import files

EXAMPLE = (
    "vgt eval geneval --subject vgt:query_ar_internvl --accel 4\n"
    "  vgt eval geneval --subject folder:images --suite geneval --mask2former m2f/ --clip clip-vit-large-patch14/\n"
    "  vgt eval geneval --import results.jsonl --name sdxl\n"
    "  vgt eval geneval --rescore work/geneval/oracle/scenes-geneval-1a2b3c4d-s0 --threshold 0.5"
)
RULES = "rules: settings other than the official ones make a labelled variant"


class Options(options.Images):
    judge: Literal["judge-analytic", "m2f-hf"] | None = option(None, "default: judge-analytic; m2f-hf on `geneval`")
    mask2former: str | None = option(None, "m2f-hf: folder (or hub id) of Mask2Former's weights", metavar="DIR")
    clip: str | None = option(None, "m2f-hf: folder (or hub id) of CLIP's weights", metavar="DIR")
    variant: str | None = option(
        None, "name of a prompt set that is not the benchmark's own", flag="--prompt-variant", metavar="NAME"
    )
    rescore: Path | None = option(None, "score stored detections, without a judge", metavar="FOLDER")
    results: Path | None = option(None, "official results file to score", flag="--import", metavar="RESULTS")
    import_judge: str = option("m2f-mmdet", "who judged the --import file", metavar="NAME")
    export: Path | None = option(None, "write the results in the official format here too", metavar="FILE")
    threshold: float = option(OFFICIAL.threshold, group=RULES)
    counting_threshold: float = option(OFFICIAL.counting_threshold, group=RULES)
    max_objects: int = option(OFFICIAL.max_objects, "per class", group=RULES)
    max_overlap: float = option(OFFICIAL.max_overlap, "IoU from which the weaker box goes; 1: never", group=RULES)
    position_threshold: float = option(OFFICIAL.position_threshold, group=RULES)

    @property
    def rules(self) -> Thresholds:
        return Thresholds(**{name: getattr(self, name) for name in Thresholds.__dataclass_fields__})

    def given(self) -> dict[str, Any]:
        return {**super().given(), "rules": self.rules}


def evaluate(given: Options) -> Outcome:
    outcome = _outcome(given)
    if given.export and outcome.records:
        # The results file lies beside the detections that the records come from.
        found = given.out / Path(outcome.records[0].evidence).with_name(geneval.results_name(given.rules))
        if not found.is_file():
            raise ValueError(f"{found} is gone; delete the records of {outcome.records[0].model} and evaluate again")
        files.write_text(given.export, found.read_text(encoding="utf-8"))
    return outcome


def _outcome(given: Options) -> Outcome:
    if given.rescore:
        stored = ("judge", "mask2former", "clip", "suite", "images_per_prompt", "variant", "results", "import_judge")
        given.refuse("--rescore scores what is stored", "name", *options.MAKING, *options.RUNNING, *stored)
        return geneval.rescore(given.rescore, **given.passed_to(geneval.rescore))
    default = "geneval" if given.results or given.judge == "m2f-hf" else "scenes-geneval"
    suite, whole = options.prompts(given.suite or default)
    prompts = options.evenly(whole, given.n)
    asked = {"suite": suite, "prompts": prompts}
    if given.results:
        done = (*options.MAKING, *options.RUNNING, "judge", "mask2former", "clip")
        given.refuse("the images of --import are made and judged elsewhere", *done)
        whose = {"subject": given.name, "judge": given.import_judge}
        return geneval.import_results(given.results, **given.passed_to(geneval.import_results, **asked, **whose))
    given.refuse("it names who judged an --import file", "import_judge")
    check_prompts(suite, prompts)
    given.check_folder(prompts, whole)
    judge = _judge(given, suite)
    generator, accel = given.generator(prompts, whole)
    generator = given.named(generator, accel)
    return geneval.run(generator, judge, **given.passed_to(geneval.run, **asked, accel=accel))


def _judge(given: Options, suite: str):
    """The judge that --judge names.  Raises ValueError where its weights are missing."""
    if (given.judge or ("m2f-hf" if suite == "geneval" else "judge-analytic")) == "m2f-hf":
        from evals.judges import mask2former

        return mask2former.load(given.mask2former, given.clip, given.on())
    given.refuse("judge-analytic needs no weights", "mask2former", "clip")
    from evals.judges.analytic import AnalyticJudge

    return AnalyticJudge()
