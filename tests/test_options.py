"""Options declared once: flags, help, the arguments of a run; and the registry that knows evaluators by a line."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from pydantic import model_validator

from evals.engine import options
from evals.engine.options import option, positive
from evals.engine.registry import EVALUATORS
from evals.engine.store import WHOLE, Shard
from vgt.__main__ import main


class Example(options.Count, options.Coverage, options.Sampling, options.Common):
    subject: str | None = option(None, "whom")
    through: Literal["mean", "max"] = option("mean", "the view", flag="--view")
    size: int | None = option(None, "side in pixels")
    batch: int = option(32, type=positive)
    any_weights: bool = option(False, "accept others")
    weights: list[str] = option([], metavar="ID=PATH")
    pairs: tuple[Path, Path] | None = option(None, metavar=("REAL", "RECON"))
    limit: float = option(0.3, "of a score", group="rules: other settings make a variant")

    @model_validator(mode="after")
    def _together(self):
        if self.pairs and self.size:
            raise ValueError(f"--size {self.size} is for a subject; leave it out with --pairs")
        return self


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="x")
    Example.add(made)
    return made


def read(*argv: str) -> Example:
    return Example.read(parser().parse_args(argv))


def run(subject, *, work, records, n=5, size=64, through, shard, any_weights, device="none", sampling=None):
    """What a run may look like: no batch, a default for the size."""


def test_defaults_and_flags():
    given = read()
    assert (given.through, given.size, given.batch, given.weights, given.pairs) == ("mean", None, 32, [], None)
    assert given.out == Path("runs/tiny") and given.records == Path("runs/tiny/records") and given.shard == WHOLE
    argv = "--view max --batch 4 --any-weights --weights a=1 --weights b=2 --pairs x y --limit 0.5 -n 3"
    given = read(*argv.split(), "--shards", "2/4", "--guidance", "2", "-o", "there", "--autoencoder", "ae")
    assert (given.through, given.batch, given.any_weights, given.limit) == ("max", 4, True, 0.5)
    assert given.weights == ["a=1", "b=2"] and given.pairs == (Path("x"), Path("y")) and given.n == 3
    assert given.sampling == {"guidance": 2.0} and given.autoencoder == "ae" and given.out == Path("there")
    assert given.shard == Shard(1, 4)


def test_a_run_gets_what_it_takes():
    given = read("--device", "cpu", "--view", "max")
    passed = {"work": Path("runs/tiny"), "records": Path("runs/tiny/records"), "through": "max", "shard": WHOLE}
    passed |= {"any_weights": False, "device": "cpu", "sampling": {}}
    assert given.passed_to(run) == passed, "no n, no size: they were not given, so the run's own defaults hold"
    assert read("-n", "9", "--size", "8").passed_to(run, device="cuda", size=16) == {
        **passed, "through": "mean", "n": 9, "size": 16, "device": "cuda",
    }  # fmt: skip


def test_help_says_everything():
    text = " ".join(parser().format_help().split())
    told = ["--view {mean,max} the view", "--weights ID=PATH", "--pairs REAL RECON", "--any-weights accept others"]
    told += [
        "rules: other settings make a variant --limit LIMIT of a score",
        "--shards K/N",
        "--device",
        "-n N",
        "--seed",
    ]
    for words in [*told, "--guidance"]:
        assert words in text, words


def test_bad_values_are_one_line_and_status_2(capsys):
    for argv in (["--view", "min"], ["--batch", "0"], ["--batch", "many"], ["--size", "big"]):
        with pytest.raises(SystemExit) as stop:
            read(*argv)
        assert stop.value.code == 2 and argv[0] in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(ValueError, match=r"^options: --size 8 is for a subject; leave it out with --pairs$"):
        read("--pairs", "x", "y", "--size", "8")
    with pytest.raises(ValueError, match="k/n"):
        assert read("--shards", "9/4").shard


@pytest.mark.parametrize("name", EVALUATORS)
def test_every_evaluator_has_help_with_an_example(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["eval", name, "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and f"vgt eval {name}" in text.split("example:")[1]
    assert EVALUATORS[name].help[1:] in " ".join(text.split())


def test_the_registry_imports_no_evaluator_and_protocols_no_torch():
    code = (
        "import sys, evals.engine.registry as r\n"
        "own = {e.module.split('.')[0] for e in r.EVALUATORS.values()}\n"
        "print([m for m in sys.modules if m.startswith('evals.') and m.split('.')[1] in own])\n"
        "assert len(r.protocols()) > 20\n"
        "print([m for m in ('torch', 'scipy', 'skimage') if m in sys.modules])\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[0] == "[]" and "torch" not in found.stdout


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (
            "geneval --subject fake:oracle --guidance 2",
            "--guidance 2.0 would do nothing: fake:oracle is no vgt: checkpoi",
        ),
        (
            "geneval --subject fake:noise --dtype bf16",
            "--dtype bf16 would do nothing: fake:noise is no vgt: checkpoint",
        ),
        ("geneval --rescore x --dtype bf16", "--dtype bf16 would do nothing: --rescore scores what is stored"),
        ("geneval --import x --sampling published-dpg", "--guidance 4.5 would do nothing"),
        ("dpg --answers x --dtype bf16", "--dtype bf16 would do nothing: --answers scores what is stored"),
        ("dpg --resolution 8 --subject folder:x --dtype bf16", "--dtype bf16 would do nothing: the images of a folder"),
        ("fidelity --subject folder:x --real photos --dtype fp16", "--dtype fp16 would do nothing: the images of fo"),
        ("recon --pairs x y --dtype bf16", "--dtype bf16 would do nothing: --pairs compares all"),
        ("recon --subject pca --dtype bf16", "--dtype bf16 is for vgt: subjects, not for 'pca'"),
        ("probes --subject random_projection --dtype fp16", "--dtype fp16 is for vgt: subjects, not for 'random_pr"),
        ("geneval --subject vgt:x --sampling published-dpg --flow-steps 30", "--flow-steps 30 contradicts --sampling"),
    ],
)
def test_how_our_models_sample_is_no_setting_of_others(argv, words, tmp_path, capsys):
    assert main(["eval", *argv.split(), "--out", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]


def test_named_settings_are_those_of_the_published_launchers():
    """docs/vgt.md 6.2, 6.3."""
    assert read("--sampling", "published-geneval").sampling == {"guidance": 4.5, "flow_steps": 30, "sampler": "sde"}
    assert read("--sampling", "published-dpg").sampling == {"guidance": 4.5, "flow_steps": 100, "sampler": "sde"}
    more = read("--sampling", "published-dpg", "--order", "raster", "--flow-steps", "100").sampling
    assert more == {"guidance": 4.5, "flow_steps": 100, "sampler": "sde", "order": "raster"}
