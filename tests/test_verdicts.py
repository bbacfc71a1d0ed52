"""Claims judged with seeds, from made-up records whose truth is known."""

from __future__ import annotations

import re

import numpy as np
import pytest
from report_records import make

from reports import inconsistencies, published, recipe, table, verdicts
from reports.measured import Measured
from reports.verdicts import Claim, Comparison
from vgt.core import files, record, samples
from vgt.core.samples import REPLICATES, Samples

G, D = "scenes-geneval/overall", "scenes-dpg/dpg"
SEEDS, PROMPTS, IMAGES, TASKS = (0, 1, 2), 120, 2, 6
ARMS = recipe.load("vgt")


class World:
    """Writes records with samples of models whose true scores are given."""

    def __init__(self, root):
        self.root, self.rng = root, np.random.default_rng(0)
        self.prompts = self.rng.normal(0, 0.1, PROMPTS)

    def score(
        self, subject: str, metric: str, mean: float, accel: int | None = None, scale=1.0, unit="share", **fields
    ):
        """One record: yes/no images at ``mean``, times ``scale``."""
        suite, name = metric.split("/")
        chance = np.clip(mean + self.prompts[:, None], 0, 1)
        values = scale * (self.rng.random((PROMPTS, IMAGES)) < chance)
        ids = [f"{p}/{i}" for p in range(PROMPTS) for i in range(IMAGES)]
        clusters = [str(p) for p in range(PROMPTS) for _ in range(IMAGES)]
        groups = [f"task{p % TASKS}" for p in range(PROMPTS) for _ in range(IMAGES)]
        kept = Samples(ids, values.ravel().tolist(), clusters, groups)
        fields = {"n_expected": values.size, "hashes": {"samples": samples.digest(kept)}, "unit": unit} | fields
        fields.setdefault("fingerprint", files.digest(subject))
        made = make(subject, suite, name, float(values.mean()), 0.03, values.size, accel=accel, **fields)
        record.write(made, self.root)
        samples.write(kept, self.root, made)
        return made

    def arm(self, term: str, mean: float, metric: str = G, spread: float = 0.01, seeds=SEEDS, **fields):
        """A term's models, trained with ``spread``."""
        name, _, accel = term.partition("@")
        generator = ARMS[name].kind == "generator"
        at = int(accel[:-1]) if accel else 1 if generator else None
        for seed in seeds:
            subject = recipe.model("micro", ARMS[name], seed)
            self.score(subject, metric, mean + self.rng.normal(0, spread), at, **fields)

    def training(self, arm: str, count: int = 64_000, steps: int = 1000, seeds=SEEDS):
        for seed in seeds:
            subject = recipe.model("micro", ARMS[arm], seed)
            told = {"samples": count, "steps": steps}
            record.write(
                make(subject, "training", "loss", 0.2, extra=told, fingerprint=files.digest(subject)), self.root
            )

    def judge(self, *claims: Claim, seeds=None):
        measured = Measured(record.read(self.root, samples=True))
        return verdicts.judge("vgt", "micro", measured, samples.lookup(self.root), seeds, claims or None)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def versus(left: str, right: str, metric: str = G, **fields) -> Comparison:
    return Comparison(metric=metric, left=[left], right=[right], **fields)


def claim(*parts: Comparison, number: str = "C1", **fields) -> Claim:
    return Claim(number=number, text="made up", parts=list(parts), **fields)


def test_reproduced_and_contradicted(world):
    world.arm("query_ar_qwen", 0.7)
    world.arm("mar_qwen", 0.3)
    right, wrong = versus("query_ar_qwen", "mar_qwen"), versus("mar_qwen", "query_ar_qwen")
    lower = versus("mar_qwen", "query_ar_qwen", direction="lower")
    found = world.judge(claim(right), claim(wrong, number="C2"), claim(lower, number="C3"))
    assert [one.verdict for one in found] == ["reproduced", "contradicted", "reproduced"]
    assert found[0].said == "reproduced" and found[1].said == "contradicted", "neither is said more quietly"
    assert found[0].adjusted == pytest.approx(3 * found[0].p), "corrected for three claims"
    effect = found[0].outcomes[0].effects[0]
    assert effect.low < 0.4 < effect.high and found[1].outcomes[0].effects[0].value == -effect.value


