"""Where a number came from: commit, package versions, device."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
import sys
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from vgt.core.text import printable

CPUINFO = Path("/proc/cpuinfo")
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # of x86 processors; the last one of ARM's

PACKAGES = (
    "vgt",
    "numpy",
    "pillow",
    "torch",
    "torchvision",
    "transformers",
    "diffusers",
    "scikit-image",
    "scikit-learn",
    "scipy",
    "torch-fidelity",
    "lpips",
)


@lru_cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide numbers; absent packages are left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@lru_cache
def commit() -> tuple[str | None, bool | None]:
    """(commit hash, dirty) of the source tree that the code runs from; (None, None) for an installed wheel."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None, None

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *args], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


@lru_cache
def processor() -> str:
    """The CPU's name and the number of its cores that this process may use."""
    name = platform.processor() or platform.machine()
    try:
        for line in CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{name}, {cores()} core{'s' if cores() != 1 else ''}"


def cpu_multiplies_bf16() -> bool:
    """Whether the CPU has instructions for bf16 matrix products (AVX512-BF16, AMX, ARM's BF16).  False where the system
    does not say, as only Linux does."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return False
    found = (line.partition(":") for line in lines)
    flags = next((words for name, _, words in found if name.strip() in ("flags", "Features")), "")
    return not BF16_FLAGS.isdisjoint(flags.split())


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def command() -> str:
    """The command line, absolute paths cut to their last part."""
    words = (re.sub(r"(^|[=:,])/\S*/", r"\1", word) for word in sys.argv[1:])
    return printable(" ".join([Path(sys.argv[0]).name.replace("__main__.py", "vgt"), *words]))


KEPT = 2**30  # bytes of freed memory, at most
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of <malloc.h>


def keep_freed_memory() -> bool:
    """Let glibc keep up to KEPT bytes of freed memory for the next array instead of handing every large one back to
    the system, whose fresh pages cost up to a third of a small network's time on a CPU.  Returns whether it does;
    False for other C libraries and where the user has set MALLOC_* variables."""
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, KEPT) and mallopt(_MMAP_MAX, 0))
