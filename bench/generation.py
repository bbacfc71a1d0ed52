"""Timing of generators: the work, what it consists of, and where its time goes (docs/decode.md).

The timed call is prompts (or labels) in, uint8 images out, the autoencoder's decoding included: by the system's own
``generate``, or where the decode engine knows the system by that, and by the reference implementation ("eager": cached,
one call of the flow head per evaluation, nothing hoisted, no graphs).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch

from bench import roofline, sources
from bench.roofline import Limits
from bench.subjects import Subject
from bench.timing import Call
from bench.workloads import RANDOM_NOTE, TIMED, Conditions, Workload, parameters, precision
from vgt.core import files, suites
from vgt.core.seeds import image_seed
from vgt.inference.engine import Engine
from vgt.inference.generator import Decode, eager, generate, latents, pixels
from vgt.inference.images import to_uint8
from vgt.methods import registry
from vgt.methods.sampling import Sampling
from vgt.vlm.prompts import tokenize

PARTS = roofline.PHASES
TIMED_GENERATION = ("bench.generation", "vgt.inference.generator")


def workload(batch: int, seed: int = 0) -> tuple[list[str], list[int]]:
    """``batch`` prompts of the synthetic scenes, the six GenEval tasks in turn, and a seed for each."""
    per_task = max(1, -(-batch // 6))
    records = suites.geneval_prompts(per_task=per_task)
    tasks = [records[k : k + per_task] for k in range(0, len(records), per_task)]
    chosen = [record for same in zip(*tasks, strict=True) for record in same][:batch]
    return [r["prompt"] for r in chosen], [image_seed(seed, "bench", r["id"]) for r in chosen]


def workload_hash(batch: int, seed: int = 0) -> str:
    return files.digest_json(workload(batch, seed))


def counts(method: str, tokens: int, settings: Sampling, steps: int | None = None) -> dict[str, int]:
    """Language-model and flow-head work of one image with ``tokens`` latents behind its prompt, from formulas.

    A QueryAR step reads its m queries and what the step before left to read: one latent at m = 1, where the query
    stays in the cache, else m (query, latent) pairs (docs/vgt.md 2.12).  A MAR step reads all tokens (docs/mar.md 3).
    Steps and calls serve all images of a batch together; tokens and evaluations are of one image, both branches."""
    loop = registry.get(method).part("loop")
    sizes = loop.sizes(tokens, settings)
    made, evaluations = sizes[:steps], settings.evaluations(sizes)[:steps]
    read = tokens * len(made) if loop.rereads else sum(made) + sum(roofline.left_over(made))
    branches = 2 if settings.guidance != 1 else 1
    return {
        "decode_steps": len(made),
        "language_model_tokens_per_image": branches * read,
        "head_calls": sum(evaluations),
        "head_evaluations_per_image": branches * sum(m * k for m, k in zip(made, evaluations, strict=True)),
    }


class _Enough(Exception):
    """The decode steps that were asked for are done."""


def _stop_after(steps: int) -> Callable[..., None]:
    """An ``on_step`` that ends decoding after so many steps."""
    left = iter(range(steps - 1))

    def on_step(*_) -> None:
        if next(left, None) is None:
            raise _Enough

    return on_step


def call(subject: Subject, settings: Sampling, how: Conditions, decode: Decode | None) -> Call:
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


def prime(subject: Subject, settings: Sampling, how: Conditions, decode: Decode | None) -> None:
    """Touch all code once in a single decode step, so that what libraries set up at first use is counted nowhere."""
    update = {"acceleration": subject.model.tokens, "flow_steps": 3, "flow_budget": "constant"}
    quick = Conditions(how.batch, seed=how.seed)
    call(subject, settings.model_copy(update=update), quick if how.steps is None else how, decode)()


@dataclass(frozen=True, eq=False)
class Generation(Workload):
    """One generator at one acceleration under ``conditions``, by its system's own ``generate``.

    Raises ValueError for settings and an acceleration that the model does not allow, and for what only a decode engine
    has."""

    subject: Subject
    conditions: Conditions
    acceleration: int

    operations = ("generate",)
    metrics = ("images-per-second", "ms-per-image", "energy-mj-per-image", "peak-memory-mib")

    def __post_init__(self) -> None:
        how = self.conditions
        _ = self.settings
        if how.eager or how.steps is not None:
            raise ValueError(
                f"{self.subject.name} has no decode engine: it is timed as it is; leave --against and --steps out"
            )

    @cached_property
    def settings(self) -> Any:
        given = self.conditions.settings | {"acceleration": self.acceleration}
        return self.subject.system.part("sampling").of(self.subject.model, given)

    @property
    def group(self) -> tuple:
        return (self.acceleration, self.conditions.suite)

    @property
    def protocol(self) -> str:
        return f"throughput-b{self.conditions.batch}"

    def described(self) -> dict:
        how, found, settings = self.conditions, self.subject, self.settings
        notes = (RANDOM_NOTE if found.weights == "random" else None, settings.note(found.model))
        return {
            "subject": found.name + settings.suffix(found.model.tokens),
            "accel": self.acceleration,
            "suite": how.suite,
            "protocol": self.protocol,
            "protocol_params": parameters(
                how,
                **settings.model_dump(),
                mode=how.mode,
                steps=how.steps,
                warmup=how.warmup,
                dtype=precision(found.dtype),
                weights=found.weights,
            ),
            "fingerprint": found.fingerprint,
            "origin": found.origin,
            "suite_hash": workload_hash(how.batch * how.flights, how.seed),
            "seed": how.seed,
            "note": "; ".join(filter(None, notes)) or None,
        }

    def code(self) -> str:
        own = [getattr(self.subject.system, part).partition(":")[0] for part in ("model", "generator")]
        return sources.code((*TIMED, *TIMED_GENERATION, *own))

    def facts(self) -> dict:
        return {"autoencoder": self.subject.ae_name}

    def calls(self) -> dict[str, Call]:
        how, found = self.conditions, self.subject
        made = found.system.part("generator")(found.loaded, found.decoder, self.settings)
        asked, seeds = workload(how.batch * how.flights, how.seed)
        if found.system.condition == "label":
            asked = [k % len(found.model.config.classes) for k in range(len(asked))]
        parts = [slice(k, k + how.batch) for k in range(0, len(asked), how.batch)]
        return {"generate": lambda: [made.generate(asked[p], seeds[p]) for p in parts]}

    def items(self, operation: str) -> int:
        return self.conditions.batch * self.conditions.flights


@dataclass(frozen=True, eq=False)
class EngineGeneration(Generation):
    """A generator that the decode engine runs, which is timed; perhaps beside the reference implementation.

    Raises ValueError for an acceleration that its tokens do not allow, for first decode steps that are all of them, and
    for a comparison with the published way of decoding, which has no engine."""

    def __post_init__(self) -> None:
        how, found = self.conditions, self.subject
        if how.steps is not None and how.steps >= self.steps:
            raise ValueError(
                f"{found.name} at {self.acceleration}x has {self.steps} decode steps, so the first {how.steps} are no "
                "part of them; give fewer --steps, or leave it out"
            )
        if self.settings.compat != "none" and how.eager:
            raise ValueError(
                f"compat {self.settings.compat!r} decodes by one loop; there is no engine to time against it"
            )

    @property
    def steps(self) -> int:
        """Decode steps of a whole image."""
        return counts(self.subject.system.name, self.subject.model.tokens, self.settings)["decode_steps"]

    @property
    def operations(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("generate", "eager") if self.conditions.eager else ("generate",)

    @property
    def metrics(self) -> tuple[str, ...]:  # type: ignore[override]
        eager_too, whole = self.conditions.eager, self.conditions.steps is None
        return (
            *(("images-per-second",) if whole else ()),
            "ms-per-image",
            *(("eager-ms-per-image", "speedup-over-eager") if eager_too else ()),
            "floor-ms-per-image",
            *(("energy-mj-per-image",) if whole else ()),
            "peak-memory-mib",
        )

    @property
    def protocol(self) -> str:
        return f"throughput-b{self.conditions.batch}-k{self.settings.flow_steps}"

    def described(self) -> dict:
        found, n = super().described(), self.conditions.steps
        if n is not None:
            part = f"the first {n} of {self.steps} decode steps, no image: not the time of an image"
            found["note"] = "; ".join(filter(None, (found["note"], part)))
        return found

    def facts(self) -> dict:
        model, settings = self.subject.model, self.settings
        found = counts(self.subject.system.name, model.tokens, settings, self.conditions.steps)
        found["prompt_tokens"] = self._prompt_tokens()
        notes = list(getattr(self.loop("generate"), "notes", []))
        return {"autoencoder": self.subject.ae_name, "counts": found, "decode_steps": self.steps, "notes": notes}

    def _prompt_tokens(self) -> int:
        """Tokens of a templated prompt, mean over the batch, rounded."""
        mask = tokenize(self.subject.tokenizer, workload(self.conditions.batch, self.conditions.seed)[0])[1]
        return round(float(mask.sum(1).float().mean()))

    def loop(self, operation: str) -> Decode | None:
        """What decodes: the engine, the reference implementation, or None for the published code's own loop."""
        if operation == "eager":
            return eager(self.subject.model)
        return self.subject.engine if self.settings.compat == "none" else None

    def calls(self) -> dict[str, Call]:
        return {n: call(self.subject, self.settings, self.conditions, self.loop(n)) for n in self.operations}

    def attempt(self, operation: str, batch: int) -> bool:
        """Make one decode step, on a GPU the whole call; an engine makes smaller batches of one that does not fit."""
        loop, how = self.loop(operation), replace(self.conditions, batch=batch)
        if isinstance(loop, Engine):
            loop.limit = None
        prime(self.subject, self.settings, how, loop)
        if how.device.startswith("cuda"):
            call(self.subject, self.settings, how, loop)()
        return getattr(loop, "limit", None) is None

    @property
    def splits(self) -> tuple[str, ...]:
        return self.operations if self.conditions.flights == 1 else ()

    def split(self, operation: str, call: Call, synchronize: Call) -> dict[str, float]:
        return split(
            self.subject.model, self.subject.ae, call, self.items(operation), synchronize, self.loop(operation)
        )

    @property
    def reads(self) -> tuple[torch.dtype, int]:
        dtype = self.subject.dtype
        return dtype, roofline.step_bytes(roofline.sizes(self.subject.model), dtype.itemsize)

    def bound(self, limits: Limits) -> dict:
        settings, how, model = self.settings, self.conditions, self.subject.model
        decoding = roofline.Decoding(
            method=self.subject.system.name,
            batch=how.batch,
            acceleration=settings.acceleration,
            text=self._prompt_tokens(),
            evaluations=tuple(settings.evaluations(self.subject.system.part("loop").sizes(model.tokens, settings))),
            copies=2 if settings.guidance != 1 else 1,
            bytes=self.subject.dtype.itemsize,
            schedule=settings.schedule,
            steps=how.steps,
        )
        image = roofline.image(self.subject.ae, model.config.latent_grid)
        return _told(roofline.lower_bound(roofline.sizes(model), decoding, limits, image), limits)


