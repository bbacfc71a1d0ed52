"""How a tiny VLM is pretrained: packed questions, the words of image tokens, the plain attention."""

import copy
import math
import re
from itertools import pairwise

import pytest
import torch
from conftest import FAMILIES, IMAGE

from vgt.core import captions, scenes
from vgt.equations.order import additive, turns_mask, turns_positions
from vgt.training import data
from vgt.training.models import PLAIN, plain
from vgt.vlm.training import IGNORED, TEMPERATURE, VLMLossConfig, VLMTraining, region_word_loss


@pytest.fixture
def trainable(vlms):
    return lambda family: copy.deepcopy(vlms[family]).requires_grad_(True)


@pytest.fixture
def batch(vlms):
    return lambda family, turns=4: data.conversation_batches(vlms[family], data.DataConfig(turns=turns), 3)(2)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_packed_question_reads_as_the_first(vlms, batch, family):
    vlm, made = vlms[family].eval(), batch(family)
    turns = made["turns"]
    with torch.no_grad():
        features = vlm.encoder(made["images"])
        mask = additive(turns_mask(turns), features.dtype)
        packed = vlm.read(made["ids"], features, (IMAGE, IMAGE), mask, turns_positions(turns))
        for row in range(3):
            for turn in range(1, 5):
                kept = (turns[row] == 0) | (turns[row] == turn)
                alone = vlm.hidden(made["ids"][row : row + 1, kept], made["images"][row : row + 1])
                assert torch.allclose(packed[row, kept], alone[0], atol=2e-5)


def test_turns_of_the_batch_are_whole_prompts(vlms, batch):
    vlm, made = vlms["internvl"], batch("internvl")
    for ids, turns in zip(made["ids"], made["turns"], strict=True):
        first = ids[(turns == 0) | (turns == 1)].tolist()
        for turn in range(1, 5):
            kept = ids[(turns == 0) | (turns == turn)].tolist()
            text = vlm.tokenizer.decode(kept)
            assert text.count("assistant") == 1 and kept[: (turns == 0).sum()] == first[: (turns == 0).sum()]
        assert all(b >= a for a, b in pairwise(turns.tolist()))


def test_turns_by_hand():
    turns = torch.tensor([[0, 0, 1, 1, 2, 2, 2]])
    assert turns_positions(turns).tolist() == [[0, 1, 2, 3, 2, 3, 4]]
    seen = turns_mask(turns)[0].int().tolist()
    assert seen[3] == [1, 1, 1, 1, 0, 0, 0] and seen[5] == [1, 1, 0, 0, 1, 1, 0] and seen[1] == [1, 1, 0, 0, 0, 0, 0]


def test_region_words_name_what_covers_an_image_token(vlms):
    words = vlms["internvl"].tokenizer
    item = next(i for i in (scenes.item("train", k, 64) for k in range(50)) if len(i.scene.objects) > 2)
    found = data.region_words(item, words, 8)
    assert found.shape == (64, 3)
    for square in range(64):
        y, x = divmod(square, 8)
        share = [m[y * 8 : y * 8 + 8, x * 8 : x * 8 + 8].mean() for m in item.masks]
        if max(share) == 0:
            wanted = ["none"] * 3
        elif max(share) < 1 / 8:
            assert (found[square] == IGNORED).all()
            continue
        else:
            seen = item.scene.objects[share.index(max(share))]
            wanted = [seen.shape, seen.color, seen.size]
        assert words.convert_ids_to_tokens(found[square].tolist()) == wanted
    choices = data.region_choices(words)
    assert [len(c) for c in choices] == [9, 11, 3]
    assert all(words.unk_token_id not in c.tolist() and len(set(c.tolist())) == len(c) for c in choices)


def test_region_word_loss_by_hand():
    table = torch.eye(4)
    choices = [torch.tensor([0, 1]), torch.tensor([2, 3])]
    features = torch.tensor([[[3.0, 0, 0, 0], [0, 2.0, 0, 0]]])
    words = torch.tensor([[[0, 2], [0, IGNORED]]])
    right = math.log(1 + math.exp(-1 / TEMPERATURE))
    wrong = math.log(1 + math.exp(1 / TEMPERATURE))
    found = region_word_loss(features, words, table, choices)
    assert found.item() == pytest.approx(((right + wrong) / 2 + math.log(2)) / 2, rel=1e-6)


def test_the_loss_reaches_the_tower_and_adds_up(trainable, batch):
    vlm, made = trainable("internvl"), batch("internvl")
    choices = data.region_choices(vlm.tokenizer)
    both, parts = VLMTraining(vlm, VLMLossConfig(regions=0.5), choices).loss("model", made, 0, torch.Generator())
    assert both.item() == pytest.approx(parts["answers"].item() + 0.5 * parts["regions"].item(), rel=1e-6)
    alone, less = VLMTraining(vlm, VLMLossConfig(), choices).loss("model", made, 0, torch.Generator())
    assert alone.item() == pytest.approx(parts["answers"].item(), rel=1e-6) and "regions" not in less
    (both - alone).backward()
    assert all(p.grad is not None for p in vlm.encoder.tower.parameters() if p.requires_grad)


