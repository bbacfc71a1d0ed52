"""PSNR and the SSIM variants against independent definitions, LPIPS with random weights, codebooks."""

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d

from evals.metrics import entropy, lpips, pixels
from vgt.core import files, photos
from vgt.methods import perceptual


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
        assert pixels.ssim(a, b, variant) == pytest.approx(np.mean(channels), abs=1e-9)


def test_luma_variant(natural):
    a, b = natural[0]
    y = [(16 + x @ np.array([65.481, 128.553, 24.966]) / 255) / 255 for x in (a.astype(float), b.astype(float))]
    assert pixels.ssim(a, b, "ssim-y") == pytest.approx(direct_ssim(*y, GAUSSIAN, False, 1.0, 0), abs=1e-9)
    black, white = np.zeros((1, 1, 3)), np.ones((1, 1, 3))
    assert (pixels.luma(black)[0, 0] * 255, pixels.luma(white)[0, 0] * 255) == pytest.approx((16, 235))


def test_identity_is_one_and_range_two_inflates(natural):
    for a, b in natural:
        for variant in pixels.SSIM:
            assert pixels.ssim(a, a, variant) == pytest.approx(1.0, abs=1e-12)
            assert pixels.ssim(a, b, variant) < 1
        assert pixels.ssim(a, b, "ssim-taming") > pixels.ssim(a, b, "ssim-sk")
        assert len({round(pixels.ssim(a, b, v), 6) for v in pixels.SSIM}) == len(pixels.SSIM)


def tensors(pairs, dtype=torch.float32):
    stacked = (torch.from_numpy(np.stack(side)).permute(0, 3, 1, 2) for side in zip(*pairs, strict=True))
    return [x.to(dtype) / 255 for x in stacked]


def test_batches_give_what_pairs_give(natural):
    a, b = tensors(natural)
    together = pixels.ssim_batch(a, b)
    for variant in pixels.SSIM:
        assert together[variant].dtype == torch.float64 and together[variant].shape == (len(natural),)
        alone = pixels.ssim_batch(a[3:4], b[3:4])[variant]
        torch.testing.assert_close(alone, together[variant][3:4], rtol=0, atol=0)
        exact = pixels.ssim_batch(*tensors(natural[3:4], torch.float64), [variant])[variant]
        assert float(exact) == pytest.approx(pixels.ssim(*natural[3], variant), abs=1e-12)
    assert pixels.ssim_batch(a[:0], b[:0])["ssim-y"].shape == (0,)