def test_what_cannot_be_seen_says_what_would_have_been(world):
    world.arm("query_ar_qwen", 0.41, spread=0.05)
    world.arm("mar_qwen", 0.4, spread=0.05)
    (found,) = world.judge(claim(versus("query_ar_qwen", "mar_qwen")))
    least = found.outcomes[0].effects[0].detectable(0.05)
    assert found.verdict == verdicts.UNDETECTED
    assert found.said == f"not detectable here (an effect of {least:.3f} in GenEval would have been seen)"
    assert least > abs(found.outcomes[0].effects[0].value)


def test_a_missing_seed_is_no_partial_mean(world):
    world.arm("query_ar_qwen", 0.7)
    world.arm("mar_qwen", 0.3, seeds=(0, 1))
    (found,) = world.judge(claim(versus("query_ar_qwen", "mar_qwen")))
    assert found.said == "not run (5 of 6 models; `vgt reproduce paper --scale micro --only C1`)"
    assert found.p is None and not found.outcomes[0].effects
    world.score("micro_mar_qwen-s2", G, 0.3, 1, n_expected=PROMPTS * IMAGES * 2)
    assert world.judge(claim(versus("query_ar_qwen", "mar_qwen")))[0].verdict == verdicts.NOT_RUN, "a partial record"
    assert world.judge(claim(versus("query_ar_qwen", "mar_qwen")), seeds=(0, 1))[0].p is not None


def test_untestable_claims_say_why(world):
    ranking = Claim(number="C2", text="best of all", why="others are not trained here")
    assert world.judge(ranking)[0].said == "not testable here (others are not trained here)"
    world.arm("query_ar_qwen", 0.7)
    world.arm("mar_qwen", 0.3)
    world.training("query_ar_qwen", 64_000)
    world.training("mar_qwen", 32_000)
    (found,) = world.judge(claim(versus("query_ar_qwen", "mar_qwen")))
    assert found.verdict == verdicts.UNTESTABLE and "64,000" in found.said and "32,000" in found.said
    assert world.judge(claim(versus("query_ar_qwen", "mar_qwen"), equal=False))[0].verdict == verdicts.REPRODUCED


def test_other_settings_are_not_compared_unless_they_belong_to_the_method(world):
    for arm, schedule in (("query_ar_qwen", "equal"), ("mar_qwen", "cosine")):
        world.arm(
            arm, 0.7 if arm == "query_ar_qwen" else 0.3, extra={"settings": {"schedule": schedule, "guidance": 3.0}}
        )
    (found,) = world.judge(claim(versus("query_ar_qwen", "mar_qwen")))
    assert found.verdict == verdicts.UNTESTABLE and "schedule equal and cosine" in found.said
    assert world.judge(claim(versus("query_ar_qwen", "mar_qwen"), free=["schedule"]))[0].verdict == verdicts.REPRODUCED


def test_all_parts_must_hold_and_one_reversed_contradicts(world):
    for arm, mean in (("query_ar_qwen", 0.7), ("query_ar_internvl", 0.5), ("query_ar_pixel", 0.5), ("mar_qwen", 0.2)):
        world.arm(arm, mean)
    good, tie, bad = (versus("query_ar_qwen", "mar_qwen"), versus("query_ar_internvl", "query_ar_pixel"),
                      versus("mar_qwen", "query_ar_internvl"))  # fmt: skip
    found = world.judge(claim(good, good), claim(good, tie, number="C2"), claim(good, bad, number="C3"))
    assert [one.verdict for one in found] == ["reproduced", "not detectable here", "contradicted"]
    any_of = claim(tie, good, number="C4", need="any")
    assert world.judge(any_of)[0].verdict == "reproduced"
    shown = table.view(verdicts.table("vgt", "micro", found))
    verdict = shown.heads.index("Verdict")
    assert [row[verdict].value for row in shown.grid][:3] == ["reproduced", "as claimed", "as claimed"]
    assert verdicts.summary(found) == "1 reproduced (C1), 1 contradicted (C3), 1 not detectable here (C2)"


