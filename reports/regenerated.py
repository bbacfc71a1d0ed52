"""The paper's tables from records: its rows, columns and order, its number beside ours, and their difference.

``papers/<paper>.toml`` says which arms (``reports/recipe.py``) stand for a row and which record for a column.  A number
of ours is the mean over the seeds of a scale; where the record of one of them is missing the cell says "not run", never
the mean of the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from reports import published, recipe, verdicts
from reports.measured import Measured, basis, chosen, unlike
from reports.recipe import Entry, Line, Quantity, Recipe
from reports.table import NOT_APPLICABLE, Cell, Column, Filled, Row, Table, from_record
from vgt.core.intervals import Interval
from vgt.core.record import Record
from vgt.core.samples import REPLICATES, Lookup, Samples
from vgt.core.statistics import Part, effect, jackknifed
from vgt.core.trainings import METHOD, between

NOT_RUN = "not run"
STEP = "-step"  # before the training step in the name of a snapshot
ONLY_HERE = "Only here"


# ---------------------------------------------------------------------------------------------------------- numbers


def over_seeds(records: Sequence[Record], samples: Lookup) -> Interval:
    """Mean of one number over seeds with its 95 % interval over seeds and prompts or images (docs/evaluators.md 7.6);
    over seeds alone where the records have neither samples nor replicates.  The records hold values."""
    values = [r.value for r in records]
    parts, method = _items(records, [samples(r) for r in records])
    found = between([values], parts)
    return Interval(found.value, found.low, found.high, found.level, method)


def _items(records: Sequence[Record], kept: Sequence[Samples | None]) -> tuple[Part, str]:
    """What prompts or images add to the variance of a mean over seeds, and what the interval is then made of."""
    if None not in kept and len({frozenset(one.ids) for one in kept}) == 1:
        first = kept[0]
        by_id = [dict(zip(one.ids, one.values, strict=True)) for one in kept]
        matrix = np.array([[values[name] for name in first.ids] for values in by_id])
        return effect([matrix], first.clusters, first.groups).items, METHOD
    blocks = [r.extra.get(REPLICATES) or [] for r in records]
    if len({len(b) for b in blocks}) == 1 and len(blocks[0]) > 1:
        return jackknifed([np.mean(blocks, axis=0)]), METHOD
    return Part(0.0, np.inf), "Student's t over seeds"


def mean(records: Sequence[Record], samples: Lookup) -> Cell:
    """The cell of one number over its seeds; empty, with the reason, where one has no value or they were measured
    differently."""
    first = records[0]
    for r in records:
        if r.value is None:
            return Cell(why=f"{r.model} has no value: {r.note or 'its record gives no reason'}")
        if basis(r) != basis(first):
            return Cell(
                why=f"{r.model} was measured on other data, or by another protocol or judge, than {first.model}"
            )
        if differ := unlike(chosen(r), chosen(first)):
            return Cell(why=f"{r.model} was measured otherwise than {first.model}: {', '.join(differ)}")
    found = over_seeds(records, samples)
    counts = (sum(r.n for r in records), sum(r.n_expected for r in records), sum(r.n_failed for r in records))
    about = {"basis": basis(first), "settings": chosen(first), "interval": found.method}
    return Cell(found.value, found.low, found.high, *counts, **about)


def scales(measured: Measured, paper: str) -> list[str]:
    """The scales of a paper of which these records hold a model with a seed, in the order of the recipe."""
    of = recipe.load(paper)
    arms = "|".join(arm.id for arm in of.arms if arm.seeds)
    found = {m[1] for r in measured.records if (m := re.match(rf"(\w+?)_(?:{arms})-s\d+", r.subject))}
    return [name for name in of.scales if name in found]


def apart(measured: Measured) -> Measured:
    """The records that are of no arm of any paper: the models that have a section of their own on the page."""
    found = measured.records
    for of in map(recipe.load, published.known()):
        arm = re.compile(rf"(?:^|[+~])(?:{'|'.join(of.scales)})_(?:{'|'.join(a.id for a in of.arms)})(?![a-z0-9_])")
        found = [r for r in found if not arm.search(r.subject)]
    return Measured(found)


@dataclass(frozen=True)
class Regenerated:
    """One paper at one scale, from these records and, for intervals over prompts, their ``samples``."""

    measured: Measured
    paper: str
    scale: str
    samples: Lookup = field(default=lambda record: None, repr=False)

    @property
    def recipe(self) -> Recipe:
        return recipe.load(self.paper)

    @property
    def seeds(self) -> list[int]:
        return self.recipe.scale(self.scale).seeds

    @cached_property
    def _known(self) -> set[tuple[str, int | None]]:
        return {(r.subject, r.accel) for r in self.measured.records}

    def models(self, arm: str) -> list[str]:
        """The names of an arm's models, one a seed."""
        return list(dict.fromkeys(recipe.model(self.scale, self.recipe[arm], seed) for seed in self.seeds))

    def subjects(self, row: Line, of: str) -> list[str]:
        """The subjects ``of`` a row, e.g. "oracle+{autoencoder}", one a seed; [] where it lacks a role."""
        roles = re.findall(r"{(\w+)}", of)
        if not row.arms.keys() >= set(roles):
            return []
        made = []
        for seed in self.seeds:
            names = {
                role: arm if row.reference else recipe.model(self.scale, self.recipe[arm], seed)
                for role, arm in row.arms.items()
            }
            made.append(of.format(**names) + (row.suffix if "generator" in roles else ""))
        return list(dict.fromkeys(made))

    def records(self, row: Line, quantity: Quantity) -> dict[str, Record | None]:
        """{subject: record, None where it is missing}, one a seed."""
        accel = self._accel(row, quantity)
        return {
            subject: self.measured.get(subject, quantity.suite, quantity.metric, accel)
            for subject in self.subjects(row, quantity.of)
        }

    def _without(self, row: Line) -> bool:
        """Whether this scale does not have one of a row's arms."""
        return not row.reference and not set(self.recipe.scale(self.scale).without).isdisjoint(row.arms.values())

    def _accel(self, row: Line, quantity: Quantity) -> int | None:
        if row.reference or "generator" not in quantity.roles or not row.generator:
            return None
        return self.recipe.accel(row.generator, row.accel)

    def number(self, row: Line, quantity: Quantity, table: str) -> Cell:
        """The number of one row, over all seeds or not at all.  Where every seed was measured, but never this, it is
        no part of the recipe."""
        found = self.records(row, quantity)
        if not found or self._without(row):
            return Cell(NOT_APPLICABLE)
        if row.reference:
            return from_record(*found.values())
        if None in found.values():
            of = self._accel(row, quantity)
            other = not any(found.values()) and all((subject, of) in self._known for subject in found)
            return Cell() if other else Cell(blank=NOT_RUN, why=self.remedy(table))
        return from_record(*found.values()) if len(found) == 1 else mean(list(found.values()), self.samples)

    def remedy(self, table: str) -> str:
        """What to do about cells that were not run."""
        seeds = ", ".join(map(str, self.seeds))
        command = recipe.command(self.paper, self.scale, table)
        return f"not run for every seed ({seeds}); run: {command} (with --plan it says what that costs)"

    # ------------------------------------------------------------------------------------------------------ tables

    def table(self, name: str) -> Filled:
        """The table of that id, filled.  Raises ValueError for an unknown one."""
        entry = self.recipe.entry(name)
        theirs = next((t for t in published.load(self.paper).tables if t.id == name), None)
        columns, rows = self._columns(entry, theirs), []
        for row in self._rows(entry, theirs):
            cells = self._ours(entry, row, theirs)
            if theirs and row.paper:
                cells |= self._beside(entry, theirs, row, cells)
            kind = "reference" if row.reference else "further" if theirs and not row.paper else "model"
            rows.append(
                Row(row.paper or row.label, {c.key: cells.get(c.key, Cell(NOT_APPLICABLE)) for c in columns}, kind)
            )
        known = {c.key for c in columns for row in rows if isinstance(row.cells[c.key].value, float)}
        columns = [c for c in columns if not c.optional or c.key in known]
        size = self.recipe.scale(self.scale).title
        place = theirs.place if theirs else " ".join(re.split(r"(?<=e)(?=\d)", name))
        place = place[:1].upper() + place[1:]
        title = theirs.title if theirs else entry.title
        title = f"{place}: {title}" if place and (theirs or " " in place) else title
        declared = Table(
            f"{published.stem(self.paper)}_{self.scale}_{name}",
            title,
            columns,
            lambda _: [row for row in rows if row.kind != "reference" or scored(row)],
            [*self._gaps(entry, theirs), *entry.notes, *self._about(entry, theirs)],
        )
        filled = declared.fill(self.measured)
        return replace(filled, label=f"Here: {size}." + (f" Paper: {theirs.setting}." if theirs else ""))

    def _rows(self, entry: Entry, theirs: published.PublishedTable | None) -> Iterator[Line]:
        """The paper's rows in its order (without arms where nothing here is like them), then ours."""
        by_label = {row.paper: row for row in entry.rows}
        for row in theirs.rows if theirs else ():
            yield by_label.get(row["label"], Line(paper=row["label"]))
        ours = [row for row in entry.rows if not row.paper]
        yield from (row for row in ours if not row.reference)
        if entry.schedules:
            yield from self._schedules(entry)
        yield from (row for row in ours if row.reference)

    def _schedules(self, entry: Entry) -> Iterator[Line]:
        """The rows of generators once more, at each decoding schedule that was measured ("+cosine")."""
        for row in entry.rows:
            if row.generator and not row.reference:
                names = tuple(f"{name}+" for name in self.models(row.generator))
                there = [r.subject for r in self.measured.records if r.accel == row.accel]
                for suffix in sorted({"+" + s.partition("+")[2] for s in there if s.startswith(names)}):
                    words = ", ".join((row.paper or row.label, *suffix[1:].split("+")))
                    yield row.model_copy(update={"paper": "", "label": words, "suffix": suffix})

    def _columns(self, entry: Entry, theirs: published.PublishedTable | None) -> list[Column]:
        made = []
        muted = not self.recipe.scale(self.scale).published  # scores at another scale than the paper's
        for c in theirs.columns if theirs else ():
            if not c.better:
                group = c.group or (f"{theirs.setting.capitalize()}, paper" if entry.curve else "")
                made.append(Column(c.key, c.head, c.unit, c.digits, group=group, text=c.text))
                continue
            group = ", ".join(words for words in (c.group, c.head) if words) + (f" [{c.unit}]" if c.unit else "")
            made.append(Column(f"{c.key}_paper", "paper", "", c.digits, c.better, group))
            if entry.bare and c.key not in entry.columns:
                continue
            ours = self.recipe.quantities.get(entry.columns.get(c.key, ""))
            made.append(Column(f"{c.key}_here", "here", "", ours.digits if ours else c.digits, c.better, group))
            if ours:
                made.append(
                    Column(f"{c.key}_difference", "difference", "", c.digits, group=group, signed=True, muted=muted)
                )
        if entry.curve:
            seen = f"{self.recipe.quantities[entry.curve].head} here, images seen"
            digits = self.recipe.quantities[entry.curve].digits
            made += [Column(f"images{n}", f"{n:,}", digits=digits, group=seen) for n in self._counts(entry)]
            made.append(Column("end", "at the end", digits=digits, group=seen))
        for name in entry.also:
            q = self.recipe.quantities[name]
            group = ONLY_HERE if theirs else ""
            made.append(Column(name, q.head, q.unit, q.digits, q.better, group, optional=bool(theirs)))
        return made

    def _ours(self, entry: Entry, row: Line, theirs: published.PublishedTable | None) -> dict[str, Cell]:
        """Our numbers of one row by key of the column."""
        names = {f"{key}_here": name for key, name in entry.columns.items()} | {name: name for name in entry.also}
        cells = {key: self.number(row, self.recipe.quantities[name], entry.id) for key, name in names.items()}
        if entry.curve and row.generator:
            points = {f"images{n}": Cell(blank=NOT_RUN, why=self.remedy(entry.id)) for n in self._counts(entry)}
            cells |= (
                points
                | {f"images{n}": cell for n, cell in self.curve(entry, row)}
                | {"end": self.number(row, self.recipe.quantities[entry.curve], entry.id)}
            )
        for column in theirs.columns if theirs and row.arms else ():
            if column.better and column.key not in entry.columns and not entry.bare:
                cells[f"{column.key}_here"] = Cell(why=self.recipe.unmeasured[column.key])
        return cells

    def _beside(
        self, entry: Entry, theirs: published.PublishedTable, row: Line, ours: dict[str, Cell]
    ) -> dict[str, Cell]:
        """The paper's numbers of one row, and the differences to them."""
        values = next(each for each in theirs.rows if each["label"] == row.paper)
        cells = {}
        for c in theirs.columns:
            given = values.get(c.key)
            cells[f"{c.key}_paper" if c.better else c.key] = Cell(NOT_APPLICABLE if given is None else given)
            here = ours.get(f"{c.key}_here", Cell())
            if isinstance(here.value, float) and isinstance(given, (int, float)):
                cells[f"{c.key}_difference"] = Cell(here.value - given)
        return cells

    def _gaps(self, entry: Entry, theirs: published.PublishedTable | None) -> list[str]:
        """Which rows have some of their seeds, and that rows without numbers of ours have no counterpart."""
        words = []
        for row in entry.rows:
            found = [self.records(row, self.recipe.quantities[name]) for name in entry.names]
            some = [of for of in found if any(of.values())]
            lacking = sorted({subject for of in some for subject, record in of.items() if record is None})
            if lacking and not row.reference and not self._without(row):
                words.append(f"{row.paper or row.label} lacks {', '.join(lacking)}")
        notes = [f"Not all seeds are there: {'; '.join(words)}."] if words else []
        if theirs and len(theirs.rows) > sum(bool(row.paper) for row in entry.rows):
            notes.append(entry.unmatched)
        if theirs and entry.bare:
            reasons: dict[str, dict[str, None]] = {}
            for c in theirs.columns:
                if c.better and c.key not in entry.columns:
                    reasons.setdefault(self.recipe.unmeasured[c.key], {})[c.head] = None
            notes += [f"{', '.join(heads)}: {reason}." for reason, heads in reasons.items()]
        return notes

    def _about(self, entry: Entry, theirs: published.PublishedTable | None) -> list[str]:
        """How the columns are to be read, and what is known about the paper's."""
        words = [f"Here: means over the seeds {', '.join(map(str, self.seeds))}."]
        if entry.columns:
            words.append("Difference: here less paper, where both are the same quantity.")
            if not self.recipe.scale(self.scale).published:
                words.append("The scales differ, so it stands in gray and says little; orders within a column compare.")
        return [" ".join(words), *(f"Paper: {caveat}" for caveat in (theirs.caveats if theirs else ()))]

    # ------------------------------------------------------------------------------------------------------ curves

    def curve(self, entry: Entry, row: Line) -> list[tuple[int, Cell]]:
        """(Images seen, score over seeds) of the snapshots of a generator, in that order."""
        names = self.models(row.generator)
        pattern = re.compile(rf"(?:{'|'.join(map(re.escape, names))}){STEP}(\d+)")
        steps = {int(m[1]) for r in self.measured.records if (m := pattern.fullmatch(r.subject))}
        points = []
        for step in sorted(steps):
            at = row.model_copy(update={"suffix": f"{STEP}{step}"})
            seen = self._images(names[0], step)
            if seen is not None:
                points.append((seen, self.number(at, self.recipe.quantities[entry.curve], entry.id)))
        return points

    def _images(self, model: str, step: int | None = None) -> int | None:
        """Images that a model had seen by ``step`` (None: at its end), as the record of its training tells."""
        training = self.measured.get(model, "training", "loss")
        samples, steps = (training.extra.get(key) for key in ("samples", "steps")) if training else (None, None)
        if not samples or not steps:
            return None
        return round(samples * step / steps) if step is not None else samples

    def end(self, row: Line) -> int | None:
        """Images that a generator has seen in all, where the records tell."""
        return self._images(self.models(row.generator)[0])

    def _counts(self, entry: Entry) -> list[int]:
        return sorted({n for row in entry.rows if row.generator for n, _ in self.curve(entry, row)})


def claims(of: Regenerated) -> list[Filled]:
    """The verdicts on the paper's claims, in short and with every comparison behind them; none where a scale has one
    seed, and trainings cannot be told from luck."""
    if len(of.seeds) < 2:
        return []
    full = verdicts.table(of.paper, of.scale, verdicts.judge(of.paper, of.scale, of.measured, of.samples))
    rows = [row for row in full.rows if "." not in row.label]  # not the comparisons "C1.1", "C1.2"
    return [replace(full, name=f"{full.name}_short", rows=rows), full]


def scored(row: Row) -> bool:
    """Whether a row has a number of ours; the paper's have no basis."""
    return any(isinstance(cell.value, float) and cell.basis is not None for cell in row.cells.values())
