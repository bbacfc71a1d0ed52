"""`vgt compare`: pairing, verdicts, what is said where records cannot be compared, and how two sides are named."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from two_runs import draw, make, names, put, shares

from evals.compare import compare, contrasts
from vgt.__main__ import main
from vgt.core import files, record, samples, sides
from vgt.core.samples import Samples
from vgt.core.statistics import compare_pairs, fixed_interval, mcnemar


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def call(capsys, a, b, *options):
    """Exit status, closing JSON line, table, stderr."""
    status = main(["compare", str(a), str(b), *options])
    out, err = capsys.readouterr()
    lines = out.splitlines()
    return status, json.loads(lines[-1]) if lines else None, "\n".join(lines[:-1]), err


def two_models(root, gain=0.15, seed=0, images=None):
    """Two subjects at two accelerations in one work folder; the second is right more often."""
    rng = np.random.default_rng(seed)
    of = shares(rng, 0.5)
    drawn = {}
    for subject, more in (("weak", 0.0), ("strong", gain)):
        for accel in (1, 4):
            drawn[subject, accel] = draw(rng, np.clip(of + more, 0, 1))[:images]
            put(root / "records", drawn[subject, accel], make(subject, accel=accel, fingerprint=subject))
    return drawn


def test_two_models_of_one_folder_in_pairs(tmp_path, capsys):
    drawn = two_models(tmp_path / "runs")
    status, result, table, _ = call(capsys, "runs:weak@4x", "runs:strong@4x")
    found = result["metrics"]["scenes-geneval/overall"]
    _, clusters, groups = names()
    expected = compare_pairs(drawn["strong", 4], drawn["weak", 4], clusters, groups)
    assert status == 0 and found["verdict"] == "better" and found["how"] == "paired" and found["pairs"] == 480
    assert (found["difference"], found["p"]) == pytest.approx((expected.difference.value, expected.p_value))
    assert (found["low"], found["high"]) == pytest.approx((expected.difference.low, expected.difference.high))
    assert "better" in table and "480" in table and "95 % interval" in table
    back = call(capsys, "runs:strong@4x", "runs:weak@4x")[1]["metrics"]["scenes-geneval/overall"]
    assert back["verdict"] == "worse" and back["difference"] == pytest.approx(-found["difference"])


def test_both_questions_and_one_binary_per_prompt(tmp_path, capsys):
    drawn = two_models(tmp_path / "runs")
    _, result, table, _ = call(capsys, "runs:weak@4x", "runs:strong@4x")
    found = result["metrics"]["scenes-geneval/overall"]
    _, clusters, groups = names()
    fixed = fixed_interval(drawn["strong", 4] - drawn["weak", 4], clusters, groups)
    assert (found["same_prompts"]["low"], found["same_prompts"]["high"]) == pytest.approx((fixed.low, fixed.high))
    per_prompt = {name: drawn[name, 4].reshape(-1, 4).sum(1) for name in ("weak", "strong")}
    for rule, least in (("any", 0), ("majority", 2)):
        only_a, only_b, p = mcnemar(per_prompt["weak"] > least, per_prompt["strong"] > least)
        entry = found["per_prompt"][rule]
        assert (entry["only_a"], entry["only_b"], entry["prompts"]) == (only_a, only_b, 120)
        assert entry["p"] == pytest.approx(p)
        assert f"{rule} of a prompt's images" in table


def test_a_row_is_one_line_of_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    two_models(tmp_path / "runs")
    (row,) = compare.compare(sides.read("runs:weak@4x"), sides.read("runs:strong@4x"), ["overall"])
    line = str(row)
    assert line.startswith("scenes-geneval/overall: A ") and line.endswith(": better") and "\n" not in line
    assert ", B - A +" in line and len(line) < 200


def test_what_no_difference_could_reach_is_not_named(tmp_path, monkeypatch):
    """49.8 "would have been seen" of a share."""
    monkeypatch.chdir(tmp_path)
    two_models(tmp_path / "runs", gain=0.0)
    (row,) = compare.compare(sides.read("runs:weak@1x"), sides.read("runs:strong@1x"), ["overall"])
    assert "would have been seen" in str(row)
    assert "too few samples to see any" in str(replace(row, detectable=49.81))


def test_no_detectable_difference_says_what_would_have_been_seen(tmp_path, capsys):
    two_models(tmp_path / "runs", gain=0.0)
    _, result, table, _ = call(capsys, "runs:weak@1x", "runs:strong@1x")
    found = result["metrics"]["scenes-geneval/overall"]
    assert found["verdict"] == "no detectable difference" and 0.03 < found["detectable"] < 0.2
    assert f"{found['detectable']:.4f} would have been seen" in table
    assert found["low"] < 0 < found["high"] and found["p_holm"] > 0.05


def test_one_image_a_prompt_goes_by_mcnemar(tmp_path):
    values = [np.array([1.0, 1, 0, 0, 1, 1, 0, 1]), np.array([0.0, 0, 0, 0, 1, 0, 0, 1])]
    ids = [f"p{i}" for i in range(8)]
    found = contrasts.match_samples(*(Samples(ids, v.tolist(), ids) for v in values))
    made = contrasts.paired(found, make(metric="prompts-any"))
    assert made.comparison.test == "exact McNemar" and made.comparison.p_value == mcnemar(*values)[2] == 0.25
    loss = contrasts.paired(found, make(), alternative="less").comparison.p_value
    assert loss == pytest.approx(0.125)  # three of three, one way
    assert contrasts.paired(found, make(), sign=-1, alternative="less").comparison.p_value == 1.0
    assert contrasts.per_prompt(found) == {}


def test_order_and_unmatched_samples(tmp_path):
    ids, clusters, _ = names()
    rng = np.random.default_rng(1)
    a = Samples(ids, rng.random(480).tolist(), clusters)
    order = rng.permutation(480)[:470]
    b = Samples(*([column[i] for i in order] for column in (ids, a.values, clusters)))
    found = contrasts.match_samples(a, b)
    assert np.array_equal(found.a, found.b) and found.unmatched == 10 and len(found.a) == 470
    assert "10 samples have no counterpart" in contrasts.paired(found, make()).notes[0]
    assert contrasts.match_samples(a, Samples(["x"], [1.0], ["y"])) is None
    with pytest.raises(ValueError, match="other suites"):
        contrasts.match_samples(a, Samples(ids[:1], [1.0], ["another prompt"]))


def test_subjects_are_matched_by_acceleration_and_folders_by_name(tmp_path, capsys):
    two_models(tmp_path / "runs")
    matched = sides.match(sides.read("runs:weak"), sides.read("runs:strong"))
    assert [p.name for p in matched] == ["@1x/scenes-geneval/overall", "@4x/scenes-geneval/overall"]
    assert all(p.a.record.accel == p.b.record.accel for p in matched)
    _, result, _, _ = call(capsys, "runs", "runs")
    assert len(result["metrics"]) == 4 and {m["how"] for m in result["metrics"].values()} == {"identical"}
    across = call(capsys, "runs:weak@1x", "runs:weak@4x")[1]["metrics"]["scenes-geneval/overall"]
    assert across["how"] == "paired" and across["verdict"] == "no detectable difference"
    by_name = call(capsys, "runs:weak@1x", "runs")[1]["metrics"]  # of many models, the one of the same name
    assert list(by_name) == ["weak@1x/scenes-geneval/overall"]


@pytest.mark.parametrize(
    ("a", "b", "named"),
    [
        ("nowhere", "runs", "nowhere"),
        ("runs:mar", "runs", "no model 'mar'; it has strong@1x, strong@4x, weak@1x, weak@4x"),
        ("runs:weak@1x", "other", "no record in common"),
    ],
)
def test_unknown_sides(tmp_path, capsys, a, b, named):
    two_models(tmp_path / "runs")
    for one in ("x", "y"):
        put(tmp_path / "other", None, make(one, suite="photos"))
    status, result, _, err = call(capsys, a, b)
    assert status == 2 and result is None and named in err and len(err.splitlines()) == 1


def test_two_records_of_one_name_are_refused(tmp_path):
    for part in ("one", "two"):
        put(tmp_path / "all" / part, None, make())
    with pytest.raises(ValueError, match="two records model/scenes-geneval/overall"):
        sides.read(str(tmp_path / "all"))


def test_one_name_of_two_models_is_refused(tmp_path, capsys):
    """Two snapshots that share a name: no score of the one stands beside another of the other; both are named."""
    for metric, weights in (("overall", "good"), ("dpg", "noised")):
        one = make(metric=metric, low=0.4, high=0.6, fingerprint=weights, origin=f"weights of {weights}")
        put(tmp_path / "mixed" / "records", None, one)
    for other, key in (("clean", "1"), ("again", "2")):
        put(tmp_path / other / "records", None, make(low=0.4, high=0.6, origin="weights of good", key=key))
    put(tmp_path / "mixed" / "records", None, make("third", low=0.4, high=0.6, origin="x"))
    for verb in (["compare", "mixed", "clean"], ["gate", "--baseline", "clean", "--candidate", "mixed"]):
        assert main(verb) == 2
        err = capsys.readouterr().err
        assert len(err.splitlines()) == 1 and "two models under the name 'model'" in err
        assert "good" in err and "noised" in err
    assert call(capsys, "clean", "again")[0] == 0
    assert call(capsys, "clean", "mixed:third")[0] == 0  # a model beside them is not touched


def test_edited_samples_are_not_used(tmp_path, capsys):
    """Also where their mean is still the record's."""
    drawn = two_models(tmp_path / "runs")
    for path in (tmp_path / "runs").rglob("overall.samples.csv"):
        one = record.read(path.with_name("overall.json"))[0]
        record.write(one.model_copy(update={"hashes": {"samples": files.digest_file(path)}}), tmp_path / "runs/records")
    assert call(capsys, "runs:weak@4x", "runs:strong@4x")[0] == 0 and len(drawn) == 4
    path = tmp_path / "runs/records/weak@4x/scenes-geneval/overall.samples.csv"
    lines = path.read_text().splitlines()
    first, second = (next(i for i, line in enumerate(lines) if f",{v}," in line) for v in ("0.0", "1.0"))
    lines[first], lines[second] = lines[first].replace(",0.0,", ",1.0,"), lines[second].replace(",1.0,", ",0.0,")
    path.write_text("\n".join(lines) + "\n")
    status, result, _, _ = call(capsys, "runs:weak@4x", "runs:strong@4x")
    assert status == 2 and "was changed since" in result["metrics"]["scenes-geneval/overall"]["notes"][0]


