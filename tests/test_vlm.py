"""The VLM adapter gives what transformers' own models give; tokenizers keep the quirks of their families."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import FAMILIES, IMAGE, vlm_values
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from vgt.core import captions, scenes, suites
from vgt.vlm import tokenizer
from vgt.vlm.prompts import UNCONDITIONAL, conditional, template, tokenize
from vgt.vlm.vlm import VLM, VisionEncoder, _shared, family_of, hf_config

IMAGES = scenes.images("val", range(3), IMAGE)  # uint8 [3, 32, 32, 3]


def to_float(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def features_by_transformers(vlm, images: np.ndarray) -> torch.Tensor:
    """[B, hw, A] by the processor's arithmetic and the model's own ``get_image_features``."""
    if family_of(vlm.config).name == "internvl":
        mean, std = (np.array(v, np.float32) for v in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
        pixels = torch.from_numpy(((images / np.float32(255)) - mean) / std).permute(0, 3, 1, 2)
        return vlm.hf.get_image_features(pixel_values=pixels).pooler_output
    from transformers import Qwen2VLImageProcessor

    processor = Qwen2VLImageProcessor(do_resize=False, patch_size=4, merge_size=2, temporal_patch_size=2)
    made = processor(images=list(images), return_tensors="pt")
    found = vlm.hf.get_image_features(made.pixel_values, made.image_grid_thw).pooler_output
    return (
        torch.stack(list(found)) if isinstance(found, (list, tuple)) else found.view(len(images), -1, found.shape[-1])
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_encoder_equals_the_whole_models_features(vlms, family):
    """Built alone from configuration and state dict, on uint8 images through each side's own arithmetic."""
    vlm = vlms[family]
    with torch.random.fork_rng(devices=[]):
        encoder = VisionEncoder(hf_config(vlm.config.to_dict())).eval()
    encoder.load_state_dict(vlm.encoder.state_dict())
    ours, theirs = encoder(to_float(IMAGES)), features_by_transformers(vlm, IMAGES)
    assert ours.shape == theirs.shape == (3, 16, 32)
    assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4)
    assert torch.equal(vlm.encoder(to_float(IMAGES)), ours)
    assert (ours[0] - ours[1]).abs().max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_in_raster_order(vlms, family):
    """Changing the pixels of one token's square moves that token most."""
    encoder = vlms[family].encoder
    plain = torch.zeros(1, 3, IMAGE, IMAGE)
    base = encoder(plain)[0]
    for token in (0, 5, 12):
        row, col = divmod(token, 4)
        marked = plain.clone()
        marked[:, :, 8 * row : 8 * row + 8, 8 * col : 8 * col + 8] = 0.9
        assert (encoder(marked)[0] - base).norm(dim=-1).argmax() == token


@pytest.mark.parametrize("family", FAMILIES)
def test_images_of_a_batch_do_not_see_each_other(vlms, family):
    encoder, images = vlms[family].encoder, to_float(IMAGES)
    whole = encoder(images)
    for k in range(3):
        assert torch.allclose(encoder(images[k : k + 1])[0], whole[k], atol=1e-5)


def test_qwen_takes_other_shapes(vlms):
    encoder = vlms["qwen2_5_vl"].encoder
    assert encoder(torch.zeros(2, 3, 16, 40)).shape == (2, 10, 32)


@pytest.mark.parametrize(
    ("family", "height", "width", "message"),
    [
        ("internvl", 30, 30, "30 x 30 px: sides must be multiples of 8 px"),
        ("internvl", 32, 40, "InternVL's tower takes square images; crop it"),
        ("qwen2_5_vl", 32, 36, "36 x 32 px: sides must be multiples of 8 px"),
    ],
)
def test_image_size_errors(vlms, family, height, width, message):
    with pytest.raises(ValueError, match=message):
        vlms[family].encoder(torch.zeros(1, 3, height, width))


def test_positions_run_unless_a_configuration_says_otherwise(vlms):
    """The bundled Qwen2.5-VL was trained with running positions (test_vlm_parity.py has the others)."""
    from vgt.vlm import vlm as adapter

    values, words = vlm_values("qwen2_5_vl"), vlms["qwen2_5_vl"].tokenizer
    for config in (
        adapter.VLMConfig(hf=values, image_size=IMAGE),
        adapter.VLMConfig(hf=values, image_size=IMAGE, mrope=True),
    ):
        with torch.random.fork_rng(devices=[]):
            assert adapter.VLM.build(config, words).mrope is config.mrope
    assert adapter.VLMConfig(hf=values, image_size=IMAGE).mrope is False


