"""Batches as pure functions of their number, and made ahead of their use.

Training never sees a scene of another split, nor a held-out pair.  Threads make ahead what is decoded and resized,
which leaves Python free; processes make ahead scenes, which are Python's own work to draw.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from vgt.checkpoints import shards
from vgt.core import captions, files, photos, scenes
from vgt.core.config import Config, Count, Share, Whole
from vgt.core.images import ImageError
from vgt.inference.images import to_float
from vgt.training.distributed import Team, native_bf16
from vgt.training.sources import Sample, Skipped, SkipReport, Source
from vgt.training.sources.stream import Below, Crop, sample_at
from vgt.vlm import prompts
from vgt.vlm.prompts import tokenize
from vgt.vlm.tokenizer import TURN_END
from vgt.vlm.training import IGNORED

Batches = Callable[[int], dict[str, Tensor]]


class DataConfig(Config):
    """``photos``: share of photo crops among autoencoder images.  ``scenes``: how many training scenes a generator
    learns from; their latents are encoded as the steps need them, and kept.  ``turns``: questions per image for the
    VLM; ``relations``: how many times as often as another kind one about a relation is asked; ``places``: how many
    times one that asks on which side of the image an object is.
    ``dense``: share of batches with dense captions.
    ``unconditional``: share of captions dropped for guidance (docs/vgt.md 2.5).  ``standardize``: whether a generator
    sees latents with mean 0 and deviation 1 per channel (published models do not), over the first 4096 scenes or
    images, fewer in a short run (``statistics_sample``); both go into the model's config.json.

    ``source``: "scenes", or images of your own (``vgt.training.sources``), which the other fields are for.
    ``image_column``, ``caption_column``, ``label_column``: of tables and JSON files, where they are not found by
    themselves.  ``flip``: mirror images for the autoencoder, and for a generator by label, whose scenes are then seen
    both ways.  ``min_crop``: smallest share of an image's shorter side that these two see at once, 1 for the whole
    (docs/vfmtok.md 10).  ``min_side``: shorter images are not for the generator.
    ``caption_tokens``: budget of the templated prompt.  ``skip_limit``: largest share of bad samples.  ``workers``:
    threads that decode images ahead, or processes that draw scenes ahead for a GPU (docs/vgt.md 1.11, 2.2, 2.6)."""

    later: ClassVar[frozenset[str]] = frozenset({"min_crop", "label_column"})

    photos: Share = 0.25
    scenes: Count = 65_536
    turns: Count = 6
    relations: Count = 1
    places: Whole = 0
    dense: Share = 0.2
    unconditional: Share = 0.1
    standardize: bool = True
    source: str = "scenes"
    image_column: str | None = None
    caption_column: str | None = None
    label_column: str | None = None
    flip: bool = True
    min_crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    min_side: Whole = 81
    caption_tokens: Count = 256
    skip_limit: Share = 0.1
    workers: Whole = 4


def image_batches(data: DataConfig, batch: int, size: int) -> Batches:
    """Scenes and photo crops together: ``images`` [B, 3, H, W]."""
    crops = round(batch * data.photos)

    def at(step: int) -> dict[str, Tensor]:
        images = scenes.images("train", range(step * batch, (step + 1) * batch - crops), size)
        if crops:
            cut = np.stack([photos.train_photo(step * crops + i, size) for i in range(crops)])
            images = np.concatenate([images, cut])
        return {"images": to_float(images)}

    return at


def conversation_batches(vlm, data: DataConfig, batch: int) -> Batches:
    """Images with some questions and sometimes a request for a description: ``images``, ``ids``, ``targets`` (the
    answers and the ends of their turns; IGNORED elsewhere), ``turns`` (0: the image, k: the k-th question, of which
    each is a first question about the image), ``regions`` (see ``region_words``)."""
    tokenizer = vlm.tokenizer
    kinds = (*range(8), *[captions.RELATION] * (data.relations - 1), *[captions.PLACE] * data.places)

    def at(step: int) -> dict[str, Tensor]:
        rows, images, regions = [], [], []
        for index in range(step * batch, (step + 1) * batch):
            item = scenes.item("train", index, vlm.image_size)
            draws = scenes.Draws("conversation", index)
            pairs = captions.questions(item.scene, draws, data.turns, kinds)
            if draws.below(3) == 0:
                pairs[draws.below(len(pairs))] = ("Describe the image.", captions.dense_caption(item.scene))
            rows.append(_conversation(vlm, tokenizer, pairs))
            images.append(item.image)
            regions.append(region_words(item, tokenizer, vlm.encoder.stride))
        length = max(len(ids) for ids, _, _ in rows)
        fill = (tokenizer.pad_token_id, IGNORED, 0)
        ids, targets, turns = (torch.full((batch, length), value) for value in fill)
        for row, parts in enumerate(rows):
            for whole, part in zip((ids, targets, turns), parts, strict=True):
                whole[row, : len(part)] = torch.tensor(part)
            turns[row, len(parts[0]) :] = data.turns + 1  # pads: a turn that nothing is asked of
        made = {"images": to_float(np.stack(images)), "ids": ids, "targets": targets, "turns": turns}
        return {**made, "regions": torch.stack(regions)}

    return at


def _conversation(vlm, tokenizer, pairs) -> tuple[list[int], list[int], list[int]]:
    """Ids, targets and turns: the image once, then every question as the first one about it."""
    ids: list[int] = []
    targets: list[int] = []
    turns: list[int] = []
    for turn, (question, reply) in enumerate(pairs, 1):
        asked = tokenizer(vlm.question(question)).input_ids
        shown = len(asked) - asked[::-1].index(vlm.context_id)  # the image's part, the same in every turn
        answer = tokenizer(f"{reply}{TURN_END}\n").input_ids
        asked = asked[shown:] if ids else asked
        ids += asked + answer
        targets += [IGNORED] * len(asked) + answer[:-1] + [IGNORED]
        turns += [turn] * (len(asked) + len(answer))
        if turn == 1:
            turns[:shown] = [0] * shown
    return ids, targets, turns


def region_choices(tokenizer) -> list[Tensor]:
    """The token ids of the shapes, colors and sizes, each with the word for none."""
    kinds = (("none", *scenes.SHAPES), ("none", *scenes.COLORS), ("none", *scenes.RADII))
    return [torch.tensor(tokenizer.convert_tokens_to_ids(list(words))) for words in kinds]


def region_words(item: scenes.Item, tokenizer, stride: int) -> Tensor:
    """int64 [hw, 3]: token ids of shape, color and size of the object that covers most of each square of ``stride``
    pixels; "none" where no pixel is covered, IGNORED where it is less than an eighth."""
    side = len(item.image) // stride
    masks = np.stack(item.masks).reshape(-1, side, stride, side, stride)
    share = masks.mean((2, 4)).reshape(len(item.masks), -1)  # [objects, hw]
    most, covered = share.argmax(0), share.max(0)
    names = [(o.shape, o.color, o.size) for o in item.scene.objects] + [("none",) * 3]
    ids = torch.tensor([tokenizer.convert_tokens_to_ids(list(words)) for words in names])
    words = ids[torch.from_numpy(np.where(covered > 0, most, len(item.masks)))]
    words[torch.from_numpy((covered > 0) & (covered < 1 / 8))] = IGNORED
    return words


# ------------------------------------------------------------------------------------------- cached latents


PIECE = 256  # scenes that are encoded and stored together: the first step waits for so many


class SceneLatents:
    """fp16 [N, d] of training scenes 0 .. ``count`` - 1 by a frozen autoencoder, encoded when they are asked for.

    They are kept in ``cache/<kind>-<hash>/``, a file for each ``piece`` of them, which runs share: of two that need
    the same at once one makes it and the other waits.  The autoencoder always sees ``batch`` rows, so that a scene's
    latents do not depend on when, or beside which others, it was encoded.  So many ``processes`` draw the scenes."""

    kind = "latents"

    def __init__(
        self, ae, fingerprint: str, count: int, size: int, cache: Path, device="cpu", batch: int = 64,
        processes: int = 0,
    ):  # fmt: skip
        self.count, self._size, self._rows = count, size, min(batch, count)
        self._ae, self._device, self._processes = ae, device, processes
        self.piece = PIECE * (8 if processes else 1)  # to start processes takes as long as to draw a hundred scenes
        mark = files.digest(scenes.WORLD, fingerprint, str(size), str(self._rows))
        self.folder = cache / f"{self.kind}-{mark[:16]}"
        self._made: dict[int, Tensor] = {}
        self._known: set[Path] = set()
        self._lock = Lock()

    def take(self, wanted: Sequence[int], following: Iterable[int] = ()) -> Tensor:
        """fp16 [len(wanted), N, d] of the scenes ``wanted``.  Where some are still to be encoded, a piece is filled up
        with those ``following``."""
        with self._lock:
            if any(index not in self._made for index in wanted):
                self._fill(wanted, following)
            return torch.stack([self._made[index] for index in wanted])

    def _fill(self, wanted: Sequence[int], following: Iterable[int]) -> None:
        with _exclusive(self.folder):
            self._read()
            todo = dict.fromkeys(index for index in wanted if index not in self._made)
            for index in following if todo else ():
                if len(todo) >= self.piece:
                    break
                if index not in self._made:
                    todo[index] = None
            order = list(todo)
            pieces = [order[begin : begin + self.piece] for begin in range(0, len(order), self.piece)]
            bar = tqdm(
                total=len(order), file=sys.stderr, desc=self.kind, mininterval=2, disable=len(pieces) < 2 or None
            )
            for piece in pieces:
                self._write(piece, self._encode(piece, bar))
            bar.close()

    def _read(self) -> None:
        """Read the pieces that others, or earlier runs, have stored, and remove what a kill left of one."""
        for part in self.folder.glob(".piece-*"):
            part.unlink(missing_ok=True)
        for path in sorted(set(self.folder.glob("piece-*.safetensors")) - self._known):
            try:
                stored = shards.read_file(path)
                found = dict(zip(stored["scenes"].tolist(), stored["latents"], strict=True))
            except (ValueError, KeyError) as error:
                print(f"{path} cannot be read ({error}); its scenes are encoded again", file=sys.stderr)
                path.unlink(missing_ok=True)
                continue
            self._known.add(path)
            self._made |= found

    def _write(self, piece: list[int], latents: Tensor) -> None:
        path = self.folder / f"piece-{files.digest_json(piece)[:16]}.safetensors"
        with files.atomic(path) as part:
            shards.write_file(part, {"scenes": torch.tensor(piece), "latents": latents})
        self._known.add(path)
        self._made |= zip(piece, latents, strict=True)

    def _encode(self, piece: list[int], bar: tqdm) -> Tensor:
        self._ae.eval().to(self._device)
        starts = range(0, len(piece), self._rows)

        def drawn(start: int) -> np.ndarray:
            some = piece[start : start + self._rows]
            return self.images((some * self._rows)[: self._rows])

        made = []
        for start, images in zip(starts, each(drawn, starts, self._processes), strict=True):
            some = self.encoded(to_float(images))[: len(piece) - start]
            made.append(some)
            bar.update(len(some))
        return torch.cat(made).contiguous()

    def images(self, numbers: Sequence[int]) -> np.ndarray:
        """uint8 [len(numbers), size, size, 3]."""
        return scenes.images("train", numbers, self._size)

    def encoded(self, images: Tensor) -> Tensor:
        """What is kept of images [B, 3, H, W], on the CPU."""
        return _latents(self._ae, images, self._device)


def _exclusive(path: Path) -> FileLock:
    """Held while something in the cache is made, so that nobody else makes it too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f"{path.name}.lock"))


