"""Speed: images a second and gains by acceleration, score against latency, and where the time of an image goes.

Times that were measured while other work ran are left out: a curve of them shows the other work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from reports.figures.scores import OVERALL, baseline
from reports.figures.style import (
    ABOVE,
    BLUE,
    DASHED,
    GREEN,
    INK,
    LINE,
    MUTED,
    ORANGE,
    PALETTE,
    VERMILION,
    Figure,
    accel_axis,
    draw,
    errors,
    look,
    plain_log,
)
from reports.measured import GENEVAL, MAR, METHODS, QUERY_AR, Measured, label, row_label
from reports.table import from_record, ratio
from reports.tables import TIMES, shared, speedup
from vgt.core.record import Record

COLORS = {QUERY_AR: BLUE, MAR: VERMILION}
STYLES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (4, 1, 1, 1)))
MARKERS = "osD^"
PARTS = {
    "prefill": ("Text", MUTED),
    "language_model": ("Language model", BLUE),
    "head": ("Flow head", ORANGE),
    "decode": ("Autoencoder", GREEN),
    "other": ("Other", LINE),
}


@dataclass(frozen=True)
class Curve:
    """A curve over accelerations and how it looks."""

    words: str
    color: str
    marker: str
    points: list[tuple[int, float]]
    style: object = "-"


def _timed(measured: Measured, suite: str, metric: str) -> list[Record]:
    """The records of a time or a rate, without those of a busy machine."""
    return [r for r in measured.where(suite, metric) if r.value is not None and "busy" not in r.extra]


def _points(measured: Measured, subject: str, suite: str, metric: str) -> list[tuple[int, float]]:
    """(acceleration, value) of what was measured."""
    found = [r for r in _timed(measured, suite, metric) if r.subject == subject]
    return [(r.accel, r.value) for r in found if r.accel is not None]


def _figure(name: str, what: str, axis: str, curves: list[Curve], finish: Callable[[Axes, list[int]], None]) -> Figure:
    """All curves by acceleration; ``finish`` completes the axes, given the accelerations."""

    def paint(ax: Axes) -> None:
        accels = sorted({a for c in curves for a, _ in c.points})
        for c in curves:
            look_ = {"color": c.color, "marker": c.marker, "markersize": 5, "linestyle": c.style}
            ax.plot(*zip(*c.points, strict=True), label=c.words, **look_)
        finish(ax, accels)
        ax.set_ylabel(axis)
        accel_axis(ax, accels)
        ax.grid(which="major")
        ax.legend(**ABOVE)

    values = "; ".join(f"{c.words}: " + ", ".join(f"{a}x {v:.3g}" for a, v in c.points) for c in curves)
    return draw(name, (4.1, 3.5), f"{what} by acceleration. {values}", paint)


def _rates(ax: Axes, _: list[int]) -> None:
    plain_log(ax, "y")


def _ratios(ax: Axes, _: list[int]) -> None:
    ax.axhline(1, color=MUTED, linestyle=DASHED, linewidth=1, zorder=1)
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{TIMES}{v:g}"))


def _gains(ax: Axes, accels: list[int]) -> None:
    ax.plot(accels, accels, color=MUTED, linestyle=DASHED, linewidth=1, label="ideal")
    ax.set_yscale("log", base=2)
    ax.set_yticks(accels, [f"{TIMES}{a}" for a in accels])
    ax.yaxis.set_minor_locator(NullLocator())


def own(measured: Measured) -> list[Figure]:
    """Images a second by acceleration, and how much faster each generator is than itself at 1x."""
    rates, gains = [], []
    for subject in measured.generators():
        points = _points(measured, subject, measured.speed_suite, "images-per-second")
        if points:
            color, marker = look(subject, len(rates))
            rates.append(Curve(label(subject), color, marker, points))
            times = [(a, speedup(measured, subject, a, subject, 1)) for a, _ in points]
            over = [(a, cell.value) for a, cell in times if cell.value is not None and not cell.busy]
            gains += [Curve(label(subject), color, marker, over)] if over else []
    figures = [_figure("speed", "Images per second", "Images per second", rates, _rates)] if rates else []
    if any(len(curve.points) > 1 for curve in rates):
        what = "Speed of each generator over its own at 1x"
        figures.append(_figure("speedup", what, "Speed over its own 1x", gains, _gains))
    return figures


def _by_method(measured: Measured, pair: tuple[str, str], metric: str) -> list[Curve]:
    """A curve per method and batch."""
    return [
        Curve(f"{name}, batch {batch}", COLORS[key], MARKERS[i % 4], points, STYLES[i % 4])
        for (key, name), subject in zip(METHODS.items(), pair, strict=True)
        for i, (batch, suite) in enumerate(measured.latency_suites())
        if (points := _points(measured, subject, suite, metric))
    ]


def _over_mar(measured: Measured, pair: tuple[str, str]) -> list[Curve]:
    """QueryAR's images a second over MAR's, a curve per batch."""
    curves = []
    for i, (batch, suite) in enumerate(measured.latency_suites()):
        points = []
        for accel, _ in _points(measured, pair[0], suite, "images-per-second"):
            over = ratio(*(from_record(measured.get(s, suite, "images-per-second", accel)) for s in pair))
            points += [(accel, over.value)] if isinstance(over.value, float) and not over.busy else []
        if points:
            curves.append(Curve(f"Batch {batch}", PALETTE[2 + i % 4], MARKERS[i % 4], points, STYLES[i % 4]))
    return curves


def rates(measured: Measured) -> list[Figure]:
    """Of each pair of rivals with more than one acceleration: images a second, QueryAR over MAR, the engine over the
    reference implementation."""
    figures = []
    for pair in measured.rivals(measured.timed()):
        if len({r.accel for r in measured.records if r.subject == pair[0] and r.accel}) < 2:
            continue
        of = shared(dict(zip(METHODS, pair, strict=True)))
        rate, over = "Images per second", "QueryAR over MAR"
        engine = "Engine over the reference implementation"
        for name, what, axis, curves, finish in (
            ("throughput", rate, rate, _by_method(measured, pair, "images-per-second"), _rates),
            ("over_mar", over, over, _over_mar(measured, pair), _ratios),
            (
                "over_reference",
                engine,
                "Engine over reference",
                _by_method(measured, pair, "speedup-over-eager"),
                _ratios,
            ),
        ):
            figures += [_figure(f"{name}_{pair[0]}", what, f"{axis} ({of})", curves, finish)] if curves else []
    return figures


def pareto(measured: Measured) -> list[Figure]:
    """GenEval overall against milliseconds an image at the smallest batch, a line per generator; each acceleration is
    written beside its point."""
    suites = measured.latency_suites()
    if not suites:
        return []
    batch, suite = suites[0]
    lines: dict[str, list[tuple[int, Record, float]]] = {}
    for r in _timed(measured, suite, "ms-per-image"):
        score = measured.get(r.subject, GENEVAL, "overall", r.accel)
        if r.accel is not None and score is not None and score.value is not None:
            lines.setdefault(r.subject, []).append((r.accel, score, r.value))
    if not lines:
        return []

    def paint(ax: Axes) -> None:
        for i, (subject, points) in enumerate(lines.items()):
            color, marker = look(subject, i)
            x, cells = [ms for *_, ms in points], [from_record(score) for _, score, _ in points]
            ax.errorbar(x, [c.value for c in cells], yerr=errors(*cells), color=color, marker=marker, markersize=6,
                        elinewidth=1.2, linewidth=1.2, label=label(subject))  # fmt: skip
            for accel, score, ms in points:
                place = {"xy": (ms, score.value), "xytext": (5, 5), "textcoords": "offset points"}
                ax.annotate(f"{accel}x", fontsize=8, color=MUTED, **place)
        baseline(ax, measured)
        plain_log(ax, "x")
        ax.set_xlabel(f"Milliseconds per image, batch {batch} (left is faster)")
        ax.set_ylabel(OVERALL)
        ax.set_ylim(bottom=0)
        ax.margins(x=0.12)
        ax.grid()
        ax.legend(**ABOVE)

    values = "; ".join(
        f"{label(s)} " + ", ".join(f"{a}x {score.value:.3f} in {ms:.3g} ms" for a, score, ms in points)
        for s, points in lines.items()
    )
    alt = f"GenEval overall against time, batch {batch}: {values}"
    return [draw("score_against_latency", (4.9, 4.0), alt, paint)]


def _bars(measured: Measured, suite: str) -> list[tuple[Record, dict, float | None]]:
    """(time, its split, the lower bound as a share of it) of the generators with a split."""
    found = []
    for r in _timed(measured, suite, "ms-per-image"):
        split = r.extra.get("split_ms_per_image")
        if r.value and split and split["total"] > 0:
            bound = measured.get(r.subject, suite, "floor-ms-per-image", r.accel)
            found.append((r, split, bound.value / r.value if bound is not None and bound.value else None))
    return found


def time_split(measured: Measured) -> list[Figure]:
    """Where the time of an image goes, a bar per generator and acceleration, with the lower bound as a line across it;
    a figure per batch.  Bars are shares, so that slow and fast ones can be read side by side."""
    figures = []
    for batch, suite in measured.latency_suites():
        bars = _bars(measured, suite)
        if not bars:
            continue

        def paint(ax: Axes, bars=bars, batch=batch) -> None:
            for y, (r, split, bound) in enumerate(bars):
                left = 0.0
                for part, (words, color) in PARTS.items():
                    width = 100 * split[part] / split["total"]
                    ax.barh(y, width, 0.72, left, color=color, label=words if y == 0 else None)
                    left += width
                ax.text(102, y, f"{r.value:,.0f} ms" if r.value >= 10 else f"{r.value:.2g} ms", va="center", fontsize=8)
                if bound is not None:
                    ax.plot([100 * bound] * 2, [y - 0.46, y + 0.46], color=INK, linewidth=2.2,
                            label="Lower bound" if y == 0 else None, solid_capstyle="butt")  # fmt: skip
            ax.set_yticks(range(len(bars)), [row_label(r.subject, r.accel) for r, *_ in bars], color=INK)
            ax.set_ylim(len(bars) - 0.4, -0.6)
            ax.set_xlim(0, 100)
            ax.set_xlabel(f"Share of the time of an image, %, batch {batch}")
            ax.spines["left"].set_visible(False)
            ax.legend(**ABOVE | {"bbox_to_anchor": (0.4, 1.0), "ncols": 3})

        values = "; ".join(
            f"{row_label(r.subject, r.accel)} {r.value:.3g} ms, " + ", ".join(f"{p} {split[p]:.3g}" for p in PARTS)
            for r, split, _ in bars
        )
        size = (6.4, 1.3 + 0.24 * len(bars))
        figures.append(draw(f"roofline_b{batch}", size, f"Where the time goes, batch {batch}: {values}", paint))
    return figures
