"""Published results of a recipe's scale: one file with records, their samples and what the jobs told, so that tables
can be made of them again and a run can start from them (``vgt reproduce paper --published``)."""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from pathlib import Path

from reports.published import DEFAULT
from vgt.core import files, text

RECORDS = Path(__file__).parent / "records"
STAMPS, RUNS = "jobs", "runs"  # folders of a work folder: a file for each job that is done, the models
TRAIN, MEASURE = "train", "measure"  # kinds of jobs


def published(scale: str, paper: str = DEFAULT) -> Path:
    """The file of a paper's scale, which need not be there."""
    return RECORDS / (f"{scale}.zip" if paper == DEFAULT else f"{paper}-{scale}.zip")


def stamps(scale: str, paper: str = DEFAULT) -> list[dict]:
    """What the published jobs of a scale told: kind, arm, seed, minutes; [] where nothing is published."""
    if not published(scale, paper).is_file():
        return []
    with zipfile.ZipFile(published(scale, paper)) as archive:
        names = [name for name in archive.namelist() if name.startswith(f"{STAMPS}/")]
        return [text.parse_json(archive.read(name), name) for name in names]


def unpack(scale: str, work: Path, paper: str = DEFAULT) -> None:
    """Put the published results of a scale into a work folder, where it has none of these.  Raises ValueError where
    nothing was published."""
    if not published(scale, paper).is_file():
        raise ValueError(f"no results of the scale {scale!r} are published; leave --published")
    with zipfile.ZipFile(published(scale, paper)) as archive:
        for name in archive.namelist():
            files.inside(work, Path(name).parent)
            if not (work / name).exists():
                with files.atomic(work / name) as part:
                    part.write_bytes(archive.read(name))


def pack(work: Path, given: Collection[str], to: Path) -> Path:
    """Write what ``unpack`` needs of a work folder: records with their samples, stamps of measurements, and the models
    that are ``given``: trained once, for all arms.  The same results give the same bytes.  Raises ValueError where
    nothing was measured."""
    found: list[Path] = []
    for path in sorted((work / STAMPS).glob("*.json")):
        about = text.read_json(path)
        if about["kind"] == MEASURE or (about["kind"] == TRAIN and about["model"] in given):
            found.append(path)
    for model in sorted(given):
        found += sorted((work / RUNS / model / "model").glob("*"))
    if not any((work / "records").rglob("*.json")):
        raise ValueError(f"{work} holds no records to publish; run `vgt reproduce paper` first, or name its --out")
    found += sorted(p for p in (work / "records").rglob("*") if p.suffix in (".json", ".csv"))
    with files.atomic(to) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in found:
            info = zipfile.ZipInfo(path.relative_to(work).as_posix())
            archive.writestr(info, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return to
