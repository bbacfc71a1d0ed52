"""Decoding as the published code does it, against plain sequences (docs/vgt.md 2.11, 3.2), and its name in records.
KL autoencoders (docs/vgt.md 1.4)."""

from __future__ import annotations

import argparse
import copy
import json
from functools import partial

import numpy as np
import pytest
import torch
from conftest import CAPTIONS, FAMILIES, IMAGE
from transformers import AttentionInterface

from vgt.checkpoints import reference
from vgt.checkpoints.pretrained import place
from vgt.equations import flow, solvers
from vgt.inference import generator
from vgt.inference.engine import Engine
from vgt.methods import query_ar, registry
from vgt.methods.pixel_decoder import DecoderConfig
from vgt.methods.sampling import Sampling
from vgt.methods.vgt_ae import VGTAE, AELossConfig, VGTAEConfig, VGTAETraining
from vgt.methods.visual_lm import orders_and_noise
from vgt.vlm.prompts import tokenize

SEEDS = [11, 5, 2**40 + 3]
N = 16


def settings(acceleration: int = 1, guidance: float = 1.0, **fields) -> Sampling:
    return Sampling(acceleration=acceleration, guidance=guidance, flow_steps=3, **fields)


def published(acceleration: int = 1, guidance: float = 1.0, **fields) -> Sampling:
    return settings(acceleration, guidance, compat="reference", **fields)


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture
def one_start(visual_lms, family):
    """The family's model with one start token, as InternVL3 has."""
    model = copy.deepcopy(visual_lms[family])
    model.config = model.config.model_copy(update={"start_ids": model.config.start_ids[:1]})
    return model


def conditions_of(model, ids, mask, how, monkeypatch):
    """Conditions [R, N, D] in decode order, and the standardised latents [B, N, d], of one generation."""
    seen, sample = [], model.image_head.sample

    def watch(c, w, noise, table):
        seen.append(c.view(len(ids), -1, c.shape[-1]))
        return sample(c, w, noise, table)

    with monkeypatch.context() as patch:
        patch.setattr(model.image_head, "sample", watch)
        z = reference.generate(model, ids, mask, SEEDS, how)
    return torch.cat(seen, 1), model.standardize(z)


# ---------------------------------------------------------------------------- where it is the correct mode


@torch.no_grad()
def test_one_token_a_step_without_pads_is_the_correct_mode(one_start, vlms, family):
    """m = 1, one start token, one prompt, no guidance: the same latents, under either rule for positions."""
    ids, mask = tokenize(vlms[family].tokenizer, [CAPTIONS[1]])
    assert mask.all()
    correct = query_ar.generate(one_start, ids, mask, SEEDS[:1], settings())
    for mode in ("cumulative", "padded_len"):
        found = reference.generate(one_start, ids, mask, SEEDS[:1], published(position_mode=mode))
        assert torch.allclose(found, correct, atol=2e-5), mode


@torch.no_grad()
def test_it_differs_where_the_spec_says_so(visual_lms, one_start, vlms, family):
    """Pads, several tokens a step, and padded-length positions with two start tokens each change the latents."""
    words, model = vlms[family].tokenizer, visual_lms[family]
    alone = tokenize(words, [CAPTIONS[0]])
    padded = [t[:1] for t in tokenize(words, list(CAPTIONS))]
    assert not padded[1].all()

    def gap(net, rows, correct, wrong):
        a = query_ar.generate(net, *rows, SEEDS[:1], correct)
        return float((reference.generate(net, *rows, SEEDS[:1], wrong) - a).abs().max())

    assert gap(one_start, padded, settings(), published(position_mode="cumulative")) > 1e-2
    assert gap(one_start, alone, settings(4), published(4, position_mode="cumulative")) > 1e-2
    off_by_one = gap(model, alone, settings(), published(position_mode="padded_len"))
    assert (off_by_one > 1e-2) == (len(model.config.start_ids) == 2)


# ------------------------------------------------------------------------------- against plain sequences


