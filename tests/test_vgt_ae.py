"""VGT-AE: shapes behind the three decoders, latents, losses, what trains and what is saved (docs/vgt.md 1, 7)."""

from __future__ import annotations

import pytest
import torch
from conftest import FAMILIES, IMAGE, vlm_values, widen
from torch import nn
from torch.nn import functional as F

from vgt.methods.discriminator import BlurDown, Discriminator, DiscriminatorConfig
from vgt.methods.pixel_decoder import DecoderConfig, build_decoder
from vgt.methods.vgt_ae import VGTAE, AELossConfig, VGTAEConfig, VGTAETraining
from vgt.vlm.vlm import VisionEncoder, hf_config

SMALL = DecoderConfig(widths=(8, 16, 16, 16), layers=(0, 1, 1, 1), attention=0, upsample="pixel_shuffle")
DECODERS = {
    "dc": SMALL,
    "dc_attention": DecoderConfig(widths=(16, 16, 32, 32), layers=(1, 1, 1, 1), attention=1, head_dim=16),
    "kl": DecoderConfig(kind="kl", widths=(8, 8, 16, 16), layers=(2, 2, 2, 2)),
    "vit": DecoderConfig(kind="vit", vit_width=16, vit_layers=1, vit_heads=2, vit_patch=8),
    "vit_resized": DecoderConfig(kind="vit", vit_width=16, vit_layers=1, vit_heads=2, vit_patch=16),
}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(family: str | None = "internvl", decoder: DecoderConfig = SMALL, seed: int = 0, **fields) -> VGTAE:
    vlm = vlm_values(family) if family else None
    config = VGTAEConfig(vlm=vlm, image_size=IMAGE, d_z=8, decoder=decoder, pixel_width=16, pixel_stride=8, **fields)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ae = VGTAE(config)
    widen(ae.down_blocks, seed), widen(ae.down_mlp, seed)  # raw latents of order one, far above the norm's eps
    return ae


def sample_images(n: int = 3, seed: int = 1) -> torch.Tensor:
    """Smooth random images in [-1, 1]."""
    coarse = 2 * torch.rand(n, 3, 4, 4, generator=rng(seed)) - 1
    return F.interpolate(coarse, size=IMAGE, mode="bilinear")


def teacher_of(ae: VGTAE) -> VisionEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        return VisionEncoder(hf_config(ae.config.vlm))


def training(ae: VGTAE, teacher=None, network=None, **losses) -> VGTAETraining:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        discriminator = DiscriminatorConfig(widths=(8, 16), grid=4)
        return VGTAETraining(ae, AELossConfig(discriminator=discriminator, **losses), teacher, network)


@pytest.mark.parametrize("kind", DECODERS)
@torch.no_grad()
def test_shapes_behind_every_decoder(kind):
    ae = build(decoder=DECODERS[kind]).eval()
    x = sample_images()
    z = ae.encode(x)
    assert z.shape == (3, 8, 4, 4) and z.dtype == torch.float32
    out = ae.decode(z)
    assert out.shape == x.shape and torch.equal(out, ae(x))
    if kind == "vit_resized":  # 64 px from the decoder, brought to 32 without corners aligned or antialiasing (1.7)
        raw = ae.decoder(z)
        assert raw.shape[-1] == 64
        assert torch.allclose(out, F.interpolate(raw, size=(32, 32), mode="bilinear", align_corners=False))


def test_latents_must_suit_the_decoder():
    with pytest.raises(ValueError, match="d_z 6 does not divide the decoder's deepest width 16"):
        build_decoder(SMALL, 6)


@pytest.mark.parametrize("family", [*FAMILIES, None])
@torch.no_grad()
def test_latent_tokens_are_normalised_per_position(family):
    ae = build(family).eval()
    z = ae.encode(sample_images())
    assert z.mean(1).abs().max() < 1e-5
    assert (z.var(1, unbiased=False) - 1).abs().max() < 1e-3


