"""Throughput in images: images a second, gains, score against latency, and where the time goes above its floor."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from reports.figures.scores import FLOOR
from reports.figures.style import BLUE, GREEN, INK, LINE, MUTED, ORANGE, PALETTE, VERMILION, Figure, draw, look
from reports.measured import Measured, label
from reports.tables.table import from_record
from reports.tables.throughput import METHODS, kind, pairs
from reports.tables.vgt_tab8_decoding import TIMES, ratio
from vgt.core.record import Record

COLORS = {"query_ar": BLUE, "mar": VERMILION}
STYLES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (4, 1, 1, 1)))
MARKERS = "osD^"
PARTS = {
    "prefill": ("Text", MUTED), "language_model": ("Language model", BLUE), "head": ("Flow head", ORANGE),
    "decode": ("Autoencoder", GREEN), "other": ("Other", LINE),
}  # fmt: skip
LEGEND = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 2, "handletextpad": 0.4, "columnspacing": 1}


def _accel_axis(ax: Axes, accels: list[int]) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xticks(accels, [f"{a}x" for a in accels])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("Acceleration (tokens decoded per step)")


def _plain_log(ax: Axes) -> None:
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.yaxis.set_minor_formatter(FuncFormatter(lambda v, _: f"{v:g}" if f"{v:e}"[0] in "25" else ""))
    ax.tick_params(axis="y", which="minor", labelsize=8.5)


def _series(measured: Measured, subject: str, suite: str, metric: str) -> list[tuple[int, float]]:
    """(acceleration, value) of what was measured."""
    found = [r for r in measured.where(suite, metric) if r.subject == subject]
    return [(r.accel, r.value) for r in found if r.accel is not None and r.value is not None]


def _latency(measured: Measured) -> list[tuple[int, str]]:
    return [(batch, suite) for batch, throughput, suite in measured.speed_suites() if not throughput]


def _heads(measured: Measured) -> list[tuple[str, str]]:
    """Pairs of rivals with more than one acceleration."""
    timed = measured.rivals(measured.timed())
    return [pair for pair in timed if len({r.accel for r in measured.records if r.subject == pair[0] and r.accel}) > 1]


@dataclass(frozen=True)
class Line:
    """A curve over accelerations; ``place`` of its batch picks its style."""

    words: str
    color: str
    place: int
    points: list[tuple[int, float]]


def _curves(name: str, what: str, axis: str, lines: list[Line], times: bool) -> list[Figure]:
    """All lines in one figure, none without lines; ``times``: values are ratios, with a line at 1."""
    if not lines:
        return []

    def paint(ax: Axes) -> None:
        for line in lines:
            style = {"linestyle": STYLES[line.place % 4], "marker": MARKERS[line.place % 4], "markersize": 5}
            ax.plot(*zip(*line.points, strict=True), color=line.color, label=line.words, **style)
        if times:
            ax.axhline(1, color=MUTED, linestyle=(0, (3, 3)), linewidth=1, zorder=1)
            ax.set_ylim(bottom=0)
            ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{TIMES}{v:g}"))
        else:
            _plain_log(ax)
        ax.set_ylabel(axis)
        _accel_axis(ax, sorted({a for line in lines for a, _ in line.points}))
        ax.grid()
        ax.legend(**LEGEND)

    words = "; ".join(f"{x.words}: " + ", ".join(f"{a}x {v:.3g}" for a, v in x.points) for x in lines)
    return [draw(name, (4.6, 3.8), f"{what} by acceleration. {words}", paint)]


def _by_method(measured: Measured, pair: tuple[str, str], metric: str) -> list[Line]:
    """A line per method and batch."""
    return [
        Line(f"{name}, batch {batch}", COLORS[key], i, points)
        for (key, name), subject in zip(METHODS.items(), pair, strict=True)
        for i, (batch, suite) in enumerate(_latency(measured))
        if (points := _series(measured, subject, suite, metric))
    ]


def _over_mar(measured: Measured, pair: tuple[str, str]) -> list[Line]:
    """QueryAR's images a second over MAR's, a line per batch."""
    lines = []
    for i, (batch, suite) in enumerate(_latency(measured)):
        points = []
        for accel, _ in _series(measured, pair[0], suite, "images-per-second"):
            both = (from_record(measured.get(s, suite, "images-per-second", accel)) for s in pair)
            value = ratio(*both).value
            points += [(accel, value)] if isinstance(value, float) else []
        lines += [Line(f"Batch {batch}", PALETTE[2 + i % 4], i, points)] if points else []
    return lines


def rates(measured: Measured) -> list[Figure]:
    """Of each pair of rivals: images a second, QueryAR over MAR, the engine over the reference implementation."""
    figures = []
    for pair in _heads(measured):
        of, where = kind(pair[0]), pair[0]
        lines = _by_method(measured, pair, "images-per-second")
        figures += _curves(f"throughput_{where}", "Images per second", f"Images per second ({of})", lines, False)
        over = _over_mar(measured, pair)
        figures += _curves(f"over_mar_{where}", "QueryAR over MAR", f"QueryAR over MAR ({of})", over, True)
        gain = _by_method(measured, pair, "speedup-over-eager")
        what = "Engine over the reference implementation"
        figures += _curves(f"over_readable_{where}", what, f"{what} ({of})", gain, True)
    return figures


def pareto(measured: Measured) -> Figure | None:
    """GenEval overall against milliseconds an image at the smallest batch, a line per generator; each acceleration is
    written beside its point."""
    suites = _latency(measured)
    if not suites:
        return None
    batch, suite = suites[0]
    lines: dict[str, list[tuple[int, Record, float]]] = {}
    for r in measured.where(suite, "ms-per-image"):
        score = measured.get(r.subject, "scenes-geneval", "overall", r.accel)
        if r.accel is not None and r.value is not None and score is not None and score.value is not None:
            lines.setdefault(r.subject, []).append((r.accel, score, r.value))
    if not lines:
        return None

    def paint(ax: Axes) -> None:
        for i, (subject, points) in enumerate(lines.items()):
            color, marker = look(subject, i)
            x, y = [ms for *_, ms in points], [score.value for _, score, _ in points]
            bars = [
                (max(0.0, s.value - s.low), max(0.0, s.high - s.value)) if s.low is not None else (0.0, 0.0)
                for _, s, _ in points
            ]
            ax.errorbar(x, y, yerr=list(zip(*bars, strict=True)), color=color, marker=marker, markersize=6,
                        elinewidth=1.2, linewidth=1.2, label=label(subject))  # fmt: skip
            for (accel, *_), a, b in zip(points, x, y, strict=True):
                ax.annotate(f"{accel}x", (a, b), xytext=(5, 5), textcoords="offset points", fontsize=8, color=MUTED)
        floor = from_record(measured.get(FLOOR, "scenes-geneval", "overall"))
        if isinstance(floor.value, float):
            ax.axhline(floor.value, color=MUTED, linestyle=(0, (1, 2)), linewidth=1, zorder=1)
            ax.text(1.0, floor.value, "floor", transform=ax.get_yaxis_transform(), color=MUTED, fontsize=8,
                    ha="right", va="bottom")  # fmt: skip
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        ax.xaxis.set_minor_formatter(FuncFormatter(lambda v, _: f"{v:g}" if f"{v:e}"[0] in "25" else ""))
        ax.tick_params(axis="x", which="minor", labelsize=8.5)
        ax.set_xlabel(f"Milliseconds per image, batch {batch} (left is faster)")
        ax.set_ylabel("GenEval overall")
        ax.set_ylim(bottom=0)
        ax.margins(x=0.12)
        ax.grid()
        ax.legend(**LEGEND)

    words = "; ".join(
        f"{label(s)} " + ", ".join(f"{a}x {score.value:.3f} in {ms:.3g} ms" for a, score, ms in p)
        for s, p in lines.items()
    )
    return draw("score_against_latency", (4.9, 4.0), f"GenEval overall against time, batch {batch}: {words}", paint)


def _bars(measured: Measured, suite: str, among: set[str]) -> list[tuple[Record, dict, float | None]]:
    """(time, its split, share of the floor) of the generators with a split."""
    found = []
    for r in measured.where(suite, "ms-per-image"):
        split = r.extra.get("split_ms_per_image")
        if r.subject in among and r.value and split and split["total"] > 0:
            floor = measured.get(r.subject, suite, "floor-ms-per-image", r.accel)
            found.append((r, split, floor.value / r.value if floor is not None and floor.value else None))
    return found


def roofline(measured: Measured) -> list[Figure]:
    """Where the time of an image goes, a bar per generator and acceleration, with the floor as a line across it; a
    figure per batch.  Bars are shares, so that slow and fast ones can be read side by side."""
    figures = []
    for batch, suite in _latency(measured):
        among = {s for pair in pairs(measured) for s in pair if s is not None}
        bars = _bars(measured, suite, among)
        if not bars:
            continue

        def paint(ax: Axes, bars=bars, batch=batch) -> None:
            for y, (r, split, floor) in enumerate(bars):
                left = 0.0
                for part, (words, color) in PARTS.items():
                    width = 100 * split[part] / split["total"]
                    ax.barh(y, width, 0.72, left, color=color, label=words if y == 0 else None)
                    left += width
                ax.text(102, y, f"{r.value:,.0f} ms" if r.value >= 10 else f"{r.value:.2g} ms", va="center", fontsize=8)
                if floor is not None:
                    ax.plot([100 * floor] * 2, [y - 0.46, y + 0.46], color=INK, linewidth=2.2,
                            label="Floor" if y == 0 else None, solid_capstyle="butt")  # fmt: skip
            ax.set_yticks(range(len(bars)), [f"{label(r.subject)} {r.accel}x" for r, *_ in bars], color=INK)
            ax.set_ylim(len(bars) - 0.4, -0.6)
            ax.set_xlim(0, 100)
            ax.set_xlabel(f"Share of the time of an image, %, batch {batch}")
            ax.spines["left"].set_visible(False)
            ax.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3, handletextpad=0.4, columnspacing=1)

        words = "; ".join(
            f"{label(r.subject)} {r.accel}x {r.value:.3g} ms, " + ", ".join(f"{p} {split[p]:.3g}" for p in PARTS)
            for r, split, _ in bars
        )
        size = (6.4, 1.3 + 0.24 * len(bars))
        figures.append(draw(f"roofline_b{batch}", size, f"Where the time goes, batch {batch}: {words}", paint))
    return figures
