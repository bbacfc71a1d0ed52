"""A text-to-image pipeline in diffusers' style: a generator, its autoencoder and the tokenizer in one object.

A pipeline folder holds ``model_index.json`` and two checkpoint folders, ``generator/`` and ``autoencoder/``.
Shapes: B images of a batch, N image tokens, d latent channels, h x w latent grid.
"""

from __future__ import annotations

import inspect
import secrets
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from vgt.checkpoints import checkpoint, pretrained, reference
from vgt.core import files
from vgt.core.config import Config, validated
from vgt.core.seeds import image_seed
from vgt.core.text import read_json
from vgt.inference.engine import Engine
from vgt.inference.generator import latents as sample_latents
from vgt.inference.generator import pixels
from vgt.inference.images import to_uint8
from vgt.inference.load import AUTOENCODER, GENERATOR, expect, load, paired_autoencoder
from vgt.methods import registry
from vgt.methods.sampling import Sampling
from vgt.methods.vgt_ae import VGTAE
from vgt.methods.visual_lm import VisualLM
from vgt.vlm.prompts import TOKEN_BUDGET, prompt_list, within_budget
from vgt.vlm.tokenizer import unknown_words

INDEX = "model_index.json"
COMPONENTS = (GENERATOR, AUTOENCODER)
DIFFUSERS_NAMES = {"guidance_scale": "guidance", "num_flow_steps": "flow_steps"}  # argument -> field of Sampling
OUTPUTS = ("pil", "np", "pt", "latent")

Seeds = int | torch.Generator | Sequence[int | torch.Generator] | None
DeviceMap = str | torch.device | dict[str, str | torch.device] | None
StepEnd = Callable[["VGTPipeline", int, int, dict[str, Tensor]], Any]


@dataclass(frozen=True)
class PipelineOutput:
    """``images``: a list of PIL images, or one array or tensor (see ``VGTPipeline.__call__``); ``seeds``: one each;
    ``interrupted``: whether a callback stopped the last batch."""

    images: Any
    seeds: list[int]
    interrupted: bool = False


def _with_fields(function: Callable, options: type[Config]) -> inspect.Signature:
    """The signature of ``function``, the fields of ``options`` in the place of its last parameter."""
    own = inspect.signature(function)
    names = {field: name for name, field in DIFFUSERS_NAMES.items()}
    fields = [
        inspect.Parameter(
            names.get(name, name), inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.annotation
        )
        for name, field in options.model_fields.items()
    ]
    return own.replace(parameters=[*list(own.parameters.values())[:-1], *fields])


class _Stop(Exception):
    """A callback asked to stop; carries the latents so far [B, N, d]."""


