"""The registry of systems: what it names exists, nobody else compares names, and nothing imports in a circle."""

from __future__ import annotations

import ast
import dataclasses
import re

import pytest
from test_architecture import FILES, ROOT, imported, module_of

from vgt.methods import registry
from vgt.methods.registry import System

PARTS = ("model", "config", "job", "foreign", "sampling", "generator", "loss", "reference", "loop", "sequence")


@pytest.mark.parametrize("system", registry.systems(), ids=lambda system: system.name)
def test_every_part_exists(system):
    named = [name for name in PARTS if getattr(system, name) is not None]
    assert {"model", "config", "job"} <= set(named)
    for name in named:
        assert callable(system.part(name)), name
    assert (system.kind == "tokenizer") == (system.latents is not None)
    assert (system.kind == "generator") == (system.condition is not None)


def test_systems_by_what_they_are():
    assert registry.get("vgt_ae") is registry.VGT_AE
    assert registry.names("tokenizer", latents="continuous") == ("vgt_ae",)
    assert registry.names("generator", condition="text") == ("query_ar", "mar")
    with pytest.raises(ValueError, match="system 'gan' is unknown; choose one of vlm, vgt_ae"):
        registry.get("gan")
    with pytest.raises(ValueError, match="vgt_ae has no loop"):
        registry.VGT_AE.part("loop")


def test_a_name_is_taken_once(monkeypatch):
    monkeypatch.setattr(registry, "_SYSTEMS", dict(registry._SYSTEMS))
    other = dataclasses.replace(registry.MAR, about="Another")
    with pytest.raises(ValueError, match="there is a system 'mar' already"):
        registry.register(other)
    mine = registry.register(dataclasses.replace(other, name="mine"))
    assert registry.get("mine") is mine and isinstance(mine, System)


def test_a_plugin_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv(registry.PLUGINS, "no_such_module")
    with pytest.raises(ValueError, match="VGT_SYSTEMS names no_such_module"):
        registry.systems()


# A system's name may stand in a record's or a paper's own table; nobody may decide by it.
NAMES = set(registry.names())


def compared(path) -> set[str]:
    """Names of systems that a file compares with, or looks a function up by."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        parts: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.Dict) and node.keys and not all(isinstance(v, ast.Constant) for v in node.values):
            parts = [key for key in node.keys if key is not None]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "expect":
            parts = node.args
        for part in parts:
            inside = part.elts if isinstance(part, (ast.Tuple, ast.List, ast.Set)) else [part]
            found |= {e.value for e in inside if isinstance(e, ast.Constant) and e.value in NAMES}
    return found


# "vlm" is also a judge's kind, a preset's ``init.vlm`` and a field of a configuration.
OTHER_MEANINGS = {
    "bench/suites.py": {"mar"},  # a suite
    "evals/judges/__init__.py": {"vlm"},
    "evals/recon/protocol.py": {"vfmtok"},  # a protocol
    "evals/vqa/": {"vlm"},
    "vgt/training/": {"vlm"},
    "bench/subjects.py": {"vlm"},
}


def test_nobody_compares_names():
    for path in FILES:
        name = path.relative_to(ROOT).as_posix()
        allowed = set().union(*(found for prefix, found in OTHER_MEANINGS.items() if name.startswith(prefix)))
        if name != "vgt/methods/registry.py":
            assert compared(path) <= allowed, f"{name} knows systems by name: {sorted(compared(path) - allowed)}"


def test_no_import_circles():
    """Among the modules of vgt, imports within functions included; a command may call other verbs by name."""
    modules = {module_of(path): path for path in FILES if module_of(path).startswith("vgt.")}
    graph = {}
    for module, path in modules.items():
        names = imported(path)
        graph[module] = {m for m in modules if any(n == m or re.fullmatch(re.escape(m) + r"\.\w+", n) for n in names)}
        graph[module].discard(module)
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for other in sorted(graph[module]):
                visit(other, (*path, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


READERS = ("vgt/checkpoints/shards.py",)


def test_one_reader_of_safetensors():
    for path in FILES:
        name = path.relative_to(ROOT).as_posix()
        for module in imported(path):
            reads = re.search(r"safetensors\.(torch|safe_open)|^safetensors$", module)
            assert not reads or name in READERS, f"{name} reads safetensors; use vgt/checkpoints/shards.py"
