"""Probes of the autoencoders' latents."""

from __future__ import annotations

from reports.measured import Measured, is_reference, label
from reports.tables.table import NOT_APPLICABLE, Cell, Column, Row, Table, finish, from_record

# Known probes first: words, direction, digits; any other metric of the suite follows under its own name.
IMAGE, TOKEN = "Mean over tokens", "Every token"
PROBES = {
    "linear-probe-shape": ("Linear probe, shape", "high", 3, IMAGE),
    "linear-probe-color": ("Linear probe, color", "high", 3, IMAGE),
    "knn-accuracy": ("k-NN, shape", "high", 3, IMAGE),
    "knn-accuracy-color": ("k-NN, color", "high", 3, IMAGE),
    "silhouette": ("Silhouette, shape", None, 3, IMAGE),
    "silhouette-color": ("Silhouette, color", None, 3, IMAGE),
    "effective-rank": ("Effective rank", None, 1, IMAGE),
    "participation-ratio": ("Particip. ratio", None, 1, IMAGE),
    "pc1-share": ("PC 1 share", None, 3, IMAGE),
    "collapse": ("Collapsed dims", None, 3, IMAGE),
    "tsne": ("t-SNE trust", None, 3, IMAGE),
    "token-effective-rank": ("Effective rank", None, 1, TOKEN),
    "token-participation-ratio": ("Particip. ratio", None, 1, TOKEN),
    "token-collapse": ("Collapsed dims", None, 3, TOKEN),
    "spatial-smoothness": ("Smoothness", None, 3, TOKEN),
}
NOTES = [
    "Linear probe and k-NN: accuracy at naming the shape or color of the one object in a test scene. Chance: the same "
    "probe after the labels were shuffled, the highest of all rows. Trust: trustworthiness of the t-SNE (5 neighbors).",
]


def build(measured: Measured) -> Table:
    """Rows: autoencoders, then the chance level; columns: every probe that was recorded."""
    found = measured.where("scenes-latents")
    metrics = {r.metric for r in found}
    columns = []
    for metric in [m for m in PROBES if m in metrics] + sorted(metrics.difference(PROBES)):
        head, better, digits, group = PROBES.get(metric, (metric.replace("-", " "), None, 3, "Other"))
        columns.append(Column(metric, head, "", digits, better, group))
    rows = [
        Row(
            label(s),
            {c.key: from_record(measured.get(s, "scenes-latents", c.key)) for c in columns},
            "reference" if is_reference(s) else "model",
        )
        for s in measured.subjects("scenes-latents")
    ]
    chance = {
        c.key: [r.extra["chance"] for r in found if r.metric == c.key and isinstance(r.extra.get("chance"), float)]
        for c in columns
    }
    if any(chance.values()):
        cells = {key: Cell(max(values)) if values else Cell(NOT_APPLICABLE) for key, values in chance.items()}
        rows.append(Row("Chance (shuffled labels)", cells, "reference"))
    return finish(Table("latent_probes", "Probes of the latents", columns, rows, NOTES, row_head="Autoencoder"))