@pytest.mark.parametrize("family", [*FAMILIES, None])
@torch.no_grad()
def test_latents_lie_in_raster_order(family):
    ae = build(family, normalize="none").eval()
    images = sample_images(2)
    features = ae.features(images)
    assert features.shape[:2] == (2, 16)
    flat = ae.project(features)
    assert torch.equal(ae.encode(images)[:, :, 1, 2], flat[:, 6])


@torch.no_grad()
def test_projection_structure():
    """Three pre-norm residual blocks without expansion, then norm and a two-layer reduction (docs/vgt.md 1.4)."""
    ae = build(normalize="none").eval()
    y = torch.randn(2, 5, 32, generator=rng(2))
    expected = y
    for k in range(3):
        w = dict(ae.down_blocks[k].mlp.named_parameters())
        inner = F.layer_norm(expected, (32,), w["0.weight"], w["0.bias"], 1e-6)
        inner = F.gelu(inner @ w["1.weight"].T + w["1.bias"])
        expected = expected + inner @ w["3.weight"].T + w["3.bias"]
    w = dict(ae.down_mlp.named_parameters())
    expected = F.layer_norm(expected, (32,), w["0.weight"], w["0.bias"], 1e-5)
    expected = F.gelu(expected @ w["1.weight"].T + w["1.bias"]) @ w["3.weight"].T + w["3.bias"]
    assert torch.allclose(ae.project(y), expected, atol=1e-6)


WIDE = SMALL.model_copy(update={"widths": (8, 16, 32, 64)})


