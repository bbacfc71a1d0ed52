"""How generators sample: every option once, with its type, default and help.  Command line, pipeline, subjects and
records take them from here.  Free of torch, so that `--help` is quick.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_serializer, model_validator

from vgt.core.config import Config, validated
from vgt.equations import solvers
from vgt.methods import registry


class SamplingOptions(Config):
    """The base of a generator's sampling options.  A field with a description is an option of the command line."""

    accelerations: ClassVar[tuple[int, ...]] = (1, 4, 16)  # that `vgt bench` times

    acceleration: int = 1  # tokens per decode step; `--accel` of each verb

    @classmethod
    def usual(cls, tokens: int) -> dict[str, Any]:
        """The settings of a model of ``tokens`` image tokens where nobody chose others."""
        return {}

    @classmethod
    def of(cls, model: Any, given: Mapping[str, Any]) -> Self:
        """The settings of ``model``: those that are ``given``, else its usual ones, ``resolved``.  Raises ValueError
        for impossible ones."""
        settings: Self = validated(cls, cls.usual(model.tokens) | dict(given), "sampling settings")
        settings.check(model)
        return settings.resolved(model)

    def resolved(self, model: Any) -> Self:
        """The same way of sampling ``model`` in its one form: what is given and would be so anyway is as if it were
        not given, so that names, fingerprints and records do not depend on how settings were written."""
        return self

    def check(self, model: Any) -> None:
        """Raises ValueError for settings that ``model`` does not allow."""

    def note(self, model: Any) -> str | None:
        """What ``model`` makes of the settings where that is not what they say; None where it is."""

    def suffix(self, tokens: int) -> str:
        """What a model's name gets behind it where settings are unusual."""
        return ""

    @property
    def hashed(self) -> str:
        """What fingerprints of images hash."""
        return self.model_dump_json()

    @property
    def batch_matters(self) -> bool:
        """Whether the neighbours in a batch decide an image."""
        return False


# Fields that only the reference's way of decoding has.
REFERENCE_ONLY = ("attention", "position_mode", "head_inputs")
# Fields that say which tokens are decoded when and how finely (docs/decode.md 6); a name tells unusual values.
DECODING = ("schedule", "order", "flow_budget")
# Values of these that the published code does not have.
NOT_PUBLISHED = {"schedule": "cosine", "order": "spread", "flow_budget": "falling"}
# What models do where nothing else is chosen: the guidance's schedule over the decode steps and the tokens of each, by
# method, and published positions after step 0, by the language model's type (docs/vgt.md 2.11; InternVL3's and
# Qwen2.5-VL's latest revision).
CFG_SCHEDULE = {registry.QUERY_AR.name: "falling", registry.MAR.name: "rising"}
SCHEDULE = {registry.QUERY_AR.name: "equal", registry.MAR.name: "cosine"}
POSITION_MODES = {"qwen2": "cumulative", "qwen2_5_vl_text": "padded_len"}
# How models of few tokens sample, as the bundled ones.  Larger ones: the defaults below, those of the published GenEval
# scores (docs/vgt.md 6.2).
TINY = {"guidance": 3.0, "flow_steps": 15, "sampler": "sde"}
TINY_TOKENS = 64

# What the published launchers sample their benchmarks with (docs/vgt.md 6.2, 6.3), by the name of ``--sampling``.
PUBLISHED = {
    "published-geneval": {"guidance": 4.5, "flow_steps": 30, "sampler": "sde"},
    "published-dpg": {"guidance": 4.5, "flow_steps": 100, "sampler": "sde"},
}


