"""What a reader can read off at once: the strip of cards on the page, and the short table on a console."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from reports.measured import ACCELS, Measured, is_reference, label, row_label
from reports.tables.table import EMPTY, PARTIAL, Cell, from_record
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
    return f"{cell.value:.{digits}f}{unit}" + PARTIAL * cell.partial


def _interval(cell: Cell, digits: int) -> str:
    return f"[{cell.low:.{digits}f}, {cell.high:.{digits}f}]" if cell.low is not None and cell.high is not None else ""


def _line(name: str, cell: Cell, digits: int, unit: str = "", beside: str = "") -> Line:
    return Line(name, _value(cell, digits, unit), _interval(cell, digits), beside)


def _reconstruction(measured: Measured) -> Card | None:
    cells = {s: from_record(measured.get(s, "photos", "psnr-mean")) for s in measured.autoencoders()}
    known = {s: c for s, c in cells.items() if isinstance(c.value, float) and not is_reference(s)}
    ranked = sorted(known, key=lambda s: (s == "pca", -known[s].value))  # the untrained baseline comes last
    note = "Best first; PCA is the untrained baseline of the same size." if "pca" in known else "Best first."
    return (
        Card("Reconstruction of photographs (PSNR)", [_line(label(s), known[s], 1, " dB") for s in ranked], note)
        if ranked
        else None
    )


def _decoding(measured: Measured) -> Card | None:
    pairs = measured.rivals() or [(s,) for s in measured.generators()[:1]]
    if not pairs:
        return None
    lines = []
    for accel in ACCELS:
        for subject in pairs[0]:
            speed = from_record(measured.speed(subject, "images-per-second", accel)).value
            rate = f"{speed:.3g} img/s" if isinstance(speed, float) else EMPTY
            score = from_record(measured.get(subject, "scenes-geneval", "overall", accel))
            lines.append(_line(f"{label(subject)} {accel}x", score, 2, beside=rate))
    return Card("Generation (GenEval rules) and speed", lines)


def _scale(measured: Measured) -> Card | None:
    records = [
        r for r in measured.where("scenes-geneval", "overall") if is_reference(r.subject) and r.subject != "noise"
    ]
    lines = [_line(label(r.subject), from_record(r), 2) for r in records]
    if judge := measured.get("judge-analytic", "calibration-clean", "overall"):
        lines.append(_line("Judge, clean renders", from_record(judge), 3))
    note = "Read every generation score between the floor and the ceiling of its autoencoder."
    return Card("What a generation score can mean", lines, note) if lines else None


def cards(measured: Measured) -> list[Card]:
    """The strip, without the cards that nothing was measured for."""
    return [card for card in (_reconstruction(measured), _decoding(measured), _scale(measured)) if card]


def _grid(heads: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    lines = []
    for row in [heads, *rows]:
        cells = [
            text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def summary(records: Iterable[Record]) -> str:
    """The main scores as plain text for a console: autoencoders, generators, VLMs, judge."""
    measured = Measured(records)

    def show(
        subject: str, suite: str, metric: str, digits: int, accel: int | None = None, interval: bool = False
    ) -> str:
        cell = from_record(measured.get(subject, suite, metric, accel))
        return " ".join(p for p in (_value(cell, digits), _interval(cell, digits) if interval else "") if p)

    blocks = []
    if subjects := measured.autoencoders():
        rows = [
            [
                label(s),
                show(s, "scenes", "psnr-mean", 2),
                show(s, "photos", "psnr-mean", 2),
                show(s, "scenes", "judge-agreement", 3),
            ]
            for s in subjects
        ]
        blocks.append(_grid(["Reconstruction", "PSNR scenes", "PSNR photos", "agreement"], rows))
    models = [(s, a) for s in measured.generators() for a in measured.accels(s)]
    models += [(s, None) for s in measured.subjects("scenes-geneval") if is_reference(s)]
    if models:
        rows = [
            [
                row_label(s, a),
                show(s, "scenes-geneval", "overall", 3, a, interval=True),
                show(s, "scenes-dpg", "dpg", 1, a),
                show(s, measured.speed_suite, "images-per-second", 1, a),
            ]
            for s, a in models
        ]
        blocks.append(_grid(["Generation", "GenEval overall", "DPG", "images/s"], rows))
    if vlms := measured.subjects("scenes-vqa"):
        blocks.append(
            _grid(
                ["Understanding", "VQA accuracy"],
                [[label(s), show(s, "scenes-vqa", "accuracy", 3, interval=True)] for s in vlms],
            )
        )
    if judge := measured.get("judge-analytic", "calibration-clean", "overall"):
        blocks.append([f"Judge on clean renders: {_value(from_record(judge), 3)}"])
    if any(r.partial for r in measured.records):
        blocks.append([f"{PARTIAL} partial: fewer items than the protocol asks for; not the benchmark's value"])
    return "\n\n".join("\n".join(block) for block in blocks)
