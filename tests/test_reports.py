"""The report: right numbers in every format, honest about what is missing or partial, one self-contained page.

The records are made up (tests/report_records.py); they are no results."""

from __future__ import annotations

import argparse
import ast
import csv
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_records import AES, draw_samples, draw_strips, invented, invented_speeds, make

from reports import claims, cli, page, published, sections, tables, tradeoff
from reports.figures import images, speed
from reports.headline import summary
from reports.measured import TASKS, Measured, chosen, label, unlike
from reports.table import Cell, Column, Filled, Row, latex, markdown, ratio
from vgt.core import record, scenes
from vgt.core.samples import DIFFERENCES
from vgt.core.text import csv_plain

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """A rendered report; beside it the records and images that it was made from."""
    folder = tmp_path_factory.mktemp("report")
    for r in invented():
        record.write(r, folder / "work" / "records")
    draw_samples(folder / "work")
    draw_strips(folder / "work")
    page.render(folder / "work" / "records", folder / "work", folder / "out", "A title with <angle> & ampersand")
    return folder / "out"


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as f:
        return {row["row"]: row for row in csv.DictReader(f)}


def cli_run(words: list[str]) -> dict:
    parser = argparse.ArgumentParser()
    cli.arguments(parser)
    return cli.run(parser.parse_args(words))


# ------------------------------------------------------------------------------------------------------ files


def test_every_table_comes_in_three_formats(report):
    stems = {p.stem for p in (report / "tables").iterdir()}
    ours = {"vgt_tab2_reconstruction", "vgt_tab6_tradeoff", "vgt_tab8_decoding", "vgt_claims", "judge_calibration"}
    ours |= {"latent_probes", "vlm_understanding", "training", "autoencoder_speed", "dpg_categories", "provenance"}
    assert stems >= ours | {"published_vgt_table2", "published_vgt_table6", "published_vgt_table8"}
    for stem in stems:
        for suffix in ("md", "tex", "csv"):
            assert (report / "tables" / f"{stem}.{suffix}").stat().st_size > 0


def test_numbers_are_those_of_the_records_in_every_format(report):
    stem = report / "tables" / "vgt_tab2_reconstruction"
    row = rows_of(stem.with_suffix(".csv"))["VGT-AE (InternVL)"]
    assert float(row["photos_psnr-mean"]) == 26.13
    assert float(row["photos_psnr-mean_low"]) == pytest.approx(25.83)
    assert (row["photos_psnr-mean_n"], row["scenes_judge-agreement"]) == ("256", "0.931")
    assert "| 26.13 [25.83, 26.43] |" in stem.with_suffix(".md").read_text()
    assert r"{26.13} {\scriptsize [25.83, 26.43]}" in stem.with_suffix(".tex").read_text()
    assert "26.13<small>[25.83, 26.43]</small>" in (report / "index.html").read_text()
    assert "lpips" not in row, "columns that nobody measured are left out"


def test_bold_is_the_best_comparable_complete_model(report):
    text = (report / "tables" / "vgt_tab2_reconstruction.md").read_text()
    assert "| PCA on patches | **30.31**" in text and "**0.958** [0.938, 0.978]" in text
    geneval = (report / "tables" / "vgt_tab8_decoding.md").read_text()
    assert "**0.412**" in geneval and "**0.998**" not in geneval, "the oracle does not compete"


def test_missing_cells_say_so(report):
    stem = report / "tables" / "vgt_tab8_decoding"
    row = rows_of(stem.with_suffix(".csv"))["MAR (InternVL) 16x"]
    assert row["overall"] == row["images-per-second"] == row["mar"] == ""
    text = stem.with_suffix(".md").read_text()
    assert "| MAR (InternVL) 16x | — |" in text and "- —: not measured: no record of it was found" in text
    assert "| Noise | —<sup>a</sup> |" in text and "- a: the judge found nothing to score" in text


def test_partial_records_are_marked(report):
    stem = report / "tables" / "vgt_tab8_decoding"
    assert "| QueryAR (pixel AE) 1x | 0.233† [0.203, 0.263] (n 240 of 480) |" in stem.with_suffix(".md").read_text()
    assert (
        r"{0.233}\textsuperscript{\dag{}} {\scriptsize [0.203, 0.263] (n 240 of 480)}"
        in stem.with_suffix(".tex").read_text()
    )
    row = rows_of(stem.with_suffix(".csv"))["QueryAR (pixel AE) 1x"]
    assert (row["overall_n"], row["overall_n_expected"]) == ("240", "480")
    html = (report / "index.html").read_text()
    assert "0.233<sup>†</sup>" in html and "n 240 of 480" in html and "partial, marked †" in html
    assert (
        '0.412 vs 0.233,"as claimed, intervals apart (partial records)"'
        in (report / "tables" / "vgt_claims.csv").read_text()
    )


def test_speedups_are_quotients_on_one_device(report):
    rows = rows_of(report / "tables" / "vgt_tab8_decoding.csv")
    assert float(rows["QueryAR (InternVL) 16x"]["own"]) == pytest.approx(29.3 / 6.1)
    assert float(rows["QueryAR (InternVL) 4x"]["mar"]) == pytest.approx(14.8 / 3.9)
    a, b = Cell(2.0, basis=("device", "x")), Cell(1.0, basis=("device", "y"))
    assert ratio(a, b).value is None and "different devices" in ratio(a, b).why


def test_numbers_from_other_data_or_judges_are_marked():
    found = [make(s, "scenes-geneval", "overall", v, n=10) for s, v in (("query_ar_a", 0.1), ("query_ar_b", 0.2))]
    found.append(make("query_ar_c", "scenes-geneval", "overall", 0.9, n=10, suite_hash="other prompts"))
    text = markdown(tables.DECODING.fill(Measured(found)))
    assert "0.900‡" in text and "not comparable" in text and "**0.200**" in text