def by_hand(module, query, key, value, attention_mask, scaling, **_):
    """Softmax attention as printed; a row that may attend to nothing gives zeros."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = (query @ key.mT * scaling).masked_fill(attention_mask < 0, -torch.inf)
    return (scores.softmax(-1).nan_to_num(0) @ value).transpose(1, 2), None


AttentionInterface.register("by_hand", by_hand)


def plain_conditions(model, ids, mask, u, order, m: int, mode: str, attention: str) -> list[torch.Tensor]:
    """Per row, conditions [N, D] in decode order.  Each step is one full pass over all that was fed so far; step 0
    hides the pads, later tokens see everything before them.  Pad rows see the text (dense) or nothing (flash)."""
    model = copy.deepcopy(model)
    model.language_model.set_attn_implementation("by_hand")
    conditions = []
    queries, places = model.queries(), model.position_embeddings()
    embed = model.language_model.get_input_embeddings()
    length, starts = ids.shape[1], list(model.config.start_ids)
    for row in range(len(ids)):
        real = int(mask[row].sum())
        inputs = [embed(ids[row, i]) for i in range(length)] + [embed(torch.tensor(i)) for i in starts]
        where = [min(i, real - 1) for i in range(length)] + [real + i for i in range(len(starts))]
        born = [0] * len(inputs)
        asked = []
        for g in range(N // m):
            group = order[g * m : (g + 1) * m].tolist()
            fed = []
            for i in order[(g - 1) * m : g * m].tolist() if g else []:
                latent = model.image_in_projector(u[row % len(u), i]) + places[i]
                fed += [latent] if m == 1 else [queries[i], latent]
            fed += [queries[i] for i in group]
            if g and mode == "padded_len":
                where += [length + g * len(fed) + k for k in range(len(fed))]
            else:
                where += [where[-1] + 1 + k for k in range(len(fed))]
            inputs, born = inputs + fed, born + [g] * len(fed)
            size = len(inputs)
            allowed = torch.zeros(size, size)
            for i in range(size):
                for j in range(i + 1):
                    if born[i] == 0 and real <= j < length:
                        continue
                    if attention == "flash" and real <= i < length:
                        continue
                    allowed[i, j] = 1
            blocked = (1 - allowed) * torch.finfo(torch.float32).min
            hidden = model.language_model(
                inputs_embeds=torch.stack(inputs)[None],
                attention_mask=blocked[None, None],
                position_ids=torch.tensor([where]),
            ).last_hidden_state[0, -m:]
            asked.append(model.image_out_projector(hidden))
        conditions.append(torch.cat(asked))
    return conditions


@pytest.mark.parametrize(
    ("mode", "attention", "m"),
    [
        ("cumulative", "flash", 1),
        ("padded_len", "flash", 4),
        ("cumulative", "dense", 4),
        ("padded_len", "dense", 1),
        ("cumulative", None, 1),
    ],
)
@torch.no_grad()
def test_conditions_are_those_of_a_plain_sequence(visual_lms, vlms, family, m, mode, attention, monkeypatch):
    """Three prompts of three lengths and their unconditional rows: kept queries, attended pads, shifted positions.
    Without a word on attention it is that of the released models."""
    model = visual_lms[family]
    ids, mask = tokenize(vlms[family].tokenizer, [*CAPTIONS, None, None, None])
    how = published(m, 2.0, position_mode=mode, attention=attention)
    found, u = conditions_of(model, ids, mask, how, monkeypatch)
    order = orders_and_noise(SEEDS, N, how.table.draws, model.config.d_z, "cpu")[0][0]  # the first image's, for all
    expected = plain_conditions(model, ids, mask, u, order, m, mode, attention or "flash")
    for row, wanted in enumerate(expected):
        assert torch.allclose(found[row], wanted, atol=3e-5), row


@torch.no_grad()
def test_the_two_attentions_differ_where_there_are_pads(visual_lms, vlms, family):
    model, words = visual_lms[family], vlms[family].tokenizer
    for captions, differ in ([CAPTIONS[0]], False), (list(CAPTIONS), True):
        rows = tokenize(words, captions)
        both = [
            reference.generate(model, *rows, SEEDS[: len(captions)], published(4, attention=how))
            for how in ("flash", "dense")
        ]
        assert bool((both[0] - both[1]).abs().max() > 1e-2) is differ
    assert not any(layer.self_attn.o_proj._forward_pre_hooks for layer in model.language_model.layers)


def test_flash_attention_of_an_unknown_language_model(visual_lms):
    model = copy.deepcopy(visual_lms["internvl"])
    model.config = model.config.model_copy(update={"text": {**model.config.text, "model_type": "odd"}})
    model.language_model.layers[0].self_attn.o_proj = None
    with (
        pytest.raises(ValueError, match="attention 'flash' is not known for a language model of type 'odd'; give"),
        reference.zero_rows(model, torch.ones(1, 3, dtype=torch.bool)),
    ):
        pass


@torch.no_grad()
def test_sampled_latents_are_rounded_before_they_are_normalised(visual_lms, vlms, monkeypatch):
    """With bf16 weights the sampler's result is bf16, and so is its norm (docs/vgt.md 2.9); the time is bf16 too."""
    model = place(copy.deepcopy(visual_lms["internvl"]), "cpu", torch.bfloat16)
    rows = tokenize(vlms["internvl"].tokenizer, [CAPTIONS[0]])
    seen, norm = set(), reference.position_norm
    monkeypatch.setattr(reference, "position_norm", lambda z: seen.add(z.dtype) or norm(z))
    z = reference.generate(model, *rows, SEEDS[:1], published(4))
    assert seen == {torch.bfloat16}
    assert z.dtype == torch.float32 and torch.allclose(z, z.bfloat16().float(), atol=1e-5)
    assert torch.equal(z, reference.generate(model, *rows, SEEDS[:1], published(4, head_inputs="bf16")))
    assert not torch.equal(z, reference.generate(model, *rows, SEEDS[:1], published(4, head_inputs="fp32")))


