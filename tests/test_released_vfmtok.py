"""The published VFMTok file: its layout as docs/vfmtok.md 19.1 lists it, at full size and as a small file."""

from __future__ import annotations

import argparse

import torch
from test_cli import call
from test_vfmtok import full

from vgt.checkpoints import released_vfmtok
from vgt.inference.load import load
from vgt.methods.vfmtok import VFMTok


def layout(width=512, vision=1024, anchors=256, codes=16384, code=12, points=4, hidden=1024, swiglu=1368, heads=8,
           layers=6, places=577, widths=(512, 256, 256, 128, 128)) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """Key -> shape of a tokenizer's file."""
    w, found = width, {}

    def linear(key: str, out: int, into: int, bias: bool = True) -> None:
        found[f"{key}.weight"] = (out, into)
        if bias:
            found[f"{key}.bias"] = (out,)

    def norm(key: str, size: int) -> None:
        found[f"{key}.weight"] = found[f"{key}.bias"] = (size,)

    def conv(key: str, out: int, into: int, side: int) -> None:
        found[f"{key}.weight"], found[f"{key}.bias"] = (out, into, side, side), (out,)

    encoder, decoder = "encode_transformer", "decode_transformer"
    found[f"{encoder}.carrier_tokens"] = found[f"{encoder}.slots_pos"] = (1, anchors, w)
    for level in range(4):
        linear(f"{encoder}.projectors.{level}.mlp.0", w, vision, bias=False)
        linear(f"{encoder}.projectors.{level}.mlp.3", w, w, bias=False)
        for part in ("mlp.1", "mlp.4"):
            norm(f"{encoder}.projectors.{level}.{part}", w)
        norm(f"{encoder}.norm_layers.{level}", w)
    norm(f"{encoder}.norm_pre1", w)
    for i in range(layers):
        layer = f"{encoder}.transformer.layers.{i}"
        linear(f"{layer}.cross_attn.sampling_offsets", heads * 4 * points * 2, w)
        linear(f"{layer}.cross_attn.attention_weights", heads * 4 * points, w)
        for part in ("cross_attn.value_proj", "cross_attn.output_proj", *(f"self_attn.{x}_proj" for x in "qkv")):
            linear(f"{layer}.{part}", w, w)
        linear(f"{layer}.self_attn.out_proj", w, w)
        linear(f"{layer}.linear1", hidden, w)
        linear(f"{layer}.linear2", w, hidden)
        for k in (1, 2, 3):
            norm(f"{layer}.norm{k}", w)
    linear("pre_slots_quant", code, w)
    linear("post_slots_quant", w, code)
    found["slot_quantize.embedding.weight"] = (codes, code)
    found["slot_quantize.codebook_used"] = (65536,)
    found[f"{decoder}.position_embedding"] = (1, places, w)
    found[f"{decoder}.slot_position_embedding"] = (1, anchors, w)
    for key in ("mask_embedding", "mask_dino", "cls_token"):
        found[f"{decoder}.{key}"] = (1, 1, w)
    found[f"{decoder}.register_tokens"] = (1, 4, w)
    for i in range(layers):
        layer = f"{decoder}.transformer.layers.{i}"
        norm(f"{layer}.norm1", w)
        norm(f"{layer}.norm2", w)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(f"{layer}.attn1.{part}", w, w)
        linear(f"{layer}.ffnet.w12", 2 * swiglu, w)
        linear(f"{layer}.ffnet.w3", w, swiglu)
    norm(f"{decoder}.norm_post1", w)
    norm(f"{decoder}.norm_post2", w)
    linear(f"{decoder}.proj", vision, w)
    conv("decoder.conv_in", widths[0], w, 3)
    conv("decoder.conv_out", 3, widths[-1], 3)
    norm("decoder.norm_out", widths[-1])
    for place in ("mid.0", "mid.2"):
        for k in (1, 2):
            norm(f"decoder.{place}.norm{k}", widths[0])
            conv(f"decoder.{place}.conv{k}", widths[0], widths[0], 3)
    norm("decoder.mid.1.norm", widths[0])
    for part in ("q", "k", "v", "proj_out"):
        conv(f"decoder.mid.1.{part}", widths[0], widths[0], 1)
    before = widths[0]
    for b, out in enumerate(widths):
        for r in range(2):
            into = before if r == 0 else out
            place = f"decoder.conv_blocks.{b}.res.{r}"
            norm(f"{place}.norm1", into)
            conv(f"{place}.conv1", out, into, 3)
            norm(f"{place}.norm2", out)
            conv(f"{place}.conv2", out, out, 3)
            if into != out:
                conv(f"{place}.nin_shortcut", out, into, 1)
        before = out
        if b + 1 < len(widths):
            conv(f"decoder.conv_blocks.{b}.upsample.conv", out, out, 3)
    return found


