"""The recipe of a paper and its graph of jobs."""

from __future__ import annotations

import argparse
import json

import pytest

from reports import published, recipe, results
from vgt import __main__ as main
from vgt.commands import paper, reproduce
from vgt.core import files, text
from vgt.training import job as training

SMOKE = """
tables = []
[paper]
id = "smoke"
[scales.smoke]
title = "a step of everything"
folder = "smoke"
size = 64
tokens = 64
seeds = [0, 1]
[measurements]
vlm = ["eval training --subject vgt:{model}"]
autoencoder = ["eval training --subject vgt:{model}"]
generator = ["eval training --subject vgt:{model}"]
[[arms]]
id = "vlm"
kind = "vlm"
label = "VLM"
preset = "vlm_internvl"
seeds = false
[[arms]]
id = "stage1"
kind = "autoencoder"
label = "stage 1"
preset = "vgt_ae_internvl_stage1"
from = { vlm = "vlm" }
[[arms]]
id = "ae"
kind = "autoencoder"
label = "AE"
preset = "vgt_ae_internvl"
from = { vlm = "vlm", weights = "stage1" }
set = { "losses.noise" = 0.5 }
[[arms]]
id = "other"
kind = "autoencoder"
label = "other"
preset = "pixel_ae"
"""


@pytest.fixture
def smoke(tmp_path, monkeypatch):
    """A function that makes a paper "smoke" of the given recipe."""
    for module in (published, recipe):
        monkeypatch.setattr(module, "PAPERS", tmp_path / "papers")

    def written(content: str = SMOKE) -> None:
        files.write_text(tmp_path / "papers" / "smoke.toml", content)
        clear()

    def clear() -> None:
        published.load.cache_clear()
        recipe.load.cache_clear()

    written()
    yield written
    clear()


def jobs_of(arms, work, seeds=(0, 1)) -> list[paper.Job]:
    return paper.graph("smoke", "smoke", list(seeds), arms, work)


def test_the_graph_has_parents_first_a_model_a_seed_and_measures_what_was_asked_for(smoke, tmp_path):
    jobs = jobs_of(["ae"], tmp_path)
    assert [(j.kind, j.model) for j in jobs[:-1]] == [
        ("train", "smoke_vlm"), ("train", "smoke_stage1-s0"), ("train", "smoke_stage1-s1"),
        ("train", "smoke_ae-s0"), ("measure", "smoke_ae-s0"), ("train", "smoke_ae-s1"), ("measure", "smoke_ae-s1"),
    ]  # fmt: skip
    by_model = {j.model: j for j in jobs if j.kind == "train"}
    last = by_model["smoke_ae-s1"]
    assert last.after == (by_model["smoke_vlm"].name, by_model["smoke_stage1-s1"].name)
    assert set(last.settings) == {
        "name=smoke_ae-s1", "init.vlm=smoke_vlm", "init.weights=smoke_stage1-s1", "train.seed=1", "losses.noise=0.5",
    }  # fmt: skip
    assert by_model["smoke_vlm"].settings == ("name=smoke_vlm",)  # trained once, by its preset's own seed
    assert jobs[-1].kind == "report" and jobs[-1].after == tuple(j.name for j in jobs if j.kind == "measure")
    assert jobs[4].commands == ("eval training --subject vgt:runs/smoke_ae-s0/model",)


def test_a_changed_arm_is_trained_again_with_what_depends_on_it_alone(smoke, tmp_path):
    before = {j.model: j.name for j in jobs_of(["ae", "other"], tmp_path) if j.kind == "train"}
    smoke(SMOKE.replace('from = { vlm = "vlm" }', 'from = { vlm = "vlm" }\nset = { "losses.distill" = 0.5 }'))
    after = {j.model: j.name for j in jobs_of(["ae", "other"], tmp_path) if j.kind == "train"}
    changed = {model for model in before if before[model] != after[model]}
    assert changed == {"smoke_stage1-s0", "smoke_stage1-s1", "smoke_ae-s0", "smoke_ae-s1"}
    smoke(SMOKE.replace("vgt:{model}", "vgt:{model} --name x"))
    measured = {j.model: j.name for j in jobs_of(["ae", "other"], tmp_path) if j.kind == "train"}
    assert measured == before  # what is measured decides no training


