"""``vgt report evidence``: what its pages hold of every kind of evidence, and what it refuses."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from urllib.parse import unquote

import evidence_work
import pytest

from reports import evidence
from reports.evidence import Pictures
from vgt.__main__ import main
from vgt.core import record, samples, sides


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return evidence_work.make(tmp_path_factory.mktemp("evidence") / "run")


@pytest.fixture
def work(made, tmp_path):
    """A copy that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def page(path: Path) -> dict:
    """The data of a page."""
    html = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html)[1])


def shown(work: Path, out: Path, *names: str) -> dict:
    """The data of the page of one record, or of two beside each other."""
    stored = sides.read(str(work)).stored
    one, *other = (stored[name] for name in names)
    made = evidence.write([sides.Pair("", one, other[0] if other else None)], out)
    assert list(made.values()) == [out / "index.html"]
    return page(out / "index.html")


def values(work: Path, name: str) -> dict[str, float]:
    kept = samples.read_file(sides.read(str(work)).stored[name].samples)
    return dict(zip(kept.ids, kept.values, strict=True))


# ------------------------------------------------------------------------------------------------- what a page holds


def test_geneval_shows_every_image_with_boxes_and_reasons(made, tmp_path):
    found = shown(made, tmp_path, "ours/scenes-geneval/overall")
    assert {item["id"]: item["sides"][0]["value"] for item in found["items"]} == values(
        made, "ours/scenes-geneval/overall"
    )
    right = [item for item in found["items"] if item["sides"][0]["value"] == 1]
    wrong = [item for item in found["items"] if item["sides"][0]["value"] == 0]
    assert right and wrong and len(right) + len(wrong) == 24
    for item in found["items"]:
        (image,) = item["sides"][0]["images"]
        assert (tmp_path / image["src"]).is_file() and (image["width"], image["height"]) == (64, 64)
        assert item["text"].startswith("a photo of") and item["groups"][0] in found["items"][0]["groups"] + [
            "two_object", "counting", "colors", "position", "color_attr",
        ]  # fmt: skip
    assert all(item["sides"][0]["images"][0]["why"].startswith("expected") for item in wrong)
    assert not any(item["sides"][0]["images"][0]["why"] for item in right)
    for item in right:
        boxes = [box for box in item["sides"][0]["images"][0]["boxes"] if box["counts"]]
        assert boxes and all(len(box["box"]) == 4 for box in boxes)
        assert item["expected"][0].split(",")[0].split()[-1] in " ".join(box["words"] for box in boxes)
    colored = next(item for item in right if item["groups"][0] == "colors")
    assert colored["expected"][0] in [box["words"] for box in colored["sides"][0]["images"][0]["boxes"]]
    placed = next(item for item in found["items"] if item["groups"][0] == "position")
    assert re.fullmatch(r"\w+, (left of|right of|above|below) the \w+", placed["expected"][1])


def test_one_task_and_all_images_of_a_prompt(made, tmp_path):
    found = shown(made, tmp_path, "ours/scenes-geneval/counting")
    assert {item["groups"][0] for item in found["items"]} == {"counting"} and len(found["items"]) == 4
    found = shown(made, tmp_path, "ours/scenes-geneval/prompts-any")
    assert len(found["items"]) == 12 and all(len(item["sides"][0]["images"]) == 2 for item in found["items"])


def test_dpg_shows_the_questions_with_answers_and_dependencies(made, tmp_path):
    found = shown(made, tmp_path, "ours/scenes-dpg/dpg")
    assert {item["id"]: item["sides"][0]["value"] for item in found["items"]} == values(made, "ours/scenes-dpg/dpg")
    for item in found["items"]:
        (side,) = item["sides"]
        assert len(side["images"]) == len(side["answers"]) == 2
        assert all(answers.keys() == {str(q["number"]) for q in item["questions"]} for answers in side["answers"])
        assert (side["value"] == 100) == all(said == "yes" for each in side["answers"] for said in each.values())
    assert any(q["after"] for q in found["items"][0]["questions"])
    found = shown(made, tmp_path, "ours/scenes-dpg/entity")
    assert all(len(item["questions"]) == len(item["sides"][0]["images"]) == 1 for item in found["items"])
    assert {item["id"]: item["sides"][0]["value"] for item in found["items"]} == values(made, "ours/scenes-dpg/entity")


