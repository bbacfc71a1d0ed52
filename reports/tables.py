"""The tables of the report, each one declaration: columns, a query for its rows, notes.

A new table is a ``Table`` here and its name in ``reports/sections.py``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from reports.measured import (
    CATEGORIES,
    DPG,
    GENEVAL,
    MAR,
    METHODS,
    QUERY_AR,
    TASKS,
    Measured,
    is_reference,
    label,
    method,
    row_label,
)
from reports.table import NOT_APPLICABLE, PARTIAL, Cell, Column, Row, Table, from_record, ratio, text
from vgt.core.record import SPEED, Record

TIMES = "\N{MULTIPLICATION SIGN}"
TASK_HEADS = dict(zip(TASKS, ("Single obj.", "Two obj.", "Count", "Colors", "Position", "Color attr."), strict=True))
Rows = Callable[[Measured], Iterator[Row]]


# ------------------------------------------------------------------------------------------------- queries for rows


def about(subject: str, accel: int | None = None, **more) -> Row:
    """The row of one subject."""
    kind = "reference" if is_reference(subject) else "model"
    return Row(row_label(subject, accel), kind=kind, subject=subject, accel=accel, **more)


def each(*suites: str, apart: bool = True) -> Rows:
    """A row for every subject with a record in any of the suites; with several, columns name theirs.  ``apart``:
    baselines and ceilings do not compete."""

    def rows(measured: Measured) -> Iterator[Row]:
        for subject in measured.subjects(*suites):
            row = about(subject, suite=suites[0])
            yield row if apart else replace(row, kind="model")

    return rows


def generators(suite: str | None = None) -> Rows:
    """A row for every generator and acceleration, then baselines and ceilings; ``suite``: only those with a record
    of it."""

    def rows(measured: Measured) -> Iterator[Row]:
        among = {(r.subject, r.accel) for r in measured.where(suite)} if suite else None
        found = [(s, a) for s in measured.generators() for a in measured.accels(s)]
        found += [(s, None) for s in measured.subjects(*([suite] if suite else [GENEVAL, DPG])) if is_reference(s)]
        for subject, accel in found:
            if among is None or (subject, accel) in among:
                yield about(subject, accel, suite=suite or "")

    return rows


# -------------------------------------------------------------------------------------------------- reconstruction

NAMED = ("scenes", "photos")
PSNR = Column("psnr-mean", "PSNR", "dB", 2, "high")
METRICS = (
    PSNR,
    Column("ssim-wang", "SSIM", "", 3, "high"),
    Column("ssim-taming", "SSIM (range-2 variant, inflated)", "", 3, "high"),
    Column("fd-efflite2", "fd-efflite2", "", 2, "low"),
    Column("judge-agreement", "Judge agreement", "", 3, "high", optional=True),
    Column("lpips-alex-v0.1", "LPIPS (Alex)", "", 3, "low", optional=True),
    Column("lpips-vgg-v0.1", "LPIPS (VGG)", "", 3, "low", optional=True),
    Column("codebook-usage", "Codebook used", "", 3, "high", optional=True),
)
METRIC = {c.key: c for c in METRICS}
# Every definition of PSNR and SSIM, and a distance that flatters.
DEFINITIONS = (
    PSNR,
    Column("psnr-global", "PSNR of pooled error", "dB", 2, "high", optional=True),
    Column("ssim-wang", "ssim-wang", "", 3, "high"),
    Column("ssim-tm", "ssim-tm", "", 3, "high", optional=True),
    Column("ssim-y", "ssim-y", "", 3, "high", optional=True),
    Column("ssim-sk", "ssim-sk", "", 3, "high", optional=True),
    Column("ssim-tm-signed", "ssim-tm-signed", "", 3, "high", optional=True),
    Column("ssim-taming", "ssim-taming (inflated)", "", 3, "high"),
    Column("fd-efflite0", "fd-efflite0", "", 2, "low", optional=True),
)
METRIC_NOTES = (
    "PSNR: mean over images. SSIM: ssim-wang, 11x11 Gaussian window, data range 1; the range-2 variant (ssim-taming) "
    "is the one that the paper's reference evaluator computes, and it is inflated by construction.",
    "fd-efflite2: Fréchet distance on EfficientNet-Lite2 features; it is not FID and has no counterpart in papers.",
)
DATA = text("data", "Data", lambda row: row.suite)


def _on(suite: str, column: Column, **changes) -> Column:
    """The column for one data set of several."""
    key, metric = f"{suite}_{column.key}", column.key
    return replace(column, key=key, suite=suite, metric=metric, **{"group": suite.capitalize(), **changes})


RECONSTRUCTION = Table(
    "vgt_tab2_reconstruction",  # in the shape of the paper's Table 2
    "Reconstruction of synthetic scenes and of photographs",
    [_on("scenes", c) for c in METRICS] + [_on("photos", c) for c in METRICS if c.key != "judge-agreement"],
    each(*NAMED),
    [
        *METRIC_NOTES,
        "Judge agreement: share of scenes in which the judge finds the same set of (color, shape) before and after.",
    ],
    row_head="Autoencoder",
)
VARIANTS = Table(
    "reconstruction_variants",
    "Definitions of PSNR and SSIM side by side",
    [DATA, *DEFINITIONS],
    lambda measured: (row for suite in NAMED for row in each(suite, apart=False)(measured)),
    [
        "One image pair, many definitions: only columns of the same name may be compared across reports.",
        "fd-efflite0: a Fréchet distance on features that the autoencoders' training loss uses too: it flatters them.",
    ],
    row_head="Autoencoder",
    compare=False,
)


def _other_data(measured: Measured) -> Iterator[Row]:
    for r in measured.records:
        if r.metric == "psnr-mean" and r.suite.partition("@")[0] not in NAMED:
            yield Row(label(r.subject), subject=r.subject, suite=r.suite)


OTHER_DATA = Table(
    "reconstruction_other",
    "Reconstruction of other data",
    [DATA, *METRICS],
    _other_data,
    METRIC_NOTES,
    row_head="Autoencoder",
)


# The same reconstructions under the protocols of several papers.
SSIM = ("ssim-wang", "ssim-taming", "ssim-tm-signed")


def _protocol_rows(measured: Measured) -> Iterator[Row]:
    """PSNR records of photos, plain and ``photos@protocol``, by autoencoder; only those that have both."""
    base = "photos"
    found = [r for r in measured.records if r.metric == "psnr-mean" and r.suite.split("@")[0] == base]
    several = {r.subject for r in found if "@" in r.suite}
    ranked = [s for s in measured.subjects(base) if s in several]
    kept = [r for r in found if r.subject in ranked]
    for r in sorted(kept, key=lambda r: (ranked.index(r.subject), r.suite != base, r.suite)):
        yield Row(label(r.subject), subject=r.subject, suite=r.suite, record=r)


def _printed(measured: Measured, row: Row) -> Record | None:
    """The SSIM that the papers of the row's protocol print."""
    own = (r for r in measured.where(row.suite) if r.subject == row.subject and r.metric.startswith("ssim"))
    marked = next((r for r in own if r.protocol_params.get("reported_by_its_papers")), None)
    return marked or measured.get(row.subject, row.suite, SSIM[0])


