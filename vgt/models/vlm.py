"""One adapter over transformers' InternVL and Qwen2.5-VL classes, real or tiny (spec vgt 0 - 1.3, 2.2 - 2.4).

Shapes: B batch, hw image tokens, A width of the projector (= language model width), L text length.
Images are float [B, 3, H, W] in [-1, 1].
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, InternVLForConditionalGeneration, Qwen2_5_VLForConditionalGeneration

from vgt.core.config import Config
from vgt.equations.latents import merge_patches, pixel_shuffle
from vgt.models.tokenizer import IMAGE_CONTEXT, TURN_END, TURN_START

Family = Literal["internvl", "qwen2_5_vl"]
CLASSES = {"internvl": InternVLForConditionalGeneration, "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration}
PIXEL_STATISTICS = {
    "internvl": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "qwen2_5_vl": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}


def family_of(hf_config) -> Family:
    """The family of a transformers configuration.  Raises ValueError for a VLM without an adapter."""
    if hf_config.model_type == "internvl":
        return "internvl"
    if hf_config.model_type == "qwen2_5_vl":
        return "qwen2_5_vl"
    raise ValueError(f"model type {hf_config.model_type!r} has no adapter; use an InternVL or Qwen2.5-VL checkpoint")


def hf_config(values: dict[str, Any]):
    """A transformers configuration from its dictionary form (needs ``model_type``)."""
    return AutoConfig.for_model(**values)


class VisionEncoder(nn.Module):
    """Vision tower and projector: images in [-1, 1] -> features [B, hw, A] in raster order."""

    def __init__(self, config, tower: nn.Module | None = None, projector: nn.Module | None = None):
        super().__init__()
        self.config, self.family = config, family_of(config)
        if tower is None:
            whole = CLASSES[self.family]._from_config(_without_language(config))
            tower, projector = _parts(whole)
        self.tower, self.projector = tower, projector
        mean, std = PIXEL_STATISTICS[self.family]
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @property
    def stride(self) -> int:
        """Pixels of the image per latent token on each axis."""
        vision = self.config.vision_config
        if self.family == "internvl":
            return round(vision.patch_size[0] / self.config.downsample_ratio)
        return vision.patch_size * vision.spatial_merge_size

    def check(self, height: int, width: int) -> None:
        """Raises ValueError for an image size that the tower cannot take."""
        if height % self.stride or width % self.stride:
            raise ValueError(
                f"image of {width} x {height} px: sides must be multiples of {self.stride} px; resize or crop it"
            )
        if self.family == "internvl" and height != width:
            raise ValueError(f"image of {width} x {height} px: InternVL's tower takes square images; crop it")

    def forward(self, images: Tensor) -> Tensor:
        self.check(*images.shape[-2:])
        x = ((images + 1) / 2 - self.mean) / self.std
        if self.family == "internvl":
            hidden = self.tower(pixel_values=x).last_hidden_state[:, 1:]  # [B, n, C], CLS dropped
            side = int(hidden.shape[1] ** 0.5)
            grid = hidden.reshape(len(x), side, side, -1)
            folded = pixel_shuffle(grid, round(1 / self.config.downsample_ratio))
            return self.projector(folded.flatten(1, 2))  # [B, hw, A]
        vision = self.config.vision_config
        gh, gw = (side // vision.patch_size for side in x.shape[-2:])
        patches = merge_patches(x, vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)
        thw = torch.tensor([[1, gh, gw]], device=x.device).expand(len(x), 3)
        return self.tower(patches, grid_thw=thw).pooler_output.reshape(len(x), -1, vision.out_hidden_size)


def _without_language(config):
    """The same configuration with a language model of one layer and a vocabulary of one: it is thrown away."""
    values = config.to_dict()
    values["text_config"] = {**values["text_config"], "num_hidden_layers": 1, "layer_types": None, "vocab_size": 1}
    values["text_config"] |= {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    return type(config)(**values)


def _parts(whole: nn.Module) -> tuple[nn.Module, nn.Module | None]:
    if isinstance(whole, InternVLForConditionalGeneration):
        return whole.model.vision_tower, whole.model.multi_modal_projector
    return whole.model.visual, None


def language_model(config) -> nn.Module:
    """The text transformer (embeddings, layers, final norm) of a VLM configuration, freshly initialised."""
    return AutoModel.from_config(config.text_config)


class VLM(nn.Module):
    """A whole VLM: ``hf`` is the transformers model, ``tokenizer`` its tokenizer, ``image_size`` in pixels."""

    def __init__(self, hf: nn.Module, tokenizer, image_size: int):
        super().__init__()
        self.hf, self.tokenizer, self.image_size = hf, tokenizer, image_size
        self.config = hf.config
        # Not registered a second time: the parts live inside ``hf``.
        object.__setattr__(self, "encoder", VisionEncoder(hf.config, *_parts(hf)))

    def _apply(self, fn, recurse=True):
        """Moves and casts the encoder's own buffers too, which are not registered here."""
        super()._apply(fn, recurse)
        self.encoder.mean, self.encoder.std = fn(self.encoder.mean), fn(self.encoder.std)
        return self

    @property
    def language(self) -> nn.Module:
        """The text transformer."""
        return self.hf.model.language_model

    @property
    def image_tokens(self) -> int:
        return (self.image_size // self.encoder.stride) ** 2

    def question(self, text: str) -> str:
        """One user turn that shows the image and asks ``text``, up to the start of the answer."""
        image = f"<img>{IMAGE_CONTEXT * self.image_tokens}</img>\n"
        return f"{TURN_START}user\n{image}{text}{TURN_END}\n{TURN_START}assistant\n"

    def follow_up(self, text: str) -> str:
        """A further user turn about the same image."""
        return f"{TURN_START}user\n{text}{TURN_END}\n{TURN_START}assistant\n"

    def embed(self, ids: Tensor, features: Tensor | None) -> Tensor:
        """Token embeddings [B, L, A] with image features [B, hw, A] in the places of the context token."""
        embeddings = self.language.get_input_embeddings()(ids)
        if features is None:
            return embeddings
        places = (ids == self.tokenizer.convert_tokens_to_ids(IMAGE_CONTEXT)).unsqueeze(-1)
        return embeddings.masked_scatter(places, features.to(embeddings.dtype))

    def hidden(self, ids: Tensor, images: Tensor | None, mask: Tensor | None = None, cache=None) -> Tensor:
        """Final hidden states [B, L, A]; right padding is harmless to the real tokens (causal)."""
        features = self.encoder(images) if images is not None else None
        out = self.language(
            inputs_embeds=self.embed(ids, features),
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return out.last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        return self.hf.lm_head(hidden)

    # ---- training: next-token cross-entropy on the answers

    def players(self) -> dict[str, nn.Module]:
        return {"model": self}

    def lr_scale(self, name: str) -> float:
        return 1.0

    def loss(self, player: str, batch: dict[str, Tensor], step: int, rng: torch.Generator):
        """``batch``: images [B, 3, H, W], ids [B, L], targets [B, L] (-100 where nothing is to be learnt)."""
        hidden = self.hidden(batch["ids"], batch["images"])[:, :-1]
        targets = batch["targets"][:, 1:]
        wanted = targets >= 0
        logits = self.logits(hidden[wanted]).float()
        loss = nn.functional.cross_entropy(logits, targets[wanted])
        right = (logits.argmax(-1) == targets[wanted]).float().mean()
        return loss, {"loss": loss.detach(), "accuracy": right}

    # ---- use

    @torch.no_grad()
    def answer(self, images: Tensor, questions: list[str], max_words: int = 2) -> list[str]:
        """Greedy answers, one question per image [N, 3, H, W]; each stops at the end of its turn."""
        device, pad = images.device, self.tokenizer.pad_token_id
        rows = [self.tokenizer(self.question(text)).input_ids for text in questions]
        asked = [len(row) for row in rows]
        features = self.encoder(images)
        for _ in range(max_words):
            longest = max(map(len, rows))
            ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=device)
            hidden = self.language(inputs_embeds=self.embed(ids, features)).last_hidden_state  # right pads: causal
            last = torch.tensor([len(row) - 1 for row in rows], device=device)
            logits = self.logits(hidden[torch.arange(len(rows), device=device), last])
            logits[:, self.tokenizer.convert_tokens_to_ids(IMAGE_CONTEXT)] = -torch.inf  # a place for an image, no word
            tokens = logits.argmax(-1).tolist()
            rows = [
                row if row[-1] == self.tokenizer.eos_token_id else [*row, t]
                for row, t in zip(rows, tokens, strict=True)
            ]
        return [
            self.tokenizer.decode(row[n:], skip_special_tokens=True).strip() for row, n in zip(rows, asked, strict=True)
        ]


class VLMConfig(Config):
    """``hf``: a transformers configuration as a dictionary (with ``model_type``); ``image_size`` in pixels."""

    hf: dict[str, Any]
    image_size: int


def build(config: VLMConfig, tokenizer) -> VLM:
    """A freshly initialised VLM whose vocabulary fits the tokenizer."""
    values = {**config.hf}
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    values["text_config"] = {**values["text_config"], "vocab_size": len(tokenizer), **ids}
    values["image_token_id"] = tokenizer.convert_tokens_to_ids(IMAGE_CONTEXT)
    full = hf_config(values)
    return VLM(CLASSES[family_of(full)]._from_config(full), tokenizer, config.image_size)
