"""How a paper is regenerated, as data: the scales, arms and measurements of ``papers/<paper>.toml``.

An arm is one thing that is trained: a preset, settings on top of it, and the arms that it starts from.  At a scale it
has a model for each seed, named ``<scale>_<arm>-s<seed>`` in folders and records.  ``vgt/commands/paper.py`` trains and
measures them; tables and claims read their records.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reports import published
from reports.published import PAPERS, Paper
from vgt.core.text import parse_toml, read

Kind = Literal["vlm", "autoencoder", "generator", "class_generator"]
SHOWN_ROLES = ("vlm", "autoencoder", "generator")  # of a row of a table
ROLES = (
    "vlm",
    "weights",
    "decoder",
    "autoencoder",
    "vision",
    "discriminator",
)  # what an arm may start from, as in a preset's [init]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Scale(_Strict):
    """Sizes of one scale.  ``folder``: of its presets, below vgt/presets; ``presets``: names of presets that are other
    ones here; ``published``: models that stand for arms and are not trained ("" where presets name them themselves);
    ``measurements``: those that are other ones here; ``without``: arms that it does not have; ``enough``: samples by
    suite/metric that claims ask for here, where the protocol's number is that of full size."""

    title: str
    folder: str
    size: int
    tokens: int
    seeds: list[int]
    presets: dict[str, str] = {}
    published: dict[str, str] = {}
    measurements: dict[str, list[str]] = {}
    without: list[str] = []
    enough: dict[str, int] = {}

    def preset(self, name: str) -> str:
        """The name of the preset ``name`` at this scale, as `vgt train` takes it."""
        return "_".join(part for part in (self.folder, self.presets.get(name, name)) if part)


class Arm(_Strict):
    """``kind``: a generator by prompts has an acceleration in its records, a ``class_generator`` (by label) has none;
    ``parents``: arms by the role that they have in the preset's [init]; ``settings``: on top of the preset; ``seeds``
    False: trained once; ``measure``: names of ``Recipe.measurements`` or commands, on top of its kind's."""

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


class Quantity(_Strict):
    """A number of ours: the record of ``metric`` in ``suite`` of the subject ``of``, e.g. "oracle+{autoencoder}"."""

    of: str
    suite: str
    metric: str
    head: str
    unit: str = ""
    digits: int = 3
    better: Literal["high", "low"] | None = None

    @property
    def roles(self) -> list[str]:
        return re.findall(r"{(\w+)}", self.of)


class Line(_Strict):
    """A row of a table: ``paper``, its label in the published table, or ``label``, a row of ours; and arms by role.

    ``accel``: of the generator.  ``reference``: the roles name subjects that are not trained.  ``x``, ``group``: place
    and line in a figure.  ``suffix``: behind the generator's name, a decoding schedule or a step."""

    paper: str = ""
    label: str = ""
    vlm: str | None = None
    autoencoder: str | None = None
    generator: str | None = None
    accel: int = 1
    reference: bool = False
    x: float | None = None
    group: str = ""
    suffix: str = ""

    @model_validator(mode="after")
    def _named(self) -> Line:
        if bool(self.paper) == bool(self.label):
            raise ValueError(f"a row needs `paper` or `label`, one of them: {self.paper!r} and {self.label!r}")
        return self

    @property
    def arms(self) -> dict[str, str]:
        """{role: arm}."""
        return {role: arm for role in SHOWN_ROLES if (arm := getattr(self, role))}


class Entry(_Strict):
    """One table or figure as it is regenerated; ``papers/vgt.toml`` says what the fields mean.

    ``bare``: columns of the paper that nothing here measures have none of ours beside them, and the reasons stand below
    the table; ``unmatched``: about rows of the paper without arms.

    ``draw``: what stands above the table (``reports/figures/paper.py``), over ``caption``: learning curves of
    ``curve``; a sweep along ``axis``, a panel for each quantity of ``panels``; maps of latents; images; points of one
    quantity against another, a plot for each pair of ``plots``."""

    id: str
    title: str = ""
    columns: dict[str, str] = {}
    also: list[str] = []
    curve: str = ""
    schedules: bool = False
    rows: list[Line]
    notes: list[str] = []
    bare: bool = False
    unmatched: str = (
        "Rows without a cell of ours: models that the paper quotes from other works, with none like it here."
    )
    draw: Literal["", "curves", "sweep", "clusters", "dispersion", "samples", "tradeoff"] = ""
    caption: str = ""
    axis: str = ""
    panels: list[str] = []
    plots: list[tuple[str, str]] = []

    @property
    def names(self) -> list[str]:
        """Of the quantities that it shows."""
        curve, plotted = [self.curve] if self.curve else [], [name for pair in self.plots for name in pair]
        return list(dict.fromkeys((*self.columns.values(), *self.also, *curve, *self.panels, *plotted)))

    @property
    def arms(self) -> list[str]:
        """Those behind its rows."""
        return list(dict.fromkeys(arm for row in self.rows if not row.reference for arm in row.arms.values()))