def done(job: paper.Job, work, records=()) -> None:
    if job.kind == "train":
        (work / "runs" / job.model / "model").mkdir(parents=True, exist_ok=True)
    for name in records:
        files.write_text(work / "records" / paper.record.place_of(name), "{}")
    about = {"kind": job.kind, "model": job.model, "arm": job.arm, "seed": job.seed, "minutes": 2.0}
    about |= {"of": list(job.after)} if job.kind == "measure" else {}
    files.write_json(paper.stamp(work, job.name), {**about, "records": list(records)})


def test_what_is_done_is_not_left_and_a_deleted_record_is(smoke, tmp_path):
    jobs = jobs_of(["other"], tmp_path, [0])
    train, measure, report = jobs
    assert paper.to_do(jobs, tmp_path) == jobs
    done(train, tmp_path)
    assert paper.to_do(jobs, tmp_path) == [measure, report]
    done(measure, tmp_path, ["smoke_other-s0/training/loss"])
    assert paper.to_do(jobs, tmp_path) == [report]
    files.write_text(tmp_path / "model-is-gone", "")
    (tmp_path / "runs" / "smoke_other-s0" / "model").rmdir()
    assert paper.to_do(jobs, tmp_path) == [report]  # its numbers are there
    (tmp_path / "records" / "smoke_other-s0" / "training" / "loss.json").unlink()
    assert paper.to_do(jobs, tmp_path) == jobs


def test_published_results_are_adopted(smoke, tmp_path, monkeypatch):
    jobs, given = jobs_of(["other", "vlm"], tmp_path, [0]), jobs_of(["vlm"], tmp_path)[0]
    done(given, tmp_path / "a")
    files.write_text(tmp_path / "a/runs/smoke_vlm/model/config.json", "{}")
    done(jobs[3], tmp_path / "a", ["smoke_other-s0/training/loss"])
    files.write_text(tmp_path / "a/records/smoke_other-s0/training/loss.samples.csv", "id\n")
    monkeypatch.setattr(results, "RECORDS", tmp_path)
    one = results.pack(tmp_path / "a", {"smoke_vlm"}, results.published("smoke", "smoke")).read_bytes()
    assert results.pack(tmp_path / "a", {"smoke_vlm"}, tmp_path / "again.zip").read_bytes() == one
    results.unpack("smoke", tmp_path / "b", "smoke")
    assert paper.to_do(jobs, tmp_path / "b") == [jobs[1], jobs[-1]]  # the VLM is there, and not yet measured
    assert (tmp_path / "b/runs/smoke_vlm/model/config.json").read_text() == "{}"
    assert (tmp_path / "b/records/smoke_other-s0/training/loss.samples.csv").read_text() == "id\n"
    assert jobs_of(["other"], tmp_path / "c", [0])[0].minutes is None
    assert jobs_of(["other"], tmp_path / "c", [0])[1].minutes == 2.0  # as published, before anything was measured
    with pytest.raises(ValueError, match="no results of the scale 'huge' are published"):
        results.unpack("huge", tmp_path / "b")


