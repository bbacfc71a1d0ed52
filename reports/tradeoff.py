"""``vgt report tradeoff``: reconstruction against generation for any models, by pairs or by training step.

A point is a generator and the autoencoder whose latents it makes; its two numbers come from records, with their
intervals.  The pairs are those that the records tell, or the caller's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from matplotlib.axes import Axes

from reports import claims, table
from reports.figures.style import Figure, draw, errors, look
from reports.measured import Measured, label, row_label
from reports.table import Cell, Column, Filled, Row, Table, apart
from vgt.core import files, record

X, Y = "photos/psnr-mean", "scenes-geneval/overall"
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
        suite, slash, metric = given.partition("/")
        if not (suite and slash and metric):
            raise ValueError(f"axis {given!r} is not of the form SUITE/METRIC; give for example {X}")
        return cls(suite, metric)

    @property
    def better(self) -> str | None:
        if self.metric.startswith(LOWER):
            return "low"
        return "high" if self.metric.startswith(HIGHER) else None

    @property
    def title(self) -> str:
        return f"{self.metric} ({self.suite})" + (f", {self.better}er is better" if self.better else "")

    def column(self, key: str, of: str = "") -> Column:
        return Column(
            key, f"{self.metric} ({self.suite})", "", 3, self.better, suite=self.suite, metric=self.metric, of=of
        )

    def known(self, measured: Measured) -> None:
        """Raises ValueError, with what there is, where no record has this metric."""
        if not any(r.suite == self.suite and r.metric == self.metric for r in measured.records):
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


def points(
    measured: Measured, pairs: Sequence[tuple[str, str]], x: Axis, y: Axis, accel: int | None, by_step: bool
) -> Filled:
    """The table behind the figure: a row for every pair, at ``accel`` or the lowest acceleration with a score."""
    x.known(measured)
    y.known(measured)

    def rows(_: Measured):
        for ae, generator in pairs:
            there = [r.accel for r in measured.where(y.suite, y.metric) if r.subject == generator]
            at = accel if accel is not None else min(there, key=lambda a: a or 0, default=None)
            yield Row(row_label(generator, at), subject=generator, accel=at, others={"autoencoder": (ae, None)})

    columns = [
        table.text("autoencoder", "Autoencoder", lambda row: label(row.others["autoencoder"][0])),
        x.column("x", of="autoencoder"),
        y.column("y"),
    ]
    if by_step:
        columns.insert(0, Column("step", "Step", "", 0, value=lambda _, row: Cell(float(step_of(row.subject)))))
    return Table("tradeoff", "Reconstruction versus generation", columns, rows, row_head="Generator").fill(measured)


def _measured(filled: Filled) -> list[Row]:
    """The rows with both numbers, measured as the others were."""
    return [r for r in filled.rows if all(isinstance(r.cells[k].value, float) and not r.cells[k].odd for k in "xy")]


def inverse(filled: Filled, x: Axis, y: Axis) -> tuple[int, int, int]:
    """(Pairs of points of two autoencoders in which the better at one is the worse at the other, those of them whose
    intervals are apart on both axes, pairs in all); none where a direction is not known."""
    if None in (x.better, y.better):
        return 0, 0, 0
    rows, sign = _measured(filled), (1 if x.better == y.better else -1)
    total = sum(a.others != b.others for a, b in combinations(rows, 2))
    opposed = claims.inverse([(sign * row.cells["x"].value, row.cells["y"].value) for row in rows])
    found = [(rows[i], rows[j]) for i, j in opposed if rows[i].others != rows[j].others]
    sure = sum(all(apart(a.cells[k], b.cells[k]) for k in "xy") for a, b in found)
    return len(found), sure, total


def figure(filled: Filled, x: Axis, y: Axis, by_step: bool) -> Figure:
    """The points with their intervals; ``by_step`` joins those of one run in the order of their steps.

    Raises ValueError where no point has both numbers."""
    rows = _measured(filled)
    if not rows:
        raise ValueError(f"no pair has both {x.suite}/{x.metric} and {y.suite}/{y.metric} measured alike")
    runs: dict[str, list[Row]] = {}
    for row in rows:
        runs.setdefault(STEP.sub("", APPENDED.sub("", row.subject)) if by_step else row.label, []).append(row)

    def paint(ax: Axes) -> None:
        for i, (name, of) in enumerate(runs.items()):
            of = sorted(of, key=lambda row: row.cells["step"].value) if by_step else of
            xs, ys = ([row.cells[k] for row in of] for k in "xy")
            color, marker = look(of[0].subject, i)
            ax.errorbar(
                [c.value for c in xs],
                [c.value for c in ys],
                xerr=errors(*xs),
                yerr=errors(*ys),
                color=color,
                markerfacecolor="white" if any(c.partial for c in (*xs, *ys)) else color,
                linestyle="-" if by_step else "none",
                linewidth=1,
                marker=marker,
                markersize=6,
                label=label(name),
            )
            for row, cx, cy in zip(of, xs, ys, strict=True):
                words = f"{row.cells['step'].value:.0f}" if by_step else row.label
                ax.annotate(words, (cx.value, cy.value), (6, 4), textcoords="offset points", fontsize=8)
        ax.set_xlabel(x.title)
        ax.set_ylabel(y.title)
        ax.margins(0.18)
        ax.grid()
        if by_step and len(runs) > 1:
            ax.legend()

    values = "; ".join(f"{row.label} {row.cells['x'].value:.4g}, {row.cells['y'].value:.4g}" for row in rows)
    return draw("tradeoff", (6.2, 4.6), f"{y.metric} against {x.metric}: {values}", paint)


def run(
    roots: Sequence[Path], out: Path, x: str, y: str, pairs: Sequence[str], accel: int | None, by_step: bool
) -> dict:
    """Write ``out/tradeoff.png``, ``.svg`` and the table as ``.md``, ``.tex`` and ``.csv``; returns what the closing
    JSON line holds.  Raises ValueError for metrics or pairs without records."""
    measured, axes = Measured(record.read(roots)), (Axis.parse(x), Axis.parse(y))
    filled = points(measured, paired(measured, pairs), *axes, accel, by_step)
    drawn = figure(filled, *axes, by_step)
    table.write(filled, out)
    files.write_text(out / "tradeoff.svg", drawn.svg)
    with files.atomic(out / "tradeoff.png") as part:
        part.write_bytes(drawn.png)
    against, sure, total = inverse(filled, *axes)
    print(table.markdown(filled))
    if None in (axes[0].better, axes[1].better):
        print("no inverse pairs are counted: it is not known whether high or low is better")
    else:
        words = "pairs inverse (better at one, worse at the other)"
        print(f"{against} of {total} {words}, {sure} with intervals apart on both")
    print(f"\nfigure: {out / 'tradeoff.png'}")
    return {"figure": str(out / "tradeoff.png"), "table": str(out / "tradeoff.csv"), "pairs": total, "inverse": against,
            "inverse_apart": sure}  # fmt: skip