def test_answers_end_at_any_token_that_ends_a_turn(vlms):
    """The tokenizer's, and those that the model's generation configuration adds."""
    vlm = vlms["internvl"]
    own = vlm.tokenizer.eos_token_id
    before = vlm.hf.generation_config.eos_token_id
    try:
        vlm.hf.generation_config.eos_token_id = [7, 9]
        assert vlm.stops == {own, 7, 9}
        vlm.hf.generation_config.eos_token_id = None
        assert vlm.stops == {own}
    finally:
        vlm.hf.generation_config.eos_token_id = before


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_the_whole_model(vlms, family):
    """Question with image through our pieces and through transformers' forward, with plain 1-D positions."""
    vlm = vlms[family]
    ids = torch.tensor([vlm.tokenizer(vlm.question("What color is the star?")).input_ids])
    ours = vlm.logits(vlm.hidden(ids, to_float(IMAGES[:1])))
    features = features_by_transformers(vlm, IMAGES[:1])
    embedded = vlm.hf.get_input_embeddings()(ids).clone()
    embedded[ids == vlm.tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")] = features[0]
    positions = torch.arange(ids.shape[1])[None]
    theirs = vlm.hf(inputs_embeds=embedded, position_ids=positions).logits
    assert torch.allclose(ours, theirs, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_image_places_match_the_features(vlms, family):
    vlm = vlms[family]
    ids = vlm.tokenizer(vlm.question("Is there a star?")).input_ids
    context = vlm.tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    assert ids.count(context) == vlm.image_tokens == 16
    assert vlm.config.image_token_id == context
    assert vlm.tokenizer(vlm.follow_up("Is there a star?")).input_ids.count(context) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_do_not_depend_on_neighbours(vlms, family):
    vlm, images = vlms[family], to_float(IMAGES)
    questions = ["What color is the star?", "How many objects are there?", "Is there a red ring?"]
    together = vlm.answer(images, questions, 3)
    assert together == [vlm.answer(images[k : k + 1], questions[k : k + 1], 3)[0] for k in range(3)]
    assert len(together) == 3 and all(isinstance(a, str) for a in together)


@pytest.mark.parametrize("family", FAMILIES)
def test_questions_about_one_image_read_it_once(vlms, family, monkeypatch):
    """Behind one image they are answered as if each stood alone, also where they have different lengths."""
    vlm, image = vlms[family], to_float(IMAGES[:1])
    questions = ["What color is the star?", "How many objects are there?", "Is there a red ring?"]
    rows = [vlm.ids(vlm.question(text)) for text in questions]
    rows[1].append(5)
    shared, features = _shared(rows), vlm.encoder(image)
    assert rows[0][:shared].count(vlm.context_id) == 16 and len({row[shared] for row in rows}) > 1
    alone = vlm._last_padded(rows, 0, features, (IMAGE, IMAGE))
    read = []
    monkeypatch.setattr(vlm, "embed", lambda ids, features, embed=vlm.embed: read.append(ids) or embed(ids, features))
    assert torch.allclose(vlm._last_packed(rows, shared, features, (IMAGE, IMAGE)), alone, atol=2e-5)
    together = vlm.answer(image, questions, 3)
    assert all(len(ids) == 1 and (ids == vlm.context_id).sum() == 16 for ids in read)
    monkeypatch.setattr(VLM, "_packs", False)
    assert vlm.answer(image, questions, 3) == together
    assert vlm.answer(image, questions[:1] * 2, 3) == together[:1] * 2


def test_what_all_rows_begin_with():
    assert _shared([[1, 2, 3, 4], [1, 2, 5]]) == 2 and _shared([[1, 2], [1, 2]]) == 1 and _shared([[1], [2]]) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_greedy(vlms, family):
    vlm, image = vlms[family], to_float(IMAGES[1:2])
    text = "What shape is the blue object?"
    ids = vlm.tokenizer(vlm.question(text)).input_ids
    words = []
    for _ in range(2):
        token = int(vlm.logits(vlm.hidden(torch.tensor([ids + words]), image))[0, -1].argmax())
        if token == vlm.tokenizer.eos_token_id:
            break
        words.append(token)
    assert vlm.answer(image, [text], 2) == [vlm.tokenizer.decode(words, skip_special_tokens=True).strip()]


def test_casting_reaches_the_encoders_statistics(vlms):
    """They lie outside the registered modules; a VLM moved to a GPU must take them along."""
    from vgt.vlm import vlm as adapter

    with torch.random.fork_rng(devices=[]):
        config = adapter.VLMConfig(hf=vlm_values("internvl"), image_size=IMAGE)
        made = adapter.VLM.build(config, vlms["internvl"].tokenizer)
    made.to(torch.float64)
    assert made.encoder.mean.dtype == made.encoder.std.dtype == torch.float64
    assert not any("mean" in key or "std" in key for key in made.state_dict())
    assert not any(key.startswith("encoder.") for key in made.state_dict())  # the parts are registered once


# --------------------------------------------------------------------------------------------- tokenizers


@pytest.mark.parametrize(("family", "start"), [("internvl", ["<img>"]), ("qwen2_5_vl", ["<img", ">"])])
def test_start_tokens(vlms, family, start):
    """s = 1 for InternVL, s = 2 for Qwen2.5-VL (docs/vgt.md 2.3)."""
    words = vlms[family].tokenizer
    ids = words("<img>", add_special_tokens=False).input_ids
    assert words.convert_ids_to_tokens(ids) == start
    assert words.unk_token_id not in ids


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts(vlms, family):
    """The strings of docs/vgt.md 2.2, no token before them, right padding."""
    words = vlms[family].tokenizer
    assert conditional("  a photo of a star ") == (
        "<|im_start|>user\nGenerate an image: a photo of a star<|im_end|>\n<|im_start|>assistant\n"
    )
    assert template(UNCONDITIONAL) == "<|im_start|>user\nGenerate an image.<|im_end|>\n<|im_start|>assistant\n"
    ids, mask = tokenize(words, ["a photo of a red star", None])
    assert words.convert_ids_to_tokens(ids[1][mask[1]]) == [
        "<|im_start|>", "user", "\n", "Generate", "an", "image", ".", "<|im_end|>", "\n",
        "<|im_start|>", "assistant", "\n",
    ]  # fmt: skip
    assert mask[0].all() and mask[1].tolist() == [True] * 12 + [False] * (len(mask[1]) - 12)
    assert (ids[1][~mask[1]] == words.pad_token_id).all() and words.pad_token_id != words.eos_token_id
    assert words.unk_token_id not in ids


@pytest.mark.parametrize("family", FAMILIES)
def test_every_text_of_the_world_is_known(vlms, family):
    words = vlms[family].tokenizer
    texts = [r["prompt"] for suite in suites.WORLD_SUITES for r in suites.prompts(suite)]
    for index in range(50):
        scene = scenes.scene("train", index)
        texts += [captions.dense_caption(scene), captions.short_caption(scene)]
        texts += [part for pair in captions.questions(scene, scenes.Draws("t", index), 5) for part in pair]
    for text in {*texts, UNCONDITIONAL, "Describe the image.", "Generate an image: ", "user", "assistant"}:
        assert tokenizer.unknown_words(words, text) == [], text


@pytest.mark.parametrize("family", FAMILIES)
def test_unknown_words_are_named_once_in_order(vlms, family):
    words = vlms[family].tokenizer
    assert tokenizer.unknown_words(words, "a photo of a zebra, a red zebra and a Tuba") == ["zebra", "Tuba"]


@pytest.mark.parametrize("family", FAMILIES)
def test_tokenizers_survive_the_disk(vlms, family, tmp_path):
    from transformers import PreTrainedTokenizerFast

    words = vlms[family].tokenizer
    words.save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    text = vlms[family].question("Is the red star left of the blue ring?") + "yes<|im_end|>\n"
    assert again(text).input_ids == words(text).input_ids
    assert (again.pad_token_id, again.eos_token_id) == (words.pad_token_id, words.eos_token_id)
    assert again.decode(words("two", add_special_tokens=False).input_ids) == "two"
