"""The sections of the page: which tables and figures stand under which words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reports import published
from reports.figures import clusters, reconstructions, runs, samples, scores, similarity
from reports.figures import latents as latent_figures
from reports.figures import solvers as solver_figures
from reports.figures import throughput as throughput_figures
from reports.figures.grid import Grid
from reports.figures.style import Figure
from reports.measured import Measured
from reports.tables import (
    calibration,
    fidelity,
    latents,
    models,
    protocols,
    provenance,
    solvers,
    throughput,
    vgt_claims,
    vgt_tab1_distillation,
    vgt_tab2_reconstruction,
    vgt_tab6_tradeoff,
    vgt_tab8_decoding,
)
from reports.tables.table import Table


@dataclass(frozen=True)
class Block:
    """One of: a table, figures side by side with a caption, a sample grid.  ``folded`` hides it behind its title."""

    table: Table | None = None
    figures: tuple[Figure, ...] = ()
    grid: Grid | None = None
    caption: str = ""
    folded: str = ""


@dataclass(frozen=True)
class Section:
    id: str
    title: str
    lead: str
    blocks: list[Block]
    short: str


def _tables(*tables: Table, folded: str = "") -> list[Block]:
    return [Block(table=t, folded=folded) for t in tables if t.rows]


def _figures(figures: list[Figure | None], caption: str) -> list[Block]:
    drawn = tuple(f for f in figures if f)
    return [Block(figures=drawn, caption=caption)] if drawn else []


def reconstruction(measured: Measured, work: Path | None) -> Section:
    images = reconstructions.grid(measured, work) if work is not None else None
    caption = (
        "Test images above, what each autoencoder makes of them below. Nothing is selected: they are spread evenly "
        "over the first twelve of each data set."
    )
    return Section(
        "reconstruction",
        "Reconstruction",
        "Each autoencoder encodes and decodes test images that training never saw, drawn scenes and crops of real "
        "photographs. PSNR alone misleads in the synthetic scenes: judge agreement says whether the content survives.",
        [
            *_tables(vgt_tab2_reconstruction.build(measured), vgt_tab2_reconstruction.build_other(measured)),
            *([Block(grid=images, caption=caption)] if images else []),
            *_tables(protocols.build(measured)),
            *_tables(published.table("vgt", "table2")),
            *_tables(vgt_tab2_reconstruction.build_variants(measured), folded="Other definitions of PSNR and SSIM"),
        ],
        "Reconstruction",
    )


def decoding(measured: Measured) -> Section:
    caption = (
        "Scores with 95 % intervals (gray: floor and ceilings, which bound what any score here can mean; open "
        "markers: partial records), generation speed, and speed relative to each generator's own 1x."
    )
    table = vgt_tab8_decoding.build(measured)
    return Section(
        "decoding",
        "QueryAR versus MAR",
        "Two ways to decode image tokens in random order, on the same autoencoder with the same parameters: QueryAR "
        "appends position queries to a causal, cached language model; MAR fills in masked slots with the whole image "
        "visible, and recomputes it at every step. At 4x and 16x several tokens are drawn at once.",
        [
            *_figures([scores.forest(measured), *runs.speed(measured)], caption),
            *_tables(table),
            *_tables(vgt_tab8_decoding.build_dpg(measured), fidelity.build(measured)),
            *_tables(published.table("vgt", "table8")),
        ],
        "QueryAR vs MAR",
    )


def speed(measured: Measured) -> Section:
    rates = (
        "Images a second by acceleration and batch, and the two ratios that matter: QueryAR over MAR, and engine over "
        "the reference implementation that it is compared with."
    )
    latency = "Score against the time of one image: up and to the left is better."
    where = "Where the time of a image goes; the black line is the floor, as a share of the measured time."
    return Section(
        "throughput",
        "Throughput",
        "How fast images come, and how fast they could: each time stands beside the least that reading the weights "
        "and computing allow on the same device.",
        [
            *_figures(list(throughput_figures.rates(measured)), rates),
            *_figures([throughput_figures.pareto(measured)], latency),
            *_figures(throughput_figures.roofline(measured), where),
            *_tables(throughput.build(measured), throughput.build_steps(measured)),
        ],
        "Throughput",
    )


def sampler(measured: Measured) -> Section:
    found = solvers.studies(measured)
    shown = [s for s in found if s.suite.endswith("-test")] or found
    caption = (
        "Scores with 95 % intervals; ringed: the recommended setting, the fewest evaluations that were shown to lose "
        "less than the margin. Floor: right images judged against other prompts."
    )
    lead = (
        "Each image token is drawn by integrating the flow head's velocity from noise. The published sampler is "
        "stochastic and takes 30 evaluations a token; deterministic solvers of higher order may need fewer. Each "
        "table is a study of its own: all its settings are corrected for each other, not for those of another table."
    )
    if not found:
        lead = "Not studied: no record of `vgt eval solvers` was found."
    return Section(
        "sampler",
        "Sampler",
        lead,
        [
            *_figures([solver_figures.curve(measured, s) for s in shown], caption),
            *_tables(*(solvers.build(measured, s) for s in shown)),
            *(b for s in found if s not in shown for b in _tables(solvers.build(measured, s), folded=solvers.title(s))),
        ],
        "Sampler",
    )


def claims(measured: Measured) -> Section:
    return Section(
        "claims",
        "The paper's claims at this scale",
        "Ordinal claims can be asked at any scale, unlike scores. Claims without a row here need models or runs that "
        "these records do not hold.",
        _tables(vgt_claims.build(measured)),
        "Claims",
    )


def tradeoff(measured: Measured) -> Section:
    caption = (
        "Each point is one autoencoder and the QueryAR generator trained on its latents, decoded at 1x, with 95 % "
        "intervals. Claim C7 of the paper would show as a falling cloud."
    )
    figures = scores.tradeoff(measured)
    return Section(
        "tradeoff",
        "Reconstruction versus generation",
        "Does a better autoencoder make a better generator? The paper says no: reconstruction and generation pull "
        "apart.",
        [
            *_figures(list(figures), caption),
            *_tables(vgt_tab6_tradeoff.build(measured)),
            *_tables(published.table("vgt", "table6")),
        ],
        "Trade-off",
    )


def sample_grids(measured: Measured, work: Path | None) -> Section:
    made = samples.grids(measured, work) if work is not None else []
    caption = (
        "The same prompts and the same seed in every row; the oracle draws what the prompt says. Nothing is selected:"
        " these are the first prompts of each task, always sample 0. Green: the judge found the image correct; "
        "orange: it did not."
    )
    lead = "What the generators draw at 1x, 4x and 16x."
    if not made:
        lead = "No sample grid: the images behind the scores were not found (they stay in the folder of the run)."
    blocks = [
        Block(grid=g, caption=caption if i == 0 else "", folded="" if i == 0 else "More prompts")
        for i, g in enumerate(made)
    ]
    return Section("samples", "Samples", lead, blocks, "Samples")


def latent_space(measured: Measured, work: Path | None) -> Section:
    caption = (
        "t-SNE of mean-pooled latents of single-object scenes; every point is drawn as the object in its image. The"
        " same scenes, seed and settings for all panels. Distances between clusters, their sizes and densities carry "
        "no meaning."
    )
    maps = (
        "k-means (k = 6) over latent tokens of test scenes of one shape, laid over the images half and half; colors "
        "matched to the first row by overlap. Nothing is selected: the first eight."
    )
    spread = (
        "Left: variance of each latent channel, sorted. Right: linear CKA of mean-pooled latents; a random projection "
        "shows how much two encoders agree that share nothing but the images."
    )
    return Section(
        "latents",
        "Latent space",
        "What the latents keep of the content, by eye and by probes.",
        [
            *_figures(list(latent_figures.panels(measured)), caption),
            *(Block(grid=g, caption=maps if k == 0 else "") for k, g in enumerate(clusters.grids(measured, work))),
            *_tables(latents.build(measured)),
            *_figures([latent_figures.variances(measured), similarity.matrix(measured)], spread),
            *_tables(latents.build_space(measured), latents.build_tokens(measured), latents.build_cka(measured)),
            *_tables(latents.build_parts(measured), folded="How many parts the latents have"),
        ],
        "Latents",
    )


def judge(measured: Measured) -> Section:
    caption = (
        "Share of images judged right as they are degraded. Gray: the six tasks; blue: their mean; orange: exact set "
        "of (color, shape)."
    )
    lead = "How far the judge itself can be trusted: images with known content, clean and degraded."
    return Section(
        "judge",
        "Calibration of the judge",
        f"{lead} {calibration.verdict(measured)}".strip(),
        [*_figures(list(scores.calibration(measured)), caption), *_tables(calibration.build(measured))],
        "Judge",
    )


def training(measured: Measured) -> Section:
    return Section(
        "models",
        "The models",
        "What the vision-language models understand before they are tuned to generate, how the training went, and "
        "what the autoencoders cost to run.",
        [
            *_tables(models.understanding(measured), models.benchmarks(measured)),
            *_tables(vgt_tab1_distillation.build(measured), published.table("vgt", "table1")),
            *_figures(
                list(runs.training(measured)),
                "Training loss as recorded. Losses of different kinds of model are not comparable.",
            ),
            *_tables(models.training(measured), vgt_tab8_decoding.build_autoencoder_speed(measured)),
        ],
        "Models",
    )


def origins(measured: Measured) -> Section:
    others = [t.id for t in published.load("vgt").tables if t.id not in ("table1", "table2", "table6", "table8")]
    return Section(
        "provenance",
        "Provenance",
        f"Every number above is one of {len(measured.records)} records on disk, or a quotient or difference of two of "
        "them. Published numbers are kept apart, each with its source.",
        [
            *_tables(provenance.environments(measured)),
            *_tables(provenance.records(measured), folded=f"All {len(measured.records)} records"),
            *(
                Block(
                    table=published.table("vgt", t),
                    folded=f"Published: {published.load('vgt')[t].title} ({published.load('vgt')[t].source})",
                )
                for t in others
            ),
        ],
        "Provenance",
    )


def build(measured: Measured, work: Path | None) -> list[Section]:
    """All sections with something in them, in reading order."""
    made = [
        reconstruction(measured, work),
        decoding(measured),
        speed(measured),
        sampler(measured),
        sample_grids(measured, work),
        tradeoff(measured),
        claims(measured),
        latent_space(measured, work),
        judge(measured),
        training(measured),
        origins(measured),
    ]
    return [s for s in made if s.blocks or s.id in ("samples", "sampler")]
