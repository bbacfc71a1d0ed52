"""Curves over training steps and over accelerations."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from reports.figures.style import MUTED, Figure, draw, look
from reports.measured import AUTOENCODERS, GENERATORS, Measured, label
from reports.tables.vgt_tab8_decoding import speedup

TIMES = "\N{MULTIPLICATION SIGN}"


def _accel_axis(ax: Axes, accels: list[int]) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xticks(accels, [f"{a}x" for a in accels])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("Acceleration (tokens decoded per step)")


def speed(measured: Measured) -> list[Figure]:
    """Images a second by acceleration, and how much faster each generator is than itself at 1x."""
    every = [r for r in measured.where(measured.speed_suite, "images-per-second") if r.accel and r.value]
    series = {s: found for s in measured.generators() if (found := [r for r in every if r.subject == s])}
    if not series:
        return []
    accels = sorted({r.accel for found in series.values() for r in found})

    def rates(ax: Axes) -> None:
        for i, (subject, found) in enumerate(series.items()):
            color, marker = look(subject, i)
            ax.plot(
                [r.accel for r in found], [r.value for r in found], color=color, marker=marker, label=label(subject)
            )
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        ax.yaxis.set_minor_formatter(FuncFormatter(lambda v, _: f"{v:g}" if f"{v:e}"[0] in "25" else ""))
        ax.tick_params(axis="y", which="minor", labelsize=8.5)
        ax.set_ylabel("Images per second")
        _accel_axis(ax, accels)
        ax.grid(which="major")
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, handletextpad=0.4, columnspacing=1)

    def gains(ax: Axes) -> None:
        ax.plot(accels, accels, color=MUTED, linestyle=(0, (3, 3)), linewidth=1, label="ideal")
        for i, (subject, found) in enumerate(series.items()):
            color, marker = look(subject, i)
            known = [
                (r.accel, v) for r in found if (v := speedup(measured, subject, r.accel, subject, 1).value) is not None
            ]
            if known:
                ax.plot(*zip(*known, strict=True), color=color, marker=marker, label=label(subject))
        ax.set_yscale("log", base=2)
        ax.set_yticks(accels, [f"{TIMES}{a}" for a in accels])
        ax.yaxis.set_minor_locator(NullLocator())
        ax.set_ylabel("Speed over its own 1x")
        _accel_axis(ax, accels)
        ax.grid()
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, handletextpad=0.4, columnspacing=1)

    words = "; ".join(
        f"{label(s)} " + ", ".join(f"{r.accel}x {r.value:.3g}" for r in found) for s, found in series.items()
    )
    figures = [draw("speed", (4.4, 3.7), f"Images per second by acceleration: {words}", rates)]
    if any(len(found) > 1 for found in series.values()):
        figures.append(draw("speedup", (4.4, 3.7), "Speed of each generator over its own speed at 1x", gains))
    return figures


KINDS = (
    ("autoencoders", "Autoencoders", AUTOENCODERS),
    ("generators", "Generators", GENERATORS),
    ("others", "Vision-language models and others", None),
)


def training(measured: Measured) -> list[Figure]:
    """Training loss by step, one panel per kind of model (their losses are not comparable)."""
    curves = {r.subject: r.extra["curve"] for r in measured.where("training", "loss") if r.extra.get("curve")}
    named = {*AUTOENCODERS, *GENERATORS}
    figures = []
    for name, title, subjects in KINDS:
        shown = {s: c for s, c in curves.items() if (s in subjects if subjects else s not in named)}
        if not shown:
            continue

        def paint(ax: Axes, title=title, shown=shown) -> None:
            for i, (subject, curve) in enumerate(shown.items()):
                steps, losses = zip(*curve, strict=True)
                ax.plot(steps, losses, color=look(subject, i)[0], label=label(subject), linewidth=1.5)
            if all(loss > 0 for curve in shown.values() for _, loss in curve):
                ax.set_yscale("log")
                ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
                ax.yaxis.set_minor_formatter(FuncFormatter(lambda v, _: f"{v:g}" if f"{v:e}"[0] in "25" else ""))
                ax.tick_params(axis="y", which="minor", labelsize=8.5)
            ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v / 1000:g}k" if abs(v) >= 1000 else f"{v:g}"))
            ax.set_xlabel("Step")
            ax.set_ylabel("Loss")
            ax.set_title(title)
            ax.grid()
            ax.legend(loc="upper right")

        ends = "; ".join(f"{label(s)} ends at {c[-1][1]:.4g} after {c[-1][0]} steps" for s, c in shown.items())
        figures.append(draw(f"training_{name}", (4.9, 3.5), f"Training loss. {ends}", paint))
    return figures