def test_metrics_are_chosen_by_pattern(tmp_path, capsys):
    for side, key in (("a", "1"), ("b", "2")):
        for metric in ("overall", "position", "loss"):
            put(tmp_path / side, None, make(metric=metric, low=0.4, high=0.6, key=key))
    _, result, _, _ = call(capsys, "a", "b", "--metric", "over*", "scenes-geneval/pos*")
    assert list(result["metrics"]) == ["scenes-geneval/overall", "scenes-geneval/position"]
    status, _, _, err = call(capsys, "a", "b", "--metric", "warmth")
    assert status == 2 and "it has" not in err and "loss, overall, position" in err


def test_samples_come_back_whatever_their_names(tmp_path):
    made = make(metric="psnr-mean")
    ids = ["=cmd()", "'=a", "-1", "-b", "plain"]
    samples.write(Samples(ids, [1.0, -2.5, 0.1, 1e-9, 3.0], ids, ["@g"] * 5), tmp_path, made)
    assert samples.read(tmp_path, made) == Samples(ids, [1.0, -2.5, 0.1, 1e-9, 3.0], ids, ["@g"] * 5)
    assert "\n'=cmd(),1.0," in samples.path(tmp_path, made).read_text()


def test_too_few_clusters_are_not_called_no_common_samples(tmp_path, capsys):
    """Four images of one prompt on both sides: their samples are common, but show no spread over prompts."""
    ids, one = [f"p/{i}" for i in range(4)], ["p"] * 4
    for side, values in (("a", [1.0, 0.0, 1.0, 0.0]), ("b", [1.0, 1.0, 1.0, 0.0])):
        wilson = {"low": 0.1, "high": 0.9, "n": 4, "n_expected": 4}
        for metric, fields in (("overall", wilson), ("bare", {"n": 4, "n_expected": 4})):
            made = put(tmp_path / side, None, make(metric=metric, value=sum(values) / 4, key=side, **fields))
            samples.write(Samples(ids, values, one), tmp_path / side, made)
    _, result, _, _ = call(capsys, "a", "b")
    found = {name.split("/")[1]: entry for name, entry in result["metrics"].items()}
    assert found["overall"]["how"] == "unpaired"
    assert found["overall"]["notes"] == ["not paired: 4 common samples in 1 clusters show no spread"]
    assert found["bare"]["verdict"] == "incomparable" and "no interval; not paired" in found["bare"]["notes"][0]
    for side, values in (("c", [1.0, 0.0]), ("d", [1.0, 1.0])):  # one prompt in each of two tasks
        made = put(tmp_path / side, None, make(value=sum(values) / 2, key=side, low=0.1, high=0.9, n=2, n_expected=2))
        samples.write(Samples(["s/0", "t/0"], values, ["s", "t"], ["x", "y"]), tmp_path / side, made)
    note = call(capsys, "c", "d")[1]["metrics"]["scenes-geneval/overall"]["notes"][0]
    assert note == "not paired: 2 common samples in 2 clusters, one in each of 2 groups, show no spread"


