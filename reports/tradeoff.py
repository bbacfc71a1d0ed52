"""``vgt report tradeoff``: reconstruction against generation for any models, by pairs or by training step; or any one
number against the training step.

A point is a generator and the autoencoder whose latents it makes; its two numbers come from records, with their
intervals.  The pairs are those that the records tell, or the caller's.  Against the step, a point is any model whose
name ends in one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from matplotlib.axes import Axes

from reports import claims, table
from reports.figures.style import DASHED, MUTED, Figure, draw, errors, look, title_id, write
from reports.measured import Measured, label, row_label
from reports.table import Cell, Column, Filled, Row, Table, apart
from vgt.core import record

X, Y = "photos/psnr-mean", "scenes-geneval/overall"
STEPS = "step"  # as --x: the training step at the end of a name
# What evaluators append to a model's name: modes of sampling ("+bf16"), a hash where another model has the name.
APPENDED = re.compile(r"(\+[\w.,=-]*?|-(?=[0-9]*[a-f])[0-9a-f]{8})+$")
STEP = re.compile(r"(?:^|[-_@./]|step)(\d+)$")
# Directions by the beginning of the metric's name; of others none is known.
LOWER = ("fd-", "fid-", "rfid-", "kid-", "lpips-", "loss")
HIGHER = ("psnr-", "ssim-", "judge-agreement", "precision-", "recall-", "density-", "coverage-", "is-", "accuracy",
          "overall", "dpg", "images-correct", "images-per-second")  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """What an axis shows: ``metric`` of ``suite``."""

    suite: str
    metric: str

    @classmethod
    def parse(cls, given: str) -> Axis:
        """From "suite/metric".  Raises ValueError for anything else."""
        if given == STEPS:
            return cls("", STEPS)
        suite, slash, metric = given.partition("/")
        if not (suite and slash and metric):
            raise ValueError(f"axis {given!r} is not of the form SUITE/METRIC; give for example {X}")
        return cls(suite, metric)

    @property
    def is_step(self) -> bool:
        return self.metric == STEPS and not self.suite

    @property
    def better(self) -> str | None:
        if self.metric.startswith(LOWER):
            return "low"
        return "high" if self.metric.startswith(HIGHER) else None

    @property
    def title(self) -> str:
        if self.is_step:
            return "training step"
        return f"{self.metric} ({self.suite})" + (f", {self.better}er is better" if self.better else "")

    def column(self, key: str, of: str = "") -> Column:
        if self.is_step:
            return Column(key, "Step", "", 0, value=lambda _, row: Cell(float(step_of(row.subject))))
        return Column(
            key, f"{self.metric} ({self.suite})", "", 3, self.better, suite=self.suite, metric=self.metric, of=of
        )

    def known(self, measured: Measured) -> None:
        """Raises ValueError, with what there is, where no record has this metric."""
        if not self.is_step and not any(r.suite == self.suite and r.metric == self.metric for r in measured.records):
            there = sorted(
                {f"{r.suite}/{r.metric}" for r in measured.records if r.suite == self.suite or r.metric == self.metric}
            )
            raise ValueError(
                f"no record of {self.suite}/{self.metric}; "
                + (f"there are {', '.join(there)}" if there else "`vgt report` lists the suites that there are")
            )


def paired(measured: Measured, given: Sequence[str]) -> list[tuple[str, str]]:
    """(autoencoder, generator) pairs: the caller's AE=GENERATOR, else what the records tell of each generator.

    Raises ValueError for a text of another form and for a name without records."""
    if not given:
        found = [(measured.autoencoder_of(generator), generator) for generator in measured.generators()]
        return [(ae, generator) for ae, generator in found if ae is not None]
    names = {r.subject for r in measured.records}
    pairs = []
    for text in given:
        ae, sign, generator = text.partition("=")
        if not (ae and sign and generator):
            raise ValueError(f"--pair {text!r} is not of the form AUTOENCODER=GENERATOR")
        for name in (ae, generator):
            if name not in names:
                raise ValueError(f"--pair {text!r}: no record of {name!r}; there are {', '.join(sorted(names))}")
        pairs.append((ae, generator))
    return pairs


def step_of(name: str) -> int:
    """The training step at the end of a name, e.g. 2000 of "ae-step2000".  Raises ValueError without one."""
    found = STEP.search(APPENDED.sub("", name))
    if not found:
        raise ValueError(f"{name!r} ends in no training step; name snapshots like run-2000 (--name of the evaluators)")
    return int(found.group(1))


def snapshots(measured: Measured, y: Axis) -> list[str]:
    """The models with a number ``y`` whose name ends in a training step.  Raises ValueError where there is none."""
    found = [s for s in measured.subjects(y.suite, metric=y.metric) if STEP.search(APPENDED.sub("", s))]
    if not found:
        raise ValueError(
            f"no model with {y.suite}/{y.metric} has a name that ends in a training step; name snapshots like run-2000 "
            "(--name of the evaluators)"
        )
    return found


def points(
    measured: Measured, pairs: Sequence[tuple[str, str]], x: Axis, y: Axis, accel: int | None, by_step: bool
) -> Filled:
    """The table behind the figure: a row for every pair (against the step, for every snapshot), at ``accel`` or the
    lowest acceleration with a score."""
    x.known(measured)
    y.known(measured)
    if x.is_step:
        pairs = [("", snapshot) for snapshot in snapshots(measured, y)]

    def rows(_: Measured):
        for ae, generator in pairs:
            there = [r.accel for r in measured.where(y.suite, y.metric) if r.subject == generator]
            at = accel if accel is not None else min(there, key=lambda a: a or 0, default=None)
            yield Row(row_label(generator, at), subject=generator, accel=at, others={"autoencoder": (ae, None)})

    columns = [x.column("x", of="autoencoder"), y.column("y")]
    if x.is_step:
        return Table("tradeoff", f"{y.metric} by training step", columns, rows, row_head="Snapshot").fill(measured)
    columns.insert(0, table.text("autoencoder", "Autoencoder", lambda row: label(row.others["autoencoder"][0])))
    if by_step:
        columns.insert(0, Axis("", STEPS).column("step"))
    return Table("tradeoff", "Reconstruction versus generation", columns, rows, row_head="Generator").fill(measured)


def both(filled: Filled) -> list[Row]:
    """The rows with both numbers, measured as the others were."""
    return [r for r in filled.rows if all(isinstance(r.cells[k].value, float) and not r.cells[k].odd for k in "xy")]


def inverse(filled: Filled, x: Axis, y: Axis) -> tuple[int, int, int]:
    """(Pairs of points of two autoencoders in which the better at one is the worse at the other, those of them whose
    intervals are apart on both axes, pairs in all); none where a direction is not known."""
    if None in (x.better, y.better):
        return 0, 0, 0
    rows, sign = both(filled), (1 if x.better == y.better else -1)
    total = sum(a.others != b.others for a, b in combinations(rows, 2))
    opposed = claims.inverse([(sign * row.cells["x"].value, row.cells["y"].value) for row in rows])
    found = [(rows[i], rows[j]) for i, j in opposed if rows[i].others != rows[j].others]
    sure = sum(all(apart(a.cells[k], b.cells[k]) for k in "xy") for a, b in found)
    return len(found), sure, total


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices, in order of the first number, of the points that no other is at least as high as at both numbers and
    higher at one."""

    def beaten(i: int) -> bool:
        (x, y), others = points[i], (p for k, p in enumerate(points) if k != i)
        return any(a >= x and b >= y and (a, b) != (x, y) for a, b in others)

    return sorted((i for i in range(len(points)) if not beaten(i)), key=lambda i: points[i])


