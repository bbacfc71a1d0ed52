"""Judge m2f-hf on small random models of the real classes: pre- and post-processing, colors, canary, refusals."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from coco_judge import LABELS, Scripted, save_clip, save_mask2former
from parity.rules import bilinear, plain_instances
from PIL import Image
from safetensors.torch import load_file, save_file

from evals.engine.api import Detection, Detector
from evals.geneval import run as geneval
from evals.geneval.run import KEPT
from evals.judges import canary, mask2former
from evals.subjects.folder import folder
from vgt.__main__ import main
from vgt.core import suites
from vgt.core.geneval_prompts import CLASSES
from vgt.core.scenes import COLORS

SIDES = (64, 107)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Folders of both models."""
    root = tmp_path_factory.mktemp("weights")
    save_mask2former(root / "m2f")
    save_clip(root / "clip")
    return root / "m2f", root / "clip"


@pytest.fixture(scope="module")
def judge(weights):
    return mask2former.load(*map(str, weights), sides=SIDES)


def sample_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


# ------------------------------------------------------------------------------------------------- preprocessing


@pytest.mark.parametrize(
    ("sides", "size"),
    [((512, 512), (800, 800)), ((480, 640), (800, 1067)), ((300, 900), (444, 1333)), ((1024, 1536), (800, 1200))],
)
def test_input_size(sides, size):
    assert mask2former.input_size(*sides) == size


def test_prepare_resizes_pads_and_normalises():
    image = sample_image(20, 33)
    pixels, size = mask2former.prepare(torch.tensor(image), *SIDES)
    assert size == (64, 106) and pixels.shape == (1, 3, 64, 128)
    assert (pixels[..., 106:] == 0).all()
    for channel, (mean, std) in enumerate(zip(mask2former.MEAN, mask2former.STD, strict=True)):
        plain = (np.rint(bilinear(image[..., channel].astype(float), *size)) / 255 - mean) / std
        levels = np.abs(pixels[0, channel, :, :106].numpy() - plain) * std * 255
        assert (levels < 1e-3).mean() > 0.999 and levels.max() < 1.001  # but for ties in rounding


# ------------------------------------------------------------------------------------------------ postprocessing


def test_detections_are_those_of_plain_loops(judge):
    image = sample_image(30, 41)
    pixels, size = mask2former.prepare(torch.tensor(image), *SIDES)
    with torch.no_grad():
        out = judge.model(pixel_values=pixels)
    arrays = [out.class_queries_logits[0].numpy(), out.masks_queries_logits[0].numpy()]
    plain = [p for p in plain_instances(*arrays, tuple(pixels.shape[-2:]), size, (30, 41)) if p[0] >= KEPT]
    found = [d for d in judge.detect(image) if d.score >= KEPT]
    assert len(found) == len(plain) >= 5
    assert len({d.label for d in found}) > 1 and isinstance(judge, Detector)
    for d, (score, label, box, inside) in zip(found, plain, strict=True):
        assert (d.label, d.box) == (CLASSES[label], box)
        assert d.score == pytest.approx(score, abs=1e-5) and np.array_equal(d.mask, inside)


def test_one_query_gives_several_classes_and_masks_overlap():
    logits = torch.full((2, 5), -9.0)
    logits[0, 0], logits[0, 3], logits[1, 1] = 2.0, 1.0, 3.0
    p, queries, labels = mask2former.best_pairs(logits)
    assert list(zip(queries.tolist(), labels.tolist(), strict=True))[:3] == [(1, 1), (0, 0), (0, 3)]
    assert p[:3].tolist() == pytest.approx([1.0, 0.7311, 0.2689], abs=1e-4)
    assert len(p) == 8  # the last column, no object, never comes
    both = mask2former.full_masks(torch.ones(2, 4, 4), (8, 8), (8, 6), (10, 10))
    assert (both > 0).all() and both.shape == (2, 10, 10)


def test_boxes_are_exclusive_and_empty_masks_score_nothing():
    mask = torch.zeros(5, 6, dtype=torch.bool)
    assert mask2former.tight_box(mask) == (0, 0, 0, 0)
    mask[1:3, 2:6] = True
    assert mask2former.tight_box(mask) == (2, 1, 6, 3)
    logits = torch.stack([torch.full((5, 6), -3.0), torch.where(mask, 2.0, -2.0)])
    empty, full = mask2former.mask_confidence(logits).tolist()
    assert empty == 0 and full == pytest.approx(1 / (1 + np.exp(-2.0)), rel=1e-6)


# --------------------------------------------------------------------------------------------------------- colors


def disc(height: int = 40, width: int = 90) -> Detection:
    y, x = np.mgrid[:height, :width]
    mask = ((x - 45) / 40) ** 2 + ((y - 20) / 12) ** 2 < 1
    return Detection("sports ball", 0.9, (6.0, 9.0, 85.0, 32.0), mask)


