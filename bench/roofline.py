"""The least time that decoding can take: what must be read and computed, against what a device can do.

Assumptions, which make it a lower bound:

* A call takes the longer of its bytes at full bandwidth and its operations at full rate (a multiply-add is two); calls
  follow one another.  Calls are: reading the text, each step of the language model, in each of these the modulation of
  all flow steps at once, each evaluation of the flow head, decoding the images.
* Every call reads its weights once.  The cache is read once a step and written once; each row reads its own.  What is
  passed on within a call or from call to call stays on the chip; ``activations`` adds the one part that is large, the
  stored modulation.
* Of the last layer only what conditions the head is computed: all of it for queries, keys and values for the others.
* Hoisted: modulation and condition are computed once a decode step, the time embedding once for ever.  Not hoisted:
  all of them at every evaluation.
* The unconditional prompt is read once a batch, each conditional one once an image.  Norms, rotations, softmax,
  sampling, launches and the host cost nothing.

Sizes come from the modules themselves (also of a model on the meta device), so that any configuration has a bound.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench import timing
from vgt.methods import registry
from vgt.methods.pixel_decoder import build_decoder
from vgt.methods.visual_lm import VisualLM

PHASES = ("prefill", "language_model", "head", "decode")

# ------------------------------------------------------------------------------------------- limits of a device

WORKING_SET = 256 * 2**20  # bytes; beyond every processor's cache
_SIDE = {"cpu": 1024, "cuda": 8192}  # of the square matrices
_ROUND = 0.02  # seconds, at least


@dataclass(frozen=True)
class Limits:
    """``flops``: floating-point operations a second in matrix products; ``bandwidth``: bytes a second; ``source`` of
    both."""

    name: str
    flops: float
    bandwidth: float
    source: str


KNOWN = {
    "h100": Limits("NVIDIA H100", 798e12, 3.0e12, "bf16, both measured (docs/decode.md 3)"),
    "h200": Limits("NVIDIA H200", 798e12, 4.3e12, "bf16, bandwidth measured, operations assumed as those of an H100"),
}


def measure_limits(
    device: str, dtype: torch.dtype = torch.float32, working_set: int = WORKING_SET, seconds: float = 0.3
) -> Limits:
    """The limits of the device at hand with the threads in use: the fastest round of matrix products (as they are, and
    with a transposed weight) and convolutions, and of reading ``working_set`` bytes again and again.  Each of the four
    goes on for ``seconds``; on a busy machine longer ones find more.

    A working set that fits a cache is read from there, as the weights of a small model are at every step.
    Raises ValueError for a device that cannot be timed."""
    synchronize = timing.instruments(device).synchronize
    kind = device.partition(":")[0]
    side = _SIDE[kind]
    a, b = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    image, kernel = (torch.ones(*shape, dtype=dtype, device=device) for shape in ((4, 128, 32, 32), (128, 128, 3, 3)))
    convolution = 2 * 9 * 128 * image.numel()
    stream = torch.ones(max(1024, working_set // dtype.itemsize), dtype=dtype, device=device)
    with torch.no_grad():
        products = (
            (2 * side**3, lambda: torch.mm(a, b)),
            (2 * side**3, lambda: F.linear(a, b)),
            (convolution, lambda: F.conv2d(image, kernel, padding=1)),
        )
        flops = max(operations / _best(call, synchronize, seconds) for operations, call in products)
        bandwidth = stream.nbytes / _best(stream.sum, synchronize, seconds)
    what = f"measured: {str(dtype).removeprefix('torch.')} products, reading {stream.nbytes / 2**20:.0f} MiB"
    threads = f", {torch.get_num_threads()} threads" if kind == "cpu" else ""
    return Limits(device, flops, bandwidth, what + threads)


def _best(call: Callable[[], object], synchronize: Callable[[], None], seconds: float) -> float:
    """Seconds of one call in the fastest of some rounds of many."""

    def round_of(count: int) -> float:
        synchronize()
        start = time.perf_counter()
        for _ in range(count):
            call()
        synchronize()
        return time.perf_counter() - start

    round_of(1)
    count = max(1, round(_ROUND / round_of(1)))
    fastest, until = round_of(count), time.perf_counter() + seconds
    while time.perf_counter() < until:
        fastest = min(fastest, round_of(count))
    return fastest / count


# ------------------------------------------------------------------------------------------------- work of a model


@dataclass(frozen=True)
class Sizes:
    """Of a VisualLM.

    Numbers of parameters: ``language`` decoder layers with their norms, ``last`` what of the last one only those tokens
    need whose state is asked for, ``into`` and ``out`` the two projectors, and of the flow head ``modulation``
    (adaptive layer norm), ``condition``, ``time``, ``velocity`` (the rest, for each evaluation).  ``pair``: operations
    per query and key that sees it, in one of the ``layers``; ``cache``: numbers cached per token; ``modulated``:
    numbers that modulate one row at one evaluation; ``tokens`` of an image; ``start`` tokens behind the text."""

    language: int
    last: int
    into: int
    out: int
    modulation: int
    condition: int
    time: int
    velocity: int
    pair: int
    layers: int
    cache: int
    modulated: int
    tokens: int
    start: int


@dataclass(frozen=True)
class Image:
    """The autoencoder's decoder: ``parameters``; ``operations`` and ``values`` (latents and pixels) of one image."""

    parameters: int
    operations: int
    values: int