def test_a_change_is_within_a_training(world):
    """4x against 1x of one model: what its seed adds drops out."""
    for arm, one, four in (("query_ar_qwen", 0.7, 0.68), ("mar_qwen", 0.7, 0.3)):
        for seed in SEEDS:
            shift, subject = world.rng.normal(0, 0.1), recipe.model("micro", ARMS[arm], seed)
            for accel, mean in ((1, one), (4, four)):
                world.score(subject, G, mean + shift, accel)
    part = Comparison(
        metric=G, left=["query_ar_qwen@4x"], left_from="query_ar_qwen", right=["mar_qwen@4x"], right_from="mar_qwen"
    )
    (found,) = world.judge(claim(part))
    effect = found.outcomes[0].effects[0]
    assert found.verdict == "reproduced" and effect.low < 0.38 < effect.high
    assert effect.seeds.variance < 0.01, "with the shifts in it, it would be about 0.03"
    left, right = found.outcomes[0].ours.split(" vs ")
    assert float(left) - float(right) == pytest.approx(effect.value, abs=2e-3)


def test_sweeps_peaks_and_places_measured_elsewhere(world):
    names = ("norm", "internvl", "noise2", "noise4", "noise6", "noise8")
    places = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8)
    scores = (0.3, 0.3, 0.3, 0.7, 0.7, 0.3)
    for name, place, mean in zip(names, places, scores, strict=True):
        arm = "ae_internvl" if name == "internvl" else f"ae_internvl_{name}"
        world.arm(arm, 0.9 - place, "scenes/psnr-mean", scale=30.0, unit="dB")
        world.arm(f"query_ar_{name}", mean)
    ae = ["ae_internvl_norm", "ae_internvl", *(f"ae_internvl_{n}" for n in names[2:])]
    falls = Comparison(
        metric="scenes/psnr-mean", kind="sweep", sweep=list(zip(ae, places, strict=True)), direction="lower"
    )
    peak = Comparison(metric=G, left=["query_ar_noise4", "query_ar_noise6"], right=["query_ar_norm", "query_ar_noise8"])
    found = world.judge(claim(falls), claim(peak, number="C2"))
    assert [one.verdict for one in found] == ["reproduced"] * 2
    effect = found[0].outcomes[0].effects[0]
    assert effect.low < -0.8 * 30 < effect.high, "the change from one end to the other"
    by = [(f"query_ar_{n}", a) for n, a in zip(names, ae, strict=True)]
    inverse = Comparison(metric=G, kind="sweep", sweep=by, by="scenes/psnr-mean", direction="lower")
    assert world.judge(claim(inverse))[0].verdict == "reproduced", "the higher PSNR, the lower the score"


def test_a_share_of_another_score_and_a_baseline_without_seeds(world):
    world.arm("query_ar_qwen", 0.8)
    world.arm("query_ar_qwen@16x", 0.6)
    (found,) = world.judge(claim(versus("query_ar_qwen@16x", "shuffled")))
    assert found.said.startswith("not run (3 of 4 models; `vgt eval geneval --subject fake:shuffled --set size=32")
    world.score("shuffled", G, 0.1)
    half = versus("query_ar_qwen@16x", "query_ar_qwen", share=0.5)
    nearly = versus("query_ar_qwen@16x", "query_ar_qwen", share=0.95)
    found = world.judge(
        claim(half), claim(nearly, number="C2"), claim(versus("query_ar_qwen@16x", "shuffled"), number="C3")
    )
    assert [one.verdict for one in found] == ["reproduced", "contradicted", "reproduced"]
    assert " vs 0.5 of " in found[0].outcomes[0].ours
    low, high = re.search(r"\[(\d+)%, (\d+)%\]", found[0].outcomes[0].ours).groups()
    assert 60 < int(low) < 75 < int(high) < 90
    assert found[2].outcomes[0].effects[0].seeds.freedom == 2


