"""VFMTok's parts against independent computations, and its promises (docs/vfmtok.md 20)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, SiglipVisionConfig, ViTConfig

from vgt.methods import regions
from vgt.methods.discriminator import FeatureDiscriminator, FeatureDiscriminatorConfig, GroupBatchNorm
from vgt.methods.pixel_decoder import DecoderConfig
from vgt.methods.quantizer import Quantizer
from vgt.methods.vfmtok import (
    TokenTransformer,
    VFMTok,
    VFMTokConfig,
    VFMTokLossConfig,
    VFMTokTraining,
    feature_loss,
    resampled,
)
from vgt.methods.vision_features import VisionConfig, VisionFeatures, usual_taps
from vgt.training.plan.trace import Fakes
from vgt.vlm.vlm import plain

SMALL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "patch_size": 8}
DINO = {
    "model_type": "dinov2_with_registers", "num_register_tokens": 4, "image_size": 48, "mlp_ratio": 2, **SMALL,
}  # fmt: skip
DECODER = DecoderConfig(kind="kl", widths=(8, 16, 32), layers=(1, 1, 1), attention=0)
SIZES = {
    "width": 32, "heads": 4, "layers": 2, "hidden": 48, "codebook_size": 64, "code_width": 8, "vit_layers": 2,
    "vit_hidden": 40,
}  # fmt: skip


def config(**given) -> VFMTokConfig:
    values = {"vision": {"hf": DINO, "size": 48}, "image_size": 32, "anchors": 3, "decoder": DECODER, **SIZES}
    return VFMTokConfig.model_validate(values | given)


def grid_config(**given) -> VFMTokConfig:
    values = {"vision": {"kind": "conv", "widths": [8, 16, 32]}, "tokens": "grid", "image_size": 32}
    sizes = {"width": 32, "codebook_size": 64, "code_width": 8, "decoder": DECODER}
    return VFMTokConfig.model_validate(values | sizes | given)


@pytest.fixture(scope="module")
def model() -> VFMTok:
    torch.manual_seed(0)
    return VFMTok(config()).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


# ------------------------------------------------------------------------------------------------------ full size


def full(size: int = 336, **given) -> VFMTokConfig:
    hf = {"model_type": "dinov2_with_registers", "hidden_size": 1024, "num_hidden_layers": 24, "patch_size": 14}
    hf |= {"num_attention_heads": 16, "num_register_tokens": 4, "image_size": 518}
    return VFMTokConfig.model_validate({"vision": {"hf": hf, "size": 336}, "image_size": size, **given})


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_the_full_size_has_the_published_parameters():
    with torch.device("meta"):
        found = VFMTok(full(share_mask=False))
    millions = {
        "decoder": 32.80, "encoder": 20.38, "transformer": 19.90, "quantizer": 0.197,
    }  # fmt: skip
    for part, published in millions.items():
        assert parameters(getattr(found, part)) / 1e6 == pytest.approx(published, abs=0.006), part
    assert parameters(found) / 1e6 == pytest.approx(73.29, abs=0.006)
    assert parameters(found.vision) == 0 and found.vision.taps == (6, 12, 18, 24)


def test_shapes_of_the_full_size():
    size, latents = 256, 16
    fakes = Fakes()
    with torch.device("meta"):
        found = VFMTok(full(size)).eval()
    fakes.imitate(found)
    images = fakes.tensor(2, 3, size, size)
    codes, target = found.read(images)
    tokens = found.from_code(codes)
    assert codes.shape == (2, 256, 12) and target.shape == (2, 576, 1024)
    assert found.transformer.latents(tokens, (latents, latents)).shape == (2, 512, latents, latents)
    assert found.transformer.features(tokens).shape == (2, 576, 1024)
    assert found._pixels(tokens, (size, size)).shape == images.shape


# --------------------------------------------------------------------------------------------------------- vision


@pytest.mark.parametrize(
    "hf",
    [
        DINO,
        {**plain(CLIPVisionConfig(image_size=48, intermediate_size=64, **SMALL))},
        {**plain(SiglipVisionConfig(image_size=48, intermediate_size=64, **SMALL))},
    ],
    ids=["dinov2", "clip", "siglip"],
)
def test_vision_levels_are_the_blocks_outputs_and_the_last_is_normed(hf):
    torch.manual_seed(0)
    vision = VisionFeatures(VisionConfig(hf=hf, size=48))
    images = torch.rand(2, 3, 48, 48) * 2 - 1
    seen = []
    stack = vision.network.encoder
    blocks = stack.layer if hasattr(stack, "layer") else stack.layers
    for block in blocks:
        block.register_forward_hook(lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out))
    levels, target = vision(images)
    assert [tuple(level.shape) for level in levels] == [(2, 32, 6, 6)] * 4
    for level, state in zip(levels[:3], seen, strict=False):
        assert torch.equal(level.flatten(2).mT, state[:, -36:])
    norm = getattr(vision.network, "layernorm", None) or vision.network.post_layernorm
    assert torch.allclose(target, norm(seen[-1])[:, -36:], atol=1e-6)
    assert torch.equal(levels[3].flatten(2).mT, target)


def test_frozen_vision_gets_no_gradient_and_stays_in_eval_mode(model, images):
    model.train()
    assert not model.vision.training and not model.vision.network.training
    system = VFMTokTraining(model, VFMTokLossConfig(perceptual=0.0, adversarial=0.0))
    loss, _ = system.loss("model", {"images": images}, 0, torch.Generator())
    loss.backward()
    assert all(p.grad is None for p in model.vision.parameters())
    assert all(p.grad is not None for n, p in model.named_parameters() if p.requires_grad and "registers" not in n)
    model.zero_grad()
    model.eval()


def test_the_pyramid_of_efficientnet_is_read_with_real_weights(images):
    found = VFMTok(config(vision={"kind": "efflite0", "size": 64})).eval()
    levels, target = found.vision(images)
    assert [level.shape[1] for level in levels] == [24, 40, 112, 320] and target.shape == (2, 4, 320)
    assert not any(key.startswith("vision.") for key in found.state_dict())
    assert found.encode(images).shape == (2, 3, 3)


def test_usual_taps():
    assert usual_taps(24) == (6, 12, 18, 24) and usual_taps(12) == (3, 6, 9, 12)
    assert usual_taps(8) == (2, 4, 6, 8) and usual_taps(3) == (0, 1, 2, 3)


# --------------------------------------------------------------------------------------------------------- regions


def naive(levels, places, weights):
    """Deformable attention by a loop over every point."""
    b, n, heads, count, points = weights.shape
    d = levels[0].shape[2]
    out = torch.zeros(b, n, heads * d)
    for i, q, h, k, p in torch.cartesian_prod(*(torch.arange(s) for s in (b, n, heads, count, points))).tolist():
        values = levels[k][i, h]
        height, width = values.shape[-2:]
        x, y = (places[i, q, h, k, p] * torch.tensor([width, height]) - 0.5).tolist()
        total = torch.zeros(d)
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                if 0 <= row < height and 0 <= column < width:
                    total += values[:, row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
        out[i, q, h * d : (h + 1) * d] += weights[i, q, h, k, p] * total
    return out


def test_deformable_attention_is_a_weighted_sum_of_interpolated_values():
    rng = torch.Generator().manual_seed(0)
    levels = [torch.randn(2, 2, 3, h, w, generator=rng) for h, w in ((4, 4), (3, 5))]
    places = torch.rand(2, 4, 2, 2, 3, 2, generator=rng) * 1.4 - 0.2  # some outside
    weights = torch.rand(2, 4, 2, 2, 3, generator=rng)
    found = regions.deformable_attention(levels, places, weights)
    assert torch.allclose(found, naive(levels, places, weights), atol=1e-5)


def test_deformable_attention_is_that_of_transformers():
    from transformers import DeformableDetrConfig
    from transformers.models.deformable_detr import modeling_deformable_detr as detr

    torch.manual_seed(0)
    ours = regions.DeformableAttention(32, 4, 2, 3)
    values = DeformableDetrConfig(d_model=32, num_feature_levels=2, encoder_attention_heads=4)
    theirs = detr.DeformableDetrMultiscaleDeformableAttention(values, num_heads=4, n_points=3)
    for linear in (ours.sampling_offsets, ours.attention_weights):
        nn.init.normal_(linear.weight, std=0.3)
    theirs.load_state_dict(ours.state_dict())
    maps = [torch.randn(2, 32, 4, 4), torch.randn(2, 32, 3, 3)]
    query, points = torch.randn(2, 9, 32), regions.anchor_points(3)
    shapes = [(4, 4), (3, 3)]
    found = theirs(
        hidden_states=query,
        encoder_hidden_states=torch.cat([m.flatten(2).mT for m in maps], 1),
        reference_points=points[None, :, None].expand(2, 9, 2, 2),
        spatial_shapes=torch.tensor(shapes),
        spatial_shapes_list=shapes,
        level_start_index=torch.tensor([0, 16]),
    )[0]
    assert torch.allclose(ours(query, points, maps), found, atol=1e-6)


def test_the_ring_looks_in_eight_directions_one_to_four_cells_away():
    offsets = regions.ring(8, 4, 4)
    assert torch.allclose(offsets.abs().amax(-1), torch.arange(1.0, 5).expand(8, 4, 4), atol=1e-6)
    angles = torch.atan2(offsets[:, 0, 0, 1], offsets[:, 0, 0, 0]).rad2deg() % 360
    assert torch.allclose(angles, torch.arange(8) * 45.0, atol=1e-3)
    attention = regions.DeformableAttention(32, 8, 4, 4)
    places, weights = attention.look(torch.randn(1, 4, 32), regions.anchor_points(2), [(24, 24)] * 4)
    assert torch.allclose(weights, torch.full_like(weights, 1 / 16))
    assert torch.allclose(places[0, 0] * 24 - 0.25 * 24, offsets, atol=1e-5)


def test_an_anchor_sees_no_later_one(model):
    encoder = model.encoder
    levels = [torch.randn(1, 32, 6, 6) for _ in range(4)]
    before = encoder(levels)
    with torch.no_grad():
        kept = encoder.tokens.clone()
        encoder.tokens[0, 4] = torch.randn(32)
        after = encoder(levels)
        encoder.tokens.copy_(kept)
    changed = (before - after).abs().amax(-1)[0] > 1e-6
    assert changed.tolist() == [False] * 4 + [True] * 5


def test_windows_are_the_anchors_own_cells():
    outside = regions.WindowAttention.outside(2, ((4, 4), (1, 1)), torch.device("cpu"))
    own = ~outside[:, :16].unflatten(1, (4, 4))
    assert own[0, :2, :2].all() and own[0].sum() == 4 and own[3, 2:, 2:].all() and own[3].sum() == 4
    assert not outside[:, 16].any()
    assert (~regions.WindowAttention.outside(4, ((2, 2),), torch.device("cpu"))).sum(1).tolist() == [1] * 16
    found = VFMTok(config(attention="windows")).eval()
    assert found.encode(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 3)
    with pytest.raises(ValueError, match="chooses no places"):
        found.regions(torch.zeros(1, 3, 32, 32))


def test_regions_say_where_a_token_looked(model, images):
    look = model.regions(images)
    assert look.places.shape == (2, 9, 4 * 4 * 4, 2) and torch.allclose(look.weights.sum(-1), torch.tensor(4.0))


# ------------------------------------------------------------------------------------------------------- quantizer


def test_quantizer_gives_codes_of_unit_length_and_passes_the_gradient():
    torch.manual_seed(0)
    quantizer = Quantizer(16, 4)
    z = torch.randn(3, 5, 4, requires_grad=True)
    found, indices, codebook, commitment = quantizer(z)
    rows = F.normalize(quantizer.embedding.weight, dim=-1)
    assert torch.allclose(found, rows[indices], atol=1e-6)
    distances = torch.cdist(F.normalize(z, dim=-1), rows.expand(3, -1, -1))
    assert torch.equal(indices, distances.argmin(-1)) and torch.equal(indices, quantizer.indices(z))
    weights = torch.randn_like(found)
    (found * weights).sum().backward(retain_graph=True)
    straight = torch.autograd.grad((F.normalize(z, dim=-1) * weights).sum(), z)[0]
    assert torch.allclose(z.grad, straight, atol=1e-6) and quantizer.embedding.weight.grad is None
    z.grad = None
    commitment.backward(retain_graph=True)
    assert z.grad is not None and quantizer.embedding.weight.grad is None
    z.grad = None
    codebook.backward()
    assert z.grad is None and quantizer.embedding.weight.grad.abs().sum() > 0


def test_indices_outside_the_codebook_are_refused(model):
    with pytest.raises(ValueError, match="code 64 is outside the codebook of 64; use 0 to 63"):
        model.decode(torch.full((1, 3, 3), 64))
    with pytest.raises(ValueError, match=r"\(2, 2\) are not this tokenizer's \(3, 3\)"):
        model.decode(torch.zeros(1, 2, 2, dtype=torch.long))


# ----------------------------------------------------------------------------------------------------- transformer


def transformer(**given) -> tuple[TokenTransformer, torch.Tensor]:
    torch.manual_seed(0)
    return TokenTransformer(config(**given), 6, 32).eval(), torch.randn(2, 9, 32)


@pytest.mark.parametrize("first", [False, True])
def test_registers_behind_the_masks_change_nothing(first):
    made, tokens = transformer(registers_first=first)
    before = made.latents(tokens, (8, 8))
    with torch.no_grad():
        made.registers += torch.randn_like(made.registers)
    assert torch.equal(before, made.latents(tokens, (8, 8))) is not first


def test_the_class_vector_sees_the_tokens_alone():
    made, tokens = transformer()
    before = made.class_vector(tokens)
    states = made._read(tokens, made.blocks, made.norm, made.mask, made.positions[:, 1:])
    assert torch.allclose(before, states[:, 9], atol=1e-6)
    with torch.no_grad():
        made.mask += 1
    assert torch.equal(before, made.class_vector(tokens))


def test_both_branches_use_the_same_blocks_unless_told_otherwise():
    shared, own = transformer()[0], transformer(shared=False, share_mask=False)[0]
    assert shared.feature_blocks is None and shared.feature_mask is None
    assert parameters(own) - parameters(shared) == parameters(shared.blocks) + 32


def test_positions_for_another_grid():
    table = torch.randn(1, 576, 4, generator=torch.Generator().manual_seed(0))
    assert resampled(table, (24, 24), "scale") is table
    size, scale = (resampled(table, (21, 21), rule) for rule in ("size", "scale"))
    assert size.shape == scale.shape == (1, 441, 4)
    assert (size - scale).abs().mean().item() == pytest.approx(0.10, abs=0.02), "docs/vfmtok.md 6"


# -------------------------------------------------------------------------------------------------------- the whole


def test_decoding_indices_is_decoding_codes(model, images):
    with torch.no_grad():
        indices = model.encode(images)
        codes, _, _, _ = model.quantizer(model.read(images)[0])
        assert torch.allclose(model.decode(indices), model.render(codes, (32, 32)), atol=1e-5)
        assert torch.allclose(model.decode(indices), model(images), atol=1e-5)
        assert torch.allclose(model.vectors(indices).flatten(2).mT, codes, atol=1e-6)
        larger = model(torch.zeros(1, 3, 48, 64))
    assert larger.shape == (1, 3, 48, 64) and model.probe_features(images).shape == (2, 32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_precisions_run(model, images, dtype):
    import copy

    half = copy.deepcopy(model).to(dtype)
    assert torch.isfinite(half(images)).all()


@pytest.mark.parametrize("vision", [None, {"hf": DINO, "size": 48}], ids=["conv", "frozen"])
def test_a_grid_of_tokens(images, vision):
    found = VFMTok(grid_config(**({} if vision is None else {"vision": vision}))).eval()
    side = 8 if vision is None else 6
    indices = found.encode(images)
    assert indices.shape == (2, side, side) and found.decode(indices).shape == images.shape
    assert found.transformer is None and found.probe_features(images).shape == (2, 8)
    with pytest.raises(ValueError, match="tokens of a grid"):
        found.regions(images)


def test_a_trained_encoder_has_the_frozen_ones_features_to_give_back(images):
    torch.manual_seed(0)
    model, teacher = VFMTok(config(vision_trained=True)), VisionFeatures(VisionConfig(hf=DINO, size=48))
    system = VFMTokTraining(model, VFMTokLossConfig(perceptual=0.0, adversarial=0.0), teacher=teacher)
    system.loss("model", {"images": images}, 0, torch.Generator())[0].backward()
    assert sum(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.vision.parameters()) > 10
    assert all(p.grad is None for p in teacher.parameters())


def test_the_feature_loss():
    f = torch.randn(2, 5, 8)
    assert feature_loss(f, f).item() == pytest.approx(0, abs=1e-6)
    assert feature_loss(-f, f).item() == pytest.approx(2, abs=1e-6)
    assert feature_loss(3 * f, f).item() == pytest.approx(0, abs=1e-6)


def test_dropout_follows_from_the_generator_of_the_step(images):
    torch.manual_seed(0)
    system = VFMTokTraining(VFMTok(config(dropout=0.5)).train(), VFMTokLossConfig(perceptual=0.0, adversarial=0.0))

    def loss(seed: int) -> float:
        return system.loss("model", {"images": images}, 0, torch.Generator().manual_seed(seed))[0].item()

    state = torch.get_rng_state()
    assert loss(1) == loss(1) != loss(2) and torch.equal(state, torch.get_rng_state())


def feature_discriminator() -> FeatureDiscriminator:
    from transformers import ViTModel

    torch.manual_seed(0)
    network = ViTModel(ViTConfig(image_size=16, intermediate_size=64, **SMALL), add_pooling_layer=False)
    settings = FeatureDiscriminatorConfig(size=16, taps=(0, 2, 4), kernel=3)
    return FeatureDiscriminator(settings, network, (0.5,) * 3, (0.5,) * 3)


def test_adversarial_terms_are_off_before_their_start(images):
    judge = feature_discriminator()
    losses = VFMTokLossConfig(perceptual=0.0, features=0.0, adversarial=0.5, adversarial_start=3)
    system = VFMTokTraining(VFMTok(config()), losses, discriminator=judge)
    _, parts = system.loss("model", {"images": images}, 2, torch.Generator())
    assert "adversarial" not in parts and system.skips("discriminator", 2) and not system.skips("discriminator", 3)
    loss, parts = system.loss("model", {"images": images}, 3, torch.Generator())
    assert parts["adversarial"] > 0
    loss, parts = system.loss("discriminator", {"images": images}, 3, torch.Generator())
    assert loss.item() == pytest.approx(0.5 * parts["discriminator"].item())
    loss.backward()
    assert all((p.grad is None) == name.startswith("network") for name, p in judge.named_parameters())


def test_the_discriminator_of_the_paper_has_its_size():
    from transformers import ViTModel

    sizes = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
    fakes = Fakes()
    with torch.device("meta"):
        network = ViTModel(ViTConfig(**sizes), add_pooling_layer=False)
        judge = FeatureDiscriminator(FeatureDiscriminatorConfig(), network, (0.5,) * 3, (0.5,) * 3)
    assert parameters(judge) / 1e6 == pytest.approx(7.39, abs=0.02)
    fakes.imitate(judge)
    assert judge(fakes.tensor(8, 3, 224, 224), torch.Generator()).shape == (8, 980)


def test_group_batch_norm_is_a_batch_norm_of_each_group():
    x = torch.randn(16, 4, 6, generator=torch.Generator().manual_seed(0))
    wanted = torch.cat([F.batch_norm(part, None, None, training=True) for part in x.split(8)])
    assert torch.allclose(GroupBatchNorm(4)(x), wanted, atol=1e-5)
    with pytest.raises(ValueError, match="9 images make no 2 equal groups"):
        GroupBatchNorm(4)(x[:9])


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"width": 30}, "width 30 cannot have 4 heads"),
        ({"image_size": 30}, "image_size 30 is no multiple of 4 px; choose 28"),
        ({"vision": {"hf": DINO, "size": 50}}, "vision.size 50 is no multiple of the patch of 8 px; choose 48"),
        ({"vision": {"hf": DINO, "size": 48, "taps": [1, 2, 3]}}, "taps .* impossible with 4 blocks"),
        ({"levels": [0, 4]}, "give some of 0 to 3"),
        ({"vision": {"kind": "conv", "widths": [8, 16]}}, "use it with tokens grid"),
        ({"tokens": "grid"}, "no effect with tokens grid"),
        ({"vision": {"kind": "efflite0", "size": 50}}, "no multiple of 32 px; choose 32"),
        ({"vision": {"kind": "transformer"}}, "needs hf"),
    ],
)
def test_impossible_configurations_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        VFMTok(config(**given))


def test_an_image_smaller_than_a_latent_is_refused(model):
    with pytest.raises(ValueError, match="image of 2 x 2 px: sides must be multiples of 4 px"):
        model.encode(torch.zeros(1, 3, 2, 2))


# ----------------------------------------------------------------------------------------------------- as a system

TRAINED = (
    "train.steps=2", "train.batch=4", "train.warmup=0", "train.precision=fp32", "data.photos=0", "losses.perceptual=0",
    "train.storage=fp32",
)  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder in which a tokenizer on the bundled VLM's tower, and one on a grid, were trained for two steps."""
    from vgt.__main__ import dispatch

    place = tmp_path_factory.mktemp("vfmtok")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for preset, extra in (("vfmtok", ("losses.adversarial_start=1",)), ("vqgan", ("losses.adversarial_start=1",))):
            settings = [part for setting in (*TRAINED, *extra) for part in ("--set", setting)]
            assert dispatch(["train", preset, "--device", "cpu", *settings])["step"] == 2
    return place


