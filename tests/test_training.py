"""The training loop: a whole chain of tiny runs, killed and resumed to the same bits, with readable refusals.

The chain is vlm -> autoencoder stage 1 (with discriminator and teacher) -> stage 2 -> QueryAR and MAR, each a few
steps."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import IMAGE, vlm_values
from safetensors.torch import load_file

from vgt.core import config, env
from vgt.inference.load import load
from vgt.training import log, loop, run

DECODER = "widths = [8, 16, 16, 16]\nlayers = [0, 1, 1, 1]\nattention = 0\nupsample = 'pixel_shuffle'"


def toml(value) -> str:
    """A TOML value of nested dictionaries (inline)."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(value)


def write_presets(folder: Path) -> None:
    settings = "batch = 2\nlr = 1e-3\nwarmup = 2\nsave_every = 2\nlog_every = 1"
    (folder / "vlm.toml").write_text(f"""
system = "vlm"
name = "vlm"
[model]
image_size = {IMAGE}
hf = {toml(vlm_values("internvl"))}
[data]
turns = 2
[train]
steps = 4
ema = 0.9
{settings}
""")
    (folder / "stage1.toml").write_text(f"""
system = "vgt_ae"
name = "stage1"
[init]
vlm = "vlm"
[model]
d_z = 8
[model.decoder]
{DECODER}
[losses]
perceptual = 0.0
distill = 0.1
adversarial = 0.01
adversarial_start = 2
[losses.discriminator]
widths = [8, 16]
grid = 4
[train]
steps = 6
ema = 0.9
{settings}
""")
    (folder / "stage2.toml").write_text(f"""
system = "vgt_ae"
name = "stage2"
[init]
vlm = "vlm"
weights = "stage1"
[losses]
perceptual = 0.0
distill = 0.0
adversarial = 0.0
noise = 0.1
freeze_encoder = true
[train]
steps = 4
storage = "fp16"
sample_every = 4
{settings}
""")
    for method in ("query_ar", "mar"):
        (folder / f"{method}.toml").write_text(f"""
system = "{method}"
name = "{method}"
repeats = 2
[init]
vlm = "vlm"
autoencoder = "stage2"
[model]
query_grid = 8
[model.head]
width = 16
depth = 1
[data]
scenes = 16
[train]
steps = 4
ema = 0.9
optimizer = "{"muon" if method == "query_ar" else "adamw"}"
{settings}
""")


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> Path:
    """Preset files and ``runs`` with the whole chain trained, uninterrupted."""
    folder = tmp_path_factory.mktemp("chain")
    write_presets(folder)
    for name in ("vlm", "stage1", "stage2", "query_ar", "mar"):
        run.run(str(folder / f"{name}.toml"), [], None, folder / "runs")
    return folder


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model/model.safetensors").read_bytes()).hexdigest()


def again(chain: Path, name: str, out: Path, settings=(), **rest) -> run.Trained:
    """Train ``name`` of the chain once more, into another folder, from the chain's own parents."""
    return run.run(str(chain / f"{name}.toml"), list(settings), out, chain / "runs", **rest)


# ------------------------------------------------------------------------------------------------ chain


def test_the_chain_leaves_loadable_checkpoints(chain):
    runs = chain / "runs"
    made = {name: load(name, runs) for name in ("vlm", "stage1", "stage2", "query_ar", "mar")}
    assert {name: m.system for name, m in made.items()} == {
        "vlm": "vlm", "stage1": "vgt_ae", "stage2": "vgt_ae", "query_ar": "query_ar", "mar": "mar",
    }  # fmt: skip
    for name in ("query_ar", "mar"):
        model = made[name].model.config
        assert model.autoencoder == made["stage2"].fingerprint and model.autoencoder_name == "stage2"
        assert model.latent_grid == (4, 4) and model.d_z == 8 and model.method == name
        assert len(model.latent_mean) == len(model.latent_std) == 8 and min(model.latent_std) > 0
    names = [{n: p.shape for n, p in made[k].model.named_parameters()} for k in ("query_ar", "mar")]
    assert names[0] == names[1]


