"""VGT-AE: a VLM's vision encoder aligned with a pixel decoder (docs/vgt.md 1; VGT Eq. 1 - 7).

Network, losses and the two training stages of one idea.  Shapes: B batch, h x w latent grid, A width of the
encoder's projector, d_z latent channels.  Images float [B, 3, H, W] in [-1, 1].
The pixel-only arm is the same class with a convolutional encoder trained from scratch.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vgt.checkpoints.pretrained import Pretrained
from vgt.core.config import Config, Count, NotNegative, Whole
from vgt.equations import adversarial
from vgt.equations.latents import add_noise, batch_norm, position_norm
from vgt.methods.discriminator import Discriminator, DiscriminatorConfig
from vgt.methods.pixel_decoder import DecoderConfig, build_decoder, build_pixel_encoder
from vgt.vlm.vlm import VisionEncoder, hf_config


class VGTAEConfig(Config):
    """``vlm``: the VLM's transformers configuration as a dictionary, or None for the pixel-only arm (then
    ``pixel_width`` is A and ``pixel_stride`` the stride).  ``normalize``: how latents are normalised (docs/vgt.md 1.5);
    ``kl``: latents are normal distributions, ``normalize`` then concerns their means (docs/vgt.md 1.4)."""

    vlm: dict[str, Any] | None
    image_size: Count = 448
    d_z: Count = 32
    normalize: Literal["none", "position", "batch"] = "position"
    decoder: DecoderConfig = DecoderConfig()
    pixel_width: Count = 192
    pixel_stride: Count = 8
    kl: bool = False


# Bounds of a KL autoencoder's log-variances, as diffusers has them: exp() stays finite.
LOG_VARIANCE = (-30.0, 20.0)


class ResidualBlock(nn.Module):
    """y + Linear(GELU(Linear(LayerNorm(y)))), no expansion (docs/vgt.md 1.4)."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.LayerNorm(width, eps=1e-6), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )

    def forward(self, y: Tensor) -> Tensor:
        return y + self.mlp(y)


class VGTAE(Pretrained, nn.Module):
    """``encode``: images -> latents [B, d_z, h, w]; ``decode``: latents -> images."""

    def __init__(self, config: VGTAEConfig):
        super().__init__()
        self.config = config
        if config.vlm is None:
            self.encoder = build_pixel_encoder(config.decoder, config.pixel_width, config.pixel_stride)
            width, self.stride = config.pixel_width, config.pixel_stride
        else:
            self.encoder = VisionEncoder(hf_config(config.vlm))
            width, self.stride = self.encoder.config.text_config.hidden_size, self.encoder.stride
        self.down_blocks = nn.ModuleList(ResidualBlock(width) for _ in range(3))
        out = config.d_z * (2 if config.kl else 1)
        self.down_mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, out), nn.GELU(), nn.Linear(out, out))
        for module in (*self.down_blocks.modules(), *self.down_mlp.modules()):
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.decoder = build_decoder(config.decoder, config.d_z)
        # Running statistics of the batch rule, for use after training (ablation).
        self.register_buffer("batch_mean", torch.zeros(config.d_z))
        self.register_buffer("batch_var", torch.ones(config.d_z))

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights; images and latents are cast to it on their way in."""
        return self.down_mlp[1].weight.dtype

    def features(self, images: Tensor) -> Tensor:
        """[B, hw, A]: what the VLM's language model would read."""
        images = images.to(self.dtype)
        if self.config.vlm is None:
            return self.encoder(images).flatten(2).mT
        return self.encoder(images)

    def project(self, features: Tensor) -> Tensor:
        """phi: features [B, hw, A] -> latents [B, hw, d_z] before the norm, fp32.  KL: [B, hw, 2 d_z], means, then
        log-variances."""
        for block in self.down_blocks:
            features = block(features)
        return self.down_mlp(features).float()

    def normalize(self, z: Tensor) -> Tensor:
        """The configured norm over [..., d_z]."""
        if self.config.normalize == "position":
            return position_norm(z)
        if self.config.normalize == "batch":
            if self.training:
                with torch.no_grad():
                    axes = tuple(range(z.ndim - 1))
                    self.batch_mean.lerp_(z.mean(axes), 0.01)
                    self.batch_var.lerp_(z.var(axes), 0.01)
                return batch_norm(z)
            return (z - self.batch_mean) / (self.batch_var + 1e-6).sqrt()
        return z

    def latents(self, projected: Tensor, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor | None]:
        """What ``project`` gives, normalised: [B, hw, d_z], and None.  KL: the mean, or with ``rng`` a sample, and the
        divergence from N(0, 1), summed over an image and averaged over the batch."""
        if not self.config.kl:
            return self.normalize(projected), None
        mean, log_variance = projected.chunk(2, -1)
        mean, log_variance = self.normalize(mean), log_variance.clamp(*LOG_VARIANCE)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1).mean()
        if rng is None:
            return mean, divergence
        eps = torch.randn(mean.shape, generator=rng, device=rng.device).to(mean)
        return mean + (log_variance / 2).exp() * eps, divergence

    def encode(self, images: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """[B, 3, H, W] -> normalised latents [B, d_z, h, w]; no noise, but a KL autoencoder samples with ``rng``."""
        h, w = (side // self.stride for side in images.shape[-2:])
        return self._grid(self.latents(self.project(self.features(images)), rng)[0], h, w)

    @staticmethod
    def _grid(z: Tensor, h: int, w: int) -> Tensor:
        return z.mT.reshape(len(z), -1, h, w)

    def decode(self, z: Tensor) -> Tensor:
        """[B, d_z, h, w] -> [B, 3, h stride, w stride]; the decoder's own size is resized bilinearly (docs/vgt.md
        1.7)."""
        size = (z.shape[-2] * self.stride, z.shape[-1] * self.stride)
        x = self.decoder(z.to(self.dtype)).float()
        return x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images))


