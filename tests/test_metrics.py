"""PSNR and the five SSIM variants against independent definitions."""

import numpy as np
import pytest
from scipy.signal import convolve2d

from evals.metrics import psnr, ssim
from vgt.core import photos


@pytest.fixture(scope="module")
def natural() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    originals = photos.images("test", range(8))
    noisy = np.clip(originals + rng.normal(0, 10, originals.shape), 0, 255).astype(np.uint8)
    return list(zip(originals, noisy, strict=True))


def direct_ssim(a, b, kernel, unbiased: bool, data_range: float, pad: int) -> float:
    """SSIM of one channel by plain two-dimensional convolutions (Wang et al. 2004, eq. 13)."""
    if pad:
        a, b = np.pad(a, pad, mode="reflect"), np.pad(b, pad, mode="reflect")

    def blur(x):
        return convolve2d(x, kernel, mode="valid")

    scale = kernel.size / (kernel.size - 1) if unbiased else 1.0
    mu_a, mu_b = blur(a), blur(b)
    var_a, var_b = scale * (blur(a * a) - mu_a**2), scale * (blur(b * b) - mu_b**2)
    cov = scale * (blur(a * b) - mu_a * mu_b)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    return (((2 * mu_a * mu_b + c1) * (2 * cov + c2)) / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2))).mean()


UNIFORM = np.full((7, 7), 1 / 49)
_axis = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
GAUSSIAN = np.outer(_axis, _axis) / _axis.sum() ** 2


@pytest.mark.parametrize(
    ("variant", "kernel", "unbiased", "data_range", "pad"),
    [
        ("ssim-wang", GAUSSIAN, False, 1.0, 0),
        ("ssim-taming", UNIFORM, True, 2.0, 0),
        ("ssim-sk", UNIFORM, True, 1.0, 0),
        ("ssim-tm", GAUSSIAN, False, 1.0, 5),
    ],
)
def test_variants_equal_their_definition(natural, variant, kernel, unbiased, data_range, pad):
    for a, b in natural[:3]:
        channels = [direct_ssim(a[..., c] / 255, b[..., c] / 255, kernel, unbiased, data_range, pad) for c in range(3)]
        assert ssim.ssim(a, b, variant) == pytest.approx(np.mean(channels), abs=1e-9)


def test_luma_variant(natural):
    a, b = natural[0]
    y = [(16 + x @ np.array([65.481, 128.553, 24.966]) / 255) / 255 for x in (a.astype(float), b.astype(float))]
    assert ssim.ssim(a, b, "ssim-y") == pytest.approx(direct_ssim(*y, GAUSSIAN, False, 1.0, 0), abs=1e-9)
    black, white = np.zeros((1, 1, 3)), np.ones((1, 1, 3))
    assert (ssim.luma(black)[0, 0] * 255, ssim.luma(white)[0, 0] * 255) == pytest.approx((16, 235))


def test_identity_is_one_and_range_two_inflates(natural):
    for a, b in natural:
        for variant in ssim.VARIANTS:
            assert ssim.ssim(a, a, variant) == pytest.approx(1.0, abs=1e-12)
            assert ssim.ssim(a, b, variant) < 1
        assert ssim.ssim(a, b, "ssim-taming") > ssim.ssim(a, b, "ssim-sk")
        assert len({round(ssim.ssim(a, b, v), 6) for v in ssim.VARIANTS}) == len(ssim.VARIANTS)


def test_psnr_known_values(natural):
    zero, one = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 1, np.uint8)
    assert psnr.psnr(psnr.squared_error(zero, one)) == pytest.approx(20 * np.log10(255))
    assert psnr.psnr(psnr.squared_error(zero, zero + np.uint8(255))) == pytest.approx(0.0)
    assert psnr.psnr(psnr.squared_error(one, one)) == psnr.CAP == 100
    from skimage.metrics import peak_signal_noise_ratio

    for a, b in natural:
        assert psnr.psnr(psnr.squared_error(a, b)) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=255))


@pytest.mark.parametrize("function", [psnr.squared_error, lambda a, b: ssim.ssim(a, b, "ssim-wang")])
def test_only_equal_uint8_images_are_compared(function):
    image = np.zeros((16, 16, 3), np.uint8)
    for other in (image.astype(float), image[:12]):
        with pytest.raises(ValueError, match="uint8 images of one shape"):
            function(image, other)


def test_errors_of_ssim():
    small, image = np.zeros((10, 64, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match="64x10"):
        ssim.ssim(small, small, "ssim-wang")
    with pytest.raises(ValueError, match="'ssim'.*ssim-wang"):
        ssim.ssim(image, image, "ssim")
