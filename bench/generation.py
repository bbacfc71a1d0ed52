"""Timing of text to image: the work, what it consists of, and where its time goes (docs/decode.md).

The timed call is ``vgt.inference.generator.generate``: prompts in, uint8 images out, the autoencoder's decoding
included.  It is made with the decode engine, or with the reference implementation ("eager": cached, one call of the flow head per
evaluation, nothing hoisted, no graphs).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from bench import roofline
from bench.conditions import Conditions
from bench.limits import Limits
from bench.subjects import Subject
from vgt.core import files, suites
from vgt.core.seeds import image_seed
from vgt.inference.engine import Engine
from vgt.inference.generator import Decode, eager, generate, latents, pixels
from vgt.inference.images import to_uint8
from vgt.methods import registry
from vgt.methods.sampling import Sampling
from vgt.vlm.prompts import tokenize

PARTS = roofline.PHASES


def workload(batch: int, seed: int = 0) -> tuple[list[str], list[int]]:
    """``batch`` prompts of the synthetic scenes, the six GenEval tasks in turn, and a seed for each."""
    per_task = max(1, -(-batch // 6))
    records = suites.geneval_prompts(per_task=per_task)
    tasks = [records[k : k + per_task] for k in range(0, len(records), per_task)]
    chosen = [record for same in zip(*tasks, strict=True) for record in same][:batch]
    return [r["prompt"] for r in chosen], [image_seed(seed, "bench", r["id"]) for r in chosen]


def workload_hash(batch: int, seed: int = 0) -> str:
    return files.digest_json(workload(batch, seed))


class _Enough(Exception):
    """The decode steps that were asked for are done."""


def _stop_after(steps: int) -> Callable[..., None]:
    """An ``on_step`` that ends decoding after so many steps."""
    left = iter(range(steps - 1))

    def on_step(*_) -> None:
        if next(left, None) is None:
            raise _Enough

    return on_step


def call(subject: Subject, settings: Sampling, how: Conditions, decode: Decode | None) -> Callable[[], object]:
    """What is timed: one batch of images, ``how.flights`` batches, or the first decode steps of one."""
    prompts, seeds = workload(how.batch * how.flights, how.seed)
    model, ae, words, steps = subject.model, subject.ae, subject.tokenizer, how.steps

    def first_steps() -> None:
        with contextlib.suppress(_Enough):
            latents(model, words, prompts, seeds, settings, _stop_after(steps), decode)

    def in_flight() -> list:
        parts = [slice(k, k + how.batch) for k in range(0, len(prompts), how.batch)]
        made = [pixels(ae, latents(model, words, prompts[p], seeds[p], settings, decode=decode)) for p in parts]
        return [to_uint8(x) for x in made]

    def whole():
        return generate(model, ae, words, prompts, seeds, settings, decode=decode)

    return first_steps if steps is not None else in_flight if how.flights > 1 else whole


def loops(subject: Subject, settings: Sampling, how: Conditions) -> dict[str, Decode | None]:
    """What decodes, by operation: the engine as "generate", and the reference implementation as "eager" where it is asked for.

    Raises ValueError for a comparison with the published way of decoding, which has no engine."""
    if settings.compat != "none":
        if how.eager:
            raise ValueError(f"compat {settings.compat!r} decodes by one loop; there is no engine to time against it")
        return {"generate": None}
    return {"generate": subject.engine, **({"eager": eager(subject.model)} if how.eager else {})}


def prime(subject: Subject, settings: Sampling, how: Conditions, decode: Decode | None) -> None:
    """Touch all code once in a single decode step, so that what libraries set up at first use is counted nowhere."""
    update = {"acceleration": subject.model.tokens, "flow_steps": 3}
    quick = Conditions(how.batch, seed=how.seed)
    call(subject, settings.model_copy(update=update), quick if how.steps is None else how, decode)()


# ------------------------------------------------------------------------------------------------------ counts


def prompt_tokens(subject: Subject, how: Conditions) -> int:
    """Tokens of a templated prompt, mean over the batch, rounded."""
    mask = tokenize(subject.tokenizer, workload(how.batch, how.seed)[0])[1]
    return round(float(mask.sum(1).float().mean()))


def counts(method: str, tokens: int, settings: Sampling, steps: int | None = None) -> dict[str, int]:
    """Language-model and flow-head work of one image with ``tokens`` latents behind its prompt, from formulas.

    A QueryAR step reads its m queries and what the step before left to read: one latent at m = 1, where the query
    stays in the cache, else m (query, latent) pairs (docs/vgt.md 2.12).  A MAR step reads all tokens (docs/mar.md 3).
    Steps and calls serve all images of a batch together; tokens and evaluations are of one image, both branches."""
    loop = registry.get(method).part("loop")
    drawn = loop.sizes(tokens, settings)[:steps]
    read = tokens * len(drawn) if loop.rereads else sum(drawn) + sum(roofline.left_over(drawn))
    branches = 2 if settings.guidance != 1 else 1
    return {
        "decode_steps": len(drawn),
        "language_model_tokens_per_image": branches * read,
        "head_calls": len(drawn) * settings.flow_steps,
        "head_evaluations_per_image": branches * sum(drawn) * settings.flow_steps,
    }


def floor(subject: Subject, settings: Sampling, how: Conditions, limits: Limits) -> roofline.Floor:
    """The least time of an image under these conditions (roofline.py)."""
    weight = next(subject.model.parameters())
    decoding = roofline.Decoding(
        method=subject.system,
        batch=how.batch,
        acceleration=settings.acceleration,
        text=prompt_tokens(subject, how),
        evaluations=settings.flow_steps,
        copies=2 if settings.guidance != 1 else 1,
        bytes=weight.dtype.itemsize,
        mar_schedule=settings.mar_schedule,
        steps=how.steps,
    )
    image = roofline.image(subject.ae, subject.model.config.latent_grid)
    return roofline.floor(roofline.sizes(subject.model), decoding, limits, image)


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


@contextlib.contextmanager
def _without_graphs(engine: Engine) -> Iterator[None]:
    """A captured step has no parts."""
    graphs, engine.graphs = engine.graphs, False
    try:
        yield
    finally:
        engine.graphs = graphs


def split(
    subject: Subject,
    work: Callable[[], object],
    batch: int,
    synchronize: Callable[[], None],
    decode: Decode | None = None,
) -> dict[str, float]:
    """Milliseconds an image of one batch in which each part is clocked: prefill, language_model, head, decode, the
    rest as other, and their total.  ``decode``: what ``work`` decodes with.  Where the clocking waits for a device,
    the total is above the unclocked time; an engine runs without graphs."""
    seconds: dict[str, list[float]] = {part: [] for part in PARTS}
    model, text, steps = subject.model, seconds["prefill"], seconds["language_model"]
    clocked = [(subject.ae, "decode", seconds["decode"].append)]
    if isinstance(decode, Engine):
        clocked += [(decode, "prefill", text.append), (decode, "read", steps.append)]
        clocked += [(decode, "head", seconds["head"].append)]
    else:  # the first reading of the language model is the text; all others are decode steps
        clocked += [(model, "read", lambda s: (steps if text else text).append(s))]
        clocked += [(model.image_head, "sample", seconds["head"].append)]
    with contextlib.ExitStack() as clocks:
        if isinstance(decode, Engine):
            clocks.enter_context(_without_graphs(decode))
        for owner, method, note in clocked:
            clocks.enter_context(_clocked(owner, method, synchronize, note))
        synchronize()
        start = time.perf_counter()
        work()
        synchronize()
        total = time.perf_counter() - start
    parts = {part: sum(found) for part, found in seconds.items()}
    parts |= {"other": total - sum(parts.values()), "total": total}
    return {part: 1000 * s / batch for part, s in parts.items()}
