"""The decode engine draws what the reference implementations draw (docs/decode.md 5)."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import CAPTIONS, FAMILIES, GRID, widen
from small_vlms import further
from torch.utils._python_dispatch import TorchDispatchMode

from vgt.equations import solvers
from vgt.inference import engine as engines
from vgt.inference import generator, hoisted_head, static_lm
from vgt.inference.engine import Engine
from vgt.methods.flow_head import FlowHead, FlowHeadConfig
from vgt.methods.sampling import SCHEDULE, Sampling
from vgt.methods.visual_lm import VisualLM, VisualLMConfig
from vgt.vlm.prompts import tokenize

SEEDS = [11, 5, 2**40 + 3]
N = 16
METHODS = ("query_ar", "mar")


def settings(acceleration: int = 1, guidance: float = 3.0, **fields) -> Sampling:
    return Sampling(**{"acceleration": acceleration, "guidance": guidance, "flow_steps": 4, **fields})


def by_method(model: VisualLM, method: str) -> VisualLM:
    """The same parameters, decoded by another method."""
    twin = copy.copy(model)
    twin.config = model.config.model_copy(update={"method": method})
    return twin


def prompts(words, how: Sampling, captions=CAPTIONS):
    return tokenize(words, [*captions, *([None] * len(captions) if how.guidance != 1 else [])])


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def gemma():
    """(model, tokenizer) of a family whose layers are not the usual ones: further norms, windows, scaled embeddings."""
    found = further("gemma3")
    config = VisualLMConfig(
        method="query_ar",
        text=found.config.text_config.to_dict(),
        start_ids=(3, 5),
        query_grid=8,
        latent_grid=GRID,
        d_z=8,
        head=FlowHeadConfig(width=32, depth=2),
    )
    with torch.random.fork_rng(devices=[]):
        model = widen(VisualLM(config), 12).eval().requires_grad_(False)
    return model, found.tokenizer


# ----------------------------------------------------------------------------------------------- the same latents


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("acceleration", [1, 2, 4, 6, 16])
@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_equals_the_readable_loop(family, method, acceleration, guidance, visual_lms, vlms):
    """Ragged prompts, equal and unequal groups, with and without guidance: latents of standard deviation 1 to 2e-5."""
    model, how = by_method(visual_lms[family], method), settings(acceleration, guidance)
    ids, mask = prompts(vlms[family].tokenizer, how)
    assert len(set(mask.sum(1).tolist())) > 2
    expected = generator.eager(model)(ids, mask, SEEDS, how)
    found = Engine(model)(ids, mask, SEEDS, how)
    assert torch.allclose(found, expected, atol=2e-5)
    assert (found - expected).norm() < 1e-5 * expected.norm()
    assert expected.std() > 0.5


@pytest.mark.parametrize("fields", [
    {"sampler": "heun", "flow_steps": 5}, {"sampler": "dpmpp", "flow_steps": 6}, {"sampler": "ab2"},
    {"sampler": "ode", "time_schedule": "power:0.7"}, {"cfg_schedule": "constant"}, {"order": "raster"},
    {"schedule": "equal"}, {"schedule": "cosine"}, {"order": "spread"}, {"flow_budget": "falling"},
    {"flow_budget": "falling", "sampler": "heun", "flow_steps": 9}, {"flow_budget": "falling", "sampler": "ab2"},
    {"schedule": "cosine", "order": "spread", "flow_budget": "falling", "flow_steps": 6},
])  # fmt: skip
@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_every_setting_reaches_the_engine(method, fields, visual_lms, vlms):
    model, how = by_method(visual_lms["internvl"], method), settings(4, **fields)
    ids, mask = prompts(vlms["internvl"].tokenizer, how)
    found = Engine(model)(ids, mask, SEEDS, how)
    assert torch.allclose(found, generator.eager(model)(ids, mask, SEEDS, how), atol=2e-5)
    if fields != {"schedule": SCHEDULE[method]}:
        assert not torch.allclose(found, Engine(model)(ids, mask, SEEDS, settings(4)), atol=1e-3)


@pytest.mark.parametrize("acceleration", [1, 4])
@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_other_families_go_through_transformers(gemma, method, acceleration):
    model, words = by_method(gemma[0], method), gemma[1]
    how = settings(acceleration)
    ids, mask = prompts(words, how)
    decode = Engine(model)
    found = decode(ids, mask, SEEDS, how)
    assert any("gemma3_text are not fused" in note for note in decode.notes)
    expected = generator.eager(model)(ids, mask, SEEDS, how)
    assert (found - expected).norm() < 1e-4 * expected.norm()  # its weights spread rounding more than the others'


@torch.no_grad()
def test_both_language_models_are_one(family, visual_lms):
    """Fused and module by module: hidden states and what lands in the cache, equal to 1e-5."""
    model = visual_lms[family]
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 32, generator=rng)
    where = torch.tensor([4, 5, 6, 6, 6]) + torch.tensor([[0], [2], [7]])
    slots = torch.tensor([6, 7, 8, 9, 10])
    allowed = torch.rand(3, 5, 11, generator=rng) < 0.6
    allowed[:, torch.arange(5), slots] = True
    mask = torch.zeros(3, 1, 5, 11).masked_fill(~allowed[:, None], torch.finfo(torch.float32).min)
    made = []
    for lm in (static_lm.FusedLM(model.language_model), static_lm.ModuleLM(model)):
        cache = lm.cache(3, 16)
        cache.store[..., :6, :] = torch.randn(cache.store[..., :6, :].shape, generator=torch.Generator().manual_seed(1))
        hidden = lm(x, where, mask.repeat(1, 1, lm.group, 1), slots, cache, 3)
        chosen = lm(x, where, mask[:, :, -1:], slots, lm.cache(3, 16), torch.tensor([[0, 4], [1, 1], [2, 3]]))
        made.append((hidden, chosen, cache.store))
    assert made[0][0].shape == (3, 3, 32) and made[0][1].shape == (3, 2, 32)
    for one, other in zip(*made, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("rows", [2, 800])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("sampler", list(solvers.SAMPLERS))
@torch.no_grad()
def test_hoisted_head_is_the_head(sampler, guidance, rows, monkeypatch):
    """All samplers, with few and many modulations at a time."""
    monkeypatch.setattr(hoisted_head, "ROWS", rows)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = widen(FlowHead(FlowHeadConfig(width=48, depth=3), 8, 32), 5).eval()
    rng = torch.Generator().manual_seed(2)
    table = solvers.table(sampler, 7)
    c = torch.randn(5 * (1 if guidance == 1 else 2), 32, generator=rng)
    noise = torch.randn(5, table.draws, 8, generator=rng)
    expected = head.sample(c, guidance, noise, table)
    found = hoisted_head.HoistedHead(head).sample(c, guidance, noise, table)
    assert torch.allclose(found, expected, atol=1e-5) and expected.std() > 0.5
    told = hoisted_head.HoistedHead(head).sample(c, torch.tensor(guidance), noise, table)  # as a captured graph is told
    assert torch.allclose(told, expected, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_narrow_weights(method, visual_lms, vlms, pixel_autoencoder):
    """bf16 weights with fp32 state: as close to the reference implementation in bf16 as that is to fp32."""
    exact = by_method(visual_lms["internvl"], method)
    narrow = copy.deepcopy(exact).bfloat16()
    how = settings(4, 1.0)
    ids, mask = prompts(vlms["internvl"].tokenizer, how)

    def error(decode, expected):
        return float((decode(ids, mask, SEEDS, how).float() - expected).square().mean().sqrt())

    expected = generator.eager(exact)(ids, mask, SEEDS, how)
    of_engine, of_loop = error(Engine(narrow), expected), error(generator.eager(narrow), expected)
    assert 1e-4 < of_engine < 2 * of_loop < 0.5


# ----------------------------------------------------------------------------------------------- rows on their own


@pytest.mark.parametrize(
    ("acceleration", "chosen"), [(1, {}), (4, {}), (4, {"order": "spread", "flow_budget": "falling"})]
)
@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_rows_do_not_depend_on_their_neighbours(family, method, acceleration, chosen, visual_lms, vlms):
    """Identical bytes at one batch shape; 2e-5 alone."""
    decode, words = Engine(by_method(visual_lms[family], method)), vlms[family].tokenizer
    how = settings(acceleration, **chosen)

    def latents(captions, seeds):
        return decode(*prompts(words, how, captions), seeds, how)

    base = latents(CAPTIONS, SEEDS)
    permuted = latents([CAPTIONS[2], CAPTIONS[0], CAPTIONS[1]], [SEEDS[2], SEEDS[0], SEEDS[1]])
    assert torch.equal(permuted[[1, 2, 0]], base)
    others = latents([CAPTIONS[0], CAPTIONS[0], "a photo of a black moon"], [SEEDS[0], 99, 98])
    assert torch.equal(others[0], base[0]) and not torch.allclose(others[1], base[1], atol=0.1)
    for k, caption in enumerate(CAPTIONS):
        assert torch.allclose(latents([caption], SEEDS[k : k + 1])[0], base[k], atol=2e-5)


@torch.no_grad()
def test_every_distinct_prompt_is_read_once(visual_lms, vlms, monkeypatch):
    """Unconditional rows share one reading, and so do images of one prompt; chunks have one size."""
    monkeypatch.setitem(engines.PREFILL_ROWS, "cpu", 2)
    model, how = visual_lms["internvl"], settings(16)
    decode, read = Engine(model), []
    prefix = model.prefix
    monkeypatch.setattr(model, "prefix", lambda ids: read.append(ids) or prefix(ids))
    decode(*prompts(vlms["internvl"].tokenizer, how, [CAPTIONS[0]] * 5 + [CAPTIONS[1]]), list(range(6)), how)
    assert [len(ids) for ids in read] == [2, 2]
    assert len(torch.unique(torch.cat(read), dim=0)) == 3


@torch.no_grad()
def test_batches_of_other_shapes_follow_each_other(visual_lms, vlms):
    """What is kept from batch to batch changes nothing."""
    model, words = visual_lms["internvl"], vlms["internvl"].tokenizer
    decode = Engine(model)
    for how, captions in ((settings(4), CAPTIONS), (settings(1), CAPTIONS[:1]), (settings(4), CAPTIONS)):
        rows = prompts(words, how, captions)
        seeds = SEEDS[: len(captions)]
        assert torch.equal(decode(*rows, seeds, how), Engine(model)(*rows, seeds, how))


@torch.no_grad()
def test_changed_weights_are_noticed(visual_lms, vlms):
    model, how = copy.deepcopy(visual_lms["internvl"]), settings(4)
    rows = prompts(vlms["internvl"].tokenizer, how)
    decode = Engine(model)
    before = decode(*rows, SEEDS, how)
    for parameter in (model.image_head.res_blocks[0].in_ln.weight, model.language_model.layers[0].mlp.up_proj.weight):
        parameter.mul_(1.5)
        after = decode(*rows, SEEDS, how)
        assert not torch.allclose(after, before, atol=1e-3)
        assert torch.equal(after, Engine(model)(*rows, SEEDS, how))
        before = after


# ----------------------------------------------------------------------------------------------- as graphs


class NoLooking(TorchDispatchMode):
    """Refuses what a captured graph cannot hold: values read by the host, sizes that depend on values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in ("_local_scalar_dense", "nonzero", "item", "unique_dim"), func
        return func(*args, **(kwargs or {}))