@pytest.mark.parametrize("decode", ["reference", "correct", "engine"])
@torch.no_grad()
def test_guidance_falls_by_groups(decode, visual_lms, vlms, monkeypatch):
    """1 + (w - 1)(1 - g / G), also where groups are of two sizes: 16 tokens at 3 a step are 5 groups, one of them of
    4 (docs/vgt.md 2.9, 2.11)."""
    model, seen, scale = visual_lms["internvl"], [], flow.cfg_scale
    monkeypatch.setattr(flow, "cfg_scale", lambda *given: seen.append(scale(*given)) or seen[-1])
    rows = tokenize(vlms["internvl"].tokenizer, [CAPTIONS[0], None])
    how = {"reference": published(3, 4.0), "correct": settings(3, 4.0), "engine": settings(3, 4.0)}[decode]
    run = {"reference": reference.generate, "correct": query_ar.generate}.get(decode)
    (partial(run, model) if run else Engine(model))(*rows, SEEDS[:1], how)
    assert seen == pytest.approx([4.0, 3.4, 2.8, 2.2, 1.6])


@torch.no_grad()
def test_positions_by_family(visual_lms, vlms, family, monkeypatch):
    """InternVL3 counts on, Qwen2.5-VL counts from the padded length; another family must be told (docs/vgt.md 2.11)."""
    model = visual_lms[family]
    ids, mask = tokenize(vlms[family].tokenizer, [CAPTIONS[0], CAPTIONS[1]])
    seen, read = [], model.read
    monkeypatch.setattr(model, "read", lambda x, mask, at, cache: seen.append(at) or read(x, mask, at, cache))
    reference.generate(model, ids, mask, SEEDS[:2], published(4))
    length, real, s = ids.shape[1], mask.sum(1, keepdim=True), len(model.config.start_ids)
    assert torch.equal(seen[0][:, -4:], real + s + torch.arange(4))
    last = real + s + 3
    for g, at in enumerate(seen[1:], 1):
        count = torch.arange(12)
        wanted = last + 1 + count if family == "internvl" else (length + 12 * g + count).expand(2, -1)
        assert torch.equal(at, wanted)
        last = at[:, -1:]


def test_positions_of_an_unreleased_family(visual_lms):
    model = copy.copy(visual_lms["internvl"])
    model.config = model.config.model_copy(update={"text": {**model.config.text, "model_type": "llama"}})
    with pytest.raises(ValueError, match="type 'llama'; give position_mode 'cumulative' or 'padded_len'"):
        reference.position_mode(model, published())
    assert reference.position_mode(model, published(position_mode="cumulative")) == "cumulative"


