"""What tests of GenEval's COCO judges share: a scripted judge, and small random models of the real classes on disk."""

from __future__ import annotations

import json
import string

import numpy as np

from evals.engine.api import Detection
from evals.judges.canary import PHOTOGRAPHS
from vgt.core.geneval_prompts import CLASSES
from vgt.core.images import read_image
from vgt.core.photos import image_path
from vgt.core.scenes import COLORS

# The hub's spellings, some of them as in VOC.
LABELS = {
    "computer mouse": "mouse", "tv remote": "remote", "computer keyboard": "keyboard", "motorcycle": "motorbike",
    "airplane": "aeroplane", "couch": "sofa", "potted plant": "pottedplant", "dining table": "diningtable",
    "tv": "tvmonitor",
}  # fmt: skip


class Scripted:
    """Knows the canary's photographs and sees ``found``, (class, score, box), in everything else; names colors of
    plain balls by their centre, of all else ``said``."""

    classes = CLASSES

    def __init__(self, found=(), name="scripted", said="red", shift=0, stretch=1.0, blind=False):
        self.name, self.fingerprint = name, f"{name}-{found}-{said}"
        self.found, self.said, self.shift, self.stretch, self.blind = found, said, shift, stretch, blind
        self.photos = {read_image(image_path(*key)).tobytes(): told for key, told in PHOTOGRAPHS.items()}
        self.looked = 0

    def detect(self, image):
        self.looked += 1
        known = self.photos.get(image.tobytes())
        found = self.found if known is None else [(known[0], 0.97, known[1])]
        empty = np.zeros(image.shape[:2], bool)
        return [
            Detection(
                CLASSES[(CLASSES.index(name) + self.shift) % len(CLASSES)],
                score,
                tuple(float(v * self.stretch) for v in box),
                empty,
            )
            for name, score, box in found
        ]

    def color(self, image, detection):
        if not detection.mask.any() or self.blind:
            return self.said
        rows, columns = np.nonzero(detection.mask)
        seen = tuple(image[int(rows.mean()), int(columns.mean())].tolist())
        return next(name for name, rgb in COLORS.items() if rgb == seen)


def save_mask2former(folder, labels=None, queries: int = 12, seed: int = 0) -> None:
    """A small random Mask2Former with a wide class layer, so that some classes stand out."""
    import torch
    from conftest import widen
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    labels = [LABELS.get(name, name) for name in CLASSES] if labels is None else labels
    swin = {
        "model_type": "swin", "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=swin, hidden_dim=32, feature_size=32, mask_feature_size=32, encoder_feedforward_dim=16,
        dim_feedforward=16, encoder_layers=1, decoder_layers=2, num_attention_heads=2, num_queries=queries,
        id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)},
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        model = widen(Mask2FormerForUniversalSegmentation(config), seed)
    with torch.no_grad():
        model.class_predictor.weight.mul_(4)
    model.save_pretrained(folder)


def save_clip(folder, seed: int = 1) -> None:
    """A small random CLIP with a tokenizer of single letters."""
    import torch
    from conftest import widen
    from transformers import CLIPConfig, CLIPModel

    letters = string.ascii_lowercase + "-"
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**shape, "vocab_size": len(words), "bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1}
    config = CLIPConfig(text_config=text, vision_config={**shape, "image_size": 32, "patch_size": 8}, projection_dim=8)
    with torch.random.fork_rng(devices=[]):
        widen(CLIPModel(config), seed).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