def _printed_name(measured: Measured, row: Row) -> Cell:
    found = _printed(measured, row)
    return Cell(found.metric if found else SSIM[0])


def _size(row: Row) -> str:
    model, compared = (row.record.protocol_params.get(key) for key in ("model_res", "eval_res"))
    return f"{model} px" if compared in (None, model) else f"{model} \N{RIGHTWARDS ARROW} {compared} px"


PROTOCOLS = Table(
    "protocols",
    "One set of reconstructions by the protocols of several papers (photos)",
    [
        text("protocol", "Protocol", lambda row: row.suite.partition("@")[2] or "default"),
        text("size", "Compared at", _size),
        replace(PSNR, better=None),
        *(Column(m, m) for m in SSIM),
        Column("printed", "SSIM as its papers print it", value=lambda m, row: from_record(_printed(m, row))),
        Column("which", "which is", text=True, value=_printed_name),
    ],
    _protocol_rows,
    [
        "Every row of one autoencoder is made from the same network and the same images. A protocol decides how an "
        "image is cut, at which size the two are compared after which resampling, how values are rounded, and which "
        "SSIM is printed; evals/PROTOCOLS.md lists them. The tiny models keep each paper's ratio of sizes.",
    ],
    row_head="Autoencoder",
    compare=False,
)


# ------------------------------------------------------------------------------------------------------- generation


def speedup(measured: Measured, subject: str, accel: int | None, over: str, over_accel: int | None) -> Cell:
    """Images a second of one generator over those of another."""
    sides = ((subject, accel), (over, over_accel))
    return ratio(*(from_record(measured.speed(s, "images-per-second", a)) for s, a in sides))


def _timed(cell: Callable[[Measured, Row], Cell]) -> Callable[[Measured, Row], Cell]:
    """Of generators only: baselines and ceilings have no speed."""
    return lambda measured, row: Cell(NOT_APPLICABLE) if is_reference(row.subject) else cell(measured, row)


def _speed(key: str, head: str) -> Column:
    found = _timed(lambda measured, row: from_record(measured.speed(row.subject, key, row.accel)))
    return Column(key, head, "", 1, None, "Speed", value=found)


def _over_mar(measured: Measured, row: Row) -> Cell:
    """The speed over that of the MAR on the same latents at the same acceleration."""
    rivals = dict(measured.rivals())
    mar = rivals.get(row.subject, row.subject if row.subject in rivals.values() else None)
    return speedup(measured, row.subject, row.accel, mar, row.accel) if mar else Cell(NOT_APPLICABLE)


def _decoding_notes(measured: Measured, rows: Sequence[Row]) -> list[str]:
    judges = sorted({r.judge for r in measured.where(GENEVAL) if r.judge})
    return [
        "Shuffled prompts: right images judged against other prompts, a baseline. Ceiling: right images passed "
        "through the autoencoder, about the most that a generator on its latents can reach. Oracle: right images as "
        "they were rendered.",
        "Held-out pairs: (color, shape) pairs that training never shows. DPG runs from 0 to 100.",
        *([f"Judge: {', '.join(judges)}."] if judges else []),
        f"Speed in batches of {measured.speed_suite.removeprefix('bench-b')}; {TIMES} MAR compares at the same "
        "acceleration, where there is a MAR on the same latents.",
    ]