def test_a_trained_tokenizer_is_a_checkpoint_like_any_other(work, monkeypatch):
    from vgt.inference.load import load

    monkeypatch.chdir(work)
    found = load("vfmtok", work / "runs")
    assert found.system == "vfmtok" and found.model.grid == (6, 6)
    images = torch.zeros(1, 3, 64, 64)
    assert found.model.decode(found.model.encode(images)).shape == images.shape
    tower = load("vlm_internvl").model.encoder.tower
    for name, tensor in found.model.vision.network.state_dict().items():
        assert torch.equal(tensor, tower.state_dict()[name]), f"{name} is frozen"


def test_reconstruction_of_a_discrete_tokenizer(work, monkeypatch, capsys):
    from vgt.__main__ import dispatch

    monkeypatch.chdir(work)
    for name in ("vfmtok", "vqgan"):
        found = dispatch(["eval", "recon", "--subject", f"vgt:{name}", "--data", "scenes", "-n", "8"])
        assert any("codebook" in key or "usage" in key for key in found["scores"]), found["scores"].keys()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["init.vision=nowhere"], "both name a vision model"),
        (["init.vlm="], "needs init.vision"),
        (["init.discriminator="], "set init.discriminator"),
        (["losses.adversarial=0"], "init.discriminator has no effect"),
        (["init.vlm=vlm_qwen"], "none that reads whole images"),
        (["model.tokens=grid"], "no effect with tokens grid"),
        (["losses.features=0", "model.share_mask=false"], "model.share_mask false has no effect"),
        (["repeats=4"], "repeats 4 has no effect on a vfmtok"),
        (
            ["init.repa=x"],
            "init.repa x has no effect on a vfmtok, which starts from vlm",
        ),
        (["data.min_crop=0.5"], "min_crop 0.5 has no effect on scenes"),
    ],
)
def test_presets_that_cannot_be_trained_are_refused(settings, said, tmp_path, monkeypatch):
    from vgt.__main__ import dispatch

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=said):
        dispatch(["train", "vfmtok", "--device", "cpu", *(p for s in settings for p in ("--set", s))])


