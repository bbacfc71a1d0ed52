"""The training loop and its optimisation on a toy system: what is averaged, scheduled, logged and refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vgt.training import loop
from vgt.training.optim import Average, TrainConfig, learning_rate, optimizers


class Toy:
    """Fits a line; from ``bad`` on its loss is not a number."""

    def __init__(self, bad: int | None = None):
        self.bad = bad
        self.line = nn.Linear(1, 1)
        nn.init.zeros_(self.line.weight), nn.init.zeros_(self.line.bias)

    def players(self):
        return {"model": self.line}

    def lr_scale(self, name):
        return 1.0

    def loss(self, player, batch, step, rng):
        loss = (self.line(batch["x"]) - 3 * batch["x"] - 1).square().mean()
        loss = loss * (float("nan") if self.bad is not None and step >= self.bad else 1)
        return loss, {"loss": loss.detach()}


def toy_batch(step: int) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(8, 1, generator=torch.Generator().manual_seed(step))}


def toy_train(out, bad=None, **settings):
    made = {}
    train = TrainConfig(**{"steps": 60, "batch": 8, "lr": 0.2, "warmup": 5, "weight_decay": 0.0, **settings})
    result = loop.train(Toy(bad), toy_batch, train, out, {"a": 1}, lambda state, step: made.update(state))
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
    """Decay on matrices only, the scale of the system on the learning rate (spec vgt 1.11)."""
    module = nn.ModuleDict({"slow": nn.Linear(2, 3), "fast": nn.Linear(3, 2)})
    module["fast"].bias.requires_grad_(False)
    train = TrainConfig(steps=1, batch=1, lr=0.1, weight_decay=0.3)
    (made,) = optimizers(module, train, lambda name: 0.5 if name.startswith("slow") else 1.0)
    loop.set_learning_rate(made, 0.1)
    found = {(g["lr"], g["weight_decay"], tuple(tuple(p.shape) for p in g["params"])) for g in made.param_groups}
    assert found == {(0.1, 0.3, ((2, 3),)), (0.05, 0.3, ((3, 2),)), (0.05, 0.0, ((3,),))}
    assert made.defaults["betas"] == (0.9, 0.95)


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
