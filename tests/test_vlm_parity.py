"""Our modules against the published computations written again from docs/vgt.md, in double precision and without
the project's equations, with equal weights, to 1e-5 of the whole (docs/vgt.md 1.2 - 1.4, 1.7, 2.1, 2.7).

Shapes of the references: plain lists of tokens, [n, C] each."""

from __future__ import annotations

import copy
import math

import pytest
import small_vlms
import torch
from conftest import vlm_values, widen
from torch import Tensor

from vgt.methods.flow_head import FlowHead, FlowHeadConfig
from vgt.methods.pixel_decoder import DecoderConfig
from vgt.methods.vgt_ae import VGTAE, VGTAEConfig
from vgt.methods.visual_lm import VisualLM, VisualLMConfig
from vgt.vlm import vlm

LIMIT = 1e-5


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sample_images(n: int, height: int, width: int, seed: int = 1) -> Tensor:
    return 2 * torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed)) - 1


def assert_near(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    error = (ours.double() - theirs).norm() / theirs.norm()
    assert error < LIMIT, f"relative error {error:.1e}"


def weights(module) -> dict[str, Tensor]:
    return {k: v.double() for k, v in module.state_dict().items()}


def linear(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", torch.zeros((), dtype=torch.float64))


def layer_norm(x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()


def norm(w: dict[str, Tensor], name: str, x: Tensor, eps: float) -> Tensor:
    return layer_norm(x, eps) * w[f"{name}.weight"] + w[f"{name}.bias"]


def rms(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.weight"]


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, allowed: Tensor | None = None) -> Tensor:
    """[n, C] each, head by head; ``allowed`` bool [n, n]."""
    out = []
    for qh, kh, vh in zip(*(t.chunk(heads, 1) for t in (q, k, v)), strict=True):
        scores = qh @ kh.T / math.sqrt(qh.shape[1])
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -torch.inf)
        out.append(scores.softmax(1) @ vh)
    return torch.cat(out, 1)


# ----------------------------------------------------------------------------------------------------- encoders


def intern_features(w: dict[str, Tensor], image: Tensor, patch: int, heads: int, layers: int) -> Tensor:
    """One image [3, H, H] in [-1, 1] -> [hw, A] (docs/vgt.md 1.2)."""
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)
    std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)
    x = ((image.double() + 1) / 2 - mean[:, None, None]) / std[:, None, None]
    side, at = x.shape[-1] // patch, "tower.embeddings"
    kernel = w[f"{at}.patch_embeddings.projection.weight"].flatten(1)
    tokens = [w[f"{at}.cls_token"][0, 0]]
    for row in range(side):
        for col in range(side):
            square = x[:, row * patch : (row + 1) * patch, col * patch : (col + 1) * patch]
            tokens.append(kernel @ square.flatten() + w[f"{at}.patch_embeddings.projection.bias"])
    hidden = torch.stack(tokens) + w[f"{at}.position_embeddings"][0]
    for k in range(layers):
        at = f"tower.encoder.layer.{k}"
        y = norm(w, f"{at}.layernorm_before", hidden, 1e-6)
        q, key, v = (linear(w, f"{at}.attention.{name}_proj", y) for name in "qkv")
        y = linear(w, f"{at}.attention.projection_layer", attend(q, key, v, heads))
        hidden = hidden + w[f"{at}.lambda_1"] * y
        y = norm(w, f"{at}.layernorm_after", hidden, 1e-6)
        hidden = hidden + w[f"{at}.lambda_2"] * linear(w, f"{at}.mlp.fc2", gelu(linear(w, f"{at}.mlp.fc1", y)))
    # Pixel shuffle by the four steps of docs/vgt.md 1.2: view, swap, view, swap.
    c = hidden.shape[1]
    grid = hidden[1:].reshape(1, side, side, c)
    grid = grid.reshape(1, side, side // 2, 2 * c).transpose(1, 2)
    grid = grid.reshape(1, side // 2, side // 2, 4 * c).transpose(1, 2)
    y = norm(w, "projector.layer_norm", grid.reshape(-1, 4 * c), 1e-5)
    return linear(w, "projector.linear_2", gelu(linear(w, "projector.linear_1", y)))


def qwen_features(w: dict[str, Tensor], image: Tensor, vision) -> Tensor:
    """One image [3, H, W] in [-1, 1] -> [hw, A] (docs/vgt.md 1.3), in raster order all the way: windows are a mask."""
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073], dtype=torch.float64)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711], dtype=torch.float64)
    x = ((image.double() + 1) / 2 - mean[:, None, None]) / std[:, None, None]
    patch, heads = vision.patch_size, vision.num_heads
    gh, gw = x.shape[1] // patch, x.shape[2] // patch
    kernel = w["tower.patch_embed.proj.weight"].flatten(1)  # channel, frame, row, column
    hidden, places = [], []
    for row in range(gh):
        for col in range(gw):
            square = x[:, row * patch : (row + 1) * patch, col * patch : (col + 1) * patch]
            hidden.append(kernel @ torch.stack([square, square], 1).flatten())
            places.append((row, col))
    hidden, places = torch.stack(hidden), torch.tensor(places)
    size = hidden.shape[1] // heads
    rate = 10000.0 ** (-torch.arange(0, size // 2, 2, dtype=torch.float64) / (size // 2))
    angle = torch.cat([places[:, :1] * rate, places[:, 1:] * rate], 1).repeat(1, 2)

    def rotate(t: Tensor) -> Tensor:
        return torch.cat(
            [
                h * angle.cos() + torch.cat([-h[:, size // 2 :], h[:, : size // 2]], 1) * angle.sin()
                for h in t.chunk(heads, 1)
            ],
            1,
        )

    window = places // (vision.window_size // patch)
    near = (window[:, None] == window[None]).all(-1)
    for k in range(vision.depth):
        at = f"tower.blocks.{k}"
        q, key, v = linear(w, f"{at}.attn.qkv", rms(w, f"{at}.norm1", hidden)).chunk(3, 1)
        y = attend(rotate(q), rotate(key), v, heads, None if k in vision.fullatt_block_indexes else near)
        hidden = hidden + linear(w, f"{at}.attn.proj", y)
        y = rms(w, f"{at}.norm2", hidden)
        y = silu(linear(w, f"{at}.mlp.gate_proj", y)) * linear(w, f"{at}.mlp.up_proj", y)
        hidden = hidden + linear(w, f"{at}.mlp.down_proj", y)
    grid = rms(w, "tower.merger.ln_q", hidden).reshape(gh, gw, -1)
    merged = [
        torch.cat([grid[2 * i + a, 2 * j + b] for a in range(2) for b in range(2)])
        for i in range(gh // 2)
        for j in range(gw // 2)
    ]
    return linear(w, "tower.merger.mlp.2", gelu(linear(w, "tower.merger.mlp.0", torch.stack(merged))))


def quiet(encoder, *parts: str):
    """A copy whose parts named so write little, so that the constants within its norms show."""
    made = copy.deepcopy(encoder)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if any(part in name for part in parts):
                parameter.mul_(2e-3)
    return made


@pytest.mark.parametrize("small", [False, True])
@torch.no_grad()
def test_intern_vision_path(vlms, small):
    encoder, images = vlms["internvl"].encoder, sample_images(2, 32, 32)
    if small:
        encoder = quiet(encoder, ".embeddings.", "lambda")
    expected = [intern_features(weights(encoder), image, 4, 2, 2) for image in images]
    assert_near(encoder(images), torch.stack(expected))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 40)])
@pytest.mark.parametrize("small", [False, True])
@torch.no_grad()
def test_qwen_vision_path(vlms, height, width, small):
    """Patch order, windows (also cut ones), rotary positions, merger."""
    encoder, images = vlms["qwen2_5_vl"].encoder, sample_images(2, height, width)
    if small:
        encoder = quiet(encoder, "patch_embed", "attn.proj", "down_proj")
    expected = [qwen_features(weights(encoder), image, encoder.config.vision_config) for image in images]
    assert_near(encoder(images), torch.stack(expected))


def normalised(encoder, images: Tensor) -> Tensor:
    return ((images + 1) / 2 - encoder.mean) / encoder.std


@torch.no_grad()
def test_intern_features_equal_transformers_to_the_bit(vlms):
    """``InternVLModel.get_image_features``, at the size of the tower and at another one."""
    model = vlms["internvl"]
    for size in (32, 48):
        images = sample_images(3, size, size)
        theirs = model.hf.model.get_image_features(pixel_values=normalised(model.encoder, images)).pooler_output
        assert torch.equal(model.encoder(images), theirs)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 40)])
@torch.no_grad()
def test_qwen_features_equal_transformers_to_the_bit(vlms, height, width):
    """``Qwen2_5_VLModel.get_image_features`` on patches that its image processor cut from the same pixels."""
    from transformers import Qwen2VLImageProcessor

    model, images = vlms["qwen2_5_vl"], sample_images(3, height, width)
    processor = Qwen2VLImageProcessor(
        do_resize=False, do_rescale=False, do_normalize=False, patch_size=4, merge_size=2, temporal_patch_size=2
    )
    made = processor(images=list(normalised(model.encoder, images)), return_tensors="pt")
    theirs = model.hf.model.get_image_features(made.pixel_values, made.image_grid_thw).pooler_output
    assert torch.equal(model.encoder(images), torch.stack(list(theirs)))


# ------------------------------------------------------------------------------------------ VGT-AE, real strides


def real_strides(family: str) -> dict:
    """The published patches of 14 px and windows of 112 px, with tiny widths."""
    values = copy.deepcopy(vlm_values(family))
    vision = values["vision_config"]
    if family == "internvl":
        vision |= {"patch_size": [14, 14], "image_size": [84, 84]}
    else:
        vision |= {"patch_size": 14, "window_size": 112}
    return values


DC = DecoderConfig(widths=(8, 8, 16, 16, 16, 16), layers=(1, 1, 1, 1, 1, 1), attention=3, head_dim=8)


def autoencoder(family: str) -> VGTAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = VGTAE(VGTAEConfig(vlm=real_strides(family), image_size=84, d_z=16, decoder=DC))
    return widen(made, 2).eval().requires_grad_(False)


@pytest.mark.parametrize("family", ["internvl", "qwen2_5_vl"])
def test_sizes_at_the_published_stride(family):
    """28 px a token: 256 px is an error for both (not cut), 252 and 84 are 9 and 3 tokens (docs/vgt.md 1.7)."""
    ae = autoencoder(family)
    assert ae.stride == 28
    assert ae.encode(sample_images(1, 252, 252)).shape == (1, 16, 9, 9)
    for size in (256, 70):
        with pytest.raises(ValueError, match=f"{size} x {size} px: sides must be multiples of 28 px"):
            ae.encode(sample_images(1, size, size))
    if family == "qwen2_5_vl":
        assert ae.encode(sample_images(1, 84, 140)).shape == (1, 16, 3, 5)


@pytest.mark.parametrize("small", [False, True])
@torch.no_grad()
def test_residual_projection(small):
    """Three residual blocks without expansion, then the reduction (docs/vgt.md 1.4)."""
    ae, features = autoencoder("internvl"), drawn(5, 32)
    if small:
        ae, features = quiet(ae, "mlp.3"), 2e-3 * features
    w = weights(ae)
    y = features.double()
    for k in range(3):
        at = f"down_blocks.{k}.mlp"
        y = y + linear(w, f"{at}.3", gelu(linear(w, f"{at}.1", norm(w, f"{at}.0", y, 1e-6))))
    y = linear(w, "down_mlp.3", gelu(linear(w, "down_mlp.1", norm(w, "down_mlp.0", y, 1e-5))))
    assert_near(ae.project(features), y)


def resized(image: Tensor, size: int) -> Tensor:
    """[C, H, W] to ``size``: bilinear between pixel centres, corners not aligned, no antialiasing."""
    out = image
    for axis in (1, 2):
        old = out.shape[axis]
        rows = []
        for i in range(size):
            place = max((i + 0.5) * old / size - 0.5, 0.0)
            low = int(place)
            high = min(low + 1, old - 1)
            rows.append(out.select(axis, low) * (1 - place + low) + out.select(axis, high) * (place - low))
        out = torch.stack(rows, axis)
    return out


@torch.no_grad()
def test_path_around_the_dc_ae_decoder():
    """Latents go in as they are (no scaling factor), 32 px a token come out and are resized to 28 (docs/vgt.md 1.7)."""
    from diffusers import AutoencoderDC

    ae, z = autoencoder("internvl"), drawn(2, 16, 3, 3)
    with torch.random.fork_rng(devices=[]):
        theirs = AutoencoderDC(
            latent_channels=16,
            attention_head_dim=DC.head_dim,
            encoder_block_types=("ResBlock",) * 6,
            decoder_block_types=("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
            encoder_block_out_channels=DC.widths,
            decoder_block_out_channels=DC.widths,
            encoder_layers_per_block=DC.layers,
            decoder_layers_per_block=DC.layers,
            encoder_qkv_multiscales=((),) * 6,
            decoder_qkv_multiscales=((),) * 3 + ((5,),) * 3,
            upsample_block_type="interpolate",
            scaling_factor=0.41407,
        ).eval()
    theirs.decoder.load_state_dict(ae.decoder.state_dict())
    raw = theirs.decode(z).sample
    assert raw.shape == (2, 3, 96, 96) and ae.decode(z).shape == (2, 3, 84, 84)
    assert_near(ae.decode(z), torch.stack([resized(image, 84) for image in raw.double()]))


# ------------------------------------------------------------------------------------------------------ QueryAR


@torch.no_grad()
def test_position_queries_and_latent_inputs(vlms):
    """Grids of 64 x 64, centre crops of 16 x 16 in raster order, Q = M + P, E = W z + b + P (docs/vgt.md 2.1)."""
    config = VisualLMConfig(
        method="query_ar", text=vlms["internvl"].config.text_config.to_dict(), start_ids=(1,), latent_grid=(16, 16),
        d_z=8, head=FlowHeadConfig(width=16, depth=1),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        model = widen(VisualLM(config), 4).eval()
    assert model.max_metaquery.shape == model.grid_embed.shape == (1, 32, 64, 64)
    w = weights(model)
    m, p = w["max_metaquery"][0], w["grid_embed"][0]
    cells = [(24 + i // 16, 24 + i % 16) for i in range(256)]
    assert_near(model.queries(), torch.stack([m[:, r, c] + p[:, r, c] for r, c in cells]))
    z = drawn(2, 5, 8)
    where = torch.tensor([[0, 255, 17, 3, 100], [15, 16, 200, 254, 1]])
    expected = [
        [w["image_in_projector.weight"] @ z[b, n].double() + w["image_in_projector.bias"] + p[:, r, c]
         for n, (r, c) in enumerate(cells[i] for i in where[b])]
        for b in range(2)
    ]  # fmt: skip
    assert_near(model.latent_inputs(z, where), torch.stack([torch.stack(row) for row in expected]))


@torch.no_grad()
def test_velocity_of_the_flow_head():
    """Token by token, the time in its own cosines and sines (docs/vgt.md 2.7)."""
    head = widen(FlowHead(FlowHeadConfig(width=32, depth=3), 6, 10), 5).eval()
    w, x, c = weights(head), drawn(4, 6), drawn(4, 10, seed=1)
    times = [0.0, 0.37, 0.5, 0.96]
    expected = []
    for n, t in enumerate(times):
        angles = [t * math.exp(-math.log(10000) * k / 128) for k in range(128)]
        time = torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles], dtype=torch.float64)
        time = linear(w, "time_embed.mlp.2", silu(linear(w, "time_embed.mlp.0", time)))
        y = silu(time + linear(w, "cond_embed", c[n].double()))
        hidden = linear(w, "input_proj", x[n].double())
        for k in range(3):
            at = f"res_blocks.{k}"
            shift, scale, gate = linear(w, f"{at}.adaLN_modulation.1", y).chunk(3)
            inner = norm(w, f"{at}.in_ln", hidden, 1e-6) * (1 + scale) + shift
            hidden = hidden + gate * linear(w, f"{at}.mlp.2", silu(linear(w, f"{at}.mlp.0", inner)))
        shift, scale = linear(w, "final_layer.adaLN_modulation.1", y).chunk(2)
        expected.append(linear(w, "final_layer.linear", layer_norm(hidden, 1e-6) * (1 + scale) + shift))
    assert_near(head(x, torch.tensor(times), c), torch.stack(expected))


# ---------------------------------------------------------------------------------------- whole models, positions


@pytest.fixture(scope="module")
def published() -> vlm.VLM:
    """A small Qwen2.5-VL with the image tokens and the positions of the published ones."""
    words = small_vlms.words("qwen2_5_vl")
    with torch.random.fork_rng(devices=[]):
        made = vlm.VLM.build(vlm.VLMConfig(hf=vlm_values("qwen2_5_vl"), image_size=32, mrope=True), words)
    # Earlier versions of transformers look for an image behind this token.
    made.config.vision_start_token_id = words.convert_tokens_to_ids("<|vision_start|>")
    return widen(made, 6).eval().requires_grad_(False)


def transformers_logits(model: vlm.VLM, ids: Tensor, images: Tensor, mask: Tensor | None = None) -> Tensor:
    """Qwen2.5-VL given ids, patches and grids, as its own users call it."""
    import inspect

    from vgt.equations.latents import merge_patches

    vision = model.config.vision_config
    pixels = merge_patches(normalised(model.encoder, images), vision.patch_size, 2, 2)
    gh, gw = (side // vision.patch_size for side in images.shape[-2:])
    inputs = {"input_ids": ids, "pixel_values": pixels, "image_grid_thw": torch.tensor([[1, gh, gw]] * len(ids))}
    if "mm_token_type_ids" in inspect.signature(type(model.hf).forward).parameters:
        inputs["mm_token_type_ids"] = (ids == model.context_id).int()
    model.hf.model.rope_deltas = None
    return model.hf(**inputs, attention_mask=mask, use_cache=False).logits


@torch.no_grad()
def test_logits_of_qwen_with_three_dimensional_positions(published):
    """Equal to the bit to transformers' forward from ids, pixels and grids; running positions differ."""
    model = published
    running = vlm.VLM(model.hf, model.tokenizer, model.image_size)
    ids = torch.tensor([model.ids(model.question("What color is the star?"))] * 2)
    images = sample_images(2, 32, 32)
    ours = model.logits(model.hidden(ids, images))
    assert torch.equal(ours, transformers_logits(model, ids, images))
    assert (ours - running.logits(running.hidden(ids, images))).abs().max() > 1e-2


@torch.no_grad()
def test_logits_of_qwen_over_an_oblong_image_and_padding(published):
    model = published
    context = [model.context_id] * 15  # 24 x 40 px: 3 x 5 features
    begin, end = (model.ids(text) for text in ("<|im_start|>user\nIs<|vision_start|>", "a red star ?<|im_end|>\n"))
    rows = [[*begin, *context, *end, *end], [*end, *begin, *context, *end]]
    length = max(map(len, rows))
    pad = model.tokenizer.pad_token_id
    ids = torch.tensor([row + [pad] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    images = sample_images(2, 24, 40)
    ours, theirs = model.logits(model.hidden(ids, images)), transformers_logits(model, ids, images, mask)
    for k, row in enumerate(rows):
        assert torch.allclose(ours[k, : len(row)], theirs[k, : len(row)], atol=1e-5, rtol=1e-5)


def test_answers_of_qwen_are_greedy_under_three_dimensional_positions(published):
    model = published
    image, text = sample_images(1, 32, 32), "What shape is the blue object?"
    ids = torch.tensor([model.ids(model.question(text))])
    words = []
    for _ in range(3):
        logits = transformers_logits(model, torch.cat([ids, torch.tensor([words], dtype=torch.long)], 1), image)[0, -1]
        logits[model.context_id] = -torch.inf
        words.append(int(logits.argmax()))
        if words[-1] in model.stops:
            break
    assert model.answer(image, [text], 3) == [model.tokenizer.decode(words, skip_special_tokens=True).strip()]


def test_three_dimensional_positions_need_a_family_that_has_them(vlms):
    tiny = vlms["internvl"]
    with pytest.raises(ValueError, match="internvl has no three-dimensional positions; set mrope to false"):
        vlm.VLM(tiny.hf, tiny.tokenizer, tiny.image_size, mrope=True)