DECODING = Table(
    "vgt_tab8_decoding",  # in the shape of the paper's Table 8
    "QueryAR and MAR by acceleration",
    [
        Column("overall", "Overall", "", 3, "high", "GenEval rules", suite=GENEVAL),
        *(Column(t, TASK_HEADS[t], "", 2, "high", "GenEval rules", suite=GENEVAL) for t in TASKS),
        Column("held_out", "Held-out pairs", "", 2, "high", "GenEval rules", suite=GENEVAL),
        Column("dpg", "DPG", "", 1, "high", suite=DPG),
        _speed("images-per-second", "images/s"),
        _speed("ms-per-image", "ms/image"),
        Column(
            "own",
            f"{TIMES} own 1x",
            "",
            1,
            None,
            "Speed",
            value=_timed(lambda m, row: speedup(m, row.subject, row.accel, row.subject, 1)),
        ),
        Column("mar", f"{TIMES} MAR", "", 1, None, "Speed", value=_timed(_over_mar)),
    ],
    generators(),
    _decoding_notes,
    row_head="Generator",
)
DPG_CATEGORIES = Table(
    "dpg_categories",
    "Dense prompts by question category",
    [
        Column("dpg", "DPG", "", 1, "high"),
        *(Column(c, c.capitalize(), "", 1, "high", "raw") for c in CATEGORIES),
        *(Column(f"{c}-adjusted", c.capitalize(), "", 1, "high", "dependency-adjusted", unless=c) for c in CATEGORIES),
    ],
    generators(DPG),
    [
        "Dependency-adjusted: a question counts only if the questions that it depends on were answered yes; shown "
        "where that changes a category."
    ],
    row_head="Generator",
)
AS_A_SET = (
    Column("kid-efflite2", "KID", "", 3, "low"),
    *(Column(f"{m}-efflite2", m.capitalize(), "", 3, "high") for m in ("precision", "recall", "density", "coverage")),
)
RIGHT = "images-oracle"
FIDELITY = Table(
    "fidelity",
    "The generated images as a set",
    AS_A_SET,
    generators(RIGHT),
    [
        "Images generated for the GenEval prompts against the right images of the same prompts, on EfficientNet-Lite2 "
        "features. They ask whether the set looks right, not whether an image fits its prompt: right images of other "
        "prompts score well here. Too few images for a Fréchet distance.",
    ],
    row_head="Generator",
)


def _other_sets(measured: Measured) -> Iterator[Row]:
    """A row for everything that was compared with other images than the right ones."""
    metrics = {c.key for c in AS_A_SET}
    found = {(r.suite, r.subject, r.accel): None for r in measured.records if r.metric in metrics and r.suite != RIGHT}
    return (about(subject, accel, suite=suite) for suite, subject, accel in found)


OTHER_FIDELITY = Table(
    "fidelity_other",
    "Sets of images against other images",
    [DATA, *AS_A_SET],
    _other_sets,
    row_head="Images",
    compare=False,
)


def _tradeoff_rows(measured: Measured) -> Iterator[Row]:
    """Generators whose autoencoder is known, at 1x, without MAR."""
    for generator in measured.generators():
        autoencoder = measured.autoencoder_of(generator)
        if autoencoder is not None and method(generator) != MAR:
            others = {"autoencoder": (autoencoder, None), "ceiling": (f"oracle+{autoencoder}", None)}
            yield Row(label(generator), subject=generator, accel=1, others=others)


SCENES, AT_1X = "Reconstruction, scenes", "Generation at 1x"
TRADEOFF = Table(
    "vgt_tab6_tradeoff",  # in the shape of the paper's Table 6
    "Reconstruction versus generation",
    [
        text("autoencoder", "Autoencoder", lambda row: label(row.others["autoencoder"][0])),
        _on("scenes", PSNR, group=SCENES, of="autoencoder"),
        _on("scenes", METRIC["fd-efflite2"], group=SCENES, of="autoencoder"),
        _on("scenes", METRIC["judge-agreement"], group=SCENES, of="autoencoder", optional=False),
        _on("photos", PSNR, of="autoencoder"),
        Column("overall", "GenEval overall", "", 3, "high", AT_1X, suite=GENEVAL),
        Column("dpg", "DPG", "", 1, "high", AT_1X, suite=DPG),
        Column("ceiling", "Ceiling (GenEval)", "", 3, None, AT_1X, suite=GENEVAL, metric="overall", of="ceiling"),
    ],
    _tradeoff_rows,
    row_head="Generator",
)


# ------------------------------------------------------------------------------------------------------- throughput

BOUND_NOTE = (
    "Engine: the decode engine over the reference implementation (cached, one call of the flow head per evaluation, "
    "nothing hoisted, no graphs), measured in alternation. Lower bound: the least time by bytes and operations at the "
    "bandwidth and rate that were measured on the same device; reached: lower bound over time."
)
RANDOM_NOTE = "Random weights: the time does not depend on their values."


def shared(pair: dict[str, str | None]) -> str:
    """What a pair of rivals shares, in the readers' words: "InternVL", "0.6B, random weights"."""
    words = label(pair[QUERY_AR] or pair[MAR]).replace("QueryAR", "").strip()
    return words.removeprefix("(").removesuffix(")") if words.startswith("(") else words


def _percent(below: str, above: str) -> Callable[[Measured, Row], Cell]:
    """One cell of the row over another, per cent."""

    def cell(_: Measured, row: Row) -> Cell:
        found = ratio(row.cells[below], row.cells[above])
        if NOT_APPLICABLE in (row.cells[below].value, row.cells[above].value):
            return Cell(NOT_APPLICABLE)
        return Cell(100 * found.value, why=found.why) if isinstance(found.value, float) else found

    return cell