class Sampling(SamplingOptions):
    """Of QueryAR and MAR.  ``cfg_schedule`` and ``schedule`` None take the method's own (``CFG_SCHEDULE``,
    ``SCHEDULE``).

    ``compat`` "reference" decodes as the published code does, its defects included (vgt/checkpoints/reference.py;
    docs/vgt.md 3.3); then ``attention`` None is "flash", as the released models have it, ``position_mode`` None takes
    that of the model's family, and ``head_inputs`` "bf16" rounds what the flow head reads (None: as the weights are).
    Raises ValueError for any of them without ``compat``, for what the published code does not have (``NOT_PUBLISHED``)
    with it, and for a sampler, steps, budget and time schedule that do not go together."""

    guidance: float = Field(4.5, ge=0, lt=1000, description="classifier-free guidance scale; 1 turns it off")
    cfg_schedule: Literal["falling", "rising", "constant"] | None = Field(
        None, description="of the guidance over the steps (default: the method's own)"
    )
    flow_steps: int = Field(30, description="flow-head evaluations per token")
    sampler: Literal["sde", "sde2", "ode", "heun", "ab2", "dpmpp"] = Field(
        "sde",
        description="of the flow head: sde (default; of the published code), sde2 (stochastic too), ode (Euler; the "
        "paper's), heun, ab2, dpmpp",
    )
    time_schedule: str = Field("linear", description="linear (default), power:NUMBER or shift:NUMBER")
    order: Literal["random", "raster", "spread"] = Field(
        "random",
        description="of the tokens: random (default, each image its own), raster, or spread (those of a step far from "
        "each other and near what is decoded)",
    )
    schedule: Literal["equal", "cosine"] | None = Field(
        None, description="of the tokens over the steps (default: the method's own; QueryAR equal, MAR cosine)"
    )
    flow_budget: Literal["constant", "falling"] = Field(
        "constant",
        description="falling: from 1.5 times the flow steps for the first tokens to half of them for the last (default "
        "constant)",
    )
    compat: Literal["none", "reference"] = Field("none", description="reference: decode as the published code does")
    attention: Literal["flash", "dense"] | None = Field(
        None, description="reference: which attention's pad rows (default flash, as the released models)"
    )
    position_mode: Literal["cumulative", "padded_len"] | None = Field(
        None, description="reference: if not the family's own"
    )
    head_inputs: Literal["fp32", "bf16"] | None = Field(
        None, description="reference: precision of the head's inputs (default: that of the weights)"
    )

    @model_validator(mode="after")
    def _suits_compat(self) -> Self:
        given = [name for name in REFERENCE_ONLY if getattr(self, name) is not None]
        if given and self.compat == "none":
            raise ValueError(f"{given[0]} {getattr(self, given[0])!r} is for compat 'reference'; give both or neither")
        ours = [name for name, value in NOT_PUBLISHED.items() if getattr(self, name) == value]
        if ours and self.compat == "reference":
            name = ours[0]
            raise ValueError(
                f"{name} {NOT_PUBLISHED[name]!r} is not in the published code that compat 'reference' follows; "
                "leave one of the two out"
            )
        return self

    @model_validator(mode="after")
    def _has_tables(self) -> Self:
        _ = self.table, self.evaluations([1])
        return self

    def cfg_rule(self, method: str) -> str:
        """The schedule of the guidance over the decode steps."""
        return self.cfg_schedule or CFG_SCHEDULE[method]

    @property
    def table(self) -> solvers.Scheme:
        """What the flow head's sampler computes with ``flow_steps``, which a falling budget has on average."""
        return solvers.table(self.sampler, self.flow_steps, self.time_schedule)

    def evaluations(self, sizes: Sequence[int]) -> list[int]:
        """Of the flow head per token, in each decode step of ``sizes`` tokens."""
        if self.flow_budget == "falling":
            return solvers.falling_steps(self.sampler, self.flow_steps, sizes)
        return [self.flow_steps] * len(sizes)

    def tables(self, sizes: Sequence[int]) -> list[solvers.Scheme]:
        """What the sampler computes in each decode step of ``sizes`` tokens."""
        return [solvers.table(self.sampler, steps, self.time_schedule) for steps in self.evaluations(sizes)]

    @model_serializer(mode="wrap")
    def _without_defaults(self, dump) -> dict:
        """Options that came later are left out at their defaults: stored records stay valid."""
        hidden = ("compat", *REFERENCE_ONLY) if self.compat == "none" else ()
        later = {"time_schedule": "linear", "schedule": None, "flow_budget": "constant"}
        hidden += tuple(name for name, usual in later.items() if getattr(self, name) == usual)
        return {name: value for name, value in dump(self).items() if name not in hidden}

    @property
    def hashed(self) -> str:
        """The dump with an option that there was, behind the order and at its default, so that fingerprints of earlier
        records stay valid."""
        told = list(self.model_dump().items())
        place = 1 + [name for name, _ in told].index("order")
        return json.dumps(dict([*told[:place], ("mar_schedule", "cosine"), *told[place:]]), separators=(",", ":"))

    @classmethod
    def usual(cls, tokens: int) -> dict[str, Any]:
        return TINY if tokens <= TINY_TOKENS else {}

    def check(self, model: Any) -> None:
        """Raises ValueError also where nothing was published that ``compat`` could follow, and for a setting that would
        change nothing: a schedule of guidance without guidance."""
        if self.compat == "reference" and model.config.method != registry.QUERY_AR.name:
            raise ValueError(
                f"compat 'reference' is about the published QueryAR models; {model.config.method} has no such mode"
            )
        if self.guidance == 1 and self.cfg_schedule is not None:
            raise ValueError(f"cfg_schedule {self.cfg_schedule!r} has no effect with guidance 1; give one of the two")
        model.check_acceleration(self.acceleration)

    def resolved(self, model: Any) -> Self:
        method = model.config.method
        own = {"cfg_schedule": CFG_SCHEDULE.get(method), "schedule": SCHEDULE.get(method)}
        if self.compat == "reference":
            half = str(model.image_in_projector.weight.dtype) == "torch.bfloat16"
            own |= {"attention": "flash", "head_inputs": "bf16" if half else "fp32"}
            own["position_mode"] = POSITION_MODES.get(str(model.config.text.get("model_type")))
        same = {name: None for name, value in own.items() if getattr(self, name) == value}
        return self.model_copy(update={**same, "time_schedule": solvers.one_form(self.time_schedule)})

    def note(self, model: Any) -> str | None:
        """Which steps an acceleration results in that does not divide the image tokens (docs/vgt.md 2.11), and which
        others are the same setting; which choice changes nothing with one token a step or all in one."""
        tokens, steps = model.tokens, model.tokens // self.acceleration
        found = []
        if steps * self.acceleration != tokens:
            first, last = tokens // (steps + 1) + 1, tokens // steps
            same = f"; accelerations {first} to {last} are the same setting" if first < last else ""
            plural = "s" if steps > 1 else ""
            found.append(
                f"acceleration {self.acceleration} of {tokens} image tokens: {steps} step{plural}, "
                f"{tokens / steps:.3g} tokens a step on average{same}"
            )
        if self.schedule is not None and steps in (1, tokens):
            found.append(f"schedule {self.schedule!r} changes nothing at acceleration {self.acceleration}")
        if self.flow_budget != "constant" and steps == 1:
            found.append(f"flow_budget {self.flow_budget!r} changes nothing with one decode step")
        return "; ".join(found) or None

    def suffix(self, tokens: int) -> str:
        """For the mode "", "+reference", "+reference-padded_len-bf16"; for the sampler "", "+ab2-8",
        "+ab2-8-power0.7"; for the decoding "", "+cosine", "+equal+spread+falling"."""
        chosen = [self.compat, *(getattr(self, name) for name in REFERENCE_ONLY)] if self.batch_matters else []
        mode = "-".join(value for value in chosen if value is not None)
        unusual = self.table != Sampling(**self.usual(tokens)).table
        schedule = [] if self.time_schedule == "linear" else [self.time_schedule.replace(":", "")]
        solver = "-".join([self.sampler, str(self.flow_steps), *schedule]) if unusual else ""
        usual = Sampling()
        decoding = [getattr(self, name) for name in DECODING if getattr(self, name) != getattr(usual, name)]
        return "".join(f"+{part}" for part in (mode, solver, *decoding) if part)

    @property
    def batch_matters(self) -> bool:
        """The published code has one order for all images of a batch."""
        return self.compat == "reference"


