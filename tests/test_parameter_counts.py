"""The full-size configurations have the paper's parameter counts (docs/vgt.md 1.7, 2.7, 7), built without memory."""

from __future__ import annotations

import pytest
import torch

from vgt.methods.discriminator import Discriminator, DiscriminatorConfig
from vgt.methods.flow_head import FlowHead, FlowHeadConfig
from vgt.methods.pixel_decoder import DecoderConfig, build_decoder
from vgt.methods.vgt_ae import VGTAE, VGTAEConfig
from vgt.methods.visual_lm import VisualLM, VisualLMConfig
from vgt.vlm import known

INTERNVL3_1B = known.KNOWN["OpenGVLab/InternVL3-1B"]
INTERNVL3_2B = known.KNOWN["OpenGVLab/InternVL3-2B"]
QWEN25_VL_3B = known.KNOWN["Qwen/Qwen2.5-VL-3B-Instruct"]


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(autouse=True)
def meta():
    with torch.device("meta"):
        yield


@pytest.mark.parametrize(
    ("vlm", "total", "parts"),
    [
        (INTERNVL3_1B, 472_577_475, {"encoder": 308_495_104, "down_blocks": 4_827_648, "down_mlp": 31_552}),
        (QWEN25_VL_3B, 853_168_579, {"encoder": 668_684_288, "down_blocks": 25_190_400, "down_mlp": 70_720}),
    ],
    ids=["internvl", "qwen"],
)
def test_vgt_ae(vlm, total, parts):
    ae = VGTAE(VGTAEConfig(vlm=vlm))
    assert {name: count(getattr(ae, name)) for name in parts} == parts
    assert count(ae) == total
    assert ae.stride == 28


def test_decoder():
    decoder = build_decoder(DecoderConfig(), 32)
    assert count(decoder) == 159_223_171
    assert len(decoder.state_dict()) == 196


@pytest.mark.parametrize(("width", "total"), [(896, 150_641_696), (1536, 151_624_736), (2048, 152_411_168)])
def test_flow_head(width, total):
    assert count(FlowHead(FlowHeadConfig(), 32, width)) == total


def test_discriminator():
    assert count(Discriminator(DiscriminatorConfig())) == 1_909_889


@pytest.mark.parametrize(
    ("vlm", "layers"),
    [(INTERNVL3_1B, 357_900_000), (INTERNVL3_2B, 1_310_300_000), (QWEN25_VL_3B, 2_775_000_000)],
    ids=["internvl-1b", "internvl-2b", "qwen"],
)
def test_what_the_generator_adds_to_the_language_model(vlm, layers):
    """Two grids of 4096 D, in-projector 33 D, out-projector D (D + 1), flow head (docs/vgt.md 2.10); transformer layers
    as in section 0."""
    text = vlm["text_config"]
    d = text["hidden_size"]
    model = VisualLM(VisualLMConfig(method="query_ar", text=text, start_ids=(0,)))
    head = count(model.image_head)
    assert count(model) - count(model.language_model) - head == 2 * 4096 * d + 33 * d + d * (d + 1)
    assert count(model.language_model.layers) == pytest.approx(layers, rel=1e-3)