def test_latex_is_escaped():
    table = Filled(
        "x_y", "50% of {a}_b & #1", [Column("v", "~^\\ $", better="high")], [Row("a_b & c", {"v": Cell(0.5, 0.4, 0.6)})]
    )
    text = latex(table)
    assert r"50\% of \{a\}\_b \& \#1." in text and r"\textasciitilde{}\textasciicircum{}\textbackslash{} \$" in text
    assert r"a\_b \& c & {0.500} {\scriptsize [0.400, 0.600]} \\" in text
    assert r"\toprule" in text and r"\bottomrule" in text and r"\label{tab:x-y}" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(report, tmp_path):
    stems = ("vgt_tab8_decoding", "vgt_tab2_reconstruction", "vgt_claims", "published_vgt_table3")
    head = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{textcomp,booktabs,graphicx}\begin{document}"
    body = [(report / "tables" / f"{stem}.tex").read_text() for stem in stems]
    (tmp_path / "all.tex").write_text("\n".join([head, *body, r"\end{document}"]))
    run = subprocess.run(["pdflatex", "-halt-on-error", "-draftmode", "all.tex"], cwd=tmp_path, capture_output=True)
    assert run.returncode == 0, run.stdout.decode(errors="replace")[-2000:]


def test_markdown_keeps_its_columns():
    table = Filled("t", "T", [Column("v", "a|b", text=True)], [Row("r|s", {"v": Cell("x|y <b>")})])
    lines = [line for line in markdown(table).splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {3} and "&lt;b>" in lines[-1]


# ------------------------------------------------------------------------------------------------------- page


def test_page_is_self_contained(report):
    html = (report / "index.html").read_text(encoding="utf-8")
    loads = re.findall(r"""(?:src|href|srcset|data|action)\s*=\s*["']([^"']*)""", html) + re.findall(
        r"url\(([^)]*)\)", html
    )
    assert loads and all(target.startswith(("data:", "#")) for target in loads)
    assert "@import" not in html and "http" not in re.sub(r"base64,[^\"]*", "", html)
    (script,) = re.findall(r"<script(?:\s[^>]*)?>.*?</script>", html, re.S)
    assert script == f"<script>\n{(page.TEMPLATES / 'page.js').read_text()}\n</script>", "the one script of the page"
    reach = (
        "fetch",
        "XMLHttp",
        "Socket",
        "EventSource",
        "Beacon",
        "import",
        "src",
        "href",
        "location",
        "eval",
        "HTML",
        "://",
    )
    assert not any(word in script for word in reach), "it reaches nothing outside"
    assert not re.search(r"<\w[^>]*\son\w+=", html), "no script hides in an attribute"
    assert "A title with &lt;angle&gt; &amp; ampersand" in html
    assert html.count("data:image/svg+xml;base64,") >= 10 and html.count("data:image/png;base64,") >= 12
    anchors, ids = set(re.findall(r'href="#([^"]+)"', html)), set(re.findall(r'id="([^"]+)"', html))
    assert anchors and anchors <= ids
    assert all(alt for alt in re.findall(r'<img[^>]*alt="([^"]*)"', html))


def test_anchors_and_file_stems_are_unique(report):
    ids = re.findall(r'id="([^"]+)"', (report / "index.html").read_text())
    assert len(ids) == len(set(ids))


def test_the_published_records_fill_every_section():
    """The collections of the repository: named as today's code does; no table overwrites another."""
    measured = Measured(record.read(ROOT / "reports" / "records"))
    parts = [part for s in sections.SECTIONS for part in s.parts if isinstance(part, sections.Tables)]
    names = [block.table.name for part in parts for block in part.blocks(measured, None)]
    assert len(names) == len(set(names))
    assert {"fidelity", "solvers_query_ar_internvl_16x_1026_test", "vgt_tab1_distillation", "vgt_claims"} <= set(names)
    words = json.dumps([r.model_dump(exclude={"command"}) for r in measured.records])
    assert "picture" not in words and "image" in words


def test_page_never_calls_the_distance_fid(report):
    html = (report / "index.html").read_text().replace("\N{NON-BREAKING HYPHEN}", "-")
    assert "fd-efflite2" in html and "not FID" in html
    ours = (report / "tables" / "vgt_tab2_reconstruction.md").read_text()
    assert "rFID" not in ours and "inflated" in ours


def test_page_holds_no_machine_paths(report, tmp_path_factory):
    texts = [p.read_text(encoding="utf-8") for p in report.rglob("*") if p.suffix in (".html", ".md", ".tex", ".csv")]
    for place in (str(report.parent), str(ROOT), "/root/", "/tmp/"):
        assert not any(place in text for text in texts)


def test_same_records_give_the_same_bytes(report, tmp_path):
    work = report.parent / "work"
    page.render([work / "records"], work, tmp_path, "A title with <angle> & ampersand")
    for path in report.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / path.relative_to(report)).read_bytes(), path.name