@torch.no_grad()
def test_orders_are_shared_and_noise_is_not(visual_lms, vlms):
    """Equal prompts without pads: an image of the batch is the same as alone only if it is decoded in the first one's
    order; its own seed decides the noise."""
    model, words = visual_lms["internvl"], vlms["internvl"].tokenizer
    twice = tokenize(words, [CAPTIONS[0]] * 2)
    alone = tokenize(words, [CAPTIONS[0]])
    together = reference.generate(model, *twice, [3, 4], published(4))
    raster = reference.generate(model, *twice, [3, 4], published(4, order="raster"))
    assert torch.allclose(together[0], reference.generate(model, *alone, [3], published(4))[0], atol=2e-5)
    assert not torch.allclose(together[1], reference.generate(model, *alone, [4], published(4))[0], atol=1e-2)
    assert not torch.allclose(together[0], together[1], atol=1e-2)
    alone_in_raster = reference.generate(model, *alone, [4], published(4, order="raster"))
    assert torch.allclose(raster[1], alone_in_raster[0], atol=2e-5)


@torch.no_grad()
def test_sampled_latents_are_always_normalised(visual_lms, vlms):
    """D12: also for an autoencoder without a norm, where the correct mode leaves them alone."""
    model = copy.copy(visual_lms["internvl"])
    model.config = model.config.model_copy(update={"latent_norm": False})
    rows = tokenize(vlms["internvl"].tokenizer, [CAPTIONS[0]])
    for decode, how, normal in ((reference.generate, published(4), True), (query_ar.generate, settings(4), False)):
        z = decode(model, *rows, SEEDS[:1], how)
        assert bool((z.var(-1, unbiased=False) - 1).abs().max() < 1e-3) is normal


@torch.no_grad()
def test_rounded_inputs_of_the_head(visual_lms, vlms):
    """ "bf16" rounds x and t on their way in, and nothing else: equal to a head that is fed rounded values."""
    model = visual_lms["internvl"]
    head, rounded = model.image_head, reference.RoundedHead(model.image_head)
    rng = torch.Generator().manual_seed(0)
    c, noise = torch.randn(2, 32, generator=rng), torch.randn(2, 2, 8, generator=rng)
    t = torch.tensor([0.0, 0.96]).bfloat16().float()
    x = noise[:, 0]
    v = head(x.bfloat16().float(), t[:1].expand(2), c)
    x = x + (v - x) * 0.96 + 2**0.5 * 0.96**0.5 * noise[:, 1]  # drift (1 + t) v - x at t = 0
    x = x + head(x.bfloat16().float(), t[1:].expand(2), c) * (1 - 0.96)
    assert torch.allclose(rounded.sample(c, 1.0, noise, solvers.table("sde", 2)), x, atol=1e-6)
    assert not torch.allclose(head.sample(c, 1.0, noise, solvers.table("sde", 2)), x, atol=1e-5)
    rows = tokenize(vlms["internvl"].tokenizer, [CAPTIONS[0]])
    fine = reference.generate(model, *rows, SEEDS[:1], published(4))
    coarse = reference.generate(model, *rows, SEEDS[:1], published(4, head_inputs="bf16"))
    assert 1e-5 < (fine - coarse).abs().max() < 1


# --------------------------------------------------------------------------------------- pixels, settings


def test_pixels_are_cut_off_not_rounded():
    x = torch.tensor([-2.0, -1.0, -0.999, 0.0, 0.0039, 0.99, 1.0, 2.0])
    found = reference.pixels(x.view(1, 1, 1, -1).expand(1, 3, 1, -1))
    assert found.shape == (1, 1, 8, 3) and found.dtype == torch.uint8
    assert found[0, 0, :, 0].tolist() == [0, 0, 0, 128, 128, 254, 255, 255]


@torch.no_grad()
def test_generate_takes_the_mode_from_the_settings(visual_lms, vlms, pixel_autoencoder):
    model, words = visual_lms["internvl"], vlms["internvl"].tokenizer
    how = published(4, 3.0)
    rows = tokenize(words, [*CAPTIONS, None, None, None])
    z = reference.generate(model, *rows, SEEDS, how).mT.reshape(3, 8, 4, 4)
    found = generator.generate(model, pixel_autoencoder, words, CAPTIONS, SEEDS, how)
    assert np.array_equal(found, reference.pixels(pixel_autoencoder.decode(z)).numpy())
    assert torch.equal(generator.latents(model, words, CAPTIONS, SEEDS, how), z)
    correct = generator.generate(model, pixel_autoencoder, words, CAPTIONS, SEEDS, settings(4, 3.0))
    assert not np.array_equal(found, correct)


