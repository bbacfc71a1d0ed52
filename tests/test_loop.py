"""The training loop and its optimisation on a toy system: what is averaged, split, stored, logged and refused."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import torch
import two_processes
from safetensors.torch import load_file, save_file
from torch import nn

from vgt.core import seeds
from vgt.training import log, loop, models, state
from vgt.training.optim import Average, Muon, TrainConfig, learning_rate, micro_rows, optimizers


class Toy:
    """Fits a line; from ``bad`` on its loss is not a number."""

    def __init__(self, bad: int | None = None):
        self.bad, self.seeds = bad, []
        self.line = nn.Linear(1, 1)
        nn.init.zeros_(self.line.weight), nn.init.zeros_(self.line.bias)

    def trainable_modules(self):
        return {"model": self.line}

    def lr_scale(self, name):
        return 1.0

    def loss(self, name, batch, step, rng):
        self.seeds.append((step, rng.initial_seed()))
        loss = (self.line(batch["x"]) - 3 * batch["x"] - 1).square().mean()
        loss = loss * (float("nan") if self.bad is not None and step >= self.bad else 1)
        return loss, {"loss": loss.detach()}


def toy_batch(step: int) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(8, 1, generator=torch.Generator().manual_seed(step))}


def toy_train(out, bad=None, data=toy_batch, toy=None, identity=None, upgrade=None, **settings):
    made = {}
    train = TrainConfig(**{"steps": 60, "batch": 8, "lr": 0.2, "warmup": 5, "weight_decay": 0.0, **settings})
    result = loop.train(
        toy or Toy(bad),
        data,
        train,
        out,
        identity or {"a": 1},
        lambda weights, _: made.update(weights),
        upgrade=upgrade,
    )
    return result, made


def test_the_loop_learns(tmp_path):
    result, state = toy_train(tmp_path / "t")
    assert result.step == result.trained == 60 and result.loss < 1e-2
    assert state["weight"].item() == pytest.approx(3, abs=0.1) and state["bias"].item() == pytest.approx(1, abs=0.1)


def test_what_a_kill_left_half_written_goes(tmp_path):
    for name in (".state-00000003.1a2b3c4d", ".model.1a2b3c4d"):
        (tmp_path / "t" / name).mkdir(parents=True)
    toy_train(tmp_path / "t", steps=2)
    assert sorted(p.name for p in (tmp_path / "t").iterdir()) == ["metrics.jsonl", "state-00000002", "tensorboard"]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(ValueError, match="loss of model is nan at step 7; lower train.lr and start over with --fresh"):
        toy_train(tmp_path / "t", bad=7, save_every=5)
    assert (tmp_path / "t/state-00000005").exists()
    assert [p.name for p in (tmp_path / "t").glob("state-*")] == ["state-00000005"] and not (
        tmp_path / "t/model"
    ).exists()
    assert all(math.isfinite(row["loss"]) for row in log.read_metrics(tmp_path / "t"))


def test_the_device_is_not_waited_for_at_every_step(tmp_path, monkeypatch):
    """How often the loop reads a number from a tensor: where it logs or saves, and every 16 steps."""
    looks = []
    for name in ("__bool__", "__float__", "__int__", "item", "tolist"):
        real = getattr(torch.Tensor, name)

        def look(tensor, real=real):
            looks.extend([None] if sys._getframe(1).f_globals["__name__"] == loop.__name__ else [])
            return real(tensor)

        monkeypatch.setattr(torch.Tensor, name, look)
    toy_train(tmp_path / "t", log_every=30)
    assert len(looks) == 3 + 2 * 2  # 16, 32, 48; at 30 and 60 the loss and what is logged


def test_average_is_the_documented_recurrence():
    """decay = min(ema, (1 + k) / (10 + k)), kept in fp32 whatever the weights are."""
    module = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    with torch.no_grad():
        module.weight.fill_(0)
    average, expected = Average(module, 0.5), 0.0
    for step in range(20):
        with torch.no_grad():
            module.weight.fill_(float(step + 1))
        average.update(module, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step + 1)
    assert average.shadow["weight"].dtype == torch.float32
    assert average.shadow["weight"].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("start", "expected"), [(0, 0.5**4 * 0 + 0.5 * 4 + 0.25 * 3 + 0.125 * 2 + 0.0625), (2, 3.25)])
def test_an_average_without_a_ramp_has_one_decay(start, expected):
    """From ``start`` on; until then it is the weights."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    average = Average(module, 0.5, ramp=False, start=start)
    for step in range(4):
        nn.init.constant_(module.weight, step + 1)
        average.update(module, step)
    assert average.shadow["weight"].item() == expected


