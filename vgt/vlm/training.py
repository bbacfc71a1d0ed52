"""Pretraining of a tiny VLM: answers to questions, and the words for what every image token shows.

Shapes: B batch, L text length, hw image tokens, A width of the language model.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vgt.core.config import Config, NotNegative
from vgt.equations.order import additive, turns_mask, turns_positions
from vgt.vlm.vlm import VLM

TEMPERATURE = 0.07
IGNORED = -100


class VLMLossConfig(Config):
    """``regions``: weight of the alignment of image tokens with the words for what they show (0: answers alone);
    ``freeze_encoder``: only the language model trains, so that autoencoders of the same vision encoder stay right."""

    regions: NotNegative = 0.0
    freeze_encoder: bool = False


def region_word_loss(features: Tensor, words: Tensor, table: Tensor, choices: list[Tensor]) -> Tensor:
    """Cross-entropy of the word for what an image token shows, by its cosine with the language model's embeddings
    (region-word alignment as in GLIP, arXiv 2112.03857, Eq. 3; temperature as in CLIP).

    ``features`` [B, hw, A]; ``words`` int64 [B, hw, kinds]: token ids, IGNORED where nobody can say; ``table`` [V, A]
    the embeddings; ``choices``: for each kind of word (shape, color, size) the token ids to choose from."""
    flat = F.normalize(features.float().flatten(0, 1), dim=-1)
    losses = []
    for kind, ids in enumerate(choices):
        wanted = words[..., kind].flatten()
        known = wanted != IGNORED
        logits = flat[known] @ F.normalize(table[ids].float(), dim=-1).T / TEMPERATURE
        losses.append(F.cross_entropy(logits, (wanted[known, None] == ids).long().argmax(1)))
    return torch.stack(losses).mean()


class VLMTraining:
    """A VLM under training.  ``choices``: see ``region_word_loss``.

    Raises ValueError for a VLM with positions in three dimensions: questions are packed behind one image."""

    def __init__(self, vlm: VLM, losses: VLMLossConfig, choices: list[Tensor]):
        if vlm.mrope:
            raise ValueError("a VLM is pretrained with running positions here; set model.mrope to false")
        self.vlm, self.losses, self.choices = vlm, losses, choices
        if losses.freeze_encoder:
            vlm.encoder.requires_grad_(False)

    def trainable_modules(self) -> dict[str, nn.Module]:
        return {"model": self.vlm}

    def lr_scale(self, name: str) -> float:
        return 1.0

    def loss(self, name: str, batch: dict[str, Tensor], step: int, rng: torch.Generator):
        """``batch``: images [B, 3, H, W], ids [B, L], targets [B, L] (IGNORED where nothing is to be learnt), turns
        [B, L] and regions [B, hw, kinds]."""
        vlm, images, turns = self.vlm, batch["images"], batch["turns"]
        features = vlm.encoder(images)
        mask = additive(turns_mask(turns), features.dtype)
        hidden = vlm.read(batch["ids"], features, images.shape[-2:], mask, turns_positions(turns))[:, :-1]
        targets = batch["targets"][:, 1:]
        wanted = targets != IGNORED
        logits = vlm.logits(hidden[wanted]).float()
        answers = F.cross_entropy(logits, targets[wanted])
        right = (logits.argmax(-1) == targets[wanted]).float().mean()
        total, parts = answers, {"answers": answers.detach(), "accuracy": right}
        if self.losses.regions > 0:
            table = vlm.language.get_input_embeddings().weight
            choices = [ids.to(table.device) for ids in self.choices]
            regions = region_word_loss(features, batch["regions"], table, choices)
            total, parts = total + self.losses.regions * regions, {**parts, "regions": regions.detach()}
        return total, {"loss": total.detach(), **parts}