def test_figures_are_files_too(report):
    names = {p.stem for p in (report / "figures").iterdir()}
    assert {
        "geneval_overall",
        "speed",
        "speedup",
        "tradeoff_psnr-mean",
        "latents_pca",
        "samples_1",
        "calibration_jpeg",
    } <= names
    for name in names:
        with Image.open(report / "figures" / f"{name}.png") as image:
            assert min(image.size) > 200
        assert (report / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF-")
        assert (report / "figures" / f"{name}.svg").read_text(encoding="utf-8").startswith("<svg")


def test_the_summary_stands_open_and_sections_unfold_by_their_links(report):
    html = (report / "index.html").read_text(encoding="utf-8")
    main = html[html.index("<main>") :]
    assert main.index('id="summary"') < main.index("table-vgt_verdicts") < main.index("<details")
    targets = set(re.findall(r'<a href="#([^"]+)"', html))
    assert targets == {"summary", *re.findall(r'</summary>\s*<div id="([^"]+)"', html)} and len(targets) > 5


def test_a_section_without_records_has_no_place_but_is_named(tmp_path):
    record.write(make("vgt_ae_internvl", "photos", "psnr-mean", 20.0), tmp_path / "records")
    html = page.render(tmp_path / "records", None, tmp_path / "out").read_text(encoding="utf-8")
    assert 'href="#sampler"' not in html and "<h2>Sampler</h2>" not in html
    assert "Not in this report: Sampler (not studied" in html


def test_adjusted_categories_are_shown_where_they_differ():
    def shown(adjusted: float) -> list[str]:
        values = {"dpg": 80.0, "entity": 70.0, "entity-adjusted": adjusted}
        records = [make("oracle", "scenes-dpg", metric, value) for metric, value in values.items()]
        return [column.key for column in tables.DPG_CATEGORIES.fill(Measured(records)).columns]

    assert "entity-adjusted" in shown(65.0) and "entity-adjusted" not in shown(70.0)


def test_models_name_the_device_that_trained_them():
    def trained(**extra) -> Filled:
        return tables.TRAINING.fill(Measured([make("m", "training", "loss", 0.1, extra=extra)]))

    assert trained(device="NVIDIA H100").rows[0].cells["device"].value == "NVIDIA H100"
    # Where it is not known, the device that read the log is not put in its place.
    assert "device" not in [column.key for column in trained().columns]


def test_no_records_is_a_clear_error(tmp_path):
    with pytest.raises(ValueError, match="no records below .*vgt reproduce tiny"):
        page.render(tmp_path, tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="no records at"):
        page.render(tmp_path / "absent", tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("keep", [1, 7, 40])
def test_any_few_records_render(tmp_path, keep):
    """A run cut short still gives a page: whatever subset of records there is."""
    found = invented()
    for i in np.random.default_rng(keep).choice(len(found), keep, replace=False):
        record.write(found[i], tmp_path / "records")
    html = page.render(tmp_path / "records", None, tmp_path / "out").read_text()
    assert f"{keep} records" in html and "nan" not in re.sub(r"base64,[^\"]*", "", html).lower().replace(
        "provenance", ""
    )


# ---------------------------------------------------------------------------------------------------- samples


def test_samples_share_prompts_and_carry_verdicts(report):
    measured = Measured(record.read(report.parent / "work" / "records"))
    first, second = images.samples(measured, report.parent / "work")
    assert [name for name, _ in first.rows][:2] == ["Oracle (true scenes)", "QueryAR (InternVL) 1x"]
    assert len(first.prompts) == len(TASKS) and not set(first.prompts) & set(second.prompts[1:])
    assert all(image for _, row in first.rows for image in row)
    assert first.rows[0][1][0].correct is False and first.rows[1][1][0].correct is True
    assert "MAR (InternVL) 16x" not in dict(first.rows)


def test_samples_of_another_prompt_are_left_out(report, tmp_path):
    work = tmp_path / "work"
    shutil.copytree(report.parent / "work", work)
    changed = work / "geneval" / "mar_internvl@1x" / "00000" / "metadata.jsonl"
    changed.write_text(json.dumps({**json.loads(changed.read_text()), "prompt": "a photo of something else"}))
    grid = images.samples(Measured(invented()), work)[0]
    assert dict(grid.rows)["MAR (InternVL) 1x"][0] is None and dict(grid.rows)["MAR (InternVL) 4x"][0] is not None
    shutil.rmtree(work / "geneval")
    assert images.samples(Measured(invented()), work) == []


def test_reconstructions_stand_below_their_originals(report, tmp_path):
    measured, work = Measured(invented()), tmp_path / "work"
    shutil.copytree(report.parent / "work" / "recon", work / "recon")
    (shown,) = images.reconstructions(measured, work)
    assert [name for name, _ in shown.rows] == ["Original", *map(label, AES)]
    first = Image.open(io.BytesIO(shown.rows[0][1][0].png))
    assert np.array_equal(np.asarray(first), scenes.item("test", 0).image)
    assert shown.prompts == ["scene"] * 3 + ["photo"] * 4
    other = work / "recon" / "pca" / "scenes" / "pairs.png"
    Image.fromarray(255 - np.asarray(Image.open(other))).save(other)
    row = dict(images.reconstructions(measured, work)[0].rows)["PCA on patches"]
    assert row[0] is None and row[3] is not None, "strips of other images are left out"


def test_directions_are_those_of_the_evaluator():
    """The report may not import evals; its small list of metrics must say the same."""
    from evals.recon.metrics import direction

    for column in (*tables.METRICS, *tables.DEFINITIONS):
        assert {"high": "higher", "low": "lower", None: None}[column.better] == direction(column.key), column.key


def test_sets_compared_with_other_images_get_a_table():
    (row,) = tables.OTHER_FIDELITY.fill(Measured([make("toy", "photos", "kid-efflite2", 0.2)])).rows
    assert (row.label, row.cells["data"].value, row.cells["kid-efflite2"].value) == ("toy", "photos", 0.2)


def test_generators_of_other_methods_are_timed_too():
    measured = Measured(invented_speeds("toy_prior", 1, 8, 5.0))
    (row,) = tables.OTHER_THROUGHPUT.fill(measured).rows
    assert row.label == "toy_prior 1x, batch 8" and row.cells["reached"].value == pytest.approx(25.0)
    assert tables.THROUGHPUT.fill(measured).rows == []


def test_chance_level_stands_below_the_probes(report):
    rows = rows_of(report / "tables" / "latent_probes.csv")
    assert float(rows["Chance (shuffled labels)"]["knn-accuracy"]) == 0.13
    assert rows["Chance (shuffled labels)"]["effective-rank"] == ""


def test_a_run_with_fewer_images_says_so_once_a_column():
    """Where all of a column covers the same part of the suite, its head says which, and every value keeps its mark."""
    found = [
        make(s, "scenes-geneval", "overall", v, n=120, n_expected=480)
        for s, v in (("query_ar_a", 0.1), ("query_ar_b", 0.2))
    ]
    text = markdown(tables.DECODING.fill(Measured(found)))
    assert "Overall ↑ (n 120 of 480)" in text and "| 0.100† |" in text and "| **0.200**† |" in text


def test_evidence_outside_the_run_is_not_read(report, tmp_path):
    outside = make("x", "scenes-geneval", "overall", 0.5, evidence="../work/geneval/oracle")
    (report.parent / "elsewhere").mkdir(exist_ok=True)
    assert images.folder_of(outside, report.parent / "elsewhere") is None
    assert images.folder_of(outside.model_copy(update={"evidence": "geneval/oracle"}), report.parent / "work")


RIVALS = {"query_ar": 0.5, "mar": 0.47}
# ------------------------------------------------------------------------------------------------ what it says


def test_verdicts_on_claims():
    low, high = Cell(0.3, 0.25, 0.35, 10, 10), Cell(0.5, 0.45, 0.55, 10, 10)
    assert claims.verdict(high, low) == "as claimed, intervals apart"
    assert claims.verdict(low, high) == "reversed, intervals apart"
    assert claims.verdict(high, replace(low, high=0.5)) == "as claimed, intervals overlap: undecided"
    assert claims.verdict(high, replace(low, n=5)) == "as claimed, intervals apart (partial records)"
    assert claims.verdict(high, Cell()) == "not measured"
    assert claims.verdict(high, replace(low, basis=("other",))).startswith("not comparable")


def test_claims_table(report):
    with open(report / "tables" / "vgt_claims.csv", encoding="utf-8", newline="") as f:
        # a cell that begins with a minus and is no number has an apostrophe for spreadsheets
        read = [{key: csv_plain(cell) for key, cell in r.items()} for r in csv.DictReader(f)]
    rows = {(r["row"], r["claim"].split(":")[0]): r for r in read}
    assert rows["C11", "GenEval"]["paper"] == "0.62 vs 0.51" and rows["C11", "GenEval"]["ours"] == "0.412 vs 0.371"
    assert rows["C12", "GenEval"]["verdict"] == "as claimed, intervals apart"
    assert rows["C14", "GenEval"]["paper"] == "-0.03 vs -0.05" and rows["C14", "GenEval"]["ours"] == "-0.014 vs -0.049"
    assert (
        rows["C7", "GenEval"]["paper"] == "2 of 3 pairs inverse"
        and rows["C7", "GenEval"]["ours"] == "2 of 3 pairs inverse"
    )
    assert rows["C16", "GenEval"]["verdict"].startswith("reversed")


def test_a_paired_test_decides_where_intervals_overlap():
    """The record of the difference speaks as long as it is of the records as they are."""
    left, right = (make(f"{m}_internvl", "scenes-geneval", "overall", v, 0.1, accel=1) for m, v in RIVALS.items())

    def said(p: float, of: list[str], *more) -> str:
        tested = make(
            f"{left.model}~{right.model}", DIFFERENCES, "scenes-geneval-overall", 0.03, 0.02, extra={"p": p, "of": of}
        )
        rows = claims.CLAIMS.fill(Measured([left, right, tested, *more])).rows
        return next(r.cells["verdict"].value for r in rows if r.label == "C11")

    keys = [left.key, right.key]
    assert said(0.01, keys) == "as claimed, paired test (+0.03 [0.01, 0.05], p = 0.01)"
    assert said(0.2, keys).startswith("as claimed, paired test: undecided")
    assert said(0.01, [left.key, "older"]) == "as claimed, intervals overlap: undecided"
    dpg = [make(f"{m}_internvl", "scenes-dpg", "dpg", 60.0, 5.0, accel=1) for m in RIVALS]
    other = make(
        f"{left.model}~{right.model}", DIFFERENCES, "scenes-dpg-dpg", 0.0, 1.0,
        extra={"p": 0.03, "of": [one.key for one in dpg]},
    )  # fmt: skip
    assert "p = 0.06" in said(0.03, keys, *dpg, other), "two tests, corrected"
    assert claims.compared(Measured([left, right, *dpg])) == [(left, right), tuple(dpg)]


def test_models_of_unequal_training_are_not_compared():
    def seen(subject: str, samples: int):
        return make(subject, "training", "loss", 0.2, extra={"samples": samples})

    def decision(**samples: int) -> str:
        given = Measured([*invented(), *(seen(s, n) for s, n in samples.items())])
        return next(r.cells["verdict"].value for r in claims.CLAIMS.fill(given).rows if r.label == "C11")

    assert decision(query_ar_internvl=500, mar_internvl=500).startswith("as claimed")
    assert decision(query_ar_internvl=192_000, mar_internvl=64_000) == "not comparable: 192,000 and 64,000 images seen"


def test_self_distillation_stands_beside_the_untuned_vlm():
    vlm, without = "vlm_internvl", "vgt_ae_internvl_nodistill"
    assert tables.DISTILLATION.fill(Measured(invented())).rows == [], "no arm without it was measured"
    more = [
        make(f"{vlm}+{without}", "scenes-vqa", "accuracy", 0.4, 0.01, 2000),
        make(f"{vlm}+vgt_ae_internvl", "scenes-vqa", "accuracy", 0.93, 0.01, 2000),
        make(without, "photos", "psnr-mean", 99.0, 0.3, 256),
    ]
    found = Measured([*invented(), *more])
    rows = tables.DISTILLATION.fill(found).rows
    assert [row.cells["accuracy"].value for row in rows] == [0.94, 0.4, 0.93]
    assert rows[0].kind == "reference" and rows[1].cells["scenes_psnr-mean"].value is None
    said = [row.cells for row in claims.CLAIMS.fill(found).rows if row.label == "C1"]
    assert [c["paper"].value for c in said] == ["72.60 vs 24.80", "26.26 vs 23.95"]
    assert said[0]["ours"].value == "0.930 vs 0.400" and said[0]["verdict"].value == "as claimed, intervals apart"
    assert said[1]["ours"].value.startswith("99.00 vs ")


def test_tradeoff_pairs_generators_with_their_autoencoder():
    found = {row.subject: row for row in tables.TRADEOFF.fill(Measured(invented())).rows}
    assert found["query_ar_pixel"].others["autoencoder"] == ("pixel_ae", None) and "mar_internvl" not in found
    assert found["query_ar_internvl"].cells["scenes_psnr-mean"].value == 28.41
    assert found["query_ar_internvl"].cells["ceiling"].value == pytest.approx(0.911)
    named = make("query_ar_qwen", "scenes-geneval", "overall", 0.4, accel=1, extra={"autoencoder": "pixel_ae"})
    assert Measured([named]).autoencoder_of("query_ar_qwen") == "pixel_ae", "what the record says comes first"


def snapshots() -> list:
    """Two autoencoders at three steps with a generator each: the better reconstruction, the lower the score."""
    rows = []
    for k, step in enumerate((1000, 2000, 4000)):
        rows += [make(f"ae-{step}", "photos", "fd-efflite2", 100.0 - 10 * k, 1.0)]
        rows += [make(f"gen-{step}", "scenes-geneval", "overall", 0.8 - 0.1 * k, 0.02, accel=4)]
    return rows


AXES = tradeoff.Axis("photos", "fd-efflite2"), tradeoff.Axis("scenes-geneval", "overall")


def test_tradeoff_of_any_models_by_pair_and_by_step(tmp_path):
    for r in snapshots():
        record.write(r, tmp_path / "records")
    pairs = [f"--pair=ae-{step}=gen-{step}" for step in (4000, 1000, 2000)]
    asked = ["tradeoff", "--records", str(tmp_path / "records"), "--x", "photos/fd-efflite2", *pairs]
    for by, columns in (("pair", 3), ("step", 4)):
        out = tmp_path / by
        result = cli_run([*asked, "--by", by, "--out", str(out)])
        assert (result["pairs"], result["inverse"], result["inverse_apart"]) == (3, 3, 3)
        assert {p.name for p in out.iterdir()} == {f"tradeoff.{s}" for s in ("png", "svg", "pdf", "md", "tex", "csv")}
        rows = rows_of(out / "tradeoff.csv")
        assert float(rows["gen-2000 4x"]["x"]) == 90.0 and float(rows["gen-2000 4x"]["y"]) == pytest.approx(0.7)
        assert len(tradeoff.points(Measured(snapshots()), [], *AXES, None, by == "step").columns) == columns


def test_any_number_by_training_step(tmp_path):
    """Runs are joined by step, of models that end in one; no pair of them is asked for."""
    other = make("other", "scenes-geneval", "overall", 0.9, 0.02, accel=4)
    second = [make(f"b_step{s}", "scenes-geneval", "overall", s / 5000, 0.02, accel=4) for s in (4000, 500)]
    for r in (*snapshots(), other, *second):
        record.write(r, tmp_path / "records")
    asked = ["tradeoff", "--records", str(tmp_path / "records"), "--x", "step", "--out", str(tmp_path / "out")]
    result = cli_run(asked)
    rows = rows_of(tmp_path / "out/tradeoff.csv")
    assert {(name, float(row["x"])) for name, row in rows.items()} == {
        *((f"gen-{s} 4x", s) for s in (1000, 2000, 4000)), *((f"b_step{s} 4x", s) for s in (500, 4000))
    }  # fmt: skip
    assert result["pairs"] == 0
    svg = (tmp_path / "out/tradeoff.svg").read_text()
    assert "training step" in svg and svg.count("<title>") == 5 and "Pareto" not in svg
    assert re.findall(r">(gen|b)</text>", svg) == ["b", "gen"], "a name for each run"
    cli_run([*asked, "--y", "photos/fd-efflite2"])
    assert set(rows_of(tmp_path / "out/tradeoff.csv")) == {"ae-1000", "ae-2000", "ae-4000"}
    (tmp_path / "less").mkdir()
    record.write(other, tmp_path / "less/records")
    with pytest.raises(ValueError, match="no model with .* has a name that ends in a training step"):
        cli_run(["tradeoff", "--records", str(tmp_path / "less/records"), "--x", "step", "--out", str(tmp_path / "o")])


def test_a_report_lies_beside_the_records_that_were_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for r in snapshots():
        record.write(r, tmp_path / "runs/mine/records")
    pair = ["--x", "photos/fd-efflite2", "--pair", "ae-1000=gen-1000"]
    found = cli_run(["tradeoff", "--records", "runs/mine/records", *pair])
    assert Path(found["figure"]) == Path("runs/mine/report/tradeoff/tradeoff.png")


def test_tradeoff_takes_the_pairs_that_records_tell():
    rows = [*invented(), make("mine", "scenes-geneval", "overall", 0.4, accel=1, extra={"autoencoder": "my_ae"})]
    assert ("my_ae", "mine") in tradeoff.paired(Measured(rows), [])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tradeoff", "--x", "psnr"], "'psnr' is not of the form SUITE/METRIC"),
        (["tradeoff", "--x", "photos/rfid"], "no record of photos/rfid; there are photos/fd-efflite2"),
        (["tradeoff", "--x", "photos/fd-efflite2", "--pair", "ae-1000"], "not of the form AUTOENCODER=GENERATOR"),
        (["tradeoff", "--x", "photos/fd-efflite2", "--pair", "ae-1000=gone"], "no record of 'gone'"),
        (["tradeoff", "--x", "photos/fd-efflite2", "--accel", "9", "--pair", "ae-1000=gen-1000"], "no pair has both"),
        (["tradeoff", "--x", "step", "--pair", "ae-1000=gen-1000"], "--pair has no effect with --x step"),
        (["tradeoff", "--x", "step", "--by", "pair"], "--by has no effect with --x step"),
        (["tradeoff", "--x", "step", "--y", "photos/psnr-mean"], "no record of photos/psnr-mean"),
        (["tradeoff", "--y", "step"], "--y step is no score"),
        (["--x", "photos/fd-efflite2"], "--x has no effect here; it is for `vgt report tradeoff`"),
        (["tradeoff", "--title", "T"], "--title has no effect here"),
    ],
)
def test_tradeoff_says_what_is_wrong(tmp_path, words, message):
    for r in snapshots():
        record.write(r, tmp_path / "records")
    with pytest.raises(ValueError, match=re.escape(message)):
        cli_run([*words, "--records", str(tmp_path / "records"), "--out", str(tmp_path / "out")])
    with pytest.raises(ValueError, match="ends in no training step"):
        tradeoff.step_of("latest")