def test_differences_are_kept_for_reports(tmp_path, capsys, monkeypatch):
    """As records, made once; what cannot be paired has none; `vgt compare` and `vgt gate` pass them by."""
    drawn = two_models(tmp_path / "runs")
    root = tmp_path / "runs" / "records"
    (weak, strong), bare = (
        [next(r for r in record.read(root) if r.model == f"{m}@4x") for m in ("weak", "strong")],
        put(root, None, make("weak", metric="bare", low=0.4, high=0.6)),
    )
    wanted = [(strong, weak), (bare, bare.model_copy(update={"subject": "strong", "key": "k"}))]
    (made,) = compare.keep(root, wanted)
    _, clusters, groups = names()
    expected = compare_pairs(drawn["strong", 4], drawn["weak", 4], clusters, groups)
    assert made.name == "strong@4x~weak@4x/differences/scenes-geneval-overall" and made.n == 480
    assert (made.value, made.extra["p"]) == pytest.approx((expected.difference.value, expected.p_value))
    assert (made.low, made.high) == pytest.approx((expected.difference.low, expected.difference.high))
    assert made.extra["of"] == [strong.key, weak.key] and made in record.read(root)
    monkeypatch.setattr(contrasts, "contrast", None)  # nothing is computed twice
    assert compare.keep(root, wanted[:1]) == [made]
    assert made.name not in sides.read("runs").stored


