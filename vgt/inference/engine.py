"""The decode engine: the loops of query_ar.py and mar.py, arranged for speed (docs/decode.md).

What differs from the reference implementations, and not in the images: keys and values lie in a cache of fixed size,
every distinct prompt is read once, the flow head's modulations leave its loop (hoisted_head.py), the language model
runs from packed weights (static_lm.py) and computes in its last layer only what conditions the head, and on a GPU a
decode step is one CUDA graph (``Graphed``).  Conditions, velocities and samples are equal to rounding.

Shapes: B images, R rows (2 B with guidance, the unconditional ones second), P places of the prefix (text, pads and
start tokens), N image tokens, m tokens a step, p pending tokens, D model width, d latent channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vgt.equations import flow
from vgt.equations.order import additive, group_mask, interleaved_mask, positions
from vgt.equations.solvers import Scheme, draws
from vgt.inference.hoisted_head import HoistedHead
from vgt.inference.static_lm import KeyValues, StaticLM, static_lm
from vgt.methods import mar, query_ar, registry
from vgt.methods.sampling import Sampling
from vgt.methods.visual_lm import VisualLM, in_pieces, noise, per_image_rng

PAD_TO = 16  # prompts are padded to a multiple of this, so that few shapes occur
# Prompts that are read at once, always that many, so that the bytes of one do not depend on the others.
PREFILL_ROWS = {"cpu": 2}  # 32 elsewhere
WARM_UPS = 2  # calls before a capture: libraries set up their handles and workspaces
OnStep = Callable[[int, int, Tensor], object]
OnLoopStep = Callable[[int, int], object] | None


@dataclass
class Batch:
    """What decoding one batch needs: ``cache`` with the prefixes read; ``real`` bool [R, P], which of its places are no
    pads; ``base`` [R, 1], position of the first image token; ``orders`` [B, N]; ``noise``: for each step's m its noise
    [B, m, draws, d]; ``u`` [B, N, d], the standardised latents so far."""

    cache: KeyValues
    real: Tensor
    base: Tensor
    orders: Tensor
    noise: Callable[[int], Tensor]
    u: Tensor

    @property
    def copies(self) -> int:
        return len(self.real) // len(self.u)


class Prepared:
    """What every engine keeps between calls with one model: weights packed anew when the model's have changed, a cache,
    and its steps as CUDA graphs (``graphs``: whether, on a GPU).  ``notes`` say what could not be used, and why.

    Where a GPU's memory is too small for a batch, the images that are decoded together (``limit``) are halved until
    they fit, and stay so."""

    _lm: StaticLM

    def __init__(self, model: nn.Module, graphs: bool = True):
        self.model, self.graphs = model, graphs
        self.limit: int | None = None
        self.notes: list[str] = []
        self._stamp: tuple | None = None

    def _pack(self) -> None:
        """Make what is kept of the model's weights, ``_lm`` among it."""
        raise NotImplementedError

    def _prepare(self) -> None:
        """Pack the weights where they are not those of the last call."""
        stamp = tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in self.model.parameters())
        if stamp == self._stamp:
            return
        self.notes = []
        self._cache: KeyValues | None = None
        self._graphs: dict[tuple, Graphed] = {}
        self.device = next(self.model.parameters()).device
        self._on_gpu = self.device.type == "cuda"
        self._pack()
        if not self._on_gpu:
            self._note(f"no CUDA graphs: the model is on {self.device.type}")
        self._stamp = stamp

    def _note(self, text: str | None) -> None:
        if text is not None and text not in self.notes:
            self.notes.append(text)

    def _key_values(self, rows: int, places: int) -> KeyValues:
        if self._cache is None or self._cache.store.shape[2] != rows or self._cache.places != places:
            self._cache = None  # give the memory back first
            self._graphs.clear()
            self._cache = self._lm.cache(rows, places)
        return self._cache

    def in_parts(self, images: int, decode: Callable[[slice], None]) -> None:
        """``decode(part)`` for parts of so many images that memory has room for."""
        begin = 0
        while begin < images:
            part = slice(begin, min(images, begin + (self.limit or images)))
            fits = True
            try:
                decode(part)
            except torch.OutOfMemoryError:
                if part.stop - begin == 1:
                    raise
                fits = False  # memory comes back when the error and its frames are gone
            if fits:
                begin = part.stop
            else:
                self._halve(part.stop - begin)

    def _halve(self, rows: int) -> None:
        """Decode half as many images together from now on."""
        self._cache, self._graphs = None, {}
        if self._on_gpu:
            torch.cuda.empty_cache()
        self.limit = rows // 2
        self._note(f"out of memory with {rows} images at a time: {self.limit} instead")

    def run(self, key: tuple, step: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
        """``step(*tensors)``, as a CUDA graph where that is possible; ``key`` names what else the step depends on."""
        if not (self._on_gpu and self.graphs):
            return step(*tensors)
        if key not in self._graphs:
            self._graphs[key] = Graphed(step)
        made = self._graphs[key](*tensors)
        self._note(self._graphs[key].refusal)
        return made


class Engine(Prepared):
    """Decodes batches with one model: ``engine(ids, mask, seeds, settings, on_step)`` as ``query_ar.generate`` and
    ``mar.generate``, by the loop of the model's own method.

    ``compiled``: whether torch.compile fuses the small operations of the language model and of a velocity; it takes
    minutes and pays in long runs.  ``prompt_tokens``: pads every prompt to that length, so that all batches have one
    shape."""

    model: VisualLM

    def __init__(self, model: VisualLM, graphs: bool = True, compiled: bool = False, prompt_tokens: int | None = None):
        super().__init__(model, graphs)
        self.compiled, self.prompt_tokens = compiled, prompt_tokens
        self.loop = registry.get(model.config.method).part("loop")()

    def _pack(self) -> None:
        self._layouts: dict[tuple[int, int], Tensor] = {}
        self._head = HoistedHead(self.model.image_head)
        self._lm, why = static_lm(self.model)
        self._read: Callable = self._lm
        if self.compiled:
            self._read = torch.compile(self._lm, dynamic=False)
            self._head.velocity = torch.compile(self._head.velocity, dynamic=False)
        self.queries, self.embeddings = self.model.queries(), self.model.position_embeddings()
        self._note(why)

    # ---- one call

    @torch.no_grad()
    def __call__(
        self, ids: Tensor, mask: Tensor, seeds: list[int], settings: Sampling, on_step: OnStep | None = None
    ) -> Tensor:
        """Latents [B, N, d] of the autoencoder in raster order.  ``ids``/``mask`` [B or 2B, L]: prompts, right padded,
        the unconditional rows second when ``settings.guidance`` is not 1.

        Where memory makes smaller batches of this one, ``on_step`` is called for each in turn, always with all rows.
        Raises ValueError for prompts that are too long, an impossible acceleration, and latents that are not finite,
        with the decode step and the token where that began."""
        model, b = self.model, len(seeds)
        if not b or len(ids) not in (b, 2 * b):
            raise ValueError(f"{len(ids)} prompt rows for {b} seeds; give one row per image, or two with guidance")
        self._prepare()
        model.check_acceleration(settings.acceleration)
        ids, mask = self._padded(ids, mask)
        copies = len(ids) // b
        ids, mask = ids.view(copies, b, -1), mask.view(copies, b, -1)
        u = torch.zeros(b, model.tokens, model.config.d_z, device=self.device)

        def decode(part: slice) -> None:
            batch = self._begin(ids[:, part].flatten(0, 1), mask[:, part].flatten(0, 1), seeds[part], settings)
            batch.u = u[part]
            self.loop(self, batch, settings, None if on_step is None else (lambda done, n: on_step(done, n, u)))
            self._check_finite(batch, settings, part.start)

        self.in_parts(b, decode)
        return model.restore(u)

    def _padded(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts padded to a length that many batches share."""
        length, config = ids.shape[1], self.model.language_model.config
        longest = int(mask.sum(1).max())
        if self.prompt_tokens is not None and longest > self.prompt_tokens:
            raise ValueError(
                f"a prompt of {longest} tokens does not fit a cache for {self.prompt_tokens}; "
                "shorten it or give the engine more prompt_tokens"
            )
        used = longest + len(self.model.config.start_ids) + self.loop.places(self.model.tokens)
        limit = getattr(config, "max_position_embeddings", None)
        if limit is not None and used > limit:
            raise ValueError(
                f"a prompt of {longest} tokens and {self.model.tokens} image tokens need {used} positions, "
                f"but the language model has {limit}; shorten the prompt"
            )
        target = self.prompt_tokens or -(-longest // PAD_TO) * PAD_TO
        if target <= length:
            return ids[:, :target], mask[:, :target]
        return F.pad(ids, (0, target - length)), F.pad(mask, (0, target - length))

    def _begin(self, ids: Tensor, mask: Tensor, seeds: list[int], settings: Sampling) -> Batch:
        """Read the prompts and draw orders and noise."""
        model, rows = self.model, len(ids)
        n, prefix = model.tokens, ids.shape[1] + len(model.config.start_ids)
        cache = self._key_values(rows, -(-(prefix + self.loop.places(self.model.tokens)) // PAD_TO) * PAD_TO)
        self.prefill(ids, mask, cache)
        real = torch.cat([mask, mask.new_ones(rows, len(model.config.start_ids))], 1)
        sizes = self.loop.sizes(n, settings)
        orders, generators = per_image_rng(seeds, n, settings.order, sizes, model.config.latent_grid)
        given = self._noise(generators, draws(settings.tables(sizes)))
        return Batch(cache, real, real.sum(1, keepdim=True), orders.to(self.device), given, torch.empty(0))

    def _noise(self, generators: list[torch.Generator], count: int) -> Callable[[int], Tensor]:
        """Noise step by step: on a GPU sampled by the CPU while the step before is computed, else all at once."""
        n, d = self.model.tokens, self.model.config.d_z
        if self._on_gpu and in_pieces(count, d):
            return lambda m: self._sent(noise(generators, m, count, d))
        sampled, used = noise(generators, n, count, d).to(self.device), 0

        def following(m: int) -> Tensor:
            nonlocal used
            used += m
            return sampled[:, used - m : used]

        return following

    def _sent(self, x: Tensor) -> Tensor:
        """``x`` on its way to the device, without waiting for it."""
        return x.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else x

    def _check_finite(self, batch: Batch, settings: Sampling, begin: int) -> None:
        """Raises ValueError where the sampler left its numbers."""
        finite = batch.u.isfinite().all(2).gather(1, batch.orders)  # [B, N] in decode order
        if finite.all():
            return
        place, row = min((int(bad.nonzero()[0]), k) for k, bad in enumerate(~finite) if bad.any())
        sizes, step, done = self.loop.sizes(self.model.tokens, settings), 0, 0
        while done + sizes[step] <= place:
            step, done = step + 1, done + sizes[step]
        dtype = str(next(self.model.parameters()).dtype).removeprefix("torch.")
        narrow = "use bfloat16 or float32" if dtype == "float16" else "the weights or the guidance scale are at fault"
        raise ValueError(
            f"latents are not finite in {dtype} from decode step {step} on (image {begin + row}, token "
            f"{int(batch.orders[row, place])}); {narrow}"
        )

    # ---- the parts of a step, each on its own so that a benchmark can clock it

    def prefill(self, ids: Tensor, mask: Tensor, cache: KeyValues) -> None:
        """Read every distinct prompt once and copy its keys and values to all rows [R, P] that have it."""
        model, s = self.model, len(self.model.config.start_ids)
        texts, source = torch.unique(ids.masked_fill(~mask, -1), dim=0, return_inverse=True)
        prefix, chunk = ids.shape[1] + s, PREFILL_ROWS.get(self.device.type, 32)
        short, slots = self._lm.cache(chunk, prefix), torch.arange(prefix, device=self.device)
        for begin in range(0, len(texts), chunk):
            part = texts[begin : begin + chunk]
            part = torch.cat([part, part[-1:].expand(chunk - len(part), -1)])
            seen, inputs = part >= 0, model.prefix(part.clamp(min=0))
            layout = additive(interleaved_mask(seen, s, 0), inputs.dtype).repeat(1, 1, self._lm.group, 1)
            self._lm(inputs, positions(seen, s, 0), layout, slots, short, 0)
            target = ((source >= begin) & (source < begin + chunk)).nonzero()[:, 0]
            cache.copy_rows(short, source[target] - begin, target, prefix)

    def read(self, x: Tensor, where: Tensor, mask: Tensor, slots: Tensor, asked: Tensor | int) -> Tensor:
        """Final hidden states [R, m, D] of the tokens that are asked for (static_lm.py)."""
        assert self._cache is not None
        return self._read(x, where, mask, slots, self._cache, asked)

    def head(self, hidden: Tensor, w: float | Tensor, noise: Tensor, table: Scheme) -> Tensor:
        """Standardised latents [B, m, d] from hidden states [R, m, D] and noise [B, m, draws, d]."""
        b, m = noise.shape[:2]
        c = self.model.conditions(hidden).flatten(0, 1)
        return self.model.renormalise(self._head.sample(c, w, noise.flatten(0, 1), table)).view(b, m, -1)

    def latent_inputs(self, u: Tensor, where: Tensor) -> Tensor:
        """``VisualLM.latent_inputs`` with the position embeddings at hand."""
        project = self.model.image_in_projector
        return project(u.to(project.weight.dtype)) + self.embeddings[where]

    # ---- what the loops use besides

    def visible(self, batch: Batch, places: int) -> Tensor:
        """Additive [R, M]: the prefix less its pads, and the next ``places`` of the cache."""
        rows, prefix = batch.real.shape
        seen = torch.zeros(rows, batch.cache.places, dtype=torch.bool, device=self.device)
        seen[:, :prefix], seen[:, prefix : prefix + places] = batch.real, True
        return additive(seen, self.queries.dtype)[:, 0]

    def width(self, visible: Tensor, end: int) -> int:
        """Places that a step's mask covers: up to its ``end``, or all [..., M] where a graph needs one shape."""
        return visible.shape[-1] if self._on_gpu else end

    def group_layout(self, p: int, m: int) -> Tensor:
        """Additive [G (p + m), p + m] of ``p`` pending tokens and ``m`` queries among themselves."""
        if (p, m) not in self._layouts:
            inside = group_mask(torch.zeros(1, 0, dtype=torch.bool, device=self.device), p, m)
            self._layouts[p, m] = additive(inside, self.queries.dtype)[0, 0].repeat(self._lm.group, 1)
        return self._layouts[p, m]

    def scalar(self, w: float) -> float | Tensor:
        """A number as a captured graph can take it."""
        return torch.full((), w, device=self.device) if self._on_gpu else w


class QueryARLoop:
    """docs/vgt.md 2.12: tokens lie behind what is finished, and the next step's pairs overwrite the queries."""

    rereads = False  # a step reads its queries and what the step before left
    sizes = staticmethod(query_ar.sizes)

    @staticmethod
    def places(n: int) -> int:
        """Places of the cache behind the prefix, for ``n`` image tokens: queries and latents."""
        return 2 * n

    def __call__(self, engine: Engine, batch: Batch, settings: Sampling, on_step: OnLoopStep) -> None:
        n, copies, prefix = engine.model.tokens, batch.copies, batch.real.shape[1]
        visible = engine.visible(batch, batch.cache.places - prefix)
        here = torch.arange(len(batch.u), device=engine.device)[:, None]
        pending = engine.queries.new_zeros(len(batch.real), 0, engine.queries.shape[1])
        done = final = 0  # image tokens; places behind the prefix that stay as they are
        schedule, groups = settings.cfg_rule(registry.QUERY_AR.name), self.sizes(n, settings)
        for step, (m, table) in enumerate(zip(groups, settings.tables(groups), strict=True)):
            p = pending.shape[1]
            chosen = batch.orders[:, done : done + m]
            offsets = torch.arange(final, final + p + m, device=engine.device)
            slots = prefix + offsets
            offsets[p:] = 2 * done  # all queries of a group stand at one position
            mask = self._mask(engine, visible, prefix + final, p, m)
            w = flow.cfg_scale(schedule, settings.guidance, step, step + 1, len(groups))
            sampled, pending = engine.run(
                (m, copies, table),
                lambda *tensors, m=m, table=table: self.step(engine, m, copies, table, *tensors),
                *(pending, chosen, batch.base + offsets, mask, slots, engine.scalar(w), batch.noise(m)),
            )
            batch.u[here, chosen] = sampled
            final += p + (m == 1)  # a single query stays, as in training; several are put aside
            done += m
            if on_step is not None:
                on_step(done, n)

    def step(self, engine: Engine, m: int, copies: int, table: Scheme, pending, chosen, where, mask, slots, w, noise):
        """Latents [B, m, d] of one group, and the tokens [R, 1 or 2 m, D] that the next step has to read first."""
        asked = engine.queries[chosen].repeat(copies, 1, 1)
        hidden = engine.read(torch.cat([pending, asked], 1), where, mask, slots, m)
        sampled = engine.head(hidden, w, noise, table)
        latents = engine.latent_inputs(sampled, chosen).repeat(copies, 1, 1)
        if m == 1:
            return sampled, latents
        return sampled, torch.stack([asked, latents], 2).flatten(1, 2)  # Q E Q E ...

    def _mask(self, engine: Engine, visible: Tensor, begin: int, p: int, m: int) -> Tensor:
        """Additive [R, 1, G (p + m), k]: what is finished, then the layout of a group step (``group_mask``)."""
        layout, end = engine.group_layout(p, m), begin + p + m
        mask = visible.new_empty(len(visible), 1, len(layout), engine.width(visible, end))
        mask[..., :begin] = visible[:, None, None, :begin]
        mask[..., begin:end] = layout
        mask[..., end:] = torch.finfo(mask.dtype).min
        return mask


class MARLoop:
    """docs/mar.md 3: every step reads all image tokens again, into the same places."""

    rereads = True
    sizes = staticmethod(mar.sizes)

    @staticmethod
    def places(n: int) -> int:
        """Places of the cache behind the prefix, for ``n`` image tokens."""
        return n

    def __call__(self, engine: Engine, batch: Batch, settings: Sampling, on_step: OnLoopStep) -> None:
        n, copies, prefix = engine.model.tokens, batch.copies, batch.real.shape[1]
        here = torch.arange(len(batch.u), device=engine.device)[:, None]
        slots = torch.arange(prefix, prefix + n, device=engine.device)
        where = batch.base + torch.arange(n, device=engine.device)
        visible = engine.visible(batch, n)
        mask = visible[:, None, None, : engine.width(visible, prefix + n)]
        known = torch.zeros(len(batch.u), n, dtype=torch.bool, device=engine.device)
        done, schedule, groups = 0, settings.cfg_rule(registry.MAR.name), self.sizes(n, settings)
        for m, table in zip(groups, settings.tables(groups), strict=True):
            chosen = batch.orders[:, done : done + m]
            w = flow.cfg_scale(schedule, settings.guidance, done, done + m, n)
            (sampled,) = engine.run(
                (m, copies, table),
                lambda *tensors, table=table: self.step(engine, copies, table, *tensors),
                *(batch.u, known, chosen, where, mask, slots, engine.scalar(w), batch.noise(m)),
            )
            batch.u[here, chosen] = sampled
            known[here, chosen] = True
            done += m
            if on_step is not None:
                on_step(done, n)

    def step(self, engine: Engine, copies: int, table: Scheme, u, known, chosen, where, mask, slots, w, noise):
        """Latents [B, m, d] of the tokens that are revealed."""
        everywhere = torch.arange(u.shape[1], device=u.device).expand(len(u), -1)
        inputs = torch.where(known[..., None], engine.latent_inputs(u, everywhere), engine.queries)
        hidden = engine.read(inputs.repeat(copies, 1, 1), where, mask, slots, chosen.repeat(copies, 1))
        return (engine.head(hidden, w, noise, table),)


# ------------------------------------------------------------------------------------------------ CUDA graphs


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class Graphed:
    """Calls ``function(*tensors)``, whose work is captured once for each set of shapes and then replayed.

    What the function writes besides its outputs must be the same when it is called again with the same inputs, because
    it is called to warm up; what it reads besides its inputs must stay where it is.  Outputs are overwritten by the
    next call of the same shapes.  Where a capture fails, the function is called as it is, from then on, and ``refusal``
    says why."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]):
        self.function = function
        self.refusal: str | None = None
        self._captured: dict[tuple, _Captured] = {}
        self._pool = None

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        if self.refusal is not None:
            return self.function(*tensors)
        key = tuple((t.shape, t.dtype) for t in tensors)
        if key not in self._captured:
            try:
                self._captured[key] = self._capture(tensors)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self.refusal = f"no CUDA graph: {str(error).splitlines()[0]}"
                return self.function(*tensors)
        found = self._captured[key]
        for static, given in zip(found.inputs, tensors, strict=True):
            static.copy_(given, non_blocking=True)
        found.graph.replay()
        return found.outputs

    def _capture(self, tensors: tuple[Tensor, ...]) -> _Captured:
        with torch.cuda.device(tensors[0].device):
            inputs = tuple(t.clone() for t in tensors)
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    self.function(*inputs)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                outputs = self.function(*inputs)
        self._pool = self._pool or graph.pool()
        return _Captured(graph, inputs, outputs)