def test_learning_curves_and_the_ratio_of_images(world):
    steps = (100, 200, 400, 800, 1600)
    for arm, faster in (("query_ar_internvl", 4.0), ("query_ar_pixel", 1.0)):
        world.training(arm, steps=1600, count=1600 * 64)
        for seed in SEEDS:
            for step in steps:
                subject = recipe.model("micro", ARMS[arm], seed) + ("" if step == steps[-1] else f"-step{step}")
                world.score(subject, G, 0.13 * np.log(step * faster / 60), 1)
    above = versus("query_ar_internvl", "query_ar_pixel", kind="curve")
    ratio = versus("query_ar_internvl", "query_ar_pixel", kind="images")
    twenty = versus("query_ar_internvl", "query_ar_pixel", kind="images", against=20.0)
    found = world.judge(claim(above), claim(ratio, number="C2"), claim(twenty, number="C3", need="any"))
    assert [one.verdict for one in found] == ["reproduced", "reproduced", "contradicted"]
    assert found[0].outcomes[0].labels == tuple(f"step {step:,}" for step in steps)
    for effect in found[1].outcomes[0].effects:
        assert effect.low < np.log(4) < effect.high
    assert "x [" in table.markdown(verdicts.table("vgt", "micro", found))
    missing = next(world.root.glob("micro_query_ar_pixel-s1-step400*/*/*.json"))
    missing.unlink()
    assert "different steps" in world.judge(claim(above))[0].said


def test_replicates_and_intervals_stand_in_for_samples(world):
    rng = np.random.default_rng(0)
    for arm, value in (("ae_internvl_stage1", 100.0), ("ae_internvl_vit", 150.0)):
        for seed in SEEDS:
            fields = {"extra": {REPLICATES: (value + rng.normal(0, 0.3, 20)).tolist()}}
            subject = recipe.model("micro", ARMS[arm], seed)
            made = make(subject, "scenes", "fd-efflite2", value + rng.normal(0, 1), 5.0, **fields)
            record.write(made.model_copy(update={"fingerprint": files.digest(subject)}), world.root)
            record.write(make(subject, "scenes", "lpips", value / 100, 0.05), world.root)
    fd, other = (
        versus("ae_internvl_stage1", "ae_internvl_vit", f"scenes/{metric}", direction="lower")
        for metric in ("fd-efflite2", "lpips")
    )
    found = world.judge(claim(fd), claim(other, number="C2"))
    assert [one.verdict for one in found] == ["reproduced", "reproduced"]
    assert found[0].outcomes[0].note == "items in common blocks" and "not paired" in found[1].outcomes[0].note


def test_samples_of_another_run_are_refused(world):
    world.arm("query_ar_qwen", 0.7)
    made = world.score("micro_mar_qwen-s0", G, 0.3, 1)
    world.score("micro_mar_qwen-s1", G, 0.3, 1)
    world.score("micro_mar_qwen-s2", G, 0.3, 1)
    record.write(made.model_copy(update={"value": 0.31, "hashes": {}}), world.root)
    with pytest.raises(ValueError, match="of another run"):
        world.judge(claim(versus("query_ar_qwen", "mar_qwen")))


