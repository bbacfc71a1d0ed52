"""Latents by eye: t-SNE as the probes made it, a panel per autoencoder with every point drawn as the object it stands
for; how the variance is shared out among channels; and how alike the encoders see the same images (linear CKA)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.lines import Line2D
from matplotlib.path import Path

from reports.figures.style import BLUE, INK, ORANGE, PALETTE, Figure, draw, look
from reports.measured import Measured, is_reference, label
from reports.tables import LATENTS
from vgt.core.record import Record
from vgt.core.scenes import COLORS, SHAPES


def _moon() -> Path:
    """A crescent: a half circle and, back, a flatter arc."""
    angles = np.linspace(np.pi / 2.6, 2 * np.pi - np.pi / 2.6, 24)
    outer = np.stack([np.cos(angles), np.sin(angles)], 1)
    inner = np.stack([0.45 + 0.75 * np.cos(angles[::-1]), 0.85 * np.sin(angles[::-1])], 1)
    return Path(np.concatenate([outer, inner, outer[:1]]))


def _heart() -> Path:
    angles = np.linspace(0, 2 * np.pi, 40)
    x = 16 * np.sin(angles) ** 3
    y = 13 * np.cos(angles) - 5 * np.cos(2 * angles) - 2 * np.cos(3 * angles) - np.cos(4 * angles)
    return Path(np.stack([x, y], 1) / 17)


MARKERS = {
    "circle": "o",
    "square": "s",
    "triangle": "^",
    "star": "*",
    "cross": "P",
    "ring": "o",
    "heart": _heart(),
    "moon": _moon(),
}


def _kind(text: str) -> tuple[str | None, str | None]:
    """(color, shape) named in a label such as "red circle"; None for what it does not name."""
    words = text.replace("-", " ").replace("_", " ").split()
    return next((w for w in words if w in COLORS), None), next((w for w in words if w in SHAPES), None)


def labels(record: Record) -> list[str]:
    """The label of each point; "color shape" where the record holds colors beside."""
    names = list(map(str, record.extra.get("labels", [])))
    colors = record.extra.get("colors", [])
    return [f"{color} {name}" for color, name in zip(colors, names, strict=True)] if colors else names


def panel(record: Record, title: str = "", name: str = "") -> Figure | None:
    """The t-SNE of one autoencoder; None where the record holds no points."""
    title, name = title or label(record.subject), name or f"latents_{record.subject}"
    points = record.extra.get("points")
    names = labels(record) or [""] * len(points or ())
    if not points or len(points) != len(names):
        return None
    xy = np.asarray(points, float)
    kinds = list(map(_kind, names))
    known = all(color or shape for color, shape in kinds)

    def paint(ax: Axes) -> None:
        if known:
            _as_objects(ax, xy, kinds)
        elif not any(names):
            ax.plot(xy[:, 0], xy[:, 1], linestyle="", marker="o", markersize=3.5, color=look(record.subject)[0])
        else:
            _as_classes(ax, xy, names)
        ax.set_title(textwrap.fill(title, 30))
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_aspect("equal", adjustable="datalim")
        for spine in ax.spines.values():
            spine.set_visible(True)

    trust = f", trustworthiness {record.value:.3f}" if record.value is not None else ""
    objects = "; points are drawn as their objects" if known else ""
    alt = f"t-SNE of {len(names)} latents of {title}{trust}{objects}"
    return draw(name, (3.2, 3.3), alt, paint)


def _as_objects(ax: Axes, xy: np.ndarray, kinds: Sequence[tuple[str | None, str | None]]) -> None:
    for color, shape in sorted(set(kinds), key=str):
        rows = [i for i, kind in enumerate(kinds) if kind == (color, shape)]
        rgb = tuple(c / 255 for c in COLORS[color]) if color else PALETTE[SHAPES.index(shape) % len(PALETTE)]
        hollow = shape == "ring"
        ax.plot(
            xy[rows, 0],
            xy[rows, 1],
            linestyle="",
            marker=MARKERS.get(shape, "o"),
            markersize=4.5,
            markerfacecolor="none" if hollow else rgb,
            markeredgecolor=rgb if hollow and color != "white" else INK,
            markeredgewidth=1.4 if hollow else 0.35,
        )


def _as_classes(ax: Axes, xy: np.ndarray, names: Sequence[str]) -> None:
    handles = []
    for k, name in enumerate(sorted(set(names))):
        rows = [i for i, n in enumerate(names) if n == name]
        color, marker = PALETTE[k % len(PALETTE)], "osD^vP"[k // len(PALETTE) % 6]
        ax.plot(xy[rows, 0], xy[rows, 1], linestyle="", marker=marker, markersize=4.5, color=color)
        handles.append(Line2D([], [], linestyle="", marker=marker, color=color, label=name))
    if len(handles) <= 12:
        ax.legend(handles=handles, loc="upper right", fontsize=7.5, handletextpad=0.1)


def panels(measured: Measured) -> list[Figure]:
    """One panel per autoencoder that was projected."""
    made = (panel(r) for r in measured.where(LATENTS, "tsne"))
    return [figure for figure in made if figure]


def variances(measured: Measured) -> list[Figure]:
    """Variance of every channel over all tokens, sorted, against the share of channels: a collapsed space falls off."""
    found = [r for r in measured.where(LATENTS, "channel-variance") if r.extra.get("channels")]
    if not found:
        return []

    def paint(ax: Axes) -> None:
        for index, record in enumerate(found):
            values = np.sort(np.array(record.extra["channels"], float))[::-1]
            color, marker = (ORANGE, "v") if is_reference(record.subject) else look(record.subject, index)
            where = np.arange(1, len(values) + 1)
            share = (where - 0.5) / len(values)
            kept = values > 0
            words = f"{label(record.subject)}, {len(values)} channels"
            ax.plot(share[kept], values[kept], color=color, marker=marker, markersize=3, linewidth=1.2, label=words)
        ax.set_yscale("log")
        ax.set_xlim(0, 1)
        ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
        ax.set_xlabel("channels, largest variance first")
        ax.set_ylabel("variance over all tokens")
        ax.set_title("Variance of the channels")
        ax.grid(axis="y")
        ax.legend(loc="upper left", bbox_to_anchor=(0, -0.16), borderaxespad=0)

    alt = "Sorted variance of the latent channels of " + ", ".join(label(r.subject) for r in found)
    return [draw("channel_variances", (4.4, 4.0), alt, paint)]


def similarity(measured: Measured) -> list[Figure]:
    """A matrix of linear CKA with the values in its cells; the diagonal is 1 by definition and left empty."""
    names, found = measured.cka_pairs()
    if len(names) < 2:
        return []
    values = np.full((len(names), len(names)), np.nan)
    for (a, b), record in found.items():
        if record.value is not None:
            values[names.index(a), names.index(b)] = record.value
    shades = LinearSegmentedColormap.from_list("blues", ["#ffffff", BLUE])

    def paint(ax: Axes) -> None:
        ax.imshow(np.clip(values, 0, 1), cmap=shades, vmin=0, vmax=1)
        for row, column in np.ndindex(values.shape):
            if np.isfinite(values[row, column]):
                color = "white" if values[row, column] > 0.6 else INK
                ax.text(column, row, f"{values[row, column]:.2f}", ha="center", va="center", color=color)
        words = [label(n).replace(" (", "\n(") for n in names]
        ax.set_xticks(range(len(names)), words, rotation=35, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(len(names)), words)
        ax.set_title("Linear CKA of mean latents")
        for spine in ax.spines.values():
            spine.set_visible(False)

    side = 1.5 + 0.62 * len(names)
    alt = "Matrix of linear CKA between " + ", ".join(label(n) for n in names)
    return [draw("cka", (side + 0.5, side), alt, paint)]
