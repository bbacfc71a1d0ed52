"""The pipelines of the papers: sizes, resampling, rounding, and what they do to an identical image."""

import numpy as np
import pytest
import torch
from parity.recon import published_vgt
from PIL import Image
from torch.nn import functional

from evals.engine import images
from evals.engine.registry import protocols
from evals.metrics import pixels
from evals.recon import source as recon_source
from evals.recon.protocol import PIPELINES, resolve
from evals.recon.source import compare, quantize
from vgt.core import photos

LEVELS = torch.arange(256).float().view(1, 1, 16, 16).expand(1, 3, 16, 16) / 255


@pytest.fixture(scope="module")
def pair():
    originals = photos.images("test", range(3), 56)
    noise = np.random.default_rng(0).normal(0, 8, originals.shape)
    return originals, np.clip(originals + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "size", "sides", "nominal"),
    [
        ("default", None, (64, 64), None),
        ("default", 100, (100, 100), None),
        ("vgt", None, (448, 256), None),
        ("vgt", 64, (64, 37), "448 -> 256"),
        ("llamagen", None, (256, 256), None),
        ("llamagen", 384, (384, 256), None),
        ("llamagen", 64, (64, 64), "256 -> 256"),
        ("vfmtok", 336, (336, 256), None),
        ("vfmtok", 256, (256, 256), None),
        ("vfmtok", 64, (64, 49), "336 -> 256"),
        ("vfmtok-samples", None, (336, 256), None),
        ("lightningdit", 256, (256, 256), None),
    ],
)
def test_sizes_are_the_papers_or_keep_their_ratio(name, size, sides, nominal):
    found = resolve(name, size)
    assert (found.model_res, found.eval_res) == sides and found.nominal == nominal
    params = found.params()
    assert {"model_res", "eval_res", "resampler", "antialias", "resampled", "quantize", "geometry"} <= set(params)
    assert (params["resampler"] == "none") == (sides[0] == sides[1]) and params.get("nominal") == nominal


def test_folders_keep_their_sizes():
    assert resolve("vgt", 256, given=True).params() | {"geometry": 0} == resolve("vgt", 256).params() | {"geometry": 0}
    several = resolve("vfmtok", None, given=True).params()
    assert several["model_res"] == "several" and several["eval_res"] == "several, times 0.7619"
    assert resolve("default", None, given=True).params()["eval_res"] == "several"


def test_impossible_pipelines_are_refused():
    with pytest.raises(ValueError, match="'titok' is unknown; choose from default, vgt"):
        resolve("titok", 64)
    with pytest.raises(ValueError, match="compares 16 px images at 9 px"):
        resolve("vgt", 16)


def test_every_pipeline_is_a_registered_protocol():
    assert all(protocols()[name].evaluator == "recon" for name in PIPELINES)
    for name, settings in PIPELINES.items():
        assert set(settings["own"]) <= {*protocols(), "codebook-usage"}, name


def test_rounding_of_exact_levels():
    changed = {how: float((quantize(LEVELS, how) != LEVELS).float().mean()) for how in recon_source.QUANTIZERS}
    assert changed["round"] == changed["half-up"] == changed["float"] == 0
    assert 0.15 < changed["trunc255"] < 0.3
    lowered = (quantize(LEVELS, "trunc255") - LEVELS) * 255
    assert set(lowered.round().unique().tolist()) == {-1.0, 0.0}
    between = torch.full((1, 3, 2, 2), 100.4 / 255)
    wanted = {"round": 100, "half-up": 100, "trunc255": 100, "float": 100.4}
    assert all(float(quantize(between, how)[0, 0, 0, 0]) * 255 == pytest.approx(v) for how, v in wanted.items())
    assert float(quantize(between + 0.2 / 255, "trunc255")[0, 0, 0, 0]) * 255 == pytest.approx(100)
    assert float(quantize(between + 0.2 / 255, "half-up")[0, 0, 0, 0]) * 255 == pytest.approx(101)
    with pytest.raises(ValueError, match="'ceil'"):
        quantize(LEVELS, "ceil")