def test_mar_has_no_published_mode(visual_lms, vlms, pixel_autoencoder):
    model = copy.copy(visual_lms["internvl"])
    model.config = model.config.model_copy(update={"method": "mar"})
    with pytest.raises(ValueError, match="published QueryAR models; mar has no such mode"):
        generator.generate(model, pixel_autoencoder, vlms["internvl"].tokenizer, ["a"], [1], published())


@pytest.mark.parametrize("field", [{"position_mode": "padded_len"}, {"head_inputs": "bf16"}, {"attention": "flash"}])
def test_options_of_the_published_mode_need_it(field):
    ((name, value),) = field.items()
    with pytest.raises(ValueError, match=f"{name} '{value}' is for compat 'reference'; give both or neither"):
        Sampling(**field)


def test_settings_that_would_change_nothing(visual_lms):
    model = copy.copy(visual_lms["internvl"])
    with pytest.raises(ValueError, match="cfg_schedule 'rising' has no effect with guidance 1"):
        Sampling.of(model, {"guidance": 1, "cfg_schedule": "rising"})
    with pytest.raises(ValueError, match="mar_schedule: Extra inputs are not permitted"):
        Sampling.of(model, {"mar_schedule": "uniform"})
    own = {"acceleration": 16, "schedule": "equal", "flow_budget": "falling"}
    assert Sampling.of(model, own).note(model) == "flow_budget 'falling' changes nothing with one decode step"
    words = "schedule 'cosine' changes nothing at acceleration "
    assert [Sampling(schedule="cosine", acceleration=a).note(model) for a in (1, 4, 16)] == [
        f"{words}1", None, f"{words}16"
    ]  # fmt: skip


@pytest.mark.parametrize("field", [{"schedule": "cosine"}, {"order": "spread"}, {"flow_budget": "falling"}])
def test_what_the_published_code_does_not_have(field):
    ((name, value),) = field.items()
    with pytest.raises(ValueError, match=f"{name} '{value}' is not in the published code that compat 'reference'"):
        published(**field)


@pytest.mark.parametrize(("method", "own", "other"), [("query_ar", "equal", "cosine"), ("mar", "cosine", "equal")])
def test_schedules_of_both_methods(method, own, other, visual_lms):
    """What a method does anyway is as if it were not said."""
    model = copy.copy(visual_lms["internvl"])
    model.config = model.config.model_copy(update={"method": method})
    assert Sampling.of(model, {"schedule": own}) == Sampling.of(model, {})
    assert Sampling.of(model, {"schedule": other}).schedule == other
    sizes = registry.get(method).part("loop").sizes
    cosine, equal = (sizes(16, Sampling(acceleration=4, schedule=s)) for s in ("cosine", "equal"))
    assert (cosine, equal) == ([2, 3, 5, 6], [4, 4, 4, 4])
    assert sizes(16, Sampling(acceleration=4)) == (equal if own == "equal" else cosine)


def test_settings_of_the_correct_mode_read_as_before():
    """Fingerprints of stored records hash this text."""
    plain = {"acceleration": 4, "guidance": 3.0, "cfg_schedule": None, "flow_steps": 15, "sampler": "sde",
             "order": "random", "mar_schedule": "cosine"}  # fmt: skip
    how = Sampling(acceleration=4, guidance=3.0, flow_steps=15)
    assert how.hashed == json.dumps(plain, separators=(",", ":"))
    assert how.model_dump() == {name: value for name, value in plain.items() if name != "mar_schedule"}
    kinds = ({"schedule": "cosine"}, {"schedule": "equal"}, {"order": "spread"}, {"flow_budget": "falling"})
    others = [how.model_copy(update=kind) for kind in kinds]
    assert len({one.hashed for one in (how, *others)}) == 5
    assert [Sampling(**one.model_dump()) for one in others] == others
    how = published(4, position_mode="padded_len")
    assert how.model_dump()["compat"] == "reference" and Sampling(**how.model_dump()) == how
    how = Sampling(time_schedule="shift:2")
    assert how.model_dump()["time_schedule"] == "shift:2" and Sampling(**how.model_dump()) == how