def _speed_columns(of: str = "", group: str = "") -> list[Column]:
    """Speed of one method, gain over the reference implementation, and what share of the lower bound it reached."""
    at = f"{of}-" if of else ""
    more = {"group": group, "of": of, "optional": True}
    return [
        Column(f"{at}rate", "images/s", "", 2, None, group, metric="images-per-second", of=of),
        Column(f"{at}ms", "ms/image", "", 1, None, group, metric="ms-per-image", of=of),
        Column(f"{at}gain", f"{TIMES} reference", "", 2, metric="speedup-over-eager", **more),
        Column(f"{at}floor", "lower bound", "ms", 1, metric="floor-ms-per-image", **more),
        Column(f"{at}reached", "reached", "%", 0, value=_percent(f"{at}floor", f"{at}ms"), **more),
    ]


def _measured_accels(measured: Measured, suite: str, subjects: Sequence[str | None]) -> list[int]:
    found = {r.accel for r in measured.where(suite, "ms-per-image") if r.subject in subjects}
    return sorted(a for a in found if a is not None)


def _pair_rows(measured: Measured) -> Iterator[Row]:
    """A row a pair of rivals, batch and acceleration."""
    for pair in measured.timed_pairs():
        for batch, throughput, suite in measured.speed_suites():
            for accel in _measured_accels(measured, suite, list(pair.values())):
                name = f"{shared(pair)}, batch {batch}{', not waiting' * throughput}, {accel}x"
                yield Row(name, suite=suite, others={key: s and (s, accel) for key, s in pair.items()})


def _over(_: Measured, row: Row) -> Cell:
    alone = None in row.others.values()
    return Cell(NOT_APPLICABLE) if alone else ratio(row.cells["query_ar-rate"], row.cells["mar-rate"])


def _throughput_notes(_: Measured, rows: Sequence[Row]) -> list[str]:
    notes = [BOUND_NOTE]
    notes += [RANDOM_NOTE] if any("random" in row.label for row in rows) else []
    waiting = "Not waiting: several batches follow each other before the clock is read."
    return [*notes, waiting] if any("not waiting" in row.label for row in rows) else notes


THROUGHPUT = Table(
    "throughput",
    "Throughput of QueryAR and MAR by batch and acceleration",
    [
        *(column for key, name in METHODS.items() for column in _speed_columns(key, name)),
        Column("over", f"QueryAR {TIMES} MAR", "", 2, value=_over),
    ],
    _pair_rows,
    _throughput_notes,
    row_head="Generators",
    compare=False,
)


def _other_timed_rows(measured: Measured) -> Iterator[Row]:
    """A row a generator of neither method, batch and acceleration."""
    for subject in measured.timed():
        for batch, throughput, suite in measured.speed_suites() if method(subject) is None else ():
            for r in measured.where(suite, "ms-per-image"):
                if r.subject == subject:
                    name = f"{row_label(subject, r.accel)}, batch {batch}{', not waiting' * throughput}"
                    yield Row(name, subject=subject, accel=r.accel, suite=suite)


OTHER_THROUGHPUT = Table(
    "throughput_other",
    "Throughput of other generators",
    _speed_columns(),
    _other_timed_rows,
    _throughput_notes,
    row_head="Generator",
    compare=False,
)


def _step_rows(measured: Measured) -> Iterator[Row]:
    for r in sorted(measured.records, key=lambda r: r.name):
        suite = SPEED.fullmatch(r.suite)
        if r.metric == "ms-per-image" and suite and suite["steps"]:
            name = f"{label(r.subject)} {r.accel}x, batch {suite['batch']}, {suite['steps']} steps"
            yield Row(name, subject=r.subject, accel=r.accel, suite=r.suite)


STEPS = Table(
    "throughput_steps",  # of large models: no time of an image
    "First decode steps alone",
    [
        Column("ms", "ms", "", 1, metric="ms-per-image"),
        Column("eager", "reference implementation, ms", "", 1, optional=True, metric="eager-ms-per-image"),
        Column("gain", f"{TIMES} reference", "", 2, optional=True, metric="speedup-over-eager"),
        Column("floor", "lower bound, ms", "", 1, optional=True, metric="floor-ms-per-image"),
        Column("reached", "reached", "%", 0, optional=True, value=_percent("floor", "ms")),
    ],
    _step_rows,
    ["Milliseconds of one image in its batch, for the text and the steps named. " + BOUND_NOTE],
    row_head="Generator",
    compare=False,
)


def _timed_autoencoders(measured: Measured) -> Iterator[Row]:
    suite = measured.speed_suite
    plain = {r.subject for r in measured.where(suite) if r.accel is None}
    return (Row(label(s), subject=s, suite=suite) for s in measured.subjects(suite) if s in plain)


AUTOENCODER_SPEED = Table(
    "autoencoder_speed",
    "Speed of the autoencoders",
    [
        Column("encode-images-per-second", "Encode", "images/s", 0, "high"),
        Column("decode-images-per-second", "Decode", "images/s", 0, "high"),
        Column("peak-memory-mib", "Peak memory", "MiB", 0, "low", optional=True),
    ],
    _timed_autoencoders,
    row_head="Autoencoder",
)


# ---------------------------------------------------------------------------------------------------------- samplers

