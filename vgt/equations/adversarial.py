"""Adversarial terms of the autoencoder's discriminator (docs/vgt.md 1.8)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import relu


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """0.5 (mean relu(1 - D(real)) + mean relu(1 + D(fake)))."""
    return 0.5 * (relu(1 - real).mean() + relu(1 + fake).mean())


def hinge_generator(fake: Tensor) -> Tensor:
    """Minus the mean logit of the reconstruction."""
    return -fake.mean()


def lecam(real: Tensor, fake: Tensor, mean_real: Tensor, mean_fake: Tensor) -> Tensor:
    """relu(mean D(real) - ema_fake)^2 + relu(ema_real - mean D(fake))^2."""
    return relu(real.mean() - mean_fake) ** 2 + relu(mean_real - fake.mean()) ** 2