def test_the_command_line_says_what_belongs_together():
    from vgt.commands import options

    parser = argparse.ArgumentParser()
    options.add_sampling(parser)
    given = options.sampling(parser.parse_args(["--compat", "reference", "--position-mode", "padded_len"]))
    assert given == {"compat": "reference", "position_mode": "padded_len"}
    given = options.sampling(parser.parse_args(["--sampler", "ab2", "--flow-steps", "8", "--time-schedule", "power:2"]))
    assert given == {"sampler": "ab2", "flow_steps": 8, "time_schedule": "power:2"}
    assert options.sampling(parser.parse_args([])) == {}
    with pytest.raises(ValueError, match="position_mode 'padded_len' is for compat 'reference'"):
        Sampling(**options.sampling(parser.parse_args(["--position-mode", "padded_len"])))


# ----------------------------------------------------------------------------------------------- records


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "query_ar_internvl"),
        ({"compat": "reference"}, "query_ar_internvl+reference"),
        ({"compat": "reference", "position_mode": "padded_len"}, "query_ar_internvl+reference-padded_len"),
        ({"compat": "reference", "attention": "dense"}, "query_ar_internvl+reference-dense"),
        ({"flow_steps": 8}, "query_ar_internvl+sde-8"),
        ({"sampler": "ab2"}, "query_ar_internvl+ab2-15"),
        ({"sampler": "ab2", "flow_steps": 8, "time_schedule": "power:0.7"}, "query_ar_internvl+ab2-8-power0.7"),
        ({"compat": "reference", "sampler": "ode"}, "query_ar_internvl+reference+ode-15"),
        ({"sampler": "sde", "flow_steps": 15, "time_schedule": "linear"}, "query_ar_internvl"),
        ({"schedule": "equal", "order": "random", "flow_budget": "constant"}, "query_ar_internvl"),
        ({"schedule": "cosine"}, "query_ar_internvl+cosine"),
        ({"order": "spread"}, "query_ar_internvl+spread"),
        (
            {"flow_budget": "falling", "order": "raster", "schedule": "cosine", "flow_steps": 8},
            "query_ar_internvl+sde-8+cosine+raster+falling",
        ),
        ({"cfg_schedule": "falling", "compat": "none", "guidance": 3}, "query_ar_internvl"),
        ({"compat": "reference", "attention": "flash", "cfg_schedule": "falling"}, "query_ar_internvl+reference"),
        ({"compat": "reference", "head_inputs": "fp32"}, "query_ar_internvl+reference"),
        ({"compat": "reference", "position_mode": "cumulative"}, "query_ar_internvl+reference"),
        ({"compat": "reference", "head_inputs": "bf16"}, "query_ar_internvl+reference-bf16"),
        ({"compat": "reference", "head_inputs": "bf16", "dtype": "bf16"}, "query_ar_internvl+reference+bf16"),
        ({"compat": "reference", "head_inputs": "fp32", "dtype": "bf16"}, "query_ar_internvl+reference-fp32+bf16"),
    ],
)
def test_records_name_mode_and_sampler(fields, name):
    from evals.engine import generation
    from evals.subjects import load_generator

    found = load_generator("vgt:query_ar_internvl", accel=4, settings=fields)
    correct = load_generator("vgt:query_ar_internvl", accel=4)
    assert found.name == name and (found.fingerprint == correct.fingerprint) == (name == correct.name)
    run = generation.Run(found, found.name, 4, "s", [{"prompt": "a"}], 1, 0, 1)
    assert run.model == f"{name}@4x"
    assert dict(found.settings).get("compat") == {"none": None}.get(fields.get("compat"), fields.get("compat"))


@pytest.mark.parametrize(
    ("name", "typed", "other"),
    [
        ("mar_internvl", {"cfg_schedule": "rising"}, {"cfg_schedule": "falling"}),
        ("query_ar_internvl", {"cfg_schedule": "falling"}, {"cfg_schedule": "rising"}),
        ("query_ar_qwen", {"compat": "reference", "position_mode": "padded_len"}, {"position_mode": "cumulative"}),
        ("query_ar_internvl", {"time_schedule": "power:0.50"}, {"time_schedule": "power:0.51"}),
        ("query_ar_internvl", {"time_schedule": "shift:1.0"}, {"time_schedule": "shift:1.1"}),
    ],
)
def test_what_a_model_does_anyway_may_be_said(name, typed, other):
    """Names, fingerprints and stored settings are those of one way of sampling, however it is written."""
    from evals.subjects import load_generator

    plain = {"compat": "reference"} if "compat" in typed else {}
    if "time_schedule" in typed:
        plain = {"time_schedule": {"power:0.50": "power:.5", "shift:1.0": "power:1"}[typed["time_schedule"]]}
    one, same, changed = (load_generator(f"vgt:{name}", settings=each) for each in (plain, typed, {**typed, **other}))
    assert (same.name, same.fingerprint, same.settings) == (one.name, one.fingerprint, one.settings)
    assert changed.fingerprint != one.fingerprint and changed.settings != one.settings


