"""What a GPT over codes learns from: scenes of one object with their codes kept, or labelled images of one's own that
are encoded as they come; and its job (docs/vfmtok.md 12)."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vgt.checkpoints import checkpoint
from vgt.core import config as configs
from vgt.core import scenes
from vgt.inference.code_engine import rendered
from vgt.inference.images import grid, to_float, write_png
from vgt.inference.load import load
from vgt.inference.tokenizer import token_grid
from vgt.methods import registry
from vgt.methods.code_gpt import CodeGPT, CodeGPTConfig, CodeGPTTraining, generate
from vgt.methods.sampling import CodeSampling
from vgt.training import data as batching
from vgt.training import parents
from vgt.training.data import Batches, SceneLatents, cropped, shuffled
from vgt.training.job import SCENES, Job, Place, Preset, takes
from vgt.training.jobs import open_data, start_from
from vgt.training.plan.trace import Fakes
from vgt.training.sources import Sample, Skipped, SkipReport, Source
from vgt.training.sources.stream import Below, Crop, autoencoder_crop, sample_at

TASK = "single_object"  # scenes whose class is the shape and colour of what they show
SAMPLES = 12  # images of a sheet, a class each


class SceneCodes(SceneLatents):
    """int32 [N] of training scenes of one object by a frozen discrete tokenizer, kept as ``SceneLatents`` are.  Number
    ``views`` i + k is view k of scene i: as it is, and mirrored where there are two ``views``."""

    kind = "codes"

    def __init__(self, tokenizer, fingerprint: str, count: int, size: int, cache: Path, views: int, **settings):
        self.views = views
        self._entries = tokenizer.config.codebook_size
        super().__init__(tokenizer, f"{fingerprint} {TASK} {views}", count * views, size, cache, **settings)

    def images(self, numbers: Sequence[int]) -> np.ndarray:
        made = []
        for number in numbers:
            image = scenes.item("train", number // self.views, self._size, TASK).image
            made.append(image[:, ::-1] if number % self.views else image)
        return np.stack(made)

    @torch.no_grad()
    def encoded(self, images: Tensor) -> Tensor:
        """Raises ValueError for an index outside the codebook."""
        codes = self._ae.encode(images.to(self._device)).flatten(1)
        if int(codes.max()) >= self._entries:
            raise ValueError(f"the tokenizer gives index {int(codes.max())} of {self._entries}; train it again")
        return codes.int().cpu()


@functools.cache
def scene_class(index: int) -> int:
    """The class of training scene ``index`` of one object."""
    return scenes.class_of(scenes.scene("train", index, TASK))


def scene_batches(codes: SceneCodes, rows: int, count: int, stride: int = 1) -> Batches:
    """``codes`` int64 [B, N] and ``labels`` [B], all views in a new order each pass.  ``count``: how many batches there
    will be, of which every ``stride``-th is asked for here: scenes are encoded in that order."""

    def numbers(index: int) -> list[int]:
        return [shuffled(place, codes.count) for place in range(index * rows, (index + 1) * rows)]

    def at(index: int) -> dict[str, Tensor]:
        own = numbers(index)
        following = range(index + stride, min(count, index + codes.piece * stride), stride)
        later = (number for other in following for number in numbers(other))
        labels = torch.tensor([scene_class(number // codes.views) for number in own])
        return {"codes": codes.take(own, later).long(), "labels": labels}

    return at


def source_label_batches(
    source: Source, crop: Crop, numbers: Mapping[str, int], rows: int, seed: int, report: SkipReport
) -> Batches:
    """``images`` [B, 3, H, W] as in ``source_image_batches``, and ``labels`` [B]: the ``numbers`` of their classes.
    ``source`` must have been opened with labels."""

    def prepare(sample: Sample, below: Below) -> tuple[np.ndarray, int] | Skipped:
        assert sample.label is not None, "the source was opened without labels"
        if sample.label not in numbers:
            return Skipped(sample.name, "class outside the table")
        image = cropped(sample, crop, below, report)
        return image if isinstance(image, Skipped) else (image, numbers[sample.label])

    def at(index: int) -> dict[str, Tensor]:
        places = range(index * rows, (index + 1) * rows)
        images, labels = zip(*(sample_at(source, p, seed, prepare, report) for p in places), strict=True)
        return {"images": to_float(np.stack(images)), "labels": torch.tensor(labels)}

    return at


def class_numbers(names: Sequence[str], source: Source) -> dict[str, int]:
    """The number of each label of a source among the classes ``names`` of a model.  Where these are numbers and the
    labels are not, a source's classes count in their own order.

    Raises ValueError for classes that the model does not have."""
    own = {name: number for number, name in enumerate(names)}
    found = source.classes
    if found is None or own.keys() >= set(found):
        return own
    if all(map(str.isdecimal, names)) and len(found) == len(names):
        return {name: number for number, name in enumerate(found)}
    absent = next(name for name in found if name not in own)
    raise ValueError(
        f"{source.name} has {len(found)} classes, {absent!r} among them, and model.classes {len(names)} without it; "
        "leave model.classes out, or name them all"
    )


# ------------------------------------------------------------------------------------------------------------- job


def code_gpt(preset: Preset, place: Place) -> Job:
    """A GPT over the codes of a frozen discrete tokenizer, asked with a class."""
    takes(preset, "autoencoder", "weights")
    if not preset.init.autoencoder:
        raise ValueError("a GPT over codes needs init.autoencoder; name a discrete tokenizer: a run or a folder")
    if preset.losses:
        raise ValueError(f"losses.{next(iter(preset.losses))} has no effect: a GPT has one loss; leave it out")
    found = parents.tokenizer(preset.init.autoencoder, place)
    own = found.model.config
    if not place.load:
        Fakes().imitate(found.model)  # computes shapes, which the meta device cannot under autocast
    shape = token_grid(found.model)
    from_scenes = preset.data.source == "scenes"
    source = report = None
    if not from_scenes and place.load:
        source, report = open_data(preset, place, labels=True)
    config = _config(preset, {
        "grid": shape,
        "codebook_size": own.codebook_size,
        "autoencoder": found.fingerprint,
        "autoencoder_name": found.name,
    }, source)  # fmt: skip
    with place.building():
        model = CodeGPT(config)
    hashes = {"autoencoder": found.fingerprint} | ({} if source is None else {"source": source.fingerprint})
    hashes |= start_from(model, preset, place, registry.CODE_GPT.name)

    def sample(state: dict[str, Tensor], step: int, out: Path) -> None:
        _write_samples(config, state, found.folder, out / "samples" / f"{step:08d}.png")

    if not place.load:
        batches = _blank(place.rows, model.tokens, None if from_scenes else own.image_size)
    elif source is not None:
        crop = autoencoder_crop(own.image_size, preset.data.flip, preset.data.min_crop)
        numbers = class_numbers(config.classes, source)
        batches = source_label_batches(source, crop, numbers, place.rows, preset.train.seed, report)
    else:
        batches = _scenes(preset, place, found)
    return Job(
        system=CodeGPTTraining(model, None if from_scenes else found.model),
        batches=batches,
        config=config.model_dump(mode="json"),
        parents=hashes,
        sample=sample,
        data=SCENES if source is None else source.name,
        skips=report,
        threads=1 if from_scenes else preset.data.workers,
        ahead=max(2, batching.PIECE // place.rows) if from_scenes else 0,
        parts={
            "embeddings": [model.cls_embedding, model.tok_embeddings],
            "layers": [model.layers, model.norm],
            "output": [model.output],
        },
        frozen={} if from_scenes else {"autoencoder": found.model},
        positions=lambda batch: model.tokens,
    )


def _scenes(preset: Preset, place: Place, found) -> Batches:
    """Scenes with their codes kept."""
    data, size = preset.data, found.model.config.image_size
    if size not in scenes.SIZES:
        raise ValueError(
            f"scenes are drawn at {', '.join(map(str, scenes.SIZES))} px and {found.name} reads {size}; "
            "set data.source, or take another tokenizer"
        )
    codes = SceneCodes(
        found.model, found.fingerprint, data.scenes, size, place.cache, 2 if data.flip else 1, device=place.device,
        processes=batching.scene_processes(data, place.team),
    )  # fmt: skip
    count = preset.train.steps * preset.train.batch // place.rows  # micro-batches of the run
    return scene_batches(codes, place.rows, count, place.team.size)


def _config(preset: Preset, of_tokenizer: dict[str, Any], source: Source | None) -> CodeGPTConfig:
    """Raises ValueError where the GPT does not fit its tokenizer or its data."""
    data, values = preset.data, dict(preset.model)
    if data.source == "scenes":
        if data.min_crop != 1:
            raise ValueError(f"data.min_crop {data.min_crop} has no effect on scenes; leave it at 1")
        values.setdefault("classes", scenes.CLASSES)
    elif source is not None and source.classes is not None:
        values.setdefault("classes", source.classes)
    if "classes" not in values:
        raise ValueError(f"{data.source} does not tell its classes; set model.classes to their names, or their number")
    config: CodeGPTConfig = configs.validated(CodeGPTConfig, of_tokenizer | values, "model of the preset")
    if data.source == "scenes" and config.classes != scenes.CLASSES:
        raise ValueError("model.classes are not those of the scenes (colour and shape); leave them out")
    for name in ("grid", "codebook_size"):
        if getattr(config, name) != of_tokenizer[name]:
            raise ValueError(
                f"model.{name} {getattr(config, name)} is not the tokenizer's {of_tokenizer[name]}; leave it out of "
                "the preset, or take another tokenizer"
            )
    return config


def _blank(rows: int, tokens: int, size: int | None) -> Batches:
    """A plan's batches: codes, or images of ``size`` pixels."""
    labels = torch.zeros(rows, dtype=torch.long)
    if size is None:
        shown = {"codes": torch.zeros(rows, tokens, dtype=torch.long)}
    else:
        shown = {"images": torch.empty(rows, 3, size, size, device="meta")}
    return lambda index: {**shown, "labels": labels}


def _write_samples(config: CodeGPTConfig, state: dict[str, Tensor], tokenizer: Path, path: Path) -> None:
    """One image each of classes that are spread over the table."""
    with torch.random.fork_rng(devices=[]):
        model = CodeGPT(config)
    checkpoint.load_into(model, state, "the running model")
    count = min(SAMPLES, len(config.classes))
    labels = torch.arange(count) * len(config.classes) // count
    codes = generate(model.eval(), labels, range(count), CodeSampling())
    write_png(path, grid(list(rendered(load(tokenizer).model, codes, config.grid)), count))
