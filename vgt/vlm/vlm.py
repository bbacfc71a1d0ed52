"""A whole VLM, real or tiny, over transformers' classes (docs/vgt.md 0 - 1.3, 2.2 - 2.4); families.py has what differs.

Shapes: B batch, hw image tokens, A width of the projector (= language model width), L text length.
Images are float [B, 3, H, W] in [-1, 1].
"""

from __future__ import annotations

import json
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor, nn
from transformers import AutoConfig

from vgt.checkpoints.pretrained import Pretrained
from vgt.core.config import Config, Count
from vgt.equations.order import additive, turns_mask, turns_positions
from vgt.vlm.families import Family, family_of, image_text, model_class, read
from vgt.vlm.tokenizer import TURN_END, TURN_START


def hf_config(values: dict[str, Any]):
    """A transformers configuration from its dictionary form (needs ``model_type``)."""
    return AutoConfig.for_model(**values)


def plain(config) -> dict[str, Any]:
    """The dictionary form of a transformers configuration as JSON gives it back: some of its keys are numbers at first
    (``id2label``), and would stand beside those that were read."""
    return json.loads(config.to_json_string(use_diff=False))


def whole_model(config) -> nn.Module:
    """transformers' model of ``config``, freshly initialised in torch's default dtype, whatever dtype the
    configuration remembers.  Raises ValueError for a model without an adapter."""
    family_of(config)
    return model_class(config)._from_config(config, dtype=torch.get_default_dtype())


class VisionEncoder(nn.Module):
    """Vision tower and projector: images in [-1, 1] -> features [B, hw, A] in raster order.

    ``hf``: the whole model whose parts these are; without it they are built anew from ``config``."""

    def __init__(self, config, hf: nn.Module | None = None):
        super().__init__()
        self.config, self.family = config, family_of(config)
        alone = hf is None
        if alone:
            hf = whole_model(_without_language(config))
        found = self.family.parts(hf)
        self.tower, self.projector = found.tower, found.projector
        inner = getattr(hf, "model", hf)
        if alone:
            name = next(name for name, child in inner.named_children() if child is found.language)
            setattr(inner, name, nn.Identity())
        # Not registered: its parts are, above.
        object.__setattr__(self, "whole", inner)
        mean, std = self.family.pixels(config)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @property
    def stride(self) -> int:
        """Pixels of the image per latent token on each axis."""
        return self.family.stride(self.config)

    def check(self, height: int, width: int) -> None:
        """Raises ValueError for an image size that the tower cannot take."""
        self.family.check(self.config, height, width)

    def forward(self, images: Tensor) -> Tensor:
        self.check(*images.shape[-2:])
        return self.family.features(self, ((images + 1) / 2 - self.mean) / self.std)  # [B, hw, A]