def front(rows: Sequence[Row], x: Axis, y: Axis) -> list[Row]:
    """The rows on the Pareto front; none where a direction is not known."""
    if None in (x.better, y.better):
        return []
    signs = [1 if axis.better == "high" else -1 for axis in (x, y)]
    found = pareto([tuple(s * row.cells[k].value for s, k in zip(signs, "xy", strict=True)) for row in rows])
    return [rows[i] for i in found]


def _words(row: Row, x: Axis, y: Axis) -> str:
    """What shows over a point under the pointer."""
    parts = []
    for axis, cell in ((x, row.cells["x"]), (y, row.cells["y"])):
        interval = f" [{cell.low:.4g}, {cell.high:.4g}]" if None not in (cell.low, cell.high) else ""
        parts.append(f"{axis.metric} {cell.value:.4g}{interval}")
    return f"{row.label}: {', '.join(parts)}"


def figure(
    filled: Filled,
    x: Axis,
    y: Axis,
    by_step: bool,
    name: str = "tradeoff",
    group: Callable[[Row], str] | None = None,
) -> Figure:
    """The points with their intervals and the Pareto front, and their numbers under the pointer.  ``by_step`` joins
    those of one run in the order of their steps; ``group`` gives points that belong together one look and one name.

    Raises ValueError where no point has both numbers."""
    rows = both(filled)
    if not rows:
        raise ValueError(f"no pair has both {x.suite}/{x.metric} and {y.suite}/{y.metric} measured alike")
    runs: dict[str, list[Row]] = {}
    for row in rows:
        name_of_run = STEP.sub("", APPENDED.sub("", row.subject)).rstrip("-_@./")
        run = name_of_run if by_step else group(row) if group else row.label
        runs.setdefault(run, []).append(row)
    titles: list[str] = []

    def paint(ax: Axes) -> None:
        heads = []
        if best := front(rows, x, y):
            at = [[row.cells[k].value for row in best] for k in "xy"]
            heads += ax.plot(*at, color=MUTED, linestyle=DASHED, linewidth=1, zorder=1, label="Pareto front")
        for i, (run, of) in enumerate(runs.items()):
            of = sorted(of, key=lambda row: step_of(row.subject)) if by_step else of
            color, marker = look(of[0].subject, i)
            xs, ys = ([row.cells[k] for row in of] for k in "xy")
            at = [[cell.value for cell in cells] for cells in (xs, ys)]
            line = "-" if by_step else "none"
            ax.errorbar(*at, xerr=errors(*xs), yerr=errors(*ys), color=color, linestyle=line, linewidth=1, elinewidth=1)
            for row, cx, cy in zip(of, xs, ys, strict=True):
                face = "white" if cx.partial or cy.partial else color
                (point,) = ax.plot(
                    cx.value, cy.value, color=color, markerfacecolor=face, linestyle="none", marker=marker, markersize=6
                )
                if row is of[0]:
                    point.set_label(label(run))
                    heads.append(point)
                point.set_gid(title_id(len(titles)))
                titles.append(_words(row, x, y))
                if not group and not x.is_step:
                    words = str(step_of(row.subject)) if by_step else row.label
                    ax.annotate(words, (cx.value, cy.value), (6, 4), textcoords="offset points", fontsize=8)
        ax.set_xlabel(x.title)
        ax.set_ylabel(y.title)
        ax.margins(0.18)
        ax.grid()
        if group:
            ax.legend(handles=heads, loc="upper left", bbox_to_anchor=(1, 1))
        elif shown := heads if by_step and len(runs) > 1 else heads[:1] if best else []:
            ax.legend(handles=shown)  # other points have their names beside them

    values = "; ".join(f"{row.label} {row.cells['x'].value:.4g}, {row.cells['y'].value:.4g}" for row in rows)
    size = (8.0, 4.6) if group else (6.2, 4.6)
    return draw(name, size, f"{y.metric} against {x.metric}: {values}", paint, titles)


