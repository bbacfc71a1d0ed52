"""The options of an evaluator, declared once: a model gives the flags of ``vgt eval`` and the arguments of the run.

An evaluator's options are a class of fields; a new flag is one line, and reaches the run under the field's name:

    class Options(options.Coverage, options.Common):
        subject: str | None = option(None, "vgt:<checkpoint> or pca")
        size: int | None = option(None, "image side for a subject that takes any")           # --size N
        any_weights: bool = option(False, "accept other weights than the published ones")     # --any-weights
        through: Literal["mean", "max"] = option("mean", "the view", flag="--view")           # choices

    def evaluate(given: Options) -> Outcome:
        return run(given.tokenizer(), **given.passed_to(run))

Groups that evaluators share are mix-ins: ``Common`` (out, seed, device), ``Coverage`` (partial_ok, shards), ``Count``
(n), ``Images`` (images made from prompts).  Flags that other verbs have too are declared in vgt/commands/options.py.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import math
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self, Union, get_args, get_origin

from pydantic import Field
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from evals.engine.store import Shard, parse_shard
from vgt.commands import options as verbs
from vgt.core import record, suites, text
from vgt.core.config import Config, validated

# ---------------------------------------------------------------------------------------------------- the mechanism


def option(default: Any, help: str = "", *, flag: str | None = None, group: str | None = None, **argparse: Any) -> Any:
    """A field with a flag.  ``flag``: its name on the command line (default: the field's, with dashes); ``group``: the
    heading that it stands under in the help; ``argparse``: what the annotation does not tell (metavar, type, nargs)."""
    about = {"flag": flag, "group": group, "argparse": argparse}
    return Field(default, description=help, json_schema_extra={"option": about})


def declared(default: Any, add: Callable[[argparse.ArgumentParser], None] | None, read: Callable | None = None) -> Any:
    """A field whose flags ``add`` declares, as vgt/commands/options.py does for all verbs.  ``read`` makes the value
    of the parsed arguments; by default it is that of the field's own name."""
    return Field(default, json_schema_extra={"declared": {"add": add, "read": read}})


def _about(field: FieldInfo) -> dict[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def _flags(name: str, about: dict[str, Any]) -> list[str]:
    return [about["flag"] or (f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}")]


def _argparse(annotation: Any, default: Any) -> dict[str, Any]:
    """What argparse must know of a field, as its annotation and default tell it."""
    if annotation is bool:
        return {"action": "store_true"}
    kinds = [kind for kind in get_args(annotation) if kind is not types.NoneType]
    if get_origin(annotation) in (Union, types.UnionType):
        return _argparse(kinds[0], default)
    if get_origin(annotation) is Literal:
        return {"choices": get_args(annotation), "default": default}
    if get_origin(annotation) is list:
        return {"action": "append", "default": list(default), "type": kinds[0]}
    if get_origin(annotation) is tuple:
        return {"nargs": len(kinds), "default": default, "type": kinds[0]}
    return {"type": annotation, "default": default}


class Options(Config):
    """Base of all options."""

    @classmethod
    def add(cls, parser: argparse.ArgumentParser) -> None:
        """Add the flags: an evaluator's own first, then those of its mix-ins."""
        groups: dict[str, Any] = {}
        for owner in cls.__mro__:
            for name in owner.__dict__.get("__annotations__", {}) if issubclass(owner, Options) else ():
                field = cls.model_fields.get(name)
                if field is None or owner is not _owner(cls, name):
                    continue
                about = _about(field)
                if "declared" in about:
                    if about["declared"]["add"] is not None:
                        about["declared"]["add"](parser)
                    continue
                told = about["option"]
                place = parser if told["group"] is None else groups.get(told["group"])
                if place is None:
                    place = groups[told["group"]] = parser.add_argument_group(*told["group"].split(": ", 1))
                default = None if field.default is PydanticUndefined else field.default
                shape = {**_argparse(field.annotation, default), **told["argparse"]}
                if told["flag"] and not {"metavar", "choices", "action"} & shape.keys():
                    shape["metavar"] = told["flag"].strip("-").upper().replace("-", "_")
                if field.default is PydanticUndefined:
                    shape["required"] = True
                place.add_argument(*_flags(name, told), dest=name, help=field.description or None, **shape)

    @classmethod
    def read(cls, args: argparse.Namespace) -> Self:
        """The options of parsed arguments.  Raises ValueError, in one line, for values that do not go together."""
        values = {}
        for name, field in cls.model_fields.items():
            read = _about(field).get("declared", {}).get("read")
            values[name] = read(args) if read else getattr(args, name)
        return validated(cls, values, "options")

    def refuse(self, why: str, *names: str) -> None:
        """Raises ValueError, naming the option, where one of the fields ``names`` was given: it would do nothing, and
        ``why`` says for what reason."""
        for name in names:
            field, value = type(self).model_fields[name], getattr(self, name)
            if value != field.default:
                told = _about(field).get("option") or {"flag": None}
                if isinstance(value, dict):
                    name, value = next(iter(value.items()))
                shown = "" if value is True else f" {' '.join(map(str, value)) if isinstance(value, list) else value}"
                raise ValueError(f"{_flags(name, told)[0]}{shown} would do nothing: {why}; leave it out")

    def given(self) -> dict[str, Any]:
        """What a run may be given, by name: the fields, and what the mix-ins make of theirs."""
        return {name: getattr(self, name) for name in type(self).model_fields}

    def passed_to(self, run: Callable, **instead: Any) -> dict[str, Any]:
        """The keyword arguments of ``run`` that these options decide; ``instead`` goes before them.

        An option that was not given (None) leaves the run's own default; ``subject`` is never passed: a run takes the
        thing itself, not its name."""
        known = [name for name, p in inspect.signature(run).parameters.items() if p.kind is p.KEYWORD_ONLY]
        mine = {name: value for name, value in self.given().items() if name in known and name != "subject"}
        return {**{name: value for name, value in mine.items() if value is not None}, **instead}


def _owner(cls: type[Options], name: str) -> type:
    """The class that declares a field, the most special one."""
    return next(c for c in cls.__mro__ if name in c.__dict__.get("__annotations__", {}))


def positive(text: str) -> int:
    """Parse a number of 1 or more."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number; give 1 or more") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1; give 1 or more")
    return value


def above_zero(text: str) -> float:
    """Parse a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def listed(text: str) -> list[str]:
    """Parse "a,b,c".  Raises ValueError where it names nothing."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise ValueError(f"{text!r} names nothing; give one or more names with commas between them")
    return found


# ------------------------------------------------------------------------------------------------------- the groups


class Common(Options):
    """--out, --seed, --device: the same everywhere.  A run may take ``work``, ``records``, ``seed`` and ``device``."""

    out: Path = declared(
        verbs.WORK,
        lambda parser: verbs.add_out(parser, verbs.WORK, "work folder: evidence, and records below records/"),
    )
    seed: int = declared(0, verbs.add_seed)
    device: str = declared("auto", verbs.add_device)
    name: str | None = option(
        None, "name that the records carry (default: the subject's own, made unique where another model has it)"
    )

    def given(self) -> dict[str, Any]:
        return {**super().given(), "work": self.out, "records": self.records}

    def passed_to(self, run: Callable, **instead: Any) -> dict[str, Any]:
        found = super().passed_to(run, **instead)
        if "device" in found and "device" not in instead:
            found["device"] = self.on()
        return found

    @property
    def records(self) -> Path:
        return self.out / "records"

    def named(self, subject: Any, accel: int | None = None) -> Any:
        """The subject under the name that its records carry: --name, or its own where no other model has that.

        Raises ValueError for a --name that another model's records carry."""
        from evals.engine.api import named
        from evals.engine.records import settled

        if self.name is not None and str(getattr(subject, "origin", "")).startswith(record.PLACE):
            subject = copy.copy(subject)
            object.__setattr__(subject, "origin", record.NAMED + subject.origin.removeprefix(record.PLACE))
        return named(subject, settled(self.records, subject, self.name, accel))

    def on(self) -> str:
        """The device.  Raises ValueError where there is none such."""
        return verbs.device(self.device)


class Count(Options):
    """-n."""

    n: int | None = option(None, "fewer items than the protocol asks for: the result is partial", type=positive)


class Coverage(Options):
    """--partial-ok, --shards.  A run may take ``partial_ok`` and ``shard``."""

    partial_ok: bool = option(False, "give a value even where images are missing")
    shards: str | None = option(
        None,
        "do part K of N and stop; run once more without it to score (accelerate launch sets it by itself)",
        metavar="K/N",
    )

    def given(self) -> dict[str, Any]:
        return {**super().given(), "shard": self.shard}

    @property
    def shard(self) -> Shard:
        return parse_shard(self.shards)


class Precision(Options):
    """--dtype, of our own models."""

    dtype: str | None = declared(None, verbs.add_dtype)


class Sampling(Precision):
    """How our generators sample: declared once for generate, eval and bench."""

    sampling: dict[str, Any] = declared({}, verbs.add_sampling, verbs.sampling)
    autoencoder: str | None = declared(None, None)

    @property
    def ours(self) -> dict[str, Any]:
        """What a generator of our own is loaded with."""
        return {**self.sampling, "autoencoder": self.autoencoder, "dtype": self.dtype}


MAKING = ("subject", "through_autoencoder", "accel", "batch", "settings", "sampling", "autoencoder", "dtype")  # images
RUNNING = ("n", "shards", "seed", "device")  # a part of them, on a device


class Images(Count, Coverage, Sampling, Common):
    """Images made from prompts, or a folder of them."""

    subject: str | None = option(
        None,
        "vgt:<checkpoint>, diffusers:<folder or id>, python:<module>:<object>, folder:<dir>, fake:oracle, fake:noise "
        "or fake:shuffled",
    )
    through_autoencoder: str | None = option(
        None, "send the subject's images through this autoencoder first", flag="--through", metavar="AE"
    )
    suite: str | None = option(None, "prompt suite, or a .jsonl file of `vgt prompts`")
    accel: int | None = option(None, "tokens per decode step (default 1 for vgt: subjects)")
    images_per_prompt: int = option(4, type=positive)
    batch: int = option(32, "images generated at a time; it decides their last bits", type=positive)
    settings: list[str] = option(
        [],
        "diffusers: subjects: steps, guidance, size, dtype, or any argument of the pipeline's call; fake: ones: size",
        flag="--set",
        metavar="KEY=VALUE",
    )

    def generator(self, asked: list[dict], whole: list[dict]) -> tuple[Any, int | None]:
        """The generator that --subject names, and the acceleration that its records carry.  ``asked``: prompts of the
        suite, which is ``whole``."""
        from evals.subjects import load_generator, load_tokenizer, parse_settings
        from evals.subjects.fake import through

        named = named_subject(self.subject, "vgt:query_ar_internvl")
        is_model = named.startswith("vgt:")
        if not is_model:
            self.refuse(f"{named} is no vgt: checkpoint", "accel", "sampling", "autoencoder", "dtype")
        if named.startswith("folder:"):
            self.refuse(f"the images of {named} are made already", "batch", "seed")
        accel = (self.accel or 1) if is_model else None
        if self.settings and not named.startswith(("diffusers:", "fake:")):
            raise ValueError(
                f"--set {self.settings[0]} is for diffusers: and fake: subjects; give --guidance and the like instead"
            )
        settings = self.ours if is_model else parse_settings(self.settings)
        prompts = [p["prompt"] for p in asked]
        tokenizer = None
        if self.through_autoencoder:
            tokenizer = load_tokenizer(self.through_autoencoder, device=self.on())
            if named.startswith("fake:") and tokenizer.size:
                settings = {"size": tokenizer.size} | settings
        if named.startswith("folder:"):
            found = self._folder(whole)
        else:
            found = load_generator(named, accel=accel, device=self.on(), prompts=prompts, settings=settings)
        return (through(tokenizer, found) if tokenizer else found), accel

    def _folder(self, whole: list[dict]) -> Any:
        from evals.subjects.folder import folder

        return folder(self.subject.removeprefix("folder:"), whole=len(whole))

    def check_folder(self, asked: list[dict], whole: list[dict]) -> None:
        """Look at a folder: subject before any weights are asked for; what is missing of the suite's images is said on
        stderr.  Raises ValueError as ``folder`` and ``Folder.samples`` do."""
        if (self.subject or "").startswith("folder:"):
            self.tell_lacks(self._folder(whole), asked)

    def tell_lacks(self, shown: Any, asked: list[dict]) -> None:
        """Say on stderr what a folder lacks of the suite's images."""
        lacks = shown.lacks(asked, self.images_per_prompt)
        if lacks:
            fate = "partial" if self.partial_ok else "withheld (see --partial-ok)"
            print(f"note: {lacks}; values that need what is missing are {fate}", file=sys.stderr)


# ------------------------------------------------------------------------------------------- what the options name


def named_subject(given: str | None, example: str) -> str:
    """What --subject names.  Raises ValueError, with an example, where it is missing."""
    if not given:
        raise ValueError(f"--subject is missing; name one, for example --subject {example}")
    return given


def checkpoint(given: str | None, what: str, example: str) -> str:
    """The path or name in ``vgt:<checkpoint>``; ``what``: what is wrong with any other subject."""
    kind, _, path = named_subject(given, example).partition(":")
    if kind != "vgt" or not path:
        raise ValueError(f"subject {given!r} {what}; give vgt:<checkpoint>")
    return path


def tokenizer(
    given: str | None, work: Path, device: Callable[[], str], dtype: str | None = None, size: int | None = None
) -> Any:
    """The autoencoder that --subject names; ``device``: called where torch is needed; ``dtype``: of ours; ``size``: of
    the images that PCA is fitted on."""
    from evals.subjects import load_tokenizer

    if named_subject(given, "vgt:vgt_ae_internvl") in ("pca", "fake:pca") and dtype is None:
        from evals.subjects.pca import pca

        return pca(work, **({} if size is None else {"size": size}))
    return load_tokenizer(given, device=device(), dtype=dtype)


def prompts(name: str) -> tuple[str, list[dict]]:
    """A suite by name, or from a file of JSON lines (then named by its stem)."""
    if name in suites.SUITES:
        suite, found = name, suites.prompts(name)
    else:
        path = Path(name)
        if not path.is_file():
            raise ValueError(f"suite {name!r} is neither one of {', '.join(suites.SUITES)} nor a file")
        try:
            suite, found = path.stem, list(text.objects(path))
            for row in found:
                row.text("prompt")
        except ValueError as error:
            raise ValueError(f"{error}; give JSON lines as written by `vgt prompts`") from error
        if not found:
            raise ValueError(f"suite {name!r} has no prompts; `vgt prompts` writes some")
    return suite, found


def evenly(items: list[dict], n: int | None) -> list[dict]:
    """``n`` of the items, evenly spaced, so that a few prompts touch every task; all where it is None.

    Raises ValueError where there are fewer."""
    if n is not None and not 1 <= n <= len(items):
        raise ValueError(f"-n {n} is not possible: there are {len(items)} prompts; leave it out for all of them")
    return [items[i] for i in suites.spaced(len(items), n or len(items))]