@pytest.mark.parametrize(
    ("name", "step"),
    [("ae-1000", 1000), ("gen_step2000", 2000), ("gen-2000+bf16", 2000), ("run-500-07ef91ce", 500),
     ("run-500+bf16-07ef91ce", 500), ("run-12345678", 12345678)],
)  # fmt: skip
def test_steps_at_the_end_of_names(name, step):
    assert tradeoff.step_of(name) == step


@pytest.mark.parametrize("name", ["vgt_ae_internvl3", "query_ar_internvl+bf16", "query_ar-07ef91ce", "ae-1000-3fa9c1"])
def test_names_without_a_step_are_refused(name):
    with pytest.raises(ValueError, match="ends in no training step"):
        tradeoff.step_of(name)


def test_axes_know_the_directions_of_the_evaluators():
    """None where it is not known: nothing is then counted as better or worse."""
    from evals.compare.contrasts import better

    for metric in ("psnr-mean", "ssim-wang", "fd-efflite2", "kid-efflite2", "overall", "dpg", "loss", "judge-agreement",
                   "collapse", "cluster-maps", "precision-efflite2", "rfid-tf-compat", "ms-per-image"):  # fmt: skip
        ours = tradeoff.Axis("photos", metric).better
        declared = better(make("m", "photos", metric, 0.5))
        assert None in (ours, declared) or f"{ours}er" == declared, metric
    rows = [make("a", "photos", "ms-per-image", 1.0), make("b", "photos", "ms-per-image", 2.0)]
    axes = tradeoff.Axis("photos", "ms-per-image"), tradeoff.Axis("photos", "ms-per-image")
    filled = tradeoff.points(Measured(rows), [("a", "b"), ("b", "a")], *axes, None, False)
    assert tradeoff.inverse(filled, *axes) == (0, 0, 0)


