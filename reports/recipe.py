"""How a paper is regenerated, as data: the scales, arms and measurements of ``papers/<paper>.toml``.

An arm is one thing that is trained: a preset, settings on top of it, and the arms that it starts from.  At a scale it
has a model for each seed, named ``<scale>_<arm>-s<seed>`` in folders and records.  ``vgt/commands/paper.py`` trains and
measures them; tables and claims read their records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reports.published import PAPERS
from vgt.core.text import parse_toml, read

Kind = Literal["vlm", "autoencoder", "generator"]
ROLES = ("vlm", "weights", "decoder", "autoencoder")  # what an arm may start from, as in a preset's [init]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Scale(_Strict):
    """Sizes of one scale.  ``folder``: of its presets, below vgt/presets; ``presets``: names of presets that are other
    ones here; ``published``: models that stand for arms and are not trained."""

    title: str
    folder: str
    size: int
    tokens: int
    seeds: list[int]
    presets: dict[str, str] = {}
    published: dict[str, str] = {}

    def preset(self, name: str) -> str:
        """The name of the preset ``name`` at this scale, as `vgt train` takes it."""
        return "_".join(part for part in (self.folder, self.presets.get(name, name)) if part)


class Arm(_Strict):
    """``parents``: arms by the role that they have in the preset's [init]; ``settings``: on top of the preset;
    ``seeds`` False: trained once; ``measure``: names of ``Recipe.measurements`` or commands, on top of its kind's."""

    id: str
    kind: Kind
    label: str
    preset: str
    parents: dict[str, str] = Field({}, alias="from")
    settings: dict[str, Any] = Field({}, alias="set")
    seeds: bool = True
    measure: list[str] = []

    @model_validator(mode="after")
    def _roles(self) -> Arm:
        for role in self.parents:
            if role not in ROLES:
                raise ValueError(f"arm {self.id}: from has {role!r}; choose of {', '.join(ROLES)}")
        return self


class Recipe(_Strict):
    """All of one paper.  Raises ValueError for an arm that starts from an unknown one or from a later one."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    scales: dict[str, Scale]
    measurements: dict[str, list[str]]
    arms: list[Arm]

    @model_validator(mode="after")
    def _ordered(self) -> Recipe:
        seen: set[str] = set()
        for arm in self.arms:
            if arm.id in seen:
                raise ValueError(f"arm {arm.id} stands twice")
            for parent in arm.parents.values():
                if parent not in seen:
                    raise ValueError(f"arm {arm.id} starts from {parent}, which is no arm above it")
            seen.add(arm.id)
        return self

    def __getitem__(self, arm: str) -> Arm:
        """Raises ValueError for an unknown arm."""
        for one in self.arms:
            if one.id == arm:
                return one
        raise ValueError(f"arm {arm!r} is unknown; there are {', '.join(a.id for a in self.arms)}")

    def scale(self, name: str) -> Scale:
        """Raises ValueError for an unknown scale."""
        if name not in self.scales:
            raise ValueError(f"scale {name!r} is unknown; choose one of {', '.join(self.scales)}")
        return self.scales[name]

    def arms_of(self, names: Iterable[str]) -> list[str]:
        """The arms that the tables and figures of these names show; an arm's name is itself.  Raises ValueError for an
        unknown one."""
        known = {arm.id for arm in self.arms}
        found: list[str] = []
        for name in names:
            shown = [name] if name in known else self.shown.get(name)
            if shown is None:
                raise ValueError(f"--only {name!r} is unknown; choose of {', '.join([*self.shown, *sorted(known)])}")
            found += shown
        return list(dict.fromkeys(found))

    @property
    def shown(self) -> dict[str, list[str]]:
        """The arms that each table or figure shows."""
        return {}

    def needed(self, arms: Iterable[str]) -> list[Arm]:
        """The arms and all that they start from, in the order of the file."""
        wanted: set[str] = set()
        for arm in reversed(self.arms):
            if arm.id in wanted or arm.id in set(arms):
                wanted |= {arm.id, *arm.parents.values()}
        return [arm for arm in self.arms if arm.id in wanted]

    def commands(self, arm: Arm) -> list[str]:
        """What is measured of an arm: commands of `vgt` with {name}, {run} and {model} for its model's name, folder and
        checkpoint, and {vlm} and the like for its parents' checkpoints."""
        lines = list(self.measurements[arm.kind])
        for line in arm.measure:
            lines += self.measurements.get(line, [line])
        return list(dict.fromkeys(lines))


def model(scale: str, arm: Arm, seed: int) -> str:
    """The name of a model: of its folder and in its records."""
    return f"{scale}_{arm.id}" + (f"-s{seed}" if arm.seeds else "")


def models(scale: str, arm: Arm, seeds: Sequence[int]) -> Mapping[int, str]:
    """The names of an arm's models by seed; of one that is trained once the same for all."""
    return {seed: model(scale, arm, seed) for seed in seeds}


@lru_cache
def load(paper: str) -> Recipe:
    """The recipe of one paper.  Raises ValueError for an unknown or malformed one."""
    path = PAPERS / f"{paper}.toml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in PAPERS.glob("*.toml")))
        raise ValueError(f"paper {paper!r} is unknown; choose one of {known}")
    try:
        return Recipe.model_validate(parse_toml(read(path), path.name))
    except ValueError as error:
        raise ValueError(f"papers/{path.name} is malformed: {error}") from error
