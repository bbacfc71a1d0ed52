"""The sections of the page, declared: which tables, figures and images stand under which words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reports import inconsistencies, published, regenerated, tables
from reports.claims import CLAIMS, VERDICTS
from reports.figures import images, latents, paper, scores, speed
from reports.figures.images import Grid
from reports.figures.style import Figure
from reports.measured import Measured
from reports.recipe import Entry
from reports.regenerated import Regenerated
from reports.table import Filled, Table
from vgt.core.samples import Lookup


@dataclass(frozen=True)
class Block:
    """One of: a table, figures side by side with a caption, a grid of images.  ``folded`` hides it behind its title."""

    table: Filled | None = None
    figures: tuple[Figure, ...] = ()
    grid: Grid | None = None
    caption: str = ""
    folded: str = ""


@dataclass(frozen=True)
class Tables:
    """Tables below each other; ``folded``: the words that each is hidden behind."""

    given: Sequence[Table | Filled] | Callable[[Measured], Sequence[Table]]
    folded: Callable[[Filled], str] = lambda table: ""

    def blocks(self, measured: Measured, work: Path | None) -> Iterator[Block]:
        for table in self.given(measured) if callable(self.given) else self.given:
            filled = table.fill(measured) if isinstance(table, Table) else table
            if filled.rows:
                yield Block(table=filled, folded=self.folded(filled))


@dataclass(frozen=True)
class Figures:
    """Figures side by side over one caption."""

    makers: Sequence[Callable[[Measured], list[Figure]]]
    caption: str

    def blocks(self, measured: Measured, work: Path | None) -> Iterator[Block]:
        found = tuple(figure for maker in self.makers for figure in maker(measured))
        if found:
            yield Block(figures=found, caption=self.caption)


@dataclass(frozen=True)
class Grids:
    """Grids of images, the caption below the first; ``more``: the words that the others are hidden behind."""

    maker: Callable[[Measured, Path | None], list[Grid]]
    caption: str
    more: str = ""

    def blocks(self, measured: Measured, work: Path | None) -> Iterator[Block]:
        for k, grid in enumerate(self.maker(measured, work)):
            yield Block(grid=grid, caption="" if k else self.caption, folded=self.more if k else "")


@dataclass(frozen=True)
class Section:
    """``short`` stands in the list of sections; a section without blocks is left out, and ``without`` (where it is not
    empty) says so at the end of the page; ``blocks``: what these records hold of it; ``open``: not folded."""

    id: str
    title: str
    short: str
    lead: str | Callable[[Measured], str]
    parts: Sequence[Tables | Figures | Grids]
    without: str = ""
    blocks: Sequence[Block] = ()
    open: bool = False


def build(measured: Measured, work: Path | None, samples: Lookup = lambda record: None) -> list[Section]:
    """All sections in reading order: each paper at each scale that was run with seeds, then the other models with their
    summary first; those without blocks have nothing to show."""
    every, made, papers = measured, [], []
    for name in published.known():
        there = regenerated.scales(every, name)
        papers += [name] if there else []
        made += [section for scale in there for section in _paper(Regenerated(every, name, scale, samples), work)]
        made += [_against_itself(name)] if there else []
    measured = regenerated.apart(every)
    for section in (SUMMARY, *SECTIONS):
        shown = every if section.id == "provenance" else measured
        blocks = [block for part in section.parts for block in part.blocks(shown, work)]
        if papers and published.DEFAULT not in papers:  # published numbers below are of the default paper
            blocks = [b for b in blocks if not (b.table and b.table.label == published.LABEL)]
        lead = section.lead(shown) if callable(section.lead) else section.lead
        made.append(replace(section, lead=lead, blocks=blocks))
    return made


# ------------------------------------------------------------------------------------- the paper at one scale


def _claims(of: Regenerated) -> list[Block]:
    """The verdicts on the paper's claims, which open the page, and folded every comparison behind them."""
    words = ("", "Every comparison behind the claims")
    return [Block(table=table, folded=folded) for table, folded in zip(regenerated.claims(of), words, strict=False)]


