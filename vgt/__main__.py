"""The front door: ``vgt <verb>``.  Looks the verb up by name and imports what it needs, nothing before.

stdout carries the result for people and ends with one JSON line for programs; stderr carries progress.
Bad input, a full disk and the like: one line on stderr, exit status 2 (docs/command_line.md has all of them).
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from vgt.core import env, weights

# verb -> (module, one line of help, example)
VERBS = {
    "reproduce": (
        "vgt.commands.reproduce",
        "run the main job: evaluate and time the bundled models, render the report",
        "vgt reproduce tiny",
    ),
    "train": ("vgt.commands.train", "train a preset", "vgt train query_ar_internvl --set train.steps=1000"),
    "generate": (
        "vgt.commands.generate",
        "generate an image from a prompt",
        'vgt generate "a photo of a red star" --accel 4 -o star.png',
    ),
    "reconstruct": (
        "vgt.commands.reconstruct",
        "send an image through an autoencoder",
        "vgt reconstruct my_photo.jpg -o out.png",
    ),
    "convert": (
        "vgt.commands.convert",
        "bring a released checkpoint into this project's format",
        "vgt convert iter_5000.pth converted --vlm InternVL3-2B --ae vgt_ae_internvl3.pth",
    ),
    "prompts": (
        "vgt.commands.prompts",
        "write a prompt suite as JSON lines",
        "vgt prompts scenes-geneval -o prompts.jsonl",
    ),
    "eval": ("evals.engine.registry", "score a subject", "vgt eval geneval --subject vgt:query_ar_internvl --accel 4"),
    "compare": (
        "evals.compare.compare",
        "compare two models or two runs, metric by metric, from their records",
        "vgt compare runs/tiny:query_ar_internvl@4x runs/tiny:query_ar_internvl@16x --metric overall dpg",
    ),
    "gate": (
        "evals.compare.gate",
        "hold a candidate's records against a baseline's; exit status 0 pass, 1 fail, 2 incomparable",
        "vgt gate --baseline runs/main --candidate runs/branch --junit gate.xml",
    ),
    "bench": (
        "bench.cli",
        "time generation and autoencoders",
        "vgt bench query_ar_internvl mar_internvl --accel 1,4,16",
    ),
    "report": ("reports.cli", "render the report from records", "vgt report --records runs/tiny/records"),
    "list": ("vgt.commands.list", "list presets, models, protocols or suites", "vgt list models"),
    "doctor": ("vgt.commands.doctor", "say what is installed, present and missing", "vgt doctor"),
}


OWN = ("vgt", "evals", "bench", "reports")
TRACEBACK = "VGT_TRACEBACK"  # set to anything: bad input ends in Python's traceback, for whoever looks for a bug


def _parser(verb: str):
    from vgt.commands import options

    module_name, text, example = VERBS[verb]
    module = importlib.import_module(module_name)
    parser = options.Parser(
        prog=f"vgt {verb}", description=f"{text[0].upper()}{text[1:]}.", epilog=f"example:\n  {example}"
    )
    module.arguments(parser)
    return module, parser


def dispatch(argv: list[str]) -> dict | None:
    """Run one verb in this process and return what its closing JSON line holds (None: it prints none); "exit" in it is
    the exit status, 0 where it is absent.

    Raises ValueError for bad input, OSError where the system refuses, SystemExit for usage errors."""
    verb, *rest = argv
    module, parser = _parser(verb)
    return module.run(parser.parse_args(rest))


def _usage() -> str:
    width = max(map(len, VERBS))
    lines = "\n".join(f"  {verb:<{width}}  {text}" for verb, (_, text, _) in VERBS.items())
    return (
        "usage: vgt <verb> [options]\n\nVisual Generation Tuning: train, evaluate, time and report.\n\n"
        f"verbs:\n{lines}\n\n`vgt <verb> --help` shows options and an example; start with `vgt reproduce tiny`."
    )


# ---------------------------------------------------------------------------------------------- what the system refuses


class _Stream:
    """stdout or stderr that never raises: what it stands for may be closed, full, or read by nobody any more, and
    none of that may end a run that is under way.  ``problem``: why text was lost; a reader that has gone is none."""

    def __init__(self, stream: TextIO | None):
        self._stream, self._open, self.problem = stream, stream is not None, ""
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # a name may hold what the terminal cannot show

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if self._open:
            self._try(lambda: self._stream.write(text))
        elif self._stream is None:
            self.problem = "it is closed"
        return len(text)

    def writelines(self, lines) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self._open:
            self._try(self._stream.flush)

    def isatty(self) -> bool:
        return self._open and self._stream.isatty()

    def _try(self, action) -> None:
        try:
            action()
        except (OSError, ValueError) as error:  # ValueError: closed by somebody in this process
            self._open = False
            if not isinstance(error, BrokenPipeError):
                self.problem = getattr(error, "strerror", None) or str(error)
            with contextlib.suppress(OSError, ValueError):  # what is still buffered goes nowhere
                sink = os.open(os.devnull, os.O_WRONLY)
                os.dup2(sink, self._stream.fileno())
                os.close(sink)


@contextlib.contextmanager
def _streams() -> Iterator[_Stream]:
    """stdout and stderr as streams that never raise; yields that of stdout."""
    for descriptor in range(3):  # a file that takes the number of a closed stream would receive what is printed
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    out, err = _Stream(sys.stdout), _Stream(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            yield out
        finally:
            out.flush()
            err.flush()


_REMEDIES = {
    errno.ENOSPC: "free some space or choose another folder",
    errno.EDQUOT: "free some space or choose another folder",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another place",
    errno.EEXIST: "a file stands where a folder is needed; choose another place",
    errno.EISDIR: "a folder stands where a file is needed; choose another name",
    errno.EACCES: "choose a place that you may read and write",
    errno.EPERM: "choose a place that you may read and write",
    errno.EROFS: "choose a place that can be written",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "check the name",
    errno.EMFILE: "raise the limit on open files (`ulimit -n`)",
}
# Of libraries that are not imported here: their words for a file that is none, or torn.
_BROKEN_FILE = {"UnpicklingError", "BadZipFile", "ReadError", "SafetensorError"}


def _fault(error: Exception) -> str | None:
    """What to say of an error that lies in the input or in the machine, None for one that lies in this program."""
    kind, said = type(error).__name__, "; ".join(filter(None, map(str.strip, str(error).splitlines())))
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError" or "can't allocate memory" in said:
        return f"memory is full ({said or kind}); take smaller images or batches"
    if isinstance(error, RecursionError):
        return f"the input is nested too deeply ({said}); no file that is read here needs that"
    if isinstance(error, OSError) and error.errno is not None:
        names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
        remedy = _REMEDIES.get(error.errno)
        return ": ".join([*names[-1:], error.strerror or kind]) + (f"; {remedy}" if remedy else "")
    if isinstance(error, ImportError) and error.name and error.name.split(".")[0] not in OWN:
        return f"{said}; install {error.name.split('.')[0]}, or see `vgt doctor`"
    if isinstance(error, ValueError | OSError | EOFError) or kind in _BROKEN_FILE:
        return said or kind
    return None


# ------------------------------------------------------------------------------------------------------------- the door


def main(argv: list[str] | None = None) -> int:
    """The ``vgt`` command; returns the exit status.  Raises SystemExit for usage errors and ``--help``."""
    argv = sys.argv[1:] if argv is None else argv
    os.environ.setdefault("TQDM_MININTERVAL", "1")
    env.keep_freed_memory()
    weights.new_run()
    stop: SystemExit | None = None
    with _streams() as out:
        if not sys.stderr.isatty():  # of libraries; ours look themselves
            os.environ.setdefault("TQDM_DISABLE", "1")
        try:
            status = _run(argv)
        except SystemExit as error:
            stop, status = error, error.code
        out.flush()
        if out.problem and not status:
            status = 2
            verb = f"vgt {argv[0]}" if argv else "vgt"
            print(f"{verb}: stdout cannot be written ({out.problem}); files that were made are there", file=sys.stderr)
    if stop is not None:
        raise SystemExit(status)
    return status


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if argv[0] == "--version":
        print(f"vgt {env.versions().get('vgt', 'source tree')}")
        return 0
    if argv[0] not in VERBS:
        print(f"vgt: verb {argv[0]!r} is unknown; choose one of {', '.join(VERBS)}", file=sys.stderr)
        return 2
    try:
        result = dispatch(argv)
    except KeyboardInterrupt:
        print(f"vgt {argv[0]}: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except Exception as error:
        message = None if TRACEBACK in os.environ else _fault(error)
        if message is None:
            raise
        print(f"vgt {argv[0]}: {message}", file=sys.stderr)
        return 2
    if result is None:
        return 0
    print(json.dumps(result))
    return result.get("exit", 0)


if __name__ == "__main__":
    sys.exit(main())
