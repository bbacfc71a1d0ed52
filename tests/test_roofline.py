"""The lower bound of decoding: the published table, the operations of the running model, and what decides which."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import roofline
from bench.roofline import KNOWN, Decoding, Limits
from bench.subjects import random_network
from vgt.equations.order import group_mask
from vgt.methods import mar, query_ar
from vgt.methods.sampling import Sampling
from vgt.vlm.prompts import tokenize

# Milliseconds an image by (acceleration, batch): hoisted and not on an H100, hoisted on an H200 (docs/decode.md,
# floors; prompts of 64 tokens, guidance, 30 evaluations, no autoencoder).
TABLE = {
    "query_ar_internvl3_1b": {
        (1, 1): (368, 833, 257),
        (1, 8): (48, 105, 35),
        (1, 64): (9.7, 13.8, 7.9),
        (4, 1): (92, 208, 65),
        (4, 8): (14.8, 26, 11.4),
        (4, 64): (7.2, 7.3, 7.2),
        (16, 1): (25.5, 52, 18.8),
        (16, 8): (7.2, 7.5, 7.1),
        (16, 64): (7.1, 7.3, 7.1),
    },
    "query_ar_internvl3_2b": {
        (1, 1): (532, 1001, 371),
        (1, 8): (70, 127, 50),
        (1, 64): (13.5, 17.6, 10.7),
        (4, 1): (133, 251, 94),
        (4, 8): (20, 32, 15.5),
        (4, 64): (11.2, 11.4, 11.2),
        (16, 1): (36, 63, 26),
        (16, 8): (11.1, 11.5, 11.0),
        (16, 64): (11, 11.2, 11),
    },
}
H100, H200 = KNOWN["h100"], KNOWN["h200"]


@pytest.fixture(scope="module")
def sizes() -> dict[str, roofline.Sizes]:
    return {preset: roofline.sizes(random_network(preset, "meta")[0]) for preset in TABLE}


@pytest.mark.parametrize("preset", TABLE)
def test_the_bounds_are_those_of_the_table(sizes, preset):
    for (acceleration, batch), (hoisted, plain, h200) in TABLE[preset].items():
        how = Decoding("query_ar", batch, acceleration, text=64)
        found = roofline.lower_bound(sizes[preset], how, H100)
        assert found.total == pytest.approx(hoisted, rel=0.04)
        assert roofline.lower_bound(sizes[preset], replace(how, hoisted=False), H100).total == pytest.approx(
            plain, rel=0.04
        )
        assert roofline.lower_bound(sizes[preset], how, H200).total == pytest.approx(h200, rel=0.04)


def test_work_of_one_image_is_that_of_the_table(sizes):
    """5.4 - 5.7 TFLOP and 1,104 GB at 1x; 7.6 - 8.9 TFLOP and 1,595 GB."""
    for preset, gigabytes, teraflops in (
        ("query_ar_internvl3_1b", 1104, (5.4, 5.7)),
        ("query_ar_internvl3_2b", 1595, (7.6, 8.9)),
    ):
        one, four = (roofline.lower_bound(sizes[preset], Decoding("query_ar", 1, a, text=64), H100) for a in (1, 4))
        assert one.bytes / 1e9 == pytest.approx(gigabytes, rel=0.01)
        assert (one.operations / 1e12, four.operations / 1e12) == pytest.approx(teraflops, rel=0.02)
    mlp = 113e6 * 30 * 256 / 3.0e12  # "the head's MLP weights are 291 of the 368 ms"
    head = roofline.lower_bound(sizes["query_ar_internvl3_1b"], Decoding("query_ar", 1, 1, text=64), H100).ms["head"]
    assert 1000 * mlp < head < 1000 * mlp * 1.1


# ------------------------------------------------------------------------------------- against the running model


@pytest.fixture(scope="module")
def small():
    """A VisualLM with random weights, large enough for biases and norms to be few of its parameters."""
    return random_network("query_ar_internvl", "cpu")[0].eval().requires_grad_(False)


@pytest.mark.parametrize("method", ["query_ar", "mar"])
@pytest.mark.parametrize("acceleration", [8, 24])
def test_operations_are_those_that_torch_counts(small, vlms, method, acceleration):
    """Matrix products of the reference implementation without attention: all, nothing hoisted, no guidance."""
    settings = Sampling(acceleration=acceleration, guidance=1.0, flow_steps=3)
    ids, mask = tokenize(vlms["internvl"].tokenizer, ["a photo of a star", "a photo of a red star"])
    loop = {"query_ar": query_ar.generate, "mar": mar.generate}[method]
    found = {"read": 0, "head": 0}

    def counted(name, original):
        def call(*args, **kwargs):
            with FlopCounterMode(display=False) as counter:
                result = original(*args, **kwargs)
            found[name] += sum(n for op, n in counter.get_flop_counts()["Global"].items() if "mm" in str(op))
            return result

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small, "read", counted("read", small.read))
        patch.setattr(small.image_head, "sample", counted("head", small.image_head.sample))
        loop(small, ids, mask, [1, 2], settings)
    sizes = replace(roofline.sizes(small), pair=0, last=0, into=0, out=0)
    how = Decoding(method, 2, acceleration, text=ids.shape[1], evaluations=3, copies=1, hoisted=False)
    calls = roofline.work(sizes, how)
    read = sum(c.operations for phase in ("prefill", "language_model") for c in calls[phase])
    head = sum(c.times * c.operations for c in calls["head"])
    assert found["read"] == pytest.approx(read, rel=0.01)
    assert found["head"] == pytest.approx(head, rel=0.01)


def test_pairs_of_queries_and_keys_are_those_of_the_masks():
    sizes = replace(SIZES, tokens=10, start=1)
    for acceleration in (1, 3, 10):
        cached, how = 6, Decoding("query_ar", 1, acceleration, text=5)
        for m, read, before, pairs in roofline._reads(sizes, how):
            layout = group_mask(torch.ones(1, before, dtype=torch.bool), read - m, m)
            assert before == cached and pairs == int(layout.sum())
            cached += (read - m) + (m == 1)


# ----------------------------------------------------------------------------------------------------- its rules

SIZES = roofline.Sizes(
    language=1000, last=0, into=10, out=20, modulation=400, condition=5, time=7, velocity=100, pair=2, layers=1,
    cache=4, modulated=30, tokens=16, start=1,
)  # fmt: skip


def total(limits: Limits = H100, **how) -> float:
    given = {"method": "query_ar", "batch": 1, "acceleration": 4, "text": 8, **how}
    return roofline.lower_bound(SIZES, Decoding(**given), limits).total


def test_the_slower_of_memory_and_arithmetic_decides():
    slow_memory, slow_product = Limits("m", 1e30, 1e3, ""), Limits("p", 1e3, 1e30, "")
    assert total(slow_memory, batch=64) < total(slow_memory), "a batch shares its weights"
    assert total(slow_product, batch=64) == pytest.approx(total(slow_product), rel=0.05), "but no operations"
    assert total(slow_memory, bytes=4) == pytest.approx(2 * total(slow_memory, bytes=2))
    assert total(slow_product, bytes=4) == total(slow_product, bytes=2)


def test_hoisting_and_stored_modulation():
    memory = Limits("m", 1e30, 1e3, "")
    assert total(memory, hoisted=False) > total(memory) and total(memory, activations=True) > total(memory)
    more = total(memory, activations=True) - total(memory)
    assert more == pytest.approx(16 * 2 * 30 * 2 * 2 * SIZES.modulated), (
        "16 tokens, 2 copies, written and read, 2 bytes"
    )


def test_every_step_has_its_own_evaluations():
    """Equal numbers are one number; a falling budget over equal groups reads as much in all, and a step
    of more tokens counts more."""
    memory = Limits("m", 1e30, 1e3, "")
    for how in ({}, {"hoisted": False}, {"activations": True}):
        assert total(evaluations=(30, 30, 30, 30), **how) == total(evaluations=30, **how)
        assert total(memory, evaluations=(41, 34, 26, 19), **how) == pytest.approx(total(memory, **how))
    product = Limits("p", 1e3, 1e30, "")
    late, early = (total(product, method="mar", evaluations=k) for k in ((20, 20, 40, 40), (40, 40, 20, 20)))
    assert late > total(product, method="mar", evaluations=30) > early


def test_fewer_steps_leave_the_images_out():
    decoder = roofline.Image(10**6, 10**9, 100)
    how = Decoding("query_ar", 1, 4, text=8)
    whole, bare = roofline.lower_bound(SIZES, how, H100, decoder), roofline.lower_bound(SIZES, how, H100)
    assert whole.ms["decode"] > bare.ms["decode"] == 0
    assert {k: v for k, v in whole.ms.items() if k != "decode"} == {k: v for k, v in bare.ms.items() if k != "decode"}
    some = [roofline.lower_bound(SIZES, replace(how, steps=n), H100, decoder) for n in (1, 2, 4)]
    assert some[0].total < some[1].total < some[2].total == bare.total
    assert some[2].ms["decode"] == 0


def test_mar_generates_by_its_cosine_and_reads_all_at_every_step():
    how = Decoding("mar", 1, 4, text=8)
    made = [m for m, *_ in roofline._reads(SIZES, how)]
    assert sum(made) == 16 and made == sorted(made) and len(set(made)) > 1
    assert {read for _, read, *_ in roofline._reads(SIZES, how)} == {16}
    assert [m for m, *_ in roofline._reads(SIZES, replace(how, schedule="equal"))] == [4] * 4


def test_the_last_layer_ends_with_the_tokens_that_are_asked_for():
    some = replace(SIZES, last=100, layers=4)
    assert roofline._read(some, 10, 10, 50) == 2 * 10 * 1000 + 50 * 2 * 4
    assert roofline._read(some, 10, 0, 50) == 2 * 10 * 900 + 50 * 2 * 3


def test_impossible_acceleration():
    with pytest.raises(ValueError, match="acceleration 17 is impossible with 16 image tokens"):
        total(acceleration=17)


def test_the_decoder_is_counted_where_its_weights_are(pixel_autoencoder):
    found = roofline.image(pixel_autoencoder, (4, 4))
    assert found.parameters == sum(p.numel() for p in pixel_autoencoder.decoder.parameters())
    assert found.values == 8 * 16 + 3 * 32 * 32
    assert found.operations > found.parameters, "every weight of a convolution is used more than once"
    assert roofline.image(pixel_autoencoder, (8, 8)).operations > 3 * found.operations


def test_limits_are_measured_at_hand():
    found = roofline.measure_limits("cpu", torch.float32, working_set=2**20)
    assert found.flops > 0 and found.bandwidth > 0 and "float32" in found.source and "1 MiB" in found.source
    with pytest.raises(ValueError, match="cannot be timed"):
        roofline.measure_limits("tpu")
