"""Probes of the autoencoders' latents, and the comparison of encoders."""

from __future__ import annotations

from reports.figures.similarity import pairs
from reports.measured import Measured, is_reference, label
from reports.tables.table import NOT_APPLICABLE, Cell, Column, Row, Table, finish, from_record

SUITE = "scenes-latents"
# Known probes: words, direction, digits, group; any other metric of the suite follows under its own name.
LABELS, CLUSTERS, SPREAD = "Labels from the mean over tokens", "Clusters of the means", "Spread"
CONTENT = {
    "linear-probe-shape": ("Linear probe, shape", "high", 3, LABELS),
    "linear-probe-color": ("Linear probe, color", "high", 3, LABELS),
    "knn-accuracy": ("k-NN, shape", "high", 3, LABELS),
    "knn-accuracy-color": ("k-NN, color", "high", 3, LABELS),
    "silhouette": ("Silhouette, shape", None, 3, LABELS),
    "silhouette-color": ("Silhouette, color", None, 3, LABELS),
    "nmi": ("NMI, shape", "high", 3, CLUSTERS),
    "nmi-color": ("NMI, color", "high", 3, CLUSTERS),
    "ari": ("ARI, shape", "high", 3, CLUSTERS),
    "ari-color": ("ARI, color", "high", 3, CLUSTERS),
    "effective-rank": ("Effective rank", None, 1, SPREAD),
}
PLACES, IMAGE = "Geometry of the means", "Clusters of tokens"
SPACE = {
    "tsne": ("t-SNE trust", None, 3, PLACES),
    "participation-ratio": ("Particip. ratio", None, 1, PLACES),
    "pc1-share": ("PC 1 share", None, 3, PLACES),
    "correlation": ("Mean |corr.|", None, 3, PLACES),
    "collapse": ("Collapsed dims", None, 3, PLACES),
    "alignment": ("Alignment", "low", 3, PLACES),
    "uniformity": ("Uniformity", "low", 3, PLACES),
    "cluster-maps": ("Variance explained", None, 3, IMAGE),
    "object-clusters": ("Object told", "high", 3, IMAGE),
}
PARTS = {
    "homogeneity": ("Homog., shape", "high", 3, CLUSTERS),
    "completeness": ("Compl., shape", "high", 3, CLUSTERS),
    "homogeneity-color": ("Homog., color", "high", 3, CLUSTERS),
    "completeness-color": ("Compl., color", "high", 3, CLUSTERS),
}
TOKEN, VALUES = "Every token", "Distribution of a channel over tokens"
TOKENS = {
    "token-effective-rank": ("Effective rank", None, 1, TOKEN),
    "token-participation-ratio": ("Particip. ratio", None, 1, TOKEN),
    "token-pc1-share": ("PC 1 share", None, 3, TOKEN),
    "token-correlation": ("Mean |corr.|", None, 3, TOKEN),
    "token-collapse": ("Collapsed dims", None, 3, TOKEN),
    "spatial-smoothness": ("Smoothness", None, 3, TOKEN),
    "channel-variance": ("Median variance", None, 3, VALUES),
    "skew": ("Mean |skew|", "low", 2, VALUES),
    "kurtosis": ("Mean |ex. kurtosis|", "low", 2, VALUES),
    "kl-normal": ("KL to N(0, 1)", "low", 2, VALUES),
}
NOTES = [
    "Linear probe and k-NN: accuracy at naming the shape or color of the one object in a test scene. Clusters: k-means "
    "on the same means, k = number of classes. Chance: the same probe after the labels were shuffled, the highest of "
    "all rows.",
]
SPACE_NOTES = [
    "Trust: trustworthiness of the t-SNE (5 neighbors). Alignment: squared distance on the unit sphere between a scene "
    "and its object before another background (chance: between different scenes, the lowest of all rows). Uniformity: "
    "lower is more even. Object told: how much of whether a token shows the object its cluster tells (chance: objects "
    "of the next image).",
]
TOKEN_NOTES = ["Skew, excess kurtosis and KL are 0 for a standard normal channel; KL in nats a dimension."]


