"""A codebook of unit vectors learned by gradient (docs/vfmtok.md 5): no averages, no restarts, no k-means."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def nearest(z: Tensor, codes: Tensor) -> Tensor:
    """int64 [...]: for unit vectors z [..., d] the row of ``codes`` [K, d] at the smallest squared distance, which for
    unit vectors is the largest cosine."""
    return (z @ codes.mT).argmax(-1)


def straight_through(z: Tensor, e: Tensor) -> Tensor:
    """z + sg(e - z): e in value, the identity of z in gradient."""
    return z + (e - z).detach()


def codebook_losses(z: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """Codebook ||e - sg(z)||^2, which moves the codes, and commitment ||sg(e) - z||^2, which moves the encoder; means
    over all elements."""
    return F.mse_loss(e, z.detach()), F.mse_loss(z, e.detach())


class Quantizer(nn.Module):
    """``size`` codes of ``width`` numbers, of length 1 whenever they are used; fp32 whatever autocast says."""

    def __init__(self, size: int, width: int):
        super().__init__()
        self.embedding = nn.Embedding(size, width)
        nn.init.uniform_(self.embedding.weight, -1 / size, 1 / size)
        with torch.no_grad():
            self.embedding.weight.copy_(F.normalize(self.embedding.weight, dim=-1))

    @property
    def codes(self) -> Tensor:
        """[K, d], unit vectors."""
        return F.normalize(self.embedding.weight.float(), dim=-1)

    def vectors(self, indices: Tensor) -> Tensor:
        """int64 [...] -> [..., d].  Raises ValueError for an index that is none of the codebook's."""
        size = self.embedding.num_embeddings
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < size:
            wrong = int(indices.min()) if int(indices.min()) < 0 else int(indices.max())
            raise ValueError(f"code {wrong} is outside the codebook of {size}; use 0 to {size - 1}")
        return self.codes[indices]

    def indices(self, z: Tensor) -> Tensor:
        """[..., d], of any length -> int64 [...]."""
        with torch.autocast(z.device.type, enabled=False):
            return nearest(F.normalize(z.float(), dim=-1), self.codes)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """[..., d] -> quantized [..., d] with the gradient passed straight through, int64 indices [...], codebook loss,
        commitment loss."""
        with torch.autocast(z.device.type, enabled=False):
            z, codes = F.normalize(z.float(), dim=-1), self.codes
            found = nearest(z.detach(), codes.detach())
            e = codes[found]
            return straight_through(z, e), found, *codebook_losses(z, e)
