"""Understanding benchmarks that other harnesses run (docs/evaluators.md 4).

An imported number carries ``<harness>/<version>/<task>/<hash of the prompt settings>``: the same benchmark differs by
more than ten points between harnesses, so each of these is a protocol of its own."""

from evals.engine.protocol import Protocol

_CAUTION = "never compare across harnesses, versions, tasks or prompts: the id holds them all"
_INTERVALS = {
    "MME-P": "sum over ten sub-tasks of accuracy + accuracy+ (at most 2000), clustered by image within each",
    "MMBench-EN": "circular: right under all rotations of the options, which share their index modulo a million",
    "AI2D": "share of right choices",
    "TextVQA": "soft accuracy: each of ten human answers left out once, min(1, matches among the other nine / 3)",
}

PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        "lmms-eval",
        "understanding",
        "imported from lmms-eval's results file and samples; the value is checked against the harness's own",
        _INTERVALS,
        ("VGT (arXiv 2511.23469), Table 1: harness not stated",),
        "4",
        f"MME reads yes or no in the first four characters only; {_CAUTION}",
    ),
    Protocol(
        "vlmevalkit",
        "understanding",
        "imported from VLMEvalKit's result tables; the value is checked against the harness's own",
        _INTERVALS,
        (),
        "4",
        f"files do not name their version, so it must be given; {_CAUTION}",
    ),
)
