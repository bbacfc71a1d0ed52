"""A paper's figures from records, each as an entry of its recipe declares it (``draw``)."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from reports import published, tradeoff
from reports.figures import images, latents
from reports.figures.style import ABOVE, MARKERS, PALETTE, Figure, draw, errors
from reports.measured import GENEVAL, ORACLE, Measured, row_label
from reports.recipe import Entry
from reports.regenerated import Regenerated
from reports.table import Cell
from reports.tables import LATENTS

CLUSTERS = "cluster-maps"
SHOWN_SEED = 0  # place in the recipe's list of seeds of the model that pictures show


def _lines(
    name: str, title: str, axes: tuple[str, str], lines: dict[str, list[tuple[float, Cell]]], size=(4.4, 3.6)
) -> Figure:
    """Lines with intervals of (x, number) points; a color and marker by place, so that panels agree."""

    def paint(ax: Axes) -> None:
        for i, (words, points) in enumerate(lines.items()):
            if points:
                xs, cells = zip(*points, strict=True)
                look = {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i % len(MARKERS)]}
                values = [cell.value for cell in cells]
                ax.errorbar(xs, values, yerr=errors(*cells), markersize=4.5, elinewidth=1.1, linewidth=1.4, label=words,
                            **look)  # fmt: skip
        ax.set_title(title)
        ax.set_xlabel(axes[0])
        ax.set_ylabel(axes[1])
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v / 1000:g}k" if abs(v) >= 1000 else f"{v:g}"))
        ax.grid()
        ax.legend(**ABOVE | {"loc": "upper center", "bbox_to_anchor": (0.5, -0.18)})

    ends = (f"{words} ends at {points[-1][1].value:.4g}" for words, points in lines.items() if points)
    return draw(name, size, f"{title}: {axes[1]} by {axes[0]}. {'; '.join(ends)}", paint)


def _stem(of: Regenerated, entry: Entry) -> str:
    return f"{published.stem(of.paper)}_{of.scale}_{entry.id}"


def curves(of: Regenerated, entry: Entry) -> list[Figure]:
    """The paper's learning curves, where more than a point of them is known, and ours; none without two points of one
    of ours."""
    quantity = of.recipe.quantities[entry.curve]
    ours: dict[str, list[tuple[float, Cell]]] = {}
    for row in entry.rows:
        points = [(float(seen), cell) for seen, cell in of.curve(entry, row)]
        end = of.end(row)
        points += [(float(end), of.number(row, quantity, entry.id))] if end else []
        ours[of.recipe[row.generator].label] = [p for p in points if isinstance(p[1].value, float)]
    if max(map(len, ours.values())) < 2:
        return []
    theirs = published.load(of.paper)[entry.id]
    steps = [float(column.key.removeprefix("k")) * 1000 for column in theirs.columns]
    paper = {
        row["label"]: [(x, Cell(row[c.key])) for x, c in zip(steps, theirs.columns, strict=True) if c.key in row]
        for row in theirs.rows
    }
    name, axis = _stem(of, entry), quantity.head
    there = [_lines(f"{name}_paper", f"The paper's {theirs.place}", ("training steps", axis), paper)]
    return [*(there if len(steps) > 1 else []), _lines(f"{name}_here", "Here", ("images seen", axis), ours)]


def sweep(of: Regenerated, entry: Entry) -> list[Figure]:
    """A panel for each of an entry's quantities, by the places of its rows."""
    made = []
    for key in entry.panels:
        quantity = of.recipe.quantities[key]
        lines: dict[str, list[tuple[float, Cell]]] = {}
        for row in entry.rows:
            cell = of.number(row, quantity, entry.id)
            lines.setdefault(row.group, [])
            if row.x is not None and isinstance(cell.value, float):
                lines[row.group].append((row.x, cell))
        if any(lines.values()):
            unit = f" [{quantity.unit}]" if quantity.unit else ""
            made.append(_lines(f"{_stem(of, entry)}_{key}", quantity.head, (entry.axis, quantity.head + unit), lines))
    return made


def dispersion(of: Regenerated, entry: Entry) -> list[Figure]:
    """t-SNE of the latents of one seed of each autoencoder."""
    made = []
    for row in entry.rows:
        record = of.measured.get(of.subjects(row, "{autoencoder}")[SHOWN_SEED], LATENTS, "tsne")
        panel = latents.panel(record, row.label, f"{_stem(of, entry)}_{row.autoencoder}") if record else None
        made += [panel] if panel else []
    return made


def clusters(of: Regenerated, entry: Entry, work: Path | None) -> list[images.Grid]:
    """Clusters of the latent tokens of one seed of each autoencoder, over the images."""
    names = {of.subjects(row, "{autoencoder}")[SHOWN_SEED]: row.label for row in entry.rows}
    found = [r for subject in names for r in of.measured.records if (r.subject, r.metric) == (subject, CLUSTERS)]
    return [
        images.Grid(f"{_stem(of, entry)}_{k}", grid.prompts, [(names.get(n, n), row) for n, row in grid.rows])
        for k, grid in enumerate(images.clusters(Measured(found), work), 1)
    ]


def samples(of: Regenerated, entry: Entry, work: Path | None) -> list[images.Grid]:
    """What one seed of a generator makes of the same prompts at each acceleration."""
    rows = entry.rows
    names = {of.subjects(row, "{generator}")[SHOWN_SEED]: of.recipe[row.generator].label for row in rows}
    shown = {(subject, row.accel) for subject in names for row in rows} | {(ORACLE, None)}
    records = [r for r in of.measured.where(GENEVAL, "overall") if (r.subject, r.accel) in shown]
    words = {row_label(r.subject, r.accel): row_label(names.get(r.subject, r.subject), r.accel) for r in records}
    return [
        images.Grid(f"{_stem(of, entry)}_{k}", grid.prompts, [(words[name], row) for name, row in grid.rows])
        for k, grid in enumerate(images.samples(Measured(records), work), 1)
    ]


def plots(of: Regenerated, entry: Entry) -> list[Figure]:
    """Reconstruction against generation: one point a checkpoint, every seed by itself."""
    pairs, names = [], {}
    for row in entry.rows:
        found = list(zip(of.subjects(row, "{autoencoder}"), of.subjects(row, "{generator}"), strict=True))
        pairs += found
        names |= {generator: row.label for _, generator in found}
    (accel,) = {of.recipe.accel(row.generator, row.accel) for row in entry.rows}
    made = []
    for keys in entry.plots:
        axes = tuple(tradeoff.Axis(of.recipe.quantities[key].suite, of.recipe.quantities[key].metric) for key in keys)
        if of.measured.where(axes[0].suite, axes[0].metric) and of.measured.where(axes[1].suite, axes[1].metric):
            filled = tradeoff.points(of.measured, pairs, *axes, accel, False)
            if tradeoff.both(filled):
                name = f"{_stem(of, entry)}_{'_'.join(keys)}"
                made.append(tradeoff.figure(filled, *axes, False, name, lambda row: names[row.subject]))
    return made
