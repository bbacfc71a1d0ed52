"""Feature networks: input transforms, layers, weights that are missing, wrong or foreign."""

import numpy as np
import pytest
import torch
from parity.fidelity import random_inception
from PIL import Image

from evals import features
from evals.features import EXTRACTORS, INCEPTION_SHA256, networks
from vgt.core import photos


@pytest.fixture(scope="module")
def images():
    return photos.images("test", range(3), 48)


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """Random weights in the layout of the published file."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = random_inception().state_dict()
    path = tmp_path_factory.mktemp("weights") / features.INCEPTION_FILES[0]
    torch.save(state, path)
    return path


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No weights in any of the usual places."""
    monkeypatch.setenv("VGT_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path


def test_every_extractor_is_written_down():
    assert set(features.NAMES) == set(EXTRACTORS)
    for name, about in EXTRACTORS.items():
        assert {"side", "resize", "layer", "input"} <= set(about), name
    with pytest.raises(ValueError, match="'inception' are unknown; choose one of tf-compat"):
        features.load("inception")


@pytest.mark.parametrize("name", ["tf-compat", "pytorch-fid", "clean", "dinov2", "clip"])
def test_missing_weights_say_what_is_missing_and_where_it_goes(name, nowhere):
    with pytest.raises(ValueError) as error:
        features.load(name)
    text = str(error.value)
    assert features.SOURCES[name].names[0] in text and f"--weights {name}=PATH" in text and "VGT_WEIGHTS" in text
    assert (INCEPTION_SHA256 in text) == (name in features.INCEPTION)
    assert ("`curl -L -O https://" if name in features.INCEPTION else "`hf download ") in text
    with pytest.raises(ValueError, match="there is no .*gone"):
        features.protocol(name, nowhere / "gone")


def test_weights_with_another_checksum_are_refused_or_labelled(nowhere, inception_file):
    with pytest.raises(ValueError, match=f"not {INCEPTION_SHA256[:16]}.*--any-weights"):
        features.load("tf-compat", inception_file)
    assert "weights_label" in features.protocol("tf-compat", inception_file, any_weights=True)
    broken = nowhere / "broken.pth"
    broken.write_bytes(b"no pickle")
    with pytest.raises(ValueError, match="does not fill the FID Inception network"):
        features.load("tf-compat", broken, any_weights=True)


def test_a_file_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "was-run"), "w")

    torch.save({"fc.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="does not fill"):
        features.load("tf-compat", tmp_path / "evil.pth", any_weights=True)
    assert not (tmp_path / "was-run").exists()


def test_inception_variants_share_the_network_and_differ_in_the_input(inception_file, images):
    net = networks.inception_network(inception_file)
    raw = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    compat = features.load("tf-compat", inception_file, any_weights=True)
    found = compat.embed(images)
    assert {view: x.shape for view, x in found.items()} == {v: (3, d) for v, d in compat.dims.items()}
    with torch.inference_mode():
        pool, logits = net(raw)  # the class's own resizing and forward pass
        maps = []
        net.Mixed_6d.branch1x1.register_forward_hook(lambda *call: maps.append(call[2]))
        net(raw)
    np.testing.assert_allclose(found["pool"], pool.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["logits"], logits.numpy(), rtol=1e-4, atol=1e-5)
    spatial = maps[0][:, :7].permute(0, 2, 3, 1).reshape(3, -1)  # ADM flattens row, column, channel
    np.testing.assert_allclose(found["spatial"], spatial.numpy(), rtol=1e-5, atol=1e-6)
    assert "not verified" in compat.caution


def test_inception_resizing():
    from torchvision.transforms import functional

    raw = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 50, 37)).astype(np.uint8))
    half_pixel = functional.resize(raw.float() / 255, [299, 299], antialias=False) * 2 - 1
    torch.testing.assert_close(networks.inception_input(raw, "pytorch-fid"), half_pixel, atol=1e-5, rtol=0)
    single, double = (networks.inception_input(raw, v) for v in ("tf-compat", "tf-compat-f64"))
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, atol=1e-5, rtol=0)
    # TensorFlow 1 put output pixel i at input i * 50 / 299, without the half pixel.
    assert double[0, 0, 0, 0] == (float(raw[0, 0, 0, 0]) - 128) / 128
    assert not torch.allclose(single, half_pixel, atol=0.1)


def test_clean_is_pillow_in_float_and_not_rounded():
    raw = np.random.default_rng(0).integers(0, 256, (1, 600, 400, 3)).astype(np.uint8)
    found = networks.inception_input(torch.from_numpy(raw).permute(0, 3, 1, 2), "clean") * 128 + 128
    plane = Image.fromarray(raw[0, :, :, 1].astype(np.float32)).resize((299, 299), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(found[0, 1].numpy(), np.asarray(plane).clip(0, 255), atol=1e-3)
    whole = np.asarray(Image.fromarray(raw[0]).resize((299, 299), Image.Resampling.BICUBIC))
    assert 0.2 < np.abs(found[0].permute(1, 2, 0).numpy() - whole).mean() < 0.5, "rounding would show"


@pytest.fixture(scope="module")
def dinov2_folder(tmp_path_factory):
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dinov2")
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=56, patch_size=14
    )
    Dinov2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14,
        projection_dim=8,
    )  # fmt: skip
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


