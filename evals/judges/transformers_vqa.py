"""Judges from transformers, by local folder: ``blip:<folder>`` (BlipForQuestionAnswering) and ``vlm:<folder>`` (any
image-text-to-text model: Qwen2.5-VL, InternVL, ...).  Greedy; the first token's logits give P(yes) / (P(yes) + P(no))
(docs/evaluators.md 3.4).

Nothing is downloaded, no code of a checkpoint is run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from evals.engine.precision import PRECISION, full_float32
from evals.judges import YES_NO
from evals.judges.answering import Reply
from evals.judges.checkpoints import checked, fingerprint_all, opened, opened_model

WORDS = 10  # new tokens an answer may have


def word_ids(tokenizer: Any, word: str) -> list[int]:
    """Ids of the single tokens that say ``word``: "yes", "Yes", "YES", each with and without a space before."""
    found = set()
    for text in (word, word.capitalize(), word.upper()):
        for form in (text, f" {text}"):
            ids = tokenizer(form, add_special_tokens=False).input_ids
            if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
                found.add(ids[0])
    return sorted(found)


def yes_shares(logits: torch.Tensor, yes: Sequence[int], no: Sequence[int]) -> list[float | None]:
    """P(yes) / (P(yes) + P(no)) of the first token; logits [B, V], the probabilities of a word's tokens added.
    None where the tokenizer has no token for one of them."""
    if not yes or not no:
        return [None] * len(logits)
    wide = logits.double()
    lead = wide[:, list(yes)].logsumexp(-1) - wide[:, list(no)].logsumexp(-1)
    return torch.sigmoid(lead).tolist()


class Transformers:
    """An Answerer over a transformers model.  Subclasses say how a batch of questions becomes the model's inputs.
    ``batch``: questions about one image that are computed together."""

    batch = 16
    params = PRECISION

    def __init__(self, name: str, folder: Path, model: Any, processor: Any, device: str, use: str = ""):
        self.name, self.folder, self.processor, self.device, self.use = name, folder, processor, device, use
        self.model = model.eval().requires_grad_(False).to(device)
        self.yes, self.no = (word_ids(processor.tokenizer, word) for word in ("yes", "no"))

    @cached_property
    def fingerprint(self) -> str:
        kind, dtype = type(self.model).__name__, str(self.model.dtype)
        return fingerprint_all(self.folder, kind, dtype, self.use, f"greedy {WORDS}, batches of {self.batch}")

    def inputs(self, image: Image.Image, questions: list[str]) -> dict:
        """Model inputs for some questions about one image."""
        raise NotImplementedError

    def answer(self, image: np.ndarray, question: str) -> str:
        """uint8 [H, W, 3] and a question -> the raw answer."""
        return self.replies(image, [question])[0].text

    @full_float32()
    @torch.no_grad()
    def replies(self, image: np.ndarray, questions: Sequence[str]) -> list[Reply]:
        """One Reply a question; the batches depend on the list of questions alone."""
        shown = Image.fromarray(np.asarray(image))
        found: list[Reply] = []
        for start in range(0, len(questions), self.batch):
            inputs = self.inputs(shown, list(questions[start : start + self.batch])).to(self.device)
            inputs = {k: v.to(self.model.dtype) if v.is_floating_point() else v for k, v in inputs.items()}
            asked = {"do_sample": False, "num_beams": 1, "max_new_tokens": WORDS}
            out = self.model.generate(**inputs, **asked, return_dict_in_generate=True, output_logits=True)
            new = out.sequences[:, -len(out.logits) :]
            texts = self.processor.tokenizer.batch_decode(new, skip_special_tokens=True)
            shares = yes_shares(out.logits[0], self.yes, self.no)
            found += [Reply(text.strip(), share) for text, share in zip(texts, shares, strict=True)]
        return found


class Blip(Transformers):
    """BLIP's VQA: the question is the encoder's text, the answer the decoder's.  One question at a time: transformers'
    ``generate`` lets the decoder attend to the padding of shorter questions."""

    batch = 1

    def inputs(self, image: Image.Image, questions: list[str]):
        return self.processor(images=[image] * len(questions), text=questions, return_tensors="pt")


class Chat(Transformers):
    """A chat model: one user turn with the image, the question and the instruction ``use``."""

    def inputs(self, image: Image.Image, questions: list[str]):
        turns = [
            [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]
            for text in (f"{question} {self.use}".strip() for question in questions)
        ]
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
        return self.processor.apply_chat_template(turns, padding=True, **options)


def _loaded(make, folder: Path, device: str, dtype: torch.dtype):
    """Model and processor from a folder alone.  Raises ValueError for a checkpoint of another kind."""
    from transformers import AutoProcessor

    model, report = opened_model(make, folder, dtype=dtype)
    processor = opened(AutoProcessor, folder)
    if report["missing_keys"] or report["mismatched_keys"]:
        lost = sorted([*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])])
        raise ValueError(
            f"{folder} lacks the weights of {lost[0]} ({len(lost)} in all); it is no {make.__name__} model"
        )
    return model, processor


def blip(folder: str | Path, device: str = "cpu") -> Blip:
    """``blip:<folder>``.  Raises ValueError where files are missing or of another model."""
    from transformers import BlipForQuestionAnswering

    path = checked(folder, "blip")
    return Blip(f"blip-{path.name}", path, *_loaded(BlipForQuestionAnswering, path, device, torch.float32), device)


def vlm(folder: str | Path, device: str = "cpu", say: str = YES_NO) -> Chat:
    """``vlm:<folder>``; ``say``: the instruction after each question.  fp32 on the CPU, bfloat16 elsewhere.

    Raises ValueError where files are missing, for another kind of model and for one without a chat template."""
    from transformers import AutoModelForImageTextToText

    path = checked(folder, "vlm")
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model, processor = _loaded(AutoModelForImageTextToText, path, device, dtype)
    if not getattr(processor, "chat_template", None):
        raise ValueError(f"{path} has no chat template; give an instruction-tuned model's folder")
    processor.tokenizer.padding_side = "left"  # answers of different questions start at the same place
    return Chat(f"vlm-{path.name}", path, model, processor, device, say)
