"""Training batches: pure functions of the step, captions beside their own latents, answers as the only targets."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from conftest import IMAGE
from torch import nn

from vgt.core import scenes
from vgt.training import data


class Pixels(nn.Module):
    """An autoencoder whose latents are the pixels, which counts the images that it encodes."""

    seen = 0

    def encode(self, images):
        self.seen += len(images)
        return images[..., ::4, ::4]


def number(latents: torch.Tensor) -> int:
    """The scene of which these are the latents."""
    return next(i for i in range(64) if torch.equal(pixels(i), latents.half()))


def pixels(index: int) -> torch.Tensor:
    return data.to_float(scenes.images("train", [index], 32))[0, :, ::4, ::4].flatten(1).mT.half()


def test_every_pass_over_the_latents_is_a_permutation():
    for count in (1, 2, 16, 30, 97):
        passes = [[data.shuffled(p * count + i, count) for i in range(count)] for p in range(6)]
        assert all(sorted(one) == list(range(count)) for one in passes)
        assert count < 16 or len({tuple(one) for one in passes}) == 6


def test_caption_batches_pair_captions_with_their_latents(vlms, tmp_path):
    from vgt.core import captions

    words = vlms["internvl"].tokenizer
    latents = data.SceneLatents(Pixels(), "numbers", 16, 32, tmp_path)
    at = data.CaptionBatches(latents, words, data.DataConfig(unconditional=0.0, dense=0.5), 8)
    lengths = set()
    for step in range(12):
        batch = at(step)
        assert all(torch.equal(a, b) for a, b in zip(batch.values(), at(step).values(), strict=True))
        for row in range(8):
            scene = scenes.scene("train", number(batch["latents"][row]))
            decoded = words.decode(batch["ids"][row][batch["mask"][row]]).replace(" ", "")
            wanted = [f(scene).replace(" ", "") for f in (captions.short_caption, captions.dense_caption)]
            assert any(text in decoded for text in wanted)
            dense = "Thereis" in decoded or "Thereare" in decoded
            assert dense or scene.task != "dense"  # its short caption would name one object of several
            lengths.add(dense)
    assert lengths == {True, False}


def test_unconditional_share(vlms, tmp_path):
    latents = data.SceneLatents(Pixels(), "numbers", 64, 32, tmp_path)
    at = data.CaptionBatches(latents, vlms["internvl"].tokenizer, data.DataConfig(unconditional=0.25), 64)
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


# ------------------------------------------------------------------------------------------- latents as they are needed


def short_run(vlms, cache, ae, count: int = 3, stride: int = 1, total: int = 5000):
    latents = data.SceneLatents(ae, "pixels", total, 32, cache, batch=16)
    return data.CaptionBatches(latents, vlms["internvl"].tokenizer, data.DataConfig(), 8, count, stride)


def test_a_run_encodes_what_its_steps_need(vlms, tmp_path):
    """It once encoded all of its 49,152 scenes before step 0."""
    ae = Pixels()
    at = short_run(vlms, tmp_path, ae)
    batches = [at(step) for step in range(3)]
    assert ae.seen == 32  # 24 rows of three steps, in two full batches of the autoencoder
    long = Pixels()
    short_run(vlms, tmp_path / "long", long, count=10_000)(0)
    assert long.seen == data.PIECE  # a step of many waits for one piece, filled with the scenes that come next
    for step, batch in enumerate(batches):
        for scene, latents in zip(at.texts(step)["scenes"].tolist(), batch["latents"], strict=True):
            assert torch.equal(latents.half(), pixels(scene))


def test_latents_are_read_again_after_a_kill(vlms, tmp_path, capsys):
    wanted = short_run(vlms, tmp_path / "whole", Pixels())(2)["latents"]
    at = short_run(vlms, tmp_path, Pixels())
    at(0)
    (piece,) = at.latents.folder.glob("piece-*")
    (at.latents.folder / ".piece-half.1234.safetensors").write_bytes(b"torn")  # a kill in the midst of writing
    ae = Pixels()
    assert torch.equal(short_run(vlms, tmp_path, ae)(2)["latents"], wanted) and ae.seen == 0
    assert [p.name for p in at.latents.folder.iterdir()] == [piece.name]
    piece.write_bytes(piece.read_bytes()[:-100])
    assert torch.equal(short_run(vlms, tmp_path, ae)(2)["latents"], wanted) and ae.seen == 16
    assert f"{piece} cannot be read" in capsys.readouterr().err


def test_two_runs_do_not_encode_the_same_scenes(vlms, tmp_path):
    ae, other = Pixels(), Pixels()
    first, second = short_run(vlms, tmp_path, ae, 30, 2), short_run(vlms, tmp_path, other, 30)
    first(0)
    second(0)
    assert other.seen == 0
    second(1)  # what falls to the other process of the first run
    assert other.seen == 128 and {p.name for p in first.latents.folder.iterdir()} == {
        p.name for p in second.latents.folder.iterdir()
    }


@pytest.mark.parametrize("name", ["vgt_ae_internvl", "pixel_ae"])
def test_a_scenes_latents_depend_neither_on_its_neighbours_nor_on_threads(name, tmp_path):
    from vgt.inference.load import load

    ae = load(name).model
    at_once = data.SceneLatents(ae, "at once", 32, 64, tmp_path, batch=16).take(range(32))
    mixed = data.SceneLatents(ae, "mixed", 32, 64, tmp_path, batch=16)
    order = [(17 * i + 5) % 32 for i in range(32)]
    with ThreadPoolExecutor(1) as thread:
        parts = [thread.submit(mixed.take, order[i : i + 7]).result() for i in range(0, 32, 7)]
    assert torch.equal(torch.cat(parts), at_once[order])


def test_encoding_beside_a_step_leaves_its_cast_weights(tmp_path):
    """Autocast keeps the cast of a weight for a step, in a cache that all threads share; were it emptied in the midst,
    the gradients of a weight that is used twice would be added in another order."""
    weight = nn.Parameter(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)))

    def gradient(beside) -> torch.Tensor:
        weight.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            x = torch.ones(8, 64) @ weight
            with ThreadPoolExecutor(1) as thread:
                thread.submit(beside).result()
            (torch.tanh(x) @ weight).float().square().mean().backward()
        return weight.grad.clone()

    def leaving() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            pass

    encoding = partial(data._latents, Pixels(), torch.zeros(1, 3, 8, 8), "cpu")
    alone = gradient(lambda: None)
    assert not torch.equal(gradient(leaving), alone)  # what would happen
    assert torch.equal(gradient(encoding), alone)


def test_statistics_of_short_runs_have_fewer_images():
    assert [data.statistics_sample(n) for n in (16, 1600, 8000, 32_768, 448_000)] == [256, 256, 1000, 4096, 4096]


def test_scenes_that_are_all_for_dense_captions_are_refused(vlms, tmp_path):
    count = next(i for i in range(1000) if scenes.task("train", i) == "dense")
    assert all(scenes.task("train", i) == scenes.scene("train", i).task for i in range(200))
    at = data.SceneLatents(Pixels(), "pixels", 1, 32, tmp_path)
    words = vlms["internvl"].tokenizer
    if count == 0:
        with pytest.raises(ValueError, match="data.scenes"):
            data.CaptionBatches(at, words, data.DataConfig(), 4)
    assert data.CaptionBatches(at, words, data.DataConfig(dense=1.0), 4)(0)["latents"].shape == (4, 64, 3)