def test_the_saved_weights_are_the_averaged_ones(tmp_path):
    _, plain = toy_train(tmp_path / "a", steps=6)
    _, averaged = toy_train(tmp_path / "b", steps=6, ema=0.9)
    assert 0 < averaged["weight"].item() < plain["weight"].item()  # the average lags behind


def test_average_keeps_ties_and_buffers():
    module = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False), "n": nn.BatchNorm1d(2)})
    module["b"].weight = module["a"].weight
    average = Average(module, 0.9)
    with torch.no_grad():
        module["a"].weight.add_(1)
    average.update(module, 100)
    state = average.state(module)
    assert state.keys() == module.state_dict().keys()
    assert state["a.weight"] is state["b.weight"] and not torch.equal(state["a.weight"], module["a"].weight)
    assert torch.equal(state["n.running_var"], module["n"].running_var)


def test_learning_rate_schedule():
    train = TrainConfig(steps=1100, batch=1, lr=2e-3, warmup=100, final_lr=0.05)
    rates = [learning_rate(train, step) for step in range(1101)]
    assert rates[0] == pytest.approx(2e-5) and rates[49] == pytest.approx(1e-3) and rates[99] == pytest.approx(2e-3)
    assert rates[100] == pytest.approx(2e-3) and rates[600] == pytest.approx(2e-3 * 0.525)
    assert rates[1100] == pytest.approx(1e-4) and max(rates) == pytest.approx(2e-3)
    assert all(a <= b for a, b in zip(rates[:99], rates[1:100], strict=True))
    assert all(a >= b for a, b in zip(rates[100:-1], rates[101:], strict=True))


def test_parameter_groups():
    """Decay on matrices only, the scale of the system on the learning rate (docs/vgt.md 1.11)."""
    module = nn.ModuleDict({"slow": nn.Linear(2, 3), "fast": nn.Linear(3, 2)})
    module["fast"].bias.requires_grad_(False)
    train = TrainConfig(steps=1, batch=1, lr=0.1, weight_decay=0.3)
    (made,) = optimizers(module, train, lambda name: 0.5 if name.startswith("slow") else 1.0)
    loop.set_learning_rate(made, 0.1)
    found = {(g["lr"], g["weight_decay"], tuple(tuple(p.shape) for p in g["params"])) for g in made.param_groups}
    assert found == {(0.1, 0.3, ((2, 3),)), (0.05, 0.3, ((3, 2),)), (0.05, 0.0, ((3,),))}
    assert made.defaults["betas"] == (0.9, 0.95)