@dataclass(frozen=True)
class Decoding:
    """What is decoded: ``batch`` images at ``acceleration`` tokens a step, each with a prompt of ``text`` tokens;
    ``evaluations`` of the flow head per token, one number or one for each decode step; ``schedule`` of the tokens over
    the steps (None: the method's own); ``copies`` 2 with guidance, 1 without; ``bytes`` of a number;
    ``steps``: only the first so many, without the autoencoder."""

    method: str
    batch: int
    acceleration: int
    text: int
    evaluations: int | tuple[int, ...] = 30
    copies: int = 2
    bytes: int = 2
    hoisted: bool = True
    activations: bool = False
    schedule: Literal["equal", "cosine"] | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Work:
    """``times`` equal calls, of each the bytes and operations."""

    bytes: float
    operations: float
    times: int = 1

    def seconds(self, limits: Limits) -> float:
        return self.times * max(self.bytes / limits.bandwidth, self.operations / limits.flops)


@dataclass(frozen=True)
class Bound:
    """Milliseconds of one image by phase and in total, with its bytes and operations (a batch shares its weights)."""

    ms: dict[str, float]
    bytes: float
    operations: float

    @property
    def total(self) -> float:
        return sum(self.ms.values())


def _count(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def sizes(model: VisualLM) -> Sizes:
    """Counted from the modules."""
    text, last, head = model.language_model.config, model.language_model.layers[-1], model.image_head
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    modulation = [*(block.adaLN_modulation for block in head.res_blocks), head.final_layer.adaLN_modulation]
    apart = (_count(*modulation), _count(head.cond_embed), _count(head.time_embed))
    return Sizes(
        language=_count(model.language_model) - _count(model.language_model.get_input_embeddings()),
        last=_count(last) - _count(last.self_attn.k_proj, last.self_attn.v_proj),
        into=_count(model.image_in_projector),
        out=_count(model.image_out_projector),
        modulation=apart[0],
        condition=apart[1],
        time=apart[2],
        velocity=_count(head) - sum(apart),
        pair=4 * text.num_attention_heads * width,
        layers=text.num_hidden_layers,
        cache=2 * text.num_hidden_layers * text.num_key_value_heads * width,
        modulated=sum(part[1].out_features for part in modulation),
        tokens=model.tokens,
        start=len(model.config.start_ids),
    )


def image(ae, grid: tuple[int, int]) -> Image:
    """Counted in a pass of the decoder of a VGTAE over a latent grid, on the meta device."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        decoder = build_decoder(ae.config.decoder, ae.config.d_z)
        z = torch.zeros(1, ae.config.d_z, *grid)
        decoder(z)
    pixels = 3 * grid[0] * grid[1] * ae.stride**2
    return Image(_count(decoder), counter.get_total_flops(), z.numel() + pixels)


def image_of_codes(tokenizer, grid: tuple[int, int]) -> Image:
    """Counted in a pass of a discrete tokenizer's decoder over a grid of indices.  Of the weights those count whose
    module is called; of a codebook only some rows are read."""
    read: dict[int, nn.Parameter] = {}

    def note(module: nn.Module, _) -> None:
        read.update({id(p): p for p in module.parameters(recurse=False)})

    hooks = [m.register_forward_pre_hook(note) for m in tokenizer.modules()]
    indices = torch.zeros(1, *grid, dtype=torch.long, device=next(tokenizer.parameters()).device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        made = tokenizer.decode(indices)
    for hook in hooks:
        hook.remove()
    return Image(sum(p.numel() for p in read.values()), counter.get_total_flops(), indices.numel() + made.numel())


def left_over(made: list[int]) -> list[int]:
    """What each step of QueryAR still has to read of the step before: one latent where the query stays in the cache,
    else pairs of query and latent (docs/vgt.md 2.12)."""
    return [0, *(1 if m == 1 else 2 * m for m in made[:-1])]


def _reads(sizes: Sizes, how: Decoding) -> Iterator[tuple[int, int, int, int]]:
    """Of each decode step and one row: tokens made, tokens read, cached ones that they see, pairs of query and key."""
    cached = how.text + sizes.start
    loop = registry.get(how.method).part("loop")
    made = loop.sizes(sizes.tokens, how)[: how.steps]
    for m, left in zip(made, left_over(made), strict=True):
        if loop.rereads:
            yield m, sizes.tokens, cached, sizes.tokens * (cached + sizes.tokens)
        else:
            yield m, left + m, cached, left * cached + left * (left + 1) // 2 + m * (cached + left + 1)
            cached += left + (m == 1)


def _read(sizes: Sizes, tokens: int, asked: int, pairs: float) -> float:
    """Operations of one row of the language model; of its last layer only what the ``asked`` tokens need."""
    whole = 2 * tokens * sizes.language + pairs * sizes.pair * sizes.layers
    return whole - (1 - asked / tokens) * (2 * tokens * sizes.last + pairs * sizes.pair)


def head(sizes: Sizes, how: Decoding, rows: int, evaluations: int) -> list[Work]:
    """The flow head over ``rows`` of one decode step (docs/decode.md 2)."""
    once, each = sizes.condition, sizes.velocity
    if not how.hoisted:
        each += sizes.modulation + sizes.condition + sizes.time
        return [Work(how.bytes * each, 2 * rows * each, evaluations)]
    stored = 2 * rows * evaluations * sizes.modulated if how.activations else 0  # written once, read once
    modulation = 2 * rows * (evaluations * sizes.modulation + once)
    return [
        Work(how.bytes * (sizes.modulation + once + stored), modulation),
        Work(how.bytes * each, 2 * rows * each, evaluations),
    ]


def work(sizes: Sizes, how: Decoding, decoder: Image | None = None) -> dict[str, list[Work]]:
    """The calls of one batch by phase.  Raises ValueError for an acceleration that the tokens do not allow."""
    rows, length = how.batch * how.copies, how.text + sizes.start
    prompts = how.batch + (how.copies > 1)
    found: dict[str, list[Work]] = {phase: [] for phase in PHASES}
    found["prefill"].append(
        Work(
            how.bytes * (sizes.language + prompts * length * sizes.cache),
            prompts * _read(sizes, length, 0, length * (length + 1) / 2),
        )
    )
    every = how.evaluations
    for step, (m, read, cached, pairs) in enumerate(_reads(sizes, how)):
        seen = rows * (cached + read) * sizes.cache
        computed = _read(sizes, read, m, pairs) + 2 * m * sizes.out
        found["language_model"].append(
            Work(
                how.bytes * (sizes.language + sizes.into + sizes.out + seen),
                rows * computed + 2 * how.batch * m * sizes.into,
            )
        )
        found["head"] += head(sizes, how, rows * m, every if isinstance(every, int) else every[step])
    if decoder is not None and how.steps is None:
        found["decode"].append(
            Work(how.bytes * (decoder.parameters + how.batch * decoder.values), how.batch * decoder.operations)
        )
    return found


def lower_bound(sizes: Sizes, how: Decoding, limits: Limits, decoder: Image | None = None) -> Bound:
    """The least time of one image in a batch; without ``decoder`` up to its latents.

    Raises ValueError for an acceleration that the tokens do not allow."""
    return _summed(work(sizes, how, decoder), limits, how.batch)


def _summed(found: dict[str, list[Work]], limits: Limits, batch: int) -> Bound:
    """The bound of one image from the calls of a batch."""
    calls = [call for phase in found.values() for call in phase]
    return Bound(
        {phase: 1000 * sum(call.seconds(limits) for call in found[phase]) / batch for phase in PHASES},
        sum(call.times * call.bytes for call in calls) / batch,
        sum(call.times * call.operations for call in calls) / batch,
    )


def code_sizes(model) -> tuple[int, int, int]:
    """Of a CodeGPT: parameters of its layers and of its output, numbers cached per token."""
    return _count(model.layers, model.norm), _count(model.output), 2 * model.config.layers * model.config.width


def code_bound(model, batch: int, branches: Sequence[int], bytes: int, limits: Limits, decoder: Image) -> Bound:
    """The least time of one image of a CodeGPT in a batch: ``branches`` passes (2 with guidance) for each token, of
    ``bytes`` a number, and the tokenizer's decoding.  One token is read a step, and it sees itself and all before."""
    layers, output, cache = code_sizes(model)
    found: dict[str, list[Work]] = {phase: [] for phase in PHASES}
    for t, copies in enumerate(branches):
        rows, seen = batch * copies, t + 1
        found["language_model"].append(
            Work(bytes * (layers + rows * seen * cache), rows * (2 * layers + 2 * seen * cache))
        )
        found["head"].append(Work(bytes * output, 2 * rows * output))
    found["decode"].append(Work(bytes * (decoder.parameters + batch * decoder.values), batch * decoder.operations))
    return _summed(found, limits, batch)


def step_bytes(sizes: Sizes, bytes: int) -> int:
    """Bytes of the weights that one decode step reads: what a cache has to hold to be read from there."""
    head = sizes.modulation + sizes.condition + sizes.velocity
    return bytes * (sizes.language + sizes.into + sizes.out + head)
