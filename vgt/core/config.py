"""Configuration: frozen pydantic models, TOML presets, ``--set key=value``."""

from __future__ import annotations

import functools
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_serializer

from vgt.core import text

Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
# Factors, weights and rates: none is near a thousand, and much larger ones overflow in silence.
NotNegative = Annotated[float, Field(ge=0, lt=1000, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, lt=1000, allow_inf_nan=False)]


class Config(BaseModel):
    """Base of all configurations: unknown keys are errors, numbers are finite, values never change.

    ``later``: fields that a later version brought.  A dump leaves them out at their defaults, so that what hashes it
    (runs, jobs of a recipe, records) stays what it was."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)
    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_defaults(self, dump) -> dict[str, Any]:
        usual = {name: type(self).model_fields[name].default for name in self.later}
        hidden = {name for name, default in usual.items() if getattr(self, name) == default}
        return {name: value for name, value in dump(self).items() if name not in hidden}

    @field_validator("*", mode="before")
    @classmethod
    def _kind(cls, value: Any, info: ValidationInfo) -> Any:
        """No number is text or a truth value, and no truth value is anything else, which pydantic would convert."""
        kinds = _kinds(cls.model_fields[info.field_name].annotation)
        wanted = kinds & {bool, int, float}
        if wanted and (type(value) is str and str not in kinds or type(value) is bool and bool not in kinds):
            raise ValueError("Input should be " + ("true or false" if wanted == {bool} else "a number"))
        if wanted == {bool} and type(value) in (int, float):
            raise ValueError("Input should be true or false")
        return value


def _kinds(annotation: Any) -> set[Any]:
    """The types that an annotation allows; str for words to choose from."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return set().union(*map(_kinds, get_args(annotation)))
    return {type(word) for word in get_args(annotation)} if origin is Literal else {origin or annotation}


@functools.cache
def _presets() -> dict[str, resources.abc.Traversable]:
    """The files of the presets that come with the package, by name; those of a folder as <folder>_<file>."""
    found = {}
    for place in resources.files("vgt.presets").iterdir():
        if place.name.endswith(".toml"):
            found[place.name[:-5]] = place
        elif place.is_dir():
            found |= {f"{place.name}_{p.name[:-5]}": p for p in place.iterdir() if p.name.endswith(".toml")}
    return found


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(_presets())


def read_preset(name: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """The TOML of a preset by name, or of a file by path, with its ``base`` preset merged in; ``above``: the presets
    whose base this one is.

    Raises ValueError listing the known names for an unknown one, and for a preset that is its own base."""
    if name in above:
        raise ValueError(f"preset {above[-1]} has the base {name!r}, which comes back to itself; name another one")
    if name.endswith(".toml") and Path(name).is_file():
        content = text.read(name)
    elif name in preset_names():
        content = _presets()[name].read_text(encoding="utf-8")
    else:
        raise ValueError(f"preset {name!r} is unknown; choose one of {', '.join(preset_names())}, or give a .toml file")
    values = text.parse_toml(content, f"preset {name}")
    base = values.pop("base", None)
    if base is not None and not isinstance(base, str):
        raise ValueError(f"preset {name}: base is {text.shown(base)}; give the name of a preset or a .toml file")
    return merge(read_preset(base, (*above, name)), values) if base else values


def preset_header(name: str) -> str:
    """The first comment line of a preset: what it is."""
    content = _presets()[name].read_text(encoding="utf-8")
    first = content.splitlines()[0] if content else ""
    return first.lstrip("# ").strip() if first.startswith("#") else ""


def merge(base: dict, over: dict) -> dict:
    """``over`` on top of ``base``, tables merged key by key."""
    out = dict(base)
    for key, value in over.items():
        out[key] = merge(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


def override(values: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """Apply ``a.b=value`` settings; values are read as JSON where they parse, else as text.

    Raises ValueError for a setting without "="."""
    for setting in settings:
        path, equals, given = setting.partition("=")
        if not equals:
            raise ValueError(
                f"setting {setting!r} has no '='; write --set key=value, for example --set train.steps=100"
            )
        patch: dict[str, Any] = {}
        leaf = patch
        *parents, last = path.split(".")
        for parent in parents:
            leaf = leaf.setdefault(parent, {})
        leaf[last] = text.setting_value(given)
        values = merge(values, patch)
    return values


def validated(cls: type[Config], values: dict[str, Any], where: str) -> Any:
    """``cls(**values)`` with pydantic's complaints turned into one readable ValueError."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{where}: {'; '.join(map(_fault, error.errors()))}") from error


def _fault(error: dict) -> str:
    """One of pydantic's complaints; what a validator of the whole says needs neither place nor input."""
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return message
    parts = (str(part) if str(part).isprintable() else repr(part) for part in error["loc"])
    return f"{'.'.join(parts)}: {message} (got {error['input']!r:.60})"