def test_input_that_cannot_be_judged():
    with pytest.raises(ValueError, match="two seeds or more.*--seeds"):
        verdicts.judge("vgt", "micro", Measured([]), seeds=[0])
    with pytest.raises(ValueError, match="scale 'huge' is unknown"):
        verdicts.judge("vgt", "huge", Measured([]))
    with pytest.raises(ValueError, match="needs parts, or why"):
        claim()
    with pytest.raises(ValueError, match="give both"):
        versus("query_ar_qwen@4x", "mar_qwen@4x", left_from="query_ar_qwen")
    with pytest.raises(ValueError, match="ratio of images"):
        versus("query_ar_qwen", "mar_qwen", against=20.0)
    numbers = published.load("vgt")
    for made, message in (
        (claim(versus("query_ar_qwen", "mar_gwen")), "arm 'mar_gwen' is unknown"),
        (claim(versus("query_ar_qwen", "mar_qwen", paper={"table": "table88"})), "table88"),
        (claim(versus("query_ar_qwen", "mar_qwen", paper={"table": "table8", "column": "fid"})), "no column 'fid'"),
        (claim(versus("query_ar_qwen", "mar_qwen", paper={"table": "table8", "left": ["MAR 2x"]})), "no row 'MAR 2x'"),
    ):
        with pytest.raises(ValueError, match=message):
            verdicts.check([made], ARMS, numbers)
    with pytest.raises(ValueError, match="stands twice"):
        verdicts.check([claim(versus("query_ar_qwen", "mar_qwen"))] * 2, ARMS, numbers)


def test_every_claim_of_the_paper_has_its_place():
    claims = verdicts.load("vgt")
    assert {int("".join(c for c in one.number if c.isdigit())) for one in claims} == set(range(1, 21))
    assert {one.number for one in claims if one.why} == {"C2", "C19"}
    shown = verdicts.table("vgt", "micro", verdicts.judge("vgt", "micro", Measured([])))
    rows = {row.label: row.cells for row in shown.rows}
    assert rows["C11.1"]["paper"].value == "0.62 vs 0.51" and rows["C14a"]["paper"].value == "-0.03 vs -0.05"
    assert rows["C17a.1"]["paper"].value == "above at 15 of 15 points"
    assert rows["C17a.3"]["paper"].value == "11x to its last score"
    assert rows["C2"]["verdict"].value.startswith("not testable here (")
    assert all("not run (0 of" in row["verdict"].value for n, row in rows.items() if n not in ("C2", "C19"))


def test_claims_of_another_paper():
    claims = verdicts.load("vfmtok")
    assert [one.number for one in claims] == [f"C{n}" for n in range(1, 11)]
    assert {one.number for one in claims if one.why} == {"C9", "C10"}
    shown = verdicts.table("vfmtok", "micro", verdicts.judge("vfmtok", "micro", Measured([])))
    rows = {row.label: row.cells for row in shown.rows}
    assert "`vgt reproduce paper --paper vfmtok --scale micro --only C5`" in rows["C5"]["verdict"].value
    assert rows["C5.1"]["paper"].value == "0.89 vs 0.95" and rows["C7.1"]["claim"].value.endswith(
        "GPT on VFMTok below GPT on VFMTok with guidance 1.5"
    )
    assert rows["C6.1"]["paper"].value == "below at 1 of 1 points" and rows["C4.2"]["paper"].value == "+0.15 vs -0.51"
    assert "docs/vfmtok.md 16" in shown.notes[0]