@dataclass(frozen=True, eq=False)
class CodeGeneration(Generation):
    """A GPT over codes, by its decode engine; perhaps beside the reference implementation.

    Raises ValueError for settings that the model does not allow, and for a part of its steps."""

    def __post_init__(self) -> None:
        _ = self.settings
        if self.conditions.steps is not None:
            raise ValueError(f"{self.subject.name} is timed by whole images; leave --steps out")

    @property
    def operations(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("generate", "eager") if self.conditions.eager else ("generate",)

    @property
    def metrics(self) -> tuple[str, ...]:  # type: ignore[override]
        beside = ("eager-ms-per-image", "speedup-over-eager") if self.conditions.eager else ()
        rates = ("images-per-second", "tokens-per-second", "ms-per-image")
        return (*rates, *beside, "floor-ms-per-image", "energy-mj-per-image", "peak-memory-mib")

    @cached_property
    def made(self) -> Any:
        """The engine's side: labels and seeds in, images out."""
        found = self.subject
        return found.system.part("generator")(found.loaded, found.decoder, self.settings)

    def code(self) -> str:
        return files.digest(super().code(), sources.code(("bench.roofline", "vgt.inference.static_lm")))

    def facts(self) -> dict:
        return {**super().facts(), "tokens": self.subject.model.tokens, "notes": list(self.made.engine.notes)}

    def calls(self) -> dict[str, Call]:
        parts = [self.conditions.batch] * self.conditions.flights
        ways = {"generate": self._images, "eager": self._eagerly}
        return {name: (lambda way=ways[name]: [way(batch) for batch in parts]) for name in self.operations}

    def _asked(self, batch: int) -> tuple[list[int], list[int]]:
        """Classes in turn, and a seed for each."""
        classes = len(self.subject.model.config.classes)
        return [k % classes for k in range(batch)], workload(batch, self.conditions.seed)[1]

    def _images(self, batch: int) -> Any:
        return self.made.generate(*self._asked(batch))

    def _eagerly(self, batch: int) -> Any:
        found = self.subject
        labels, seeds = self._asked(batch)
        on_device = torch.tensor(labels, device=next(found.model.parameters()).device)
        codes = found.system.part("reference")(found.model, on_device, seeds, self.settings)
        return to_uint8(pixels(found.ae, codes.unflatten(1, found.model.config.grid)))

    def attempt(self, operation: str, batch: int) -> bool:
        """On a GPU make the whole call; an engine makes smaller batches of one that does not fit."""
        if not self.conditions.device.startswith("cuda"):
            return True
        if operation == "eager":
            self._eagerly(batch)
            return True
        self.made.engine.limit = None
        self._images(batch)
        return self.made.engine.limit is None

    @property
    def reads(self) -> tuple[torch.dtype, int]:
        dtype, (layers, output, _) = self.subject.dtype, roofline.code_sizes(self.subject.model)
        return dtype, dtype.itemsize * (layers + output)

    def bound(self, limits: Limits) -> dict:
        model = self.subject.model
        branches = [self.settings.branches(t) for t in range(model.tokens)]
        image = roofline.image_of_codes(self.subject.ae, model.config.grid)
        size = self.subject.dtype.itemsize
        return _told(roofline.code_bound(model, self.conditions.batch, branches, size, limits, image), limits)


def _told(found: roofline.Bound, limits: Limits) -> dict:
    return {"ms": found.total, "split": found.ms, "gigabytes": found.bytes / 1e9,
            "teraflops": found.operations / 1e12, "limits": asdict(limits)}  # fmt: skip


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


def split(model, ae, work: Call, batch: int, synchronize: Call, decode: Decode | None = None) -> dict[str, float]:
    """Milliseconds an image of one batch in which each part is clocked: prefill, language_model, head, decode, the
    rest as other, and their total.  ``decode``: what ``work`` decodes with.  Where the clocking waits for a device,
    the total is above the unclocked time; an engine runs without graphs."""
    seconds: dict[str, list[float]] = {part: [] for part in PARTS}
    text, steps = seconds["prefill"], seconds["language_model"]
    clocked = [(ae, "decode", seconds["decode"].append)]
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