def test_other_sampling_settings_are_neither_compared_nor_plotted():
    def scored(subject: str, value: float, guidance: float, accel: int = 4):
        told = {"settings": {"acceleration": accel, "guidance": guidance}}
        return make(subject, "scenes-geneval", "overall", value, 0.01, 480, accel=accel, extra=told)

    alike, apart = ([scored("query_ar_internvl", 0.8, 3.0), scored("mar_internvl", 0.5, g)] for g in (3.0, 1.0))

    def decided(records) -> str:
        rows = claims.CLAIMS.fill(Measured(records)).rows
        return next(r.cells["verdict"].value for r in rows if r.label == "C12" and "GenEval" in r.cells["claim"].value)

    assert decided(alike).startswith("as claimed") and decided(apart) == "not comparable: guidance 3.0 and 1.0"
    third = scored("query_ar_qwen", 0.6, 3.0)
    odd = {r.label for r in tables.DECODING.fill(Measured([*apart, third])).rows if r.cells["overall"].odd}
    assert odd == {"MAR (InternVL) 4x"}
    aes = [make(f"ae-{k}", "photos", "psnr-mean", 20.0 + k) for k in range(3)]
    pairs = [("ae-0", "query_ar_internvl"), ("ae-1", "mar_internvl"), ("ae-2", "query_ar_qwen")]
    axes = tradeoff.Axis("photos", "psnr-mean"), tradeoff.Axis("scenes-geneval", "overall")
    filled = tradeoff.points(Measured([*apart, third, *aes]), pairs, *axes, None, False)
    assert "MAR" not in tradeoff.figure(filled, *axes, False).alt


