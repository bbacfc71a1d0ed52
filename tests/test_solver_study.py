"""The study of samplers: disjoint prompts, the test of non-inferiority, whole runs on made-up subjects, its report."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import numpy as np
import pytest
from two_runs import draw, make, put, shares

from evals.judges.analytic import AnalyticJudge
from evals.solvers import run as solvers
from evals.subjects.fake import Oracle
from reports import sections, tables
from reports.figures import scores
from reports.measured import Measured
from reports.table import view
from vgt.__main__ import main
from vgt.core import record, samples
from vgt.core.scenes import TASKS
from vgt.core.sides import Stored
from vgt.methods.sampling import DECODING, Sampling

# --------------------------------------------------------------------------------------------------- the prompts


def test_the_two_halves_share_no_text():
    halves = {split: solvers.prompts(split, 1020) for split in solvers.SPLITS}
    texts = {split: {p["prompt"] for p in prompts} for split, (_, prompts) in halves.items()}
    assert not texts["validation"] & texts["test"]
    for split, (suite, prompts) in halves.items():
        assert suite == f"scenes-geneval-1020-{split}" and len(prompts) == 1020
        assert all(sum(p["tag"] == task for p in prompts) == 170 for task in TASKS)
        assert len({p["id"] for p in prompts}) == 1020
        assert any(p["held_out"] for p in prompts)
        single = [p["prompt"] for p in prompts if p["tag"] == "single_object"]
        counts = [single.count(text) for text in set(single)]
        assert max(counts) - min(counts) <= 1, "repeats are spread evenly"
    again = solvers.prompts("test", 120)[1]
    assert again == [p for p in halves["test"][1] if int(p["id"].rpartition("-")[2]) < 20]


@pytest.mark.parametrize(
    ("split", "count", "message"),
    [
        ("train", 12, "split 'train' is unknown; choose one of validation, test"),
        ("test", 1000, "1000 prompts do not divide among 6 tasks; give a multiple, for example 1002"),
        ("test", 2, "for example 6"),
    ],
)
def test_bad_prompts(split, count, message):
    with pytest.raises(ValueError, match=message):
        solvers.prompts(split, count)


def test_settings_of_the_command_line():
    assert solvers.parse("ab2:8") == solvers.parse("ab2:8:linear") == {"sampler": "ab2", "flow_steps": 8}
    schedule = {"sampler": "ab2", "flow_steps": 8, "time_schedule": "power:0.7"}
    assert solvers.parse(" ab2:8:power:0.7") == schedule
    for text in ("ab2", "ab2:x", ":8", "", "ab2+spread", "ab2:8:power:0.7:x+"):
        with pytest.raises(ValueError, match="is not SAMPLER:EVALUATIONS|decoding '' is unknown"):
            solvers.parse(text)
    chosen = {"schedule": "cosine", "order": "spread", "flow_budget": "falling"}
    assert solvers.parse("ab2:8:power:0.7+spread+cosine+falling") == {**schedule, **chosen}
    assert solvers.parse("sde:15+raster+equal") == {
        "sampler": "sde", "flow_steps": 15, "order": "raster", "schedule": "equal"
    }  # fmt: skip
    with pytest.raises(
        ValueError, match="'sde:15.quick': decoding 'quick' is unknown; choose of equal, cosine, random"
    ):
        solvers.parse("sde:15+quick")
    with pytest.raises(ValueError, match="spread contradicts raster; leave one of the two out"):
        solvers.parse("sde:15+raster+spread")


def test_words_of_decoding_are_those_of_sampling():
    words = {name: {w for w, field in solvers.DECODING.items() if field == name} for name in DECODING}
    fields = Sampling.model_fields
    assert words == {name: {w for w in re.findall(r"'(\w+)'", str(fields[name].annotation))} for name in DECODING}


# ------------------------------------------------------------------------------------------------------ the test


def stored(root, name: str, values, evaluations: int) -> Stored:
    """A score of a made-up setting with its samples."""
    one = put(root, values, make(name, extra={"settings": {"flow_steps": evaluations}}))
    return Stored(one, samples.path(root, one))


def test_equal_settings_pass_and_worse_ones_do_not(tmp_path):
    rng = np.random.default_rng(0)
    base = draw(rng, shares(rng))
    worse = base * (rng.random(len(base)) >= 0.3)
    other = np.where(rng.random(len(base)) < 0.02, 1 - base, base)
    scored = [
        stored(tmp_path, "base", base, 30),
        stored(tmp_path, "other", other, 9),
        stored(tmp_path, "worse", worse, 4),
    ]
    first, found, bad = solvers.assess(scored, 0.05)
    assert first.passed is None and (found.passed, bad.passed) == (True, False)
    assert found.gain == pytest.approx(other.mean() - base.mean(), abs=1e-9) and found.low < found.gain
    assert found.adjusted == pytest.approx(2 * found.p) and bad.adjusted > 0.9
    assert solvers.recommended([first, found, bad]) == found
    assert solvers.recommended([first, bad]) is None
    strict = solvers.assess(scored, 1e-4)
    assert not any(r.passed for r in strict[1:]), "nothing is shown within a margin that the data cannot resolve"
    text = solvers.table([first, found, bad], 0.05)
    assert text.splitlines()[-1] == "recommended: other, 9 evaluations a token instead of 30"
    assert solvers.table([first, bad], 0.05).splitlines()[-1].startswith("recommended: none")


def test_the_test_keeps_its_level(tmp_path):
    """Settings that lose exactly the margin pass about one time in twenty."""
    rng, passed, rounds = np.random.default_rng(1), 0, 200
    for k in range(rounds):
        of = shares(rng, 0.5, 0.3)
        base, worse = draw(rng, of), draw(rng, of) * (rng.random(480) >= 0.2)
        root = tmp_path / str(k)
        results = solvers.assess([stored(root, "a", base, 30), stored(root, "b", worse, 9)], 0.1)
        passed += results[1].passed
    assert 0.015 * rounds < passed < 0.1 * rounds


def test_recommended_is_the_cheapest_then_the_best():
    def result(name, evaluations, score, passed=True):
        return solvers.Result(name, evaluations, score, 0.0, -0.01, 0.01, 0.01, 0.02, passed)

    base = solvers.Result("base", 15, 0.5)
    rows = [base, result("a", 8, 0.50), result("b", 8, 0.51), result("c", 4, 0.6, passed=False), result("d", 15, 0.9)]
    assert solvers.recommended(rows).model == "b"
    assert solvers.recommended([base, result("d", 15, 0.9), result("e", 30, 0.9)]) is None, "none is cheaper"


# -------------------------------------------------------------------------------------------------- whole studies


@dataclass
class Drawn:
    """Draws the prompt's scene, and for a ``loss`` of the seeds nothing but grey."""

    name: str
    settings: dict
    loss: float = 0.0
    calls: int = 0

    @property
    def fingerprint(self) -> str:
        return f"{self.name} {self.loss}".ljust(16)

    def generate(self, prompts, seeds):
        self.calls += 1
        images = Oracle(64).generate(prompts, seeds)
        images[[s % 100 < 100 * self.loss for s in seeds]] = 128
        return images