def test_answers_about_scenes(made, tmp_path):
    found = shown(made, tmp_path, "vlm/scenes-vqa/accuracy", "vlm-tuned/scenes-vqa/accuracy")
    assert len(found["items"]) == 15
    for item in found["items"]:
        a, b = item["sides"]
        scene = int(item["id"].split(":")[0])
        assert (a["value"], b["value"]) == (float(scene != 0), float(scene > 1))
        assert (a["answer"] == item["expected"][0]) == bool(a["value"]) and b["value"] or b["answer"] == "perhaps"
        assert (tmp_path / item["images"][0]["src"]).is_file()
    assert len(list((tmp_path / "images").iterdir())) == 3  # each scene once


def test_reconstructions_beside_their_originals(made, tmp_path):
    found = shown(made, tmp_path, "ae/scenes/psnr-mean", "ae-dark/scenes/psnr-mean")
    assert [item["id"] for item in found["items"]] == [f"test-{i:05d}" for i in range(14)]
    pairs = [item for item in found["items"] if all("src" in side["images"][0] for side in item["sides"])]
    assert len(pairs) == 12 and all("src" in item["images"][0] for item in found["items"])  # the others are rendered
    assert sum("12 of 14 reconstructions" in note for note in found["notes"]) == 2
    assert found["better"] == "high" and all(a["value"] > b["value"] for a, b in (i["sides"] for i in found["items"]))
    assert len({item["sides"][0]["images"][0].get("src") for item in pairs}) == 12


def test_values_alone_where_the_evidence_is_gone(work, tmp_path):
    shutil.rmtree(work / "geneval")
    found = shown(work, tmp_path, "ours/scenes-geneval/overall")
    assert found["kind"] == "values" and len(found["items"]) == 24 and "gone" in found["notes"][0]


# ------------------------------------------------------------------------------------------ what is missing, or changed


def test_a_missing_image_is_told(work, tmp_path):
    (image,) = work.glob("geneval/ours/*/00003/samples/0001.png")
    image.unlink()
    found = shown(work, tmp_path, "ours/scenes-geneval/overall")
    lost = [item for item in found["items"] if "lost" in item["sides"][0]["images"][0]]
    assert len(lost) == 1 and "not there" in lost[0]["sides"][0]["images"][0]["lost"] and len(found["items"]) == 24


