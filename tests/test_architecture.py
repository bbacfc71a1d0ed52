"""The house rules that a machine can check: who imports whom, what stays free of torch, what equations say."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vgt

ROOT = Path(vgt.__file__).resolve().parents[1]
TOP = {"vgt", "evals", "bench", "reports", "tests"}

# Who may import what of the project; a file belongs to the first rule whose prefix it has.
METHOD = {"vgt.core", "vgt.equations", "vgt.vlm", "vgt.methods", "vgt.checkpoints"}
RULES = {
    "vgt.core": {"vgt.core"},
    "vgt.commands": {"vgt", "evals", "bench", "reports"},
    "vgt.equations": {"vgt.equations"},
    "vgt.vlm": METHOD,
    "vgt.methods": METHOD,
    "vgt.checkpoints": METHOD,
    "vgt.inference": METHOD | {"vgt.inference"},
    # The training loop draws its sample grids and loads its parents through inference.
    "vgt.training": METHOD | {"vgt.inference", "vgt.training"},
    # The verbs' own option parsing is shared so that --seed, --out and --device mean the same everywhere.
    "evals.engine.options": {"evals", "vgt.core", "vgt.commands.options"},
    "evals.engine.registry": {"evals", "vgt.core", "vgt.commands.options"},
    "reports.cli": {"reports", "vgt.core", "vgt.commands.options"},
    "reports.measured": {"reports", "vgt.core", "vgt.methods.registry"},
    "evals.subjects.vgt": {"evals", "vgt.core", "vgt.inference", "vgt.methods.registry"},
    "evals.metrics.lpips": {"evals", "vgt.core", "vgt.methods.perceptual"},
    "evals.features": {"evals", "vgt.core", "vgt.methods.perceptual"},
    "evals": {"evals", "vgt.core"},
    "bench": {"bench", "vgt", "evals"},
    "reports": {"reports", "vgt.core"},
}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py")) if (ROOT / package).exists() else []


def imported(path: Path) -> set[str]:
    """Full names that a file imports, also within functions; "from a import b" counts as a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


FILES = [p for package in ("vgt", "evals", "bench", "reports") for p in sources(package)]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_flow_one_way(path):
    module = module_of(path)
    rule = next((allowed for prefix, allowed in RULES.items() if within(module, prefix)), None)
    if rule is None:
        return  # vgt/__init__.py, vgt/__main__.py and the presets: looked at below
    project = {name for name in imported(path) if name.split(".")[0] in TOP}
    wrong = {name for name in project if not any(within(name, allowed) for allowed in rule)}
    assert not wrong, f"{module} must not import {sorted(wrong)}"


def test_the_front_door_imports_lazily():
    """vgt/__init__.py imports nothing, vgt/__main__.py no part of the project but the core at its top level."""
    assert not imported(ROOT / "vgt/__init__.py")
    door = ROOT / "vgt/__main__.py"
    if not door.exists():
        pytest.skip("vgt/__main__.py is not there yet")
    tree = ast.parse(door.read_text(encoding="utf-8"))
    names = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    assert all(within(name, "vgt.core") for name in names if name.split(".")[0] in TOP), names
    assert not {name.split(".")[0] for name in names} & {"torch", "transformers", "diffusers", "accelerate"}


HEAVY = ("torch", "transformers", "diffusers", "accelerate")


@pytest.mark.parametrize("package", ["vgt.core", "reports"])
def test_packages_that_never_import_torch(package):
    for path in sources(package.replace(".", "/")):
        heavy = {name for name in imported(path) if name.split(".")[0] in HEAVY}
        assert not heavy, f"{path.relative_to(ROOT)} imports {sorted(heavy)}"


