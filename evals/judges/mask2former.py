"""Judge ``m2f-hf``: GenEval's detector and color classifier in transformers (docs/evaluators.md 2.3, 2.5, 2.8).

The published checkpoint is another training run than mmdet's, so results are labelled ``geneval[m2f-hf]`` and are
comparable with official ones only as far as their agreement was measured (evals/agreement).

Q queries, C classes, (h, w) the mask logits' grid, (H, W) sides of an image in pixels.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import normalize
from torchvision.transforms import v2

from evals.engine.api import Detection
from evals.engine.precision import PRECISION, full_float32
from evals.engine.store import SampleError
from evals.judges import checkpoints
from vgt.core import files, weights
from vgt.core.geneval_prompts import CLASSES
from vgt.core.scenes import COLORS

# ------------------------------------------------------------------- from queries to instances, as mmdet does it (2.8)

SHORT, LONG, DIVISOR = 800, 1333, 32
MOST = 100  # (query, class) pairs kept of an image
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def input_size(height: int, width: int, short: int = SHORT, long: int = LONG) -> tuple[int, int]:
    """Sides after scaling to a short side of ``short``, or less where the long one would exceed ``long``; rounded."""
    scale = min(long / max(height, width), short / min(height, width))
    return int(height * scale + 0.5), int(width * scale + 0.5)


def prepare(image: Tensor, short: int = SHORT, long: int = LONG) -> tuple[Tensor, tuple[int, int]]:
    """uint8 [H, W, 3] -> normalised float32 [1, 3, H', W'], and the sides of what is image in it.

    Bilinear without antialiasing to whole grey levels, ImageNet normalisation, then zeros at the right and below up
    to multiples of DIVISOR."""
    size = input_size(*image.shape[:2], short, long)
    pixels = image.permute(2, 0, 1)[None].float()
    pixels = functional.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=False)
    mean, std = (torch.tensor(v, device=image.device).view(1, 3, 1, 1) for v in (MEAN, STD))
    pixels = (pixels.round().clamp(0, 255) / 255 - mean) / std
    return functional.pad(pixels, (0, -size[1] % DIVISOR, 0, -size[0] % DIVISOR)), size


def best_pairs(class_logits: Tensor, most: int = MOST) -> tuple[Tensor, Tensor, Tensor]:
    """[Q, C + 1] -> (p, query, class), each [min(most, Q C)], best first.

    Softmax over all C + 1, the last (no object) dropped: a query can give several classes."""
    p = class_logits.softmax(-1)[:, :-1]
    best = p.flatten().topk(min(most, p.numel()))
    return best.values, best.indices // p.shape[1], best.indices % p.shape[1]


def full_masks(logits: Tensor, padded: tuple[int, int], size: tuple[int, int], original: tuple[int, int]) -> Tensor:
    """Mask logits [N, h, w] -> [N, H, W]: bilinear to the ``padded`` input, padding cut off, bilinear to the
    ``original`` sides; corners not aligned."""
    how = {"mode": "bilinear", "align_corners": False}
    wide = functional.interpolate(logits[None], size=padded, **how)[:, :, : size[0], : size[1]]
    return functional.interpolate(wide, size=original, **how)[0]


def mask_confidence(logits: Tensor) -> Tensor:
    """[N, H, W] -> [N]: mean of sigmoid(logit) over the foreground (logit > 0), 1e-6 added to its pixel count."""
    inside = logits > 0
    return (logits.sigmoid() * inside).sum((1, 2)) / (inside.sum((1, 2)) + 1e-6)


def tight_box(mask: Tensor) -> tuple[float, float, float, float]:
    """bool [H, W] -> (x1, y1, x2, y2) around its true pixels, far edges exclusive; all zero for an empty mask."""
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


# ------------------------------------------------------------------------------ the color of an object, by CLIP (2.5)

CLIP_MODEL = weights.PUBLISHED["clip-colors"].hub
CLIP_NEEDED = ("config.json", checkpoints.WEIGHTS, "vocab.json", "merges.txt")
GROUND = (153, 153, 153)
TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def crop(image: np.ndarray, detection: Detection) -> Image.Image:
    """The object's pixels on GROUND, cut to its box: uint8 [H, W, 3] -> an RGB image of the box's size.

    Raises SampleError for a box without area."""
    x1, y1, x2, y2 = (round(v) for v in detection.box)
    if x2 <= x1 or y2 <= y1:
        raise SampleError(f"{detection.label!r} has the box {detection.box}, which holds no pixel to name a color of")
    alone = np.where(detection.mask[..., None], image, np.uint8(GROUND))
    return Image.fromarray(alone).crop((x1, y1, x2, y2))


def _embedding(features) -> Tensor:
    """The projected embedding [N, d], whichever of its forms transformers returns."""
    return normalize(features if isinstance(features, Tensor) else features.pooler_output, dim=-1)


class ClipColors:
    """Nearest of GenEval's ten colors in CLIP's embedding; text classifiers are made once per class."""

    def __init__(self, model: torch.nn.Module, tokenizer, fingerprint: str):
        self.model, self.tokenizer, self.fingerprint = model, tokenizer, fingerprint
        side = model.config.vision_config.image_size
        self._transform = v2.Compose(
            [
                v2.Resize(side, interpolation=v2.InterpolationMode.BICUBIC),
                v2.CenterCrop(side),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(CLIP_MEAN, CLIP_STD),
            ]
        )
        self.classifier = lru_cache(maxsize=None)(self._classifier)

    @full_float32()
    @torch.inference_mode()
    def _classifier(self, name: str) -> Tensor:
        """[10, d] of unit length: per color the mean of the unit embeddings of its TEMPLATES, made unit again."""
        texts = [t.format(color=color, name=name) for color in COLORS for t in TEMPLATES]
        longest = self.model.config.text_config.max_position_embeddings
        ids = self.tokenizer(texts, padding="max_length", max_length=longest, truncation=True, return_tensors="pt")
        each = _embedding(self.model.get_text_features(input_ids=ids.input_ids.to(self.model.device)))
        return normalize(each.view(len(COLORS), len(TEMPLATES), -1).mean(1), dim=-1)

    @full_float32()
    @torch.inference_mode()
    def similarities(self, image: np.ndarray, detection: Detection) -> Tensor:
        """Cosine of the object with each color, [10], in the order of COLORS."""
        pixels = self._transform(crop(image, detection))[None].to(self.model.device)
        seen = _embedding(self.model.get_image_features(pixel_values=pixels))
        return (seen @ self.classifier(detection.label).T)[0]

    def name(self, image: np.ndarray, detection: Detection) -> str:
        """The color whose text is nearest."""
        return tuple(COLORS)[int(self.similarities(image, detection).argmax())]


def load_colors(folder: Path, device: str) -> ClipColors:
    """From a folder with CLIP_NEEDED.  Raises ValueError for weights that do not fit."""
    from transformers import CLIPModel, CLIPTokenizer

    tokenizer = checkpoints.opened(CLIPTokenizer, folder)
    return ClipColors(
        checkpoints.load(CLIPModel, folder, device), tokenizer, checkpoints.fingerprint(folder, CLIP_NEEDED)
    )


# ---------------------------------------------------------------------------------------------------------- the judge

MODEL = weights.PUBLISHED["mask2former"].hub
NEEDED = ("config.json", checkpoints.WEIGHTS)
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
    params = PRECISION

    def __init__(self, model: torch.nn.Module, colors: ClipColors, weights_hash: str, short: int, long: int):
        check_labels({int(k): v for k, v in model.config.id2label.items()})
        self.model, self.colors, self.sides = model, colors, (short, long)
        self._weights = weights_hash

    @cached_property
    def fingerprint(self) -> str:
        """Content hash of both models' weights and of this file."""
        source = Path(__file__).read_text(encoding="utf-8")
        return files.digest(self._weights, self.colors.fingerprint, str(self.sides), source)

    @full_float32()
    @torch.inference_mode()
    def detect(self, image: np.ndarray) -> list[Detection]:
        """uint8 [H, W, 3] -> every (query, class) pair that can reach LEAST, best first; masks may overlap."""
        device = self.model.device
        pixels, size = prepare(torch.tensor(image, device=device), *self.sides)
        seen = self.model(pixel_values=pixels)
        p, queries, labels = best_pairs(seen.class_queries_logits[0].float())
        reach = p >= LEAST
        p, queries, labels = p[reach], queries[reach], labels[reach]
        if not len(p):
            return []
        distinct, where = queries.unique(return_inverse=True)
        logits = seen.masks_queries_logits[0, distinct].float()
        logits = full_masks(logits, tuple(pixels.shape[-2:]), size, image.shape[:2])
        scores = p * mask_confidence(logits)[where]
        masks = (logits > 0).cpu()
        boxes = [tight_box(mask) for mask in masks]
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
    sides: tuple[int, int] = (SHORT, LONG),
) -> Mask2FormerJudge:
    """The judge from two folders (or hub ids), in float32.  ``sides``: short side and longest long side of its input.

    Raises ValueError that names a missing file before anything is loaded, and for weights that do not fit."""
    from transformers import Mask2FormerForUniversalSegmentation

    folder = checkpoints.place(mask2former, "--mask2former", MODEL, NEEDED)
    clip_folder = checkpoints.place(clip, "--clip", CLIP_MODEL, CLIP_NEEDED)
    model = checkpoints.load(Mask2FormerForUniversalSegmentation, folder, device)
    colors = load_colors(clip_folder, device)
    return Mask2FormerJudge(model, colors, checkpoints.fingerprint(folder, NEEDED), *sides)