def test_what_cannot_be_compared_is_said_and_left_out_of_the_correction(tmp_path, capsys):
    rng = np.random.default_rng(2)
    values = draw(rng, shares(rng))
    for side in ("a", "b"):
        put(tmp_path / side, draw(rng, shares(rng)), make(metric="overall"))
        put(tmp_path / side, values, make(metric="judged", judge=side))
        put(tmp_path / side, None, make(metric="bare", key=side))
        put(tmp_path / side, None, make(metric="absent", value=None, note="no weights", key=side))
        quartiles = {"low": 0.4, "high": 0.6, "interval": "quartiles of 3 repeats", "unit": "images/s"}
        put(tmp_path / side, None, make(metric="speed", key=side, **quartiles))
    _, result, table, _ = call(capsys, "a", "b")
    found = {name.split("/")[1]: entry for name, entry in result["metrics"].items()}
    assert [found[m]["verdict"] for m in ("judged", "bare", "absent", "speed")] == ["incomparable"] * 4
    assert "judge 'a' and 'b'" in found["judged"]["notes"][0] and "no weights" in found["absent"]["notes"][0]
    assert "quartiles" in found["speed"]["notes"][0] and "1 comparisons" in table
    assert found["overall"]["p_holm"] == found["overall"]["p"]


def test_holm_over_all_rows(tmp_path, capsys):
    for side, value in (("a", 0.5), ("b", 0.6)):
        for i in range(4):
            one = make(metric=f"m{i}", value=value, low=value - 0.05, high=value + 0.05, key=side)
            put(tmp_path / side, None, one)
    _, result, _, _ = call(capsys, "a", "b")
    entries = list(result["metrics"].values())
    assert all(e["how"] == "unpaired" and e["p"] < 0.05 and e["p_holm"] == pytest.approx(4 * e["p"]) for e in entries)
    assert {e["verdict"] for e in entries} == {"better"}


