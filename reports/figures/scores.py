"""Scores with their intervals: GenEval by generator, against reconstruction and by sampler; the judge's calibration;
and losses by training step."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from reports.figures.style import (
    ABOVE,
    DOTTED,
    INK,
    MARKERS,
    MUTED,
    PALETTE,
    Figure,
    draw,
    errors,
    look,
    plain_log,
    reference_line,
)
from reports.measured import (
    AUTOENCODERS,
    GENERATORS,
    GENEVAL,
    SHUFFLED,
    TASKS,
    Measured,
    is_reference,
    label,
    row_label,
)
from reports.table import PARTIAL, from_record
from reports.tables import CLEAN, JUDGE, TRADEOFF, studies, study_name, study_table, study_title
from vgt.core.record import Record

OVERALL = "GenEval overall"


def baseline(ax: Axes, measured: Measured, across: str = "y") -> None:
    """The score of right images for other prompts as a line across the x or the y axis, where it was measured."""
    cell = from_record(measured.get(SHUFFLED, GENEVAL, "overall"))
    if isinstance(cell.value, float):
        reference_line(ax, cell.value, "shuffled prompts", across, DOTTED)


def forest(measured: Measured) -> list[Figure]:
    """GenEval overall of every generator and acceleration, with 95 % intervals, baseline and ceilings."""
    found = [r for r in measured.where(GENEVAL, "overall") if r.value is not None]
    if not found:
        return []

    def paint(ax: Axes) -> None:
        for y, r in enumerate(found):
            color, marker = (MUTED, "|") if is_reference(r.subject) else look(r.subject, y)
            face = "white" if r.partial else color
            ax.errorbar(r.value, y, xerr=errors(from_record(r)), color=color, marker=marker, markerfacecolor=face,
                        markersize=6, elinewidth=1.6)  # fmt: skip
        names = [row_label(r.subject, r.accel) + (f" {PARTIAL}" if r.partial else "") for r in found]
        ax.set_yticks(range(len(found)), names, color=INK)
        ax.set_ylim(len(found) - 0.4, -0.6)
        ax.set_xlim(-0.02, 1.02)
        ax.set_xlabel(OVERALL)
        ax.grid(axis="x")
        ax.spines["left"].set_visible(False)
        baseline(ax, measured, "x")

    values = "; ".join(f"{row_label(r.subject, r.accel)} {r.value:.3f}" for r in found)
    alt = f"GenEval overall with 95 % intervals: {values}"
    return [draw("geneval_overall", (4.0, 0.8 + 0.22 * len(found)), alt, paint)]


RECONSTRUCTION = {
    "scenes_psnr-mean": "PSNR on scenes [dB]",
    "scenes_judge-agreement": "Judge agreement of reconstructed scenes",
}


def tradeoff(measured: Measured) -> list[Figure]:
    """GenEval overall at 1x against each measure of reconstruction."""
    rows, figures = TRADEOFF.fill(measured).rows, []
    for key, words in RECONSTRUCTION.items():
        shown = [
            (label(row.others["autoencoder"][0]), row.subject, row.cells[key], row.cells["overall"])
            for row in rows
            if all(isinstance(row.cells[k].value, float) for k in (key, "overall"))
        ]
        if not shown:
            continue

        def paint(ax: Axes, words=words, shown=shown) -> None:
            for i, (name, generator, x, y) in enumerate(shown):
                color, marker = look(generator, i)
                face = "white" if x.partial or y.partial else color
                ax.errorbar(x.value, y.value, xerr=errors(x), yerr=errors(y), color=color, marker=marker,
                            markerfacecolor=face, markersize=7, elinewidth=1.4, label=name)  # fmt: skip
            ax.set_xlabel(words)
            ax.set_ylabel(f"{OVERALL} at 1x")
            ax.margins(0.18)
            ax.grid()
            baseline(ax, measured)
            ax.set_ylim(bottom=0)
            ax.legend(**ABOVE)

        values = "; ".join(f"{name} {x.value:.3g}, {y.value:.3f}" for name, _, x, y in shown)
        alt = f"GenEval overall at 1x against {words}: {values}"
        figures.append(draw(f"tradeoff_{key.split('_')[1]}", (4.9, 3.7), alt, paint))
    return figures


DEGRADED = {
    "Blur": ((CLEAN, "none"), ("calibration-blur1", "sigma 1"), ("calibration-blur1.5", "1.5")),
    "Noise": ((CLEAN, "none"), ("calibration-noise10", "sigma 10"), ("calibration-noise20", "20")),
    "JPEG": ((CLEAN, "PNG"), ("calibration-jpeg50", "quality 50"), ("calibration-jpeg25", "25")),
    "Shrinking": ((CLEAN, "64 px"), ("calibration-shrink48", "48 px"), ("calibration-shrink32", "32 px")),
}
LINES = {"overall": ("Overall", PALETTE[0], "o"), "exact-set": ("Exact set", PALETTE[1], "s")}


def calibration(measured: Measured) -> list[Figure]:
    """One panel per kind of degradation; tasks as thin gray lines, overall and exact set on top."""

    def series(steps: tuple, metric: str) -> list[tuple[int, float]]:
        cells = [from_record(measured.get(JUDGE, suite, metric)) for suite, _ in steps]
        return [(i, cell.value) for i, cell in enumerate(cells) if cell.value is not None]

    every = (*TASKS, *LINES)
    found = {title: {m: series(steps, m) for m in every} for title, steps in DEGRADED.items()}
    known = [value for lines in found.values() for points in lines.values() for _, value in points]
    bottom = max(0.0, min(known, default=0.0) - 0.05)
    figures = []
    for title, lines in found.items():
        if not any(i > 0 for points in lines.values() for i, _ in points):
            continue

        def paint(ax: Axes, title=title, lines=lines) -> None:
            def line(metric: str, **style) -> None:
                if lines[metric]:
                    ax.plot(*zip(*lines[metric], strict=True), **style)

            for i, task in enumerate(TASKS):
                line(task, color="#b4bcc4", linewidth=1, label="Each task" if i == 0 else None)
            for metric, (words, color, marker) in LINES.items():
                line(metric, color=color, marker=marker, markersize=5, label=words)
            steps = DEGRADED[title]
            ax.set_xticks(range(len(steps)), [words for _, words in steps])
            ax.set_ylim(bottom, 1.01)
            ax.set_title(title)
            ax.grid(axis="y")
            if ax.get_legend_handles_labels()[0]:
                ax.legend(loc="lower left")

        steps, kind = DEGRADED[title], title.lower()
        values = (
            f"{words}: {m} {v:.3f}" for i, (_, words) in enumerate(steps) for m in LINES for j, v in lines[m] if i == j
        )
        alt = f"Judge accuracy under {kind}: " + "; ".join(values)
        figures.append(draw(f"calibration_{kind}", (2.9, 2.4), alt, paint))
    return figures


def study(measured: Measured, record: Record) -> Figure | None:
    """Overall scores of a study of samplers over evaluations a token; the recommended setting is ringed, a dashed line
    is the margin below the baseline sampler, a dotted one the score of shuffled prompts."""
    rows = study_table(record).fill(measured).rows
    if not rows:
        return None
    solvers = list(dict.fromkeys(row.label for row in rows))

    def paint(ax: Axes) -> None:
        for i, solver in enumerate(solvers):
            of = sorted((row.cells for row in rows if row.label == solver), key=lambda c: c["evaluations"].value)
            ax.errorbar([shifted(c["evaluations"].value, solver) for c in of], [c["overall"].value for c in of],
                        yerr=errors(*(c["overall"] for c in of)), color=PALETTE[i % len(PALETTE)],
                        marker=MARKERS[i % len(MARKERS)], markersize=5, elinewidth=1.3, linewidth=1.3,
                        label=solver)  # fmt: skip
        for row in rows:
            score = row.cells["overall"].value
            if row.record.model == record.extra["recommended"]:
                ax.plot(shifted(row.cells["evaluations"].value, row.label), score, marker="o", markersize=14,
                        markerfacecolor="none", markeredgecolor=INK, zorder=5)  # fmt: skip
            if row.cells["verdict"].value == "baseline":
                less = score - record.protocol_params["margin"]
                reference_line(ax, less, "baseline less margin", style=(0, (5, 3)))
        baseline(ax, measured)
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(FixedLocator(sorted({row.cells["evaluations"].value for row in rows})))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        ax.set_xlabel("Flow-head evaluations per token")
        ax.set_ylabel(OVERALL)
        ax.set_title(study_title(record))
        ax.grid()
        ax.legend(**ABOVE | {"loc": "upper center", "bbox_to_anchor": (0.5, -0.18)})

    def shifted(count: float, solver: str) -> float:
        """Solvers with equally many evaluations stand side by side."""
        return count * 1.02 ** (solvers.index(solver) - (len(solvers) - 1) / 2)

    shown = (f"{r.label} {r.cells['evaluations'].value:g}: {r.cells['overall'].value:.3f}" for r in rows)
    alt = f"GenEval overall by evaluations a token, {study_title(record)}: {'; '.join(shown)}"
    return draw(study_name(record), (4.9, 4.2), alt, paint)


def shown_studies(measured: Measured) -> list[Record]:
    """The studies of samplers on test prompts; every study where there is none."""
    every = studies(measured)
    return [s for s in every if s.suite.endswith("-test")] or every


def samplers(measured: Measured) -> list[Figure]:
    return [figure for s in shown_studies(measured) if (figure := study(measured, s))]


KINDS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "autoencoders": ("Autoencoders", lambda s: s in AUTOENCODERS),
    "generators": ("Generators", lambda s: s in GENERATORS),
    "others": ("Vision-language models and others", lambda s: s not in {*AUTOENCODERS, *GENERATORS}),
}


def training(measured: Measured) -> list[Figure]:
    """Training loss by step, one panel per kind of model (their losses are not comparable)."""
    curves = {r.subject: r.extra["curve"] for r in measured.where("training", "loss") if r.extra.get("curve")}
    figures = []
    for name, (title, of_kind) in KINDS.items():
        shown = {s: curve for s, curve in curves.items() if of_kind(s)}
        if not shown:
            continue

        def paint(ax: Axes, title=title, shown=shown) -> None:
            for i, (subject, curve) in enumerate(shown.items()):
                steps, losses = zip(*curve, strict=True)
                ax.plot(steps, losses, color=look(subject, i)[0], label=label(subject), linewidth=1.5)
            if all(loss > 0 for curve in shown.values() for _, loss in curve):
                plain_log(ax, "y")
            ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v / 1000:g}k" if abs(v) >= 1000 else f"{v:g}"))
            ax.set_xlabel("Step")
            ax.set_ylabel("Loss")
            ax.set_title(title)
            ax.grid()
            ax.legend(loc="upper right")

        ends = "; ".join(f"{label(s)} ends at {c[-1][1]:.4g} after {c[-1][0]} steps" for s, c in shown.items())
        figures.append(draw(f"training_{name}", (4.9, 3.5), f"Training loss. {ends}", paint))
    return figures