def test_muon_together_is_muon_one_by_one():
    """Against torch's own, whose products are in bf16: after some steps of tall, wide and square matrices."""
    rng = torch.Generator().manual_seed(0)
    first = [torch.randn(*shape, generator=rng) for shape in ((8, 24), (8, 24), (24, 8), (16, 16))]
    ours, theirs = ([nn.Parameter(p.clone()) for p in first] for _ in range(2))
    settings = {"lr": 0.02, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    both = Muon([{"params": ours}], **settings), torch.optim.Muon([{"params": theirs}], **settings)
    for _ in range(4):
        for parameters in zip(ours, theirs, strict=True):
            gradient = torch.randn(parameters[0].shape, generator=rng)
            for parameter in parameters:
                parameter.grad = gradient.clone()
        for each in both:
            each.step()
    for a, b, start in zip(ours, theirs, first, strict=True):
        assert (a - start).norm() > 0.05
        assert (a - b).norm() < 0.02 * (a - start).norm()


def test_muon_takes_the_hidden_matrices_only():
    """Embeddings (also where an output layer shares them), vectors and grids stay with AdamW at its own rate."""
    table = nn.Embedding(5, 4)
    module = nn.ModuleDict({"table": table, "hidden": nn.Linear(4, 3), "out": nn.Linear(4, 5, bias=False)})
    module["out"].weight = table.weight
    module.register_parameter("grid", nn.Parameter(torch.zeros(1, 2, 3, 3)))
    train = TrainConfig(steps=1, batch=1, lr=0.1, optimizer="muon", rest_lr=0.02, weight_decay=0.3)
    adamw, muon = optimizers(module, train, lambda name: 1.0)
    for each in (adamw, muon):
        loop.set_learning_rate(each, 0.1)
    assert [tuple(p.shape) for g in muon.param_groups for p in g["params"]] == [(3, 4)]
    assert {tuple(p.shape) for g in adamw.param_groups for p in g["params"]} == {(5, 4), (3,), (1, 2, 3, 3)}
    assert {g["lr"] for g in muon.param_groups} == {0.1}
    assert [g["lr"] for g in adamw.param_groups] == pytest.approx([0.02, 0.02])


def test_muon_conv_takes_convolutions_as_matrices_of_a_row_per_output_channel():
    """A step on kernels [out, in, h, w] is the step on the same numbers as a matrix [out, in h w]."""
    rng = torch.Generator().manual_seed(1)
    conv, line = nn.Conv2d(3, 4, 2, bias=False), nn.Linear(12, 4, bias=False)
    with torch.no_grad():
        line.weight.copy_(conv.weight.flatten(1))
    conv.weight.grad = torch.randn(conv.weight.shape, generator=rng)
    line.weight.grad = conv.weight.grad.flatten(1).clone()
    for module, optimizer in ((conv, "muon_conv"), (line, "muon")):
        train = TrainConfig(steps=1, batch=1, lr=0.1, optimizer=optimizer)
        before = module.weight.detach().clone()
        trainers = optimizers(module, train, lambda name: 1.0)
        for each in trainers:
            loop.set_learning_rate(each, 0.1)
            each.step()
        assert (module.weight - before).abs().max() > 0.01
    torch.testing.assert_close(conv.weight.flatten(1), line.weight)
    plain = optimizers(conv, TrainConfig(steps=1, batch=1, lr=0.1, optimizer="muon"), lambda name: 1.0)
    assert [type(each).__name__ for each in plain] == ["AdamW"]  # "muon" leaves convolutions alone


def test_snapshots_are_the_model_at_their_steps(tmp_path):
    """The averaged weights; the last step's model is no snapshot."""
    kept: dict[int, float] = {}

    def run(out, steps, snapshots, end):
        train = TrainConfig(
            steps=steps, batch=8, lr=0.2, warmup=5, weight_decay=0.0, save_every=4, snapshots=snapshots, ema=0.5
        )
        loop.train(
            Toy(), toy_batch, train, out, {"a": 1}, lambda weights, step: end.append(weights["weight"].item()),
            snapshot=lambda weights, step: kept.update({step: weights["weight"].item()}),
        )  # fmt: skip

    end: list[float] = []
    run(tmp_path / "a", 12, (3, 8), end)
    assert list(kept) == [3, 8] and len({*kept.values(), *end}) == 3
    with pytest.raises(ValueError, match="train.snapshots 12 is not before the last step"):
        run(tmp_path / "b", 12, (12,), end)


# ------------------------------------------------------------------------------------------- micro-batches


def test_a_step_is_its_micro_batches(tmp_path):
    """Micro-batch j of step s is data number s M + j with a generator of its own; the gradient is their mean."""
    asked, toy = [], Toy()

    def quarter(index: int) -> dict[str, torch.Tensor]:
        asked.append(index)
        step, j = divmod(index, 4)
        return {"x": toy_batch(step)["x"][2 * j : 2 * j + 2]}

    _, parts = toy_train(tmp_path / "parts", toy=toy, data=quarter, micro=2, steps=5)
    assert asked == list(range(20))
    assert toy.seeds == [(s, seeds.image_seed(42, "step", s, "model", j)) for s in range(5) for j in range(4)]
    one = Toy()
    _, together = toy_train(tmp_path / "whole", toy=one, steps=5)
    assert one.seeds == [(s, seeds.image_seed(42, "step", s, "model")) for s in range(5)]  # as before micro-batches
    assert parts["weight"].item() == pytest.approx(together["weight"].item(), rel=1e-6)
    rows, others = log.read_metrics(tmp_path / "parts"), log.read_metrics(tmp_path / "whole")
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in others], rel=1e-5)
    assert rows[-1]["samples"] == 40