def _without_language(config):
    """The same configuration with a language model of one layer and a vocabulary of one: it is thrown away."""
    values = config.to_dict()
    values["text_config"] = {**values["text_config"], "num_hidden_layers": 1, "layer_types": None, "vocab_size": 1}
    values["text_config"] |= {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    return type(config)(**values)


class VLMConfig(Config):
    """``hf``: a transformers configuration as a dictionary (with ``model_type``); ``image_size`` in pixels; ``mrope``:
    see VLM (the bundled Qwen2.5-VL was trained with running positions)."""

    hf: dict[str, Any]
    image_size: Count
    mrope: bool = False


class VLM(Pretrained, nn.Module):
    """A whole VLM: ``hf`` is the transformers model, ``tokenizer`` its tokenizer, ``image_size`` in pixels; ``mrope``:
    the features of an image have positions in three dimensions (Qwen2.5-VL as published), not running ones.

    Raises ValueError for a tokenizer without the tokens of an image, and for ``mrope`` where the family has none."""

    def __init__(self, hf: nn.Module, tokenizer, image_size: int, mrope: bool = False):
        super().__init__()
        self.hf, self.tokenizer, self.image_size, self.mrope = hf, tokenizer, image_size, mrope
        self.config = hf.config
        # Not registered a second time: the parts live inside ``hf``.
        object.__setattr__(self, "encoder", VisionEncoder(hf.config, hf))
        self.image_text = image_text(self.family, self.config, tokenizer)
        if mrope and self.family.positions is None:
            raise ValueError(f"{self.family.name} has no three-dimensional positions; set mrope to false")

    @classmethod
    def build(cls, config: VLMConfig, tokenizer) -> VLM:
        """A freshly initialised VLM; where its configuration names no vocabulary, as in presets, that of the
        tokenizer."""
        values = {**config.hf}
        # A pretrained VLM may have more embeddings than its tokenizer has tokens, and says how many.
        if values.get("text_config", {}).get("vocab_size") is None:
            ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
            ids |= {"vocab_size": len(tokenizer), "bos_token_id": None}
            values["text_config"] = {**values["text_config"], **ids}
            bare = hf_config(values)
            form = image_text(family_of(bare), bare, tokenizer)
            values["image_token_id"] = tokenizer.convert_tokens_to_ids(form.context)
        return cls(whole_model(hf_config(values)), tokenizer, config.image_size, config.mrope)

    def described(self) -> dict[str, Any]:
        return {"hf": self.config.to_dict(), "image_size": self.image_size, "mrope": self.mrope}

    def _apply(self, fn, recurse=True):
        """Moves and casts the encoder's own buffers too, which are not registered here."""
        super()._apply(fn, recurse)
        self.encoder.mean, self.encoder.std = fn(self.encoder.mean), fn(self.encoder.std)
        return self

    @property
    def family(self) -> Family:
        return self.encoder.family

    @property
    def language(self) -> nn.Module:
        """The text transformer."""
        return self.family.parts(self.hf).language

    @property
    def image_tokens(self) -> int:
        return (self.image_size // self.encoder.stride) ** 2

    @property
    def context_id(self) -> int:
        """The token whose places the image features take."""
        return self.tokenizer.convert_tokens_to_ids(self.image_text.context)

    @property
    def stops(self) -> set[int]:
        """The tokens that end an answer."""
        ends = getattr(getattr(self.hf, "generation_config", None), "eos_token_id", None)
        found = {self.tokenizer.eos_token_id, *(ends if isinstance(ends, (list, tuple)) else [ends])}
        return found - {None}

    def question(self, text: str) -> str:
        """One user turn that shows the image and asks ``text``, up to the start of the answer: by the tokenizer's chat
        template where it has one for images, else as docs/vgt.md 2.2."""
        image = self.image_text.show(self.image_tokens)
        shown = _rendered(self.tokenizer, [_turn("user", text, image=True)], ask=True)
        for placeholder in self.image_text.placeholders:
            if shown is not None and shown.count(placeholder) == 1:
                return shown.replace(placeholder, image)
        return f"{TURN_START}user\n{image}{text}{TURN_END}\n{TURN_START}assistant\n"

    def follow_up(self, text: str) -> str:
        """A further user turn about the same image."""
        turns = [_turn("user", "?", image=True), _turn("assistant", "!")]
        before = _rendered(self.tokenizer, turns, ask=False)
        after = _rendered(self.tokenizer, [*turns, _turn("user", text)], ask=True)
        if before is not None and after is not None and after.startswith(before):
            return after.removeprefix(before)
        return f"{TURN_START}user\n{text}{TURN_END}\n{TURN_START}assistant\n"

    def ids(self, text: str) -> list[int]:
        """Token ids of a prompt, with the tokenizer's own first token unless the text has it."""
        first = self.tokenizer.bos_token
        begun = first is not None and text.startswith(first)
        return self.tokenizer(text, add_special_tokens=not begun).input_ids

    def embed(self, ids: Tensor, features: Tensor | None) -> Tensor:
        """Token embeddings [B, L, A] with image features [B, hw, A] in the places of the context token."""
        embeddings = self.language.get_input_embeddings()(ids)
        if features is None:
            return embeddings
        return embeddings.masked_scatter((ids == self.context_id).unsqueeze(-1), features.to(embeddings.dtype))

    def hidden(self, ids: Tensor, images: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """Final hidden states [B, L, A]; right padding is harmless to the real tokens (causal)."""
        features = self.encoder(images) if images is not None else None
        return self.read(ids, features, None if images is None else images.shape[-2:], mask)

    def read(self, ids: Tensor, features: Tensor | None, size, mask: Tensor | None = None, positions=None) -> Tensor:
        """Final hidden states from image features [B, hw, A].  ``size``: height and width of the images behind them,
        None without; ``mask``: bool [B, L] of real tokens, or additive [B, 1, L, L]; ``positions`` int64 [B, L], the
        running ones where None."""
        shown = ids == self.context_id
        inputs = {"inputs_embeds": self.embed(ids, features), "attention_mask": mask, "use_cache": False}
        if positions is not None:
            inputs["position_ids"] = positions
        elif self.mrope and features is not None:
            inputs["position_ids"] = self.family.positions(shown, tuple(side // self.encoder.stride for side in size))
        return self.family.read(self.hf, inputs, shown)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.hf.lm_head(hidden)

    # ---- use

    @torch.no_grad()
    def answer(self, images: Tensor, questions: list[str], max_words: int = 2) -> list[str]:
        """Greedy answers, one question per image [N, 3, H, W], or N about one image [1, 3, H, W], which is encoded and
        read once where the family allows it; each stops at the end of its turn."""
        rows, stops = [self.ids(self.question(text)) for text in questions], self.stops
        asked = [len(row) for row in rows]
        features, size = self.encoder(images), images.shape[-2:]
        shared = _shared(rows) if len(features) == 1 and len(rows) > 1 and self._packs else 0
        last = self._last_packed if self.context_id in rows[0][:shared] else self._last_padded
        for _ in range(max_words):
            logits = self.logits(last(rows, shared, features, size))
            logits[:, self.context_id] = -torch.inf  # a place for an image, no word
            tokens = logits.argmax(-1).tolist()
            rows = [
                row if len(row) > n and row[-1] in stops else [*row, t]
                for row, t, n in zip(rows, tokens, asked, strict=True)
            ]
        return [
            self.tokenizer.decode(row[n:], skip_special_tokens=True).strip() for row, n in zip(rows, asked, strict=True)
        ]

    @property
    def _packs(self) -> bool:
        """Whether questions can stand behind one image: running positions, and a mask that is ours."""
        return self.family.read is read and not self.mrope

    def _last_padded(self, rows: list[list[int]], shared: int, features: Tensor, size) -> Tensor:
        """Hidden state [N, A] of the last token of every row."""
        device, pad, longest = features.device, self.tokenizer.pad_token_id or 0, max(map(len, rows))
        features = features.expand(len(rows), *features.shape[1:]) if len(features) == 1 else features
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=device)
        last = torch.tensor([len(row) - 1 for row in rows], device=device)
        return self.read(ids, features, size)[torch.arange(len(rows), device=device), last]  # right pads: causal

    def _last_packed(self, rows: list[list[int]], shared: int, features: Tensor, size) -> Tensor:
        """The same from one row: the first ``shared`` tokens, the image among them, once, then the rest of every row,
        each of which sees the beginning and itself."""
        device, ends = features.device, [row[shared:] for row in rows]
        ids = torch.tensor([rows[0][:shared] + [token for end in ends for token in end]], device=device)
        turns = [0] * shared + [turn for turn, end in enumerate(ends, 1) for _ in end]
        turns = torch.tensor([turns], device=device)
        mask = additive(turns_mask(turns), features.dtype)
        last = torch.tensor([len(end) for end in ends], device=device).cumsum(0) + shared - 1
        return self.read(ids, features, size, mask, turns_positions(turns))[0, last]


def _shared(rows: list[list[int]]) -> int:
    """How many tokens all rows begin with, of which every row has one more."""
    columns = enumerate(zip(*(row[:-1] for row in rows), strict=False))
    return next((k for k, column in columns if len(set(column)) > 1), min(map(len, rows)) - 1)


def _turn(role: str, text: str, image: bool = False) -> dict[str, Any]:
    parts = [{"type": "image"}] if image else []
    return {"role": role, "content": [*parts, {"type": "text", "text": text}]}


def _rendered(tokenizer, turns: list[dict[str, Any]], ask: bool) -> str | None:
    """The turns by the tokenizer's chat template; None where it has none, or one for text alone."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=ask)
    except (TypeError, ValueError, TemplateError):  # it cannot read content in parts
        return None
