"""Subject ``diffusers:<local folder or hub id>``: any text-to-image pipeline of the diffusers library.

Settings (``--set key=value``) are the pipeline's own call arguments; ``steps``, ``guidance`` and ``size`` are short for
num_inference_steps, guidance_scale and height = width.  ``dtype`` (float32, float16, bfloat16) and ``variant`` (for
weights stored as, say, ``*.fp16.safetensors``) decide how it is loaded.  What is not set is the pipeline's default.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evals.subjects.vgt import OUR_PIPELINES
from vgt.core import files
from vgt.core.text import read_json

SHORT = {"steps": ("num_inference_steps",), "guidance": ("guidance_scale",), "size": ("height", "width")}
OURS = ("prompt", "generator", "output_type")  # what the evaluator sets, so what a pipeline must take
NOT_SETTINGS = (*OURS, "self", "return_dict", "num_images_per_prompt", "latents")
DTYPES = ("float32", "float16", "bfloat16")
INDEX = "model_index.json"
UNUSED = ("safety_checker", "feature_extractor")


@dataclass(frozen=True)
class PipelineSubject:
    """A pipeline as a Generator.  The fingerprint covers its files and its settings."""

    name: str
    fingerprint: str
    settings: Mapping[str, Any]
    pipeline: Any
    arguments: Mapping[str, Any]
    origin: str | None = None

    @property
    def batch_matters(self) -> bool:
        """Whether the neighbours in a batch decide an image, as they do in our pipeline's ``compat="reference"``."""
        return self.settings.get("compat") == "reference"

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """uint8 [N, H, W, 3], rounded to the nearest level (docs/evaluators.md 1.2, ``round``); one batch.  Noise comes
        from one generator per image on the CPU, so it does not depend on the device.

        Raises ValueError where a pixel is not a number."""
        import torch

        noise = [torch.Generator("cpu").manual_seed(int(seed)) for seed in seeds]
        with torch.inference_mode():
            found = self.pipeline(prompt=list(prompts), generator=noise, output_type="np", **self.arguments).images
        images = np.asarray(found, np.float32)
        if not np.isfinite(images).all():
            raise ValueError(f"pipeline {self.name} made pixels that are no numbers; try the setting dtype=float32")
        return np.rint(255 * np.clip(images, 0, 1)).astype(np.uint8)


def generator(path: str, device: str = "cpu", settings: Mapping[str, Any] | None = None) -> PipelineSubject:
    """The pipeline in the folder ``path``, or of that name on the Hugging Face hub (where there is no network: in its
    cache).  A safety checker, which would replace images by black ones in silence, is left out.

    Raises ValueError for what is no pipeline, cannot be loaded, makes no images from text, or has no such setting."""
    import diffusers

    settings = {"dtype": DTYPES[0], **(settings or {})}
    if settings["dtype"] not in DTYPES:
        raise ValueError(f"dtype {settings['dtype']!r} is unknown; choose one of {', '.join(DTYPES)}")
    folder = _folder(path)
    index = _index(folder)
    kind = OUR_PIPELINES.get(str(index.get("_class_name"))) or getattr(diffusers, str(index.get("_class_name")), None)
    if kind is None:
        raise ValueError(
            f"{folder} holds a {index.get('_class_name')}, which diffusers {diffusers.__version__} does not have; "
            f"install the version that it was saved with ({index.get('_diffusers_version')})"
        )
    arguments = call_arguments(kind, settings)
    settings = one_form(kind, settings)
    pipeline = _load(kind, folder, index, settings)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device)
    name = folder.resolve().name if Path(path).is_dir() else path
    content = content_hashes(folder, index)
    whole = files.digest_json(["diffusers", content, settings])
    return PipelineSubject(name, whole, settings, pipeline, arguments, files.digest_json(content))


