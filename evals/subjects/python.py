"""``python:<module>:<object>``: a model of one's own, by the protocols of evals/engine/api.py.

The object, or what it returns when it is a class or a function, has ``name`` and ``fingerprint`` (text that changes
with the weights; records are reused while it stays) and the method of its role: ``generate(prompts, seeds)`` or
``reconstruct(images)``.  The module is imported from the current folder or the environment, and runs as code does;
``__main__`` is the notebook or script that calls.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

METHODS = {"generator": "generate", "tokenizer": "reconstruct"}


def load(place: str, role: str) -> Any:
    """The object at ``module:object``, as a "generator" or "tokenizer".

    Raises ValueError where there is none, where it cannot be made without arguments, and naming what it lacks."""
    module, colon, name = place.partition(":")
    if not (module and colon and name):
        raise ValueError(f"subject python:{place} is not of the form python:MODULE:OBJECT")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"module {module!r} of subject python:{place} cannot be imported: {error}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"module {module!r} has no object {name!r}")
        found = getattr(found, part)
    if inspect.isclass(found) or (inspect.isroutine(found)):
        try:
            inspect.signature(found).bind()
        except TypeError as error:
            raise ValueError(f"python:{place} cannot be made without arguments ({error}); name an object") from error
        found = found()
    return checked(found, place, role)


def checked(found: Any, place: str, role: str) -> Any:
    """``found`` itself.  Raises ValueError naming the attribute or method that its role needs and it lacks."""
    for attribute in ("name", "fingerprint"):
        if not isinstance(getattr(found, attribute, None), str):
            raise ValueError(
                f"python:{place} has no text {attribute!r}; give it one"
                + (" that changes with the weights" if attribute == "fingerprint" else "")
            )
    if not callable(getattr(found, METHODS[role], None)):
        raise ValueError(f"python:{place} has no method {METHODS[role]!r}; evals/engine/api.py says what a {role} has")
    if role == "tokenizer" and not hasattr(found, "size"):
        raise ValueError(f"python:{place} has no 'size'; give it its image side in pixels, or None for any")
    return found
