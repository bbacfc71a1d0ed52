"""What is timed, in classes of one interface, which is all that the harness (run.py) knows: autoencoders, two ways to
do the same, the flow head, training steps; generators are in generation.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bench import roofline, sources, subjects, timing
from bench.roofline import Limits
from bench.subjects import Subject
from bench.timing import Call
from vgt.core import config as configs
from vgt.core import env, files, record, scenes
from vgt.inference.hoisted_head import HoistedHead
from vgt.inference.images import to_float, to_uint8
from vgt.inference.tokenizer import encode
from vgt.methods import registry
from vgt.methods.registry import System
from vgt.methods.sampling import DECODING, Sampling
from vgt.methods.visual_lm import ARTraining, VisualLM
from vgt.training.distributed import device_name
from vgt.training.models import checkpoint_activations
from vgt.training.optim import TrainConfig, optimizers

PROTOCOL_REPEATS = 3  # fewer are recorded as partial
FLIGHTS = 4  # batches that follow each other without waiting, in throughput mode
MODES = ("latency", "throughput")
# Modules that decide how long the work takes, with what they import: a change makes the records stale.
TIMED = ("bench.timing", "bench.workloads", "vgt.inference.images", "vgt.inference.tokenizer", "vgt.methods.vgt_ae")


@dataclass(frozen=True)
class Conditions:
    """``batch`` images at a time; ``repeats`` timed rounds after ``warmup`` untimed ones.  Of generators: ``settings``:
    sampling settings that differ from the model's usual ones; ``eager``: also time the reference implementation;
    ``mode``: latency waits for every batch, throughput for every ``FLIGHTS`` of them; ``steps``: only the first so many
    decode steps, no images."""

    batch: int = 8
    repeats: int = PROTOCOL_REPEATS
    warmup: int = 1
    device: str = "cpu"
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    eager: bool = False
    mode: Literal["latency", "throughput"] = "latency"
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.batch < 1 or self.repeats < 1 or self.warmup < 1:
            found = f"batch {self.batch}, {self.repeats} repeats, {self.warmup} warm-ups"
            raise ValueError(f"{found}: all three must be 1 or more")
        if self.mode not in MODES:
            raise ValueError(f"mode {self.mode!r} is unknown; choose one of {', '.join(MODES)}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"{self.steps} decode steps are too few; time 1 or more, or leave --steps out")
        if self.steps is not None and self.mode != "latency":
            raise ValueError("the first decode steps are timed in latency mode only; leave --steps or --mode out")

    @property
    def flights(self) -> int:
        return FLIGHTS if self.mode == "throughput" else 1

    @property
    def suite(self) -> str:
        """The suite of a generator's records, e.g. "bench-b8", "bench-b1-n8" for the first 8 decode steps."""
        part = f"-n{self.steps}" if self.steps is not None else ""
        return f"bench-b{self.batch}{part}" + "-throughput" * (self.mode == "throughput")