def _load(kind: type, folder: Path, index: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, message=".*torch_dtype.*")  # has a new name since
            dtype = getattr(torch, settings["dtype"])
            if kind in OUR_PIPELINES.values():
                return kind.from_pretrained(folder, dtype=dtype)
            return kind.from_pretrained(
                folder,
                torch_dtype=dtype,
                variant=settings.get("variant"),
                local_files_only=True,
                trust_remote_code=False,
                **({"safety_checker": None} if "safety_checker" in index else {}),
            )
    except (OSError, ValueError, RuntimeError, AttributeError, ImportError) as error:
        raise ValueError(f"pipeline {folder} cannot be loaded: {_line(error)}") from error


def call_arguments(kind: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The call arguments of a pipeline class that ``settings`` stand for.

    Raises ValueError for a class that makes no images from text and for a setting that it does not have."""
    known = inspect.signature(kind.__call__).parameters
    lacking = [name for name in OURS if name not in known]
    if lacking:
        raise ValueError(f"{kind.__name__} takes no {lacking[0]}: it makes no images from text")
    taken: dict[str, Any] = {}
    for key, value in settings.items():
        if key in ("dtype", "variant"):
            continue
        names = SHORT.get(key, (key,))
        if any(name not in known or name in NOT_SETTINGS for name in names):
            named = {name for name, p in known.items() if p.kind is not p.VAR_KEYWORD}
            choices = sorted({*SHORT, "dtype", "variant", *named} - {*NOT_SETTINGS})
            raise ValueError(f"{kind.__name__} has no setting {key!r}; it has {', '.join(choices)}")
        if twice := sorted(taken.keys() & set(names)):
            raise ValueError(f"setting {key!r} gives {twice[0]} twice; leave one out")
        taken |= dict.fromkeys(names, value)
    return taken


def one_form(kind: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` as fingerprints and records have them: short names, and without what the class does anyway."""
    known, short = (
        inspect.signature(kind.__call__).parameters,
        {long[0]: key for key, long in SHORT.items() if len(long) == 1},
    )
    found = dict(settings)
    for key, value in settings.items():
        names = SHORT.get(key, (key,))
        if all(name in known and known[name].default == value for name in names):
            del found[key]
    return {short.get(key, key): value for key, value in found.items()}


def content_hashes(folder: Path, index: Mapping[str, Any]) -> list[list[str]]:
    """[name, hash] of the files of all components that ``index`` names."""
    parts = [folder / name for name in index if not name.startswith("_") and name not in UNUSED]
    found = sorted(p for part in parts for p in files.visible(part, "**/*") if p.is_file())
    return [[p.relative_to(folder).as_posix(), files.digest_file(p)] for p in (folder / INDEX, *found)]


def _folder(path: str) -> Path:
    """Where the pipeline's files lie on this machine; those of a hub id are fetched where they are not."""
    if Path(path).is_dir():
        return Path(path)
    from diffusers import DiffusionPipeline
    from huggingface_hub import constants

    try:
        return Path(DiffusionPipeline.download(path, local_files_only=constants.HF_HUB_OFFLINE))
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"pipeline {path!r} is neither a folder nor to be had from the Hugging Face hub or its cache "
            f"({_line(error)}); save it with save_pretrained() and give that folder as diffusers:<folder>"
        ) from error


def _index(folder: Path) -> dict[str, Any]:
    """A pipeline's list of components.  Raises ValueError where the folder has none, and where a component is code of
    the folder's own."""
    try:
        index = read_json(folder / INDEX)
        own = [entry for entry in index.items() if _has_code(folder, *entry)]
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{folder} is no diffusers pipeline: {INDEX} is missing or broken") from error
    if own:
        raise ValueError(
            f"{folder}: component {own[0][0]!r} asks for code of the folder's own, which is never run; give a pipeline "
            "of diffusers' and transformers' classes"
        )
    return index


def _has_code(folder: Path, name: str, entry: Any) -> bool:
    """Whether a component is a class in a Python file of the folder, or one that transformers looks up there."""
    if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)):
        return False
    library, kind = entry
    if any((place / f"{library}.py").is_file() for place in (folder, folder / name)):
        return True
    configs = files.visible(folder / name, "*.json") if library == "transformers" and kind.startswith("Auto") else ()
    return any('"auto_map"' in path.read_text(encoding="utf-8") for path in configs)


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
