"""The class-conditional GPT over codes (docs/vfmtok.md 11-13, 20): equations, sampling, the engine."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vgt.core import config as configs
from vgt.inference.code_engine import CodeEngine
from vgt.methods import code_gpt
from vgt.methods.code_gpt import CodeGPT, CodeGPTConfig, CodeGPTTraining, generate
from vgt.methods.sampling import CodeSampling

SMALL = {"classes": 5, "grid": (2, 3), "codebook_size": 11, "layers": 2, "heads": 2, "width": 32, "ffn": 48}


def small(**changes) -> CodeGPT:
    """A network whose logits are far from equal, and whose gains are far from 1."""
    torch.manual_seed(0)
    model = CodeGPT(configs.validated(CodeGPTConfig, {**SMALL, **changes}, "test"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.15 + (parameter.ndim == 1))
        model.output.weight.mul_(8)
    return model.eval()


def some(model: CodeGPT, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    codes = torch.randint(model.config.codebook_size, (count, model.tokens), generator=rng)
    return codes, torch.randint(len(model.config.classes), (count,), generator=rng)


@pytest.mark.parametrize(("size", "millions"), [
    ((12, 12, 768), 110.9), ((24, 16, 1024), 342.9), ((36, 20, 1280), 774.7),
    ((48, 24, 1536), 1411.0), ((48, 32, 1920), 2188.4), ((24, 32, 3200), 3096.7),
])  # fmt: skip
def test_parameters_of_the_published_sizes(size, millions):
    layers, heads, width = size
    shape = {"classes": 1000, "grid": (16, 16), "codebook_size": 16384, "heads": heads, "width": width}
    with torch.device("meta"):  # all layers are alike
        one, two = (sum(p.numel() for p in CodeGPT(CodeGPTConfig(layers=n, **shape)).parameters()) for n in (1, 2))
    assert round((one + (layers - 1) * (two - one)) / 1e6, 1) == millions


def test_rotations():
    """The class's row is zero; neighbours in a row of the grid differ in the second half of the pairs alone."""
    table = code_gpt.rotations((3, 4), 16, "zero")
    assert table.shape == (2, 13, 8) and not table[:, 0].any()
    a, b, below = table[:, 1 + 5], table[:, 1 + 6], table[:, 1 + 9]
    assert torch.equal(a[:, :4], b[:, :4]) and not (a[:, 4:] == b[:, 4:]).any()
    assert torch.equal(a[:, 4:], below[:, 4:]) and not (a[:, :4] == below[:, :4]).any()
    assert torch.allclose(table[0, 1 + 9, 1], torch.tensor(2 * 10000 ** (-2 / 8)).cos())
    identity = code_gpt.rotations((3, 4), 16, "identity")
    assert torch.equal(identity[:, 0], torch.tensor([[1.0], [0.0]]).expand(2, 8))
    assert torch.equal(identity[:, 1:], table[:, 1:])