NEEDED = "evaluations-needed"  # the metric of a study's own record
SAMPLERS = {
    "sde": "Stochastic (published)",
    "sde2": "Stochastic, order 2",
    "ode": "Euler",
    "heun": "Heun",
    "ab2": "Adams-Bashforth 2",
    "dpmpp": "DPM-Solver++ 2M",
}


def studies(measured: Measured) -> list[Record]:
    """The studies' own records (``vgt eval solvers``): those on test prompts first, then by acceleration."""
    found = [r for r in measured.records if r.metric == NEEDED]
    return sorted(found, key=lambda r: (not r.suite.endswith("-test"), r.subject, r.accel or 0, r.suite))


def study_title(study: Record) -> str:
    """Whose study on which prompts, e.g. "QueryAR (InternVL) 16x, 1,020 test prompts"."""
    kind = study.suite.rpartition("-")[2]
    return f"{row_label(study.subject, study.accel)}, {study.extra['prompts']:,} {kind} prompts"


def study_name(study: Record) -> str:
    """The stem of its files, e.g. "solvers_query_ar_internvl_16x_1020_test"."""
    suite = study.suite.removeprefix(f"{GENEVAL}-").replace("-", "_")
    return f"solvers_{study.subject}_{study.accel}x_{suite}"


def _solver(settings: dict) -> str:
    """In the readers' words, with time schedule and decoding where they are not the usual ones."""
    usual = {"time_schedule": "linear", "schedule": None, "order": "random", "flow_budget": "constant"}
    others = [settings[name] for name, value in usual.items() if settings.get(name, value) != value]
    return ", ".join([SAMPLERS.get(settings["sampler"], settings["sampler"]), *others])


def _setting_rows(measured: Measured, study: Record) -> Iterator[Row]:
    """A study's settings whose scores are among the records, in its order; the baseline has no result of a test."""
    known = {r.model: r for r in measured.records if r.suite == study.suite and r.metric == "overall"}
    for result in study.extra["results"]:
        record, baseline = known.get(result["model"]), result["p"] is None
        if record is None:
            continue
        verdict = "baseline" if baseline else "not inferior" if result["passed"] else "not shown"
        if not baseline and result["model"] == study.extra["recommended"]:
            verdict += ", recommended"
        cells = {
            "evaluations": Cell(float(record.extra["head_evaluations"])),
            "overall": from_record(record),
            **{k: Cell(NOT_APPLICABLE if baseline else result[k]) for k in ("gain", "low", "adjusted")},
            "verdict": Cell(verdict),
            "seconds": Cell(record.extra.get("seconds_per_image")),
        }
        yield Row(_solver(record.extra["settings"]), cells, record=record)


def study_table(study: Record) -> Table:
    """One row a setting: score, gain over the baseline with its lower bound, p-value, cost."""
    against = "Against the baseline"
    extra, params = study.extra, study.protocol_params
    return Table(
        study_name(study),
        f"Samplers: {study_title(study)}",
        [
            Column("evaluations", "Evaluations a token", "", 0),
            Column("overall", "Overall", "", 3, "high", "GenEval rules"),
            Column("gain", "Gain", "", 3, None, against),
            Column("low", "Lower bound", "", 3, None, against),
            Column("adjusted", "p (Holm)", "", 4, None, against),
            Column("verdict", "Verdict", group=against, text=True),
            Column("seconds", "s/image", "", 3, None, "Cost", optional=True),
        ],
        lambda measured: _setting_rows(measured, study),
        [
            f"{extra['prompts']} prompts ({extra['different_prompts']} different ones) made for this study, not the "
            f"benchmark suite; the baseline is {params['baseline']}.",
            f"Not inferior: a loss of {params['margin']:g} or more is refuted at 5 % (one-sided, paired by image, "
            "clustered by prompt), after Holm's correction over all settings. The lower bound is one-sided, 95 %, "
            "uncorrected.",
            "Evaluations: of the flow head for each token, on two rows each under guidance. Seconds: wall time while "
            "these images were generated, with other work beside; timings proper are those of `vgt bench`.",
        ],
        row_head="Sampler",
    )


# ----------------------------------------------------------------------------------------------------------- latents

