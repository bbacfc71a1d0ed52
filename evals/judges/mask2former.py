"""Judge ``m2f-hf``: GenEval's detector and color classifier with transformers' classes (docs/evaluators.md 2.3, 2.5, 2.8).

The published checkpoint is another training run than mmdet's, so results are labelled ``geneval[m2f-hf]`` and are
comparable with official ones only as far as their agreement was measured (evals/agreement).
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from evals.engine.api import Detection
from evals.judges import clip_colors, instances, weights
from evals.judges.clip_colors import ClipColors
from vgt.core import files
from vgt.core.geneval_prompts import CLASSES

MODEL = "facebook/mask2former-swin-small-coco-instance"
NEEDED = ("config.json", weights.WEIGHTS)
LEAST = 0.05  # a mask's confidence is at most 1, so a pair with less cannot reach what evidence keeps

# Spellings of the same 80 classes in other label files -> GenEval's.
ALIASES = {
    "aeroplane": "airplane",
    "motorbike": "motorcycle",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
    "mouse": "computer mouse",
    "remote": "tv remote",
    "keyboard": "computer keyboard",
    "doughnut": "donut",
    "hair dryer": "hair drier",
}


def check_labels(labels: dict[int, str]) -> None:
    """Raises ValueError unless the model's labels are COCO's 80 in GenEval's order; names may differ as ALIASES say."""
    if sorted(labels) != list(range(len(CLASSES))):
        raise ValueError(f"the detector has {len(labels)} labels; GenEval needs COCO's {len(CLASSES)}, numbered from 0")
    for index, name in enumerate(CLASSES):
        given = " ".join(labels[index].lower().replace("_", " ").split())
        if ALIASES.get(given, given) != name:
            raise ValueError(
                f"label {index} of the detector is {labels[index]!r} where COCO has {name!r}: its classes are in "
                f"another order, and every score would be wrong"
            )


class Mask2FormerJudge:
    """A Detector over COCO's classes.  ``colors`` names a detection's color, as color(image, detection)."""

    name = "m2f-hf"
    classes = CLASSES

    def __init__(self, model: torch.nn.Module, colors: ClipColors, weights_hash: str, short: int, long: int):
        check_labels({int(k): v for k, v in model.config.id2label.items()})
        self.model, self.colors, self.sides = model, colors, (short, long)
        self._weights = weights_hash

    @cached_property
    def fingerprint(self) -> str:
        """Content hash of both models' weights and of the code that reads them."""
        sources = [Path(m).read_text(encoding="utf-8") for m in (instances.__file__, clip_colors.__file__, __file__)]
        return files.digest(self._weights, self.colors.fingerprint, str(self.sides), *sources)

    @torch.inference_mode()
    def detect(self, image: np.ndarray) -> list[Detection]:
        """uint8 [H, W, 3] -> every (query, class) pair that can reach LEAST, best first; masks may overlap."""
        device = self.model.device
        pixels, size = instances.prepare(torch.tensor(image, device=device), *self.sides)
        seen = self.model(pixel_values=pixels)
        p, queries, labels = instances.best_pairs(seen.class_queries_logits[0].float())
        reach = p >= LEAST
        p, queries, labels = p[reach], queries[reach], labels[reach]
        if not len(p):
            return []
        distinct, where = queries.unique(return_inverse=True)
        logits = seen.masks_queries_logits[0, distinct].float()
        logits = instances.full_masks(logits, tuple(pixels.shape[-2:]), size, image.shape[:2])
        scores = p * instances.mask_confidence(logits)[where]
        masks = (logits > 0).cpu()
        boxes = [instances.tight_box(mask) for mask in masks]
        return [
            Detection(CLASSES[int(labels[i])], float(scores[i]), boxes[where[i]], masks[where[i]].numpy())
            for i in scores.argsort(descending=True, stable=True).tolist()
        ]

    def color(self, image: np.ndarray, detection: Detection) -> str:
        """The name of a detection's color, among GenEval's ten."""
        return self.colors.name(image, detection)


def load(
    mask2former: str | None,
    clip: str | None,
    device: str = "cpu",
    sides: tuple[int, int] = (instances.SHORT, instances.LONG),
) -> Mask2FormerJudge:
    """The judge from two folders (or hub ids), in float32.  ``sides``: short side and longest long side of its input.

    Raises ValueError that names a missing file before anything is loaded, and for weights that do not fit."""
    from transformers import Mask2FormerForUniversalSegmentation

    folder = weights.place(mask2former, "--mask2former", MODEL, NEEDED)
    clip_folder = weights.place(clip, "--clip", clip_colors.MODEL, clip_colors.NEEDED)
    model = weights.load(Mask2FormerForUniversalSegmentation, folder, device)
    colors = clip_colors.load(clip_folder, device)
    return Mask2FormerJudge(model, colors, weights.fingerprint(folder, NEEDED), *sides)
