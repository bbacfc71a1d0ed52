"""What is to be timed: models under conditions, each with the fields that its records share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench import autoencoder as autoencoders
from bench import generation, sources
from bench.conditions import Conditions
from bench.subjects import Subject
from vgt.core import env, record
from vgt.inference.generator import Decode
from vgt.methods.sampling import Sampling
from vgt.training.precision import device_name

# Modules that decide how long the work takes, with what they import: a change makes the records stale.
TIMED = ("bench.timing", "bench.autoencoder", "vgt.inference.images", "vgt.inference.tokenizer", "vgt.methods.vgt_ae")
TIMED_GENERATION = ("bench.generation", "vgt.inference.generator")


@dataclass(frozen=True)
class Job:
    """One model to time: an autoencoder, or a generator at one acceleration.  ``heading``: the fields that all its
    records share, the key among them."""

    subject: Subject
    conditions: Conditions
    settings: Sampling | None
    heading: dict

    @property
    def model(self) -> str:
        accel = self.heading["accel"]
        return self.heading["subject"] + (f"@{accel}x" if accel is not None else "")

    @property
    def name(self) -> str:
        """Model and suite: what no other job has."""
        return f"{self.model}/{self.heading['suite']}"

    @property
    def evidence(self) -> Path:
        """Relative to the work folder."""
        return Path("bench") / self.heading["suite"] / f"{self.model.replace(':', '-').replace('/', '_')}.json"

    @property
    def images(self) -> int:
        """How many a round makes."""
        how = self.conditions
        return how.batch * (autoencoders.BATCHES if self.settings is None else how.flights)

    @property
    def steps(self) -> int:
        """Decode steps of a whole image."""
        assert self.settings is not None
        return generation.counts(self.subject.system, self.subject.model.tokens, self.settings)["decode_steps"]

    @property
    def operations(self) -> list[str]:
        return list(autoencoders.OPERATIONS if self.settings is None else self.loops())

    def loops(self) -> dict[str, Decode | None]:
        """What decodes, by operation; nothing for an autoencoder."""
        return {} if self.settings is None else generation.loops(self.subject, self.settings, self.conditions)

    def calls(self) -> dict[str, Callable[[], object]]:
        """The timed calls, by operation."""
        how, settings = self.conditions, self.settings
        if settings is None:
            return autoencoders.calls(self.subject, how.batch)
        return {name: generation.call(self.subject, settings, how, loop) for name, loop in self.loops().items()}

    def facts(self) -> dict:
        """What is known of the work without measuring."""
        if self.settings is None:
            return {}
        steps = self.conditions.steps
        counts = generation.counts(self.subject.system, self.subject.model.tokens, self.settings, steps)
        counts["prompt_tokens"] = generation.prompt_tokens(self.subject, self.conditions)
        return {"autoencoder": self.subject.ae_name, "counts": counts, "decode_steps": self.steps}


def _note(found: Subject, how: Conditions, steps: int) -> str | None:
    notes = ["random weights: the time does not depend on their values"] if found.weights == "random" else []
    if how.steps is not None:
        notes.append(f"the first {how.steps} of {steps} decode steps, no image: not the time of an image")
    return "; ".join(notes) or None


def _job(found: Subject, how: Conditions, accel: int | None) -> Job:
    settings = how.sampling(found.model.tokens, accel) if accel is not None else None
    params = {
        "batch": how.batch,
        **(settings.model_dump() if settings else {}),
        **({"mode": how.mode, "steps": how.steps} if settings else {}),
        "repeats": how.repeats,
        "warmup": how.warmup,
        "threads": torch.get_num_threads(),
        "dtype": str(next(found.model.parameters()).dtype).removeprefix("torch."),
        "device": how.device,
        "weights": found.weights,
    }
    steps = 0
    if settings is not None:
        protocol = f"throughput-b{how.batch}-k{settings.flow_steps}"
        suite = generation.workload_hash(how.batch * how.flights, how.seed)
        code = sources.code((*TIMED, *TIMED_GENERATION))
        steps = generation.counts(found.system, found.model.tokens, settings)["decode_steps"]
        if how.steps is not None and how.steps >= steps:
            raise ValueError(
                f"{found.name} at {accel}x has {steps} decode steps, so the first {how.steps} are no part of them; "
                "give fewer --steps, or leave it out"
            )
        generation.loops(found, settings, how)
    else:
        protocol = f"throughput-b{how.batch}"
        suite = autoencoders.workload_hash(found, how.batch)
        code = sources.code(TIMED)
    heading = {
        "subject": found.name + (settings.suffix(found.model.tokens) if settings else ""),
        "accel": accel,
        "suite": how.suite if settings else f"bench-b{how.batch}",
        "protocol": protocol,
        "protocol_params": params,
        "fingerprint": found.fingerprint,
        "suite_hash": suite,
        "seed": how.seed if settings is not None else None,
        "device": device_name(how.device),
        "note": _note(found, how, steps) if settings else _note(found, Conditions(), 0),
    }
    heading["key"] = record.make_key(
        **{k: heading[k] for k in ("fingerprint", "suite_hash", "protocol", "protocol_params", "device", "seed")},
        versions={name: env.versions().get(name) for name in ("torch", "transformers", "diffusers")},
        code=code,
    )
    return Job(found, how, settings, heading)


def plan(found: Subject, conditions: Conditions, accelerations: Sequence[int] = (1, 4, 16)) -> list[Job]:
    """One job for an autoencoder, one an acceleration for a generator.

    Raises ValueError for an acceleration that the generator's tokens do not allow."""
    if not found.generates:
        return [_job(found, conditions, None)]
    for accel in accelerations:
        found.model.check_acceleration(accel)
    return [_job(found, conditions, accel) for accel in accelerations]