@pytest.mark.parametrize("family", ["internvl", "qwen2_5_vl"])  # with a projector, and without one
def test_a_frozen_encoder_stays(trainable, batch, family):
    vlm = trainable(family)
    system = VLMTraining(vlm, VLMLossConfig(regions=1.0, freeze_encoder=True), data.region_choices(vlm.tokenizer))
    system.loss("model", batch(family), 0, torch.Generator())[0].backward()
    encoder = [*vlm.encoder.parameters()]
    assert encoder and all(p.grad is None for p in encoder)
    assert all(p.grad is not None for p in vlm.language.parameters())


def test_relations_may_be_asked_more_often(vlms):
    def share(relations: int) -> float:
        at = data.conversation_batches(vlms["internvl"], data.DataConfig(turns=6, relations=relations), 16)
        asked = [vlms["internvl"].tokenizer.decode(ids) for step in range(4) for ids in at(step)["ids"]]
        related = re.compile(rf"Is the \w+ ({'|'.join(scenes.RELATIONS)}) the")
        return sum(len(related.findall(text)) for text in asked) / (4 * 16 * 6)

    assert share(8) > 2 * share(1) > 0


def test_places_are_asked_for_on_demand(vlms):
    def asked(places: int) -> list[str]:
        at = data.conversation_batches(vlms["internvl"], data.DataConfig(turns=6, places=places), 16)
        texts = [vlms["internvl"].tokenizer.decode(ids) for step in range(2) for ids in at(step)["ids"]]
        return [found for text in texts for found in re.findall(r"Is the (?!background)\w+ at the \w+", text)]

    assert not asked(0) and len(asked(4)) > 30


def test_a_place_is_the_side_of_the_middle_on_which_an_object_is():
    seen = 0
    for index in range(60):
        scene = scenes.scene("train", index)
        where = {o.shape: o for o in scene.objects}
        for question, told in captions.questions(scene, scenes.Draws("places", index), 2, (0, captions.PLACE)):
            found = re.fullmatch(r"Is the (\w+) at the (\w+)\?", question)
            if found is None:
                continue
            thing, side = where[found[1]], found[2]
            sides = {"left" if thing.cx < 128 else "right", "top" if thing.cy < 128 else "bottom"}
            assert told == ("yes" if side in sides else "no")
            seen += 1
    assert seen > 20


def test_three_dimensional_positions_are_refused(vlms):
    vlm = vlms["qwen2_5_vl"]
    vlm.mrope = True
    try:
        with pytest.raises(ValueError, match="model.mrope"):
            VLMTraining(vlm, VLMLossConfig(), [])
    finally:
        vlm.mrope = False


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("masked", [True, False])
def test_plain_attention_is_attention(groups, masked):
    rng = torch.Generator().manual_seed(0)
    q = torch.randn(2, 6, 5, 8, generator=rng)
    k, v = (torch.randn(2, 6 // groups, 7, 8, generator=rng) for _ in range(2))
    mask = additive(torch.rand(2, 5, 7, generator=rng) > 0.3, torch.float32) if masked else None
    found, weights = plain(torch.nn.Identity(), q, k, v, mask, scaling=0.2)
    full = [x.repeat_interleave(groups, 1) for x in (k, v)]
    wanted = torch.nn.functional.scaled_dot_product_attention(q, *full, attn_mask=mask, scale=0.2)
    assert weights is None and torch.allclose(found, wanted.transpose(1, 2), atol=1e-6)
    with pytest.raises(ValueError, match="dropout"):
        plain(torch.nn.Identity(), q, k, v, mask, dropout=0.1)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_the_same_with_plain_attention(trainable, batch, family):
    vlm, made, found = trainable(family), batch(family), {}
    system = VLMTraining(vlm, VLMLossConfig(regions=1.0), data.region_choices(vlm.tokenizer))
    for kind in ("eager", PLAIN):
        vlm.hf.set_attn_implementation(kind)
        vlm.zero_grad(set_to_none=True)
        loss, _ = system.loss("model", made, 0, torch.Generator())
        loss.backward()
        found[kind] = [loss.detach(), *(p.grad.clone() for p in vlm.parameters() if p.grad is not None)]
    assert len(found["eager"]) == len(found[PLAIN]) > 20
    assert all(torch.allclose(a, b, atol=1e-5, rtol=1e-4) for a, b in zip(*found.values(), strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_training_loss_is_cross_entropy_on_the_targets(vlms, family):
    vlm = vlms[family]
    ids = torch.tensor([vlm.tokenizer(vlm.question("Is there a star?") + "yes<|im_end|>\n").input_ids])
    targets = torch.full_like(ids, IGNORED)
    targets[0, -3:-1] = ids[0, -3:-1]
    images = data.to_float(scenes.images("val", range(1), IMAGE))
    made = {"images": images, "ids": ids, "targets": targets, "turns": torch.zeros_like(ids)}
    loss, parts = VLMTraining(vlm, VLMLossConfig(), []).loss("model", made, 0, torch.Generator())
    logits = vlm.logits(vlm.hidden(ids, images))[0].log_softmax(-1)
    expected = -(logits[-4, ids[0, -3]] + logits[-3, ids[0, -2]]) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert parts["loss"] == loss
