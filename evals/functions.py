"""The evaluators as functions over arrays and folders: the front of ``evals`` for Python (docs/python.md).

``evals.geneval``, ``evals.dpg``, ``evals.fidelity`` and ``evals.compare`` are packages too: a CallablePackage is both.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from evals.compare.compare import ComparedMetric
    from vgt.core.record import Record

    Images = np.ndarray | str | Path


class CallablePackage(ModuleType):
    """A package that can be called as the function of its name in this module."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return getattr(sys.modules[__name__], self.__name__.rpartition(".")[2])(*args, **options)


def evaluate(evaluator: str, *, work: str | Path | None = None, **options: Any) -> list[Record]:
    """The records that ``vgt eval <evaluator>`` makes.

    ``options``: its flags by their names in Python (``images_per_prompt=1``); ``work``: folder of evidence and records,
    in which a second call computes only what is missing; without it nothing is kept.
    Raises ValueError, in one line, for everything that the command refuses."""
    from evals.engine import registry
    from vgt.core.config import validated

    module = registry.module(evaluator)
    with contextlib.ExitStack() as stack:
        out = Path(work) if work is not None else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        given = validated(module.Options, {"out": out, **options}, f"options of {evaluator}")
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))  # tables for a terminal
        return list(module.evaluate(given).records)


@contextlib.contextmanager
def _folders(*stacks: Images) -> Iterator[list[Path]]:
    """Every stack as a folder; arrays, uint8 [N, H, W, 3], are written as PNG, which loses nothing."""
    import numpy as np
    from PIL import Image

    with tempfile.TemporaryDirectory() as temporary:
        found = []
        for k, images in enumerate(stacks):
            if isinstance(images, str | Path):
                found.append(Path(images))
                continue
            stack = np.asarray(images)
            if stack.dtype != np.uint8 or stack.ndim != 4 or stack.shape[-1] != 3 or not len(stack):
                raise ValueError(f"images are {stack.dtype} {list(stack.shape)}; give uint8 [N, H, W, 3] or a folder")
            folder = Path(temporary) / f"images-{k}"
            folder.mkdir()
            for i, image in enumerate(stack):
                Image.fromarray(image).save(folder / f"{i:08d}.png")
            found.append(folder)
        yield found


def _weights(weights: Mapping[str, str | Path] | None) -> list[str]:
    return [f"{name}={path}" for name, path in (weights or {}).items()]


def reconstruction(
    originals: Images,
    rebuilt: Images,
    *,
    protocol: str = "default",
    metrics: Sequence[str] | None = None,
    weights: Mapping[str, str | Path] | None = None,
    work: str | Path | None = None,
    **options: Any,
) -> list[Record]:
    """PSNR, SSIM, LPIPS and Fréchet distances of reconstructions (docs/evaluators.md 1).

    ``originals``, ``rebuilt``: uint8 [N, H, W, 3] in the same order, or folders of images matched by name;
    ``protocol``: one of ``vgt list protocols``; ``metrics``: these, default all for which there are weights;
    ``weights``: files of LPIPS or Inception by id.  Raises ValueError as ``evaluate``, and where two stacks differ in
    number."""
    sizes = {len(x) for x in (originals, rebuilt) if not isinstance(x, str | Path)}
    if len(sizes) > 1:
        raise ValueError(f"{len(originals)} originals and {len(rebuilt)} reconstructions; give one for each")
    asked = {"protocols": protocol, "metrics": None if metrics is None else ",".join(metrics), **options}
    with _folders(originals, rebuilt) as pair:
        return evaluate("recon", work=work, pairs=tuple(pair), weights=_weights(weights), **asked)


def fidelity(
    generated: Images,
    real: Images,
    *,
    features: str = "efflite2",
    metrics: Sequence[str] | None = None,
    weights: Mapping[str, str | Path] | None = None,
    work: str | Path | None = None,
    **options: Any,
) -> list[Record]:
    """How close a set of images comes to another: Fréchet distance, KID, precision, recall, density, coverage.

    ``generated``, ``real``: uint8 [N, H, W, 3] or folders, in any order; ``features``: the network, see ``vgt eval
    fidelity --help``.  Raises ValueError as ``evaluate``."""
    asked = {"features": features, "metrics": None if metrics is None else ",".join(metrics), **options}
    with _folders(generated, real) as (a, b):
        return evaluate("fidelity", work=work, subject=f"folder:{a}", real=str(b), weights=_weights(weights), **asked)


def fid(generated: Images, real: Images, *, weights: str | Path, work: str | Path | None = None, **options) -> Record:
    """FID on Inception features by torch-fidelity's definition, with its interval (docs/evaluators.md 1.6).

    ``weights``: its file of Inception weights, whose checksum must be right.  Raises ValueError as ``fidelity``."""
    given = {"tf-compat": weights}
    return fidelity(generated, real, features="tf-compat", metrics=["fid"], weights=given, work=work, **options)[0]


def _subject(given: str | Path) -> str:
    return f"folder:{given}" if isinstance(given, Path) or Path(given).is_dir() else given


def geneval(subject: str | Path, *, work: str | Path | None = None, **options: Any) -> list[Record]:
    """GenEval of a folder of images or of a subject ("vgt:<checkpoint>", "python:module:object", ...); ``options``:
    ``judge``, ``suite``, ``accel``, ``images_per_prompt``, ... as the flags of ``vgt eval geneval``.  Raises ValueError
    as ``evaluate``."""
    return evaluate("geneval", work=work, subject=_subject(subject), **options)


def dpg(subject: str | Path, *, work: str | Path | None = None, **options: Any) -> list[Record]:
    """DPG-Bench of a folder of images or of a subject; ``options`` as the flags of ``vgt eval dpg``.  Raises ValueError
    as ``evaluate``."""
    return evaluate("dpg", work=work, subject=_subject(subject), **options)


def compare(
    a: str | Path, b: str | Path, metrics: Sequence[str] = ("*",), allow: Collection[str] = ()
) -> list[ComparedMetric]:
    """What ``vgt compare`` finds: every metric of both sides with the paired difference and its Holm-adjusted p.

    ``a``, ``b``: work folders, records folders or .jsonl files, FOLDER:MODEL for one model; ``metrics``: patterns;
    ``allow``: settings that may differ.  Raises ValueError where a side holds no records."""
    from evals.compare import compare as comparing
    from vgt.core import sides

    return comparing.compare(sides.read(str(a)), sides.read(str(b)), metrics, allow)