class Workload:
    """Work to time.  ``conditions`` as above; ``operations``: the names of its calls, the one that is ours first;
    ``metrics``: what its records say (``bench.run.METRICS``)."""

    conditions: Conditions
    operations: tuple[str, ...]
    metrics: tuple[str, ...]

    def described(self) -> dict:
        """The fields of its records, key and device left out: subject, suite, protocol, protocol_params, fingerprint,
        suite_hash, perhaps accel, seed and note."""
        raise NotImplementedError

    def code(self) -> str:
        """Content hash of the source that decides the time."""
        return sources.code(TIMED)

    def calls(self) -> dict[str, Call]:
        """The timed calls, by operation."""
        raise NotImplementedError

    def items(self, operation: str) -> int:
        """How many images, or other things, a round makes; asked after ``calls``."""
        return 1

    def facts(self) -> dict:
        """What is known of the work without measuring."""
        return {}

    def attempt(self, operation: str, batch: int) -> bool:
        """Whether memory has room for a call with that batch.  May raise torch.OutOfMemoryError instead."""
        return True

    def split(self, operation: str, call: Call, synchronize: Call) -> dict[str, float] | None:
        """Make the call with a clock at each of its parts: milliseconds of an image by part.  None where ``splits`` has
        not the operation."""
        return None

    @property
    def splits(self) -> tuple[str, ...]:
        """The operations whose parts can be clocked."""
        return ()

    @property
    def reads(self) -> tuple[torch.dtype, int] | None:
        """Precision and bytes of what is read again and again; None where no lower bound is known."""
        return None

    def bound(self, limits: Limits) -> dict:
        """The lower bound of an image or call on a device of these limits: "ms", with what stands beside it."""
        raise NotImplementedError

    # ---- names, from the above

    @cached_property
    def heading(self) -> dict:
        """The fields that all its records share, the key among them."""
        found = {"accel": None, "seed": None, "note": None, **self.described()}
        found = {"origin": subjects.no_weights(found["subject"]), **found}
        found["device"] = device_name(self.conditions.device)
        found["key"] = record.make_key(
            **{k: found[k] for k in ("fingerprint", "suite_hash", "protocol", "protocol_params", "device", "seed")},
            versions={name: env.versions().get(name) for name in ("torch", "transformers", "diffusers")},
            code=self.code(),
        )
        return found

    @property
    def model(self) -> str:
        accel = self.heading["accel"]
        return self.heading["subject"] + (f"@{accel}x" if accel is not None else "")

    @property
    def name(self) -> str:
        """Model and suite: what no other workload has."""
        return f"{self.model}/{self.heading['suite']}"

    @property
    def group(self) -> tuple:
        """Workloads of one group, under the same conditions, are measured in alternation."""
        return (self.name,)

    @property
    def evidence(self) -> Path:
        """Relative to the work folder."""
        return Path("bench") / self.heading["suite"] / f"{record.folder_name(self.model)}.json"


def parameters(how: Conditions, **more) -> dict:
    """Protocol parameters that all records have: what decides a time beside code, weights and device."""
    threads = torch.get_num_threads()
    return {"batch": how.batch, "repeats": how.repeats, "threads": threads, "device": how.device, **more}


