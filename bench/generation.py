"""Timing of text to picture: the work, what it consists of, and where its time goes (spec decode_engine).

The timed call is ``vgt.inference.generator.generate``: prompts in, uint8 pictures out, the autoencoder's decoding
included.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import numpy as np

from bench.subjects import Subject
from vgt.core import files, suites
from vgt.core.seeds import image_seed
from vgt.equations.order import cosine_sizes, group_sizes
from vgt.inference.generator import generate
from vgt.models.sampling import TINY, Sampling
from vgt.models.visual_lm import tokenize

SETTINGS = Sampling(**TINY)
PARTS = ("prefill", "language_model", "head", "decode")


def workload(batch: int, seed: int = 0) -> tuple[list[str], list[int]]:
    """``batch`` prompts of the embedded world, the six GenEval tasks in turn, and a seed for each."""
    per_task = max(1, -(-batch // 6))
    records = suites.geneval_prompts(per_task=per_task)
    tasks = [records[k : k + per_task] for k in range(0, len(records), per_task)]
    chosen = [record for same in zip(*tasks, strict=True) for record in same][:batch]
    return [r["prompt"] for r in chosen], [image_seed(seed, "bench", r["id"]) for r in chosen]


def workload_hash(batch: int, seed: int = 0) -> str:
    return files.digest_json(workload(batch, seed))


def call(subject: Subject, settings: Sampling, batch: int, seed: int = 0) -> Callable[[], np.ndarray]:
    """One batch of pictures: what is timed."""
    prompts, seeds = workload(batch, seed)
    return lambda: generate(subject.model, subject.ae, subject.tokenizer, prompts, seeds, settings)


def prime(subject: Subject, settings: Sampling, batch: int) -> None:
    """Touch all code once in a single decode step, so that what libraries set up at first use is counted nowhere."""
    call(subject, settings.model_copy(update={"acceleration": subject.model.tokens, "flow_steps": 2}), batch)()


# ------------------------------------------------------------------------------------------------------ counts


def prefix_length(subject: Subject, settings: Sampling, batch: int, seed: int = 0) -> int:
    """Padded text and start tokens of a row."""
    prompts, _ = workload(batch, seed)
    rows: list[str | None] = [*prompts, *([None] if settings.guidance != 1 else [])]
    return tokenize(subject.tokenizer, rows)[0].shape[1] + len(subject.model.config.start_ids)


def counts(method: str, tokens: int, prefix: int, settings: Sampling) -> dict[str, int]:
    """Language-model and flow-head work of one image with ``tokens`` latents, pads counted, from formulas.

    A QueryAR step reads its m queries and what the step before left to read: one latent at m = 1, where the query
    stays in the cache, else m (query, latent) pairs (spec vgt 2.12).  A MAR step reads all tokens (spec mar 3).
    Steps and calls serve all images of a batch together; tokens and evaluations are of one image, both branches."""
    sizes = group_sizes(tokens, settings.acceleration)
    if method == "mar" and settings.mar_schedule == "cosine":
        sizes = cosine_sizes(tokens, len(sizes))
    left = [1 if m == 1 else 2 * m for m in sizes[:-1]]
    read = tokens * len(sizes) if method == "mar" else sum(sizes) + sum(left)
    branches = 2 if settings.guidance != 1 else 1
    return {
        "decode_steps": len(sizes),
        "language_model_calls": 1 + len(sizes),
        "language_model_tokens_per_image": branches * (prefix + read),
        "head_calls": len(sizes) * settings.flow_steps,
        "head_evaluations_per_image": branches * tokens * settings.flow_steps,
    }


# -------------------------------------------------------------------------------------------------- time split


@contextlib.contextmanager
def _clocked(owner, method: str, synchronize: Callable[[], None], note: Callable[[float], None]) -> Iterator[None]:
    """Within the block, ``owner.method`` reports the seconds of each of its calls."""
    original = getattr(owner, method)

    def timed(*args, **kwargs):
        synchronize()
        start = time.perf_counter()
        result = original(*args, **kwargs)
        synchronize()
        note(time.perf_counter() - start)
        return result

    setattr(owner, method, timed)  # on the instance, in front of the class's own
    try:
        yield
    finally:
        delattr(owner, method)


def split(
    subject: Subject, work: Callable[[], object], batch: int, synchronize: Callable[[], None]
) -> dict[str, float]:
    """Milliseconds an image of one batch in which each part is clocked: prefill, language_model, head, decode, the
    rest as other, and their total.  Where the clocking waits for a device, the total is above the unclocked time."""
    reads: list[float] = []
    heads: list[float] = []
    decodes: list[float] = []
    model = subject.model
    with (
        _clocked(model, "read", synchronize, reads.append),
        _clocked(model.image_head, "sample", synchronize, heads.append),
        _clocked(subject.ae, "decode", synchronize, decodes.append),
    ):
        synchronize()
        start = time.perf_counter()
        work()
        synchronize()
        total = time.perf_counter() - start
    # The first reading of the language model is the text; all others are decode steps.
    seconds = dict(zip(PARTS, (reads[0], sum(reads[1:]), sum(heads), sum(decodes)), strict=True))
    seconds |= {"other": total - sum(seconds.values()), "total": total}
    return {part: 1000 * s / batch for part, s in seconds.items()}