def test_published_modes_are_compared_as_vgt_compare_does():
    """A record without its attention is from before there were two, and dense; null is flash."""

    def told(**settings):
        sampler = {"compat": "reference", "guidance": 3.0, **settings}
        return chosen(make("m", "scenes-geneval", "overall", 0.5, extra={"settings": sampler}))

    assert unlike(told(), told(attention=None)) == ["attention dense and flash"]
    assert not unlike(told(attention="flash"), told(attention=None)) and not unlike(told(), told(attention="dense"))


def test_calibration_verdict():
    def judged(accuracy: float, tasks=TASKS) -> Measured:
        return Measured([make("judge-analytic", "calibration-clean", t, accuracy) for t in tasks])

    assert tables.calibration_verdict(judged(0.995)).endswith("met for every task.")
    assert "not met for Single obj." in tables.calibration_verdict(judged(0.98))
    assert "5 of 6 tasks not measured" in tables.calibration_verdict(judged(1.0, TASKS[:1]))
    assert tables.calibration_verdict(Measured([])) == ""


def test_other_data_sets_get_a_table():
    table = tables.OTHER_DATA.fill(Measured([make("pca", "my-images", "psnr-mean", 25.0)]))
    assert "| PCA on patches | my-images | 25.00 |" in markdown(table)


