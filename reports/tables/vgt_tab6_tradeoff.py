"""Reconstruction beside generation per autoencoder, in the shape of the paper's Table 6 (claim C7)."""

from __future__ import annotations

from dataclasses import dataclass

from reports.measured import Measured, label
from reports.tables.table import Cell, Column, Row, Table, finish, from_record

X = {
    "scenes_psnr-mean": ("scenes", "psnr-mean", "PSNR on scenes [dB]"),
    "scenes_judge-agreement": ("scenes", "judge-agreement", "Judge agreement of reconstructed scenes"),
}


@dataclass(frozen=True)
class Point:
    """One generator at 1x and the autoencoder under it."""

    generator: str
    autoencoder: str
    cells: dict[str, Cell]


def points(measured: Measured) -> list[Point]:
    """QueryAR generators whose autoencoder is known, at 1x."""
    found = []
    for generator in measured.generators():
        autoencoder = measured.autoencoder_of(generator)
        if autoencoder is None or generator.startswith("mar_"):
            continue
        cells = {key: from_record(measured.get(autoencoder, *where[:2])) for key, where in X.items()}
        cells["photos_psnr-mean"] = from_record(measured.get(autoencoder, "photos", "psnr-mean"))
        cells["scenes_fd-efflite2"] = from_record(measured.get(autoencoder, "scenes", "fd-efflite2"))
        cells["overall"] = from_record(measured.get(generator, "scenes-geneval", "overall", 1))
        cells["dpg"] = from_record(measured.get(generator, "scenes-dpg", "dpg", 1))
        cells["ceiling"] = from_record(measured.get(f"oracle+{autoencoder}", "scenes-geneval", "overall"))
        found.append(Point(generator, autoencoder, cells))
    return found


def build(measured: Measured) -> Table:
    columns = [
        Column("autoencoder", "Autoencoder", text=True),
        Column("scenes_psnr-mean", "PSNR", "dB", 2, "high", "Reconstruction, scenes"),
        Column("scenes_fd-efflite2", "fd-efflite2", "", 2, "low", "Reconstruction, scenes"),
        Column("scenes_judge-agreement", "Judge agreement", "", 3, "high", "Reconstruction, scenes"),
        Column("photos_psnr-mean", "PSNR", "dB", 2, "high", "Photos"),
        Column("overall", "GenEval overall", "", 3, "high", "Generation at 1x"),
        Column("dpg", "DPG", "", 1, "high", "Generation at 1x"),
        Column("ceiling", "Ceiling (GenEval)", "", 3, None, "Generation at 1x"),
    ]
    rows = [Row(label(p.generator), {"autoencoder": Cell(label(p.autoencoder)), **p.cells}) for p in points(measured)]
    return finish(Table("vgt_tab6_tradeoff", "Reconstruction versus generation", columns, rows, row_head="Generator"))
