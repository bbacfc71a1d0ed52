"""Class accuracy on the synthetic scenes: what counts as right, held-out classes apart, evidence, bad input."""

import numpy as np
import pytest

from evals.classes import run as classes
from evals.judges import canary
from evals.judges.analytic import AnalyticJudge
from vgt.core import samples
from vgt.core.scenes import COLORS, HELD_OUT, Background, Object, Scene, render
from vgt.core.statistics import wilson

NAMES = ("red circle", "blue star", "red heart", "yellow star")
PLAIN = Background("gray", "none", (138, 138, 138), 0, (0,) * 25)


class Painter:
    """Paints what was asked for, but blue squares for the first blue stars, and nothing for the first yellow star."""

    name, fingerprint, conditions, class_names = "painter", "painter-1", "labels", NAMES

    def __init__(self, names=NAMES):
        self.class_names, self.asked = names, []

    @property
    def classes(self):
        return len(self.class_names)

    def generate(self, asked, seeds):
        made = []
        for label in asked:
            color, shape = self.class_names[label].split()
            again = self.asked.count(label)
            if self.class_names[label] == "blue star" and again < 3:
                shape = "square"
            self.asked.append(label)
            objects = (Object(shape, color, 128, 128, 50, COLORS[color]),)
            empty = self.class_names[label] == "yellow star" and again == 0
            made.append(render(Scene(() if empty else objects, PLAIN, "single_object"), 64).image)
        return np.stack(made)


def score(made, where, **how):
    outcome = classes.run(made, AnalyticJudge(), work=where, records=where / "records", batch=4, **how)
    return outcome, {r.metric: r for r in outcome.records}


def test_right_is_one_object_of_the_class():
    star = {"class": "star", "color": "blue", "score": 0.9}
    assert classes.right([star], "blue star") == {c: True for c in (classes.CLASS, classes.SHAPE, classes.COLOR)}
    assert classes.right([star], "red star") == {"accuracy": False, "accuracy-shape": True, "accuracy-color": False}
    assert not any(classes.right([star, star], "blue star").values()) and not any(classes.right([], "star").values())
    assert classes.right([star], "star")["accuracy"] and not classes.right([star], "ring")["accuracy"]
    assert {name for name in NAMES if classes.is_held_out(name)} == {"red heart", "yellow star"}
    assert sum(classes.is_held_out(f"{c} {s}") for c, s in HELD_OUT) == 8
    for name in ("dog", "red", "blue red star", "", "mauve star"):
        with pytest.raises(ValueError, match=f"class '{name}' is no .colour. shape"):
            classes.wanted(name)


def test_shares_by_class_with_held_out_ones_apart(tmp_path):
    made = Painter()
    outcome, found = score(made, tmp_path, n=16)
    wrong = {"accuracy": 4, "accuracy-seen": 3, "accuracy-held-out": 1, "accuracy-shape": 4, "accuracy-color": 1}
    sizes = {"accuracy-seen": 8, "accuracy-held-out": 8}
    assert {m: (r.value, r.n) for m, r in found.items()} == {
        m: (pytest.approx(1 - count / sizes.get(m, 16)), sizes.get(m, 16)) for m, count in wrong.items()
    }
    by_class = found["accuracy"].extra["by_class"]
    assert {name: one["value"] for name, one in by_class.items()} == dict(zip(NAMES, (1, 0.25, 1, 0.75), strict=True))
    assert by_class["blue star"]["low"] == wilson(1, 4).low and by_class["blue star"]["n"] == 4
    assert set(found["accuracy-held-out"].extra["by_class"]) == {"red heart", "yellow star"}
    for r in found.values():
        assert r.low <= r.value <= r.high and r.partial and r.protocol == "class-accuracy" and r.seed == 0
        assert np.mean(samples.read(tmp_path / "records", r).values) == pytest.approx(r.value)
    again, _ = score(Painter(), tmp_path, n=16)
    assert (again.computed, again.reused) == (0, 5) and len(made.asked) == 16


def test_uniform_labels_and_parts(tmp_path):
    from evals.engine.store import Shard

    made = Painter(("green ring", "black moon"))
    assert not score(made, tmp_path, n=6, labels="uniform", shard=Shard(0, 2))[1]
    _, found = score(made, tmp_path, n=6, labels="uniform")
    assert list(found) == ["accuracy", "accuracy-shape", "accuracy-color"], "none of these is held out"
    assert found["accuracy"].value == 1 and found["accuracy"].protocol_params["labels"] == "uniform, seed 0"
    assert found["accuracy"].suite == "classes-2-uniform" and found["accuracy"].n == 6


def test_bad_input(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="class 'golden retriever' is no"):
        score(Painter(("golden retriever",)), tmp_path)
    with pytest.raises(ValueError, match="6 images do not divide among 4 classes"):
        score(Painter(), tmp_path, n=6)
    made = Painter()
    made.conditions = "prompts"
    with pytest.raises(ValueError, match="'painter' is asked with prompts; score it with `vgt eval geneval`"):
        score(made, tmp_path)
    monkeypatch.setattr(canary, "SCENES", (0,))
    monkeypatch.setattr(AnalyticJudge, "color", lambda *_: "pink")
    with pytest.raises(ValueError, match="fails its canary"):
        score(Painter(), tmp_path, n=4)