class Recipe(_Strict):
    """All of one paper.  Raises ValueError for an arm that starts from an unknown one or from a later one.

    ``variants``: words for what stands behind a model's name after a hyphen, as a measurement's --name made it;
    ``names``: of suite/metric in claims."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    scales: dict[str, Scale]
    measurements: dict[str, list[str]]
    arms: list[Arm]
    quantities: dict[str, Quantity] = {}
    unmeasured: dict[str, str] = {}
    variants: dict[str, str] = {}
    names: dict[str, str] = {}
    regenerated: list[Entry] = []

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

    def accel(self, arm: str, told: int = 1) -> int | None:
        """The acceleration in an arm's records: the one ``told`` of a generator by prompts, none of others."""
        return told if self[arm].kind == "generator" else None

    def arms_of(self, names: Iterable[str], claims: Mapping[str, list[str]]) -> list[str]:
        """The arms that tables, figures and ``claims`` of these names need; an arm's name is itself.  Raises ValueError
        for an unknown one."""
        known = {**{arm.id: [arm.id] for arm in self.arms}, **self.shown, **claims}
        found: dict[str, None] = {}
        for name in names:
            if name not in known:
                choices = ", ".join([*self.shown, *claims])
                raise ValueError(f"--only {name!r} is unknown; choose of {choices}, or name an arm of the recipe")
            found |= dict.fromkeys(known[name])
        return list(found)

    @property
    def shown(self) -> dict[str, list[str]]:
        """The arms that each table or figure shows."""
        return {entry.id: entry.arms for entry in self.regenerated}

    def entry(self, name: str) -> Entry:
        """Raises ValueError for a table or figure that is not regenerated."""
        for entry in self.regenerated:
            if entry.id == name:
                return entry
        raise ValueError(f"table {name!r} is unknown; choose of {', '.join(self.shown)}")

    def needed(self, arms: Iterable[str]) -> list[Arm]:
        """The arms and all that they start from, in the order of the file."""
        wanted: set[str] = set()
        for arm in reversed(self.arms):
            if arm.id in wanted or arm.id in set(arms):
                wanted |= {arm.id, *arm.parents.values()}
        return [arm for arm in self.arms if arm.id in wanted]

    def measured(self, scale: str) -> dict[str, list[str]]:
        """Commands by name at a scale."""
        return self.measurements | self.scale(scale).measurements

    def commands(self, arm: Arm, scale: str) -> list[str]:
        """What is measured of an arm: commands of `vgt` with {name}, {run} and {model} for its model's name, folder and
        checkpoint, {vlm} and the like for its parents' checkpoints, and {step} for each of its snapshots."""
        known = self.measured(scale)
        lines = list(known[arm.kind])
        for line in arm.measure:
            lines += known.get(line, [line])
        return list(dict.fromkeys(lines))


def command(paper: str, scale: str, only: str) -> str:
    """What runs the arms that a table, figure or claim lacks."""
    which = "" if paper == published.DEFAULT else f" --paper {paper}"
    return f"vgt reproduce paper{which} --scale {scale} --only {only}"


def model(scale: str, arm: Arm, seed: int) -> str:
    """The name of a model: of its folder and in its records."""
    return f"{scale}_{arm.id}" + (f"-s{seed}" if arm.seeds else "")


def models(scale: str, arm: Arm, seeds: Sequence[int]) -> Mapping[int, str]:
    """The names of an arm's models by seed; of one that is trained once the same for all."""
    return {seed: model(scale, arm, seed) for seed in seeds}


def _check(of: Recipe, paper: Paper) -> None:
    """Raises ValueError where what is regenerated names what is not there, or leaves out a column of the paper."""
    tables = {table.id: table for table in paper.tables}
    for name, scale in of.scales.items():
        if unknown := [arm for arm in scale.without if arm not in {a.id for a in of.arms}]:
            raise ValueError(f"scale {name}: arms {unknown} are unknown")
    for entry in of.regenerated:
        if unknown := [name for name in entry.names if name not in of.quantities]:
            raise ValueError(f"{entry.id}: quantities {unknown} are unknown")
        for arm in entry.arms:
            of[arm]
        labels = [row.paper for row in entry.rows if row.paper]
        theirs = tables.get(entry.id)
        order = [row["label"] for row in theirs.rows] if theirs else []
        if [label for label in order if label in labels] != labels:
            raise ValueError(f"{entry.id}: rows {labels} are not rows of the paper in its order")
        scores = [c.key for c in theirs.columns if c.better] if theirs else []
        if unknown := [key for key in entry.columns if key not in scores]:
            raise ValueError(f"{entry.id}: {unknown} are no columns of scores of the paper")
        if lacking := [key for key in scores if key not in entry.columns and key not in of.unmeasured]:
            raise ValueError(f"{entry.id}: columns {lacking} have neither a quantity nor a reason in [unmeasured]")


@lru_cache
def load(paper: str) -> Recipe:
    """The recipe of one paper.  Raises ValueError for an unknown or malformed one."""
    path = PAPERS / f"{paper}.toml"
    if not path.exists():
        raise ValueError(f"paper {paper!r} is unknown; choose one of {', '.join(published.known())}")
    try:
        found = Recipe.model_validate(parse_toml(read(path), path.name))
        _check(found, published.load(paper))
    except ValueError as error:
        raise ValueError(f"papers/{path.name} is malformed: {error}") from error
    return found