def test_models_at_another_guidance_are_compared():
    """Variants of one training, by the name that a measurement gave, with fewer images than the protocol's."""
    records = []
    for seed in range(3):
        for variant, guidance, value in (("", 1.0, 20.0), ("-guided", 1.5, 30.0)):
            blocks = [value + 0.1 * seed + 0.01 * (k % 5) for k in range(20)]
            extra = {"settings": {"guidance": guidance}, REPLICATES: blocks}
            fields = {"n": 2400, "n_expected": 50_000, "extra": extra}
            records.append(
                make(
                    f"micro_gpt_vfmtok-s{seed}{variant}",
                    "scenes-single_object",
                    "fd-efflite2",
                    value + (0.2 if variant else 0.1) * seed,
                    **fields,
                )
            )
    part = Comparison(
        metric="scenes-single_object/fd-efflite2", left=["gpt_vfmtok"], right=["gpt_vfmtok-guided"], direction="lower"
    )
    (judged,) = verdicts.judge("vfmtok", "micro", Measured(records), claims=[claim(part, free=["guidance"])])
    assert judged.verdict == "reproduced" and judged.outcomes[0].effects[0].value == pytest.approx(-10.1)
    (judged,) = verdicts.judge("vfmtok", "micro", Measured(records), claims=[claim(part)])
    assert "guidance 1.5 and 1.0" in judged.said or "guidance 1.0 and 1.5" in judged.said
    few = [r.model_copy(update={"n": 2399}) for r in records]
    (judged,) = verdicts.judge("vfmtok", "micro", Measured(few), claims=[claim(part, free=["guidance"])])
    assert judged.verdict == "not run", "fewer than the scale asks for"


def test_the_other_papers_against_themselves_by_arithmetic():
    rows = {row.label: row.cells["arithmetic"].value for row in inconsistencies.table("vfmtok").rows}
    assert rows["FID of VFMTok-XXL with guidance"].endswith("2.28 (VFMTok-XXL, repository): 0.09 apart")
    assert rows["Epochs of VFMTok-XL"].endswith("100 apart")
    assert rows["Better without guidance on other vision models"] == (
        "below in 8 of 9 rows; not in B on SigLIP (3.75 and 3.53)"
    )
    assert "LlamaGen-3B 9.38 / 2.19 = 4.3" in rows["VQGAN without guidance 4 to 6 times worse"]
    with pytest.raises(ValueError, match="needs one of values"):
        inconsistencies.Stated(what="a", so="b", values=[("t", "r", "c")])
    lost = inconsistencies.Stated(what="a", so="b", values=[("towers", "B on SigLIP", "fid"), ("towers", "X", "fid")])
    with pytest.raises(StopIteration):
        lost.arithmetic(published.load("vfmtok"))


def test_the_paper_against_itself_by_arithmetic():
    rows = {row.label.split(" (")[0]: row.cells for row in inconsistencies.table().rows}
    assert len(rows) == 7
    convergence = rows['Convergence "up to 20x"']
    assert "InternVL3 0.6B 10.8" in convergence["arithmetic"].value and "11x" in convergence["so"].value
    scores = rows["One autoencoder, several scores"]["arithmetic"].value
    assert "0.49 (Table 1), 0.54 (Table 5), 0.72 (Table 6)" in scores
    assert "difference of 0.01" in rows["Inverse trend of reconstruction and generation"]["so"].value
    assert "= 1.75" in rows["448 px shrunk to 256 px before scoring"]["arithmetic"].value
    level = rows["Level of QueryAR in Table 8"]["arithmetic"].value
    assert "-0.01 and -0.24 from the pretrained" in level and "-0.21 and -3.50 from the fine-tuned" in level
    assert "4 times" in rows["SSIM with data range 2 on images in [0, 1]"]["so"].value


