"""Which source files decide how long the work takes: those that it imports, loading of weights left out."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import bench
import vgt
from vgt.core import files

ROOTS = {"vgt": Path(vgt.__file__).parent, "bench": Path(bench.__file__).parent}
WORKING = ("vgt.equations", "vgt.methods", "vgt.vlm", "vgt.inference", "vgt.checkpoints.reference")
NOT_TIMED = ("vgt.methods.registry", "vgt.inference.load", "vgt.vlm.tokenizer")  # names, reading, building a tokenizer


def _path(module: str) -> Path | None:
    """The file of a module of the project, or of a system from outside; None for other names."""
    package, _, rest = module.partition(".")
    if not rest:
        return None
    root = ROOTS.get(package) or Path(getattr(sys.modules.get(package), "__file__", None) or "").parent
    path = root.joinpath(*rest.split(".")).with_suffix(".py")
    return path if path.is_file() else None


def _imports(path: Path) -> set[str]:
    """Modules of the models and of inference that a file imports."""
    named = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            named |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in named if name.startswith(WORKING) and name not in NOT_TIMED and _path(name)}


@lru_cache
def timed(*modules: str) -> tuple[str, ...]:
    """The given modules and, of models, equations and inference, all that they import, directly or not; sorted."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = _path(name)
        if name not in found and path is not None:
            found.add(name)
            waiting += _imports(path)
    return tuple(sorted(found))


def code(modules: Iterable[str]) -> str:
    """Content hash of ``timed(*modules)``."""
    paths = [_path(name) for name in timed(*modules)]
    return files.digest(*(path.read_bytes() for path in paths if path is not None))