def test_the_snakefile_has_a_rule_a_job(smoke, tmp_path):
    jobs = jobs_of(["ae"], tmp_path, [0])
    content = paper.snakefile(jobs, "cpu", 2)
    assert content.count("\nrule job") == len(jobs)
    train = next(part for part in content.split("\n\n") if f"jobs/{jobs[2].name}.json" in part.split("output")[-1])
    assert f'ancient("jobs/{jobs[1].name}.json")' in train and "--nproc-per-node=2" in train
    assert f"logs/{jobs[2].name}.log" in train


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tiny", "--scale", "micro"], "--scale has no effect on tiny; it is for `vgt reproduce paper`"),
        (["paper", "--seed", "0"], "--seed has no effect on paper; it is for `vgt reproduce tiny`"),
        (["paper", "--publish", "x.zip", "--only", "table8"], "--only has no effect on --publish"),
        (["paper", "--publish", "x.zip"], "holds no records to publish; run `vgt reproduce paper` first"),
        (["paper", "--smoke"], "--smoke has no effect on paper; it is for `vgt reproduce tiny`"),
        (["paper", "--scale", "huge"], "scale 'huge' is unknown; choose one of micro, tiny, full"),
        (["paper", "--paper", "other"], "paper 'other' is unknown; choose one of vgt, vfmtok"),
        (
            ["paper", "--paper", "vfmtok", "--only", "gpt_3b"],
            "none of gpt_3b has a preset at the scale micro (there is no preset ",
        ),
        (["paper", "--only", "table99"], "--only 'table99' is unknown; choose of "),
        (["paper", "--jobs", "0"], "--jobs 0 must be 1 or more"),
        (
            ["paper", "--executor", "moon"],
            "executor 'moon' is not installed; `pip install snakemake-executor-plugin-moon`",
        ),
        (["paper", "--plan", "--executor", "slurm"], "--executor has no effect on --plan"),
        (["paper", "--scale", "full", "--only", "ae_kl"], "none of ae_kl has a preset at the scale full"),
    ],
)
def test_bad_input_is_one_line(words, said, tmp_path):
    parser = argparse.ArgumentParser()
    reproduce.arguments(parser)
    with pytest.raises(ValueError) as error:
        reproduce.run(parser.parse_args([*words, "--out", str(tmp_path)]))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_what_runs_the_jobs_is_asked_for_first(tmp_path, monkeypatch):
    pytest.importorskip("snakemake", reason="snakemake is not installed (extra workflow)")
    with pytest.raises(ValueError, match="executor 'moon' is not installed; `pip install snakemake-executor-plugin-m"):
        paper.check_engine("moon")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"snakemake is not installed, which runs the jobs; `pip install 'vgt\[work"):
        paper.check_engine(None)


@pytest.mark.parametrize("seeds", ["", "1,1", "-1", "a"])
def test_seeds_that_are_none(seeds):
    with pytest.raises(argparse.ArgumentTypeError, match="not a list of different seeds"):
        reproduce.whole_numbers(seeds)


def test_every_arm_of_the_papers_has_a_preset_at_micro_scale(tmp_path):
    found = recipe.load("vgt")
    jobs = paper.graph("vgt", "micro", [0], [arm.id for arm in found.arms], tmp_path)
    assert {j.arm for j in jobs if j.kind == "train"} == {arm.id for arm in found.arms}


@pytest.mark.parametrize("scale", ["micro", "tiny", "full"])
@pytest.mark.parametrize("of", published.known())
def test_every_measurement_is_a_command_of_vgt(of, scale, tmp_path):
    arms = paper.possible(of, scale, [arm.id for arm in recipe.load(of).arms])
    jobs = paper.graph(of, scale, [0], arms, tmp_path)
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names) and all(set(job.after) <= set(names[:i]) for i, job in enumerate(jobs))
    lines = {line for job in jobs for line in job.commands}
    assert lines
    for line in lines:
        verb, *rest = line.split()
        main._parser(verb)[1].parse_args([*rest, "--out", "x"])


def test_a_scale_leaves_out_arms_and_says_which_presets_are_not_there(monkeypatch):
    there = {"micro_vlm_internvl", "micro_vqgan"}
    monkeypatch.setattr(paper, "preset_names", lambda: sorted(there))
    gone = paper.missing("vfmtok", "micro")
    assert gone["vfmtok"] == "micro_vfmtok" and gone["gpt_vqgan"] == "micro_code_gpt" and "vqgan" not in gone
    assert paper.possible("vfmtok", "micro", ["vqgan", "vfmtok", "gpt_vqgan"]) == ["vqgan"]
    assert paper._lacking("vfmtok", "micro", ["gpt_vfmtok"]) == " (there is no preset micro_vfmtok, micro_code_gpt)"
    there |= {"micro_vfmtok_256"}
    assert paper.missing("vfmtok", "micro")["vfmtok_256"] == "", "the scale is without it, whatever presets there are"
    assert paper._lacking("vfmtok", "micro", ["vfmtok_256"]) == ""


