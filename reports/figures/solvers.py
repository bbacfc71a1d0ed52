"""Score against evaluations of the flow head, one line per sampler and time schedule."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from reports.figures.scores import FLOOR
from reports.figures.style import INK, MUTED, PALETTE, Figure, draw
from reports.measured import Measured
from reports.tables.solvers import Setting, settings, title
from reports.tables.table import from_record
from vgt.core.record import Record

MARKERS = "osD^vPX"


def _line(ax: Axes, y: float, words: str, style) -> None:
    ax.axhline(y, color=MUTED, linestyle=style, linewidth=1, zorder=1)
    ax.text(1.0, y, words, transform=ax.get_yaxis_transform(), color=MUTED, fontsize=8, ha="right", va="bottom")


def curve(measured: Measured, study: Record) -> Figure | None:
    """Overall scores with 95 % intervals over evaluations a token; the recommended setting is ringed, a dashed line
    is the margin below the baseline, a dotted one the floor."""
    found = settings(measured, study)
    if not found:
        return None
    lines: dict[str, list[Setting]] = {}
    for one in found:
        lines.setdefault(one.solver, []).append(one)
    places = sorted({one.evaluations for one in found})

    def paint(ax: Axes) -> None:
        for i, (solver, of) in enumerate(lines.items()):
            color, of = PALETTE[i % len(PALETTE)], sorted(of, key=lambda s: s.evaluations)
            # Solvers with equally many evaluations stand side by side.
            x = [s.evaluations * 1.02 ** (i - (len(lines) - 1) / 2) for s in of]
            y = [s.record.value for s in of]
            bars = [
                [max(0.0, s.record.value - s.record.low), max(0.0, s.record.high - s.record.value)]
                if s.record.low is not None and s.record.high is not None
                else [0.0, 0.0]
                for s in of
            ]
            marker = MARKERS[i % len(MARKERS)]
            ax.errorbar(x, y, yerr=list(zip(*bars, strict=True)), color=color, marker=marker, markersize=5,
                        elinewidth=1.3, linewidth=1.3, label=solver)  # fmt: skip
            for s, a, b in zip(of, x, y, strict=True):
                if s.recommended:
                    ax.plot(a, b, marker="o", markersize=14, markerfacecolor="none", markeredgecolor=INK, zorder=5)
        for one in found:
            if one.baseline:
                _line(ax, one.record.value - study.protocol_params["margin"], "baseline less margin", (0, (5, 3)))
        floor = from_record(measured.get(FLOOR, "scenes-geneval", "overall"))
        if isinstance(floor.value, float):
            _line(ax, floor.value, "floor", (0, (1, 2)))
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(FixedLocator(places))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        ax.set_xlabel("Flow-head evaluations per token")
        ax.set_ylabel("GenEval overall")
        ax.set_title(title(study))
        ax.grid()
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, handletextpad=0.3, columnspacing=1)

    words = "; ".join(f"{s.solver} {s.evaluations}: {s.record.value:.3f}" for s in found)
    alt = f"GenEval overall by evaluations a token, {title(study)}: {words}"
    return draw(f"solvers_{study.accel}x_{study.suite.rpartition('-')[2]}", (4.9, 4.2), alt, paint)