def _drawn(of: Regenerated, entry: Entry, work: Path | None) -> list[Block]:
    """What stands above the table of an entry; of a trade-off each plot by itself."""
    if entry.draw in ("clusters", "samples"):
        default = {"clusters": CLUSTERS_CAPTION, "samples": SAMPLES_CAPTION}[entry.draw]
        grids = getattr(paper, entry.draw)(of, entry, work)
        return [Block(grid=grid, caption="" if k else entry.caption or default) for k, grid in enumerate(grids)]
    made = {"curves": paper.curves, "sweep": paper.sweep, "dispersion": paper.dispersion, "tradeoff": paper.plots}
    figures = made[entry.draw](of, entry) if entry.draw else []
    if entry.draw == "tradeoff":
        return [Block(figures=(one,), caption="" if k else entry.caption) for k, one in enumerate(figures)]
    return [Block(figures=tuple(figures), caption=entry.caption)] if figures else []


def _paper(of: Regenerated, work: Path | None) -> list[Section]:
    """Claims, tables, figures and trade-off of a paper, regenerated."""
    size = of.recipe.scale(of.scale).title
    means = f"Numbers here are means over the seeds {', '.join(map(str, of.seeds))}, with 95 % intervals."
    numbers = published.load(of.paper)
    other = of.paper != published.DEFAULT
    whose = f"{numbers.paper['short']}: " if other else ""

    def shown(entry: Entry) -> list[Block]:
        """The table of an entry below what it draws; folded where none of it was run."""
        filled = of.table(entry.id)
        folded = "" if any(map(regenerated.scored, filled.rows)) else f"{filled.title} (not run)"
        return [*_drawn(of, entry, work), Block(table=filled, folded=folded)]

    def section(name: str, title: str, short: str, lead: str, blocks: Sequence[Block]) -> Section:
        where = f"{published.stem(of.paper)}-{of.scale}-{name}"
        return Section(
            where, f"{whose}{title}, {size}", f"{whose}{short} ({of.scale})", lead, (), blocks=blocks, open=True
        )

    tables = {table.id for table in numbers.tables}

    def those(wanted: Callable[[Entry], bool]) -> list[Block]:
        return [block for entry in of.recipe.regenerated if wanted(entry) for block in shown(entry)]

    rest = [t for t in numbers.tables if other and t.id not in of.recipe.shown]
    quoted = [published.table(of.paper, t.id) for t in rest]
    return [
        section(
            "claims",
            "The paper's claims",
            "Claims",
            " ".join(
                part
                for part in (
                    "Each claim of the paper, judged by the models that were trained here.",
                    numbers.paper.get("note", ""),
                )
                if part
            ),
            _claims(of),
        ),
        section(
            "tables",
            "The paper's tables",
            "Tables",
            f"Its rows, columns and order: the paper's number, ours, the difference. {means}",
            [
                *those(lambda entry: entry.id in tables and not entry.curve),
                *(Block(table=table, folded=f"Published: {table.title}") for table in quoted),
            ],
        ),
        section(
            "figures",
            "The paper's figures",
            "Figures",
            means,
            those(lambda entry: (entry.id not in tables or entry.curve) and entry.draw != "tradeoff"),
        ),
        section(
            "tradeoff",
            "Reconstruction versus generation",
            "Trade-off",
            "Does a better autoencoder make a better generator? Every autoencoder of the recipe, with the generator "
            "that was trained on its latents.",
            those(lambda entry: entry.draw == "tradeoff"),
        ),
    ]


def _against_itself(name: str) -> Section:
    other = name != published.DEFAULT
    whose = f"{published.load(name).paper['short']}: " if other else ""
    return Section(
        f"{published.stem(name)}-itself",
        f"{whose}The paper against itself",
        f"{whose}Against itself",
        "Where the paper's numbers disagree with each other, or with what it says of them.",
        (),
        blocks=[Block(table=inconsistencies.table(name))],
    )


# ---------------------------------------------------------------------------------------------- all other models