def test_summary_reads_well_on_a_console():
    text = summary(invented())
    assert re.search(r"VGT-AE \(InternVL\) +28\.41 +26\.13 +0\.931", text)
    assert re.search(r"MAR \(InternVL\) 16x +— +— +—", text)
    assert "0.233† [0.203, 0.263]" in text and "partial" in text.splitlines()[-1]
    assert max(map(len, text.splitlines())) <= 100
    assert summary([]) == ""


# -------------------------------------------------------------------------------------------------- published


def test_published_numbers_come_with_a_source(report):
    paper = published.load("vgt")
    for table in paper.tables:
        assert re.fullmatch(r"arXiv 2511\.23469, (Table \d|Figure \w+)|hustvl/VGT, .+", table.source), table.id
        assert table.setting and table.rows
        text = markdown(published.table("vgt", table.id))
        assert table.source in text and published.LABEL in text
    assert [t.id for t in paper.tables if t.id.startswith("table")] == [f"table{i}" for i in range(1, 9)]
    html = (report / "index.html").read_text()
    assert html.count(published.LABEL) == len(paper.tables)


def test_published_numbers_keep_their_value_and_precision():
    text = markdown(published.table("vgt", "table2"))
    assert "| VGT-AE (InternViT) | 28 | 0.50 | 26.67 | 0.863 |" in text and "| VILA-U | 16 | 1.80 | — | — |" in text
    assert "data range 2" in text and "448 px" in text
    assert "| QueryAR 4x | 4x | 0.59 | 78.14 |" in markdown(published.table("vgt", "table8"))


def test_published_numbers_agree_with_the_page_of_facts():
    facts = (ROOT / "docs" / "vgt.md").read_text(encoding="utf-8")
    sections = re.split(r"^### 5\.\d+ ", facts, flags=re.M)
    for number in range(1, 9):
        text = next(s for s in sections if s.startswith(f"Table {number}:"))
        told = [re.findall(r"(?<![\w.])\d+\.\d+(?![\w.])", line) for line in text.splitlines() if line.startswith("|")]
        told = [tuple(map(float, line)) for line in told if line]
        rows = [
            tuple(v for v in row.values() if isinstance(v, float))
            for row in published.load("vgt")[f"table{number}"].rows
        ]
        assert sorted(rows) == sorted(tuple(v for v in line if (number, v) != (5, 0.1)) for line in told), number


def test_every_number_of_the_other_papers_stands_on_their_page():
    for name in published.known()[1:]:
        facts = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
        told = set(re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?!\d|\.\d)", facts))
        for table in published.load(name).tables:
            assert table.source and table.setting and table.rows
            labels = [row["label"] for row in table.rows]
            assert len(set(labels)) == len(labels)
            digits = {c.key: c.digits for c in table.columns}
            numbers = [(k, v) for row in table.rows for k, v in row.items() if isinstance(v, int | float)]
            lacking = [(k, v) for k, v in numbers if not told & {f"{v:.{digits[k]}f}", f"{v:g}", str(v)}]
            assert numbers and not lacking, (table.id, lacking)
            facts_of = {c.key for c in table.columns}
            assert all(facts_of & row.keys() for row in table.rows)


def test_malformed_papers_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "PAPERS", tmp_path)
    with pytest.raises(ValueError, match="no published numbers for 'nobody'"):
        published.load("nobody")
    (tmp_path / "bad.toml").write_text('[paper]\nid = "bad"\n[[tables]]\nid = "t"\n')
    with pytest.raises(ValueError, match="bad.toml is malformed"):
        published.load("bad")


# ---------------------------------------------------------------------------------------------- architecture


def test_reports_load_no_torch():
    code = "import sys, reports.page; print([m for m in sys.modules if m.split('.')[0] in ('torch', 'evals', 'bench')])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_reports_import_only_the_core():
    """Reports read records: of this project they may import vgt.core and themselves."""
    for path in (ROOT / "reports").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path.name}: relative import"
                names = [f"{node.module}.{a.name}" for a in node.names]
            # The verb `vgt report` shares the options of all verbs; tables name systems by the registry's labels.
            also = {"cli.py": "vgt.commands.options", "measured.py": "vgt.methods.registry"}.get(path.name)
            names = [name for name in names if not (also and name.startswith(also))]
            for name in names:
                top = name.split(".")[0]
                assert top not in ("evals", "bench", "tests", "torch"), f"{path.name} imports {name}"
                assert top != "vgt" or name.startswith("vgt.core"), f"{path.name} imports {name}"