def test_what_a_run_leaves_behind(chain):
    out = chain / "runs/stage2"
    assert sorted(p.name for p in out.iterdir()) == [
        "metrics.jsonl", "model", "samples", "state-00000004", "tensorboard",
    ]  # fmt: skip
    rows = log.read_metrics(out)
    assert [row["step"] for row in rows] == [1, 2, 3, 4] and [row["samples"] for row in rows] == [2, 4, 6, 8]
    assert all(math.isfinite(row["loss"]) for row in rows)
    card = (out / "model/README.md").read_text()
    assert "# stage2" in card and "samples seen 8" in card and f"{rows[-1]['loss']:.4f}" in card
    assert not {p.name for p in (out / "model").iterdir()} & {"optimizer.pt", "training.safetensors"}
    assert (out / "samples/00000004.png").stat().st_size > 100


def test_stage_two_starts_from_stage_one_and_leaves_the_encoder(chain):
    first, second = (load(name, chain / "runs").model.state_dict() for name in ("stage1", "stage2"))
    for key, value in second.items():
        if key.startswith("encoder."):
            assert torch.equal(value, first[key].half().float()), key
    assert any(not torch.equal(v, first[k].half().float()) for k, v in second.items() if k.startswith("decoder."))
    parent = load("vlm", chain / "runs").model.encoder.state_dict()
    assert any(not torch.equal(first[f"encoder.{k}"], v) for k, v in parent.items())  # stage 1 does train it


def test_generators_start_from_the_vlms_language_model(chain, tmp_path):
    again(chain, "query_ar", tmp_path / "q", ["train.lr=1e-30", "train.steps=1", "train.ema=0.0"])
    parent = load("vlm", chain / "runs").model.language.state_dict()
    found = load(tmp_path / "q").model.language_model.state_dict()
    assert found.keys() == parent.keys() and all(torch.equal(found[k], v) for k, v in parent.items())


def test_the_same_settings_give_the_same_bits(chain, tmp_path):
    state = torch.random.get_rng_state()
    again(chain, "mar", tmp_path / "m")
    assert weights(tmp_path / "m") == weights(chain / "runs/mar")
    assert torch.equal(torch.random.get_rng_state(), state)
    again(chain, "mar", tmp_path / "n", ["train.seed=43"])
    assert weights(tmp_path / "n") != weights(chain / "runs/mar")


# ------------------------------------------------------------------------------------------ interruptions


def interrupted(monkeypatch, at: int, *what) -> None:
    """``again(*what)``, stopped within step ``at``."""
    turn = loop._turn

    def stop(*args):
        if args[-1] == at:
            raise KeyboardInterrupt
        return turn(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_turn", stop)
        with pytest.raises(KeyboardInterrupt):
            again(*what)


@pytest.mark.parametrize("name", ["vlm", "stage1", "query_ar", "mar"])
@pytest.mark.parametrize("at", [1, 3])
def test_an_interrupted_run_ends_with_the_same_bits(chain, tmp_path, monkeypatch, name, at):
    """Stopped within step ``at`` (before anything was stored, and after), with EMA and, in stage 1, discriminator."""
    out = tmp_path / name
    interrupted(monkeypatch, at, chain, name, out)
    assert not (out / "model").exists() and (out / "state-00000002").exists() == (at == 3)
    done = again(chain, name, out)
    assert done.result.trained == done.result.step - (2 if at == 3 else 0)
    assert weights(out) == weights(chain / f"runs/{name}")
    assert [row["step"] for row in log.read_metrics(out)] == list(range(1, done.result.step + 1))
    rows = [log.read_metrics(folder) for folder in (out, chain / f"runs/{name}")]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]