class Captions(NamedTuple):
    """What the captions of a scene say.  ``short`` is None for scenes laid out for dense captions: a short one would
    name one object of several."""

    short: str | None
    dense: str


@functools.cache
def scene_captions(index: int) -> Captions:
    """The captions of training scene ``index``."""
    s = scenes.scene("train", index)
    return Captions(None if s.task == "dense" else captions.short_caption(s), captions.dense_caption(s))


@torch.no_grad()
def _latents(ae, images: Tensor, device) -> Tensor:
    """fp16 [B, N, d] of images [B, 3, H, W], on the CPU; computed in bf16 where ``device`` has that, else in fp32.

    All threads share one cache of weights that autocast has cast, and a thread that leaves autocast empties it: in the
    midst of another thread's step that would change the order in which gradients are added.  This one stays inside."""
    torch.autocast_increment_nesting()
    try:
        kind = torch.device(device).type
        with torch.autocast(kind, torch.bfloat16, enabled=native_bf16(device), cache_enabled=False):
            z = ae.encode(images.to(device))
    finally:
        torch.autocast_decrement_nesting()
    return z.float().flatten(2).mT.half().cpu()


def statistics_sample(images: int) -> int:
    """How many images the mean and deviation of each channel are computed from, in a run that reads so many ``images``:
    4096; where a run reads fewer than 32,768 an eighth of them, but not fewer than 256, so that it can begin."""
    return min(4096, max(256, images // 8))


def statistics(latents: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel over all images."""
    flat = latents.double().flatten(0, 1)
    return tuple(flat.mean(0).tolist()), tuple(flat.std(0).tolist())


class CaptionBatches:
    """``latents`` [B, N, d], ``ids``, ``mask`` of their captions, batch by batch.  A batch holds short or dense
    captions, not both, so that little is padded; scenes come in a new order each pass.

    ``count``: how many batches there will be, of which every ``stride``-th is asked for here: scenes are encoded in
    that order.  So many ``processes`` write the captions ahead.

    Raises ValueError where no scene is for the captions that are asked for."""

    def __init__(
        self, latents: SceneLatents, tokenizer, data: DataConfig, batch: int, count: int = 0, stride: int = 1,
        processes: int = 0,
    ):  # fmt: skip
        self.latents, self._tokenizer, self._data, self._batch = latents, tokenizer, data, batch
        self._count, self._stride = count, stride
        self._short = [i for i in range(latents.count) if scenes.task("train", i) != "dense"]
        if not self._short and data.dense < 1:
            raise ValueError(
                f"the {latents.count} scenes of data.scenes are all for dense captions and data.dense is {data.dense}; "
                "choose more scenes, or data.dense=1"
            )
        self._ahead = Forked(self.texts, processes, stride) if processes else None

    def __call__(self, index: int) -> dict[str, Tensor]:
        """Batch number ``index``."""
        texts = dict(self._ahead(index) if self._ahead is not None else self.texts(index))
        later = itertools.chain.from_iterable(self._chosen(place)[0] for place in self._following(index))
        return {"latents": self.latents.take(texts.pop("scenes").tolist(), later).float(), **texts}

    def texts(self, index: int) -> dict[str, Tensor]:
        """``ids`` and ``mask`` of a batch, and the numbers of its ``scenes`` [B]."""
        chosen, dense, draws = self._chosen(index)
        texts: list[str | None] = []
        for scene in chosen:
            dropped = draws.below(1000) < 1000 * self._data.unconditional
            said = scene_captions(scene)
            texts.append(None if dropped else said.dense if dense else said.short)
        ids, mask = tokenize(self._tokenizer, texts)
        return {"scenes": torch.tensor(chosen), "ids": ids, "mask": mask}

    def close(self) -> None:
        """End the processes."""
        if self._ahead is not None:
            self._ahead.close()

    def _following(self, index: int) -> range:
        """Batches whose scenes are encoded with those of batch ``index``: a piece's, and more where many are there."""
        end = index + self.latents.piece * self._stride
        return range(index + self._stride, min(end, self._count) if self._count else end, self._stride)

    def _chosen(self, index: int) -> tuple[list[int], bool, scenes.Draws]:
        """The scenes of a batch, whether their captions are dense, and what further choices are drawn from."""
        draws = scenes.Draws("captions", index)
        dense = draws.below(1000) < 1000 * self._data.dense
        pool = range(self.latents.count) if dense else self._short
        places = range(index * self._batch, (index + 1) * self._batch)
        return [pool[shuffled(place, len(pool))] for place in places], dense, draws


def shuffled(position: int, count: int) -> int:
    """Place ``position`` of an endless pass over 0 .. count-1: an affine permutation that changes with each pass."""
    passes, place = divmod(position, count)
    stride = 2 * ((passes * 7919 + 12345) % count) + 1
    while np.gcd(stride, count) != 1:
        stride += 2
    return (place * stride + passes * 104729) % count


# ------------------------------------------------------------------------------------------- images of one's own


def source_image_batches(source: Source, crop: Crop, rows: int, seed: int, report: SkipReport | None = None) -> Batches:
    """``images`` [B, 3, H, W] of ``rows`` samples each: batch k holds places k B .. k B + B - 1 of the source's endless
    order, whatever the process or its history.  Bad samples are replaced and counted in ``report``."""
    report = report or SkipReport()

    def prepare(sample: Sample, below: Below) -> np.ndarray | Skipped:
        return cropped(sample, crop, below, report)

    def at(index: int) -> dict[str, Tensor]:
        places = range(index * rows, (index + 1) * rows)
        return {"images": to_float(np.stack([sample_at(source, p, seed, prepare, report) for p in places]))}

    return at


def source_caption_batches(
    source: Source,
    crop: Crop,
    tokenizer,
    data: DataConfig,
    rows: int,
    seed: int,
    report: SkipReport | None = None,
) -> Batches:
    """``images`` [B, 3, H, W] as in ``source_image_batches``, ``ids`` [B, L] and bool ``mask`` of their captions, a
    share of which is dropped.  ``source`` must have been opened with captions.

    Raises ValueError for a token budget without room for captions."""
    report = report or SkipReport(data.skip_limit)
    prompts.check(tokenizer, data.caption_tokens)
    markup = prompts.markup(tokenizer)

    def prepare(sample: Sample, below: Below) -> tuple[np.ndarray, str | None] | Skipped:
        assert sample.caption is not None, "the source was opened without captions"
        if any(word in sample.caption for word in markup):
            return Skipped(sample.name, "special token in the caption")
        image = cropped(sample, crop, below, report)
        if isinstance(image, Skipped):
            return image
        if below(1000, "unconditional") < 1000 * data.unconditional:
            return image, None
        caption, cut = prompts.fit(tokenizer, sample.caption, data.caption_tokens)
        if cut:
            report.noted("truncated caption", sample.name)
        return image, caption

    def at(index: int) -> dict[str, Tensor]:
        places = range(index * rows, (index + 1) * rows)
        images, texts = zip(*(sample_at(source, p, seed, prepare, report) for p in places), strict=True)
        ids, mask = tokenize(tokenizer, texts)
        return {"images": to_float(np.stack(images)), "ids": ids, "mask": mask}

    return at


def cropped(sample: Sample, crop: Crop, below: Below, report: SkipReport) -> np.ndarray | Skipped:
    try:
        image = crop(sample.image, below)
    except ImageError as error:
        return Skipped(sample.name, error.reason)
    if sample.kind:
        report.noted(f"converted from {sample.kind}", sample.name)
    return image


@torch.no_grad()
def source_statistics(ae, batches: Batches, count: int, device="cpu") -> tuple[tuple[float, ...], ...]:
    """(mean, standard deviation) per channel of a frozen autoencoder's latents, as ``statistics`` gives them, over the
    first batches with ``count`` images together."""
    ae.eval().to(device)
    parts: list[Tensor] = []
    while sum(map(len, parts)) < count:
        parts.append(_latents(ae, batches(len(parts))["images"], device))
    return statistics(torch.cat(parts)[:count])


# ---------------------------------------------------------------------------------------------------- made ahead


def scene_processes(data: DataConfig, team: Team) -> int:
    """Processes that draw scenes ahead; on a CPU they would only take it from the training."""
    return 0 if team.device.type == "cpu" else data.workers


class Prefetch:
    """``batches`` with the next ones under way.  A batch is a pure function of its number, so what comes out is the
    same as without; only reports that count looks at samples see those that were made and never used.

    ``workers``: threads; ``stride``: from one number to the next, which is the number of processes; ``ahead``: batches
    under way, 2 a worker where it is 0; ``end``: a number that is not made ahead any more, 0 for none.  ``close`` it,
    or use it in a ``with``."""

    def __init__(
        self, batches: Callable[[int], dict[str, Tensor]], workers: int, stride: int = 1, ahead: int = 0, end: int = 0
    ):
        if min(workers, stride) < 1 or ahead < 0:
            raise ValueError(f"prefetch of {workers} workers, stride {stride}, {ahead} ahead; give 1, 1, 0 or more")
        self._batches, self._stride, self._ahead, self._end = batches, stride, ahead or 2 * workers, end
        self._pool = ThreadPoolExecutor(workers, "prefetch")
        self._waiting: dict[int, Future] = {}
        self._lock = Lock()

    def __call__(self, index: int) -> dict[str, Tensor]:
        """Batch number ``index``.  Errors of a batch come up when that batch is asked for."""
        with self._lock:
            last = index + self._ahead * self._stride
            wanted = range(index, max(index, min(last, self._end - 1) if self._end else last) + 1, self._stride)
            for number in [n for n in self._waiting if n not in wanted]:
                self._waiting.pop(number).cancel()
            for number in wanted:
                if number not in self._waiting:
                    self._waiting[number] = self._pool.submit(self._batches, number)
            found = self._waiting.pop(index)
        return found.result()

    def close(self) -> None:
        """Drop what is under way and end the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def each(made: Callable[[int], Any], indices: Iterable[int], processes: int) -> Iterator[Any]:
    """``made(i)`` for every index, in order, ahead of its use by so many processes (0: none, one after the other).

    The processes are forked, so ``made`` may be a closure; where a system cannot fork, there are none.  Tensors come
    through pipes, which need no shared memory: containers often have little."""
    if not processes or "fork" not in multiprocessing.get_all_start_methods():
        return map(made, indices)
    loader = DataLoader(
        _Indexed(made), batch_size=None, sampler=indices, num_workers=processes, multiprocessing_context="fork",
        collate_fn=_packed, generator=torch.Generator(),
    )  # fmt: skip
    return map(_unpacked, loader)


class _Indexed:
    """A function as a data set."""

    def __init__(self, made: Callable[[int], Any]):
        self.made = made

    def __getitem__(self, index: int) -> Any:
        return self.made(index)


def _packed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: part.numpy() if isinstance(part, Tensor) else part for key, part in value.items()}
    return value


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: torch.from_numpy(part) if isinstance(part, np.ndarray) else part for key, part in value.items()}
    return value


class Forked:
    """``batches`` made ahead by processes (see ``each``).  Every ``stride``-th is expected to be asked for; another
    number starts the processes anew."""

    def __init__(self, batches: Callable[[int], dict[str, Tensor]], processes: int, stride: int = 1):
        self._batches, self._processes, self._stride = batches, processes, stride
        self._next, self._made = -1, iter(())

    def __call__(self, index: int) -> dict[str, Tensor]:
        """Batch number ``index``."""
        if index != self._next:
            self._made = each(self._batches, range(index, sys.maxsize, self._stride), self._processes)
        self._next = index + self._stride
        return next(self._made)

    def close(self) -> None:
        """End the processes."""
        self._next, self._made = -1, iter(())

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
