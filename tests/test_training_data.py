"""Training batches: pure functions of the step, captions beside their own latents, answers as the only targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import IMAGE

from vgt.core import scenes
from vgt.training import data


def test_every_pass_over_the_latents_is_a_permutation():
    for count in (1, 2, 16, 30, 97):
        passes = [[data._shuffled(p * count + i, count) for i in range(count)] for p in range(6)]
        assert all(sorted(one) == list(range(count)) for one in passes)
        assert count < 16 or len({tuple(one) for one in passes}) == 6


def test_caption_batches_pair_captions_with_their_latents(vlms, tmp_path):
    from vgt.core import captions

    latents = torch.arange(16.0)[:, None, None].expand(16, 4, 3)
    words = vlms["internvl"].tokenizer
    captioned = data.cached_captions(16, tmp_path)
    assert data.cached_captions(16, tmp_path) == captioned  # read back
    at = data.caption_batches(latents, captioned, words, data.DataConfig(unconditional=0.0, dense=0.5), 8)
    lengths = set()
    for step in range(12):
        batch = at(step)
        assert all(torch.equal(a, b) for a, b in zip(batch.values(), at(step).values(), strict=True))
        for row in range(8):
            scene = scenes.scene("train", int(batch["latents"][row, 0, 0]))
            decoded = words.decode(batch["ids"][row][batch["mask"][row]]).replace(" ", "")
            wanted = [f(scene).replace(" ", "") for f in (captions.short_caption, captions.dense_caption)]
            assert any(text in decoded for text in wanted)
            dense = "Thereis" in decoded or "Thereare" in decoded
            assert dense or scene.task != "dense"  # its short caption would name one object of several
            lengths.add(dense)
    assert lengths == {True, False}


def test_unconditional_share(vlms, tmp_path):
    latents, captioned = torch.zeros(64, 4, 3), data.cached_captions(64, tmp_path)
    at = data.caption_batches(latents, captioned, vlms["internvl"].tokenizer, data.DataConfig(unconditional=0.25), 64)
    share = np.mean([(at(step)["mask"].sum(1) == 12).float().mean() for step in range(20)])
    assert share == pytest.approx(0.25, abs=0.05)


def test_conversations_ask_to_learn_the_answers_only(vlms):
    vlm = vlms["internvl"]
    batch = data.conversation_batches(vlm, data.DataConfig(turns=3), 4)(5)
    assert batch["images"].shape == (4, 3, IMAGE, IMAGE) and batch["images"].abs().max() <= 1
    words = vlm.tokenizer
    for row in range(4):
        wanted = batch["targets"][row] >= 0
        assert torch.equal(batch["targets"][row][wanted], batch["ids"][row][wanted])
        learnt = words.decode(batch["targets"][row][wanted])
        assert learnt.count("<|im_end|>") == 3 and "?" not in learnt and "assistant" not in learnt
        assert "\n" not in learnt  # the turn ends before its line does
        context = words.convert_tokens_to_ids("<IMG_CONTEXT>")
        assert (batch["ids"][row] == context).sum() == 16 and not (batch["targets"][row] == context).any()


def test_images_come_from_training_scenes_and_photos():
    at = data.image_batches(data.DataConfig(photos=0.25), 8, 32)
    batch = at(3)["images"]
    assert batch.shape == (8, 3, 32, 32) and torch.equal(batch, at(3)["images"])
    rendered = data.to_float(scenes.images("train", range(24, 30), 32))
    assert torch.equal(batch[:6], rendered) and not torch.equal(batch[6:], at(4)["images"][6:])


def test_statistics():
    z = 2 * torch.randn(500, 4, 3, generator=torch.Generator().manual_seed(0)) + torch.tensor([1.0, 0.0, -3.0])
    mean, std = data.statistics(z.half())
    assert mean == pytest.approx((1, 0, -3), abs=0.1) and std == pytest.approx((2, 2, 2), rel=0.05)
