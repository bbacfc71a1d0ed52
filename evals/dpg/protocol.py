"""DPG-Bench (docs/evaluators.md 3).  ``settings`` are the fields of evals.dpg.rules.Rules."""

from evals.engine.protocol import Protocol

_VQA_JUDGE = (
    "the judge decides the level: DPG[judge] compares only with the same judge; the bare name means mPLUG-large"
)

_VGT = {
    "tiles": 1,
    "skip_first_row": False,
    "match": "exact",
    "zeroing": "file",
    "category_tiles": "all",
    "adjusted": False,
}

PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        "dpg-fixed",
        "dpg",
        "all tiles, topological zeroing, raw and dependency-adjusted categories, nothing dropped",
        {
            "tiles": None,
            "skip_first_row": False,
            "match": "normalized",
            "zeroing": "graph",
            "category_tiles": "all",
            "adjusted": True,
        },
        ("this harness",),
        "3.3",
        _VQA_JUDGE,
    ),
    Protocol(
        "dpg-ella",
        "dpg",
        "the official script in one process: first row skipped (D1), categories from the last tile (D3), exact 'yes'",
        {
            "tiles": 4,
            "skip_first_row": True,
            "match": "exact",
            "zeroing": "file",
            "category_tiles": "last",
            "adjusted": False,
        },
        ("ELLA (arXiv 2403.05135)", "most published DPG-Bench rows"),
        "3.3",
        f"an item with a dangling dependency drops out, as in the script; {_VQA_JUDGE}",
    ),
    Protocol(
        "dpg-vgt",
        "dpg",
        "VGT's copy of the script: no row skipped, only the top-left tile, categories over tiles, exact 'yes'",
        _VGT,
        ("VGT (arXiv 2511.23469)",),
        "3.3",
        f"one image an item: a wider interval than four; {_VQA_JUDGE}",
    ),
    Protocol(
        "dpg-vgt-normalized",
        "dpg",
        "dpg-vgt with answers in upper case or with a full stop counted too",
        {**_VGT, "match": "normalized"},
        ("this harness",),
        "3.3",
        f"the published copy counts the literal answer yes only: no number of the paper's; {_VQA_JUDGE}",
    ),
    Protocol(
        "dpg-agreement",
        "dpg",
        "two judges on the same images: Cohen's kappa over all questions, bias per category, paired difference",
        {"answers": "yes against anything else", "interval": "kappa: jackknife over items; bias: cluster bootstrap"},
        ("this harness",),
        "3.4",
    ),
)