SETTINGS = [
    {"sampler": "sde", "flow_steps": 15},
    {"sampler": "ab2", "flow_steps": 8},
    {"sampler": "ode", "flow_steps": 4},
]
LOSS = {15: 0.0, 8: 0.0, 4: 0.5}


def study(root, loaded=None, **changed):
    """A small study with two settings of which one is as good as the baseline."""

    def load(one):
        plain = one == SETTINGS[0]
        subject = Drawn(
            "model" + ("" if plain else f"+{one['sampler']}-{one['flow_steps']}"), one, LOSS[one["flow_steps"]]
        )
        if loaded is not None:
            loaded.append(subject)
        return subject

    options = {"split": "test", "count": 24, "margin": 0.3, "images_per_prompt": 1, "accel": 16, "batch": 8, **changed}
    return solvers.run(load, SETTINGS, AnalyticJudge(), work=root, **options)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    return root, *study(root)


def test_a_study_recommends_and_records(done):
    root, outcome, results = done
    *scores, verdict = outcome.records
    assert [s.model for s in scores] == ["model@16x", "model+ab2-8@16x", "model+ode-4@16x"]
    assert results[2].score < results[0].score - 0.2 and not results[2].passed
    assert verdict.name == "model@16x/scenes-geneval-24-test/evaluations-needed"
    assert verdict.value == 8 and verdict.extra["recommended"] == "model+ab2-8@16x"
    assert verdict.protocol_params == {"margin": 0.3, "alpha": 0.05, "baseline": "model@16x", "correction": "Holm"}
    assert [row["evaluations"] for row in verdict.extra["results"]] == [15, 8, 4]
    for one in record.read(root / "records"):
        if one.metric == "overall":
            assert "not the benchmark suite" in one.protocol_params["prompt_variant"]
            assert one.extra["head_evaluations"] == one.extra["settings"]["flow_steps"]
            assert one.extra["seconds_per_image"] > 0 and one.low is not None


def test_a_study_resumes(done):
    root, outcome, _ = done
    loaded = []
    again, results = study(root, loaded)
    assert again.computed == 0 and again.reused == outcome.computed and not any(s.calls for s in loaded)
    assert again.records[-1] == outcome.records[-1]
    other, _ = study(root, margin=0.001)
    assert other.computed == 1 and other.records[-1].value is None
    assert other.records[-1].note.startswith("no setting with fewer evaluations")
    study(root)