def test_vgt_is_the_published_chain_of_steps(pair):
    """The original in bfloat16 on [-1, 1], the reconstruction in float32, clamped after it was resampled."""
    found = compare(resolve("vgt", 56), *pair)
    assert found.a.shape == (3, 3, 32, 32) and found.images_b.shape == (3, 32, 32, 3)
    original, rebuilt, levels = published_vgt(*pair, 32)
    torch.testing.assert_close(found.a, original, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.b, rebuilt, rtol=0, atol=1e-6)
    for ours, theirs in zip((found.images_a, found.images_b), levels, strict=True):
        assert (ours != theirs).mean() < 1e-3, "float noise at whole levels alone"
    same = compare(resolve("vgt", 56), pair[0], pair[0])
    caps = [pixels.psnr(float(e)) for e in pixels.squared_errors(same.a, same.b)]
    assert all(50 < cap < 75 for cap in caps), caps


def test_vgt_white_falls_below_a_level_in_the_original_alone():
    """White goes through ImageNet's statistics in float32, and truncation does the rest."""
    white = np.full((1, 56, 56, 3), 255, np.uint8)
    found = compare(resolve("vgt", 56), white, white)
    mean, std = (torch.tensor(v).view(3) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    wanted = (((1 - mean) / std * std + mean) * 255).byte().tolist()
    assert found.images_a[0, 0, 0].tolist() == wanted and found.images_b.min() == 255


def test_vgt_originals_in_bfloat16_cap_psnr_near_67_db(pair):
    """docs/evaluators.md 1.2, before any resizing."""
    seen = recon_source.vgt_original(recon_source.signed(pair[0]), (56, 56))
    x = torch.from_numpy(pair[0]).permute(0, 3, 1, 2).float() / 255
    assert pixels.psnr(float(pixels.squared_errors(x, seen).mean())) == pytest.approx(67, abs=3)


@pytest.mark.parametrize(("name", "side", "kernel"), [("vgt", 56, "bilinear"), ("llamagen", 512, "bicubic")])
def test_an_overshooting_decoder_is_clamped_after_resampling(pair, name, side, kernel):
    rng = np.random.default_rng(1)
    originals = rng.integers(0, 256, (1, side, side, 3)).astype(np.uint8)
    rebuilt = (originals / 255 + rng.normal(0, 0.3, originals.shape)).astype(np.float32)
    found = compare(resolve(name, side), originals, rebuilt)
    x = torch.from_numpy(2 * rebuilt - 1).permute(0, 3, 1, 2)
    late = functional.interpolate(x, found.size, mode=kernel).clamp(-1, 1)
    early = functional.interpolate(x.clamp(-1, 1), found.size, mode=kernel)
    wanted = (late + 1) / 2 if name == "vgt" else (127.5 * late + 128).clamp(0, 255).floor() / 255
    torch.testing.assert_close(found.b, wanted, rtol=0, atol=1.01 / 255 if name == "llamagen" else 1e-6)
    assert (found.b - wanted).abs().mean() < 1e-5 < 0.01 < ((early + 1) / 2 - wanted).abs().mean()


def test_llamagen_above_256_compares_with_floats_and_crops_references_anew(pair):
    noise = np.random.default_rng(0).integers(0, 256, (1, 384, 384, 3), dtype=np.uint8)
    found = compare(resolve("llamagen", 384), noise, noise)
    x = (torch.from_numpy(noise).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    wanted = (functional.interpolate(x, (256, 256), mode="bicubic") + 1) / 2
    torch.testing.assert_close(found.a, wanted, rtol=0, atol=1e-5)
    assert wanted.min() < -0.01, "the original is not clamped"
    own = images.adm_crop(Image.fromarray(noise[0]), 256)
    np.testing.assert_array_equal(found.images_a[0], own)
    given = np.zeros_like(own)[None]
    assert compare(resolve("llamagen", 384), noise, noise, given).images_a is given
    assert not np.array_equal(compare(resolve("llamagen", 256), noise, noise).images_a[:, :256, :256], own)


def test_lightningdit_rounds_for_psnr_and_networks_alone(pair):
    floats = (pair[0] / 255 * 0.9 + 0.0517).astype(np.float32)
    beyond = (pair[1] / 255 * 1.4 - 0.2).astype(np.float32)
    found = compare(resolve("lightningdit", 56), floats, beyond)
    at = [torch.from_numpy(x).permute(0, 3, 1, 2) for x in (floats, beyond)]
    assert found.whole and torch.equal(found.a, at[0]) and torch.equal(found.b, at[1].clamp(0, 1))
    assert torch.equal(found.b_of_lpips, at[1]) and found.b_of_lpips.min() < 0
    half_up = np.floor(floats.astype(np.float64) * 255 + 0.5)
    assert np.abs(found.images_a - half_up).max() <= 1 and (found.images_a != half_up).mean() < 1e-3
    assert "lpips-vgg-v0.1" in PIPELINES["lightningdit"]["own"]


def test_results_do_not_depend_on_the_number_of_threads():
    images = photos.images("test", range(4), 128)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append([compare(resolve(name, 128), images, images[::-1].copy()) for name in PIPELINES])
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*found, strict=True):
        assert bool((one.a == two.a).all()) and bool((one.b == two.b).all())


def test_vfmtok_resizes_uint8_with_pillow(pair):
    found = compare(resolve("vfmtok", 56), *pair)
    wanted = np.asarray(Image.fromarray(pair[1][2]).resize((43, 43), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(found.images_b[2], wanted)
    np.testing.assert_array_equal((found.b[2] * 255).round().byte().permute(1, 2, 0).numpy(), wanted)


def test_vfmtok_samples_are_resized_as_floats(pair):
    """docs/evaluators.md 1.2: bicubic without antialiasing, then 127.5 x + 128, clamped, cut to uint8."""
    found = compare(resolve("vfmtok-samples", 56), *pair)
    for seen, given in ((found.images_a, pair[0]), (found.images_b, pair[1])):
        x = torch.from_numpy(given).permute(0, 3, 1, 2).double() / 127.5 - 1
        x = functional.interpolate(x, (43, 43), mode="bicubic", align_corners=False, antialias=False)
        wanted = (x * 127.5 + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
        assert (seen != wanted).mean() < 1e-3 and np.abs(seen.astype(int) - wanted).max() <= 1  # float32
    assert (found.images_b != compare(resolve("vfmtok", 56), *pair).images_b).mean() > 0.5


@pytest.mark.parametrize("name", ["default", "llamagen", "lightningdit", "vfmtok", "vfmtok-samples"])
def test_an_identical_image_stays_identical(pair, name):
    found = compare(resolve(name, 56), pair[0], pair[0])
    assert torch.equal(found.a, found.b) and np.array_equal(found.images_a, found.images_b)
    if found.a.shape[-1] == 56:
        np.testing.assert_array_equal(found.images_a, pair[0])


def test_float_reconstructions_are_rounded_as_the_protocol_says(pair):
    floats = (pair[0] / 255 + 0.4 / 255).clip(0, 1).astype(np.float32)
    assert np.array_equal(compare(resolve("default", 56), pair[0], floats).images_b, pair[0])
    half = compare(resolve("lightningdit", 56), pair[0], floats + np.float32(0.2 / 255)).images_b
    assert np.array_equal(half, np.minimum(pair[0].astype(int) + 1, 255))


# ------------------------------------------------------------------------------------------------------- geometry


@pytest.fixture(scope="module")
def wide():
    noise = np.random.default_rng(3).integers(0, 255, (90, 150, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((300, 180), Image.Resampling.BICUBIC)


def test_resize_crop_is_torchvision_on_a_float_tensor(wide):
    from torchvision import transforms

    chain = transforms.Compose([transforms.ToTensor(), transforms.Resize(64), transforms.CenterCrop(64)])
    wanted = (chain(wide) * 255 + 0.5).floor().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(images.resize_crop(wide, 64), wanted)


def test_squash_is_torchvision_on_a_pillow_image(wide):
    from torchvision import transforms

    wanted = np.asarray(transforms.Resize((64, 64))(wide))
    np.testing.assert_array_equal(images.squash(wide, 64), wanted)


def test_geometries_differ_and_are_checked(wide):
    found = [images.resize(wide, 64, name) for name in images.GEOMETRIES]
    assert all(x.shape == (64, 64, 3) and x.dtype == np.uint8 for x in found)
    assert all(not np.array_equal(found[i], found[i - 1]) for i in range(3))
    with pytest.raises(ValueError, match="'stretch'.*adm-crop"):
        images.resize(wide, 64, "stretch")