@pytest.mark.parametrize(
    ("changed", "score"),
    [
        ("geneval/ours/*/detections.jsonl", "ours/scenes-geneval/overall"),
        ("geneval/ours/*/detections.run.json", "ours/scenes-geneval/overall"),
        ("geneval/ours/*/00001/samples/0000.png", "ours/scenes-geneval/overall"),
        ("records/ours/scenes-geneval/overall.samples.csv", "ours/scenes-geneval/overall"),
        ("dpg/ours/*/answers.jsonl", "ours/scenes-dpg/dpg"),
        ("dpg/ours/*/00001/samples/0000.png", "ours/scenes-dpg/dpg"),
        ("vqa/vlm.jsonl", "vlm/scenes-vqa/accuracy"),
        ("recon/ae/*/pairs.png", "ae/scenes/psnr-mean"),
    ],
)
def test_changed_evidence_is_refused(work, tmp_path, capsys, changed, score):
    (path,) = work.glob(changed)
    if path.suffix == ".png":
        shutil.copy(next(other for other in path.parent.parent.parent.glob("*/*/0000.png") if other != path)
                    if "samples" in path.parts else next(work.glob("recon/ae-dark/*/pairs.png")), path)  # fmt: skip
    else:
        path.write_bytes(path.read_bytes() + b"\n")
    model, suite, metric = score.split("/")
    given = ["--records", str(work), "--a", model, "--metric", f"{suite}/{metric}", "-o", str(tmp_path / "out")]
    assert main(["report", "evidence", *given]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1 and str(path) in error and "evaluate again" in error


def test_results_that_are_not_those_of_the_record(work, tmp_path):
    (path,) = work.glob("geneval/ours/*/results.jsonl")
    path.write_text(path.read_text().replace('"correct":true', '"correct":false'))
    with pytest.raises(ValueError, match="are not those of ours/scenes-geneval/overall"):
        shown(work, tmp_path, "ours/scenes-geneval/overall")


def test_images_up_to_a_bound(made, tmp_path, monkeypatch):
    pictures = Pictures(tmp_path / "images", limit=10_000)
    one = sides.read(str(made)).stored["theirs/scenes-geneval/overall"]
    found = evidence.read(one, pictures)
    written = sum(path.stat().st_size for path in (tmp_path / "images").iterdir())
    lost = [item for item in found.found.values() if "lost" in item["images"][0]]
    assert 0 < written <= 10_000 and pictures.left_out == len(lost) > 0 and "left out" in lost[0]["images"][0]["lost"]
    monkeypatch.setattr(evidence, "SAMPLES", 5)
    told = evidence.data([found])
    assert len(told["items"]) == 5 and "5 of 24 samples" in told["notes"][0]
    lowest = sorted(values(made, "theirs/scenes-geneval/overall").values())[:5]
    assert sorted(item["sides"][0]["value"] for item in told["items"]) == lowest and lowest[0] == 0


# ------------------------------------------------------------------------------------------------------------ two sides


def test_two_models_on_the_same_samples(made, tmp_path):
    found = shown(made, tmp_path, "ours/scenes-geneval/overall", "theirs/scenes-geneval/overall")
    a, b = (values(made, f"{name}/scenes-geneval/overall") for name in ("ours", "theirs"))
    told = {item["id"]: tuple(side["value"] for side in item["sides"]) for item in found["items"]}
    assert told == {key: (a[key], b[key]) for key in a}
    assert {(1.0, 0.0), (0.0, 1.0)} <= set(told.values())  # each is right where the other is wrong
    assert found["notes"] == [] and [side["model"] for side in found["sides"]] == ["ours", "theirs"]


def test_samples_that_only_one_side_has(made, tmp_path):
    stored = sides.read(str(made)).stored
    a, b = (
        evidence.read(stored[f"{name}/scenes-geneval/overall"], Pictures(tmp_path, 10**9))
        for name in ("ours", "theirs")
    )
    gone = next(iter(b.about))
    b.about.pop(gone), b.found.pop(gone)
    found = evidence.data([a, b])
    assert [item["id"] for item in found["items"] if item["sides"][1] is None] == [gone]
    b.about[gone] = a.about[gone] | {"text": "a photo of something else"}
    with pytest.raises(ValueError, match=f"sample {gone} .* of another prompt"):
        evidence.data([a, b])


def test_what_the_two_differ_in_is_told(made, tmp_path):
    stored = sides.read(str(made)).stored["ours/scenes-geneval/overall"]
    other = sides.Stored(stored.record.model_copy(update={"judge": "another", "seed": 3}), stored.samples, stored.path)
    pictures = Pictures(tmp_path, 10**9)
    (note,) = evidence.data([evidence.read(stored, pictures), evidence.read(other, pictures)])["notes"]
    assert "judge" in note and "'another'" in note and "seed 0 and 3" in note


# ------------------------------------------------------------------------------------------------- pages and the verb


def test_prompts_with_markup_stay_text(made, tmp_path):
    found = shown(made, tmp_path, "noise/own/images-correct")
    assert {item["text"] for item in found["items"]} == {evidence_work.MARKUP}
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert html.count("<script") == html.count("</script>") == 2 and "<b>red" not in html


def test_pages_ask_nobody(made, tmp_path, capsys):
    assert main(["report", "evidence", "--records", str(made), "-o", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert sorted(told["pages"]) == [
        "ae-dark/scenes/psnr-mean", "ae/scenes/psnr-mean", "noise/own/images-correct", "ours/scenes-dpg/dpg",
        "ours/scenes-geneval/overall", "theirs/scenes-dpg/dpg", "theirs/scenes-geneval/overall",
        "vlm-tuned/scenes-vqa/accuracy", "vlm/scenes-vqa/accuracy",
    ]  # fmt: skip
    index = (tmp_path / "index.html").read_text(encoding="utf-8")
    for path in tmp_path.glob("*.html"):
        html = path.read_text(encoding="utf-8")
        assert not re.findall(r'(?:src|href)="(?!data:|index\.html|[\w.%~@+-]+\.html)[^"]*"', html)
        assert str(made) not in html
        assert path.name == "index.html" or f'href="{path.name}"' in index


def test_the_verb_refuses(made, tmp_path, capsys):
    def says(*given: str) -> str:
        assert main(["report", *given]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    records = ["--records", str(made)]
    assert "--b theirs has no effect without --a" in says("evidence", *records, "--b", "theirs")
    assert "no model 'mine'" in says("evidence", *records, "--a", "mine")
    assert "no score fits --metric nothing" in says("evidence", *records, "--metric", "nothing")
    assert "--metric has no effect here" in says(*records, "--metric", "overall")
    assert "--title has no effect here" in says("evidence", *records, "--title", "x")
    assert "--megabytes 0 is below 1" in says("evidence", *records, "--megabytes", "0")
    record.write_collection(record.read(made), tmp_path / "all.jsonl")
    assert "per-sample" in says("evidence", "--records", str(tmp_path / "all.jsonl"))
    assert "a collection holds records alone" in says(
        "evidence", "--records", str(tmp_path / "all.jsonl"), "--metric", "scenes-geneval/overall"
    )


def test_the_report_links_its_scores_to_their_samples(made, tmp_path, capsys):
    assert main(["report", "--records", str(made), "--evidence", "-o", str(tmp_path)]) == 0
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    links = re.findall(r'<a class="evidence" href="([^"]+)"', html)
    assert "evidence/ours--scenes-geneval--overall.html" in links
    assert "evidence/ours--scenes-geneval--overall.html#group=counting" in links
    assert all((tmp_path / unquote(link.partition("#")[0])).is_file() for link in links)
    assert 'href="evidence/index.html"' in html
    capsys.readouterr()
    assert main(["report", "--records", str(made), "-o", str(tmp_path / "plain")]) == 0
    plain = (tmp_path / "plain/index.html").read_text(encoding="utf-8")
    assert "evidence/" not in "".join(re.findall(r'href="[^"]*"', plain))
    assert main(["report", "tradeoff", "--records", str(made), "--evidence"]) == 2
    assert "--evidence has no effect here" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["compare", "gate"])
def test_compare_and_gate_name_the_command(made, tmp_path, monkeypatch, capsys, verb):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made / "records", tmp_path / "alone")
    for path in tmp_path.glob("alone/**/*.samples.csv"):
        path.unlink()

    def told(root: Path) -> tuple[str, dict]:
        a, b = f"{root}:ours", f"{root}:theirs"
        given = {
            "compare": ["compare", a, b, "--metric", "overall"],
            "gate": ["gate", "--policy", "subset", "--baseline", a, "--candidate", b, "--json", "gate.json"],
        }
        main(given[verb])
        text = capsys.readouterr().out
        closing = json.loads(text.splitlines()[-1])
        return text, closing if verb == "compare" else json.loads(Path("gate.json").read_text())

    text, result = told(made)
    assert f"side by side: {result['evidence']}\n" in text
    assert main([*shlex.split(result["evidence"])[1:], "-o", "out"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["pages"]
    text, result = told(tmp_path / "alone")
    assert "vgt report evidence" not in text and result["evidence"] is None