class CodeSampling(SamplingOptions):
    """docs/vfmtok.md 13.  The paper's tables with guidance have 1.5 or another scale that is not published; without it
    they have 1, which is the default here."""

    accelerations = (1,)

    temperature: float = Field(1.0, gt=0, lt=1000, description="of a prior over tokens (default 1)")
    top_k: int = Field(0, ge=0, description="keep the so many likeliest codes of a token (default 0: all)")
    top_p: float = Field(1.0, gt=0, le=1, description="keep the likeliest codes of this probability (default 1: all)")
    guidance: float = Field(1.0, ge=0, lt=1000, description="classifier-free guidance scale; 1 turns it off")
    guidance_until: int | None = Field(
        None, ge=1, description="guide only the first so many tokens (default: all of them)"
    )

    def check(self, model: Any) -> None:
        """Raises ValueError for settings without effect."""
        entries, tokens = model.config.codebook_size, model.tokens
        if self.acceleration != 1:
            raise ValueError(f"acceleration {self.acceleration}: a GPT decodes one token a step; leave it at 1")
        if self.top_k >= entries:
            raise ValueError(f"top_k {self.top_k} has no effect on {entries} codes; give fewer, or 0")
        if self.guidance_until is None:
            return
        if self.guidance <= 1:
            raise ValueError(
                f"guidance_until {self.guidance_until} has no effect with guidance {self.guidance:g}; "
                "give a guidance above 1, or leave it out"
            )
        if self.guidance_until >= tokens:
            raise ValueError(f"guidance_until {self.guidance_until} has no effect on {tokens} tokens; give fewer")

    def resolved(self, model: Any) -> Self:
        return self.model_copy(update={"guidance": 1.0}) if self.guidance < 1 else self

    def suffix(self, tokens: int) -> str:
        """ "", "+cfg1.5", "+cfg1.5-until64+temperature0.9+top-k50"."""
        until = f"-until{self.guidance_until}" if self.guidance_until else ""
        told = [f"+cfg{self.guidance:g}{until}"] if self.guidance > 1 else []
        for name in ("temperature", "top_k", "top_p"):
            if getattr(self, name) != type(self).model_fields[name].default:
                told.append(f"+{name.replace('_', '-')}{getattr(self, name):g}")
        return "".join(told)

    def branches(self, token: int) -> int:
        """How many passes ``token`` takes: 2 with guidance, the second without the class."""
        return 2 if self.guidance > 1 and (self.guidance_until is None or token < self.guidance_until) else 1