def test_light_imports_load_no_torch():
    core = [module_of(p) for p in sources("vgt/core")]
    modules = [
        "vgt",
        *core,
        "evals.engine.api",
        "evals.compare.compare",
        "evals.compare.gate",
        *(["reports"] if sources("reports") else []),
    ]
    code = f"import sys, {', '.join(modules)}; print([m for m in {HEAVY!r} if m in sys.modules])"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_evals_is_ours():
    """``evals`` is also the name of an unrelated package."""
    import evals

    assert Path(evals.__file__).resolve().parent.parent == ROOT
    spec = importlib.util.find_spec("evals.engine.api")
    assert Path(spec.origin).resolve() == ROOT / "evals/engine/api.py"


def functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)]


def test_every_public_equation_says_what_it_is():
    for path in sources("vgt/equations"):
        public = [f for f in functions(path) if not f.name.startswith("_")]
        assert path.name == "__init__.py" or public, path
        for function in public:
            assert ast.get_docstring(function), f"{path.name}: {function.name} has no docstring"


def test_equation_files_name_their_sections():
    for path in sources("vgt/equations"):
        if path.name != "__init__.py":
            assert "docs/" in (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""), path.name


def test_no_global_randomness():
    """Randomness is an argument: no module seeds or draws from the process-wide generators."""
    banned = (
        "np.random.seed",
        "np.random.rand",
        "np.random.randint",
        "np.random.normal",
        "random.seed(",
        "random.random(",
    )
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert not [word for word in banned if word in text], path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                assert "random" not in {alias.name for alias in node.names}, f"{path} imports the global generator"


def tracked() -> list[Path]:
    """Files that git tracks or would track."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so the tracked files are not known")
    listing = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_machine_paths_in_the_tree():
    path_of_some_machine = re.compile(r"(?<![\w.<>{}*)/-])/(?:work|tmp|root|home)/[\w.-]+")
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # an image or weights
        found = path_of_some_machine.search(text)
        if found:
            line = text.count("\n", 0, found.start()) + 1
            raise AssertionError(f"{path.relative_to(ROOT)}:{line} names a path of some machine: {found[0]!r}")


def test_no_loader_runs_code_of_a_checkpoint():
    """Every ``from_pretrained`` and ``from_config`` of a foreign class says trust_remote_code=False; transformers' own
    default asks on the terminal.  Ours are recognised by their arguments."""
    ours = {
        "evals/subjects/diffusers.py": ["kind.from_pretrained(folder, dtype=dtype)"],  # one of OUR_PIPELINES
    }
    for path in FILES:
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        loaders = [
            c for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr in ("from_pretrained", "from_config")
        ]
        said = {keyword.arg: ast.unparse(keyword.value) for call in calls for keyword in call.keywords}
        assert said.get("trust_remote_code", "False") == "False", path
        silent = [c for c in loaders if "trust_remote_code" not in [k.arg for k in c.keywords]]
        name = path.relative_to(ROOT).as_posix()
        assert [ast.unparse(c) for c in silent] == ours.get(name, []), name
        loads = [
            c for c in calls if ast.unparse(c.func) in ("torch.load", "pickle.load", "pickle.loads", "joblib.load")
        ]
        for call in loads:
            assert {k.arg: ast.unparse(k.value) for k in call.keywords}.get("weights_only") == "True", name


def test_files_are_read_in_one_place():
    """JSON, JSON lines, CSV and TOML go through vgt/core/text.py, whose errors name file, line and field."""
    parsers = re.compile(r"json\.loads?\(|csv\.(reader|DictReader)\(|tomllib\.|\.read_text\([^)]*\)\.splitlines\(\)")
    elsewhere = {  # values of this process, of transformers and of a child's own environment; the kernel's tables
        "vgt/core/text.py", "vgt/core/files.py", "vgt/core/record.py", "vgt/core/geneval_prompts.py",
        "vgt/core/env.py", "vgt/vlm/vlm.py", "evals/judges/mplug_child.py", "bench/evaluators.py", "bench/timing.py",
    }  # fmt: skip
    found = {path.relative_to(ROOT).as_posix() for path in FILES if parsers.search(path.read_text(encoding="utf-8"))}
    assert not found - elsewhere, f"{sorted(found - elsewhere)} parse files themselves; see vgt/core/text.py"