def test_dinov2_is_the_class_token_of_a_pillow_resized_image(dinov2_folder, images):
    from transformers import AutoModel

    with pytest.raises(ValueError, match="hidden_size 16, not 1024.*--any-weights"):
        features.load("dinov2", dinov2_folder)
    extractor = features.load("dinov2", dinov2_folder, any_weights=True)
    assert extractor.dims == {"pool": 16} and "not verified" in extractor.protocol["weights_label"]
    x = np.stack([np.asarray(Image.fromarray(p).resize((224, 224), Image.Resampling.BICUBIC)) for p in images])
    x = (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    model = AutoModel.from_pretrained(dinov2_folder).eval()
    with torch.inference_mode():
        expected = model(pixel_values=torch.from_numpy(x).permute(0, 3, 1, 2).float()).pooler_output
    np.testing.assert_allclose(extractor.embed(images)["pool"], expected.numpy(), atol=1e-4)
    assert extractor.embed(photos.images("test", range(2), 224))["pool"].shape == (2, 16)


def test_clip_embeddings_have_length_one(clip_folder, images):
    extractor = features.load("clip", clip_folder, any_weights=True)
    found = extractor.embed(images)["pool"]
    assert found.shape == (3, 8)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    features.canary(extractor)
    with pytest.raises(ValueError, match="another model"):
        features.load("clip", clip_folder)


def test_folders_that_are_no_model(tmp_path):
    with pytest.raises(ValueError, match="config.json cannot be read"):
        features.load("clip", tmp_path, any_weights=True)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="no .safetensors file"):
        features.load("clip", tmp_path, any_weights=True)
    assert networks.CLIP_336["image_size"] == EXTRACTORS["clip"]["side"]


def test_the_checksum_follows_the_file(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"one")
    first = features.digest(path)
    path.write_bytes(b"two")
    import os

    os.utime(path, ns=(1, 1))
    assert features.digest(path) != first


def test_canaries_stop_a_network_that_sees_nothing():
    blind = features.Extractor("blind", {"pool": 2}, {}, "", lambda images: {"pool": np.ones((len(images), 2))})
    broken = features.Extractor("broken", {"pool": 2}, {}, "", lambda i: {"pool": np.full((len(i), 2), np.nan)})
    for extractor in (blind, broken):
        with pytest.raises(ValueError, match="fail their canaries"):
            features.canary(extractor)


def test_no_scoring_network_runs_in_tf32(monkeypatch, inception_file):
    """Convolutions of recent GPUs would by default; the process's own settings come back afterwards."""
    from evals.metrics import lpips

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    within = []

    def build(path, device, strict):
        def embed(images):
            within.append(torch.backends.cudnn.allow_tf32)
            return {"pool": np.zeros((len(images), 1))}

        return embed, {"pool": 1}

    source = features.Source("tf-compat", build, ("x",))
    extractor = source.load(inception_file, any_weights=True)
    extractor.embed(np.zeros((1, 8, 8, 3), np.uint8))
    assert within == [False] and torch.backends.cudnn.allow_tf32 and extractor.protocol["tf32"] is False

    class Distance(torch.nn.Module):
        def forward(self, a, b, normalize):
            within.append(torch.backends.cudnn.allow_tf32)
            return (a - b).mean((1, 2, 3))

    lpips.distance(Distance())(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
    assert within == [False, False] and torch.backends.cudnn.allow_tf32


def test_efflite0_is_labelled(images):
    with_label, without = features.load("efflite0"), features.load("efflite2")
    assert "training loss" in with_label.caution and not without.caution
    found = [features.extract(e, images) for e in (with_label, without)]
    assert [f.shape for f in found] == [(3, 1280), (3, 1280)] and not np.allclose(*found)


@pytest.mark.slow
def test_inception_with_the_published_weights(images):
    try:
        extractor = features.load("tf-compat")
    except ValueError as error:
        pytest.skip(str(error))
    import torch_fidelity

    class Images(torch.utils.data.Dataset):
        def __init__(self, top):
            self.images = torch.from_numpy(photos.images("test", range(top, top + 40), 64)).permute(0, 3, 1, 2)

        def __len__(self):
            return 40

        def __getitem__(self, i):
            return self.images[i].contiguous()

    from evals.metrics import frechet

    sets = [Images(0), Images(40)]
    reference = torch_fidelity.calculate_metrics(
        input1=sets[0], input2=sets[1], fid=True, cuda=False, verbose=False, cache=False, save_cpu_ram=True,
        feature_extractor_weights_path=str(features.SOURCES["tf-compat"].find()),
    )["frechet_inception_distance"]  # fmt: skip
    ours = [features.extract(extractor, s.images.permute(0, 2, 3, 1).contiguous().numpy()) for s in sets]
    assert frechet.from_features(*ours) == pytest.approx(reference, rel=1e-4)  # fewer images than dimensions