def computed(model: CodeGPT, codes: np.ndarray, label: int) -> np.ndarray:
    """Logits [N, K] of one image, place by place in double precision with complex rotations."""
    state = {key: value.double().numpy() for key, value in model.state_dict().items()}
    config, columns = model.config, model.config.grid[1]
    heads, e = config.heads, config.width // config.heads
    x = np.stack([state["cls_embedding.weight"][label], *state["tok_embeddings.weight"][codes[:-1]]])
    turn = np.zeros((len(x), e // 2), complex)
    turn[0] = 0 if config.class_row == "zero" else 1
    for t in range(len(x) - 1):
        place = [t // columns] * (e // 4) + [t % columns] * (e // 4)
        turn[t + 1] = [np.exp(1j * p * 10000 ** (-2 * (j % (e // 4)) / (e / 2))) for j, p in enumerate(place)]

    def normed(v, gain):
        return v / np.sqrt((v**2).mean(-1, keepdims=True) + 1e-5) * state[gain]

    for n in range(config.layers):
        q, k, v = np.split(
            normed(x, f"layers.{n}.attention_norm.weight") @ state[f"layers.{n}.attention.wqkv.weight"].T, 3, 1
        )
        mixed = np.zeros_like(x)
        for h in range(heads):
            own = slice(h * e, (h + 1) * e)
            a, b = ((m[:, own][:, ::2] + 1j * m[:, own][:, 1::2]) * turn for m in (q, k))
            for i in range(len(x)):
                s = np.array([(a[i] * b[j].conj()).real.sum() for j in range(i + 1)]) / np.sqrt(e)
                w = np.exp(s - s.max())
                mixed[i, own] = (w / w.sum()) @ v[: i + 1, own]
        x = x + mixed @ state[f"layers.{n}.attention.wo.weight"].T
        u = normed(x, f"layers.{n}.ffn_norm.weight")
        w1, w2, w3 = (state[f"layers.{n}.feed_forward.w{k}.weight"].T for k in (1, 2, 3))
        gate = u @ w1
        x = x + (gate / (1 + np.exp(-gate)) * (u @ w3)) @ w2
    return normed(x, "norm.weight") @ state["output.weight"].T


@pytest.mark.parametrize("row", ["zero", "identity"])
def test_the_network_is_its_equations(row):
    model = small(class_row=row)
    codes, labels = some(model)
    with torch.no_grad():
        logits = model(codes, labels)
    for k in range(len(codes)):
        wanted = computed(model, codes[k].numpy(), int(labels[k]))
        assert np.allclose(logits[k].numpy(), wanted, atol=2e-4 * np.abs(wanted).max())
    sums = -torch.log_softmax(logits, -1).gather(2, codes[..., None]).sum((1, 2))
    assert torch.allclose(model.image_losses(codes, labels), sums, rtol=1e-5)


@torch.no_grad()
def test_cached_decoding_equals_the_full_pass_at_every_place():
    model = small()
    codes, labels = some(model)
    whole, table = model(codes, labels), model.rotations()
    caches = [[] for _ in model.layers]
    x = model.cls_embedding(labels)
    for t in range(model.tokens):
        logits = model.read(x[:, None], table[:, t : t + 1], caches)[:, 0]
        assert torch.allclose(logits, whole[:, t], atol=1e-4 * float(whole.abs().max())), t
        x = model.tok_embeddings(codes[:, t])


def test_a_new_network_knows_nothing():
    torch.manual_seed(0)
    model = CodeGPT(CodeGPTConfig(**SMALL))
    codes, labels = some(model)
    assert torch.allclose(model.image_losses(codes, labels), torch.tensor(6 * np.log(11.0)).float(), rtol=1e-5)


# ------------------------------------------------------------------------------------------------------ sampling


@torch.no_grad()
def slowly(model: CodeGPT, labels, seeds, settings: CodeSampling) -> torch.Tensor:
    """Every token from whole passes, with and without the class."""
    uniform = code_gpt.uniforms(seeds, model.tokens)
    codes = torch.zeros(len(seeds), model.tokens, dtype=torch.long)
    for t in range(model.tokens):
        c = model(codes, labels)[:, t]
        u = model(codes, torch.full_like(labels, model.without_class))[:, t]
        on = settings.guidance > 1 and t < (settings.guidance_until or model.tokens)
        codes[:, t] = code_gpt.chosen(u + settings.guidance * (c - u) if on else c, uniform[:, t], settings)
    return codes


CHOICES = (
    {}, {"guidance": 2.0}, {"guidance": 2.0, "guidance_until": 2}, {"temperature": 0.6, "top_k": 4},
    {"guidance": 1.5, "top_p": 0.7},
)  # fmt: skip


@pytest.mark.parametrize("chosen", CHOICES, ids=str)
@pytest.mark.parametrize("row", ["zero", "identity"])
def test_loop_and_engine_equal_whole_passes(chosen, row):
    model, settings = small(class_row=row), CodeSampling(**chosen)
    labels, seeds = torch.tensor([0, 3, 4, 0]), [1, 2, 3, 4]
    codes, seen = generate(model, labels, seeds, settings), []
    assert torch.equal(codes, slowly(model, labels, seeds, settings))
    engine = CodeEngine(model)
    assert torch.equal(engine(labels, seeds, settings, lambda done, n, made: seen.append((done, n))), codes)
    assert seen == [(k, 6) for k in range(1, 7)]
    assert len(codes.unique(dim=0)) > 1
    engine.limit = 2  # as after running out of memory: fewer at a time, the same codes
    assert torch.equal(engine(labels, seeds, settings), codes)
    assert torch.equal(engine(labels[1:2], seeds[1:2], settings), codes[1:2])


def test_the_engine_notices_other_weights():
    model, labels = small(), torch.tensor([0, 1])
    engine = CodeEngine(model)
    before = engine(labels, [1, 2], CodeSampling())
    with torch.no_grad():
        model.output.weight.copy_(model.output.weight.flip(0))
    after = engine(labels, [1, 2], CodeSampling())
    assert torch.equal(after, generate(model, labels, [1, 2], CodeSampling())) and not torch.equal(after, before)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_without_guidance_the_branch_without_class_never_runs(scale, monkeypatch):
    model = small()
    with torch.no_grad():
        model.cls_embedding.weight[model.without_class] = torch.nan  # whatever reads it is lost
    settings = CodeSampling.of(model, {"guidance": scale})
    assert settings == CodeSampling() and settings.suffix(model.tokens) == ""
    rows = []
    model.layers[0].register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    labels = torch.tensor([0, 1, 2])
    codes = generate(model, labels, [1, 2, 3], settings)
    assert rows == [3] * model.tokens
    assert torch.equal(CodeEngine(model)(labels, [1, 2, 3], settings), codes)


def test_filters():
    p = torch.tensor([[0.1, 0.4, 0.05, 0.3, 0.15]])
    kept = lambda k, q: torch.isfinite(code_gpt.filtered(p.log(), k, q))[0].tolist()  # noqa: E731
    assert kept(0, 1.0) == [True] * 5
    assert kept(2, 1.0) == [False, True, False, True, False]
    assert kept(0, 0.69) == [False, True, False, True, False]
    assert kept(0, 0.71) == [False, True, False, True, True]
    assert kept(0, 1e-6) == [False, True, False, False, False]
    assert kept(3, 0.5) == [False, True, False, True, False]


def test_codes_come_as_often_as_they_are_likely():
    p = torch.tensor([0.1, 0.4, 0.0, 0.3, 0.2])
    uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    drawn = code_gpt.chosen(p.log().expand(1000, 5), uniform, CodeSampling())
    assert drawn.bincount(minlength=5).tolist() == [100, 400, 0, 300, 200]
    hot = code_gpt.chosen(p.log().expand(1000, 5), uniform, CodeSampling(temperature=0.5))
    assert abs(int((hot == 1).sum()) - 1000 * 0.16 / 0.30) <= 1


def test_settings_that_would_change_nothing_are_refused():
    model = small()
    for given, said in (
        ({"acceleration": 4}, "acceleration 4"), ({"top_k": 11}, "top_k 11"),
        ({"guidance_until": 3}, "guidance_until 3"), ({"guidance": 2.0, "guidance_until": 6}, "guidance_until 6"),
        ({"top_p": 0.0}, "top_p"), ({"temperature": 0.0}, "temperature"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            CodeSampling.of(model, given)
    told = CodeSampling.of(model, {"guidance": 1.5, "guidance_until": 3, "top_k": 4, "temperature": 0.9})
    assert told.suffix(6) == "+cfg1.5-until3+temperature0.9+top-k4"


def test_broken_weights_are_told():
    model = small()
    with torch.no_grad():
        model.tok_embeddings.weight.fill_(torch.nan)
    for decode in (lambda *given: generate(model, *given), CodeEngine(model)):
        with pytest.raises(ValueError, match="not finite from token 1 on"):
            decode(torch.tensor([0, 1]), [1, 2], CodeSampling())


# ------------------------------------------------------------------------------------------------------ training


def test_label_dropout_puts_in_the_row_without_class():
    off = {"token_dropout": 0.0, "residual_dropout": 0.0, "ffn_dropout": 0.0}
    codes, labels = some(small(), 400)
    always, never, some_of_them = (small(**off, label_dropout=share) for share in (1.0, 0.0, 0.1))
    rng = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    lost = always(codes, torch.full_like(labels, 5))
    assert torch.equal(always(codes, labels, rng()), lost)
    assert torch.equal(never(codes, labels, rng()), never(codes, labels))
    changed = (some_of_them(codes, labels, rng()) != some_of_them(codes, labels)).flatten(1).any(1)
    assert 20 < int(changed.sum()) < 65
    assert torch.equal(always(codes, labels), never(codes, labels)), "without a generator nothing is dropped"


def test_dropout_keeps_the_mean_and_its_randomness_is_an_argument():
    x = torch.ones(100, 100)
    made = [code_gpt.dropped(x, 0.1, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
    assert abs(float(made[0].mean()) - 1) < 0.02 and set(made[0].unique().tolist()) == {0.0, float(made[0].max())}
    model = small()
    codes, labels = some(model)
    system = CodeGPTTraining(model)
    losses = [
        system.loss("model", {"codes": codes, "labels": labels}, 0, torch.Generator().manual_seed(s))[0].item()
        for s in (1, 1, 2)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_bad_inputs_are_told_in_one_line():
    model = small()
    codes, labels = some(model)
    for wrong, said in (
        ((codes[:, :4], labels), "4 codes an image do not fit a grid of 2 x 3"),
        ((codes.clone().fill_(11), labels), "code 11 is outside the table of 11"),
        ((codes, labels.clone().fill_(6)), "class 6 is outside the table of 6"),
        ((codes, labels.clone().fill_(-1)), "class -1 is outside"),
    ):
        with pytest.raises(ValueError, match=said) as error:
            model.image_losses(*wrong)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="width 30 cannot have 4 heads"):
        small(width=30, heads=4)
    with pytest.raises(ValueError, match="same name"):
        small(classes=("a", "a"))