def test_every_published_tensor_has_its_place():
    table = {key: torch.empty(shape, device="meta") for key, shape in layout().items()}
    state, report = released_vfmtok.sort(table, "vfmtok-tokenizer.pt", "ema")
    assert set(report.dropped) == {"slot_quantize.codebook_used"} and not report.left_over
    hf = full().vision.hf
    config = released_vfmtok.configuration(state, hf, "a file")
    assert config == full(share_mask=False, resampling="scale").model_copy(update={"vision": config.vision})
    with torch.device("meta"):
        model = VFMTok(config)
    wanted = {k: v.shape for k, v in model.state_dict().items() if not k.startswith("vision.")}
    assert {k: v.shape for k, v in state.items()} == wanted


SMALL = {"width": 64, "vision": 64, "anchors": 9, "codes": 32, "code": 4, "points": 2, "hidden": 48, "swiglu": 40}
SMALL |= {"heads": 1, "layers": 1, "widths": (32, 32, 16, 16, 16)}


def vision_file(path, depth=4):
    """A small DINOv2 with registers under the names of its release."""
    rng = torch.Generator().manual_seed(1)
    d, state = 64, {}
    state |= {
        "cls_token": (1, 1, d),
        "register_tokens": (1, 4, d),
        "mask_token": (1, d),
        "pos_embed": (1, 1 + 37**2, d),
    }
    state |= {"patch_embed.proj.weight": (d, 3, 14, 14), "patch_embed.proj.bias": (d,)}
    state |= {"norm.weight": (d,), "norm.bias": (d,)}
    for i in range(depth):
        block = f"blocks.{i}"
        for k in ("norm1", "norm2"):
            state |= {f"{block}.{k}.weight": (d,), f"{block}.{k}.bias": (d,)}
        state |= {f"{block}.ls1.gamma": (d,), f"{block}.ls2.gamma": (d,)}
        state |= {f"{block}.attn.qkv.weight": (3 * d, d), f"{block}.attn.qkv.bias": (3 * d,)}
        state |= {f"{block}.attn.proj.weight": (d, d), f"{block}.attn.proj.bias": (d,)}
        state |= {f"{block}.mlp.fc1.weight": (4 * d, d), f"{block}.mlp.fc1.bias": (4 * d,)}
        state |= {f"{block}.mlp.fc2.weight": (d, 4 * d), f"{block}.mlp.fc2.bias": (d,)}
    made = {key: torch.randn(shape, generator=rng) * 0.1 for key, shape in state.items()}
    torch.save(made, path)
    return made


def tokenizer_file(path, **more):
    rng = torch.Generator().manual_seed(0)
    ema = {key: torch.randn(shape, generator=rng) * 0.1 for key, shape in layout(**SMALL).items()}
    raw = {key: value + 1 for key, value in ema.items()}
    torch.save({"model": raw, "ema": ema, "args": argparse.Namespace(lr=1), "steps": 3, **more}, path)
    return ema


def test_a_released_file_becomes_a_checkpoint(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ema, frozen = tokenizer_file("vfmtok-tokenizer.pt"), vision_file("dinov2.pth")
    status, result, out, err = call(
        capsys, "convert", "vfmtok-tokenizer.pt", "made", "--vision", "dinov2.pth", "--storage", "fp32"
    )
    assert status == 0, err
    assert result["dropped"] == 1 and "averaged" in out
    model = load(tmp_path / "made").model
    own = model.state_dict()
    assert torch.equal(own["encoder.tokens"], ema["encode_transformer.carrier_tokens"])
    assert torch.equal(own["decoder.mid_block.attentions.0.to_q.weight"], ema["decoder.mid.1.q.weight"].flatten(1))
    qkv, layer = frozen["blocks.2.attn.qkv.weight"], "vision.network.encoder.layer.2.attention"
    names = ("q_proj", "k_proj", "v_proj") if f"{layer}.q_proj.weight" in own else ("query", "key", "value")
    for part, rows in zip(names, qkv.chunk(3), strict=True):
        key = next(k for k in own if k.startswith(layer) and k.endswith(f"{part}.weight"))
        assert torch.equal(own[key], rows)
    images = torch.rand(1, 3, 336, 336) * 2 - 1
    indices = model.encode(images)
    assert indices.shape == (1, 3, 3) and torch.isfinite(model.decode(indices)).all()


def test_files_that_do_not_fit_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tokenizer_file("t.pt")
    vision_file("v.pth")
    vision_file("deep.pth")

    def refused(*argv: str) -> str:
        status, _, _, err = call(capsys, "convert", *argv)
        assert status == 2 and err.count("\n") == 1, err
        return err

    assert "give DINOv2 ViT-L/14 with registers as --vision" in refused("t.pt", "made")
    assert "--vlm has no effect" in refused("t.pt", "made", "--vision", "v.pth", "--vlm", "x")
    assert "which is not DINOv2's" in refused("t.pt", "made", "--vision", "t.pt")
    table = torch.load("t.pt", weights_only=False)
    table["ema"]["extra.weight"] = torch.zeros(1)
    torch.save(table, "extra.pt")
    assert "1 tensors without a place" in refused("extra.pt", "made", "--vision", "v.pth")
    del table["ema"]["extra.weight"], table["ema"]["encode_transformer.norm_pre1.bias"]
    torch.save(table, "torn.pt")
    assert "missing" in refused("torn.pt", "made", "--vision", "v.pth")
    assert not (tmp_path / "made").exists()
