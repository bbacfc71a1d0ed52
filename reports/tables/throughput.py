"""Throughput: QueryAR against MAR by acceleration and batch, the engine against the reference implementation, and the floor."""

from __future__ import annotations

from collections.abc import Callable

from reports.measured import Measured, label
from reports.tables.table import NOT_APPLICABLE, Cell, Column, Row, Table, finish, from_record
from reports.tables.vgt_tab8_decoding import TIMES, ratio
from vgt.core.record import SPEED, Record

Get = Callable[[str, str], Record | None]  # (subject, metric) -> record
METHODS = {"query_ar": "QueryAR", "mar": "MAR"}
ENGINE_NOTE = (
    "Engine: the decode engine over the reference implementation (cached, one call of the flow head per evaluation, nothing "
    "hoisted, no graphs), measured in alternation. Floor: the least time by bytes and operations at the bandwidth and "
    "rate that were measured on the same device; reached: floor over time."
)
RANDOM_NOTE = "Random weights: the time does not depend on their values."


def kind(query_ar: str) -> str:
    """What a pair shares, in the readers' words: "InternVL", "0.6B, random weights"."""
    words = label(query_ar).replace("QueryAR", "").strip()
    return words.removeprefix("(").removesuffix(")") if words.startswith("(") else words


def pairs(measured: Measured) -> list[tuple[str, str | None]]:
    """(QueryAR, MAR on the same latents or None), of all timed generators; a MAR without its rival stands alone."""
    timed = measured.timed()
    both = dict(measured.rivals(timed))
    return [(s, both.get(s)) for s in timed if s not in both.values()]


def reached(floor: Cell, time: Cell) -> Cell:
    """Share of the floor in the time, per cent."""
    found = ratio(floor, time)
    return Cell(100 * found.value, why=found.why) if isinstance(found.value, float) else found


def _columns() -> list[Column]:
    columns = []
    for key, name in METHODS.items():
        columns += [
            Column(f"{key}-rate", "images/s", "", 2, None, name),
            Column(f"{key}-ms", "ms/image", "", 1, None, name),
        ]
        columns += [Column(f"{key}-gain", f"{TIMES} readable", "", 2, None, name, optional=True)]
        columns += [Column(f"{key}-floor", "floor", "ms", 1, None, name, optional=True)]
        columns += [Column(f"{key}-reached", "reached", "%", 0, None, name, optional=True)]
    return [*columns, Column("over", f"QueryAR {TIMES} MAR", "", 2)]


def _cells(key: str, get: Get, subject: str | None) -> dict[str, Cell]:
    if subject is None:
        return {f"{key}-{part}": Cell(NOT_APPLICABLE) for part in ("rate", "ms", "gain", "floor", "reached")}
    time, floor = (from_record(get(subject, m)) for m in ("ms-per-image", "floor-ms-per-image"))
    return {
        f"{key}-rate": from_record(get(subject, "images-per-second")),
        f"{key}-ms": time,
        f"{key}-gain": from_record(get(subject, "speedup-over-eager")),
        f"{key}-floor": floor,
        f"{key}-reached": reached(floor, time),
    }


def build(measured: Measured) -> Table:
    """One row a pair, batch and acceleration."""
    rows = []
    for query_ar, mar in pairs(measured):
        for batch, throughput, suite in measured.speed_suites():
            found = [r for r in measured.where(suite, "ms-per-image") if r.subject in (query_ar, mar)]
            for accel in sorted({r.accel for r in found if r.accel is not None}):
                get = lambda s, m, suite=suite, accel=accel: measured.get(s, suite, m, accel)  # noqa: E731
                sides = (None, query_ar) if mar is None and "mar_" in query_ar else (query_ar, mar)
                cells = _cells("query_ar", get, sides[0]) | _cells("mar", get, sides[1])
                alone = None in sides
                cells["over"] = Cell(NOT_APPLICABLE) if alone else ratio(cells["query_ar-rate"], cells["mar-rate"])
                name = f"{kind(query_ar)}, batch {batch}{', not waiting' * throughput}, {accel}x"
                rows.append(Row(name, cells))
    notes = [ENGINE_NOTE]
    notes += [RANDOM_NOTE] if any("random" in row.label for row in rows) else []
    notes += (
        ["Not waiting: several batches follow each other before the clock is read."]
        if any("not waiting" in row.label for row in rows)
        else []
    )
    title = "Throughput of QueryAR and MAR by batch and acceleration"
    return finish(Table("throughput", title, _columns(), rows, notes, row_head="Generators"), compare=False)


def build_steps(measured: Measured) -> Table:
    """Large models of which only the first decode steps were timed: no time of an image."""
    columns = [
        Column("ms", "ms", "", 1),
        Column("eager", "reference implementation, ms", "", 1, optional=True),
        Column("gain", f"{TIMES} readable", "", 2, optional=True),
        Column("floor", "floor, ms", "", 1, optional=True),
        Column("reached", "reached", "%", 0, optional=True),
    ]
    metrics = {"ms": "ms-per-image", "eager": "eager-ms-per-image", "gain": "speedup-over-eager"}
    rows = []
    for r in sorted(measured.records, key=lambda r: r.name):
        suite = SPEED.fullmatch(r.suite)
        if r.metric != "ms-per-image" or not suite or not suite["steps"]:
            continue
        cells = {key: from_record(measured.get(r.subject, r.suite, m, r.accel)) for key, m in metrics.items()}
        cells["floor"] = from_record(measured.get(r.subject, r.suite, "floor-ms-per-image", r.accel))
        cells["reached"] = reached(cells["floor"], cells["ms"])
        rows.append(Row(f"{label(r.subject)} {r.accel}x, batch {suite['batch']}, {suite['steps']} steps", cells))
    notes = ["Milliseconds of one image in its batch, for the text and the steps named; " + ENGINE_NOTE]
    return finish(
        Table("throughput_steps", "First decode steps alone", columns, rows, notes, row_head="Generator"), False
    )
