"""Adapters: features and logits equal those of transformers' own models; prompts; models that do not fit."""

from __future__ import annotations

import pytest
import torch
from conftest import IMAGE, vlm_values
from small_vlms import FURTHER, further, words

from vgt.methods.vgt_ae import VGTAE, VGTAEConfig
from vgt.vlm import families, vlm
from vgt.vlm.families import FAMILIES, family_of

STRIDES = {"llava": 4, "gemma3": 8, "idefics3": 8, "smolvlm": 8, "paligemma": 4}


@pytest.fixture(scope="module")
def models() -> dict:
    return {family: further(family) for family in FURTHER}


def sample_images(n: int = 2, size: int = IMAGE, seed: int = 0) -> torch.Tensor:
    return 2 * torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) - 1


def normalised(model: vlm.VLM, images: torch.Tensor) -> torch.Tensor:
    return ((images + 1) / 2 - model.encoder.mean) / model.encoder.std


def by_transformers(family: str, model: vlm.VLM, pixels: torch.Tensor) -> torch.Tensor:
    nested = family in ("idefics3", "smolvlm")  # they take several images a row
    found = model.hf.model.get_image_features(pixel_values=pixels[:, None] if nested else pixels)
    found = getattr(found, "pooler_output", found)
    return torch.stack(list(found)) if isinstance(found, (list, tuple)) else found


@pytest.mark.parametrize("family", FURTHER)
@torch.no_grad()
def test_features_are_those_of_transformers(family, models):
    """Inside the whole model, and alone from configuration and state."""
    model, images = models[family], sample_images()
    theirs = by_transformers(family, model, normalised(model, images))
    side = IMAGE // STRIDES[family]
    ours = model.encoder(images)
    assert model.encoder.stride == STRIDES[family] and model.image_tokens == side * side
    assert ours.shape == (2, side * side, 32) and torch.equal(ours, theirs.view_as(ours))
    with torch.random.fork_rng(devices=[]):
        alone = vlm.VisionEncoder(vlm.hf_config(model.config.to_dict())).eval()
    alone.load_state_dict(model.encoder.state_dict())
    assert torch.equal(alone(images), ours)
    assert {key.split(".")[0] for key in alone.state_dict()} <= {"tower", "projector"}
    assert (ours[0] - ours[1]).abs().max() > 1e-2