class Replayed:
    """A stand-in for a captured graph: the step sees copies at places that stay, and its outputs are overwritten."""

    made: list = []

    def __init__(self, function):
        self.function, self.refusal, self.kept, self.calls = function, None, {}, 0
        self.made.append(self)

    def __call__(self, *tensors):
        assert all(isinstance(t, torch.Tensor) for t in tensors)
        key = tuple(t.shape for t in tensors)
        self.calls += 1
        if key not in self.kept:
            inputs = [t.clone() for t in tensors]
            self.function(*inputs)  # warm-up
            self.kept[key] = inputs, [t.clone() for t in self.function(*inputs)]
        inputs, outputs = self.kept[key]
        for place, given in zip(inputs, tensors, strict=True):
            place.copy_(given)
        with NoLooking():
            made = self.function(*inputs)
        for place, value in zip(outputs, made, strict=True):
            place.copy_(value)
        return tuple(outputs)


@pytest.mark.parametrize(
    ("acceleration", "chosen"),
    [
        (1, {}), (4, {}), (6, {}), (4, {"schedule": "cosine", "order": "spread"}), (2, {"flow_budget": "falling"}),
        (4, {"schedule": "cosine", "flow_budget": "falling", "order": "spread", "flow_steps": 6}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_steps_can_be_graphs(family, method, acceleration, chosen, visual_lms, vlms, monkeypatch):
    """With steps replayed from fixed places, as a GPU does, latents are those of the reference implementation;
    nothing in a step looks at values; and steps differ in few shapes and numbers of evaluations."""
    monkeypatch.setattr(engines, "Graphed", Replayed)
    monkeypatch.setattr(Replayed, "made", [])
    model, how = by_method(visual_lms[family], method), settings(acceleration, **chosen)
    rows = prompts(vlms[family].tokenizer, how)
    decode = Engine(model)
    decode._prepare()
    decode._on_gpu = True
    for _ in range(2):
        found = decode(*rows, SEEDS, how)
        assert torch.allclose(found, generator.eager(model)(*rows, SEEDS, how), atol=2e-5)
    sizes = decode.loop.sizes(decode.model.tokens, how)
    pending = [0, *(m if m == 1 else 2 * m for m in sizes)] if method == "query_ar" else [0] * len(sizes)
    shapes = {*zip(sizes, how.evaluations(sizes), pending, strict=False)}
    assert sum(len(graph.kept) for graph in Replayed.made) == len(shapes)
    assert sum(graph.calls for graph in Replayed.made) == 2 * len(sizes)


def test_a_graph_that_cannot_be_captured_says_why(monkeypatch):
    def refuse(self, tensors):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(engines.Graphed, "_capture", refuse)
    graphed = engines.Graphed(lambda x: (x + 1,))
    assert graphed(torch.ones(2))[0].tolist() == [2, 2] == graphed(torch.ones(2))[0].tolist()
    assert graphed.refusal == "no CUDA graph: operation not permitted when stream is capturing"


@torch.no_grad()
def test_the_engine_says_what_it_could_not_use(visual_lms, vlms):
    how = settings(16)
    decode = Engine(visual_lms["internvl"])
    decode(*prompts(vlms["internvl"].tokenizer, how), SEEDS, how)
    assert decode.notes == ["no CUDA graphs: the model is on cpu"]


# ----------------------------------------------------------------------------------------------- what goes wrong


def out_of_memory(decode: Engine, most: int, monkeypatch) -> list[int]:
    """Let the engine run out of memory with more than ``most`` rows; returns the rows of readings that went well."""
    read, seen = decode.read, []

    def limited(x, *rest):
        if len(x) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        seen.append(len(x))
        return read(x, *rest)

    monkeypatch.setattr(decode, "read", limited)
    return seen


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_out_of_memory_halves_the_batch(method, visual_lms, vlms, monkeypatch):
    model, how = by_method(visual_lms["internvl"], method), settings(8)
    captions, seeds = [CAPTIONS[k % 3] for k in range(7)], list(range(7))
    rows = prompts(vlms["internvl"].tokenizer, how, captions)
    expected = Engine(model)(*rows, seeds, how)
    decode = Engine(model)
    seen, steps = out_of_memory(decode, 4, monkeypatch), []
    found = decode(*rows, seeds, how, lambda done, total, u: steps.append((done, total, u.shape)))
    assert torch.allclose(found, expected, atol=2e-5)
    assert decode.limit == 1 and set(seen) == {2}  # 7 -> 3 -> 1 images, two rows each
    assert decode.notes[1:] == [
        "out of memory with 7 images at a time: 3 instead", "out of memory with 3 images at a time: 1 instead"
    ]  # fmt: skip
    assert {s[1:] for s in steps} == {(N, (7, N, 8))} and steps[-1][0] == N
    again = len(seen)
    decode(*rows, seeds, how)  # it does not try the large batch again
    assert len(decode.notes) == 3 and len(seen) == 2 * again


class SmallDecoder:
    """An autoencoder that decodes two images at a time at most."""

    def decode(self, z):
        if len(z) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 2 * z


def test_out_of_memory_in_the_autoencoder_halves_too():
    z = torch.arange(7.0)[:, None]
    assert torch.equal(generator.pixels(SmallDecoder(), z), 2 * z)


@torch.no_grad()
def test_out_of_memory_with_one_image_is_an_error(visual_lms, vlms, monkeypatch):
    how = settings(8)
    decode = Engine(visual_lms["internvl"])
    out_of_memory(decode, 1, monkeypatch)
    with pytest.raises(torch.OutOfMemoryError):
        decode(*prompts(vlms["internvl"].tokenizer, how), SEEDS, how)


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_numbers_that_are_not_finite_are_named(method, visual_lms, vlms, monkeypatch):
    """The first decode step with one, the image, and the token's place on the grid."""
    model, how = by_method(visual_lms["internvl"], method), settings(4, order="raster", schedule="equal")
    decode, calls = Engine(model), []
    head = decode.head

    def broken(hidden, w, noise, table):
        made = head(hidden, w, noise, table)
        calls.append(1)
        if len(calls) == 3:
            made[1, 2] = float("nan")
        return made

    monkeypatch.setattr(decode, "head", broken)
    with pytest.raises(ValueError, match=r"not finite in float32 from decode step 2 on \(image 1, token 10\)"):
        decode(*prompts(vlms["internvl"].tokenizer, how), SEEDS, how)


@torch.no_grad()
def test_prompts_that_do_not_fit(visual_lms, vlms):
    model, words, how = visual_lms["internvl"], vlms["internvl"].tokenizer, settings(4)
    ids, mask = prompts(words, how)
    longest = int(mask.sum(1).max())
    roomy = Engine(model, prompt_tokens=longest)(ids, mask, SEEDS, how)
    assert torch.allclose(Engine(model)(ids, mask, SEEDS, how), roomy, atol=2e-5)
    with pytest.raises(ValueError, match=f"prompt of {longest} tokens does not fit a cache for {longest - 1}; shorten"):
        Engine(model, prompt_tokens=longest - 1)(ids, mask, SEEDS, how)
    with pytest.raises(ValueError, match="need 533 positions, but the language model has 512; shorten the prompt"):
        Engine(model)(ids[:, :1].repeat(1, 500), mask[:, :1].repeat(1, 500), SEEDS, how)


def test_rows_and_seeds_must_match(visual_lms, vlms):
    rows = prompts(vlms["internvl"].tokenizer, settings())
    for seeds in ([], [1, 2]):
        with pytest.raises(ValueError, match=f"6 prompt rows for {len(seeds)} seeds"):
            Engine(visual_lms["internvl"])(*rows, seeds, settings())


def test_accelerations_that_are_one_setting_say_so(visual_lms):
    """16 tokens: 9 to 16 at a time are one step; 3 at a time are five steps."""
    from vgt.methods.sampling import Sampling

    model = visual_lms["internvl"]
    assert [Sampling(acceleration=m).note(model) for m in (1, 2, 4, 8, 16)] == [None] * 5
    notes = {m: Sampling(acceleration=m).note(model) for m in (3, 9, 15)}
    assert "5 steps, 3.2 tokens a step on average" in notes[3] and "same" not in notes[3]
    assert all("1 step, 16 tokens" in notes[m] and "accelerations 9 to 16" in notes[m] for m in (9, 15))


@pytest.mark.parametrize("acceleration", [0, 17])
def test_impossible_accelerations(acceleration, visual_lms, vlms):
    how = settings(acceleration)
    with pytest.raises(ValueError, match=f"acceleration {acceleration} is impossible with 16"):
        Engine(visual_lms["internvl"])(*prompts(vlms["internvl"].tokenizer, how), SEEDS, how)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_compiled(method, visual_lms, vlms):
    """torch.compile changes nothing but the speed (needs a C++ compiler)."""
    model, how = by_method(visual_lms["internvl"], method), settings(8)
    rows = prompts(vlms["internvl"].tokenizer, how)
    found = Engine(model, compiled=True)(*rows, SEEDS, how)
    assert torch.allclose(found, generator.eager(model)(*rows, SEEDS, how), atol=2e-5)