def test_regions_are_drawn(work, monkeypatch):
    import numpy as np
    from PIL import Image

    from vgt.__main__ import dispatch
    from vgt.inference.region_map import SIDE, heat

    monkeypatch.chdir(work)
    Image.new("RGB", (80, 64), "red").save("red.png")
    assert dispatch(["reconstruct", "red.png", "--model", "vfmtok", "--regions", "-o", "map.png"])["files"]
    with Image.open("map.png") as sheet:
        assert sheet.size == (6 * SIDE + 10, 6 * SIDE + 10)
    for extra, said in ((["--fit", "tile"], "--fit tile has no effect"), (["--side-by-side"], "has no effect")):
        with pytest.raises(ValueError, match=said):
            dispatch(["reconstruct", "red.png", "--model", "vfmtok", "--regions", *extra])
    with pytest.raises(ValueError, match="choose no regions"):
        dispatch(["reconstruct", "red.png", "--regions", "-o", "other.png"])
    with pytest.raises(ValueError, match="tokens of a grid"):
        dispatch(["reconstruct", "red.png", "--model", "vqgan", "--regions", "-o", "other.png"])
    found = heat(np.array([[0.25, 0.75], [2.0, 0.5]]), np.array([1.0, 5.0]), 64)
    assert np.unravel_index(found.argmax(), found.shape) == (48, 16) and found.max() == 1