def _said(x: Axis, y: Axis, against: int, sure: int, total: int) -> str:
    if None in (x.better, y.better):
        return "no inverse pairs are counted: it is not known whether high or low is better"
    return (
        f"{against} of {total} pairs inverse (better at one, worse at the other), {sure} with intervals apart on both"
    )


def run(
    roots: Sequence[Path], out: Path, x: str, y: str, pairs: Sequence[str], accel: int | None, by: str | None
) -> dict:
    """Write ``out/tradeoff.png``, ``.svg``, ``.pdf`` and the table as ``.md``, ``.tex`` and ``.csv``; returns what the
    closing JSON line holds.  ``by``: "pair" or "step".  Raises ValueError for metrics or pairs without records, and for
    options without effect."""
    measured, axes = Measured(record.read(roots)), (Axis.parse(x), Axis.parse(y))
    if axes[1].is_step:
        raise ValueError(f"--y {STEPS} is no score; give SUITE/METRIC, for example {Y}")
    for name, given in (("pair", pairs), ("by", by)):
        if axes[0].is_step and given:
            raise ValueError(f"--{name} has no effect with --x {STEPS}, which joins the snapshots of a run")
    by_step = axes[0].is_step or by == "step"
    filled = points(measured, paired(measured, pairs), *axes, accel, by_step)
    table.write(filled, out)
    write(figure(filled, *axes, by_step), out)
    against, sure, total = inverse(filled, *axes)
    print(table.markdown(filled))
    if not axes[0].is_step:
        print(_said(*axes, against, sure, total))
    print(f"\nfigure: {out / 'tradeoff.png'}")
    return {"figure": str(out / "tradeoff.png"), "table": str(out / "tradeoff.csv"), "pairs": total, "inverse": against,
            "inverse_apart": sure}  # fmt: skip