def _rows(measured: Measured, columns: list[Column]) -> list[Row]:
    return [
        Row(
            label(s),
            {c.key: from_record(measured.get(s, SUITE, c.key)) for c in columns},
            "reference" if is_reference(s) else "model",
        )
        for s in measured.subjects(SUITE)
    ]


def _chance(measured: Measured, columns: list[Column], words: str) -> list[Row]:
    """The best that chance did in any row; of direction-less columns, only where labels were shuffled."""
    cells = {}
    for column in columns:
        found = [r.extra.get("chance") for r in measured.where(SUITE, column.key)]
        values = [v for v in found if isinstance(v, float)]
        known = column.better or column.key.startswith("silhouette") or column.key == "tsne"
        cells[column.key] = Cell(NOT_APPLICABLE)
        if values and known and column.key != "uniformity":
            cells[column.key] = Cell(min(values) if column.better == "low" else max(values))
    return [Row(words, cells, "reference")] if any(c.value != NOT_APPLICABLE for c in cells.values()) else []


def _table(measured: Measured, name: str, title: str, known: dict, notes: list[str], rest: bool = False) -> Table:
    metrics = {r.metric for r in measured.where(SUITE)}
    shown = [m for m in known if m in metrics]
    others = sorted(metrics.difference(CONTENT, SPACE, PARTS, TOKENS)) if rest else []
    heads = known | {m: (m.replace("-", " "), None, 3, "Other") for m in others}
    columns = [
        Column(m, head, "", digits, better, group)
        for m in [*shown, *others]
        for head, better, digits, group in [heads[m]]
    ]
    if not columns:
        return Table(name, title, [], [])
    words = "Chance (shuffled labels)" if known is CONTENT else "Chance"
    rows = [*_rows(measured, columns), *_chance(measured, columns, words)]
    return finish(Table(name, title, columns, rows, notes, row_head="Autoencoder"))


def build(measured: Measured) -> Table:
    """What the latents tell of labels.  Rows: autoencoders, then the chance level."""
    return _table(measured, "latent_probes", "Probes of the latents", CONTENT, NOTES)


def build_space(measured: Measured) -> Table:
    """Geometry of the image-level latents, and clusters of tokens."""
    return _table(measured, "latent_space", "Geometry and clusters of the latents", SPACE, SPACE_NOTES)


def build_parts(measured: Measured) -> Table:
    """Homogeneity and completeness, whose harmonic mean is the NMI of the first table."""
    return _table(measured, "latent_clusters", "The two parts of NMI", PARTS, [])


def build_tokens(measured: Measured) -> Table:
    """Spread and distribution over all tokens, and every probe that has no place in the other tables."""
    return _table(measured, "latent_tokens", "Tokens of the latents", TOKENS, TOKEN_NOTES, rest=True)


def build_cka(measured: Measured) -> Table:
    """Linear CKA of every pair of encoders."""
    names, found = pairs(measured)
    columns = [Column(n, label(n), "", 3) for n in names]
    rows = []
    for a in names:
        cells = {b: from_record(found.get((a, b))) for b in names if b != a}
        rows.append(Row(label(a), cells | {a: Cell(NOT_APPLICABLE)}, "reference" if is_reference(a) else "model"))
    few = sorted({r.name for r in found.values() if r.protocol.endswith("unbiased")})
    notes = ["1: the same up to rotation and scale; near 0: nothing shared. Means over tokens of the same test scenes."]
    if few:
        notes.append(f"{len(few)} of {len(found) // 2} pairs by the unbiased estimator: under 5 images a dimension.")
    return finish(Table("latent_cka", "Linear CKA between encoders", columns, rows, notes, row_head="Encoder"), False)
