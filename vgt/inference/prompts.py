"""What a pipeline is asked for: prompts within the token budget, one seed per image."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Sequence
from numbers import Integral

import torch

from vgt.core.seeds import image_seed
from vgt.vlm import prompts

TOKEN_BUDGET = 256  # templated prompt; training knows no longer ones (docs/vgt.md 2.2)

Seeds = int | torch.Generator | Sequence[int | torch.Generator] | None


def prompt_list(prompt: str | Sequence[str]) -> list[str]:
    """One or more prompts as a list.  Raises ValueError where there is none, or an empty one."""
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not texts:
        raise ValueError("no prompt; give a text or a list of texts")
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"prompt {place} is a {type(text).__name__}, not a text")
        if not text.strip():
            raise ValueError(f"prompt {place} is empty; describe the image")
    return texts


def within_budget(tokenizer, caption: str, budget: int = TOKEN_BUDGET, truncate: bool = False) -> str:
    """``caption`` if its templated prompt has at most ``budget`` tokens; a longer one loses words at its end with
    ``truncate``, so that the template stays whole (docs/vgt.md 3.2, D21).

    Raises ValueError naming the count for one that is too long, or for a budget below the template's own length."""
    count = prompts.length(tokenizer, caption)
    if count <= budget:
        return caption
    if not truncate:
        raise ValueError(
            f"prompt of {count} tokens is longer than the {budget} that the model was trained with "
            f"({caption.strip()[:40]!r}...); shorten it or give truncate=True"
        )
    kept, _ = prompts.fit(tokenizer, caption, budget)
    if not kept:
        least = prompts.length(tokenizer, "")
        raise ValueError(f"a budget of {budget} tokens leaves no room for a caption; the template has {least}")
    return kept


def image_seeds(generator: Seeds, asked: Sequence[str]) -> list[int]:
    """One seed per image; ``asked`` names the prompt of each.

    An integer: ``image_seed(generator, prompt, k)`` for the k-th image of that prompt, as ``vgt generate`` does.  A
    torch.Generator: drawn from it.  A list: one per image, integers as they are.  None: drawn by the system.
    Raises ValueError for a list of another length or something else."""
    if generator is None:
        return [secrets.randbits(63) for _ in asked]
    if isinstance(generator, Integral) and not isinstance(generator, bool):
        seen: Counter[str] = Counter()
        seeds = []
        for prompt in asked:
            seeds.append(image_seed(int(generator), prompt, seen[prompt]))
            seen[prompt] += 1
        return seeds
    if isinstance(generator, torch.Generator):
        return [_draw(generator) for _ in asked]
    if not isinstance(generator, Sequence) or isinstance(generator, str):
        raise ValueError(
            f"generator is a {type(generator).__name__}; give an integer, a torch.Generator or a list of them"
        )
    if len(generator) != len(asked):
        raise ValueError(f"{len(generator)} generators for {len(asked)} images; give one per image, or a single one")
    for item in generator:
        if not isinstance(item, (Integral, torch.Generator)) or isinstance(item, bool):
            raise ValueError(f"generator {item!r} is a {type(item).__name__}; give integers or torch.Generators")
    return [_draw(item) if isinstance(item, torch.Generator) else int(item) for item in generator]


def _draw(rng: torch.Generator) -> int:
    return int(torch.randint(2**63 - 1, (1,), generator=rng, device=rng.device))