def test_crop_stands_on_grey():
    image, found = sample_image(40, 90), disc()
    cut = np.asarray(mask2former.crop(image, found))
    inside = found.mask[9:32, 6:85]
    assert cut.shape == (23, 79, 3)
    assert (cut[~inside] == 153).all() and np.array_equal(cut[inside], image[9:32, 6:85][inside])
    with pytest.raises(ValueError, match="no pixel"):
        mask2former.crop(image, Detection("cat", 0.5, (3.0, 3.0, 3.0, 9.0), found.mask))


def test_colors_are_those_of_the_formula(judge):
    """Each text and the image alone, averaged by hand in float64; the centre crop cuts off the ends."""
    colors, image, found = judge.colors, sample_image(40, 90, 3), disc()
    model, words = colors.model, colors.tokenizer

    def unit(vector):
        return vector / np.linalg.norm(vector)

    cut = mask2former.crop(image, found).resize((int(79 * 32 / 23), 32), Image.Resampling.BICUBIC)
    left = round((cut.width - 32) / 2)
    middle = np.asarray(cut.crop((left, 0, left + 32, 32)))
    pixels = (middle / 255 - mask2former.CLIP_MEAN) / mask2former.CLIP_STD
    seen = model.get_image_features(pixel_values=torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None])
    seen = unit(seen.pooler_output[0].double().numpy())
    expected = []
    for color in COLORS:
        texts = [f"a photo of a {color} sports ball", f"a photo of a {color}-colored sports ball",
                 f"a photo of a {color} object"]  # fmt: skip
        each = []
        for text in texts:
            ids = words(text, return_tensors="pt").input_ids
            assert ids.shape[1] < 77 and ids[0, -1] == words.eos_token_id and words.eos_token_id not in ids[0, :-1]
            ids = torch.nn.functional.pad(ids, (0, 77 - ids.shape[1]), value=words.eos_token_id)
            each.append(unit(model.get_text_features(input_ids=ids).pooler_output[0].double().numpy()))
        expected.append(unit(np.mean(each, 0)) @ seen)
    assert np.allclose(colors.similarities(image, found).numpy(), expected, atol=1e-5)
    assert np.std(expected) > 1e-3
    assert judge.color(image, found) == list(COLORS)[int(np.argmax(expected))]
    assert colors.classifier("cat") is colors.classifier("cat")  # once per class


def test_both_forms_of_embeddings_are_read():
    class Output:
        pooler_output = torch.tensor([[3.0, 4.0]])

    for features in (Output(), Output.pooler_output):
        assert mask2former._embedding(features).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)]]


# ------------------------------------------------------------------------------------------------ labels and files


def test_labels_are_mapped_by_index_and_checked():
    names = [LABELS.get(name, name) for name in CLASSES]
    mask2former.check_labels(dict(enumerate(names)))
    mask2former.check_labels(dict(enumerate(name.replace(" ", "_") for name in CLASSES)))
    swapped = dict(enumerate(names))
    swapped[15], swapped[16] = swapped[16], swapped[15]
    with pytest.raises(ValueError, match="label 15 of the detector is 'dog' where COCO has 'cat'"):
        mask2former.check_labels(swapped)
    with pytest.raises(ValueError, match="79 labels"):
        mask2former.check_labels(dict(enumerate(names[:79])))