def _on_test_prompts(measured: Measured) -> list[Table]:
    """The studies of samplers on test prompts; every study where there is none."""
    return [tables.study_table(s) for s in scores.shown_studies(measured)]


def _on_other_prompts(measured: Measured) -> list[Table]:
    shown = scores.shown_studies(measured)
    return [tables.study_table(s) for s in tables.studies(measured) if s not in shown]


def _judge_lead(measured: Measured) -> str:
    lead = "How far the judge itself can be trusted: its answers on images of known content, clean and degraded."
    return f"{lead} {tables.calibration_verdict(measured)}".strip()


def _provenance_lead(measured: Measured) -> str:
    return (
        f"Every number above is one of {len(measured.records)} records on disk, or a quotient or difference of two of "
        "them. Published numbers are kept apart, each with its source."
    )


PAPER = published.load(published.DEFAULT)
BESIDE = ("table1", "table2", "table6", "table8")  # published tables that stand beside ours

SAMPLES_CAPTION = (
    "The same prompts and the same seed in every row; the oracle renders what the prompt says. Nothing is selected: "
    "these are the first prompts of each task, always sample 0. Green: the judge found the image correct; "
    "orange: it did not."
)
CLUSTERS_CAPTION = (
    "k-means (k = 6) over latent tokens of test scenes of one shape, laid over the images half and half; "
    "colors matched to the first row by overlap. Nothing is selected: the first eight."
)
SUMMARY = Section(
    "summary",
    "Summary",
    "Summary",
    "",
    [
        Tables([VERDICTS]),
        Figures(
            [scores.forest],
            "Scores with 95 % intervals; gray: the shuffled-prompt baseline and the ceilings, between which every "
            "score is to be read; open markers: partial records.",
        ),
        Grids(images.summary, SAMPLES_CAPTION),
    ],
)
SECTIONS = (
    Section(
        "reconstruction",
        "Reconstruction",
        "Reconstruction",
        "Each autoencoder encodes and decodes test images that training never saw: synthetic scenes, and crops of "
        "photographs. PSNR alone misleads on the scenes; judge agreement says whether their content survives.",
        [
            Tables([tables.RECONSTRUCTION, tables.OTHER_DATA]),
            Grids(
                images.reconstructions,
                "Test images above, what each autoencoder makes of them below. Nothing is selected: they are spread "
                "evenly over the first twelve of each data set.",
            ),
            Tables([tables.PROTOCOLS, published.table("vgt", "table2")]),
            Tables([tables.VARIANTS], folded=lambda table: "Other definitions of PSNR and SSIM"),
        ],
    ),
    Section(
        "decoding",
        "QueryAR versus MAR",
        "QueryAR vs MAR",
        "Two ways to decode image tokens in random order, on the same autoencoder with the same parameters: QueryAR "
        "appends position queries to a causal, cached language model; MAR fills in masked slots with the whole image "
        "visible, and recomputes it at every step. At 4x and 16x several tokens are decoded at once.",
        [
            Figures(
                [speed.own],
                "Generation speed, and speed relative to each generator's own 1x. Their scores stand in the summary.",
            ),
            Tables(
                [
                    tables.DECODING,
                    tables.DPG_CATEGORIES,
                    tables.FIDELITY,
                    tables.OTHER_FIDELITY,
                    published.table("vgt", "table8"),
                ]
            ),
        ],
    ),
    Section(
        "throughput",
        "Throughput",
        "Throughput",
        "How fast images are generated, and how fast they could be: each time stands beside its lower bound, the least "
        "time that reading the weights and computing take on the same device.",
        [
            Figures(
                [speed.rates],
                "Images a second by acceleration and batch, and two ratios: QueryAR over MAR, and the decode engine "
                "over the reference implementation.",
            ),
            Figures([speed.pareto], "Score against the time of one image: up and to the left is better."),
            Figures(
                [speed.time_split],
                "Where the time of an image goes; the black line is the lower bound as a share of the measured time.",
            ),
            Tables([tables.THROUGHPUT, tables.OTHER_THROUGHPUT, tables.STEPS]),
        ],
    ),
    Section(
        "sampler",
        "Sampler",
        "Sampler",
        "Each image token is sampled by integrating the flow head's velocity from noise. The published sampler is "
        "stochastic and takes 30 evaluations a token; deterministic solvers of higher order may need fewer. Each "
        "table is a study of its own: all its settings are corrected for each other, not for those of another table.",
        [
            Figures(
                [scores.samplers],
                "Scores with 95 % intervals; ringed: the recommended setting, the fewest evaluations that were shown "
                "to lose less than the margin. Shuffled prompts: right images judged against other prompts.",
            ),
            Tables(_on_test_prompts),
            Tables(_on_other_prompts, folded=lambda table: table.title),
        ],
        without="not studied: no record of `vgt eval solvers` was found",
    ),
    Section(
        "samples",
        "Samples",
        "Samples",
        "What the generators make of the same prompts at 1x, 4x and 16x.",
        [Grids(images.samples, SAMPLES_CAPTION, more="More prompts")],
        without="the images behind the scores were not found (they stay in the folder of the run)",
    ),
    Section(
        "tradeoff",
        "Reconstruction versus generation",
        "Trade-off",
        "Does a better autoencoder make a better generator? The paper says no: reconstruction and generation pull "
        "apart.",
        [
            Figures(
                [scores.tradeoff],
                "Each point is one autoencoder and the QueryAR generator trained on its latents, decoded at 1x, with "
                "95 % intervals. The paper's claim (C7 below) would show as a falling cloud.",
            ),
            Tables([tables.TRADEOFF, published.table("vgt", "table6")]),
        ],
    ),
    Section(
        "claims",
        "The paper's claims at this scale",
        "Claims",
        "Ordinal claims can be asked at any scale, unlike scores. Claims without a row here need models or runs that "
        "these records do not hold.",
        [Tables([CLAIMS])],
    ),
    Section(
        "latents",
        "Latent space",
        "Latents",
        "What the latents keep of the content, by eye and by probes.",
        [
            Figures(
                [latents.panels],
                "t-SNE of mean-pooled latents of scenes with one object; every point is drawn as the object in its "
                "image. The same scenes, seed and settings for all panels. Distances between clusters, their sizes and "
                "densities carry no meaning.",
            ),
            Grids(images.clusters, CLUSTERS_CAPTION),
            Tables([tables.PROBES]),
            Figures(
                [latents.variances, latents.similarity],
                "Variance of each latent channel, sorted; and linear CKA of mean-pooled latents, where a random "
                "projection shows how much two encoders agree that share nothing but the images.",
            ),
            Tables([tables.LATENT_SPACE, tables.LATENT_TOKENS, tables.CKA]),
            Tables([tables.LATENT_PARTS], folded=lambda table: "NMI by its two parts"),
        ],
    ),
    Section(
        "judge",
        "Calibration of the judge",
        "Judge",
        _judge_lead,
        [
            Figures(
                [scores.calibration],
                "Share of images judged right as they are degraded. Gray: the six tasks; blue: their mean; orange: "
                "exact set of (color, shape).",
            ),
            Tables([tables.CALIBRATION]),
        ],
    ),
    Section(
        "models",
        "The models",
        "Models",
        "What the vision-language models understand before they are tuned to generate, how the training went, and "
        "what the autoencoders cost to run.",
        [
            Tables([tables.UNDERSTANDING, tables.BENCHMARKS, tables.DISTILLATION, published.table("vgt", "table1")]),
            Figures(
                [scores.training],
                "Training loss as recorded. Losses of different kinds of model are not comparable.",
            ),
            Tables([tables.TRAINING, tables.AUTOENCODER_SPEED]),
        ],
    ),
    Section(
        "provenance",
        "Provenance",
        "Provenance",
        _provenance_lead,
        [
            Tables([tables.ENVIRONMENTS]),
            Tables([tables.RECORDS], folded=lambda table: f"All {len(table.rows)} records"),
            Tables(
                [published.table("vgt", t.id) for t in PAPER.tables if t.id not in BESIDE],
                folded=lambda table: f"Published: {table.title}",
            ),
        ],
    ),
)