def test_imported_benchmarks_and_protocols_get_tables():
    """Rows of paper Table 1 from imported records; one set of reconstructions under two protocols."""
    base = {"n": 5, "n_expected": 5, "fingerprint": "f", "suite_hash": "s", "key": "k"}
    harness = {"subject": "m", "protocol": "lmms-eval/0.7/task/x", **base}
    records = [
        record.Record(suite="MME-P", metric="mme-perception", value=1500.0, **harness),
        record.Record(suite="AI2D", metric="accuracy", value=70.5, **harness),
    ]
    for suite, size, ssim, own in (("photos", 64, 0.6, "ssim-wang"), ("photos@vgt", 37, 0.8, "ssim-taming")):
        params = {"model_res": 64, "eval_res": size}
        plain = dict(subject="vgt_ae_qwen", suite=suite, protocol=suite, **base)
        records.append(record.Record(metric="psnr-mean", value=23.0, protocol_params=params, **plain))
        records.append(record.Record(metric=own, value=ssim, protocol_params={"reported_by_its_papers": True}, **plain))
    measured = Measured(records)
    (row,) = tables.BENCHMARKS.fill(measured).rows
    assert row.cells["MME-P"].value == 1500.0 and row.cells["TextVQA"].value is None
    assert row.cells["harness"].value == "lmms-eval"
    default, vgt = tables.PROTOCOLS.fill(measured).rows
    assert (default.cells["printed"].value, default.cells["which"].value) == (0.6, "ssim-wang")
    assert (vgt.cells["printed"].value, vgt.cells["which"].value) == (0.8, "ssim-taming")
    assert vgt.cells["size"].value == "64 → 37 px" and default.cells["size"].value == "64 px"


def test_throughput_of_rivals(report):
    """Images a second, gains and floors of the invented records, by batch; nothing where nothing was measured."""
    rows = rows_of(report / "tables" / "throughput.csv")
    four = rows["InternVL, batch 8, 4x"]
    assert float(four["query_ar-rate"]) == 14.8 and float(four["mar-rate"]) == 3.9
    assert float(four["over"]) == pytest.approx(14.8 / 3.9)
    assert (float(four["query_ar-gain"]), float(four["query_ar-reached"])) == (2.0, 25.0)
    sixteen = rows["InternVL, batch 1, 16x"]
    assert float(sixteen["query_ar-rate"]) == pytest.approx(0.4 * 29.3)
    assert sixteen["mar-rate"] == sixteen["over"] == "", "no MAR at 16x"
    assert rows["pixel AE, batch 8, 1x"]["mar-rate"] == ""
    assert {"throughput_query_ar_internvl", "over_mar_query_ar_internvl", "over_reference_query_ar_internvl"} <= {
        p.stem for p in (report / "figures").iterdir()
    }
    assert {"roofline_b1", "roofline_b8", "score_against_latency"} <= {p.stem for p in (report / "figures").iterdir()}
    html = (report / "index.html").read_text()
    assert 'id="throughput"' in html and "flow head" in html.lower()


def test_times_of_a_busy_machine_are_marked_and_left_out_of_figures():
    """A curve of them would show the other work: 17.8 images a second at 16x, 1.3 at 8x, 8.6 at 4x."""
    quiet = [make("query_ar_internvl", "scenes-geneval", "overall", 0.5, accel=a) for a in (1, 4, 8)]
    for accel, rate, extra in ((1, 10.0, {}), (4, 20.0, {}), (8, 1.27, {"busy": "rounds spread by 80 %"})):
        quiet += invented_speeds("query_ar_internvl", accel, 8, rate, extra=extra)
    measured = Measured(quiet)
    filled = tables.DECODING.fill(measured)
    rate = [c for c in filled.columns if c.key == "images-per-second"][0]
    marks = {
        row.accel: "\N{SECTION SIGN}" in markdown(replace(filled, columns=[rate], rows=[row])) for row in filled.rows
    }
    assert marks[8] and not marks[1] and not marks[4]
    drawn = {f.name: f.alt for maker in (speed.own, speed.pareto, speed.time_split) for f in maker(measured)}
    assert {"speed", "speedup", "score_against_latency", "roofline_b8"} <= drawn.keys()
    assert all("4x" in alt and "8x" not in alt for alt in drawn.values())
    assert "1.3\N{SECTION SIGN}" in summary(quiet) and "while other work ran" in summary(quiet)


def test_large_models_and_first_steps_have_their_own_rows():
    where = {"device": "GPU"}
    found = [r for s in ("query_ar", "mar") for r in invented_speeds(f"random-{s}_internvl3_1b", 1, 64, 5.0, **where)]
    part = {"n": 8, "n_expected": 256, "accel": 1, "device": "GPU"}
    steps = [
        ("ms-per-image", 10.0),
        ("eager-ms-per-image", 200.0),
        ("speedup-over-eager", 20.0),
        ("floor-ms-per-image", 8.0),
    ]
    found += [make("random-query_ar_internvl3_2b", "bench-b1-n8", metric, value, **part) for metric, value in steps]
    measured = Measured(found)
    assert measured.generators() == [], "random weights have no place beside scores"
    table = tables.THROUGHPUT.fill(measured)
    assert [row.label for row in table.rows] == ["0.6B, random weights, batch 64, 1x"]
    assert tables.RANDOM_NOTE in table.notes and table.rows[0].cells["over"].value == 1.0
    (row,) = tables.STEPS.fill(measured).rows
    assert row.label == "QueryAR 1.6B, random weights 1x, batch 1, 8 steps" and row.cells["ms"].partial
    assert (row.cells["gain"].value, row.cells["reached"].value) == (20.0, pytest.approx(80.0))
    assert speed.pareto(measured) == [] and len(speed.time_split(measured)) == 1
    assert tables.THROUGHPUT.fill(Measured([])).rows == [] and speed.rates(Measured([])) == []


def test_no_ratio_of_speeds_on_two_devices():
    found = invented_speeds("query_ar_x", 1, 8, 5.0) + invented_speeds("mar_x", 1, 8, 2.0, device="another")
    (row,) = tables.THROUGHPUT.fill(Measured(found)).rows
    assert row.cells["over"].value is None and "different devices" in row.cells["over"].why