def everything(rng, truth, spread: float = 0.03, seeds=SEEDS, steps=(100, 200, 400, 800)):
    """(records, samples by name) of every model that the claims are about; ``truth(term, metric, step)``: its score as
    a share, one for all snapshots."""
    ids = [f"{p}/{i}" for p in range(PROMPTS) for i in range(IMAGES)]
    clusters = [str(p) for p in range(PROMPTS) for _ in range(IMAGES)]
    groups = [f"task{p % TASKS}" for p in range(PROMPTS) for _ in range(IMAGES)]
    prompts = rng.normal(0, 0.1, PROMPTS)
    units = {G: ("share", 1.0), D: ("of 100", 100.0), "scenes/psnr-mean": ("dB", 30.0)}
    records, kept, shifts = {}, {}, {}
    evidence = verdicts.Evidence(ARMS, "micro", tuple(seeds), Measured([]), lambda _: None)

    def add(subject: str, metric: str, mean: float, accel: int | None) -> None:
        unit, scale = units.get(metric, ("share", 1.0))
        suite, name = metric.split("/")
        chance = np.clip(mean + prompts[:, None], 0, 1)
        values = (scale * (rng.random((PROMPTS, IMAGES)) < chance)).ravel()
        extra = {}
        if name.startswith("fd-"):
            extra = {REPLICATES: (100 * mean + rng.normal(0, 0.05, 20)).tolist()}
        value = 100 * mean if extra else float(values.mean())
        made = make(
            subject, suite, name, value, 0.03, len(values), accel=accel, unit="" if extra else unit, extra=extra
        )
        records[made.name] = made
        kept[made.name] = None if extra else Samples(ids, values.tolist(), clusters, groups)

    def shift(key) -> float:
        return shifts.setdefault(key, rng.normal(0, spread))

    for claim in verdicts.load("vgt"):
        for part in claim.parts:
            terms = [(t, part.metric) for t in part.terms] + [(at, part.by) for _, at in part.sweep if part.by]
            for term, metric in terms:
                for seed in evidence.of(term):
                    subject, accel = evidence.subject(term, seed), verdicts._accel(ARMS, term)
                    steps_ = (*steps, None) if part.kind in ("curve", "images") else (None,)
                    for step in steps_:
                        name = subject + (f"-step{step}" if step else "")
                        if (name, accel, metric) in shifts:
                            continue
                        shifts[name, accel, metric] = 0.0
                        mean = truth(term, metric, step) + (shift((subject, metric)) if term != "shuffled" else 0)
                        add(name, metric, mean, accel)
                    if arm := verdicts._trained(ARMS, term):
                        told = {"samples": 1600 * 64, "steps": 1600}
                        made = make(recipe.model("micro", ARMS[arm], seed), "training", "loss", 0.2, extra=told)
                        records[made.name] = made
    return Measured(records.values()), lambda record: kept.get(record.name)


def false_verdicts(worlds: int, seeds, spread: float) -> float:
    """The share of worlds without any difference in which some claim is said to be decided."""
    rng = np.random.default_rng(5)
    claims = [one for one in verdicts.load("vgt") if one.parts and one.number not in ("C17b", "C20")]
    wrong = 0
    for _ in range(worlds):
        measured, lookup = everything(rng, lambda term, metric, step: 0.4, spread, seeds)
        found = verdicts.judge("vgt", "micro", measured, lookup, seeds, claims)
        assert sum(one.p is not None for one in found) >= len(found) - 1, "C17a has no score that all curves pass"
        wrong += any(one.verdict in (verdicts.REPRODUCED, verdicts.CONTRADICTED) for one in found)
    return wrong / worlds


def test_a_paper_without_effects_is_left_undecided():
    assert false_verdicts(10, SEEDS, 0.03) <= 0.3


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [(0, 1), SEEDS])
@pytest.mark.parametrize("spread", [0.0, 0.03, 0.1])
def test_false_verdicts_of_the_whole_paper(seeds, spread):
    """In 100 papers without effects: at most what 5 % make of it."""
    assert false_verdicts(100, seeds, spread) <= 0.13


def test_what_a_claim_needs_is_arms_of_the_recipe():
    arms = {arm.id for arm in recipe.load("vgt").arms}
    needed = verdicts.needed("vgt")
    assert set(needed["C11"]) == {"query_ar_qwen", "mar_qwen"}
    assert {"ae_internvl_sharp", "query_ar_sharp"} <= set(needed["C7"])  # a sweep over the autoencoders' own scores
    assert all(set(found) <= arms for found in needed.values())