def test_settings_may_differ_on_request(tmp_path, capsys):
    for side in ("a", "b"):
        one = make(low=0.4, high=0.6, key=side, protocol_params={"batch": 8 if side == "a" else 32})
        put(tmp_path / side, None, one)
    assert call(capsys, "a", "b")[1]["metrics"]["scenes-geneval/overall"]["verdict"] == "incomparable"
    allowed = call(capsys, "a", "b", "--allow", "batch")[1]["metrics"]["scenes-geneval/overall"]
    assert allowed["verdict"] == "no detectable difference"


@pytest.mark.parametrize(
    ("metric", "unit", "better"),
    [
        ("overall", "share", "higher"),
        ("dpg", "of 100", "higher"),
        ("psnr-mean", "dB", "higher"),
        ("ssim-wang", "", "higher"),
        ("lpips-alex-v0.1", "", "lower"),
        ("fd-efflite2", "", "lower"),
        ("rfid-tf-compat", "", "lower"),
        ("fid-tf-compat", "", "lower"),
        ("precision-efflite2", "share", "higher"),
        ("cluster-maps", "share", None),
        ("token-collapse", "", "lower"),
        ("linear-probe-shape", "", "higher"),
        ("images-per-second", "images/s", "higher"),
        ("ms-per-image", "ms", "lower"),
        ("loss", "", "lower"),
        ("effective-rank", "", None),
        ("tsne", "", None),
        ("never-heard-of", "", None),
    ],
)
def test_which_way_is_better(metric, unit, better):
    assert contrasts.better(make(metric=metric, unit=unit)) == better


def test_verdict_without_a_better_side(tmp_path):
    values = {"unit": "", "judge": None, "metric": "effective-rank"}
    put(tmp_path / "a", None, make(value=8.0, low=7.9, high=8.1, **values))
    put(tmp_path / "b", None, make(value=9.0, low=8.9, high=9.1, **values))
    rows = compare.compare(sides.read(str(tmp_path / "a")), sides.read(str(tmp_path / "b")))
    assert [row.verdict for row in rows] == ["higher"]


def test_sampling_settings_are_compared(tmp_path, capsys):
    """Guidance, steps ... incomparable unless allowed by name, and then shown; unknown ones are a note."""
    for side, key, settings in (
        ("a", "1", {"guidance": 3.0}),
        ("b", "2", {"guidance": 1.0, "steps": 2}),
        ("c", "3", None),
    ):
        extra = {} if settings is None else {"settings": settings}
        put(tmp_path / side, None, make(low=0.4, high=0.6, key=key, extra=extra))
    name = "scenes-geneval/overall"
    status, result, table, _ = call(capsys, "a", "b")
    assert status == 2 and result["metrics"][name]["verdict"] == "incomparable"  # nothing was compared
    assert result["metrics"][name]["notes"] == ["guidance 3.0 and 1.0", "steps null and 2"]
    assert "--allow guidance steps" in table
    assert call(capsys, "a", "b", "--allow", "guidance")[0] == 2
    status, result, table, _ = call(capsys, "a", "b", "--allow", "guidance", "steps")
    assert status == 0 and "guidance 3.0 and 1.0 (allowed)" in result["metrics"][name]["notes"]
    assert "steps null and 2 (allowed)" in table
    status, _, table, _ = call(capsys, "a", "c")
    assert status == 0 and "A has guidance 3.0; those of B are not known" in table
    status, _, _, err = call(capsys, "a", "b", "--allow", "guidanse")
    assert status == 2 and "'guidanse'" in err and "guidance" in err


