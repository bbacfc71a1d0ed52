"""Published numbers with their source, from ``papers/*.toml``.  They are never mixed with records."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from reports.table import Cell, Column, Filled, Row
from vgt.core.text import parse_toml, read

PAPERS = Path(__file__).parent / "papers"
DEFAULT = "vgt"  # the paper of a command without --paper
LABEL = "Published numbers: another scale and other data sets; not comparable with ours."


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PublishedColumn(_Strict):
    key: str
    head: str
    unit: str = ""
    digits: int = 3
    better: Literal["high", "low"] | None = None
    group: str = ""
    text: bool = False


class PublishedTable(_Strict):
    """One table of a paper: ``source`` says which, ``setting`` the data and ``caveats`` its protocol problems."""

    id: str
    source: str
    title: str
    setting: str
    caveats: list[str]
    columns: list[PublishedColumn]
    rows: list[dict[str, Any]]

    @model_validator(mode="after")
    def _known_keys(self) -> PublishedTable:
        known = {"label", *(c.key for c in self.columns)}
        for row in self.rows:
            if "label" not in row or not known.issuperset(row):
                raise ValueError(f"{self.id}: row {row} needs a label and only the keys {sorted(known)}")
        return self

    @property
    def place(self) -> str:
        """Where it stands in its source, e.g. "Table 8"; "" where that is not known."""
        return self.source.rpartition(", ")[2] if ", " in self.source else ""

    def value(self, label: str, key: str) -> float:
        """One published number.  Raises KeyError where the table has none."""
        return next(row[key] for row in self.rows if row["label"] == label)


class Paper(_Strict):
    """One file of ``papers``; what stands in it besides is read by ``reports/recipe.py``.

    ``paper`` holds its id, title, arxiv and url; ``short``: its name in headings; ``claims``: the section that numbers
    its claims; ``against``: below what disagrees in it; ``report``, ``about``: title and first words of a page about
    it alone; ``note``: what a reader of its verdicts must know."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    paper: dict[str, str]
    tables: list[PublishedTable]

    def __getitem__(self, table: str) -> PublishedTable:
        return next(t for t in self.tables if t.id == table)


def known() -> list[str]:
    """The papers that there are, the default one first."""
    return sorted((p.stem for p in PAPERS.glob("*.toml")), key=lambda name: (name != DEFAULT, name))


def stem(paper: str) -> str:
    """What names of its files and anchors begin with."""
    return "paper" if paper == DEFAULT else paper


@lru_cache
def load(paper: str) -> Paper:
    """The published numbers of one paper, e.g. "vgt".  Raises ValueError for an unknown or malformed file."""
    path = PAPERS / f"{paper}.toml"
    if not path.exists():
        raise ValueError(f"no published numbers for {paper!r}; there are {sorted(known())}")
    try:
        return Paper.model_validate(parse_toml(read(path), path.name))
    except ValueError as error:
        raise ValueError(f"papers/{path.name} is malformed: {error}") from error


def table(paper: str, table_id: str) -> Filled:
    """A published table in the shape of ours, labelled as published."""
    found = load(paper)[table_id]
    columns = [Column(c.key, c.head, c.unit, c.digits, c.better, c.group, text=c.text) for c in found.columns]
    cells = [
        Row(row["label"], {key: Cell(value) for key, value in row.items() if key != "label"}, kind="published")
        for row in found.rows
    ]
    return Filled(
        name=f"published_{paper}_{table_id}",
        title=f"{found.title} ({found.source})",
        columns=columns,
        rows=cells,
        notes=[f"Setting: {found.setting}.", *found.caveats],
        label=LABEL,
        missing="not given by the source",
    )
