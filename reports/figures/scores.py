"""Scores with their intervals: the forest of GenEval scores, reconstruction against generation, calibration."""

from __future__ import annotations

from matplotlib.axes import Axes

from reports.figures.style import INK, MUTED, PALETTE, Figure, draw, look
from reports.measured import TASKS, Measured, is_reference, label, row_label
from reports.tables.calibration import JUDGE
from reports.tables.table import from_record
from reports.tables.vgt_tab6_tradeoff import X, points

FLOOR = "shuffled"


def _errors(cell) -> list[list[float]] | None:
    if cell.low is None or cell.high is None:
        return None
    # A bootstrap interval may lie to one side of its estimate.
    return [[max(0.0, cell.value - cell.low)], [max(0.0, cell.high - cell.value)]]


def _floor(ax: Axes, measured: Measured, across: str) -> None:
    """The floor of ``scenes-geneval`` as a dashed line across the x or the y axis."""
    cell = from_record(measured.get(FLOOR, "scenes-geneval", "overall"))
    if isinstance(cell.value, float):
        line = ax.axvline if across == "x" else ax.axhline
        line(cell.value, color=MUTED, linestyle=(0, (3, 3)), linewidth=1, zorder=1)
        where = (cell.value, 1.0) if across == "x" else (1.0, cell.value)
        transform = ax.get_xaxis_transform() if across == "x" else ax.get_yaxis_transform()
        aligned = {"ha": "center", "va": "bottom"} if across == "x" else {"ha": "right", "va": "bottom"}
        ax.text(*where, "floor", transform=transform, color=MUTED, fontsize=8, **aligned)


def forest(measured: Measured) -> Figure | None:
    """GenEval overall of every generator and acceleration, with 95 % intervals, floor and ceilings."""
    found = [r for r in measured.where("scenes-geneval", "overall") if r.value is not None]
    if not found:
        return None

    def paint(ax: Axes) -> None:
        for y, r in enumerate(found):
            cell, (color, marker) = from_record(r), look(r.subject, y)
            color, marker = (MUTED, "|") if is_reference(r.subject) else (color, marker)
            face = "white" if r.partial else color
            ax.errorbar(
                cell.value,
                y,
                xerr=_errors(cell),
                color=color,
                marker=marker,
                markerfacecolor=face,
                markersize=6,
                elinewidth=1.6,
            )
        names = [row_label(r.subject, r.accel) + (" \N{DAGGER}" if r.partial else "") for r in found]
        ax.set_yticks(range(len(found)), names, color=INK)
        ax.set_ylim(len(found) - 0.4, -0.6)
        ax.set_xlim(-0.02, 1.02)
        ax.set_xlabel("GenEval overall")
        ax.grid(axis="x")
        ax.spines["left"].set_visible(False)
        _floor(ax, measured, "x")

    alt = "GenEval overall with 95 % intervals: " + "; ".join(
        f"{row_label(r.subject, r.accel)} {r.value:.3f}" for r in found
    )
    return draw("geneval_overall", (4.6, 0.8 + 0.25 * len(found)), alt, paint)


def tradeoff(measured: Measured) -> list[Figure]:
    """GenEval overall at 1x against each measure of reconstruction."""
    figures = []
    for key, (_, _, words) in X.items():
        shown = [
            p
            for p in points(measured)
            if isinstance(p.cells[key].value, float) and isinstance(p.cells["overall"].value, float)
        ]
        if not shown:
            continue

        def paint(ax: Axes, key=key, words=words, shown=shown) -> None:
            for i, p in enumerate(shown):
                x, y = p.cells[key], p.cells["overall"]
                color, marker = look(p.generator, i)
                face = "white" if x.partial or y.partial else color
                ax.errorbar(
                    x.value,
                    y.value,
                    xerr=_errors(x),
                    yerr=_errors(y),
                    color=color,
                    marker=marker,
                    markerfacecolor=face,
                    markersize=7,
                    elinewidth=1.4,
                    label=label(p.autoencoder),
                )
            ax.set_xlabel(words)
            ax.set_ylabel("GenEval overall at 1x")
            ax.margins(0.18)
            ax.grid()
            _floor(ax, measured, "y")
            ax.set_ylim(bottom=0)
            ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, handletextpad=0.3, columnspacing=1)

        alt = f"GenEval overall at 1x against {words}: " + "; ".join(
            f"{label(p.autoencoder)} {p.cells[key].value:.3g}, {p.cells['overall'].value:.3f}" for p in shown
        )
        figures.append(draw(f"tradeoff_{key.split('_')[1]}", (4.9, 3.7), alt, paint))
    return figures


PANELS = {
    "Blur": (("calibration-clean", "none"), ("calibration-blur1", "sigma 1"), ("calibration-blur1.5", "1.5")),
    "Noise": (("calibration-clean", "none"), ("calibration-noise10", "sigma 10"), ("calibration-noise20", "20")),
    "JPEG": (("calibration-clean", "PNG"), ("calibration-jpeg50", "quality 50"), ("calibration-jpeg25", "25")),
    "Shrinking": (("calibration-clean", "64 px"), ("calibration-shrink48", "48 px"), ("calibration-shrink32", "32 px")),
}
LINES = (("overall", "Overall", PALETTE[0], "o"), ("exact-set", "Exact set", PALETTE[1], "s"))


def calibration(measured: Measured) -> list[Figure]:
    """One panel per kind of degradation; tasks as thin gray lines, overall and exact set on top."""

    def get(suite, metric):
        return from_record(measured.get(JUDGE, suite, metric)).value

    known = [
        v
        for steps in PANELS.values()
        for suite, _ in steps
        for m in (*TASKS, "overall", "exact-set")
        if (v := get(suite, m)) is not None
    ]
    bottom = max(0.0, min(known, default=0.0) - 0.05)
    figures = []
    for title, steps in PANELS.items():
        degraded = steps[1:]
        if not any(get(suite, m) is not None for suite, _ in degraded for m in ("overall", "exact-set", *TASKS)):
            continue

        def paint(ax: Axes, title=title, steps=steps) -> None:
            def line(metric, **kw):
                known = [
                    (i, get(suite, metric)) for i, (suite, _) in enumerate(steps) if get(suite, metric) is not None
                ]
                if known:
                    ax.plot(*zip(*known, strict=True), **kw)

            for i, task in enumerate(TASKS):
                line(task, color="#b4bcc4", linewidth=1, label="Each task" if i == 0 else None)
            for metric, words, color, marker in LINES:
                line(metric, color=color, marker=marker, markersize=5, label=words)
            ax.set_xticks(range(len(steps)), [words for _, words in steps])
            ax.set_ylim(bottom, 1.01)
            ax.set_title(title)
            ax.grid(axis="y")
            if ax.get_legend_handles_labels()[0]:
                ax.legend(loc="lower left")

        kind = title.lower()
        values = (
            f"{words}: {metric} {v:.3f}"
            for suite, words in steps
            for metric in ("overall", "exact-set")
            if (v := get(suite, metric)) is not None
        )
        figures.append(
            draw(f"calibration_{kind}", (2.9, 2.4), f"Judge accuracy under {kind}: " + "; ".join(values), paint)
        )
    return figures