def test_results_of_papers_are_files_of_their_own(tmp_path):
    assert results.published("micro").name == "micro.zip"
    assert results.published("micro", "vfmtok").name == "vfmtok-micro.zip" and results.stamps("none", "vfmtok") == []


def test_snapshots_are_measured_at_their_steps(tmp_path):
    jobs = paper.graph("vgt", "micro", [0], ["query_ar_pixel"], tmp_path)
    curve = [line for job in jobs for line in job.commands if "snapshots" in line]
    steps = training.read("micro_query_ar_internvl", []).train.snapshots
    assert len(curve) == len(steps) > 1
    assert f"snapshots/{steps[0]} --name micro_query_ar_pixel-s0-step{steps[0]} " in curve[0]


def test_arms_that_start_from_later_ones_are_refused():
    values = {
        "scales": {},
        "measurements": {},
        "arms": [{"id": "a", "kind": "vlm", "label": "", "preset": "x", "from": {"vlm": "b"}}],
    }
    with pytest.raises(ValueError, match="arm a starts from b, which is no arm above it"):
        recipe.Recipe.model_validate(values)


def test_records_of_an_earlier_training_go_before_the_model_is_measured_again(smoke, tmp_path):
    jobs, names = (
        jobs_of(["other"], tmp_path, [0]),
        ["smoke_other-s0/training/loss", "oracle+smoke_other-s0/suite/overall"],
    )
    done(jobs[1], tmp_path, names)
    files.write_text(tmp_path / "records/smoke_other-s0/training/loss.samples.csv", "id\n")
    paper._forget(jobs[1], tmp_path)
    assert jobs[1].done(tmp_path)  # they are of this training
    smoke(SMOKE.replace('preset = "pixel_ae"', 'preset = "pixel_ae"\nset = { "train.lr" = 0.01 }'))
    other = jobs_of(["other"], tmp_path, [0])[1]
    paper._forget(other, tmp_path)
    assert not jobs[1].done(tmp_path) and not list((tmp_path / "records").rglob("*.*"))


@pytest.mark.slow
def test_snakemake_runs_the_graph_goes_on_and_tells_what_failed(smoke, tmp_path, capsys):
    pytest.importorskip("snakemake", reason="snakemake is not installed (extra workflow)")
    smoke(SMOKE.replace('{ "losses.noise" = 0.5 }', '{ "train.steps" = 1, "losses.noise" = 0.5 }'))
    work = tmp_path / "work"
    jobs = [j for j in jobs_of(["vlm", "other"], work, [0]) if j.kind != "report"]
    broken = jobs[-1].commands[0] + " --no-such-option"
    jobs[-1] = paper.dataclasses.replace(jobs[-1], commands=(broken,))
    last = paper.Job("measure", "last", after=tuple(j.name for j in jobs))
    missing = paper.execute([*jobs, last], work, "cpu", 1, 2, None)
    assert missing == 2
    told = paper.failures([*jobs, last], work)
    assert told[0].startswith(f"failed: {jobs[-1].name}; see ") and told[1] == "1 more wait for them"
    assert "--no-such-option" in (work / "logs" / f"{jobs[-1].name}.log").read_text()
    stamp = text.read_json(paper.stamp(work, jobs[0].name))
    assert stamp["kind"] == "train" and stamp["model"] == "smoke_vlm"
    records = json.loads((work / "records/smoke_vlm/training/loss.json").read_text())
    assert records["subject"] == "smoke_vlm"
    jobs[-1] = paper.dataclasses.replace(jobs[-1], commands=(broken.removesuffix(" --no-such-option"),))
    assert paper.execute([*paper.to_do([*jobs, last], work)], work, "cpu", 1, 2, None) == 0


def test_published_results_are_of_todays_recipe(tmp_path):
    """A setting that came later must not make what was published stale (``Config.later``)."""
    arms = [arm.id for arm in recipe.load("vgt").arms]
    names = {job.name for job in paper.graph("vgt", "micro", [0, 1, 2], arms, tmp_path)}
    results.unpack("micro", tmp_path)
    told = {path.stem for path in (tmp_path / results.STAMPS).glob("*.json")}
    assert told and told <= names, sorted(told - names)