def precision(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


RANDOM_NOTE = "random weights: the time does not depend on their values"


# ---------------------------------------------------------------------------------------------- autoencoders


def test_images(count: int, size: int) -> np.ndarray:
    """Test scenes uint8 [count, size, size, 3]; where scenes have no such size, the largest, repeated."""
    if size in scenes.SIZES:
        return scenes.images("test", range(count), size)
    largest = scenes.images("test", range(count), max(scenes.SIZES))
    times = -(-size // largest.shape[1])
    return np.tile(largest, (1, times, times, 1))[:, :size, :size]


@dataclass(frozen=True, eq=False)
class Autoencoder(Workload):
    """uint8 images to latents, and latents to uint8 images."""

    subject: Subject
    conditions: Conditions

    BATCHES = 4  # a round: one batch of a small autoencoder is over too soon to be timed well
    operations = ("encode", "decode")
    metrics = ("encode-images-per-second", "decode-images-per-second", "peak-memory-mib")

    def described(self) -> dict:
        how, found = self.conditions, self.subject
        workload = [scenes.WORLD, "test", how.batch, self.BATCHES, found.ae.config.image_size]
        return {
            "subject": found.name,
            "suite": f"bench-b{how.batch}",
            "protocol": f"throughput-b{how.batch}",
            "protocol_params": parameters(how, warmup=how.warmup, dtype=precision(found.dtype), weights=found.weights),
            "fingerprint": found.fingerprint,
            "origin": found.origin,
            "suite_hash": files.digest_json(workload),
            "note": RANDOM_NOTE if found.weights == "random" else None,
        }

    @property
    def group(self) -> tuple:
        return ("autoencoders", self.heading["suite"])

    def items(self, operation: str) -> int:
        return self.BATCHES * self.conditions.batch

    def calls(self) -> dict[str, Call]:
        return self._calls(self.conditions.batch)

    def _calls(self, batch: int) -> dict[str, Call]:
        ae = self.subject.ae
        device = next(ae.parameters()).device
        images = test_images(self.BATCHES * batch, ae.config.image_size)
        with torch.no_grad():
            latents = [ae.encode(to_float(part, device)) for part in np.split(images, self.BATCHES)]

        @torch.no_grad()
        def decode() -> list[np.ndarray]:
            return [to_uint8(ae.decode(z)) for z in latents]

        return {"encode": lambda: encode(ae, images, batch), "decode": decode}

    def attempt(self, operation: str, batch: int) -> bool:
        if self.conditions.device.startswith("cuda"):
            self._calls(batch)[operation]()
        return True


# ------------------------------------------------------------------------------------------ ours against theirs


@dataclass(frozen=True, eq=False)
class Pair(Workload):
    """Two ways to compute the same thing: ours ("call") and a plain or independent one ("plain").

    ``what`` says who they are; ``modules`` decide their time; ``bounds`` makes the lower bound of a call of
    ours, where one is known, and ``dtype`` is its precision."""

    subject: str
    conditions: Conditions
    ours: Call
    theirs: Call
    what: str
    modules: tuple[str, ...]
    params: dict = field(default_factory=dict)
    bounds: Callable[[Limits], dict] | None = None
    dtype: torch.dtype = torch.float32
    counts: dict[str, int] = field(default_factory=dict)

    ROUND_SECONDS = 0.05  # least length of a round; a call that is shorter is made several times
    operations = ("call", "plain")

    @property
    def metrics(self) -> tuple[str, ...]:
        found = ("ms-per-call", "plain-ms-per-call", "speedup-over-plain")
        return found + (("floor-ms-per-call",) if self.bounds else ())

    def described(self) -> dict:
        batch = self.conditions.batch
        return {
            "subject": self.subject,
            "suite": f"bench-b{batch}",
            "protocol": "call-against-plain",
            "protocol_params": parameters(self.conditions) | self.params,
            "fingerprint": self.code(),
            "suite_hash": files.digest_json([self.subject, batch, self.params]),
        }

    def code(self) -> str:
        return sources.code(self.modules)

    def facts(self) -> dict:
        return {"what": self.what}

    def calls(self) -> dict[str, Call]:
        made = {}
        for name, call in zip(self.operations, (self.ours, self.theirs), strict=True):
            call()
            synchronize = timing.instruments(self.conditions.device).synchronize
            once = timing.alternate({"": call}, repeats=1, warmup=0, synchronize=synchronize)[""].median
            self.counts[name] = max(1, round(self.ROUND_SECONDS / once))
            made[name] = _repeated(call, self.counts[name])
        return made

    def items(self, operation: str) -> int:
        return self.counts[operation]

    @property
    def reads(self) -> tuple[torch.dtype, int] | None:
        return (self.dtype, roofline.WORKING_SET) if self.bounds else None

    def bound(self, limits: Limits) -> dict:
        assert self.bounds is not None
        return self.bounds(limits)


def _repeated(call: Call, count: int) -> Call:
    def many() -> None:
        for _ in range(count):
            call()

    return many


# ------------------------------------------------------------------------------------------------ the flow head

HEAD_ROWS = (2, 8, 32)  # conditional and unconditional rows together: 1, 4 and 16 tokens


def flow_head(preset: str, size: str, how: Conditions, dtype: torch.dtype = torch.float32) -> Pair:
    """All evaluations of one decode step, hoisted as the engine has them against the plain head: that of a generator's
    preset with random weights, at ``how.batch`` rows (both branches).

    Raises ValueError for an odd number of rows, and for settings of the decode steps, of which it is one."""
    rows, device = how.batch, how.device
    if idle := [name for name in DECODING if name in how.settings]:
        raise ValueError(f"{idle[0]} {how.settings[idle[0]]!r} has no effect on the flow head alone; name a generator")
    if rows % 2:
        raise ValueError(
            f"{rows} rows of the flow head are impossible with guidance: give an even number, for example 2"
        )
    with torch.no_grad():
        model = subjects.random_network(preset, "meta")[0]
        sampling = Sampling.of(model, how.settings)
        head = subjects.random_head(model, device).to(dtype).requires_grad_(False)
        rng = torch.Generator().manual_seed(0)
        table, n, width = sampling.table, rows // 2, head.cond_embed.in_features
        c = torch.randn(rows, width, generator=rng).to(device, dtype)
        noise = torch.randn(n, table.draws, model.config.d_z, generator=rng).to(device)
        hoisted = HoistedHead(head)

    def bounds(limits: Limits) -> dict:
        decoding = roofline.Decoding(registry.QUERY_AR.name, 1, 1, 1, bytes=dtype.itemsize)
        calls = roofline.head(roofline.sizes(model), decoding, rows, sampling.flow_steps)
        return {"ms": 1000 * sum(call.seconds(limits) for call in calls), "limits": vars(limits)}

    return Pair(
        f"flow-head-{size}",
        how,
        torch.no_grad()(lambda: hoisted.sample(c, sampling.guidance, noise, table)),
        torch.no_grad()(lambda: head.sample(c, sampling.guidance, noise, table)),
        "all evaluations of one decode step with guidance: hoisted, against one call of the head per evaluation",
        ("vgt.inference.hoisted_head", "bench.workloads"),
        {"flow_steps": sampling.flow_steps, "dtype": precision(dtype), "weights": "random"},
        bounds,
        dtype,
    )


# --------------------------------------------------------------------------------------------------- training


@dataclass(frozen=True, eq=False)
class Training(Workload):
    """Training steps of a generator's preset with ``conditions.batch`` rows: forward, backward, clipping and the
    optimizer, on random latents and text.  Network, loss and optimizer are those of ``vgt train``; the frozen
    autoencoder stays out, as with cached latents.

    Raises ValueError for a preset that is no generator's."""

    preset: str
    conditions: Conditions
    checkpointing: bool = False

    TEXT = 64  # tokens of a prompt
    operations = ("step",)
    metrics = ("step-seconds", "peak-memory-gib")

    def __post_init__(self) -> None:
        if self.system.loss is None:
            raise ValueError(f"preset {self.preset!r} is a {self.system.name}; time a generator's")

    @cached_property
    def values(self) -> dict:
        return configs.read_preset(self.preset)

    @property
    def system(self) -> System:
        return registry.get(self.values["system"])

    @cached_property
    def network(self) -> VisualLM:
        model = subjects.random_network(self.preset, self.conditions.device)[0].train()
        if self.checkpointing:
            checkpoint_activations(model)
        return model

    def described(self) -> dict:
        rows = self.conditions.batch
        return {
            "subject": f"random-{self.preset}",
            "suite": f"train-steps-b{rows}",
            "protocol": "random-batch",
            "protocol_params": parameters(
                self.conditions, text=self.TEXT, cached_latents=True, checkpointing=self.checkpointing
            ),
            "fingerprint": files.digest_json(self.values["train"]),
            "suite_hash": files.digest_json([self.preset, rows, self.TEXT]),
            "note": "random weights and data: times and memory do not depend on them",
        }

    def code(self) -> str:
        own = [getattr(self.system, part).partition(":")[0] for part in ("model", "loss")]
        return sources.code((*TIMED, *own, "vgt.training.optim"))

    def facts(self) -> dict:
        """``parameters`` that train, and ``positions`` of a step."""
        model = self.network
        tokens = self.system.part("sequence")(model.tokens)
        return {
            "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "positions": self.conditions.batch * (self.TEXT + len(model.config.start_ids) + tokens),
        }

    def calls(self) -> dict[str, Call]:
        model, device = self.network, self.conditions.device
        train: TrainConfig = configs.validated(TrainConfig, self.values["train"], f"train of preset {self.preset}")
        system = ARTraining(model, self.system.part("loss"), self.values.get("repeats", 1))
        made = optimizers(model, train, system.lr_scale)
        rows = self._batch(model)
        rng = torch.Generator().manual_seed(0)

        def step() -> None:
            for each in made:
                each.zero_grad(set_to_none=True)
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=train.precision == "bf16"):
                loss, _ = system.loss("model", rows, 0, rng)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), train.clip)
            for each in made:
                each.step()

        return {"step": step}

    def _batch(self, model: VisualLM) -> dict[str, Tensor]:
        rng, rows = torch.Generator().manual_seed(1), self.conditions.batch
        vocabulary = model.language_model.config.vocab_size
        latents = torch.randn(rows, model.tokens, model.config.d_z, generator=rng)
        batch = {"ids": torch.randint(vocabulary, (rows, self.TEXT), generator=rng), "latents": latents}
        batch["mask"] = torch.ones(rows, self.TEXT, dtype=torch.bool)
        return {key: value.to(self.conditions.device) for key, value in batch.items()}


def same_conditions(works: Sequence[Workload]) -> Conditions:
    """Those of a group.  Raises ValueError where they differ."""
    if any(work.conditions != works[0].conditions for work in works):
        raise ValueError("workloads of different conditions cannot be measured in alternation")
    return works[0].conditions
