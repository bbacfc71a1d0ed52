"""Captions that fit the token budget of the prompt (docs/vgt.md 2.2 and D21)."""

from __future__ import annotations

from vgt.methods.visual_lm import conditional

_LONGEST = 64  # characters that a token may stand for in prose; what is longer is cut before it is measured
_ROOM = 8  # tokens: more than any single letter takes


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