def test_flat_images_are_computed_in_double():
    """Two flat levels far apart: the Gaussian variants lose 1e-5 in float32."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        low, high = rng.integers(0, 256, (2, 3))
        a = np.where(np.arange(64)[None, :, None] < 32, low, high).astype(np.uint8).repeat(64, 0).reshape(64, 64, 3)
        b = a.copy()
        b[::2] ^= 1
        for variant, value in pixels.ssim_batch(*tensors([(a, b)])).items():
            assert float(value) == pytest.approx(pixels.ssim(a, b, variant), abs=1e-5), variant


def test_psnr_known_values(natural):
    zero, one = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 1, np.uint8)
    assert pixels.psnr(pixels.squared_error(zero, one)) == pytest.approx(20 * np.log10(255))
    assert pixels.psnr(pixels.squared_error(zero, zero + np.uint8(255))) == pytest.approx(0.0)
    assert pixels.psnr(pixels.squared_error(one, one)) == pixels.CAP == 100
    from skimage.metrics import peak_signal_noise_ratio

    for a, b in natural:
        assert pixels.psnr(pixels.squared_error(a, b)) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=255))


@pytest.mark.parametrize("function", [pixels.squared_error, lambda a, b: pixels.ssim(a, b, "ssim-wang")])
def test_only_equal_uint8_images_are_compared(function):
    image = np.zeros((16, 16, 3), np.uint8)
    for other in (image.astype(float), image[:12]):
        with pytest.raises(ValueError, match="uint8 images of one shape"):
            function(image, other)


def test_batched_errors_are_exact_for_levels_and_double_for_floats(natural):
    levels = [torch.from_numpy(np.stack(side)) for side in zip(*natural, strict=True)]
    wanted = [pixels.squared_error(a, b) for a, b in natural]
    np.testing.assert_allclose(pixels.squared_errors(*levels), wanted, rtol=1e-14)
    np.testing.assert_allclose(pixels.squared_errors(*tensors(natural, torch.float64)), wanted, rtol=1e-12)
    white = torch.full((2, 8, 8, 3), 255, dtype=torch.uint8)
    assert pixels.psnr(float(pixels.squared_errors(white, white - 1)[0])) == pytest.approx(20 * np.log10(255), abs=1e-9)
    with pytest.raises(ValueError, match="one kind"):
        pixels.squared_errors(white, white.float())


# -------------------------------------------------------------------------------------------------------- LPIPS


@pytest.fixture(scope="module")
def backbone():
    """A random AlexNet in torchvision's layout; what is tested is that the file's weights are the ones used."""
    from torchvision import models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return models.alexnet(weights=None).features.state_dict(prefix="features.")


@pytest.fixture
def stored(backbone, tmp_path, monkeypatch):
    """The backbone in $VGT_WEIGHTS under a name with its own checksum."""
    torch.save(backbone, tmp_path / "alex.pth")
    name = f"alexnet-owt-{files.digest_file(tmp_path / 'alex.pth')[:8]}"
    (tmp_path / "alex.pth").rename(tmp_path / f"{name}.pth")
    monkeypatch.setitem(perceptual.LPIPS_BACKBONES, "alex", name)
    monkeypatch.setenv("VGT_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    return tmp_path / f"{name}.pth"


def test_lpips_takes_its_backbone_from_a_file(stored, backbone, natural, tmp_path):
    a, b = tensors(natural[:3])
    distance = lpips.load("alex")
    found = distance(a, b)
    assert found.dtype == torch.float64 and found.shape == (3,) and (found > 0).all()
    assert distance(a, a).tolist() == [0, 0, 0]
    np.testing.assert_allclose(distance(b, a), found, rtol=1e-5)
    assert lpips.protocol("alex")["backbone"] == files.digest_file(stored)[:16]
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in backbone.items()}, tmp_path / "mine.safetensors")
    torch.testing.assert_close(lpips.load("alex", tmp_path / "mine.safetensors")(a, b), found)
    other = {k: v + 0.01 for k, v in backbone.items()}
    assert not torch.allclose(lpips.distance(perceptual.lpips_network("alex", other))(a, b), found, rtol=1e-3)


def test_backbones_that_are_none(stored, backbone, tmp_path):
    with pytest.raises(
        ValueError, match=r"vgg16-397923af.pth .*sha256 397923af.*--weights lpips-vgg=PATH.*VGT_WEIGHTS"
    ):
        perceptual.lpips_file("vgg")
    with pytest.raises(ValueError, match="no file .*absent.pth"):
        perceptual.lpips_file("alex", tmp_path / "absent.pth")
    with pytest.raises(ValueError, match="'resnet'"):
        perceptual.lpips_file("resnet")
    (tmp_path / "wrong.pth").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="wrong.pth has sha256 .*get torchvision's"):
        lpips.load("alex", tmp_path / "wrong.pth")
    (tmp_path / "wrong.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="wrong.safetensors cannot be read"):
        lpips.load("alex", tmp_path / "wrong.safetensors")
    fewer = {k: v for k, v in backbone.items() if k != "features.3.bias"}
    with pytest.raises(ValueError, match="has no features.3.bias; it is not torchvision's alexnet"):
        perceptual.lpips_network("alex", fewer)
    with pytest.raises(ValueError, match="has features.99.bias besides"):
        perceptual.lpips_network("alex", backbone | {"features.99.bias": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"features.0.bias of shape \(3,\), not \(64,\)"):
        perceptual.lpips_network("alex", backbone | {"features.0.bias": torch.zeros(3)})


def test_vgg_has_torchvisions_layout():
    """26 tensors of 13 convolutions; the classifier of a full state dict is left aside."""
    widths = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    places = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    state = {"classifier.0.weight": torch.zeros(1)}
    for place, into, out in zip(places, widths, widths[1:], strict=False):
        state[f"features.{place}.weight"] = torch.full((out, into, 3, 3), 0.01)
        state[f"features.{place}.bias"] = torch.zeros(out)
    network = perceptual.lpips_network("vgg", state)
    assert float(network.net.state_dict()["slice5.28.weight"].mean()) == pytest.approx(0.01)


# ----------------------------------------------------------------------------------------------------- codebook


def test_codebook_statistics():
    counted = entropy.codebook_counts([np.array([[0, 0, 1]]), np.array([[3, 1, 0]])], 8)
    assert counted.tolist() == [3, 2, 0, 1, 0, 0, 0, 0]
    found = entropy.codebook_use(counted)
    p = np.array([3, 2, 1]) / 6
    assert found["codebook-usage"] == 3 / 8 and found["codebook-dead"] == 5
    assert found["codebook-entropy"] == pytest.approx(-(p * np.log2(p)).sum(), abs=1e-6)
    assert found["codebook-perplexity"] == 2 ** found["codebook-entropy"]
    assert entropy.codebook_use(np.full(16, 5))["codebook-perplexity"] == pytest.approx(16, abs=1e-4)
    for wrong in (8, -1):
        with pytest.raises(ValueError, match=f"index {wrong} is outside the codebook of 8"):
            entropy.codebook_counts([np.array([0, wrong])], 8)


def test_errors_of_ssim():
    small, image = np.zeros((10, 64, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match="64x10"):
        pixels.ssim(small, small, "ssim-wang")
    with pytest.raises(ValueError, match="'ssim'.*ssim-wang"):
        pixels.ssim(image, image, "ssim")
    with pytest.raises(ValueError, match="float32 or float64"):
        pixels.ssim_batch(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 17))
    with pytest.raises(ValueError, match="float32 or float64"):
        pixels.ssim_batch(*(torch.zeros(1, 3, 16, 16, dtype=torch.uint8),) * 2)
    with pytest.raises(ValueError, match="'ssim'.*ssim-wang"):
        pixels.ssim_batch(*(torch.zeros(1, 3, 16, 16),) * 2, ["ssim"])
    with pytest.raises(ValueError, match="64x10"):
        pixels.ssim_batch(*(torch.zeros(1, 3, 10, 64),) * 2)


def test_large_images_are_measured_by_parts_with_the_same_result(monkeypatch):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1, 90, 70, 3), np.uint8)
    a = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    b = (a + 0.1 * torch.from_numpy(rng.normal(size=a.shape)).float()).clamp(0, 1)
    whole, error = pixels.ssim_batch(a, b), pixels.squared_errors(a, b)
    seen, sizes = pixels._moments, []

    def moments(x, *others):
        sizes.append(x[0, 0].numel())
        return seen(x, *others)

    monkeypatch.setattr(pixels, "PART", 70 * 13)
    monkeypatch.setattr(pixels, "_moments", moments)
    parts = pixels.ssim_batch(a, b)
    for variant in pixels.SSIM:
        assert float(parts[variant]) == pytest.approx(float(whole[variant]), abs=1e-6)
    assert len(sizes) >= 3 * 6 and max(sizes) <= (13 + 10) * (70 + 10)
    assert float(pixels.squared_errors(a, b)) == pytest.approx(float(error), rel=1e-12)


def test_a_variant_does_not_depend_on_the_others_and_needs_its_own_window_alone():
    rng = np.random.default_rng(1)
    a, b = (torch.from_numpy(rng.random((1, 3, 8, 40))).float() for _ in range(2))
    assert float(pixels.ssim_batch(a, b, ["ssim-sk"])["ssim-sk"]) < 1
    with pytest.raises(ValueError, match="40x8 is too small for SSIM's 11x11"):
        pixels.ssim_batch(a, b, ["ssim-wang"])
    drawing = torch.zeros(1, 3, 64, 64)
    drawing[..., 32:] = 1
    noisy = (drawing + 0.01 * torch.from_numpy(rng.normal(size=drawing.shape)).float()).clamp(0, 1)
    for a, b in ((drawing, noisy), (noisy, noisy.flip(-1))):
        together = pixels.ssim_batch(a, b)
        assert all(torch.equal(pixels.ssim_batch(a, b, [v])[v], together[v]) for v in pixels.SSIM)