def test_rows_of_a_micro_batch():
    train = TrainConfig(steps=1, batch=24, lr=0.1)
    assert [micro_rows(train, n) for n in (1, 2, 3)] == [24, 12, 8]
    assert [micro_rows(train.model_copy(update={"micro": 4}), n) for n in (1, 2, 6)] == [4, 4, 4]


@pytest.mark.parametrize(
    ("settings", "processes", "message"),
    [
        ({"batch": 24, "micro": 5}, 1, "batch 24 cannot be split over 1 process.* of 5 rows; .* multiple of 5"),
        ({"batch": 24, "micro": 4}, 4, "batch 24 cannot be split over 4 process.* of 4 rows; .* multiple of 16"),
        ({"batch": 24}, 5, "batch 24 cannot be split over 5 process.* of 24/5 rows; .* multiple of 5"),
        ({"batch": 2}, 4, "batch 2 cannot be split over 4 process"),
        ({"batch": 2, "micro": -1}, 1, "batch 2 cannot be split over 1 process.* of -1 rows"),
        ({"batch": 2, "optimizer": "muon", "strategy": "fsdp"}, 1, "muon needs whole matrices .* use adamw, or strat"),
    ],
)
def test_batches_that_cannot_be_split(settings, processes, message):
    with pytest.raises(ValueError, match=message):
        micro_rows(TrainConfig(steps=1, lr=0.1, **settings), processes)


def test_data_of_another_size_are_noticed(tmp_path):
    with pytest.raises(AssertionError, match="the data give 8 rows at once, .* ask for 4"):
        toy_train(tmp_path / "t", micro=4)


# ------------------------------------------------------------------------------- activations computed again


@pytest.mark.parametrize("job", ["generator", "understanding", "autoencoder"])
def test_activations_computed_again_give_the_same_bits(tmp_path, monkeypatch, job):
    """In language models and vision towers, whose blocks then run twice a step."""
    runs: dict[bool, int] = {}
    found = {}
    prepare = loop._prepare
    for again in (False, True):

        def count(system, modules, config, here, again=again):
            prepare(system, modules, config, here)
            blocks = [m for n, m in modules["model"].named_modules() if n.endswith("layers.0.mlp") or ".0.mlp" in n]
            blocks[0].register_forward_pre_hook(lambda *_: runs.update({again: runs.get(again, 0) + 1}))

        monkeypatch.setattr(loop, "_prepare", count)
        out = tmp_path / str(again)
        two_processes.train(out, f"{job} activation_checkpointing={str(again).lower()} steps=2 micro=8")
        found[again] = load_file(out / "model/weights.safetensors")
    assert runs[True] == 2 * runs[False] > 0
    assert all(torch.equal(value, found[True][key]) for key, value in found[False].items())


def test_activations_of_what_has_no_blocks(tmp_path):
    with pytest.raises(ValueError, match="activation_checkpointing is for models with transformer blocks and Linear"):
        toy_train(tmp_path / "t", activation_checkpointing=True)