def test_one_way_of_sampling_in_other_words(tmp_path, capsys):
    """In the published mode, where a record without ``attention`` is older than the choice, and dense; and of the
    schedule, which was MAR's alone under another name."""
    own = {"compat": "reference", "attention": None, "cfg_schedule": None, "head_inputs": None}
    typed = {**own, "attention": "flash", "cfg_schedule": "falling", "head_inputs": "fp32"}
    old = {"compat": "reference", "cfg_schedule": None}
    half = {**own, "dtype": "bf16"}
    chosen = {"own": own, "typed": typed, "old": old, "dense": {**own, "attention": "dense"}, "half": half}
    chosen |= {"plain": {}, "half-typed": {**half, "head_inputs": "bf16"}, "half-fp32": {**half, "head_inputs": "fp32"}}
    chosen |= {"early": {"mar_schedule": "cosine"}, "early-equal": {"mar_schedule": "uniform"}}
    chosen |= {"equal": {"schedule": "equal"}, "cosine": {"schedule": "cosine"}}
    for key, settings in chosen.items():
        put(tmp_path / key, None, make(low=0.4, high=0.6, key=key, extra={"settings": settings}))
        timed = make(metric="images", protocol="throughput-b1", low=0.4, high=0.6, key=key, protocol_params=settings)
        put(tmp_path / key, None, timed)
    told = {
        ("own", "typed"): [],
        ("old", "dense"): [],
        ("half", "half-typed"): [],
        ("old", "own"): ["attention dense and flash"],
        ("typed", "dense"): ["attention flash and dense"],
        ("half", "half-fp32"): ["head_inputs null and fp32"],
        ("own", "half"): ["dtype null and bf16"],
        ("plain", "own"): ["attention null and flash", "compat null and reference"],
        ("plain", "early"): [],
        ("early-equal", "equal"): [],
        ("early", "equal"): ["schedule null and equal"],
        ("early", "cosine"): ["schedule null and cosine"],
    }
    for (a, b), notes in told.items():
        _, result, _, _ = call(capsys, a, b)
        for entry in result["metrics"].values():
            assert (entry["verdict"] == "incomparable") == bool(notes), (a, b, entry)
            assert [note for note in entry["notes"] if " and " in note] == notes, (a, b)


def test_nothing_compared_is_never_green(tmp_path, capsys):
    """Also a pattern that fits records of one side alone; what one side holds alone is listed."""
    put(tmp_path / "a", None, make(low=0.4, high=0.6, key="1"))
    put(tmp_path / "b", None, make(low=0.4, high=0.6, key="2"))
    for i in range(6):
        put(tmp_path / "a", None, make(metric=f"m{i}", low=0.4, high=0.6))
    status, _, table, _ = call(capsys, "a", "b")
    assert status == 0 and "only in a: " in table and "and 2 more" in table
    for pattern in ("m1", "warmth"):
        status, _, _, err = call(capsys, "a", "b", "--metric", "overall", pattern)
        assert status == 2 and f"no metric fits {pattern};" in err and len(err.splitlines()) == 1
    put(tmp_path / "b", None, make(low=0.4, high=0.6, key="2", judge="another"))
    assert call(capsys, "a", "b")[0] == 2


def test_a_collection_and_a_folder(tmp_path, capsys):
    drawn = two_models(tmp_path / "runs")
    record.write_collection(record.read("runs/records"), "published.jsonl")
    one = call(capsys, "published.jsonl:weak@4x", "runs:strong@4x")[1]["metrics"]["scenes-geneval/overall"]
    assert one["how"] == "unpaired" and one["notes"] == ["without samples on both sides"]
    assert one["difference"] == pytest.approx(np.mean(drawn["strong", 4]) - np.mean(drawn["weak", 4]))
