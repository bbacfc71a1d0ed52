"""Class accuracy of a generator by class on the synthetic scenes (docs/vfmtok.md 14)."""

from evals.engine.protocol import Protocol

PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        "class-accuracy",
        "classes",
        "share of images in which the judge of the synthetic scenes sees one object alone, that of the asked class",
        {
            "class": "[colour] shape",
            "right": "one object present (score above 0.3), of the class's shape and colour",
            "images": "25 of each class",
            "held-out": "the classes of vgt.core.scenes.HELD_OUT, which no training scene shows: zero-shot composition",
            "interval": "clustered by class; of a class alone Wilson's over its images",
        },
        ("this harness",),
        "0",
        "of the synthetic scenes alone; a judge always names a nearest shape, so chance is not 0",
    ),
)