# ------------------------------------------------------------------------------------------- torch.compile


@pytest.mark.parametrize("job", ["generator", "understanding"])
def test_compiled_transformers_are_the_same_model(tmp_path, monkeypatch, job):
    """Traced by dynamo and run as they are: the lowering itself is torch's to test."""
    compiled = {}
    compile_transformers, found = models.compile_transformers, {}

    def traced(module, device):
        compile_transformers(module, device, backend="eager")
        compiled.update({n: m for n, m in module.named_modules() if m._compiled_call_impl is not None})

    monkeypatch.setattr(models, "compile_transformers", traced)
    for switch in (False, True):
        two_processes.train(tmp_path / str(switch), f"{job} compile={str(switch).lower()} steps=2")
        found[switch] = load_file(tmp_path / str(switch) / "model/weights.safetensors")
    assert len(compiled) == (1 if job == "generator" else 2)  # the language model, and a whole VLM's vision tower
    assert found[False].keys() == found[True].keys()
    assert all(torch.allclose(value, found[True][key], atol=1e-5) for key, value in found[False].items())


def test_compiling_needs_a_compiler_on_a_cpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="C\\+\\+ compiler.*install g\\+\\+"):
        toy_train(tmp_path / "t", compile=True)


# ----------------------------------------------------------------------------------------- states on disk


def test_a_state_in_several_files_and_one_of_an_earlier_version(tmp_path, monkeypatch):
    """Cut by size, or in the single file that earlier versions wrote: both resume to the same bits."""
    _, whole = toy_train(tmp_path / "whole", steps=6, ema=0.9)
    monkeypatch.setattr(state, "LIMIT", 8)

    def stop(index: int) -> dict[str, torch.Tensor]:
        if index == 4:
            raise KeyboardInterrupt
        return toy_batch(index)

    for name in ("cut", "old"):
        with pytest.raises(KeyboardInterrupt):
            toy_train(tmp_path / name, data=stop, steps=6, ema=0.9, save_every=3)
    files = sorted((tmp_path / "cut/state-00000003").glob("*.safetensors"))
    assert files[0].name == f"training-00001-of-{len(files):05d}.safetensors" and len(files) > 2
    old = tmp_path / "old/state-00000003"
    everything = {}
    for path in sorted(old.glob("*.safetensors")):
        everything |= load_file(path)
        path.unlink()
    assert {"weights/model/bias", "optimizer/model/0/0/exp_avg", "average/weight"} <= everything.keys()
    save_file(everything, old / "training.safetensors")
    told = json.loads((old / "state.json").read_text())
    (old / "state.json").write_text(json.dumps({key: told[key] for key in ("step", "seconds", "identity")}))
    for name in ("cut", "old"):
        result, made = toy_train(tmp_path / name, steps=6, ema=0.9, save_every=3)
        assert result.trained == 3 and torch.equal(made["weight"], whole["weight"])


def test_files_of_a_state_are_filled_in_order():
    tensors = {name: torch.zeros(size) for name, size in (("a", 2), ("b", 1), ("c", 1), ("d", 9), ("e", 1))}
    assert state.shard(tensors, 12) == [["a", "b"], ["c"], ["d"], ["e"]]
    assert state.shard(tensors, 10**6) == [["a", "b", "c", "d", "e"]]


