"""Training on two processes (gloo) ends where one process ends: copies, split models, states that either resumes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import two_processes
from safetensors.torch import load_file
from test_training import write_presets

from vgt.training import distributed
from vgt.training.log import read_metrics

HERE = Path(__file__).parent
LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    "accelerate": ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
                   "--mixed_precision", "no", "--dynamo_backend", "no"],
}  # fmt: skip


def launch(arguments: list[str], cwd: Path, launcher: str = "torchrun") -> str:
    """Run python with ``arguments`` in two processes; returns what they wrote to stderr."""
    paths = os.pathsep.join([str(HERE.parent), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *LAUNCHERS[launcher], *arguments]
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr


def alone(out: Path, job: str) -> Path:
    """Train a job in this process, or as far as it goes."""
    try:
        two_processes.train(out, job)
    except two_processes.Stop:
        assert (out / "state-00000002").exists()
    return out


def same(one: Path, two: Path) -> None:
    """Logged values and weights are equal but for rounding.  The biases of a tower's keys are left out: the loss does
    not depend on them, their gradient is noise, and Adam makes a whole step of it."""
    rows, others = read_metrics(one), read_metrics(two)
    assert [row["step"] for row in rows] == [row["step"] for row in others] == [1, 2, 3]
    for row, other in zip(rows, others, strict=True):
        del row["steps_per_second"], other["steps_per_second"]
        assert other == pytest.approx(row, rel=1e-4, abs=1e-6)
    first, second = (load_file(folder / "model/weights.safetensors") for folder in (one, two))
    assert first.keys() == second.keys()
    for key, value in first.items():
        if not ("tower" in key and key.endswith("k_proj.bias")):
            assert torch.allclose(value, second[key], rtol=1e-3, atol=1e-4), key


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    """What two processes trained; ``split`` began in one process and went on in two."""
    folder = tmp_path_factory.mktemp("pair")
    alone(folder / "split", "stopped")
    jobs = ["discriminator=autoencoder", "split=generator strategy=fsdp", "broken=broken"]
    launch([str(HERE / "two_processes.py"), str(folder), *jobs], folder)
    return folder


def test_copies_of_an_autoencoder_and_its_discriminator(pair, tmp_path):
    """Four micro-batches in one process or two and two; running statistics are means over all four."""
    same(alone(tmp_path / "one", "autoencoder"), pair / "discriminator")
    stored = load_file(sorted((pair / "discriminator/state-00000003").glob("training-*"))[0])
    assert len(list((pair / "discriminator/state-00000003").glob("training-*"))) > 2 and stored


def test_a_run_goes_on_split_over_two_processes(pair, tmp_path):
    """A state of one process, resumed by two that share every parameter between them."""
    same(alone(tmp_path / "one", "generator"), pair / "split")


def test_one_process_with_a_bad_loss_stops_all(pair):
    said = {(pair / f"broken.error-{rank}").read_text() for rank in (0, 1)}
    assert said == {"loss of model is nan at step 1; lower train.lr and start over with --fresh"}
    assert not list((pair / "broken").glob("state-*"))


@pytest.fixture(scope="module")
def more(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("more")
    jobs = [
        "copies=generator precision=bf16 activation_checkpointing=true",
        "exact=generator micro=4 optimizer=muon",
        "discriminator=autoencoder strategy=fsdp",
        "frozen=frozen strategy=fsdp",
        "ties=understanding strategy=fsdp activation_checkpointing=true ema=0",
        "half=stopped strategy=fsdp precision=bf16",
        "crowded=crowded strategy=fsdp",
        "muon=generator strategy=fsdp optimizer=muon",
        "uneven=generator batch=6",
    ]
    launch([str(HERE / "two_processes.py"), str(folder), *jobs], folder)
    return folder


@pytest.mark.slow
def test_copies_in_bf16_with_activations_computed_again(more, tmp_path):
    same(alone(tmp_path / "one", "generator precision=bf16"), more / "copies")


@pytest.mark.slow
def test_one_micro_batch_each_gives_the_same_bits(more, tmp_path):
    """The mean of two gradients does not depend on who adds them; Muon on whole matrices."""
    one = alone(tmp_path / "one", "generator micro=4 optimizer=muon")
    first, second = (load_file(folder / "model/weights.safetensors") for folder in (one, more / "exact"))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "job"), [("discriminator", "autoencoder"), ("frozen", "frozen")])
def test_a_split_autoencoder_with_a_whole_discriminator(more, tmp_path, name, job):
    """The encoder trains with it, or is frozen."""
    same(alone(tmp_path / "one", job), more / name)


@pytest.mark.slow
def test_a_split_model_keeps_its_ties(more, tmp_path):
    same(alone(tmp_path / "one", "understanding ema=0"), more / "ties")
    weights = load_file(more / "ties/model/weights.safetensors")
    assert torch.equal(weights["hf.lm_head.weight"], weights["hf.model.language_model.embed_tokens.weight"])


@pytest.mark.slow
def test_one_process_goes_on_from_two(more, tmp_path):
    assert len(list((more / "half/state-00000002").glob("training-*"))) > 2
    same(alone(tmp_path / "one", "generator precision=bf16"), alone(more / "half", "generator precision=bf16"))


@pytest.mark.slow
def test_one_process_without_room_stops_all(more):
    said = [(more / f"crowded.error-{rank}").read_text() for rank in (0, 1)]
    assert said[0] == said[1]
    assert "the state of step 2 could not be written (No space left on device); make room" in said[0]
    assert not [path for path in (more / "crowded").iterdir() if "state" in path.name]


@pytest.mark.slow
def test_what_cannot_be_dealt_is_refused(more):
    assert "muon needs whole matrices" in (more / "muon.error-1").read_text()
    assert "train.batch 6 cannot be split over 2 process(es)" in (more / "uneven.error-0").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_command_under_a_launcher(tmp_path, launcher):
    """``vgt train`` as people start it: the same weights as from one process; one log, one model, one line of JSON."""
    write_presets(tmp_path)
    preset = str(tmp_path / "vlm.toml")
    settings = ["--set", "train.micro=1", "--out"]
    launch(["-m", "vgt", "train", preset, *settings, str(tmp_path / "two")], tmp_path, launcher)
    env = {**os.environ, "PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "vgt", "train", preset, *settings, str(tmp_path / "one")]
    subprocess.run(command, env=env, cwd=tmp_path, check=True, capture_output=True)
    first, second = ((tmp_path / name / "model/model.safetensors").read_bytes() for name in ("one", "two"))
    assert first == second
    assert [row["step"] for row in read_metrics(tmp_path / "two")] == [1, 2, 3, 4]


# ------------------------------------------------------------------------------------------------ one process


def test_processes_without_a_launcher(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="WORLD_SIZE is 2 but RANK, LOCAL_RANK, MASTER_ADDR.* start it with"):
        distributed.team()


def test_a_team_of_one():
    team = distributed.team("cpu")
    assert (team.rank, team.size, team.first) == (0, 1, True) and team.gather("x") == ["x"]
    assert torch.equal(team.mean(torch.ones(2)), torch.ones(2))
    with team.first_alone():
        pass


def test_buffers_move_by_the_mean_of_the_micro_batches():
    norm = torch.nn.BatchNorm1d(1, momentum=0.5)
    module = distributed.TrainableModule(torch.nn.ModuleDict({"norm": norm}))
    buffers = distributed.BufferSync(module)
    for value in (2.0, 4.0, 9.0):
        module(lambda value=value: norm(torch.tensor([[value - 1], [value + 1]])))
        buffers.rewind()
        assert norm.running_mean.item() == 0  # each micro-batch sees what the step began with
    buffers.finish(distributed.team(), 3)
    assert norm.running_mean.item() == pytest.approx(0.5 * (2 + 4 + 9) / 3)