class VGTPipeline:
    """Prompts in, images out.  Components: ``generator`` (VisualLM), ``autoencoder`` (VGTAE), ``tokenizer``."""

    def __init__(
        self,
        generator: VisualLM,
        autoencoder: VGTAE,
        tokenizer,
        name: str = "pipeline",
        autoencoder_name: str = "autoencoder",
    ):
        if generator.config.d_z != autoencoder.config.d_z:
            raise ValueError(
                f"a generator of {generator.config.d_z} latent channels does not fit an autoencoder of "
                f"{autoencoder.config.d_z}; take the one that it was trained on"
            )
        self.generator, self.autoencoder, self.tokenizer = generator, autoencoder, tokenizer
        self.name, self.autoencoder_name = name, autoencoder_name
        self._interrupt, self._quiet = False, False
        self._engine: Engine | None = None

    def __repr__(self) -> str:
        """What it holds: the system, sizes, and where and in which precision its parts are."""

        def part(role: str, name: str, module: torch.nn.Module) -> str:
            count, first = sum(p.numel() for p in module.parameters()), next(module.parameters())
            about = f"{count / 1e6:.1f} M parameters, {str(first.dtype).removeprefix('torch.')} on {first.device}"
            return f"  {role}: {name} ({type(module).__name__}, {about})"

        size, tokens = self.autoencoder.config.image_size, self.generator.tokens
        lines = [
            part("generator", self.name, self.generator),
            part("autoencoder", self.autoencoder_name, self.autoencoder),
            f"  images: {size} x {size} px, {tokens} tokens, 1 to {tokens} decoded at a time",
        ]
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])

    # ---- files and places

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        dtype: torch.dtype = torch.float32,
        device_map: DeviceMap = None,
        autoencoder: str | None = None,
        runs: Path | None = None,
        torch_dtype: torch.dtype | None = None,
    ) -> Self:
        """A pipeline folder, a generator's checkpoint folder, a run below ``runs``, a bundled model or a hub id.

        ``device_map``: "auto", a device, or one per component; ``autoencoder``: where it is, if neither beside the
        generator nor under its own name; ``torch_dtype``: older spelling of ``dtype``.
        Raises ValueError for what is no generator, or where the autoencoder is another than it was trained on."""
        dtype = pretrained.check_dtype(torch_dtype or dtype)
        devices = component_devices(device_map)
        if pretrained.is_hub_id(path):
            path = pretrained.locate(path)
        if (Path(path) / INDEX).is_file():
            check_index(Path(path))
            path, autoencoder = Path(path) / GENERATOR, autoencoder or str(Path(path) / AUTOENCODER)
        found = expect(load(path, runs, devices[GENERATOR], dtype), *registry.sharing("vgt.methods.visual_lm:VisualLM"))
        decoder = paired_autoencoder(found, autoencoder, runs, devices[AUTOENCODER], dtype)
        return cls(found.model, decoder.model, found.tokenizer, found.name, decoder.name)

    def save_pretrained(self, folder: str | Path, max_shard_size: int | str = "5GB", name: str | None = None) -> Path:
        """Write a pipeline folder in the precision that the components have.  The generator is tied to the autoencoder
        beside it by content hash.  Raises ValueError where the disk refuses; what was there is then unchanged."""
        name = name or self.name
        with checkpoint.disk_errors(folder), files.atomic_folder(folder) as part:
            weights_hash = pretrained.save(
                self.autoencoder, part / AUTOENCODER, self.autoencoder_name, max_shard_size=max_shard_size
            )
            parent = {"autoencoder": weights_hash, "autoencoder_name": self.autoencoder_name}
            pretrained.save(self.generator, part / GENERATOR, name, self.tokenizer, max_shard_size, parent)
            kinds = {key: ["vgt", type(getattr(self, key)).__name__] for key in COMPONENTS}
            files.write_json(part / INDEX, {"_class_name": type(self).__name__, **kinds})
            sizes = {key: sum(p.numel() for p in getattr(self, key).parameters()) for key in COMPONENTS}
            text = card(name, self.generator.config.method, sizes)
            (part / "README.md").write_text(text, encoding="utf-8")
        return Path(folder)

    def to(self, *where: str | torch.device | torch.dtype, device=None, dtype: torch.dtype | None = None) -> Self:
        """Move or cast both networks: ``to("cuda")``, ``to(torch.bfloat16)``, ``to("cuda", torch.bfloat16)``."""
        for item in where:
            if isinstance(item, torch.dtype):
                dtype = item
            else:
                device = item
        target = pretrained.single_device(device) if device is not None else None
        if dtype is not None:
            pretrained.check_dtype(dtype)
        for key in COMPONENTS:
            module = getattr(self, key)
            pretrained.place(module, target or _place(module)[0], dtype)
        return self

    @property
    def components(self) -> dict[str, Any]:
        return {"generator": self.generator, "autoencoder": self.autoencoder, "tokenizer": self.tokenizer}

    @property
    def device(self) -> torch.device:
        """Where the generator is."""
        return _place(self.generator)[0]

    @property
    def dtype(self) -> torch.dtype:
        """The generator's precision."""
        return _place(self.generator)[1]

    def set_progress_bar_config(self, disable: bool = False) -> None:
        self._quiet = disable

    # ---- generation

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        num_images_per_prompt: int = 1,
        generator: Seeds = None,
        output_type: Literal["pil", "np", "pt", "latent"] = "pil",
        callback_on_step_end: StepEnd | None = None,
        batch_size: int | None = None,
        truncate: bool = False,
        max_prompt_tokens: int = TOKEN_BUDGET,
        **sampling: Any,
    ) -> PipelineOutput:
        """``num_images_per_prompt`` images of each prompt, those of one prompt side by side.

        ``generator``: see ``image_seeds``; an image depends on its own seed only, and the seeds are returned.
        ``output_type``: "pil"; "np" float32 [n, H, W, 3] in [0, 1]; "pt" float32 [n, 3, H, W] in [0, 1]; "latent" fp32
        [n, d, h, w] of the autoencoder.  ``callback_on_step_end(pipe, step, done_tokens, {"latents": [B, N, d]})`` runs
        after every decode step of every batch of ``batch_size`` images (default: all in one); what it returns is not
        used, and when it sets ``pipe._interrupt`` the output ends with this batch as it is.  ``sampling``: the fields
        of Sampling (vgt/methods/sampling.py), of which guidance is also called ``guidance_scale`` and flow_steps
        ``num_flow_steps``; under ``compat`` the images of a batch share one order. Raises ValueError for bad arguments,
        and where numbers overflow."""
        given = {DIFFUSERS_NAMES.get(name, name): value for name, value in sampling.items()}
        settings: Sampling = validated(Sampling, given, "arguments of the pipeline")
        settings.check(self.generator)
        _check(output_type, num_images_per_prompt, batch_size)
        prompts = [p for p in prompt_list(prompt) for _ in range(num_images_per_prompt)]
        seeds = image_seeds(generator, prompts)
        captions = self._captions(prompts, max_prompt_tokens, truncate)
        made, size = [], batch_size or len(captions)
        self._interrupt = False
        total = self.generator.tokens * -(-len(captions) // size)
        with tqdm(total=total, desc="token steps", file=sys.stderr, disable=self._quiet) as bar:
            for i in range(0, len(captions), size):
                rows = slice(i, i + size)
                z = self._latents(captions[rows], seeds[rows], settings, callback_on_step_end, bar.update)
                made.append(z if output_type == "latent" else self._images(z, output_type, settings))
                if self._interrupt:
                    break
        images = [image for part in made for image in part] if output_type == "pil" else _joined(made)
        return PipelineOutput(images, seeds[: len(images)], self._interrupt)

    __call__.__signature__ = _with_fields(__call__, Sampling)  # for help() and evals/subjects/diffusers.py

    def _captions(self, prompts: list[str], budget: int, truncate: bool) -> list[str]:
        """The prompts as the tokenizer takes them; each different one is looked at once."""
        found = {}
        for text in dict.fromkeys(prompts):
            found[text] = within_budget(self.tokenizer, text, budget, truncate)
            strange = unknown_words(self.tokenizer, found[text])
            if strange:
                warnings.warn(f"{self.name} does not know {', '.join(strange)} and reads them as blanks", stacklevel=3)
        return [found[text] for text in prompts]

    def _latents(self, captions, seeds, settings: Sampling, callback: StepEnd | None, advance) -> Tensor:
        """One batch: latents fp32 [B, d, h, w], unfinished where a callback stopped it."""
        model, steps, before = self.generator, 0, 0

        def on_step(done: int, total: int, u: Tensor) -> None:
            nonlocal steps, before
            z = model.restore(u)
            if not torch.isfinite(z).all():
                raise ValueError(_overflow(f"latents after step {steps} ({done} of {total} tokens)", self.dtype))
            advance(max(0, done - before))  # it begins anew where memory made smaller batches of this one
            steps, before = steps + 1, done
            if callback is not None:
                callback(self, steps - 1, done, {"latents": z})
            if self._interrupt:
                raise _Stop(z)

        try:
            return sample_latents(model, self.tokenizer, captions, seeds, settings, on_step, self._decode())
        except _Stop as stop:
            h, w = model.config.latent_grid
            return stop.args[0].mT.reshape(len(seeds), -1, h, w)

    def _decode(self) -> Engine:
        """The engine of the generator at hand, kept from call to call."""
        if self._engine is None or self._engine.model is not self.generator:
            self._engine = Engine(self.generator)
        return self._engine

    def _images(self, z: Tensor, output_type: str, settings: Sampling) -> Any:
        """Latents [B, d, h, w] as images of a kind."""
        device, dtype = _place(self.autoencoder)
        x = pixels(self.autoencoder, z.to(device, dtype)).float()  # [B, 3, H, W] in [-1, 1]
        if not torch.isfinite(x).all():
            raise ValueError(_overflow("pixels of the autoencoder", dtype))
        if output_type == "pil":
            published = settings.compat == "reference"
            levels = reference.pixels(x).cpu().numpy() if published else to_uint8(x)
            return [Image.fromarray(image) for image in levels]
        x = (x.clamp(-1, 1) + 1) / 2
        return x if output_type == "pt" else x.permute(0, 2, 3, 1).cpu().numpy()


def image_seeds(generator: Seeds, asked: Sequence[str]) -> list[int]:
    """One seed per image; ``asked`` names the prompt of each.

    An integer: ``image_seed(generator, prompt, k)`` for the k-th image of that prompt, as ``vgt generate`` does.  A
    torch.Generator: sampled from it.  A list: one per image, integers as they are.  None: sampled by the system.
    Raises ValueError for a list of another length or something else."""
    if generator is None:
        return [secrets.randbits(63) for _ in asked]
    if isinstance(generator, Integral) and not isinstance(generator, bool):
        seen: Counter[str] = Counter()
        seeds = []
        for prompt in asked:
            seeds.append(image_seed(int(generator), prompt, seen[prompt]))
            seen[prompt] += 1
        return seeds
    if isinstance(generator, torch.Generator):
        return [_draw(generator) for _ in asked]
    if not isinstance(generator, Sequence) or isinstance(generator, str):
        raise ValueError(
            f"generator is a {type(generator).__name__}; give an integer, a torch.Generator or a list of them"
        )
    if len(generator) != len(asked):
        raise ValueError(f"{len(generator)} generators for {len(asked)} images; give one per image, or a single one")
    for item in generator:
        if not isinstance(item, (Integral, torch.Generator)) or isinstance(item, bool):
            raise ValueError(f"generator {item!r} is a {type(item).__name__}; give integers or torch.Generators")
    return [_draw(item) if isinstance(item, torch.Generator) else int(item) for item in generator]


def _draw(rng: torch.Generator) -> int:
    return int(torch.randint(2**63 - 1, (1,), generator=rng, device=rng.device))


def card(name: str, system: str, parts: Mapping[str, int]) -> str:
    """The card of a pipeline folder.  ``parts``: component -> number of weights."""
    lines = "".join(f"* `{part}/`: {weights:,} weights\n" for part, weights in parts.items())
    return f"""{checkpoint.card_header(system)}# {name}

{registry.get(system).about} with the autoencoder that it was trained on.

{lines}
```python
from vgt.inference.pipeline import VGTPipeline

pipe = VGTPipeline.from_pretrained("{name}")  # this folder
pipe("a photo of a red star", generator=0).images[0].save("star.png")
```
"""


def component_devices(device_map: DeviceMap) -> dict[str, torch.device]:
    """The device of each component; None is the CPU.  Raises ValueError for a map that lacks one or names another."""
    if not isinstance(device_map, dict):
        return dict.fromkeys(COMPONENTS, pretrained.single_device("cpu" if device_map is None else device_map))
    if device_map.keys() != set(COMPONENTS):
        raise ValueError(
            f"device_map names {', '.join(map(repr, device_map)) or 'nothing'}; it needs a device for each of "
            f"{', '.join(map(repr, COMPONENTS))}"
        )
    return {key: pretrained.single_device(device_map[key]) for key in COMPONENTS}


def check_index(folder: Path) -> None:
    """Raises ValueError where ``folder``'s model_index.json is broken or another pipeline's."""
    path = folder / INDEX
    try:
        kind = read_json(path)["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no list of a pipeline's components ({type(error).__name__}); copy it again"
        ) from error
    if kind != VGTPipeline.__name__:
        raise ValueError(f"{folder} holds a {kind}, not a {VGTPipeline.__name__}; load it with diffusers")


def _check(output_type: str, per_prompt: int, batch_size: int | None) -> None:
    if output_type not in OUTPUTS:
        raise ValueError(f"output_type {output_type!r} is unknown; choose one of {', '.join(OUTPUTS)}")
    if per_prompt < 1:
        raise ValueError(f"num_images_per_prompt {per_prompt} must be 1 or more")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size {batch_size} must be 1 or more, or None for all images in one batch")


def _place(module) -> tuple[torch.device, torch.dtype]:
    parameter = next(module.parameters())
    return parameter.device, parameter.dtype


def _joined(parts: list) -> Any:
    return torch.cat(parts) if isinstance(parts[0], Tensor) else np.concatenate(parts)


def _overflow(what: str, dtype: torch.dtype) -> str:
    narrow = "use dtype=torch.bfloat16" if dtype == torch.float16 else "the weights or the guidance scale are at fault"
    return f"{what} are not finite in {str(dtype).removeprefix('torch.')}; {narrow}"