def test_missing_and_wrong_weights_are_named(weights, tmp_path):
    m2f, clip = map(str, weights)
    with pytest.raises(ValueError, match="--mask2former is missing; put config.json, model.safetensors of facebook/"):
        mask2former.load(None, clip)
    with pytest.raises(ValueError, match="--clip .*nowhere: there is no such folder; put config.json"):
        mask2former.load(m2f, str(tmp_path / "nowhere"))
    shutil.copytree(clip, tmp_path / "clip")
    (tmp_path / "clip" / "merges.txt").unlink()
    with pytest.raises(ValueError, match="merges.txt is missing"):
        mask2former.load(m2f, str(tmp_path / "clip"))
    shutil.copytree(m2f, tmp_path / "other")
    shutil.copy(weights[1] / "model.safetensors", tmp_path / "other")
    with pytest.raises(ValueError, match="does not fit Mask2FormerForUniversalSegmentation"):
        mask2former.load(str(tmp_path / "other"), clip)
    (tmp_path / "other" / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(ValueError, match="does not hold a Mask2FormerForUniversalSegmentation"):
        mask2former.load(str(tmp_path / "other"), clip)


def test_the_published_key_layout_loads(weights, judge, tmp_path):
    """The hub's file is older than the class: other names in the backbone, index buffers, no last norm."""
    tensors = load_file(weights[0] / "model.safetensors")
    backbone = "model.pixel_level_module.encoder."
    renames = {
        "attention.q_proj": "attention.self.query", "attention.k_proj": "attention.self.key",
        "attention.v_proj": "attention.self.value", "attention.o_proj": "attention.output.dense",
        "attention.relative_position_bias.": "attention.self.", "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense", f"{backbone}swin.": backbone,
    }  # fmt: skip
    old = {}
    for name, tensor in tensors.items():
        for new, before in renames.items() if name.startswith(backbone) else ():
            name = name.replace(new, before)
        if not name.startswith(f"{backbone}layernorm."):
            old[name] = tensor
    norms = [name for name in tensors if name.startswith((f"{backbone}layernorm.", f"{backbone}swin.layernorm."))]
    assert f"{backbone}encoder.layers.0.blocks.0.attention.self.query.weight" in old
    assert len(old) == len(tensors) - len(norms) and len(norms) in (0, 2)  # transformers 5.0 saves none
    old.setdefault(f"{backbone}encoder.layers.0.blocks.0.attention.self.relative_position_index", torch.zeros(16, 16))
    shutil.copy(weights[0] / "config.json", tmp_path)
    save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again = mask2former.load(str(tmp_path), str(weights[1]), sides=SIDES)
    image = sample_image(30, 41)
    pairs = zip(judge.detect(image), again.detect(image), strict=True)
    assert all((a.label, a.score, a.box) == (b.label, b.score, b.box) for a, b in pairs)


def test_fingerprint_follows_weights_and_input(weights, judge, tmp_path):
    save_mask2former(tmp_path, seed=5)
    other = mask2former.load(str(tmp_path), str(weights[1]), sides=SIDES)
    wider = mask2former.load(*map(str, weights), sides=(96, 160))
    assert len({judge.fingerprint, other.fingerprint, wider.fingerprint}) == 3


# --------------------------------------------------------------------------------------------------------- canary


def test_canary_of_photographs():
    canary.check_detector(Scripted())
    with pytest.raises(ValueError, match="photograph 'cat' it sees dog 0.97 where a cat"):
        canary.check_detector(Scripted(shift=1))
    with pytest.raises(ValueError, match="the cat is at .* not near"):
        canary.check_detector(Scripted(stretch=0.5))
    with pytest.raises(ValueError, match="calls red red, green red"):
        canary.check_detector(Scripted(blind=True))
    deaf = Scripted()
    deaf.classes = ("cat", "dog")
    with pytest.raises(ValueError, match="no canary fits"):
        canary.check_detector(deaf)


def images(root, prompts):
    for index, prompt in enumerate(prompts):
        (root / f"{index:05d}" / "samples").mkdir(parents=True)
        (root / f"{index:05d}" / "metadata.jsonl").write_text(json.dumps(prompt) + "\n")
        Image.fromarray(sample_image(32, 40, index)).save(root / f"{index:05d}" / "samples" / "0000.png")


def test_a_random_model_is_stopped_by_its_canary_and_judges_nothing(weights, judge, tmp_path, capsys):
    prompts = suites.prompts("geneval")[::200]
    images(tmp_path / "images", prompts)
    options = {"work": tmp_path, "records": tmp_path / "records", "suite": "geneval", "prompts": prompts}
    with pytest.raises(ValueError, match="judge 'm2f-hf' fails its canary"):
        geneval.run(folder(tmp_path / "images"), judge, images_per_prompt=1, **options)
    assert not list(tmp_path.rglob("detections.jsonl"))

    outcome = geneval.run(
        folder(tmp_path / "images"), judge, images_per_prompt=1, check_judge=lambda judge: None, **options
    )
    first = outcome.records[0]
    assert first.protocol == "geneval[m2f-hf]" and first.judge.startswith("m2f-hf ")
    assert first.protocol_params["prompt_variant"] == "official" and first.partial
    (evidence,) = tmp_path.rglob("detections.jsonl")
    assert evidence.parent.name == "m2f-hf"
    stored = [json.loads(line) for line in evidence.read_text().splitlines()]
    assert len(stored) == 3 and all(d["score"] >= 0.05 for e in stored for d in e["detections"])
    colored = [d["color"] for d in stored[2]["detections"] if d["class"] == prompts[2]["include"][0]["class"]]
    assert prompts[2]["tag"] == "position" or all(c in COLORS for c in colored)


def test_command_line_names_missing_weights(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images(tmp_path / "images", suites.prompts("geneval")[:1])
    argv = ["eval", "geneval", "--subject", "folder:images", "--suite", "geneval"]
    assert main(argv) == 2
    assert "--mask2former is missing" in capsys.readouterr().err
    assert main([*argv, "--mask2former", "m2f", "--clip", "clip"]) == 2
    assert "--mask2former m2f: there is no such folder" in capsys.readouterr().err