@pytest.mark.parametrize("family", FURTHER)
@torch.no_grad()
def test_features_are_in_raster_order(family, models):
    encoder, step = models[family].encoder, STRIDES[family]
    plain = torch.full((1, 3, IMAGE, IMAGE), -0.3)
    base = encoder(plain)[0]
    for row, col in ((0, 0), (1, 2), (3, 1)):
        marked = plain.clone()
        marked[:, :, step * row : step * row + step, step * col : step * col + step] = 0.9
        assert (encoder(marked)[0] - base).norm(dim=-1).argmax() == row * (IMAGE // step) + col


@pytest.mark.parametrize("family", ["llava", "gemma3", "idefics3", "smolvlm"])
@torch.no_grad()
def test_logits_are_those_of_the_whole_model(family, models):
    """Question with an image, the whole model given ids and pixels (Gemma 3 also which of them are the image's)."""
    model, images = models[family], sample_images(1)
    ids = torch.tensor([model.ids(model.question("Is there a star?"))])
    pixels = normalised(model, images)
    inputs = {"input_ids": ids, "pixel_values": pixels[:, None] if family in ("idefics3", "smolvlm") else pixels}
    if family == "gemma3":
        inputs["token_type_ids"] = (ids == model.context_id).long()
    assert torch.equal(model.logits(model.hidden(ids, images)), model.hf(**inputs, use_cache=False).logits)


@torch.no_grad()
def test_features_of_a_image_see_each_other_in_gemma3(models):
    """The mask is not causal there: the first feature's state knows the last feature."""
    model = models["gemma3"]
    ids = torch.tensor([model.ids(model.question("Is there a star?"))])
    first = int((ids[0] == model.context_id).nonzero()[0])
    images = sample_images(1)
    changed = images.clone()
    changed[:, :, -8:, -8:] = 0.9
    features = [model.encoder(x) for x in (images, changed)]
    features[1][:, :-1] = features[0][:, :-1]  # only the last feature differs
    states = [model.read(ids, f, images.shape[-2:])[0, first] for f in features]
    assert (states[0] - states[1]).abs().max() > 1e-4


@torch.no_grad()
def test_an_even_grey_image_is_no_padding(models):
    """Its normalised pixels are all zero, which Idefics 3's own function takes for an absent image."""
    model = models["idefics3"]
    grey = torch.zeros(1, 3, IMAGE, IMAGE)
    assert not normalised(model, grey).any()
    assert model.encoder(torch.cat([grey, sample_images(1)])).shape == (2, 16, 32)
    assert model.encoder(grey).isfinite().all()


@pytest.mark.parametrize("family", ["llava", "smolvlm"])
@torch.no_grad()
def test_an_autoencoder_stands_on_any_family(family, models):
    from vgt.methods.pixel_decoder import DecoderConfig

    model = models[family]
    step = model.encoder.stride
    layers = 3 if step == 4 else 4
    decoder = DecoderConfig(
        widths=(8, 16, 16, 16)[:layers], layers=(0, 1, 1, 1)[:layers], attention=0, upsample="pixel_shuffle"
    )
    with torch.random.fork_rng(devices=[]):
        ae = VGTAE(VGTAEConfig(vlm=model.config.to_dict(), image_size=IMAGE, d_z=8, decoder=decoder)).eval()
    ae.encoder.load_state_dict(model.encoder.state_dict())
    assert torch.equal(ae.features(sample_images()), model.encoder(sample_images()))
    assert ae.encode(sample_images()).shape == (2, 8, IMAGE // step, IMAGE // step)
    assert ae(sample_images()).shape == (2, 3, IMAGE, IMAGE)


# ------------------------------------------------------------------------------------------------ what does not fit


def test_image_sizes(models):
    for family, wrong, message in (
        ("llava", (28, 28), "28 x 28 px: this tower takes 32 x 32 px"),
        ("gemma3", (32, 64), "64 x 32 px: this tower takes 32 x 32 px"),
        ("smolvlm", (30, 30), "sides must be multiples of 8 px"),
        ("smolvlm", (40, 40), "squares up to 32 px"),
    ):
        with pytest.raises(ValueError, match=message):
            models[family].encoder(torch.zeros(1, 3, *wrong))
    assert models["smolvlm"].encoder(torch.zeros(1, 3, 16, 16)).shape[1] == 4


def test_models_of_text_alone_have_no_adapter():
    with pytest.raises(ValueError, match="'llama' has no adapter: .* use one of internvl, qwen2_5_vl, llava"):
        family_of(vlm.hf_config({"model_type": "llama"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision_tower": None}, "'llava' has no vision tower under the names vision_tower, visual, vision_model"),
        ({"multi_modal_projector": None}, "no projector under the names .*merger in the tower"),
        ({"language_model": None}, "no language model under the names language_model, text_model"),
    ],
)
def test_a_missing_part_is_named(change, message):
    hf = further("llava").hf
    for name, value in change.items():
        setattr(hf.model, name, value)
    with pytest.raises(ValueError, match=message) as error:
        families.parts(hf)
    assert "ADDING_A_VLM.md" in str(error.value)


def test_unknown_towers_and_numbers_of_tokens():
    values = {"model_type": "llava", **FURTHER["llava"]}
    unknown = vlm.hf_config({**values, "vision_config": {"model_type": "vit", "image_size": IMAGE, "patch_size": 4}})
    with pytest.raises(ValueError, match="pixel statistics of its tower 'vit' are unknown"):
        family_of(unknown).pixels(unknown)
    wrong = vlm.hf_config({**values, "image_seq_length": 16})
    with torch.random.fork_rng(devices=[]):
        encoder = vlm.VisionEncoder(wrong)
    with pytest.raises(ValueError, match="makes 64 features of an image where its configuration says 16"):
        encoder(torch.zeros(1, 3, IMAGE, IMAGE))


def test_a_model_that_asks_for_more_than_pixels():
    values = {"model_type": "llava_next", **FURTHER["llava"], "image_grid_pinpoints": [[IMAGE, IMAGE]]}
    with torch.random.fork_rng(devices=[]):
        encoder = vlm.VisionEncoder(vlm.hf_config(values))
    with pytest.raises(ValueError, match="'llava_next' makes features of pixel_values, image_sizes, not of pixels"):
        encoder(torch.zeros(1, 3, IMAGE, IMAGE))


# ------------------------------------------------------------------------------------------------------- prompts

# What a chat template writes for one image, and what stands there in the end.
IMAGES = {
    "llava": ("<image>\n", "{}\n"),
    "gemma3": ("<start_of_image>", "\n\n<start_of_image>{}<end_of_image>\n\n"),
    "smolvlm": ("<image>", "<fake_token_around_image><global-img>{}<fake_token_around_image>"),
    "qwen2_5_vl": ("<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|>{}<|vision_end|>"),
    "internvl": ("<IMG_CONTEXT>\n", "<img>{}</img>\n"),
}
CONTEXT = {
    "llava": "<image>",
    "gemma3": "<image_soft_token>",
    "smolvlm": "<image>",
    "qwen2_5_vl": "<|image_pad|>",
    "internvl": "<IMG_CONTEXT>",
}


def of(family: str, place: str | None = None) -> vlm.VLM:
    """A small VLM whose tokenizer has the family's published image tokens."""
    if family in FURTHER:
        return further(family, place)
    with torch.random.fork_rng(devices=[]):
        return vlm.VLM.build(vlm.VLMConfig(hf=vlm_values(family), image_size=IMAGE), words(family, place))


@pytest.mark.parametrize("family", IMAGES)
@pytest.mark.parametrize("template", [True, False])
def test_an_image_stands_in_the_question_as_its_family_writes_it(family, template):
    """By the tokenizer's template, whose placeholder is filled in, or without a template in the plain form."""
    place, form = IMAGES[family]
    model = of(family, place if template else None)
    image = form.format(CONTEXT[family] * model.image_tokens)
    question = model.question("Is there a star?")
    assert question == f"<|im_start|>user\n{image}Is there a star?<|im_end|>\n<|im_start|>assistant\n"
    assert model.ids(question).count(model.context_id) == model.image_tokens
    assert model.follow_up("Why?") == "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"


def test_templates_in_other_words():
    """A system turn before, other names for the turns: what the template says, in both kinds of turn."""
    model = of("qwen2_5_vl")
    model.tokenizer.chat_template = (
        "SYSTEM\n{% for m in messages %}{{ m.role | upper }}: {% for c in m.content %}{{ '<|vision_start|><|image_pad|>"
        "<|vision_end|>' if c.type == 'image' else c.text }}{% endfor %}</s>\n{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
    )
    image = "<|vision_start|>" + "<|image_pad|>" * 16 + "<|vision_end|>"
    assert model.question("Why?") == f"SYSTEM\nUSER: {image}Why?</s>\nASSISTANT: "
    assert model.follow_up("How?") == "USER: How?</s>\nASSISTANT: "


def test_a_template_for_text_alone_is_left_aside():
    """As in InternVL's original tokenizers: it cannot join content in parts."""
    model = of("internvl")
    plain = model.question("Why?")
    model.tokenizer.chat_template = "{% for m in messages %}{{ '<X>' + m.content }}{% endfor %}"
    assert model.question("Why?") == plain and "<img>" in plain
    assert model.follow_up("How?") == "<|im_start|>user\nHow?<|im_end|>\n<|im_start|>assistant\n"


def test_tokenizers_without_the_tokens_of_an_image():
    config = vlm.hf_config(vlm_values("internvl"))
    with pytest.raises(ValueError, match="no token <img>, </img>, which internvl needs; use the model's own tokenizer"):
        families.image_text(FAMILIES["internvl"], config, words("qwen2_5_vl"))
    with pytest.raises(ValueError, match=r"place of an image \(<image_soft_token>\), which gemma3 needs"):
        families.image_text(FAMILIES["gemma3"], config, words("internvl"))


def test_the_first_token_is_written_once(models):
    model = models["llava"]
    model.tokenizer.bos_token = "<|endoftext|>"
    try:
        plain = model.ids("Is there a star?")
        assert model.ids("<|endoftext|>Is there a star?") == [model.tokenizer.bos_token_id, *plain]
    finally:
        model.tokenizer.bos_token = None


# ----------------------------------------------------------------------------------------------------- positions


def test_positions_over_an_image_by_hand():
    """Three words, an image of 2 x 3 features, two words; a row of text alone; the longest axis is three."""
    shown = torch.zeros(2, 11, dtype=torch.bool)
    shown[0, 3:9] = True
    time, row, col = families.mrope_positions(shown, (2, 3)).tolist()
    assert time[0] == [0, 1, 2, 3, 3, 3, 3, 3, 3, 6, 7]
    assert row[0] == [0, 1, 2, 3, 3, 3, 4, 4, 4, 6, 7]
    assert col[0] == [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7]


def test_positions_of_text_alone_run():
    """A row without an image counts on, whatever its neighbours show."""
    shown = torch.zeros(2, 9, dtype=torch.bool)
    shown[0, 1:5] = True
    assert (families.mrope_positions(shown, (2, 2))[:, 1] == torch.arange(9)).all()
