"""The report: one self-contained page, its tables as Markdown, LaTeX and CSV, its figures as SVG, PDF and PNG."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from pathlib import Path

import jinja2

from reports import published, regenerated, sections, table
from reports.evidence import linked
from reports.figures import images, style
from reports.headline import cards
from reports.measured import Measured
from reports.sections import Section
from vgt.core import files, record, samples

TEMPLATES = Path(__file__).parent / "templates"


def render(
    records_roots: str | Path | Iterable[str | Path],
    work: str | Path | None,
    out: str | Path,
    title: str | None = None,
    evidence: bool = False,
) -> Path:
    """Read the records below ``records_roots`` and write ``out/index.html``, ``out/tables`` and ``out/figures``.

    ``work`` is the folder that the records' evidence paths are relative to (None: no images).  The same records give
    the same bytes.  ``evidence``: write ``out/evidence`` too, the samples behind the scores, which link to them.
    Returns the path of the page; raises ValueError where there are no records."""
    roots = [records_roots] if isinstance(records_roots, (str, Path)) else list(records_roots)
    found = record.read(roots, samples=True)
    if not found:
        places = ", ".join(map(str, roots))
        raise ValueError(
            f"no records below {places}; run `vgt reproduce tiny` first or name a folder that holds records"
        )
    measured, out = Measured(found), Path(out)
    made = sections.build(measured, Path(work) if work is not None else None, samples.lookup(roots))
    shown = [section for section in made if section.blocks]
    absent = [section for section in made if section.without and not section.blocks]
    _write_files(shown, out)
    links = {}
    if evidence:
        links = linked([Path(root) for root in roots], out / "evidence", Path(work) if work is not None else None)
    about = _about(measured)
    page = _html(measured, shown, absent, title or about["report"], about["about"], links)
    return files.write_text(out / "index.html", page)


def _write_files(made: list[Section], out: Path) -> None:
    for block in (b for s in made for b in s.blocks):
        if block.table:
            table.write(block.table, out / "tables")
        for figure in (*block.figures, *([images.figure(block.grid)] if block.grid else [])):
            style.write(figure, out / "figures")


def _about(measured: Measured) -> dict[str, str]:
    """What is told of the paper that all models with seeds are of; of the default paper where there is no such one."""
    there = [name for name in published.known() if regenerated.scales(measured, name)]
    return published.load(there[0] if len(there) == 1 else published.DEFAULT).paper


def _joined(head: str) -> str:
    """A column's head that breaks neither at a hyphen nor before its arrow."""
    return re.sub(r" (\S)$", "\N{NO-BREAK SPACE}\\1", head).replace("-", "\N{NON-BREAKING HYPHEN}")


def _svg_uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _dates(measured: Measured) -> str:
    """First and last day of the records, e.g. "2026-01-31 to 2026-02-02"."""
    days = sorted({r.created[:10] for r in measured.records if r.created})
    return " to ".join(dict.fromkeys((days[0], days[-1]))) if days else "undated"


def _html(
    measured: Measured, made: list[Section], absent: list[Section], title: str, about: str, links: dict[str, str]
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["spans"] = table.spans
    environment.filters |= {"view": table.view, "svg_uri": _svg_uri, "inline": style.part_of_page, "joined": _joined}
    return environment.get_template("page.html.j2").render(
        title=title,
        about=about,
        links=links,
        sections=made,
        absent=absent,
        cards=cards(regenerated.apart(measured)),
        dates=_dates(measured),
        count=len(measured.records),
        partial=sum(r.partial for r in measured.records),
        dagger=table.PARTIAL,
        style=(TEMPLATES / "style.css").read_text(encoding="utf-8"),
        script=(TEMPLATES / "page.js").read_text(encoding="utf-8"),
    )