LATENTS = "scenes-latents"
LABELS, CLUSTERS, SPREAD = "Labels from the mean over tokens", "Clusters of the means", "Spread"
GEOMETRY, TOKEN_CLUSTERS = "Geometry of the means", "Clusters of tokens"
TOKEN, VALUES = "Every token", "Distribution of a channel over tokens"
CONTENT = (
    Column("linear-probe-shape", "Linear probe, shape", "", 3, "high", LABELS),
    Column("linear-probe-color", "Linear probe, color", "", 3, "high", LABELS),
    Column("knn-accuracy", "k-NN, shape", "", 3, "high", LABELS),
    Column("knn-accuracy-color", "k-NN, color", "", 3, "high", LABELS),
    Column("silhouette", "Silhouette, shape", "", 3, None, LABELS),
    Column("silhouette-color", "Silhouette, color", "", 3, None, LABELS),
    Column("nmi", "NMI, shape", "", 3, "high", CLUSTERS),
    Column("nmi-color", "NMI, color", "", 3, "high", CLUSTERS),
    Column("ari", "ARI, shape", "", 3, "high", CLUSTERS),
    Column("ari-color", "ARI, color", "", 3, "high", CLUSTERS),
    Column("effective-rank", "Effective rank", "", 1, None, SPREAD),
)
SPACE = (
    Column("tsne", "t-SNE trust", "", 3, None, GEOMETRY),
    Column("participation-ratio", "Particip. ratio", "", 1, None, GEOMETRY),
    Column("pc1-share", "PC 1 share", "", 3, None, GEOMETRY),
    Column("correlation", "Mean |corr.|", "", 3, None, GEOMETRY),
    Column("collapse", "Collapsed dims", "", 3, None, GEOMETRY),
    Column("alignment", "Alignment", "", 3, "low", GEOMETRY),
    Column("uniformity", "Uniformity", "", 3, "low", GEOMETRY),
    Column("cluster-maps", "Variance explained", "", 3, None, TOKEN_CLUSTERS),
    Column("object-clusters", "Object homog.", "", 3, "high", TOKEN_CLUSTERS),
)
NMI_PARTS = (
    Column("homogeneity", "Homog., shape", "", 3, "high", CLUSTERS),
    Column("completeness", "Compl., shape", "", 3, "high", CLUSTERS),
    Column("homogeneity-color", "Homog., color", "", 3, "high", CLUSTERS),
    Column("completeness-color", "Compl., color", "", 3, "high", CLUSTERS),
)
TOKENS = (
    Column("token-effective-rank", "Effective rank", "", 1, None, TOKEN),
    Column("token-participation-ratio", "Particip. ratio", "", 1, None, TOKEN),
    Column("token-pc1-share", "PC 1 share", "", 3, None, TOKEN),
    Column("token-correlation", "Mean |corr.|", "", 3, None, TOKEN),
    Column("token-collapse", "Collapsed dims", "", 3, None, TOKEN),
    Column("spatial-smoothness", "Smoothness", "", 3, None, TOKEN),
    Column("channel-variance", "Median variance", "", 3, None, VALUES),
    Column("skew", "Mean |skew|", "", 2, "low", VALUES),
    Column("kurtosis", "Mean |ex. kurtosis|", "", 2, "low", VALUES),
    Column("kl-normal", "KL to N(0, 1)", "", 2, "low", VALUES),
)


def _chance(measured: Measured, columns: Sequence[Column], words: str) -> Iterator[Row]:
    """The best that chance did in any row; of columns without a direction, only where labels were shuffled."""
    cells = {}
    for column in columns:
        found = [r.extra.get("chance") for r in measured.where(LATENTS, column.key)]
        values = [v for v in found if isinstance(v, float)]
        known = column.better or column.key.startswith("silhouette") or column.key == "tsne"
        cells[column.key] = Cell(NOT_APPLICABLE)
        if values and known and column.key != "uniformity":
            cells[column.key] = Cell(min(values) if column.better == "low" else max(values))
    if any(c.value != NOT_APPLICABLE for c in cells.values()):
        yield Row(words, cells, "reference")


def _probes(name: str, title: str, known: Sequence[Column], notes: Sequence[str], chance="Chance", rest=False) -> Table:
    """A table of those probes that were made; ``rest``: also of metrics that no table names, under their own name."""

    def columns(measured: Measured) -> list[Column]:
        metrics = {r.metric for r in measured.where(LATENTS)}
        named = {c.key for c in (*CONTENT, *SPACE, *NMI_PARTS, *TOKENS)}
        others = [Column(m, m.replace("-", " "), group="Other") for m in sorted(metrics - named)] if rest else []
        return [*(c for c in known if c.key in metrics), *others]

    def rows(measured: Measured) -> Iterator[Row]:
        yield from each(LATENTS)(measured)
        yield from _chance(measured, columns(measured), chance)

    return Table(name, title, columns, rows, notes, row_head="Autoencoder")


PROBES = _probes(
    "latent_probes",
    "Probes of the latents",
    CONTENT,
    [
        "Linear probe and k-NN: accuracy at naming the shape or color of the one object in a test scene. Clusters: "
        "k-means on the same means, k = number of classes. Chance: the same probe after the labels were shuffled, the "
        "highest of all rows.",
    ],
    "Chance (shuffled labels)",
)
LATENT_SPACE = _probes(
    "latent_space",
    "Geometry and clusters of the latents",
    SPACE,
    [
        "Trust: trustworthiness of the t-SNE (5 neighbors). Alignment: squared distance on the unit sphere between a "
        "scene and its object before another background (chance: between different scenes, the lowest of all rows). "
        "Uniformity: lower is more even. Object homog.: homogeneity of the clusters in the question whether a token "
        "shows the object, 1 - H(object | cluster) / H(object) (chance: objects of the next image).",
    ],
)
LATENT_TOKENS = _probes(
    "latent_tokens",
    "Tokens of the latents",
    TOKENS,
    ["Skew, excess kurtosis and KL are 0 for a standard normal channel; KL in nats a dimension."],
    rest=True,
)
# Homogeneity and completeness, whose harmonic mean is the NMI of the first table.
LATENT_PARTS = _probes("latent_clusters", "The two parts of NMI", NMI_PARTS, [])


def _cka_cell(other: str) -> Callable[[Measured, Row], Cell]:
    def cell(measured: Measured, row: Row) -> Cell:
        if row.subject == other:
            return Cell(NOT_APPLICABLE)
        return from_record(measured.cka_pairs()[1].get((row.subject, other)))

    return cell


