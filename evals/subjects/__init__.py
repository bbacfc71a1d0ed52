"""Subjects by name: ``vgt:<checkpoint>``, ``diffusers:<pipeline>``, ``python:<module>:<object>``, ``folder:<dir>``,
``fake:<kind>``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evals.subjects import fake
from evals.subjects.folder import Folder, folder
from vgt.core.text import setting_value

if TYPE_CHECKING:
    from evals.engine.api import Generator, Tokenizer

GENERATORS = (
    "vgt:<checkpoint>, diffusers:<folder or id>, python:<module>:<object>, folder:<dir>, fake:oracle, fake:noise or "
    "fake:shuffled"
)
TOKENIZERS = "vgt:<checkpoint>, python:<module>:<object> or fake:identity"


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Settings from "key=value" texts; values are JSON where they can be read as such (``steps=20``) and plain text
    otherwise.  Raises ValueError for other forms and keys that come twice."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not (equals and key.isidentifier()) or key in found:
            raise ValueError(f"setting {pair!r} is not of the form key=value, or comes twice; for example steps=20")
        found[key] = setting_value(text)
    return found


def load_generator(
    spec: str,
    *,
    accel: int | None = None,
    device: str | None = None,
    prompts: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Generator | Folder:
    """The generator, or folder of its images, that ``spec`` names.

    ``accel`` is for ``vgt:``; ``device`` and sampling ``settings`` for ``vgt:`` (fields of its Sampling) and
    ``diffusers:`` (see there), and of fakes ``size`` (pixels, 64); ``prompts`` (the suite's) for ``fake:shuffled``.
    Raises ValueError for other specs and where the subject cannot be loaded."""
    kind, _, rest = spec.partition(":")
    if kind == "vgt" and rest:
        from evals.subjects import vgt  # torch only when a model is asked for

        return vgt.generator(rest, device=device or "cpu", acceleration=accel or 1, **(settings or {}))
    if kind == "diffusers" and rest:
        from evals.subjects import diffusers

        return diffusers.generator(rest, device=device or "cpu", settings=settings)
    if kind == "python" and rest:
        from evals.subjects import python

        return python.load(rest, "generator")
    if kind == "folder" and rest:
        return folder(rest)
    if kind == "fake" and (made := fake.generator(rest, prompts or (), **_fake(settings or {}))):
        return made
    raise ValueError(f"subject {spec!r} is unknown; give {GENERATORS}")


def _fake(settings: Mapping[str, Any]) -> dict[str, int]:
    """The settings of a fake.  Raises ValueError for others than its size."""
    for name, value in settings.items():
        if name != "size" or type(value) is not int or not 8 <= value <= 4096:
            raise ValueError(f"--set {name}={value} is not for fake: subjects; they have size, 8 to 4096 pixels")
    return dict(settings)


def load_tokenizer(spec: str, *, device: str | None = None, dtype: str | None = None) -> Tokenizer:
    """The autoencoder that ``spec`` names; ``dtype``: of ours (fp32, bf16, fp16).

    Raises ValueError for other specs and where it cannot be loaded."""
    kind, _, rest = spec.partition(":")
    if kind == "vgt" and rest:
        from evals.subjects import vgt

        return vgt.tokenizer(rest, device=device or "cpu", dtype=dtype)
    if dtype is not None:
        raise ValueError(f"--dtype {dtype} is for vgt: subjects, not for {spec!r}; leave it out")
    if kind == "python" and rest:
        from evals.subjects import python

        return python.load(rest, "tokenizer")
    if spec == "fake:identity":
        return fake.Identity()
    raise ValueError(f"subject {spec!r} is not an autoencoder; give {TOKENIZERS}")
