"""Options that mean the same in every verb."""

from __future__ import annotations

import argparse
import os
import typing
from collections.abc import Container
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from vgt.methods import registry
from vgt.methods.sampling import PUBLISHED


class Parser(argparse.ArgumentParser):
    """argparse's, with a usage error in one line."""

    def __init__(self, **settings):
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, **settings})

    def error(self, message: str) -> typing.NoReturn:
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")


RUNS = Path("runs")
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
WORK = RUNS / "tiny"


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: cuda where there is one)")


def add_dtype(parser: argparse.ArgumentParser, usual: str = "fp32") -> None:
    parser.add_argument(
        "--dtype", choices=tuple(DTYPES), default=None, help=f"precision of our own models' weights (default {usual})"
    )


def dtype(name: str | None):
    """torch's type of a ``--dtype``; None is float32."""
    import torch

    return getattr(torch, DTYPES[name or "fp32"])


def add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="base seed; every image has a seed of its own (default 0)")


def add_out(parser: argparse.ArgumentParser, default: Path | str | None, what: str) -> None:
    shown = f" (default {default})" if default is not None else ""
    parser.add_argument("-o", "--out", type=Path, default=default, help=f"{what}{shown}")


def device(name: str) -> str:
    """The device that was asked for.  Raises ValueError where there is none such."""
    import torch

    if name == "auto":
        rank = os.environ.get("LOCAL_RANK")  # one of several processes that torchrun launched
        return "cpu" if not torch.cuda.is_available() else "cuda" if rank is None else f"cuda:{rank}"
    try:
        asked = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name!r} is unknown; use cpu or cuda") from None
    if asked.type == "cuda":  # counted, not tried: processes that are forked later must find no CUDA context
        count = torch.cuda.device_count()
        if (asked.index or 0) >= count:
            raise ValueError(f"device {name!r} is not there: torch sees {count or 'no'} GPU; use --device cpu")
        return name
    try:
        torch.empty(1, device=asked).cpu()
    except Exception as error:  # each kind of device has its own way of not being there
        raise ValueError(f"device {name!r} is not there ({str(error).splitlines()[0]:.80}); use cpu or cuda") from None
    return name


def utf8(text: str) -> str:
    """An argument as UTF-8 text whatever the locale; as it is where it is none."""
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return text


def integers(text: str) -> list[int]:
    """Parse "1,4,16"."""
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of integers like 1,4,16") from None
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"{min(values)} is below 1")
    return values


def add_fields(parser: argparse.ArgumentParser, model: type[BaseModel], known: Container[str] = ()) -> None:
    """A flag for every field of ``model`` that has a description, less those that are ``known``; what is not given
    stays None, so that the model's own default holds."""
    for name, field in model.model_fields.items():
        if field.description is None or name in known:
            continue
        kinds = [kind for kind in typing.get_args(field.annotation) or (field.annotation,) if kind is not type(None)]
        choices = [c for kind in kinds for c in typing.get_args(kind)] or [c for c in kinds if isinstance(c, str)]
        settings = {"choices": choices} if choices else {"type": kinds[0]}
        parser.add_argument(f"--{name.replace('_', '-')}", default=None, help=field.description, **settings)


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Sampling settings of every generator, shared by generate, eval and bench."""
    known: set[str] = set()
    for options in _samplings():
        add_fields(parser, options, known)
        known |= options.model_fields.keys()
    parser.add_argument(
        "--sampling",
        dest="named_sampling",
        choices=tuple(PUBLISHED),
        default=None,
        help="guidance, flow steps and sampler of a published launcher: 4.5, sde and 30 (GenEval) or 100 (DPG-Bench)",
    )
    parser.add_argument(
        "--autoencoder", default=None, help="its autoencoder, if not the bundled or trained one of that name"
    )


def sampling(args: argparse.Namespace) -> dict[str, Any]:
    """The chosen sampling settings; the rest follow from the model.  Raises ValueError where a flag contradicts the
    named ones."""
    names = dict.fromkeys(name for options in _samplings() for name in options.model_fields)
    found = {name: getattr(args, name, None) for name in names}
    given = {name: value for name, value in found.items() if value is not None}
    named = PUBLISHED.get(getattr(args, "named_sampling", None), {})
    for name, value in named.items():
        if given.get(name, value) != value:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} {given[name]} contradicts --sampling {args.named_sampling}, which has {value}")
    return {**named, **given}


def _samplings() -> list[type[BaseModel]]:
    """The classes of sampling options, each once."""
    return list(dict.fromkeys(system.part("sampling") for system in registry.systems("generator")))
