"""Judge ``mplug``: DPG-Bench's official one, mPLUG-large VQA through modelscope (docs/evaluators.md 3.4).

Its dependencies are old and pinned, so it runs in an environment of its own, as a child process.  That process runs
code which is not this project's, and may run code that came with the model, so it is started only for those who say
that they trust it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from evals.judges import mplug_child
from evals.judges.answering import ProcessAnswerer
from vgt.core import files, weights

MODEL = weights.PUBLISHED["mplug"].modelscope
INSTALL = (
    "make an environment for it (python -m venv mplug; mplug/bin/pip install 'modelscope[multi-modal]' torch pillow; "
    "on recent Pythons a fork of fairseq is needed) and name its interpreter with --judge-python mplug/bin/python; "
    f"{weights.PUBLISHED['mplug'].text} gets its weights"
)

TRUST = (
    "judge mplug runs modelscope's code, and code that may lie in the model's folder, in a process with all your "
    "rights; if you trust both, give --trust-judge-code"
)


def _has_modelscope(python: str) -> bool:
    if python == sys.executable:
        return importlib.util.find_spec("modelscope") is not None
    looked = subprocess.run([python, "-c", "import modelscope"], capture_output=True, timeout=300)
    return looked.returncode == 0


def mplug(python: str | None = None, weights: str | None = None, trusted: bool = False) -> ProcessAnswerer:
    """The judge, in the environment of ``python`` (default: this one), from the local folder ``weights`` (default: what
    modelscope finds or downloads).

    Raises ValueError where its code is not ``trusted``, before anything of it runs, and where modelscope or the weights
    are missing."""
    if not trusted:
        raise ValueError(TRUST)
    interpreter = python or sys.executable
    if shutil.which(interpreter) is None:
        raise ValueError(f"--judge-python {interpreter!r} is not an interpreter; give the path of one")
    if not _has_modelscope(interpreter):
        raise ValueError(f"judge mplug needs modelscope, which {interpreter} does not have; {INSTALL}")
    content = MODEL
    if weights is not None:
        present = [p for p in files.visible(weights, "*") if p.is_file()]
        if not any(p.name == "configuration.json" for p in present):
            raise ValueError(f"{weights} has no configuration.json; give a folder downloaded by modelscope for {MODEL}")
        content = files.digest_json([[p.name, files.digest_file(p)] for p in present])
    program = Path(mplug_child.__file__)
    fingerprint = files.digest("mplug", content, files.digest_file(program))
    return ProcessAnswerer("mplug", [interpreter, str(program), weights or MODEL], fingerprint)