def test_a_torn_state_is_told_and_the_one_before_it_used(tmp_path, capsys):
    _, whole = toy_train(tmp_path / "whole", steps=6, ema=0.9)
    assert [p.name for p in (tmp_path / "whole").glob("state-*")] == ["state-00000006"]  # a finished run keeps one

    def stop(index: int) -> dict[str, torch.Tensor]:
        if index == 5:
            raise KeyboardInterrupt
        return toy_batch(index)

    def cut_off() -> None:
        with pytest.raises(KeyboardInterrupt):
            toy_train(tmp_path / "t", data=stop, steps=6, ema=0.9, save_every=2)
        assert sorted(p.name for p in (tmp_path / "t").glob("state-*")) == ["state-00000002", "state-00000004"]
        path = next((tmp_path / "t/state-00000004").glob("*.safetensors"))
        path.write_bytes(path.read_bytes()[:-5])

    cut_off()
    result, made = toy_train(tmp_path / "t", steps=6, ema=0.9, save_every=2)
    assert result.trained == 4 and torch.equal(made["weight"], whole["weight"])
    said = capsys.readouterr().err
    assert "state-00000004 cannot be read" in said and "going on from step 2" in said
    assert [row["step"] for row in log.read_metrics(tmp_path / "t")] == [2, 4, 6]
    shutil.rmtree(tmp_path / "t")
    cut_off()
    (tmp_path / "t/state-00000002/state.json").write_text("{")
    with pytest.raises(ValueError, match="state-00000004 cannot be read .*start over with --fresh"):
        toy_train(tmp_path / "t", steps=6, ema=0.9, save_every=2)


def _edited(**changes):
    def edit(folder: Path) -> None:
        told = json.loads((folder / "state.json").read_text())
        (folder / "state.json").write_text(json.dumps({**told, **changes}))

    return edit


def _earlier(**changes):
    """As an earlier version wrote it, but for ``changes``."""

    def edit(folder: Path) -> None:
        told = json.loads((folder / "state.json").read_text())
        old = {key: told[key] for key in ("step", "seconds", "identity")}
        (folder / "state.json").write_text(json.dumps({**old, **changes}))

    return edit


def _flipped(folder: Path) -> None:
    path = next(folder.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def _file_instead(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (_edited(step=400), "state.json was changed since it was written"),
        (_edited(seconds=1e9), "state.json was changed since it was written"),
        (_edited(check=None), "state.json was changed since it was written"),
        (_earlier(step=400), "state.json, field 'step': 400 is not 4"),
        (_earlier(step="4"), "state.json, field 'step': '4' is not 4"),
        (_earlier(step=True), "field 'step': True is not 4"),
        (_earlier(seconds="long"), "field 'seconds': 'long' is not a finite number"),
        (_earlier(identity=[]), "no JSON object"),
        (_flipped, "training-00001-of-00001.safetensors was changed since it was written"),
        (_file_instead, "0 of 1 files are there"),
        (lambda folder: (folder / "state.json").write_text("[]"), "no JSON object"),
        (lambda folder: (folder / "state.json").write_text("{}"), "the field 'step' is missing"),
        (lambda folder: (folder / "state.json").unlink(), "does not exist"),
        (lambda folder: (folder / "state.json").write_bytes(b"\xff"), "not UTF-8"),
    ],
)
def test_a_state_that_is_not_as_written_is_told_and_the_one_before_it_used(tmp_path, capsys, damage, why):
    def stop(index: int) -> dict[str, torch.Tensor]:
        if index == 5:
            raise KeyboardInterrupt
        return toy_batch(index)

    with pytest.raises(KeyboardInterrupt):
        toy_train(tmp_path / "t", data=stop, steps=6, save_every=2)
    damage(tmp_path / "t/state-00000004")
    (tmp_path / "t/state-old-one").mkdir()  # none of ours
    result, made = toy_train(tmp_path / "t", steps=6, save_every=2)
    said = capsys.readouterr().err
    assert why in said and "going on from step 2, the state before it" in said and result.trained == 4
    assert torch.equal(made["weight"], toy_train(tmp_path / "whole", steps=6)[1]["weight"])
    assert (tmp_path / "t/state-00000006").is_dir()


