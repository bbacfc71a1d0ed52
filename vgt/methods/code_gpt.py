"""GPT over the indices of a discrete tokenizer, asked with a class (docs/vfmtok.md 11-13).

Sequence: [class, code 0, ..., code N-2]; the outputs predict codes 0 .. N-1, in raster order of the token grid.

Shapes: B images, C classes, N = h w tokens, K entries of the codebook, D model width, E head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from vgt.checkpoints.pretrained import Pretrained
from vgt.core.config import Config, Count, Share
from vgt.methods.sampling import CodeSampling

BASE = 10_000.0  # of the rotary frequencies
EPS = 1e-5  # of the norms
STD = 0.02  # of initial embeddings and linear maps


class CodeGPTConfig(Config):
    """``classes``: their names; a number n stands for the names "0" .. "n - 1".  ``ffn``: inner width, by default
    8/3 of ``width`` rounded up to a multiple of 256.  ``class_row``: rotation of the class's position, "zero" (its
    query and key vanish: released weights depend on it) or "identity" (docs/vfmtok.md 11).  Dropouts are those of
    training: of embedded tokens, of what attention and feed-forward layers add, and of the class, for guidance.
    ``autoencoder``, ``autoencoder_name``: content hash and name of the tokenizer."""

    classes: tuple[str, ...] = Field(min_length=1)
    grid: tuple[Count, Count]
    codebook_size: Count
    layers: Count
    heads: Count
    width: Count
    ffn: Count | None = None
    token_dropout: Share = 0.1
    residual_dropout: Share = 0.1
    ffn_dropout: Share = 0.1
    label_dropout: Share = 0.1
    class_row: Literal["zero", "identity"] = "zero"
    autoencoder: str = ""
    autoencoder_name: str = ""

    @field_validator("classes", mode="before")
    @classmethod
    def _numbered(cls, value: Any) -> Any:
        return tuple(map(str, range(value))) if type(value) is int else value

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.width % self.heads or self.width // self.heads % 4:
            raise ValueError(
                f"width {self.width} cannot have {self.heads} heads: the width of a head must be a multiple of 4, for "
                "rotary positions in two directions"
            )
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("two of the classes have the same name; name each once")
        return self

    @property
    def inner(self) -> int:
        """The inner width of the feed-forward layers."""
        return self.ffn or -(-(8 * self.width // 3) // 256) * 256


# ---------------------------------------------------------------------------------------------------- equations


def rotations(grid: tuple[int, int], width: int, class_row: str, device: torch.device | str | None = None) -> Tensor:
    """Cosine and sine [2, 1 + N, E / 2] of each place of the sequence and each pair of channels (2 j, 2 j + 1).

    Pair j < E/4 turns by w_j times the token's row, pair E/4 + j by w_j times its column, w_j = BASE^(-2 j / (E/2)).
    The first place is the class's: zeros, or the identity (docs/vfmtok.md 11)."""
    rows, columns = grid
    frequencies = BASE ** (-torch.arange(width // 4, device=device, dtype=torch.float32) * 4 / width)
    row, column = torch.meshgrid(
        *(torch.arange(n, device=device, dtype=torch.float32) for n in (rows, columns)), indexing="ij"
    )
    angles = torch.cat([axis.reshape(-1, 1) * frequencies for axis in (row, column)], 1)
    table = torch.stack([angles.cos(), angles.sin()])
    first = torch.zeros(2, 1, width // 2, device=device)
    if class_row == "identity":
        first[0] = 1
    return torch.cat([first, table], 1)


def rotated(x: Tensor, table: Tensor) -> Tensor:
    """x [B, H, L, E] with each pair of channels turned by ``table`` [2, L, E / 2], computed in fp32."""
    first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = table
    return torch.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(-2).to(x.dtype)


def guided(logits: Tensor, scale: float) -> Tensor:
    """u + s (c - u) of logits [2 B, K], those without the class second (docs/vfmtok.md 13)."""
    with_class, without = logits.chunk(2)
    return without + scale * (with_class - without)


def filtered(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Logits [B, K] with -inf for all but the ``top_k`` largest (0: all), and for all that lie behind the first of
    total probability ``top_p``; the likeliest always stays."""
    if top_k:
        least = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p < 1:
        ordered, order = logits.sort(descending=True, stable=True)
        p = ordered.softmax(-1)
        beyond = p.cumsum(-1) - p >= top_p
        beyond[:, 0] = False
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(1, order, beyond), -torch.inf)
    return logits


def chosen(logits: Tensor, uniform: Tensor, settings: CodeSampling) -> Tensor:
    """Codes [B] from logits [B, K] and one ``uniform`` number in [0, 1) each [B]: the inverse of the cumulative
    distribution, so that a code depends on its own row alone.  K where a row is not finite."""
    p = filtered(logits.float() / settings.temperature, settings.top_k, settings.top_p).softmax(-1)
    cumulative = p.double().cumsum(-1)
    return logits.shape[1] - (cumulative > uniform[:, None] * cumulative[:, -1:]).sum(-1)


def checked(codes: Tensor, entries: int, dtype: torch.dtype) -> Tensor:
    """``codes`` [B, N].  Raises ValueError with the first token whose logits were not finite."""
    lost = codes == entries
    if lost.any():
        token, image = min((int(row.nonzero()[0]), k) for k, row in enumerate(lost) if row.any())
        narrow = "use bfloat16 or float32" if dtype == torch.float16 else "the weights or the guidance are at fault"
        raise ValueError(f"logits are not finite from token {token} on (image {image}); {narrow}")
    return codes


def uniforms(seeds: Sequence[int], tokens: int) -> Tensor:
    """float64 [B, N] on the CPU, a row from each image's own generator."""
    drawn = [torch.rand(tokens, generator=torch.Generator().manual_seed(s % 2**63), dtype=torch.float64) for s in seeds]
    return torch.stack(drawn)


def dropped(x: Tensor, share: float, rng: torch.Generator | None) -> Tensor:
    """Inverted dropout with the random numbers of ``rng``; ``x`` itself without one."""
    if rng is None or not share:
        return x
    kept = torch.empty_like(x).bernoulli_(1 - share, generator=rng)
    return x * kept.div_(max(1 - share, 1e-6))


# ------------------------------------------------------------------------------------------------------- network


class RMSNorm(nn.Module):
    """x / sqrt(mean x^2 + eps) in fp32, then the gain."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], eps=EPS).to(x.dtype) * self.weight


class Attention(nn.Module):
    """Causal; queries, keys and values from one matrix."""

    def __init__(self, config: CodeGPTConfig):
        super().__init__()
        self.heads = config.heads
        self.wqkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.wo = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor, table: Tensor, cache: list[Tensor] | None = None) -> Tensor:
        """x [B, L, D]; ``cache``: keys and values [B, H, places, E] so far, which grow by those of x; then L is 1, or
        the cache is empty."""
        q, k, v = self.wqkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = rotated(q, table), rotated(k, table)
        if cache is not None:
            if cache:
                k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
            cache[:] = [k, v]
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=x.shape[1] > 1)
        return self.wo(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) * w3 x)."""

    def __init__(self, config: CodeGPTConfig):
        super().__init__()
        self.w1, self.w3 = (nn.Linear(config.width, config.inner, bias=False) for _ in range(2))
        self.w2 = nn.Linear(config.inner, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(GradientCheckpointingLayer):
    def __init__(self, config: CodeGPTConfig):
        super().__init__()
        self.residual_dropout, self.ffn_dropout = config.residual_dropout, config.ffn_dropout
        self.attention_norm, self.attention = RMSNorm(config.width), Attention(config)
        self.ffn_norm, self.feed_forward = RMSNorm(config.width), FeedForward(config)

    def forward(self, x: Tensor, table: Tensor, cache: list[Tensor] | None, rng: torch.Generator | None) -> Tensor:
        x = x + dropped(self.attention(self.attention_norm(x), table, cache), self.residual_dropout, rng)
        return x + dropped(self.feed_forward(self.ffn_norm(x)), self.ffn_dropout, rng)


class CodeGPT(Pretrained, nn.Module):
    """Parameters have the names of the released files (docs/vfmtok.md 19.2), less one level at the class table."""

    def __init__(self, config: CodeGPTConfig):
        super().__init__()
        self.config = config
        self.cls_embedding = nn.Embedding(len(config.classes) + 1, config.width)  # the last row: no class
        self.tok_embeddings = nn.Embedding(config.codebook_size, config.width)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width)
        self.output = nn.Linear(config.width, config.codebook_size, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=STD)
        nn.init.zeros_(self.output.weight)

    @property
    def tokens(self) -> int:
        """N, the tokens of an image."""
        return self.config.grid[0] * self.config.grid[1]

    @property
    def without_class(self) -> int:
        """The row of the class table that stands for none."""
        return len(self.config.classes)

    def rotations(self) -> Tensor:
        """``rotations`` of its places."""
        width = self.config.width // self.config.heads
        return rotations(self.config.grid, width, self.config.class_row, self.output.weight.device)

    def read(
        self,
        x: Tensor,
        table: Tensor,
        caches: Sequence[list[Tensor] | None] | None = None,
        rng: torch.Generator | None = None,
    ) -> Tensor:
        """Logits [B, L, K] from embedded places x [B, L, D] with their rotations; ``rng`` drops, as in training."""
        x = dropped(x, self.config.token_dropout, rng)
        for layer, cache in zip(self.layers, caches or [None] * len(self.layers), strict=True):
            x = layer(x, table, cache, rng)
        return self.output(self.norm(x))

    def forward(self, codes: Tensor, labels: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Logits [B, N, K] of codes int64 [B, N] of classes [B]; ``rng``: of the dropouts, none without it.

        Raises ValueError for another number of codes, a code outside the codebook and a class outside the table."""
        self._check(codes, labels)
        if rng is not None and self.config.label_dropout:
            lost = torch.rand(labels.shape, generator=rng, device=labels.device) < self.config.label_dropout
            labels = labels.masked_fill(lost, self.without_class)
        x = torch.cat([self.cls_embedding(labels)[:, None], self.tok_embeddings(codes[:, :-1])], 1)
        return self.read(x, self.rotations()[:, : self.tokens], None, rng)

    def image_losses(self, codes: Tensor, labels: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """-log p(codes | class) of each image [B], in nats: the sum over its tokens, so that tokenizers with other
        numbers of them can be compared."""
        logits = self(codes, labels, rng).float()
        return F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none").view_as(codes).sum(1)

    def _check(self, codes: Tensor, labels: Tensor) -> None:
        if codes.shape[1] != self.tokens:
            raise ValueError(
                f"{codes.shape[1]} codes an image do not fit a grid of {self.config.grid[0]} x {self.config.grid[1]}; "
                "use the tokenizer that the model belongs to"
            )
        if codes.device.type != "cpu":
            return  # an index outside a table is an error there already, and a look would wait for the device
        _check_range("code", codes, self.config.codebook_size)
        _check_range("class", labels, len(self.config.classes) + 1)


def _check_range(what: str, values: Tensor, limit: int) -> None:
    for value in (int(values.min()), int(values.max())):
        if not 0 <= value < limit:
            raise ValueError(
                f"{what} {value} is outside the table of {limit}; use the tokenizer and the classes of the model"
            )


class CodeGPTTraining:
    """A GPT under training; ``tokenizer``: frozen, for batches of images, whose codes nobody cached."""

    def __init__(self, model: CodeGPT, tokenizer: nn.Module | None = None):
        self.model, self.tokenizer = model, tokenizer

    def trainable_modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def to(self, device) -> None:
        if self.tokenizer is not None:
            self.tokenizer.to(device)

    def lr_scale(self, name: str) -> float:
        return 1.0

    @torch.no_grad()
    def encode(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch with codes int64 [B, N] for its images."""
        if "codes" in batch:
            return batch
        assert self.tokenizer is not None
        return {"codes": self.tokenizer.encode(batch["images"]).flatten(1), "labels": batch["labels"]}

    def loss(self, name: str, batch: dict[str, Tensor], step: int, rng: torch.Generator):
        """Mean cross-entropy over all positions (docs/vfmtok.md 11).  ``batch``: labels [B], and codes [B, N] or images
        [B, 3, H, W]; "nats" is the loss of an image."""
        batch = self.encode(batch)
        nats = self.model.image_losses(batch["codes"], batch["labels"], rng).mean()
        loss = nats / self.model.tokens
        return loss, {"loss": loss.detach(), "nats": nats.detach()}


@torch.no_grad()
def generate(model: CodeGPT, labels: Tensor, seeds: Sequence[int], settings: CodeSampling, on_step=None) -> Tensor:
    """Codes int64 [B, N] in raster order, one token a step (docs/vfmtok.md 13): the reference implementation, which the
    decode engine (vgt/inference/code_engine.py) must equal.

    ``on_step(done, total, codes)`` is called after each token, codes 0 where still to come."""
    b, n, entries = len(seeds), model.tokens, model.config.codebook_size
    given, table = uniforms(seeds, n).to(labels.device), model.rotations()
    caches: list[list[Tensor]] = [[] for _ in model.layers]
    codes = torch.zeros(b, n, dtype=torch.long, device=labels.device)
    x = model.cls_embedding(labels)
    if settings.branches(0) == 2:
        x = torch.cat([x, model.cls_embedding(torch.full_like(labels, model.without_class))])
    for t in range(n):
        if settings.branches(t) == 1:  # behind the cut-off the rows without the class go
            x = x[:b]
            caches = [[part[:b] for part in cache] for cache in caches]
        logits = model.read(x[:, None], table[:, t : t + 1], caches)[:, 0].float()
        if len(x) > b:
            logits = guided(logits, settings.guidance)
        codes[:, t] = chosen(logits, given[:, t], settings)
        x = model.tok_embeddings(codes[:, t].clamp(max=entries - 1)).repeat(settings.branches(t + 1), 1)
        if on_step is not None:
            on_step(t + 1, n, codes)
    return checked(codes, entries, x.dtype)
