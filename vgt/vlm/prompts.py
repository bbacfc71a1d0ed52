"""Prompts of a generator: the chat template around a caption, as tokens, within a budget (docs/vgt.md 2.2 and D21).

Shapes: B rows, L padded text length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vgt.vlm.tokenizer import TURN_END, TURN_START

if TYPE_CHECKING:
    from torch import Tensor

UNCONDITIONAL = "Generate an image."
TOKEN_BUDGET = 256  # templated prompt; training knows no longer ones (docs/vgt.md 2.2)
_LONGEST = 64  # characters that a token may stand for in prose; what is longer is cut before it is measured
_ROOM = 8  # tokens: more than any single letter takes


def template(text: str) -> str:
    """The chat template around one user turn (docs/vgt.md 2.2)."""
    return f"{TURN_START}user\n{text}{TURN_END}\n{TURN_START}assistant\n"


def conditional(caption: str) -> str:
    """The prompt of a caption."""
    return template(f"Generate an image: {caption.strip()}")


def tokenize(tokenizer, captions: Sequence[str | None], device=None) -> tuple[Tensor, Tensor]:
    """Templated prompts, right padded: ids [B, L] and bool mask of real tokens.  None is the unconditional prompt."""
    texts = [conditional(c) if c is not None else template(UNCONDITIONAL) for c in captions]
    found = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    return found.input_ids.to(device), found.attention_mask.bool().to(device)


def length(tokenizer, caption: str) -> int:
    """Tokens of the templated prompt of ``caption``."""
    return len(tokenizer(conditional(caption)).input_ids)


def check(tokenizer, budget: int) -> None:
    """Raises ValueError for a budget that the template alone fills."""
    least = length(tokenizer, "") + _ROOM
    if budget < least:
        raise ValueError(f"data.caption_tokens = {budget} leaves no room for captions; set {least} or more")


def fit(tokenizer, caption: str, budget: int) -> tuple[str, bool]:
    """(caption whose templated prompt has at most ``budget`` tokens, whether it was cut).

    The caption is cut, at its end and between words where it has any; the template stays whole, so the model sees the
    assistant's header also after a long caption.  ``check`` the budget first."""
    if len(caption) <= _LONGEST * budget and length(tokenizer, caption) <= budget:
        return caption, False
    fits, over = 0, min(len(caption), _LONGEST * budget) + 1
    while over - fits > 1:
        middle = (fits + over) // 2
        if length(tokenizer, caption[:middle]) <= budget:
            fits = middle
        else:
            over = middle
    cut = caption[:fits]
    if cut and not cut[-1].isspace():  # the template strips, so that the cut falls behind a space or within a word
        cut = cut.rsplit(None, 1)[0]
    return cut.strip(), True


def markup(tokenizer) -> tuple[str, ...]:
    """Strings that the tokenizer reads as special tokens wherever they stand: a caption must not hold one."""
    return tuple(tokenizer.get_added_vocab())


def within_budget(tokenizer, caption: str, budget: int = TOKEN_BUDGET, truncate: bool = False) -> str:
    """``caption`` if its templated prompt has at most ``budget`` tokens; a longer one loses words at its end with
    ``truncate``, so that the template stays whole (docs/vgt.md 3.2, D21).

    Raises ValueError naming the count for one that is too long, or for a budget below the template's own length."""
    count = length(tokenizer, caption)
    if count <= budget:
        return caption
    if not truncate:
        raise ValueError(
            f"prompt of {count} tokens is longer than the {budget} that the model was trained with "
            f"({caption.strip()[:40]!r}...); shorten it or give truncate=True"
        )
    kept, _ = fit(tokenizer, caption, budget)
    if not kept:
        least = length(tokenizer, "")
        raise ValueError(f"a budget of {budget} tokens leaves no room for a caption; the template has {least}")
    return kept


def prompt_list(prompt: str | Sequence[str]) -> list[str]:
    """One or more prompts as a list.  Raises ValueError where there is none, an empty one, or one that is no Unicode
    text (half a surrogate pair, or bytes of an argument that are not UTF-8)."""
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not texts:
        raise ValueError("no prompt; give a text or a list of texts")
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"prompt {place} is a {type(text).__name__}, not a text")
        if not text.strip():
            raise ValueError(f"prompt {place} is empty; describe the image")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ValueError(f"prompt {place} is not valid UTF-8 ({text[:60]!a}); give it in that encoding")
    return texts