def test_a_state_of_an_earlier_version_is_used(tmp_path, capsys):
    toy_train(tmp_path / "t", steps=2)
    _earlier()(tmp_path / "t/state-00000002")
    assert toy_train(tmp_path / "t", steps=2)[0].trained == 0
    assert "state-00000002" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("5", "line 1: 5 is no JSON object"),
        ('{"samples": 8, "loss": 1}', "line 1: the field 'step' is missing"),
        ('{"step": [1], "samples": 8, "loss": 1}', r"line 1, field 'step': \[1\] is not a whole number"),
        ('{"step": true, "samples": 8, "loss": 1}', "line 1, field 'step': True is not a whole number"),
        ('{"step": -1, "samples": 8, "loss": 1}', "line 1, field 'step': -1 is below 0"),
        ('{"step": 1, "samples": "8", "loss": 1}', "line 1, field 'samples': '8' is not a whole number"),
        ('{"step": 1, "samples": 8, "loss": NaN}', "line 1, field 'loss': nan is not a finite number"),
        ('{"step": 1, "samples": 8, "loss": "low"}', "line 1, field 'loss': 'low' is not a finite number"),
    ],
)
def test_an_odd_row_of_the_log_is_named(tmp_path, row, why):
    toy_train(tmp_path / "t", steps=2)
    path = tmp_path / "t/metrics.jsonl"
    path.write_text(f"{row}\n{path.read_text()}")
    with pytest.raises(ValueError, match=rf"metrics\.jsonl, {why}"):
        toy_train(tmp_path / "t", steps=2)


def test_two_trainings_do_not_share_a_folder(tmp_path):
    refused = []

    def again(index: int) -> dict[str, torch.Tensor]:
        if index == 3:
            with pytest.raises(
                ValueError, match="another training is under way in .*t; wait for it, or choose another"
            ):
                toy_train(tmp_path / "t", steps=6)
            refused.append(index)
        return toy_batch(index)

    _, made = toy_train(tmp_path / "t", data=again, steps=6)
    assert refused == [3] and torch.equal(made["weight"], toy_train(tmp_path / "u", steps=6)[1]["weight"])
    assert toy_train(tmp_path / "t", steps=6)[0].trained == 0  # it is free again


def test_a_full_disk_leaves_the_older_state(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("No space left on device")

    def fill(index: int) -> dict[str, torch.Tensor]:
        if index == 4:
            monkeypatch.setattr(state, "write_file", refuse)
        return toy_batch(index)

    with pytest.raises(ValueError, match=r"step 6 could not be written \(No space left on device\); make room"):
        toy_train(tmp_path / "t", data=fill, steps=9, save_every=3)
    monkeypatch.undo()
    assert [p.name for p in (tmp_path / "t").iterdir() if "state" in p.name] == ["state-00000003"]
    result, made = toy_train(tmp_path / "t", steps=9, save_every=3)
    assert result.trained == 6 and torch.equal(made["weight"], toy_train(tmp_path / "u", steps=9)[1]["weight"])


def test_what_a_resumed_run_may_change(tmp_path):
    """How it is computed, and settings that the version which stored it did not have."""
    old = {"preset": {"train": {"lr": 1}}}
    toy_train(tmp_path / "t", steps=2, identity=old)
    free = {"preset": {"train": {"lr": 1, "strategy": "fsdp", "activation_checkpointing": True, "compile": True}}}
    assert toy_train(tmp_path / "t", steps=2, identity=free)[0].trained == 0
    new = {"preset": {"train": {"lr": 1, "micro": 0}}}
    with pytest.raises(ValueError, match=r"other settings \(train.micro\); add --fresh"):
        toy_train(tmp_path / "t", steps=2, identity=new)
    assert toy_train(tmp_path / "t", steps=2, identity=new, upgrade=lambda _: new)[0].trained == 0
    stored = json.loads((tmp_path / "t/state-00000002/state.json").read_text())
    assert stored["identity"] == old and stored["step"] == 2


def test_processes_that_see_different_folders(tmp_path, monkeypatch):
    toy_train(tmp_path / "t", steps=2)
    monkeypatch.setattr(loop.Team, "gather", lambda self, value: [value, 0])
    with pytest.raises(ValueError, match=r"states of steps \[2, 0\] for the processes; choose an --out that all"):
        toy_train(tmp_path / "t", steps=2)