def test_guidance_is_not_negative(visual_lms):
    with pytest.raises(ValueError, match=r"guidance: Input should be greater than or equal to 0 \(got -1"):
        Sampling.of(visual_lms["internvl"], {"guidance": -1.0})


def test_a_bundled_mar_is_no_subject_of_that_mode():
    from evals.subjects import load_generator

    with pytest.raises(ValueError, match="mar has no such mode"):
        load_generator("vgt:mar_internvl", settings={"compat": "reference"})
    with pytest.raises(ValueError, match="sampling settings: compat: Input should be 'none' or 'reference'"):
        load_generator("vgt:query_ar_internvl", settings={"compat": "old"})


# --------------------------------------------------------------------------------------- KL autoencoders


@pytest.fixture(scope="module")
def kl_ae():
    decoder = DecoderConfig(widths=(8, 16, 16, 16), layers=(0, 1, 1, 1), attention=0, upsample="pixel_shuffle")
    config = VGTAEConfig(vlm=None, image_size=IMAGE, d_z=8, decoder=decoder, pixel_width=16, pixel_stride=8, kl=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        ae = VGTAE(config)
        for p in ae.down_mlp.parameters():
            torch.nn.init.normal_(p, std=0.5)
    return ae.eval()


@torch.no_grad()
def test_kl_latents(kl_ae):
    """Means normalised, log-variances not; samples have those moments; without rng the mean."""
    images = torch.rand(1, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert kl_ae.down_mlp[1].weight.shape == (16, 16) and kl_ae.down_mlp[3].weight.shape == (16, 16)
    raw = kl_ae.project(kl_ae.features(images))
    assert raw.shape == (1, 16, 16)
    mean = torch.nn.functional.layer_norm(raw[..., :8], (8,), eps=1e-6)
    grid = mean.mT.reshape(1, 8, 4, 4)
    assert torch.allclose(kl_ae.encode(images), grid, atol=1e-6)
    rng = torch.Generator().manual_seed(1)
    drawn = torch.stack([kl_ae.latents(raw, rng)[0] for _ in range(4000)])
    std = (raw[..., 8:] / 2).exp()
    assert torch.allclose(drawn.mean(0), mean, atol=float(std.max()) / 12)
    assert torch.allclose(drawn.std(0) / std, torch.ones_like(std), atol=0.08)
    wanted = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, std), torch.distributions.Normal(0.0, 1.0)
    ).sum()
    assert torch.allclose(kl_ae.latents(raw)[1], wanted, rtol=1e-4)


@torch.no_grad()
def test_published_encoding_samples_from_a_seed_per_image(kl_ae, pixel_autoencoder):
    images = torch.rand(3, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(2)) * 2 - 1
    z = reference.encode(kl_ae, images, [1, 2, 2])
    assert torch.allclose(z[1:], reference.encode(kl_ae, images[1:], [2, 2]), atol=1e-6)
    assert (z - kl_ae.encode(images)).abs().max() > 1e-2
    same = reference.encode(kl_ae, images[[0, 0]], [1, 2])
    assert (same[0] - same[1]).abs().max() > 1e-2
    assert torch.allclose(
        reference.encode(pixel_autoencoder, images, [1, 2, 3]), pixel_autoencoder.encode(images), atol=1e-5
    )
    with pytest.raises(ValueError, match="3 images but 1 seeds"):
        reference.encode(kl_ae, images, [1])


def test_training_a_kl_autoencoder_adds_its_term(kl_ae):
    losses = AELossConfig(perceptual=0, distill=0, adversarial=0, kl=0.5)
    images = torch.rand(2, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(3)) * 2 - 1
    training = VGTAETraining(copy.deepcopy(kl_ae).train(), losses, None, None)
    total, parts = training.loss("model", {"images": images}, 0, torch.Generator().manual_seed(0))
    assert parts["kl"] > 0 and torch.allclose(total, parts["mse"] + 0.5 * parts["kl"])
    total.backward()
    assert training.ae.down_mlp[3].weight.grad[8:].abs().max() > 0  # the rows of the log-variances
