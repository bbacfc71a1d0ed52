"""What a reader can read off at once: the strip of cards on the page, and the short table on a console."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from reports.measured import ACCELS, DPG, GENEVAL, Measured, is_reference, label, row_label
from reports.table import BUSY, EMPTY, PARTIAL, Cell, from_record
from reports.tables import CLEAN, JUDGE, VQA
from vgt.core import text
from vgt.core.record import Record


@dataclass(frozen=True)
class Line:
    """One line of a card: who, the number, its interval, what goes with it."""

    name: str
    value: str
    interval: str = ""
    beside: str = ""


@dataclass(frozen=True)
class Card:
    title: str
    lines: list[Line]
    note: str = ""


def _value(cell: Cell, digits: int, unit: str = "") -> str:
    if not isinstance(cell.value, float):
        return EMPTY
    return f"{cell.value:.{digits}f}{unit}" + PARTIAL * cell.partial + BUSY * cell.busy


def _interval(cell: Cell, digits: int) -> str:
    return f"[{cell.low:.{digits}f}, {cell.high:.{digits}f}]" if cell.low is not None and cell.high is not None else ""


def _line(name: str, record: Record | None, digits: int, unit: str = "", beside: str = "") -> Line:
    cell = from_record(record)
    return Line(name, _value(cell, digits, unit), _interval(cell, digits), beside)


def _reconstruction(measured: Measured) -> Card:
    found = {s: measured.get(s, "photos", "psnr-mean") for s in measured.autoencoders() if not is_reference(s)}
    known = {s: r for s, r in found.items() if r is not None and r.value is not None}
    ranked = sorted(known, key=lambda s: -known[s].value)
    note = "Best first." + (" PCA is an untrained baseline of the same size." if "pca" in known else "")
    return Card("Reconstruction of photographs (PSNR)", [_line(label(s), known[s], 1, " dB") for s in ranked], note)


def _decoding(measured: Measured) -> Card:
    pairs = measured.rivals() or [(s,) for s in measured.generators()[:1]]
    lines = []
    for accel in ACCELS if pairs else ():
        for subject in pairs[0]:
            speed = from_record(measured.speed(subject, "images-per-second", accel))
            rate = f"{speed.value:.3g} img/s{BUSY * speed.busy}" if isinstance(speed.value, float) else EMPTY
            score = measured.get(subject, GENEVAL, "overall", accel)
            lines.append(_line(row_label(subject, accel), score, 2, beside=rate))
    return Card("Generation (GenEval rules) and speed", lines)


def _scale(measured: Measured) -> Card:
    found = [r for r in measured.where(GENEVAL, "overall") if is_reference(r.subject) and r.subject != "noise"]
    lines = [_line(label(r.subject), r, 2) for r in found]
    if judge := measured.get(JUDGE, CLEAN, "overall"):
        lines.append(_line("Judge, clean renders", judge, 3))
    note = "Read every generation score between the shuffled-prompt baseline and the ceiling of its autoencoder."
    return Card("What a generation score can mean", lines, note)


def cards(measured: Measured) -> list[Card]:
    """The strip, without the cards that nothing was measured for."""
    return [card for card in (_reconstruction(measured), _decoding(measured), _scale(measured)) if card.lines]


def summary(records: Iterable[Record]) -> str:
    """The main scores as plain text for a console: autoencoders, generators, VLMs, judge."""
    measured = Measured(records)

    def show(subject: str, suite: str, metric: str, digits: int, accel=None, interval: bool = False) -> str:
        cell = from_record(measured.get(subject, suite, metric, accel))
        return " ".join(p for p in (_value(cell, digits), _interval(cell, digits) if interval else "") if p)

    autoencoders = [
        [
            label(s),
            show(s, "scenes", "psnr-mean", 2),
            show(s, "photos", "psnr-mean", 2),
            show(s, "scenes", "judge-agreement", 3),
        ]
        for s in measured.autoencoders()
    ]
    models = [(s, a) for s in measured.generators() for a in measured.accels(s)]
    models += [(s, None) for s in measured.subjects(GENEVAL) if is_reference(s)]
    generators = [
        [
            row_label(s, a),
            show(s, GENEVAL, "overall", 3, a, interval=True),
            show(s, DPG, "dpg", 1, a),
            show(s, measured.speed_suite, "images-per-second", 1, a),
        ]
        for s, a in models
    ]
    answers = [[label(s), show(s, VQA, "accuracy", 3, interval=True)] for s in measured.subjects(VQA)]
    blocks = [
        text.table(rows, "lr", heads, rule=True)
        for heads, rows in (
            (["Reconstruction", "PSNR scenes", "PSNR photos", "agreement"], autoencoders),
            (["Generation", "GenEval overall", "DPG", "images/s"], generators),
            (["Understanding", "VQA accuracy"], answers),
        )
        if rows
    ]
    if judge := measured.get(JUDGE, CLEAN, "overall"):
        blocks.append(f"Judge on clean renders: {_value(from_record(judge), 3)}")
    if any(r.partial for r in measured.records):
        blocks.append(f"{PARTIAL} partial: fewer items than the protocol asks for; not the benchmark's value")
    if any(BUSY in row[-1] for row in generators):
        blocks.append(f"{BUSY} timed while other work ran on the machine")
    return "\n\n".join(blocks)
