"""The study of samplers (docs/decode.md)."""

from evals.engine.protocol import Protocol

PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        "solver-study",
        "solvers",
        "the fewest evaluations of the flow head whose GenEval score is not inferior to the baseline sampler's",
        {
            "prompts": "scenes-geneval's kind in two halves that share no text, 1,020 by default",
            "images_per_prompt": 4,
            "margin": "0.02 of the overall score",
            "test": "paired by image, clustered by prompt, one-sided 5 %, Holm over the settings",
            "judge": "judge-analytic",
        },
        section="7.5",
        caution="the synthetic scenes' prompts, not the benchmark suite; choose on validation, conclude from test",
    ),
)
