"""GenEval (docs/evaluators.md 2)."""

from evals.engine.protocol import Protocol

_RULES = {
    "prompts": "553 official, seed 43",
    "images_per_prompt": 4,
    "threshold": 0.3,
    "counting_threshold": 0.9,
    "max_objects": 16,
    "max_overlap": 1.0,
    "position_threshold": 0.1,
    "overall": "unweighted mean of six task shares",
}
_COLORS = {"color_background": (153, 153, 153), "clip": "ViT-L/14 openai, 224 px, 3 templates a color"}
_DRIFT = "the judge differs from people by up to 17.7 points on recent models; rewritten prompts move scores by 3 to 15"

PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        "geneval",
        "geneval",
        "GenEval's rules and thresholds on the synthetic scenes, judged analytically",
        {**_RULES, "prompts": "scenes-geneval", "judge": "judge-analytic"},
        section="2.3-2.7",
        caution="small synthetic scenes: no number of theirs compares with the benchmark's",
    ),
    Protocol(
        "geneval[m2f-hf]",
        "geneval",
        "GenEval judged by transformers' Mask2Former Swin-S and CLIP, float32, with mmdet's pre- and post-processing",
        {
            **_RULES,
            **_COLORS,
            "judge": "facebook/mask2former-swin-small-coco-instance",
            "input": "short side 800, long side at most 1333, bilinear without antialias, zeros to multiples of 32",
            "instances": "100 best (query, class) pairs, score p x mean mask confidence, masks may overlap",
        },
        section="2.8",
        caution=f"other detector weights than the official ones: measure `vgt eval agreement` first; {_DRIFT}",
    ),
    Protocol(
        "geneval[m2f-mmdet]",
        "geneval",
        "GenEval judged by the official scorer elsewhere, its results file imported and scored again",
        {**_RULES, **_COLORS, "judge": "mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco", "colors": "as the file says"},
        ("VGT", "GenEval"),
        section="2.7",
        caution=f"{_DRIFT}; the official scorer skips missing images in silence, this import does not",
    ),
    Protocol(
        "geneval-variant",
        "geneval",
        "GenEval's rules with other thresholds, whichever judge: the suite's name says which",
        {"changed": "see protocol_params"},
        section="2.3",
        caution="compares only with the same settings and the same judge",
    ),
    Protocol(
        "judge-agreement",
        "agreement",
        "two judges on the same images: Cohen's kappa over images, overall and per task; difference of the scores",
        {"interval": "bootstrap over prompts within tasks", "difference": "A minus B, sign-flip test over prompts"},
        section="2.8",
    ),
)
