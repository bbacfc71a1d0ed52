"""The paper's tables and figures from records of seeds: means of all seeds or none, rows and columns of the paper.

The records are made up (tests/report_records.py); they are no results."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_records import draw_samples, invented_codes, invented_paper, invented_scores, make

from reports import markdown as pages
from reports import page, published, recipe, regenerated, sections, tradeoff
from reports.figures import paper, style
from reports.measured import Measured
from reports.regenerated import NOT_RUN, Regenerated
from reports.table import EMPTY, csv_text, latex, markdown, view
from vgt.core import record
from vgt.core.samples import REPLICATES, Samples
from vgt.core.trainings import effect

RECORDS = invented_paper()
PAPER = published.load("vgt")


def at_micro(records=RECORDS, samples=lambda r: None) -> Regenerated:
    return Regenerated(Measured(records), "vgt", "micro", samples)


DRAWN = {"curves": paper.curves, "sweep": paper.sweep, "dispersion": paper.dispersion, "tradeoff": paper.plots,
         "clusters": paper.clusters, "samples": paper.samples}  # fmt: skip


def drawn(of: Regenerated, name: str, *work) -> list:
    """What an entry of the recipe draws."""
    entry = of.recipe.entry(name)
    return DRAWN[entry.draw](of, entry, *work)


def rows_of(text: str) -> dict[str, dict[str, str]]:
    return {row["row"]: row for row in csv.DictReader(io.StringIO(text))}


def values(subject: str, suite: str, metric: str, accel: int | None = None) -> list[float]:
    """Of the three seeds; ``subject`` has an S for the seed."""
    found = [Measured(RECORDS).get(subject.replace("S", str(s)), suite, metric, accel) for s in range(3)]
    return [r.value for r in found]


# ------------------------------------------------------------------------------------------------------------ tables


def test_a_table_has_the_papers_rows_and_columns_and_ours_beside_them():
    filled = at_micro().table("table8")
    theirs = [row["label"] for row in PAPER["table8"].rows]
    assert [row.label for row in filled.rows][:4] == theirs and filled.name == "paper_micro_table8"
    assert [c.key for c in filled.columns] == [
        "accel", *(f"{c}_{k}" for c in ("geneval", "dpg") for k in ("paper", "here", "difference"))
    ]  # fmt: skip
    row = rows_of(csv_text(filled))["QueryAR 4x"]
    ours = np.mean(values("micro_query_ar_qwen-sS", "scenes-geneval", "overall", 4))
    assert float(row["geneval_here"]) == pytest.approx(ours) and row["geneval_paper"] == "0.59"
    assert float(row["geneval_difference"]) == pytest.approx(ours - 0.59) and row["geneval_here_n"] == "1440"
    assert float(row["geneval_here_low"]) < ours < float(row["geneval_here_high"])
    assert [row.kind for row in filled.rows] == ["model"] * 4 + ["further"] * 11 + ["reference"]
    shown = view(filled).grid
    column = [c.key for c in filled.columns].index("geneval_paper")
    assert [line[column].best for line in shown[:4]] == [False, False, True, False]
    here = [line[column + 1] for line in shown]
    best = max(range(4), key=lambda i: float(here[i].value))
    assert [i for i, cell in enumerate(here) if cell.best] == [best], "further rows do not compete"
    assert shown[0][column + 2].muted and shown[0][column + 2].value.startswith("-")


def test_every_table_of_the_paper_fills():
    of = at_micro()
    for entry in of.recipe.regenerated:
        filled = of.table(entry.id)
        theirs = next((t for t in PAPER.tables if t.id == entry.id), None)
        if theirs:
            assert [row.label for row in filled.rows][: len(theirs.rows)] == [row["label"] for row in theirs.rows]
            keys = list(dict.fromkeys(c.key.rpartition("_paper")[0] or c.key for c in filled.columns))
            assert [key for key in keys if key in {c.key for c in theirs.columns}] == [c.key for c in theirs.columns]
        assert NOT_RUN not in markdown(filled) or entry.curve, entry.id
        assert any(map(regenerated.scored, filled.rows))


def test_a_missing_seed_is_not_run_and_never_a_mean_of_the_others():
    lost = "micro_query_ar_qwen-s1"
    there = [r for r in RECORDS if not (r.subject == lost and r.accel == 4 and r.suite == "scenes-geneval")]
    filled = at_micro(there).table("table8")
    row = rows_of(csv_text(filled))["QueryAR 4x"]
    assert row["geneval_here"] == row["geneval_difference"] == row["geneval_here_low"] == ""
    assert row["dpg_here"] != "", "the other benchmark has all seeds"
    command = "vgt reproduce paper --scale micro --only table8"
    assert command in row["geneval_here_note"] and "(0, 1, 2)" in row["geneval_here_note"]
    text = markdown(filled)
    assert "| not run<sup>a</sup> |" in text and f"run: {command}" in text
    assert f"Not all seeds are there: QueryAR 4x lacks {lost}." in text
    assert "0.59 | not run" in text, "the paper's number stays"
    alone = [r for r in there if not r.subject.startswith("micro_query_ar_qwen-s")]
    assert all(
        row.cells["geneval_here"].value is None
        for row in at_micro(alone).table("table8").rows
        if row.label.startswith("QueryAR")
    )


def test_what_the_recipe_does_not_measure_is_not_called_not_run():
    there = [r for r in RECORDS if not (r.accel == 2 and r.suite == "scenes-dpg")]
    cell = {row.label: row.cells for row in at_micro(there).table("table8").rows}["QueryAR 2x"]["dpg_here"]
    assert (cell.value, cell.blank, cell.why) == (None, EMPTY, None)
    some = [*there, *(r for r in RECORDS if (r.subject, r.accel, r.metric) == ("micro_query_ar_qwen-s0", 2, "dpg"))]
    cell = {row.label: row.cells for row in at_micro(some).table("table8").rows}["QueryAR 2x"]["dpg_here"]
    assert cell.value is None and cell.blank == NOT_RUN


def test_what_nothing_measures_stays_empty_with_its_reason():
    filled = at_micro().table("table1")
    row = filled.rows[0]
    assert row.cells["rfid_paper"].value == 0.66 and row.cells["rfid_here"].value is None
    assert "Inception" in row.cells["rfid_here"].why and "rfid_difference" not in row.cells
    assert filled.columns[0].key == "rfid_paper"
    head = {c.key: c for c in filled.columns}
    assert head["distance"].head == "fd-efflite2, photos" and head["distance"].group == regenerated.ONLY_HERE
    before = row.cells["answers_before"], row.cells["answers"]
    assert [cell.value for cell in before] == [0.96, pytest.approx(0.6)]
    assert "rfid" not in " ".join(c.title for c in filled.columns if c.group == regenerated.ONLY_HERE).lower()


def test_rows_of_other_works_have_no_cells_of_ours():
    filled = at_micro().table("table2")
    row = next(row for row in filled.rows if row.label == "VQGAN")
    assert row.cells["psnr_paper"].value == 20.0 and row.cells["psnr_here"].value == ""
    assert any("from other works" in note for note in filled.notes)
    assert [row.label for row in filled.rows][-1] == "VGT-AE (InternViT)", "no baseline without its record"
    with_pca = at_micro([*RECORDS, make("pca", "photos", "psnr-mean", 19.0, 0.1)]).table("table2")
    assert with_pca.rows[-1].kind == "reference" and with_pca.rows[-1].cells["psnr_here"].value == 19.0


def test_other_schedules_stand_below_where_they_were_measured():
    labels = [row.label for row in at_micro().table("table8").rows]
    assert not any("equal" in label and "computation" not in label for label in labels)
    more = [r for s in range(3) for r in invented_scores(f"micro_mar_qwen-s{s}+equal+spread", 4, 0.12)]
    partly = [r for s in range(2) for r in invented_scores(f"micro_mar_qwen-s{s}+raster", 1, 0.12)]
    rows = {row.label: row.cells for row in at_micro([*RECORDS, *more, *partly]).table("table8").rows}
    assert rows["MAR 4x, equal, spread"]["geneval_here"].value == pytest.approx(0.12)
    assert rows["MAR 1x, raster"]["geneval_here"].blank == NOT_RUN


def test_seeds_that_were_measured_differently_have_no_mean():
    subject = "micro_query_ar_qwen-s2"

    def why(**changes) -> str:
        told = [r.model_copy(update={"protocol_params": {"guidance": 3.0}}) for r in RECORDS]
        changed = [
            r.model_copy(update=changes) if (r.subject, r.accel, r.metric) == (subject, 4, "overall") else r
            for r in told
        ]
        cell = next(row for row in at_micro(changed).table("table8").rows if row.label == "QueryAR 4x")
        assert cell.cells["geneval_here"].value is None
        return cell.cells["geneval_here"].why

    assert "other data" in why(suite_hash="other prompts") and "other data" in why(judge="another")
    assert "measured otherwise than" in why(protocol_params={"guidance": 2.0})
    assert "has no value: no image" in why(value=None, low=None, high=None, note="no image")


def test_a_partial_seed_marks_the_mean():
    found = [
        r.model_copy(update={"n": 120}) if (r.subject, r.accel) == ("micro_mar_qwen-s0", 1) else r for r in RECORDS
    ]
    cell = at_micro(found).table("table8").rows[0].cells["geneval_here"]
    assert cell.partial and (cell.n, cell.n_expected) == (1080, 1440)


def test_scales_with_seeds_are_found_and_stand_apart():
    measured = Measured([*RECORDS, make("query_ar_qwen", "scenes-geneval", "overall", 0.5)])
    assert regenerated.scales(measured, "vgt") == ["micro"]
    left = {r.subject for r in regenerated.apart(measured).records}
    assert left == {"query_ar_qwen", "shuffled", "oracle"}
    assert regenerated.scales(Measured([make("micro_vlm_qwen", "scenes-vqa", "accuracy", 0.9)]), "vgt") == []


# ------------------------------------------------------------------------------------------------------- intervals


def test_interval_over_seeds_alone_is_students():
    records = [make("m", "s", "overall", v) for v in (0.1, 0.2, 0.3)]
    found = regenerated.over_seeds(records, lambda r: None)
    assert (found.value, found.method) == (pytest.approx(0.2), "Student's t over seeds")
    assert found.high - found.value == pytest.approx(4.302653 * 0.1 / np.sqrt(3), rel=1e-5)
    assert regenerated.over_seeds(records[:1], lambda r: None).low is None


def test_interval_over_seeds_and_prompts():
    rng = np.random.default_rng(0)
    ids = [f"p{i}-{k}" for i in range(40) for k in range(2)]
    clusters, groups = [name[:-2] for name in ids], ["a" if i < 40 else "b" for i in range(80)]
    scores = rng.random((3, 80))
    kept = {str(s): Samples(ids, scores[s], clusters, groups) for s in range(3)}
    # One seed's samples stand in another order.
    kept["1"] = Samples(ids[::-1], scores[1][::-1], clusters[::-1], groups[::-1])
    records = [make(str(s), "s", "overall", float(scores[s].mean())) for s in range(3)]
    found, wanted = regenerated.over_seeds(records, lambda r: kept[r.subject]), effect([scores], clusters, groups)
    assert (found.value, found.low, found.high) == pytest.approx((wanted.value, wanted.low, wanted.high))
    alone = regenerated.over_seeds(records, lambda r: None)
    assert found.high - found.low > alone.high - alone.low and "prompts" in found.method


def test_interval_of_statistics_that_are_no_mean():
    blocks = np.random.default_rng(0).normal(30, 1, (3, 20))
    records = [make(str(s), "s", "fd", 30.0 + s, extra={REPLICATES: list(blocks[s])}) for s in range(3)]
    plain = [r.model_copy(update={"extra": {}}) for r in records]
    wide, narrow = (regenerated.over_seeds(of, lambda r: None) for of in (records, plain))
    assert wide.high > narrow.high and wide.value == narrow.value == 31.0


# ---------------------------------------------------------------------------------------------------------- recipe


def test_tables_name_their_arms():
    of = recipe.load("vgt")
    assert of.shown["table8"] == ["mar_qwen", "query_ar_qwen", "mar_qwen_compute"]
    assert of.arms_of(["table5"], {})[:2] == ["ae_internvl_plain", "query_ar_plain"]
    with pytest.raises(ValueError, match="table 'table9' is unknown; choose of table1"):
        of.entry("table9")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": [{"paper": "QueryAR 1x"}, {"paper": "MAR 1x"}]}, "not rows of the paper in its order"),
        ({"rows": [{"paper": "MAR 3x"}]}, "not rows of the paper"),
        ({"rows": [{"paper": "MAR 1x", "generator": "mar_huge"}]}, "arm 'mar_huge' is unknown"),
        ({"columns": {"geneval": "genevil", "dpg": "dpg"}}, "quantities ['genevil'] are unknown"),
        ({"columns": {"geneval": "geneval"}}, "columns ['dpg'] have neither a quantity nor a reason"),
        ({"columns": {"geneval": "geneval", "dpg": "dpg", "fid": "dpg"}}, "['fid'] are no columns"),
    ],
)
def test_a_wrong_plan_is_refused(changes, message):
    of = recipe.load("vgt")
    entry = recipe.Entry.model_validate(
        {"id": "table8", "columns": {"geneval": "geneval", "dpg": "dpg"}, "rows": [{"paper": "MAR 1x"}], **changes}
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        recipe._check(of.model_copy(update={"regenerated": [entry]}), PAPER)
    with pytest.raises(ValueError, match="one of them"):
        recipe.Line(paper="a", label="b")


# ----------------------------------------------------------------------------------------------------------- formats


def test_latex_is_balanced_and_escaped():
    for name in ("table1", "table3", "table7", "figure1c"):
        there = [r for r in RECORDS if not r.subject.startswith("micro_query_ar_mismatch-s1")]
        text = latex(at_micro(there).table(name))
        plain = re.sub(r"\\[{}&%#_$]", "", text)
        assert plain.count("{") == plain.count("}") and "%" not in plain.replace("% \\usepackage", "").replace(
            "%\n", "\n"
        )
        assert text.count(r"\begin{") == text.count(r"\end{") == 2
        head, body = text.split(r"\midrule")
        spec = re.search(r"\\begin\{tabular\}\{([lr]+)\}", head)[1]
        lines = [line for line in body.split(r"\bottomrule")[0].splitlines() if line.strip()]
        assert lines and all(re.sub(r"\\&", "", line).count("&") == len(spec) - 1 for line in lines), name
        spanned = re.findall(r"\\multicolumn\{(\d+)\}", head)
        assert not spanned or sum(map(int, spanned)) == len(spec) - 1
    assert "-{}-scale micro" in latex(at_micro(there).table("table7")), "two hyphens are no dash"


def test_numbers_sort_by_value_in_the_browser(tmp_path):
    shown = re.compile(r"micro_(query_ar|ae)_(qwen|internvl|pixel|mismatch)-s\d")
    there = [
        r for r in RECORDS if shown.fullmatch(r.subject) and not r.subject.startswith("micro_query_ar_mismatch-s1")
    ]
    there = [r for r in there if r.metric in ("overall", "dpg", "psnr-mean", "fd-efflite2", "loss")]
    for r in there:
        record.write(r, tmp_path / "records")
    html = page.render(tmp_path / "records", None, tmp_path / "out").read_text(encoding="utf-8")
    table = html[html.index('id="table-paper_micro_table7"') :]
    rows = dict(re.findall(r'<th scope="row">([^<]+)</th>(.*?)</tr>', table[: table.index("</table>")], re.S))
    ours = np.mean(values("micro_query_ar_pixel-sS", "scenes-geneval", "overall", 1))
    assert re.findall(r'data-sort="([^"]+)"', rows["DC-AE"])[:2] == ["0.64", repr(float(ours))]
    lost = rows["VGT-AE (Qwen2.5-VL), mismatch"]
    assert f'class="empty">{NOT_RUN}<sup>' in lost and re.findall(r'data-sort="([^"]+)"', lost)[:2] == ["0.75", "72.46"]
    assert 'class="muted" data-sort=' in rows["DC-AE"]
    # The sections: the paper first, then what belongs to no arm; folded parts name what was not run.
    places = [html.index(f'id="paper-micro-{name}"') for name in ("claims", "tables", "figures", "tradeoff")]
    assert places == sorted(places) and places[-1] < html.index('id="provenance"')
    assert "micro_query_ar_qwen-s0" not in html[: html.index('id="paper-micro-figures"')]
    names = {p.name for p in (tmp_path / "out" / "tables").iterdir()}
    assert {f"paper_micro_table{n}.{form}" for n in range(1, 9) for form in ("md", "tex", "csv")} <= names
    figures = {p.name for p in (tmp_path / "out" / "figures").iterdir()}
    stems = {"paper_micro_figure6_psnr", "paper_micro_tradeoff_psnr_geneval"}
    assert {f"{stem}.{form}" for stem in stems for form in ("svg", "pdf", "png")} <= figures
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids)), "those of inline figures too"
    assert "<title>micro_query_ar_pixel-s0 1x: psnr-mean" in html, "numbers under the pointer"


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_tables_sort_and_filter(tmp_path):
    """The script of the page, in a browser: a click sorts by value, empty cells last; words filter rows."""
    cells = ['<td data-sort="0.5">0.5', '<td class="empty">-', '<td data-sort="-2e-3">-0.002', '<td data-sort="10">10']
    rows = "".join(f'<tr><th scope="row">r{i}</th>{c}</td></tr>' for i, c in enumerate([*cells, *cells[:2]]))
    act = """
    const heads = document.querySelectorAll("thead th"), order = () =>
      [...document.querySelectorAll("tbody tr:not([hidden]) th")].map((th) => th.textContent).join(" ");
    const seen = [order()];
    for (let i = 0; i < 3; i++) { heads[1].click(); seen.push(order()); }
    const field = document.querySelector(".filter");
    field.value = "R3"; field.dispatchEvent(new Event("input")); seen.push(order());
    document.title = seen.join(" | ");"""
    script = (page.TEMPLATES / "page.js").read_text()
    (tmp_path / "t.html").write_text(
        '<!doctype html><meta charset="utf-8"><div class="table"><h3>T</h3><div class="scroll"><table><thead><tr>'
        f"<th></th><th>v</th></tr></thead><tbody>{rows}</tbody></table></div></div><script>{script}</script><script>{act}</script>"
    )
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    run = subprocess.run([*browser, "--dump-dom", f"file://{tmp_path / 't.html'}"], capture_output=True, text=True)
    seen = re.search(r"<title>(.*?)</title>", run.stdout)[1].split(" | ")
    assert seen == [
        "r0 r1 r2 r3 r4 r5", "r3 r0 r4 r2 r1 r5", "r2 r0 r4 r3 r1 r5", "r0 r1 r2 r3 r4 r5", "r3"
    ]  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- figures


def test_figures_come_in_three_formats_and_are_the_same_each_time(tmp_path):
    first, again = (drawn(at_micro(), "figure6") for _ in range(2))
    assert [f.name for f in first] == [f"paper_micro_figure6_{key}" for key in ("psnr", "distance", "geneval")]
    for one, other in zip(first, again, strict=True):
        assert one.forms == other.forms
        paths = style.write(one, tmp_path)
        assert [p.suffix for p in paths] == [".svg", ".png", ".pdf"] and all(p.stat().st_size > 1000 for p in paths)
    assert paths[0].read_text(encoding="utf-8").startswith("<svg")
    assert paths[2].read_bytes().startswith(b"%PDF-")
    with Image.open(paths[1]) as image:
        assert image.width > 300


def test_a_point_without_all_its_seeds_is_not_drawn():
    lost = [r for r in RECORDS if not r.subject.startswith("micro_ae_internvl_noise8-s2")]
    whole, part = (drawn(at_micro(of), "figure6")[0] for of in (RECORDS, lost))
    marks = [len(re.findall(r"<use ", figure.svg)) for figure in (whole, part)]
    assert marks[0] == marks[1] + 1
    assert drawn(at_micro([]), "figure6") == [] and drawn(at_micro([]), "figure1c") == []


def test_learning_curves_count_images():
    of = at_micro([r for r in RECORDS if r.subject != "micro_query_ar_internvl-s1-step500"])
    rows = {row.generator: row for row in of.recipe.entry("figure1c").rows}
    points = of.curve(of.recipe.entry("figure1c"), rows["query_ar_qwen"])
    assert [n for n, _ in points] == [16_000, 32_000, 64_000]  # 128,000 images in 2,000 steps
    assert points[0][1].value == pytest.approx(
        np.mean(values("micro_query_ar_qwen-sS-step250", "scenes-geneval", "overall", 1))
    )
    cells = {row.label: row.cells for row in of.table("figure1c").rows}
    assert (
        cells["InternVL3 1.6B"]["images32000"].blank == NOT_RUN and cells["Qwen 0.6B"]["images16000"].blank == NOT_RUN
    )
    assert cells["Qwen 1.6B"]["k105"].value == 0.620 and cells["Qwen 0.6B"]["end"].value > 0
    theirs, ours = drawn(of, "figure1c")
    assert "Qwen 1.6B ends at 0.62" in theirs.alt and "images seen" in ours.alt
    assert drawn(at_micro([r for r in RECORDS if "-step" not in r.subject]), "figure1c") == []


def test_samples_are_those_of_one_seed_at_each_acceleration(tmp_path):
    draw_samples(tmp_path, [*(f"micro_query_ar_qwen-s0@{a}x" for a in (1, 4, 16)), "oracle"])
    grid = drawn(at_micro(), "figure9", tmp_path)[0]
    assert [name for name, _ in grid.rows] == ["Oracle (true scenes)", *(f"QueryAR (Qwen) {a}x" for a in (1, 4, 16))]
    assert drawn(at_micro(), "figure9", None) == []


def test_clusters_are_those_of_one_seed():
    (grid,) = drawn(at_micro(), "figure3", None)
    assert [name for name, _ in grid.rows] == [
        "Image", "VGT-AE (InternVL)", "Pixel-only AE (DC-AE)", "VGT-AE (Qwen)"
    ]  # fmt: skip
    assert grid.name == "paper_micro_figure3_1" and len(grid.prompts) == 2


def test_latents_are_drawn_under_their_names():
    made = drawn(at_micro(), "figure7")
    assert [f.name.rpartition("figure7_")[2] for f in made] == ["ae_qwen", "ae_internvl", "ae_internvl_sharp"]
    assert "t-SNE of 80 latents of VGT-AE (Qwen)" in made[0].alt


def test_pareto_front():
    points = [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0), (1.5, 1.5), (2.0, 2.0), (3.0, 0.5)]
    assert tradeoff.pareto(points) == [0, 1, 4, 2] and tradeoff.pareto([]) == []


def test_tradeoff_has_a_point_for_every_checkpoint():
    figure = drawn(at_micro(), "tradeoff")[0]
    count = len(recipe.load("vgt").entry("tradeoff").rows) * 3
    titles = re.findall(r"<title>([^<]+)</title>", figure.svg)
    assert len(titles) == count and len(set(titles)) == count
    inline = style.part_of_page(figure)
    assert "http" not in inline and "<metadata" not in inline and inline.count("<title>") == count
    ids, used = set(re.findall(r'\bid="([^"]+)"', inline)), set(re.findall(r'(?:href="|url\()#([^")]+)', inline))
    assert used <= ids and all(name.startswith(figure.name) for name in ids)


def test_blocks_that_were_not_run_are_folded_and_say_so():
    few = [r for r in RECORDS if "mar_qwen" in r.subject or "query_ar_qwen" in r.subject]
    made = {s.id: s for s in sections.build(Measured(few), None)}
    folded = {b.table.name: b.folded for b in made["paper-micro-tables"].blocks}
    assert folded["paper_micro_table8"] == "" and folded["paper_micro_table5"].endswith("(not run)")
    empty = next(b.table for b in made["paper-micro-tables"].blocks if b.table.name == "paper_micro_table5")
    assert all(cell.value is None for row in empty.rows for key, cell in row.cells.items() if key.endswith("_here"))
    assert EMPTY in markdown(replace(empty, notes=[])), "the reasons of the empty cells"


# ----------------------------------------------------------------------------------------------- another paper

CODES = invented_codes()


def test_another_paper_is_a_matter_of_data(monkeypatch):
    for name in DRAWN:
        monkeypatch.setattr(paper, "plots" if name == "tradeoff" else name, lambda of, entry, *work: [])
    made = {s.id: s for s in sections.build(Measured([*CODES, *(r for r in RECORDS if "mar_qwen" in r.subject)]), None)}
    ids = [name for name in made if name.startswith(("paper-", "vfmtok-")) and made[name].blocks]
    parts = ("claims", "tables", "figures", "tradeoff")
    assert ids == [*(f"paper-micro-{p}" for p in parts), "paper-itself",
                   *(f"vfmtok-micro-{p}" for p in parts), "vfmtok-itself"]  # fmt: skip
    assert made["vfmtok-micro-claims"].title.startswith("VFMTok: The paper's claims, synthetic scenes")
    assert (
        "VFMTok2 (2026)" in made["vfmtok-micro-claims"].lead and "it is not covered" in made["vfmtok-micro-claims"].lead
    )
    blocks = {b.table.name: b for b in made["vfmtok-micro-tables"].blocks if b.table}
    of = recipe.load("vfmtok")
    theirs = [table.id for table in published.load("vfmtok").tables]
    shown = {name.removeprefix("vfmtok_micro_") for name in blocks} | {
        name.removeprefix("published_vfmtok_") for name in blocks
    }
    assert set(theirs) - {"convergence"} <= shown and "convergence" in of.shown
    assert blocks["published_vfmtok_rar"].folded.startswith("Published: ")
    names = [b.table.name for s in made.values() for b in s.blocks if b.table]
    assert len(set(names)) == len(names)
    alone = [b.table.name for s in sections.build(Measured(CODES), None) for b in s.blocks if b.table]
    assert "vfmtok_micro_components" in alone and not [name for name in alone if name.startswith("published_vgt")]


def test_columns_that_nothing_measures_stand_without_ours():
    of = Regenerated(Measured(CODES), "vfmtok", "micro")
    filled = of.table("components")
    keys = [c.key for c in filled.columns]
    assert "gfid_paper" in keys and not {"gfid_here", "gfid_difference"} & set(keys) and "fd_guided" in keys
    assert any("Inception" in note for note in filled.notes)
    row = filled.rows[4].cells
    guided = [
        Measured(CODES).get(f"micro_gpt_vfmtok-s{s}-guided", "scenes-single_object", "fd-efflite2").value
        for s in range(3)
    ]
    assert row["fd_guided"].value == pytest.approx(np.mean(guided)) and row["gfid_paper"].value == 3.42
    assert row["fd_guided"].partial, "2,400 images are not the protocol's 50,000"
    sizes = {r.label: r.cells for r in of.table("generation").rows}
    assert sizes["VFMTok-XL, repository"]["fd_guided"].blank != NOT_RUN, "this scale has no such model"
    assert sizes["VFMTok-L, paper"]["fd"].value > 0 and sizes["VFMTok-L, paper"]["source"].value == "paper"
    lost = [r for r in CODES if r.subject != "micro_gpt_vfmtok-s1-guided"]
    cell = Regenerated(Measured(lost), "vfmtok", "micro").table("components").rows[4].cells["fd_guided"]
    assert cell.blank == NOT_RUN
    assert "vgt reproduce paper --paper vfmtok --scale micro --only components" in cell.why


def test_figures_of_another_paper():
    of = Regenerated(Measured(CODES), "vfmtok", "micro")
    tokens, tradeoff_ = of.recipe.entry("tokens"), of.recipe.entry("tradeoff")
    made = [
        *paper.sweep(of, tokens.model_copy(update={"panels": ["fd"]})),
        *drawn(of, "convergence"),
        *paper.plots(of, tradeoff_.model_copy(update={"plots": [("distance", "fd")], "rows": tradeoff_.rows[:2]})),
    ]
    assert [figure.name for figure in made] == [
        "vfmtok_micro_tokens_fd", "vfmtok_micro_convergence_here", "vfmtok_micro_tradeoff_distance_fd"
    ]  # fmt: skip
    assert "by image tokens" in made[0].alt and "by images seen" in made[1].alt
    assert len(set(re.findall(r"<title>([^<]+)</title>", made[2].svg))) == 6


def test_paths_hold_no_machine(tmp_path):
    text = "".join(markdown(at_micro().table(entry.id)) for entry in recipe.load("vgt").regenerated)
    assert str(Path(__file__).parents[1]) not in text and "/tmp" not in text


def test_markdown_of_the_pages(tmp_path):
    record.write_collection(RECORDS, tmp_path / "micro.jsonl")
    blocks = pages.paper(tmp_path / "micro.jsonl", "micro")
    assert blocks["table8"] == markdown(at_micro().table("table8")) and "| C11 |" in blocks["claims"]
    assert "C11.1" not in blocks["claims"] and "noise up to 0.8" in blocks["tradeoff"]
    with pytest.raises(ValueError, match="no record of a model of the scale tiny"):
        pages.paper(tmp_path / "micro.jsonl", "tiny")