def _cka_notes(measured: Measured, _: Sequence[Row]) -> list[str]:
    found = measured.cka_pairs()[1]
    few = {r.name for r in found.values() if r.protocol.endswith("unbiased")}
    notes = ["1: the same up to rotation and scale; near 0: nothing shared. Means over tokens of the same test scenes."]
    if few:
        notes.append(f"{len(few)} of {len(found) // 2} pairs by the unbiased estimator: under 5 images a dimension.")
    return notes


CKA = Table(
    "latent_cka",
    "Linear CKA between encoders",
    lambda measured: [Column(n, label(n), value=_cka_cell(n)) for n in measured.cka_pairs()[0]],
    lambda measured: map(about, measured.cka_pairs()[0]),
    _cka_notes,
    row_head="Encoder",
    compare=False,
)


# -------------------------------------------------------------------------------------------------- judge and models

JUDGE = "judge-analytic"
REQUIRED = 0.99  # judge accuracy on ground-truth renders, per task
CLEAN = "calibration-clean"
DEGRADATIONS = {
    CLEAN: "Clean renders",
    "calibration-blur1": "Blur, sigma 1",
    "calibration-blur1.5": "Blur, sigma 1.5",
    "calibration-noise10": "Noise, sigma 10",
    "calibration-noise20": "Noise, sigma 20",
    "calibration-jpeg50": "JPEG, quality 50",
    "calibration-jpeg25": "JPEG, quality 25",
    "calibration-shrink48": "Shrunk to 48 px and back",
    "calibration-shrink32": "Shrunk to 32 px and back",
}


def _calibration_rows(measured: Measured) -> Iterator[Row]:
    found = {(r.subject, r.suite) for r in measured.records if r.suite in DEGRADATIONS}
    judges = sorted({judge for judge, _ in found})
    for judge in judges:
        for suite, words in DEGRADATIONS.items():
            if (judge, suite) in found:
                name = words if len(judges) == 1 else f"{label(judge)}: {words}"
                yield Row(name, subject=judge, suite=suite)


CALIBRATION = Table(
    "judge_calibration",
    "Calibration of the judge",
    [
        Column("overall", "Overall"),
        *(Column(t, TASK_HEADS[t]) for t in TASKS),
        Column("exact-set", "Exact set"),
    ],
    _calibration_rows,
    [
        "Overall and tasks: GenEval's rules on images that show exactly what the prompt says. Exact set: share of "
        "test scenes whose whole set of (color, shape) is found.",
    ],
    row_head="Images",
    compare=False,
)


def calibration_verdict(measured: Measured) -> str:
    """Whether the judge may be trusted on clean images, in a sentence; empty without calibration."""
    cells = {t: from_record(measured.get(JUDGE, CLEAN, t)) for t in TASKS}
    known = {t: c.value for t, c in cells.items() if isinstance(c.value, float)}
    if not known:
        return ""
    low = [TASK_HEADS[t] for t, v in known.items() if v < REQUIRED]
    partial = " (partial records)" if any(c.partial for c in cells.values()) else ""
    missing = f"; {len(TASKS) - len(known)} of {len(TASKS)} tasks not measured" if len(known) < len(TASKS) else ""
    state = (
        f"not met for {', '.join(low)}" if low else "met for every task measured" if missing else "met for every task"
    )
    return f"Required on clean renders: at least {REQUIRED} per task; {state}{missing}{partial}."


# (the VLM, its autoencoder trained without self-distillation, and with it)
ARMS = (
    ("vlm_internvl", "vgt_ae_internvl_nodistill", "vgt_ae_internvl"),
    ("vlm_qwen", "vgt_ae_qwen_nodistill", "vgt_ae_qwen"),
)
VQA = "scenes-vqa"


def _arm_rows(measured: Measured) -> Iterator[Row]:
    """Three rows a VLM: before tuning, and with the encoders of both arms; none where no arm was measured without."""
    for vlm, without, distilled in ARMS:
        if measured.get(f"{vlm}+{without}", VQA, "accuracy") is None:
            continue
        before = f"{label(vlm)}, before tuning"
        yield Row(before, kind="reference", subject=vlm, others={"autoencoder": None})
        for name, arm in (("1: without self-distillation", without), ("2: with self-distillation", distilled)):
            yield Row(name, subject=f"{vlm}+{arm}", others={"autoencoder": (arm, None)})


DISTILLATION = Table(
    "vgt_tab1_distillation",  # in the shape of the paper's Table 1
    "Self-distillation and understanding",
    [
        Column("accuracy", "Questions answered", "", 3, "high", "Understanding", suite=VQA),
        _on("scenes", PSNR, group=SCENES, of="autoencoder"),
        _on("scenes", METRIC["judge-agreement"], group=SCENES, of="autoencoder", optional=False),
        _on("photos", PSNR, of="autoencoder"),
    ],
    _arm_rows,
    [
        "The same questions about unseen scenes; only the vision encoder and projector change within a VLM.",
        "Both arms have the same steps, samples and losses but for self-distillation.",
    ],
    row_head="Encoder",
)


def _vqa_columns(measured: Measured) -> list[Column]:
    metrics = sorted({r.metric for r in measured.where(VQA)}, key=lambda m: (m != "accuracy", m))
    return [Column(m, m.replace("-", " ").capitalize(), "", 3, "high") for m in metrics]


UNDERSTANDING = Table(
    "vlm_understanding",
    "Understanding: questions about unseen scenes",
    _vqa_columns,
    each(VQA, apart=False),
    row_head="Model",
)