class AELossConfig(Config):
    """Weights of the losses (docs/vgt.md 1.8) and what trains (1.10).  ``logits``: of ConvNeXt-Small's ImageNet logits;
    ``kl``: of a KL autoencoder.  ``adversarial_start``: step from which the discriminator and its term are on.
    ``encoder_lr``: learning-rate factor of the vision tower."""

    reconstruction: NotNegative = 1.0
    perceptual: NotNegative = 1.0
    perceptual_network: str = "efflite0"
    logits: NotNegative = 0.0
    distill: NotNegative = 1.0
    adversarial: NotNegative = 0.1
    adversarial_start: Whole = 30_000
    lecam: NotNegative = 0.001
    kl: NotNegative = 1e-6
    noise: NotNegative = 0.0
    noise_mode: Literal["fixed", "uniform_max"] = "uniform_max"
    freeze_encoder: bool = False
    encoder_lr: NotNegative = 0.5
    discriminator: DiscriminatorConfig = DiscriminatorConfig()


class VGTAETraining:
    """The autoencoder with what its training needs beside it: frozen teacher, perceptual network, the network of the
    logits' term, discriminator."""

    def __init__(
        self, ae: VGTAE, losses: AELossConfig, teacher: nn.Module | None, perceptual: nn.Module | None,
        logits: nn.Module | None = None,
    ):  # fmt: skip
        self.ae, self.losses, self.perceptual, self.logits = ae, losses, perceptual, logits
        self.teacher = teacher.eval().requires_grad_(False) if teacher is not None and losses.distill > 0 else None
        self.discriminator = Discriminator(losses.discriminator) if losses.adversarial > 0 else None
        self._made: deque[Tensor] = deque()  # images in [0, 1] that wait for the discriminator's turn of step _made_at
        self._made_at = -1
        if losses.freeze_encoder:
            ae.encoder.requires_grad_(False)

    def trainable_modules(self) -> dict[str, nn.Module]:
        return {"model": self.ae, **({"discriminator": self.discriminator} if self.discriminator is not None else {})}

    def to(self, device) -> None:
        for module in (self.teacher, self.perceptual, self.logits):
            if module is not None:
                module.to(device)

    def lr_scale(self, name: str) -> float:
        return self.losses.encoder_lr if name.startswith("encoder.") and "projector" not in name else 1.0

    def _reconstruct(self, images: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
        """Images, features, and a KL autoencoder's divergence."""
        h, w = (side // self.ae.stride for side in images.shape[-2:])
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.losses.freeze_encoder):
            features = self.ae.features(images)
        z, divergence = self.ae.latents(self.ae.project(features), rng)
        if self.losses.noise > 0:
            z = add_noise(z, self.losses.noise, self.losses.noise_mode, rng)
        return self.ae.decode(self.ae._grid(z, h, w)), features, divergence

    def loss(self, name: str, batch: dict[str, Tensor], step: int, rng: torch.Generator):
        """``batch``: images [B, 3, H, W] in [-1, 1].  The discriminator's turn goes through a step's micro-batches in
        the same order as the model's turn before it, and sees what that made."""
        return self._discriminator_loss(batch) if name == "discriminator" else self._model_loss(batch, step, rng)

    def skips(self, name: str, step: int) -> bool:
        """The discriminator rests until its start."""
        return name == "discriminator" and step < self.losses.adversarial_start

    def _model_loss(self, batch, step, rng):
        weights, images = self.losses, batch["images"]
        made, features, divergence = self._reconstruct(images, rng)
        with torch.autocast(images.device.type, enabled=False):
            real, fake = (images + 1) / 2, (made.float() + 1) / 2
            mse = F.mse_loss(fake, real)
            total, parts = weights.reconstruction * mse, {"mse": mse}
        if self.perceptual is not None and weights.perceptual > 0:
            parts["perceptual"] = self.perceptual(fake, real).float()
            total = total + weights.perceptual * parts["perceptual"]
        if self.logits is not None and weights.logits > 0:
            parts["logits"] = self.logits(fake, real)
            total = total + weights.logits * parts["logits"]
        if divergence is not None:
            parts["kl"] = divergence
            total = total + weights.kl * divergence
        if self.teacher is not None:
            with torch.no_grad():
                target = self.teacher(images)
            parts["distill"] = F.mse_loss(features.float(), target.float())  # VGT Eq. 3
            total = total + weights.distill * parts["distill"]
        if self.discriminator is not None and step >= weights.adversarial_start:
            parts["adversarial"] = adversarial.hinge_generator(self.discriminator(fake).float())
            total = total + weights.adversarial * parts["adversarial"]
            if step != self._made_at:
                self._made, self._made_at = deque(), step
            self._made.append(fake.detach())
        psnr = -10 * torch.log10(mse.detach())
        return total, {"loss": total.detach(), **{k: v.detach() for k, v in parts.items()}, "psnr": psnr}

    def _discriminator_loss(self, batch):
        real = self.discriminator((batch["images"] + 1) / 2).float()
        fake = self.discriminator(self._made.popleft()).float()  # the reconstruction of this very micro-batch
        loss = adversarial.hinge_discriminator(real, fake)
        penalty = adversarial.lecam(real, fake, self.discriminator.mean_real, self.discriminator.mean_fake)
        self.discriminator.track(real.detach(), fake.detach())
        return loss + self.losses.lecam * penalty, {"discriminator": loss.detach()}
