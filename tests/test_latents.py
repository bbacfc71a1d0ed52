"""Latent equations against transformers' own code and against definitions (docs/vgt.md 1.2 - 1.6, 2.1)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vgt.equations import latents


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("side", [4, 6])
def test_pixel_shuffle_is_internvls(vlms, side):
    x = torch.randn(2, side, side, 5, generator=rng())
    theirs = vlms["internvl"].hf.model.pixel_shuffle(x, scale_factor=0.5)
    assert torch.equal(latents.pixel_shuffle(x), theirs)


def test_pixel_shuffle_layout():
    """Channel layout (dh, dw, c), rows and columns in place (docs/vgt.md 1.2, docs/decode.md)."""
    x = torch.arange(2 * 4 * 6 * 3).view(2, 4, 6, 3).float()
    folded = latents.pixel_shuffle(x)
    assert folded.shape == (2, 2, 3, 12)
    for i, j, a, b, c in np.ndindex(2, 3, 2, 2, 3):
        assert folded[1, i, j, (a * 2 + b) * 3 + c] == x[1, 2 * i + a, 2 * j + b, c]


@pytest.mark.parametrize(("height", "width"), [(56, 56), (56, 84)])
def test_patches_are_in_qwens_layout(height, width):
    """transformers' own image processor, resizing and scaling off, gives the same patches in the same order."""
    from transformers import Qwen2VLImageProcessor

    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    processor = Qwen2VLImageProcessor(
        do_resize=False, do_rescale=False, do_normalize=False, patch_size=14, merge_size=2, temporal_patch_size=2
    )
    theirs = processor(images=[pixels], return_tensors="pt")
    ours = latents.merge_patches(torch.from_numpy(pixels).permute(2, 0, 1)[None].float(), 14, 2, 2)
    assert theirs.image_grid_thw.tolist() == [[1, height // 14, width // 14]]
    assert ours.shape == (height * width // 196, 1176)
    assert torch.equal(ours, theirs.pixel_values.float())


def test_patches_of_a_batch_follow_each_other():
    x = torch.randn(3, 3, 8, 16, generator=rng(1))
    whole = latents.merge_patches(x, 4, 2, 2)
    assert torch.equal(whole, torch.cat([latents.merge_patches(image[None], 4, 2, 2) for image in x]))


def test_position_norm():
    z = 3 * torch.randn(2, 7, 32, generator=rng(2)) + 5
    normed = latents.position_norm(z)
    assert normed.mean(-1).abs().max() < 1e-5
    assert (normed.var(-1, unbiased=False) - 1).abs().max() < 1e-4
    assert torch.allclose(normed.norm(dim=-1), torch.full((2, 7), 32**0.5), rtol=1e-4)  # the sphere of docs/vgt.md 1.5
    assert torch.allclose(latents.position_norm(normed), normed, atol=1e-4)


def test_batch_norm_is_per_channel():
    z = torch.randn(4, 9, 3, generator=rng(3)) * torch.tensor([1.0, 5.0, 0.1]) + torch.tensor([0.0, 2.0, -7.0])
    normed = latents.batch_norm(z)
    assert normed.mean((0, 1)).abs().max() < 1e-4
    assert (normed.var((0, 1), unbiased=False) - 1).abs().max() < 1e-3
    assert normed.mean(-1).abs().max() > 0.1  # and not per position


def test_noise_modes():
    """fixed: deviation gamma everywhere; uniform_max: one factor per image, RMS gamma / sqrt 3 (docs/vgt.md 1.6)."""
    z, gamma = torch.zeros(4000, 8, 6), 0.1
    fixed = latents.add_noise(z, gamma, "fixed", rng(4))
    assert fixed.std().item() == pytest.approx(gamma, rel=0.02)
    drawn = latents.add_noise(z, gamma, "uniform_max", rng(4))
    assert drawn.square().mean().sqrt().item() == pytest.approx(gamma / 3**0.5, rel=0.03)
    per_image = drawn.flatten(1).std(1)
    assert per_image.min() < 0.01 and per_image.max() < 0.14
    assert fixed.flatten(1).std(1).min() > 0.06
    ratio = drawn[7] / fixed[7]  # same eps: one factor for the whole image
    assert torch.allclose(ratio, ratio.flatten()[0].expand_as(ratio), rtol=1e-4)


def test_noise_is_added_and_seeded():
    z = torch.randn(2, 3, 4, generator=rng(5))
    assert torch.equal(latents.add_noise(z, 0.0, "fixed", rng()), z)
    noisy = latents.add_noise(z, 0.3, "fixed", rng(6))
    assert torch.equal(noisy, latents.add_noise(z, 0.3, "fixed", rng(6)))
    assert torch.allclose(noisy - z, latents.add_noise(torch.zeros_like(z), 0.3, "fixed", rng(6)), atol=1e-6)
    with pytest.raises(ValueError, match="'pink' .* fixed, uniform_max"):
        latents.add_noise(z, 0.1, "pink", rng())


def test_crop_takes_the_centre():
    """A 16 x 16 grid is rows and columns 24 .. 39 of 64 x 64, raster order (docs/vgt.md 2.1, 7)."""
    grid = torch.arange(2 * 64 * 64).view(1, 2, 64, 64).float()
    crop = latents.crop_grid(grid, 16, 16)
    assert crop.shape == (256, 2)
    assert torch.equal(crop.T.view(2, 16, 16), grid[0, :, 24:40, 24:40])
    wide = latents.crop_grid(grid, 3, 5)
    assert torch.equal(wide.T.view(2, 3, 5), grid[0, :, 30:33, 29:34])
    assert torch.equal(latents.crop_grid(grid, 64, 64).T.view(1, 2, 64, 64), grid)
    with pytest.raises(ValueError, match="65 x 3 latent grid .* 64 x 64"):
        latents.crop_grid(grid, 65, 3)


def test_sinusoid_grid():
    """Unit phases of amplitude a, rows apart from columns, and nearer cells more alike than farther ones."""
    grid = latents.sinusoid_grid(24, 8, 0.5)
    assert grid.shape == (1, 24, 8, 8)
    sin, cos = grid[0, :6], grid[0, 6:12]
    assert torch.allclose(sin**2 + cos**2, torch.full_like(sin, 0.25))
    assert torch.allclose(sin[0, 3], 0.5 * torch.tensor(3 * np.pi / 2).sin().expand(8), atol=1e-6)  # the third row
    assert torch.equal(grid[0, 12:], grid[0, :12].transpose(1, 2))
    cells = grid[0].flatten(1).T
    near = [(cells[0] - cells[k]).norm() for k in (1, 2, 3)]
    assert near[0] < near[1] < near[2]
    with pytest.raises(ValueError, match="multiple of 4"):
        latents.sinusoid_grid(6, 8, 1.0)