def test_records_that_stand_are_not_written_again(tmp_path):
    """Though a batch that another run drew in the meantime took longer, so that the median has moved."""
    study(tmp_path)
    kept = {path: path.read_bytes() for path in (tmp_path / "records").rglob("*.json")}
    for log in (tmp_path / "solvers").glob("*.jsonl"):
        with open(log, "a", encoding="utf-8") as lines:
            lines.write('{"images": 1, "seconds": 3600.0}\n' * 20)
    again, _ = study(tmp_path)
    assert again.computed == 0
    assert {path: path.read_bytes() for path in (tmp_path / "records").rglob("*.json")} == kept


def test_bad_studies(tmp_path):
    def run(settings, margin=0.02):
        solvers.run(None, settings, None, work=tmp_path, split="test", count=24, margin=margin)

    with pytest.raises(ValueError, match="1 settings; give two or more different ones"):
        run(SETTINGS[:1])
    with pytest.raises(ValueError, match="give two or more different ones"):
        run([SETTINGS[0], SETTINGS[0]])
    with pytest.raises(ValueError, match="margin 0 is no loss of a share"):
        run(SETTINGS, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--settings", "sde:15,heun:8"], "flow steps 8 does not suit heun"),
        (["--settings", "sde:15,ab2:8:cubic"], "time schedule 'cubic' is unknown"),
        (["--settings", "sde:15,euler:8"], "sampling settings: sampler: Input should be 'sde', 'sde2', 'ode'"),
        (["--settings", "sde"], "setting 'sde' is not SAMPLER:EVALUATIONS"),
        (["--settings", "sde:15,sde:15+slow"], "setting 'sde:15+slow': decoding 'slow' is unknown"),
        (["--settings", "sde:15,sde:3+falling"], "flow steps 3 is too few to fall over the sequence"),
        (["--prompts", "1000"], "1000 prompts do not divide among 6 tasks"),
        (["--subject", "fake:oracle"], "has no flow head; give vgt:<checkpoint>"),
    ],
)
def test_bad_command_lines(tmp_path, capsys, monkeypatch, options, message):
    """Before a model is loaded."""
    monkeypatch.setattr("evals.subjects.vgt.generator", lambda *_, **__: pytest.fail("a model was loaded"))
    assert main(["eval", "solvers", "--subject", "vgt:query_ar_internvl", *options, "-o", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err and not any(tmp_path.iterdir())


def test_the_command_line(tmp_path, capsys):
    call = ["eval", "solvers", "--subject", "vgt:query_ar_internvl", "--accel", "64", "--prompts", "12"]
    call += ["--images-per-prompt", "1", "--batch", "6", "-o", str(tmp_path)]
    assert main([*call, "--settings", "sde:3,ode:2"]) == 0
    *text, last = capsys.readouterr().out.splitlines()
    assert any(line.startswith("recommended: ") for line in text)
    names = list(json.loads(last)["scores"])
    assert names[0] == "query_ar_internvl+sde-3@64x/scenes-geneval-12-validation/overall" and len(names) == 3
    call[call.index("64")] = "32"
    assert main([*call, "--settings", "ode:4,ode:4+cosine,ode:4+spread+falling"]) == 0
    names = list(json.loads(capsys.readouterr().out.splitlines()[-1])["scores"])
    assert [n.partition("@")[0] for n in names[1:3]] == [
        "query_ar_internvl+ode-4+cosine", "query_ar_internvl+ode-4+spread+falling"
    ]  # fmt: skip
    assert main([*call, "--settings", "ode:4,ode:4+equal"]) == 2
    assert "is another way to write one before it (query_ar_internvl+ode-4)" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------- the report


def sampler(measured):
    return next(s for s in sections.build(measured, None) if s.id == "sampler")


def test_the_report_shows_a_study(done):
    measured = Measured(record.read(done[0] / "records"))
    (one,) = tables.studies(measured)
    table = tables.study_table(one).fill(measured)
    assert [row.label for row in table.rows] == ["Stochastic (published)", "Adams-Bashforth 2", "Euler"]
    verdicts = [row.cells["verdict"].value for row in table.rows]
    assert verdicts == ["baseline", "not inferior, recommended", "not shown"]
    assert table.rows[1].cells["overall"].value == done[2][1].score and "24 prompts" in table.notes[0]
    assert view(table).grid[0][2].value == "", "a baseline has no gain"
    figure = scores.study(measured, one)
    assert "Adams-Bashforth 2 8:" in figure.alt and "<svg" in figure.svg
    section = sampler(measured)
    assert section.id == "sampler" and any(b.figures for b in section.blocks) and any(b.table for b in section.blocks)


def test_settings_in_the_readers_words():
    early = {"sampler": "sde", "order": "random", "mar_schedule": "cosine"}
    assert tables._solver(early) == "Stochastic (published)"
    chosen = {"sampler": "ab2", "time_schedule": "power:0.7", "schedule": "cosine", "order": "spread"}
    assert (
        tables._solver(chosen | {"flow_budget": "falling"}) == "Adams-Bashforth 2, power:0.7, cosine, spread, falling"
    )


def test_without_a_study_the_section_says_so():
    section = sampler(Measured([]))
    assert not section.blocks and "no record of `vgt eval solvers`" in section.without