BENCHMARK_COLUMNS = (
    Column("MME-P", "MME-P", "", 1, "high", suite="MME-P", metric="mme-perception"),
    Column("MMBench-EN", "MMBench", "", 1, "high", suite="MMBench-EN", metric="accuracy"),
    Column("AI2D", "AI2D", "", 1, "high", suite="AI2D", metric="accuracy"),
    Column("TextVQA", "TextVQA", "", 1, "high", suite="TextVQA", metric="accuracy"),
)


def _harness(measured: Measured, row: Row) -> Cell:
    found = (measured.get(row.subject, c.suite, c.metric) for c in BENCHMARK_COLUMNS)
    return Cell(", ".join(sorted({r.protocol.split("/")[0] for r in found if r is not None})))


BENCHMARKS = Table(
    "understanding_benchmarks",
    "Understanding benchmarks (imported results)",
    [*BENCHMARK_COLUMNS, Column("harness", "Harness", text=True, value=_harness)],
    each(*(c.suite for c in BENCHMARK_COLUMNS), apart=False),
    row_head="Model",
)


def _training_rows(measured: Measured) -> Iterator[Row]:
    for r in measured.where("training", "loss"):
        curve = r.extra.get("curve") or []
        cells = {"loss": Cell(r.value), "device": Cell(r.extra.get("device"))}
        cells["steps"] = Cell(float(curve[-1][0]) if curve else None)
        for key in ("samples", "minutes", "parameters"):
            value = r.extra.get(key)
            cells[key] = Cell(float(value) if isinstance(value, (int, float)) else None)
        yield Row(label(r.subject), cells)


TRAINING = Table(
    "training",
    "Training runs",
    [
        Column("loss", "Final loss", "", 4),
        Column("steps", "Steps", "", 0),
        Column("samples", "Samples", "", 0, optional=True),
        Column("minutes", "Minutes", "", 1, optional=True),
        Column("parameters", "Parameters", "", 0, optional=True),
        Column("device", "Last trained on", text=True, optional=True),
    ],
    _training_rows,
    ["Losses of different kinds of model are not comparable with each other."],
    row_head="Model",
)


# -------------------------------------------------------------------------------------------------------- provenance


def _commit(r: Record) -> str | None:
    return None if r.commit is None else r.commit[:8] + ("+dirty" if r.dirty else "")


def _value(_: Measured, row: Row) -> Cell:
    r = row.record
    if r.value is None:
        return Cell(why=r.note)
    return Cell(f"{r.value:.6g}" + (f" {r.unit}" if r.unit else ""))


def _coverage(r: Record) -> str:
    failed = f", {r.n_failed} failed" if r.n_failed else ""
    return f"{r.n}/{r.n_expected}{failed}" + (f" {PARTIAL}" if r.partial else "")


def _settings(r: Record) -> str:
    """The protocol's plain settings, e.g. "images_per_prompt=4"."""
    plain = {k: v for k, v in r.protocol_params.items() if isinstance(v, (str, int, float, bool))}
    return ", ".join(f"{k}={v}" for k, v in sorted(plain.items()))


def _of_record(key: str, head: str, of: Callable[[Record], object]) -> Column:
    """A column of plain words about a record; what is None or "" is unknown."""

    def words(row: Row) -> str | None:
        found = of(row.record)
        return None if found is None or found == "" else str(found)

    return text(key, head, words)


RECORDS = Table(
    "provenance",
    "Every record",
    [
        Column("value", "Value", text=True, value=_value),
        _of_record(
            "interval",
            "95 % interval",
            lambda r: None if r.low is None or r.high is None else f"[{r.low:.4g}, {r.high:.4g}]",
        ),
        _of_record("n", "n", _coverage),
        _of_record("protocol", "Protocol", lambda r: r.protocol),
        _of_record("settings", "Settings", _settings),
        _of_record("judge", "Judge", lambda r: r.judge),
        _of_record("seed", "Seed", lambda r: r.seed),
        _of_record("fingerprint", "Fingerprint", lambda r: r.fingerprint[:8]),
        _of_record("commit", "Commit", _commit),
        _of_record("device", "Device", lambda r: r.device),
        _of_record("created", "Created", lambda r: r.created),
        _of_record("seconds", "Seconds", lambda r: None if r.seconds is None else f"{r.seconds:.2f}"),
    ],
    lambda measured: (Row(r.name, record=r) for r in measured.records),
    row_head="Record",
    missing="does not apply or was not recorded",
)


def _packages(measured: Measured) -> list[Column]:
    names = sorted({name for r in measured.records for name in r.versions})
    plain = [Column(name, name, text=True) for name in names]
    return [Column("records", "Records", digits=0), Column("device", "Device", text=True), *plain]


def _environment_rows(measured: Measured) -> Iterator[Row]:
    """The distinct commits, machines and package versions, with the number of records from each."""
    counts = Counter((_commit(r), r.device, tuple(sorted(r.versions.items()))) for r in measured.records)
    for (commit, device, versions), count in counts.most_common():
        cells = {"records": Cell(count), "device": Cell(device or None), **{k: Cell(v) for k, v in versions}}
        yield Row(commit or "no commit", cells)


ENVIRONMENTS = Table(
    "environments",
    "Software and machines",
    _packages,
    _environment_rows,
    row_head="Commit",
    missing="not recorded",
)
