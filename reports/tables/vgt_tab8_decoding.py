"""QueryAR versus MAR at several accelerations, in the shape of the paper's Table 8, with speed and with the floor and
ceiling that a tiny world makes possible."""

from __future__ import annotations

from reports.measured import CATEGORIES, TASKS, Measured, is_reference, row_label
from reports.tables.table import NOT_APPLICABLE, Cell, Column, Row, Table, finish, from_record

TASK_HEADS = dict(zip(TASKS, ("Single obj.", "Two obj.", "Count", "Colors", "Position", "Color attr."), strict=True))
TIMES = "\N{MULTIPLICATION SIGN}"
GENEVAL = "scenes-geneval"


def _rows(measured: Measured) -> list[tuple[str, int | None]]:
    """(subject, accel): models first, then floors and ceilings from below."""
    models = [(s, a) for s in measured.generators() for a in measured.accels(s)]
    references = measured.subjects(GENEVAL, "scenes-dpg")
    return models + [(s, None) for s in references if is_reference(s)]


def ratio(above: Cell, below: Cell) -> Cell:
    """The quotient of two speeds; empty, with the reason, unless both were measured on one device in one way."""
    if not isinstance(above.value, float) or not isinstance(below.value, float) or below.value == 0:
        return Cell()
    if above.basis != below.basis:
        return Cell(why="no ratio: the two speeds come from different devices or settings")
    return Cell(above.value / below.value)


def speedup(measured: Measured, subject: str, accel: int | None, over: str, over_accel: int | None) -> Cell:
    """Images a second of one generator over those of another."""
    return ratio(
        *(from_record(measured.speed(s, "images-per-second", a)) for s, a in ((subject, accel), (over, over_accel)))
    )


def build(measured: Measured) -> Table:
    """Scores and speed of every generator at every acceleration, then floor and ceilings."""
    rivals = dict(measured.rivals())
    columns = [
        Column("overall", "Overall", "", 3, "high", "GenEval rules"),
        *(Column(t, TASK_HEADS[t], "", 2, "high", "GenEval rules") for t in TASKS),
        Column("held_out", "Held-out pairs", "", 2, "high", "GenEval rules"),
        Column("dpg", "DPG", "", 1, "high"),
        Column("images-per-second", "images/s", "", 1, None, "Speed"),
        Column("ms-per-image", "ms/image", "", 1, None, "Speed"),
        Column("own", f"{TIMES} own 1x", "", 1, None, "Speed"),
        Column("mar", f"{TIMES} MAR", "", 1, None, "Speed"),
    ]
    rows = []
    for subject, accel in _rows(measured):
        cells = {m: from_record(measured.get(subject, GENEVAL, m, accel)) for m in ("overall", *TASKS, "held_out")}
        cells["dpg"] = from_record(measured.get(subject, "scenes-dpg", "dpg", accel))
        if is_reference(subject):
            cells |= {key: Cell(NOT_APPLICABLE) for key in ("images-per-second", "ms-per-image", "own", "mar")}
        else:
            cells |= {m: from_record(measured.speed(subject, m, accel)) for m in ("images-per-second", "ms-per-image")}
            cells["own"] = speedup(measured, subject, accel, subject, 1)
            mar = rivals.get(subject, subject if subject in rivals.values() else None)
            cells["mar"] = speedup(measured, subject, accel, mar, accel) if mar else Cell(NOT_APPLICABLE)
        rows.append(Row(row_label(subject, accel), cells, "reference" if is_reference(subject) else "model"))
    notes = [
        "Floor: right images judged against other prompts. Ceiling: right images passed through the autoencoder, "
        "about the most that a generator on its latents can reach. Oracle: right images as drawn.",
        "Held-out pairs: (color, shape) pairs that training never shows. DPG runs from 0 to 100.",
        *_judges(measured),
        f"Speed in batches of {measured.speed_suite.removeprefix('bench-b')}; {TIMES} MAR compares at the same "
        "acceleration, where there is a MAR on the same latents.",
    ]
    return finish(
        Table("vgt_tab8_decoding", "QueryAR and MAR by acceleration", columns, rows, notes, row_head="Generator")
    )


def _judges(measured: Measured) -> list[str]:
    names = sorted({r.judge for r in measured.where(GENEVAL) if r.judge})
    return [f"Judge: {', '.join(names)}."] if names else []


def build_dpg(measured: Measured) -> Table:
    """DPG by category: raw answers, and adjusted so that a question counts only if its parents were answered yes."""
    columns = [Column("dpg", "DPG", "", 1, "high")]
    columns += [Column(c, c.capitalize(), "", 1, "high", "raw") for c in CATEGORIES]
    columns += [Column(f"{c}-adjusted", c.capitalize(), "", 1, "high", "dependency-adjusted") for c in CATEGORIES]
    rows = [
        Row(
            row_label(subject, accel),
            {c.key: from_record(measured.get(subject, "scenes-dpg", c.key, accel)) for c in columns},
            "reference" if is_reference(subject) else "model",
        )
        for subject, accel in _rows(measured)
        if any(r.subject == subject and r.accel == accel for r in measured.where("scenes-dpg"))
    ]
    return finish(Table("dpg_categories", "Dense prompts by question category", columns, rows, row_head="Generator"))


def build_autoencoder_speed(measured: Measured) -> Table:
    """Encoding and decoding speed of the autoencoders."""
    columns = [
        Column("encode-images-per-second", "Encode", "images/s", 0, "high"),
        Column("decode-images-per-second", "Decode", "images/s", 0, "high"),
        Column("peak-memory-mib", "Peak memory", "MiB", 0, "low", optional=True),
    ]
    suite = measured.speed_suite
    subjects = {r.subject for r in measured.where(suite) if r.accel is None}
    rows = [
        Row(row_label(s), {c.key: from_record(measured.get(s, suite, c.key)) for c in columns})
        for s in measured.subjects(suite)
        if s in subjects
    ]
    return finish(Table("autoencoder_speed", "Speed of the autoencoders", columns, rows, row_head="Autoencoder"))