def test_projection_starts_narrow():
    """Truncated normal weights of 0.02, zero biases, norms 1 and 0 (docs/vgt.md 1.4)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ae = VGTAE(VGTAEConfig(vlm=None, d_z=8, decoder=WIDE, pixel_width=64))
    for name, p in (*ae.down_blocks.named_parameters(), *ae.down_mlp.named_parameters()):
        if p.ndim == 2:
            assert p.std().item() == pytest.approx(0.02, rel=0.2), name
        else:
            assert p.unique().tolist() in ([0.0], [1.0]), name


@torch.no_grad()
def test_images_do_not_see_each_other():
    ae, x = build().eval(), sample_images()
    assert torch.allclose(ae(x)[1:2], ae(x[1:2]), atol=1e-5)


def test_losses_fall():
    """A few steps of everything at once: reconstruction, perceptual, distillation, discriminator, noise."""
    ae = build(seed=5)
    teacher = ae.encoder.state_dict()
    frozen = teacher_of(ae)
    frozen.load_state_dict(teacher)

    class Edges(nn.Module):
        def forward(self, a, b):
            return F.mse_loss(a.diff(dim=-1), b.diff(dim=-1))

    system = training(ae, frozen, Edges(), adversarial=0.01, adversarial_start=5, distill=0.1, noise=0.1)
    optimizers = {k: torch.optim.AdamW(m.parameters(), lr=3e-3) for k, m in system.trainable_modules().items()}
    history = []
    for step in range(25):
        for name in system.trainable_modules():
            if system.skips(name, step):
                continue
            for other in optimizers.values():
                other.zero_grad()
            loss, parts = system.loss(name, {"images": sample_images(8)}, step, rng(step))
            loss.backward()
            optimizers[name].step()
            if name == "model":
                history.append({k: float(v) for k, v in parts.items()})
    assert history[-1]["mse"] < 0.7 * history[0]["mse"]
    assert history[-1]["perceptual"] < history[0]["perceptual"]
    assert "adversarial" not in history[4] and "adversarial" in history[5]
    assert history[0]["distill"] == pytest.approx(0, abs=1e-8) and history[-1]["distill"] > 0


def test_loss_terms_by_hand():
    """On [0, 1] (so a quarter of the [-1, 1] error), weighted, PSNR beside it (docs/vgt.md 1.8)."""
    ae = build().train()
    teacher = teacher_of(ae)
    system = training(ae, teacher, reconstruction=2.0, perceptual=0.0, distill=0.5, adversarial=0.0)
    x = sample_images()
    total, parts = system.loss("model", {"images": x}, 0, rng())
    made = ae(x)
    mse = F.mse_loss(made, x) / 4
    distill = F.mse_loss(ae.features(x), teacher(x))
    assert parts["mse"].item() == pytest.approx(mse.item(), rel=1e-5)
    assert parts["distill"].item() == pytest.approx(distill.item(), rel=1e-5)
    assert total.item() == pytest.approx((2 * mse + 0.5 * distill).item(), rel=1e-5)
    assert parts["psnr"].item() == pytest.approx(-10 * torch.log10(mse).item(), rel=1e-5)


def test_noise_is_for_training_only():
    ae = build().eval()
    x = sample_images()
    quiet = training(ae, noise=0.0, distill=0.0, adversarial=0.0, perceptual=0.0)
    noisy = training(ae, noise=0.5, noise_mode="fixed", distill=0.0, adversarial=0.0, perceptual=0.0)
    losses = [s.loss("model", {"images": x}, 0, rng(k))[1]["mse"].item() for s in (quiet, noisy) for k in (0, 0, 1)]
    assert losses[0] == losses[1] == losses[2] and losses[3] == losses[4] != losses[5] != losses[0]
    assert torch.equal(ae.encode(x), ae.encode(x))


@pytest.mark.parametrize("freeze", [True, False])
def test_stage_two_freezes_the_encoder(freeze):
    ae = build()
    system = training(ae, freeze_encoder=freeze, distill=0.0, adversarial=0.0, perceptual=0.0, noise=0.1)
    system.loss("model", {"images": sample_images()}, 0, rng())[0].backward()
    moved = {name.split(".")[0] for name, p in ae.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert moved == {"down_blocks", "down_mlp", "decoder"} | (set() if freeze else {"encoder"})
    from vgt.training.optim import TrainConfig, optimizers

    (trainer,) = optimizers(ae, TrainConfig(steps=1, batch=1, lr=1e-3), system.lr_scale)
    groups = trainer.param_groups
    trained = {id(p) for g in groups for p in g["params"]}
    assert not freeze or not trained & {id(p) for p in ae.encoder.parameters()}


def test_teacher_and_its_gradients_stay_out():
    ae = build()
    teacher = teacher_of(ae)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    system = training(ae, teacher, distill=1.0, adversarial=0.1, adversarial_start=0, perceptual=0.0)
    trainable_modules = system.trainable_modules()
    assert set(trainable_modules) == {"model", "discriminator"} and trainable_modules["model"] is ae
    system.loss("model", {"images": sample_images()}, 0, rng())[0].backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    parts = {key.split(".")[0] for key in ae.state_dict()}
    assert parts == {"encoder", "down_blocks", "down_mlp", "decoder", "batch_mean", "batch_var"}


def test_the_vision_tower_learns_slower_than_its_projector():
    """Factor 0.5 for encoder.*, not for mlp1 (docs/vgt.md 1.11)."""
    system = training(build(), encoder_lr=0.5)
    scales = {name: system.lr_scale(name) for name, _ in system.ae.named_parameters()}
    assert {s for n, s in scales.items() if n.startswith("encoder.tower")} == {0.5}
    assert {s for n, s in scales.items() if not n.startswith("encoder.tower")} == {1.0}


@torch.no_grad()
def test_batch_rule_keeps_running_statistics():
    """VGT Eq. 5, the ablation: channels are normalised over the batch, and later by what was seen in training."""
    ae = build(normalize="batch").train()
    images = sample_images(16)
    z = ae.encode(images)
    assert z.mean((0, 2, 3)).abs().max() < 1e-3 and z.mean(1).abs().max() > 0.1
    raw = ae.project(ae.features(images))
    for _ in range(1500):
        ae.normalize(raw)
    mean, variance = raw.mean((0, 1)), raw.var((0, 1))
    assert torch.allclose(ae.batch_mean, mean, rtol=1e-3, atol=1e-5)
    assert torch.allclose(ae.batch_var, variance, rtol=1e-3)
    ae.eval()
    alone = ae.encode(images[:1]).flatten(2).mT  # no batch statistics after training
    assert torch.allclose(alone, (raw[:1] - mean) / (variance + 1e-6).sqrt(), atol=1e-2)
    assert {"batch_mean", "batch_var"} <= ae.state_dict().keys()


# ------------------------------------------------------------------------------------------------- discriminator


def test_discriminator_shapes_and_order():
    discriminator = Discriminator(DiscriminatorConfig(widths=(8, 16, 32), grid=4))
    assert discriminator(torch.rand(2, 3, 32, 32)).shape == (2, 1, 4, 4)
    kinds = [type(layer).__name__ for layer in discriminator.layers]
    stage = ["Conv2d", "BlurDown", "GroupNorm", "LeakyReLU"]
    assert kinds == ["Conv2d", "LeakyReLU", *stage, *stage, "AdaptiveMaxPool2d", "Conv2d", "LeakyReLU", "Conv2d"]
    assert discriminator.layers[1].negative_slope == 0.1
    full = Discriminator(DiscriminatorConfig())
    assert [tuple(m.weight.shape) for m in full.layers if isinstance(m, nn.Conv2d)] == [
        (128, 3, 5, 5), (128, 128, 3, 3), (256, 128, 3, 3), (512, 256, 3, 3), (512, 512, 1, 1), (1, 512, 5, 5),
    ]  # fmt: skip
    assert all(m.num_groups == 32 for m in full.layers if isinstance(m, nn.GroupNorm))


def test_blur_keeps_constants_and_halves():
    x = torch.full((1, 2, 8, 8), 3.0)
    out = BlurDown()(x)
    assert out.shape == (1, 2, 4, 4)
    assert torch.allclose(out[..., 1:-1, 1:-1], torch.tensor(3.0))
    spike = torch.zeros(1, 1, 8, 8)
    spike[0, 0, 4, 4] = 64
    tap = torch.tensor([1.0, 3.0, 3.0, 1.0])
    assert sorted(BlurDown()(spike).flatten().tolist())[-4:] == sorted(
        (tap[:, None] * tap).flatten()[[0, 2, 8, 10]].tolist()
    )


def test_discriminator_tracks_its_logits():
    discriminator = Discriminator(DiscriminatorConfig(widths=(8, 16), grid=4))
    discriminator.track(torch.full((4,), 2.0), torch.full((4,), -1.0), decay=0.9)
    discriminator.track(torch.full((4,), 2.0), torch.full((4,), -1.0), decay=0.9)
    assert discriminator.mean_real.item() == pytest.approx(2 * 0.19)
    assert discriminator.mean_fake.item() == pytest.approx(-0.19)


def test_discriminator_learns_from_the_reconstruction_of_the_step():
    ae = build()
    system = training(ae, distill=0.0, perceptual=0.0, adversarial=0.5, adversarial_start=3, lecam=0.0)
    assert system.skips("discriminator", 2) and not system.skips("discriminator", 3) and not system.skips("model", 0)
    x = sample_images()
    total, parts = system.loss("model", {"images": x}, 3, rng())
    fake = (ae(x) + 1) / 2
    expected = parts["mse"] - 0.5 * system.discriminator(fake).mean()
    assert total.item() == pytest.approx(expected.item(), rel=1e-4)
    loss, _ = system.loss("discriminator", {"images": x}, 3, rng())
    real, made = system.discriminator((x + 1) / 2), system.discriminator(fake.detach())
    hinge = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + made).mean())
    assert loss.item() == pytest.approx(hinge.item(), rel=1e-4)
    ae.zero_grad()
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in ae.parameters())
    assert any(p.grad.any() for p in system.discriminator.parameters())
