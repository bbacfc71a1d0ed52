"""Presets: TOML with a base, settings on top, one readable line for every mistake."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from vgt.core import config
from vgt.core.config import Config
from vgt.training.job import Preset


class Small(Config):
    steps: int
    rate: float = 0.1
    name: str = "x"


class Whole(Config):
    small: Small


def test_configurations_are_frozen_and_closed():
    small = Small(steps=3)
    with pytest.raises(ValidationError):
        small.steps = 4
    with pytest.raises(ValidationError):
        Small(steps=3, setps=4)


def test_override_reads_json_then_text():
    values = {"small": {"steps": 3}, "kept": 1}
    out = config.override(values, ["small.steps=7", "small.name=a b", "small.rate=1e-3", "new.deep=[1, 2]", "a=b=c"])
    assert out == {"small": {"steps": 7, "name": "a b", "rate": 1e-3}, "kept": 1, "new": {"deep": [1, 2]}, "a": "b=c"}
    assert values == {"small": {"steps": 3}, "kept": 1}
    assert config.override({"a": 1}, ["a=true"]) == {"a": True}


def test_override_needs_an_equals_sign():
    with pytest.raises(ValueError, match="'train.steps' has no '='.*--set"):
        config.override({}, ["train.steps"])


def test_merge_is_deep_and_leaves_its_arguments():
    base, over = {"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 3}, "d": [2]}
    assert config.merge(base, over) == {"a": {"b": 3, "c": 2}, "d": [2]}
    assert base == {"a": {"b": 1, "c": 2}, "d": [1]}


def test_validated_tells_where_and_what():
    assert config.validated(Whole, {"small": {"steps": 2}}, "preset p") == Whole(small=Small(steps=2))
    with pytest.raises(ValueError) as error:
        config.validated(Whole, {"small": {"steps": "many", "setps": 1}}, "preset p")
    text = str(error.value)
    assert "\n" not in text and all(part in text for part in ("preset p", "small.steps", "small.setps", "many"))


def test_preset_files(tmp_path):
    (tmp_path / "a.toml").write_text("# what it is\n[small]\nsteps = 1\nrate = 0.5\n")
    other = tmp_path / "b.toml"
    other.write_text(f'base = "{(tmp_path / "a.toml").as_posix()}"\n[small]\nsteps = 2\n')
    assert config.read_preset(str(other)) == {"small": {"steps": 2, "rate": 0.5}}
    other.write_text("steps = = 3")
    with pytest.raises(ValueError, match="b.toml is not valid TOML"):
        config.read_preset(str(other))


@pytest.mark.parametrize("name", ["no_such_preset", "absent.toml", ""])
def test_unknown_presets(name):
    with pytest.raises(ValueError, match="unknown; choose one of .*vlm_internvl"):
        config.read_preset(name)


def test_every_preset_says_what_it_is_and_is_valid():
    from vgt.methods.vgt_ae import AELossConfig
    from vgt.vlm import known
    from vgt.vlm.vlm import VLMConfig

    names = config.preset_names()
    assert {"vlm_internvl", "vlm_qwen", "pixel_ae", "vgt_ae_internvl", "query_ar_internvl", "mar_internvl"} <= set(
        names
    )
    for name in names:
        assert len(config.preset_header(name)) > 20, f"preset {name} needs a first line that says what it is"
        preset: Preset = config.validated(Preset, config.read_preset(name), name)
        if preset.system == "vlm":
            config.validated(VLMConfig, preset.model, name)
        if preset.system == "vgt_ae":
            config.validated(AELossConfig, preset.losses, name)
        for parent in (preset.init.vlm, preset.init.weights, preset.init.autoencoder):
            assert parent is None or parent in names or parent in known.KNOWN, (
                f"preset {name} starts from {parent}, which no preset makes"
            )


def test_files_that_lead_nowhere_are_one_line(tmp_path):
    """A preset that is its own base, a base that is no name, nesting beyond any use, text that is not UTF-8."""
    a, b = tmp_path / "a.toml", tmp_path / "b.toml"
    a.write_text(f'base = "{b}"\n')
    b.write_text(f'base = "{a}"\n')
    with pytest.raises(ValueError, match=r"b.toml has the base '.*a.toml', which comes back to itself"):
        config.read_preset(str(a))
    a.write_text("base = [1]\n")
    with pytest.raises(ValueError, match=r"a.toml: base is \[1\]; give the name of a preset"):
        config.read_preset(str(a))
    a.write_text(f"seed = {'[' * 5000}{']' * 5000}\n")
    with pytest.raises(ValueError, match="preset .*a.toml: nested more than 100 levels deep"):
        config.read_preset(str(a))
    a.write_bytes(b'\xef\xbb\xbfname = "x"\n')
    assert config.read_preset(str(a)) == {"name": "x"}
    a.write_bytes(b'name = "\xff"\n')
    with pytest.raises(ValueError, match="a.toml is not UTF-8"):
        config.read_preset(str(a))
    deep = "[" * 100_000
    assert config.override({}, [f"a={deep}", "b=1e3", "c=" + "9" * 5000]) == {"a": deep, "b": 1e3, "c": "9" * 5000}


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("train.steps=true", "train.steps: Input should be a number .got True"),
        ('train.steps="10"', "train.steps: Input should be a number .got '10'"),
        ("train.lr=false", "train.lr: Input should be a number"),
        ("train.compile=1", "train.compile: Input should be true or false .got 1"),
        ('train.compile="yes"', "train.compile: Input should be true or false .got 'yes'"),
        ("train.batch=99999999999", "train.batch: Input should be less than or equal to 1048576"),
        ("train.seed=99999999999999999999999", "train.seed: Input should be less than 9223372036854775808"),
    ],
)
def test_settings_of_another_kind_or_size_are_refused(setting, why):
    values = config.override(config.read_preset("smoke_pixel_ae"), [setting])
    with pytest.raises(ValueError, match=why):
        config.validated(Preset, values, "preset")


def test_a_whole_number_may_be_written_as_a_float():
    values = config.override(config.read_preset("smoke_pixel_ae"), ["train.steps=1e3"])
    assert config.validated(Preset, values, "preset").train.steps == 1000


def test_later_fields_are_left_out_of_dumps_at_their_defaults():
    from vgt.training.job import InitConfig

    assert "vision" not in InitConfig().model_dump() and "vlm" in InitConfig().model_dump()
    told = InitConfig(vision="a")
    assert told.model_dump()["vision"] == "a" and InitConfig.model_validate(told.model_dump()) == told