def test_interrupted_bf16_run_ends_with_the_same_bits(chain, tmp_path, monkeypatch):
    """Mixed precision, after fp32 runs in the same process."""
    again(chain, "query_ar", tmp_path / "whole", ["train.precision=bf16"])
    store = loop._store

    def stop(*args):
        store(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_store", stop)
        with pytest.raises(KeyboardInterrupt):
            again(chain, "query_ar", tmp_path / "part", ["train.precision=bf16"])
    again(chain, "query_ar", tmp_path / "part", ["train.precision=bf16"])
    assert weights(tmp_path / "part") == weights(tmp_path / "whole") != weights(chain / "runs/query_ar")


@pytest.mark.parametrize(("native", "precision", "told"), [(False, "bf16", 1), (False, "fp32", 0), (True, "bf16", 0)])
def test_bf16_without_instructions_for_it_is_told_once(chain, tmp_path, monkeypatch, capsys, native, precision, told):
    """Before the first step, and that is all: the arithmetic stays what was asked for."""
    monkeypatch.setattr(env, "cpu_multiplies_bf16", lambda: native)
    seen: list[str] = []
    real = run.train

    def train(*args, **rest):
        seen.append(capsys.readouterr().err)
        return real(*args, **rest)

    monkeypatch.setattr(run, "train", train)
    again(chain, "vlm", tmp_path / "v", [f"train.precision={precision}"])
    assert seen[0].count("--set train.precision=fp32") == told and ("train.precision is bf16" in seen[0]) == bool(told)
    assert "train.precision" not in capsys.readouterr().err
    assert (weights(tmp_path / "v") == weights(chain / "runs/vlm")) == (precision == "fp32")


def test_a_kill_between_the_last_state_and_the_model(chain, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(run.checkpoint, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            again(chain, "vlm", tmp_path / "v")
    assert (tmp_path / "v/state-00000004").exists() and not (tmp_path / "v/model").exists()
    done = again(chain, "vlm", tmp_path / "v")
    assert done.result.trained == 0 and weights(tmp_path / "v") == weights(chain / "runs/vlm")


def test_a_run_is_published_before_its_end(chain, tmp_path, monkeypatch):
    """The averaged weights of the last state, with what the card says of them; the run can still go on."""
    out = tmp_path / "q"
    with pytest.raises(ValueError, match="q has no stored state to publish; one is written every 2 steps"):
        again(chain, "query_ar", out, publish=True)
    interrupted(monkeypatch, 3, chain, "query_ar", out)
    with pytest.raises(ValueError, match="leave one out"):
        again(chain, "query_ar", out, publish=True, fresh=True)
    done = again(chain, "query_ar", out, publish=True)
    assert (done.result.step, done.result.trained) == (2, 0)
    stored = load_file(next((out / "state-00000002").glob("*.safetensors")))
    made = load(out).model.state_dict()
    averaged = {k.removeprefix("average/"): v for k, v in stored.items() if k.startswith("average/")}
    assert averaged and all(torch.equal(made[k], v) for k, v in averaged.items())
    assert "* steps 2 of 4 planned, batch 2, samples seen 4\n" in (out / "model/README.md").read_text()
    assert again(chain, "query_ar", out).result.trained == 2
    assert weights(out) == weights(chain / "runs/query_ar")
    assert "* steps 4, batch 2, samples seen 8\n" in (out / "model/README.md").read_text()
    end = load(out).fingerprint
    assert end == again(chain, "query_ar", out, publish=True).fingerprint == load(chain / "runs/query_ar").fingerprint


def test_a_further_round_continues_the_log(chain, tmp_path):
    """From weights of the same name; a start from another model, as in stage 2, is a log of its own."""
    first = chain / "runs/query_ar/model"
    out = tmp_path / "q"
    again(chain, "query_ar", out, [f"init.weights={first}", "train.steps=2"])
    rows, before = log.read(out / "model"), log.read(first)
    assert rows[:4] == before and [(r["step"], r["samples"]) for r in rows[4:]] == [(5, 10), (6, 12)]
    assert [r["steps"] for r in log.rounds(rows)] == [4, 2]
    card = (out / "model/README.md").read_text()
    assert "* steps 2, batch 2, samples seen 4 (12 in 2 rounds)\n" in card
    assert "| 1 | 4 x 2 | 8 | " in card and "## Rounds before this one" in card
    assert [row["step"] for row in log.read_metrics(out)] == [1, 2]
    again(chain, "query_ar", tmp_path / "arm", [f"init.weights={first}", "train.steps=1", "name=arm"])
    assert [r["samples"] for r in log.read(tmp_path / "arm/model")] == [2, 4, 6, 8, 10]  # it has learnt from them
    assert log.read(chain / "runs/stage2/model")[0]["step"] == 1  # an autoencoder's second stage is no such round


def test_a_run_without_a_terminal_says_where_it_is(chain, tmp_path, capsys):
    again(chain, "query_ar", tmp_path / "q", ["train.steps=2"])
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("q: ")]
    assert told == ["q: from step 0 to 2"]  # then at most a line a minute


def test_a_log_is_thinned_and_keeps_its_end():
    rows = [{"step": k, "samples": 2 * k, "loss": 1 / k} for k in range(1, 1001)]
    first = log.joined([], rows, {"minutes": 3.0, "command": "c", "batch": 2})
    assert log.POINTS / 2 <= len(first) <= log.POINTS + 1 and first[0] == rows[0]
    assert first[-1] == {**rows[-1], "minutes": 3.0, "command": "c", "batch": 2}
    both = log.joined(first, rows[:10], {"minutes": 1.0})
    assert both[: len(first)] == first and both[-1]["step"] == 1010 and both[-1]["samples"] == 2020
    assert log.rounds(both) == [
        {"steps": 1000, "samples": 2000, "minutes": 3.0, "command": "c", "batch": 2},
        {"steps": 10, "samples": 20, "minutes": 1.0},
    ]
    assert rows[-1] == {"step": 1000, "samples": 2000, "loss": 0.001}  # not changed by the way
    many = log.joined(both * 4, [], {})
    assert len(many) < 2 * log.POINTS + 8 and sum("minutes" in row for row in many) == 8  # the ends of rounds stay
    assert log.lines([{"step": 3, "loss": 0.123456789}]) == '{"step": 3, "loss": 0.12346}\n'


def test_a_finished_run_is_left_alone(chain):
    folder = chain / "runs/mar"
    before = {p: p.stat().st_mtime_ns for p in (folder / "model").iterdir()}
    done = again(chain, "mar", folder)
    assert done.result.trained == 0 and done.result.loss == log.read_metrics(folder)[-1]["loss"]
    assert {p: p.stat().st_mtime_ns for p in (folder / "model").iterdir()} == before
    assert done.fingerprint == load(folder).fingerprint


def test_killed_by_the_system_and_resumed(chain, tmp_path):
    """SIGKILL at an arbitrary moment of a process of its own; the next process ends with the same weights."""
    code = f"""
import sys, time
from pathlib import Path
from vgt.training import loop, run
turn = loop._turn
def slow(*args):
    time.sleep(0.05)
    return turn(*args)
loop._turn = slow
preset, out, runs = {[str(chain / "stage1.toml"), str(tmp_path / "killed"), str(chain / "runs")]!r}
run.run(preset, ["train.steps=24"], Path(out), Path(runs))
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not list((tmp_path / "killed").glob("state-*")) and time.time() < deadline and process.poll() is None:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    stored = [int(p.name[-8:]) for p in (tmp_path / "killed").glob("state-????????")]
    assert stored and max(stored) < 24 and not (tmp_path / "killed/model").exists()
    resumed = again(chain, "stage1", tmp_path / "killed", ["train.steps=24"])
    assert resumed.result.trained == 24 - max(stored)
    again(chain, "stage1", tmp_path / "whole", ["train.steps=24"])
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


# --------------------------------------------------------------------------------------------- refusals


def test_changed_settings_need_fresh(chain, tmp_path):
    out = tmp_path / "v"
    again(chain, "vlm", out)
    with pytest.raises(
        ValueError, match=r"other settings \(data.turns, train.lr\); add --fresh or choose another --out"
    ):
        again(chain, "vlm", out, ["train.lr=0.002", "data.turns=3"])
    (out / "notes.txt").write_text("mine")
    done = again(chain, "vlm", out, ["train.lr=0.002"], fresh=True)
    assert done.result.trained == 4 and weights(out) != weights(chain / "runs/vlm")
    assert (out / "notes.txt").read_text() == "mine"  # --fresh removes the run, not what else lies there
    assert len(log.read_metrics(out)) == 4


def test_a_setting_that_is_gone_matters_where_it_was_used(chain, tmp_path):
    """States of an earlier version, which knew the setting."""
    out = tmp_path / "v"
    again(chain, "vlm", out)
    stored = next(out.glob("state-*")) / "state.json"
    for value in ([], [[8, 1.0]]):
        state = {key: json.loads(stored.read_text())[key] for key in ("step", "seconds", "identity")}
        state["identity"]["preset"]["prefixes"] = value
        stored.write_text(json.dumps(state))
        if not value:
            assert again(chain, "vlm", out).result.trained == 0
    with pytest.raises(ValueError, match=r"other settings \(prefixes\)"):
        again(chain, "vlm", out)


def test_changed_parents_need_fresh(chain, tmp_path):
    again(chain, "stage2", tmp_path / "s")
    again(chain, "stage1", tmp_path / "other", ["train.seed=1"])
    with pytest.raises(ValueError, match="parents.weights"):
        again(chain, "stage2", tmp_path / "s", [f"init.weights={tmp_path / 'other'}"])


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("vlm", ["train.setps=3"], "train.setps: Extra inputs"),
        ("vlm", ["train.lr=fast"], "train.lr: .*fast"),
        ("vlm", ["model.hf.model_type=llava"], "llava"),
        ("stage1", ["losses.distil=1"], "distil: Extra inputs"),
        ("stage1", ["init.vlm=stage2"], "vgt_ae checkpoint; give a vlm one"),
        ("stage1", ["init.vlm=nobody"], "no checkpoint 'nobody'"),
        ("query_ar", ["init.autoencoder=vlm"], "vlm checkpoint; give a vgt_ae one"),
        ("query_ar", ["init.autoencoder=null"], "needs init.autoencoder and init.vlm"),
        ("query_ar", ["model.query_grid=2"], "4 x 4 does not fit the query grid of side 2"),
        ("stage2", ["model.d_z=4"], "do not fit its configuration"),
        ("stage2", ["losses.distill=1", "init.vlm=null"], "no teacher; set init.vlm"),
    ],
)
def test_mistakes_are_named(chain, tmp_path, name, settings, message):
    with pytest.raises(ValueError, match=message):
        again(chain, name, tmp_path / "out", settings)
    assert not (tmp_path / "out/model").exists()


def test_every_command_line_setting_reaches_the_preset():
    values = config.override(config.read_preset("pixel_ae"), ["train.steps=3", "model.d_z=8"])
    preset = config.validated(run.Preset, values, "pixel_ae")
    assert preset.train.steps == 3 and preset.model["d_z"] == 8


def test_a_decoder_starts_from_an_autoencoder_of_ours(tmp_path):
    """With a learning rate that moves nothing, the decoder is that of the run it names and the encoder is not."""
    settings = ["train.steps=1", "train.storage=fp32", "train.lr=1e-12", "train.ema=0", "train.weight_decay=0"]

    def trained(name, seed, *more):
        run.run("smoke_pixel_ae", [*settings, f"name={name}", f"train.seed={seed}", *more], None, tmp_path)
        return load_file(tmp_path / name / "model" / "model.safetensors")

    first, second = trained("first", 1), trained("second", 2, "init.decoder=first")
    decoder = [key for key in first if key.startswith("decoder.") and first[key].is_floating_point()]
    assert decoder
    for key in decoder:
        torch.testing.assert_close(second[key], first[key], atol=1e-6, rtol=0)
    assert any((first[key] - second[key]).abs().max() > 0.01 for key in first if key.startswith("encoder."))
