"""The images of a suite on disk, in GenEval's layout (docs/evaluators.md 2.2), for all that judge or compare them.

A suite is a list of records with a ``prompt`` each, or a class ``label`` for a generator that is asked with those.

``<root>/<00000>/metadata.jsonl`` holds a record, ``<root>/<00000>/samples/<0000>.png`` its images, and
``<root>/subject.json`` says who made them; the folder's name carries the hash of that, so other weights or another
batch size never meet what is there.  ``<root>/images.hashes`` holds the hash of each file: one that was replaced since
is made again.

The images are one endless stream, sample 0 of all prompts, then sample 1 ..., cut into full batches of one fixed
size.  What stands in a batch follows from the prompts and its number alone, neither from what is on disk, nor from how
many processes share the work, so a killed run ends with the same bytes as one from nothing, even where the neighbours
in a batch move an image's last bits.  The last batch of a subject that sets ``full_batches`` (ours do) is filled with
the images that would come next, which are thrown away: then a run that asks for more samples later ends with those
bytes too.  Other subjects are asked for what is left.  A subject that sets ``batch_matters``, because its neighbours
decide the whole image, keeps the batches that its published numbers came from: none holds two samples of a prompt, the
last one of each sample repeats its last image.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from evals.engine.api import LABELS, PROMPTS, Answerer, Detector, Generator, conditions, origin
from evals.engine.store import WHOLE, Rows, Shard, exclusive, read_rows
from evals.subjects.folder import Folder
from vgt.core import env, files, record, suites
from vgt.core.images import is_whole
from vgt.core.seeds import image_seed
from vgt.core.text import printable, read_json

IMAGES_PER_PROMPT = 4  # what GenEval and DPG ask for
CLASS_IMAGES = 50_000  # what a class-conditional generator is compared by: ImageNet's FID-50K
# Labels of these images: equally many of each class (docs/evaluators.md 6), or each drawn from all classes alike, as
# ADM's and LlamaGen's sampling scripts do.
BALANCED, UNIFORM = "balanced", "uniform"
SUBJECT, MADE = "subject.json", "images.hashes"  # beside images: who makes them, and the hash of each
WRITERS = 8  # threads that compress and write images, where there are so many cores
COMPRESSION = 1  # of PNG's 0 .. 9: a quarter of the usual one's time, a sixth more bytes, the same pixels


@dataclass(frozen=True)
class Images:
    """Where the images of a suite lie: (prompt index, sample) -> file, those that exist; ``extra``: image files in a
    folder, relative to it, that the suite does not ask for."""

    root: Path
    paths: dict[tuple[int, int], Path]
    extra: tuple[str, ...] = ()

    def name(self, index: int, sample: int) -> str:
        """A file's place below the root; for a missing one the place where it should be."""
        path = self.paths.get((index, sample))
        return printable(path.relative_to(self.root).as_posix()) if path else place(index, sample)


@dataclass(frozen=True)
class Run:
    """Whose images of which prompts (or labels): everything that decides their pixels."""

    subject: Generator | Folder
    name: str
    accel: int | None
    suite: str
    prompts: list[dict]
    images_per_prompt: int
    seed: int
    batch: int

    @property
    def model(self) -> str:
        return self.name + (f"@{self.accel}x" if self.accel is not None else "")

    @property
    def suite_hash(self) -> str:
        return files.digest(suites.lines(self.prompts))

    @property
    def identity(self) -> dict:
        """What the pixels of one image depend on, JSON-able."""
        return {
            "model": self.model,
            "fingerprint": self.subject.fingerprint,
            "suite": self.suite,
            "suite_hash": self.suite_hash,
            "seed": self.seed,
            "batch": self.batch,
        }

    def folder(self, work: str | Path, evaluator: str) -> Path:
        """``<work>/<evaluator>/<model>/<suite>-<hash>-s<seed>``: the hash of all that decides the pixels, for a folder
        of images made elsewhere only of the prompts (what is judged there carries stamps of its own)."""
        content = self.suite_hash if isinstance(self.subject, Folder) else files.digest_json(self.identity)
        return files.inside(work, evaluator, record.folder_name(self.model), f"{self.suite}-{content[:8]}-s{self.seed}")


def record_fields(run: Run, judge: Detector | Answerer, protocol: str, params: dict, evidence: Path) -> dict:
    """Fields that all records of a run share; ``evidence``: the per-sample file, relative to the work folder.  A
    subject's sampling settings stand in ``extra``, and the name of its autoencoder, where it tells them."""
    told = {name: getattr(run.subject, name, None) for name in ("settings", "autoencoder")}
    extra = {name: of if isinstance(of, str) else dict(of) for name, of in told.items() if of is not None}
    judged = getattr(judge, "params", {})  # of a network: its precision
    return {
        "subject": run.name,
        "accel": run.accel,
        "suite": run.suite,
        "protocol": protocol,
        "protocol_params": {**params, **judged, "images_per_prompt": run.images_per_prompt, "batch": run.batch},
        "judge": f"{judge.name} {judge.fingerprint[:12]}",
        "seed": run.seed,
        "fingerprint": run.subject.fingerprint,
        "origin": origin(run.subject),
        "suite_hash": run.suite_hash,
        "evidence": evidence.as_posix(),
        "extra": {**extra, **getattr(run.subject, "extra", {})},
    }


def check(run: Run) -> None:
    """Raises ValueError for an empty suite, one that the generator cannot be asked with (prompts or labels), prompts
    of one id, and counts below one."""
    if not run.prompts:
        raise ValueError(f"suite {run.suite!r} has no prompts")
    given = LABELS if all("label" in record for record in run.prompts) else PROMPTS
    if conditions(run.subject) != given:
        remedy = "compare its images with `vgt eval fidelity`" if given == PROMPTS else "give a class-conditional one"
        raise ValueError(
            f"generator {run.model!r} is asked with {conditions(run.subject)}, suite {run.suite!r} holds {given}; "
            f"{remedy}"
        )
    ids = [prompt_id(run.prompts, index) for index in range(len(run.prompts))]
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise ValueError(f"suite {run.suite!r} has two prompts with the id {twice!r}; ids must differ")
    if run.images_per_prompt < 1 or run.batch < 1:
        raise ValueError(f"{run.images_per_prompt} images a prompt in batches of {run.batch}; both must be 1 or more")


def prompt_id(prompts: list[dict], index: int) -> str:
    """A prompt's id; in suites without ids (GenEval's own) its place."""
    return str(prompts[index].get("id", f"{index:05d}"))


def of_classes(generator: Generator, n: int, seed: int, batch: int, labels: str = BALANCED) -> Run:
    """``n`` images of a class-conditional generator: BALANCED labels, or UNIFORM ones, drawn with the run's ``seed`` so
    that fewer images have the first of the same labels.  Raises ValueError for a generator that is asked with prompts,
    and for a number that balanced classes cannot share."""
    if conditions(generator) != LABELS:
        raise ValueError(
            f"generator {generator.name!r} is asked with prompts: make its images with `vgt eval geneval`, then give "
            f"--subject images:{generator.name}"
        )
    classes = generator.classes
    if labels == UNIFORM:
        drawn = (image_seed(seed, UNIFORM, i) % classes for i in range(n))
        suite = [{"id": f"{UNIFORM}-{i:06d}", "label": label} for i, label in enumerate(drawn)]
        return Run(generator, generator.name, None, f"classes-{classes}-{UNIFORM}", suite, 1, seed, batch)
    if n % classes:
        near = max(1, round(n / classes)) * classes
        raise ValueError(
            f"{n} images do not divide among {classes} classes; give a multiple, for example -n {near}, or "
            f"--labels {UNIFORM}"
        )
    suite = [{"id": f"class-{label:04d}", "label": label} for label in range(classes)]
    return Run(generator, generator.name, None, f"classes-{classes}", suite, n // classes, seed, batch)


def labels_of(suite: str, seed: int | None) -> str:
    """How the labels of a suite of ``of_classes`` came about, as records tell it."""
    return f"{UNIFORM}, seed {seed}" if suite.endswith(f"-{UNIFORM}") else BALANCED


def full_suite(suite: str) -> list[dict] | None:
    """The prompts that a suite of the synthetic scenes has by default; None for other suites."""
    return suites.prompts(suite) if suite in suites.SUITES else None


def place(index: int, sample: int) -> str:
    return f"{index:05d}/samples/{sample:04d}.png"


def _prepare(run: Run, root: Path) -> None:
    """Write who makes the images and of which prompts."""
    settings = getattr(run.subject, "settings", None)
    told = {**run.identity, "origin": origin(run.subject), "settings": None if settings is None else dict(settings)}
    if not (root / SUBJECT).exists() or "settings" not in read_json(root / SUBJECT):  # an earlier version told less
        files.write_json(root / SUBJECT, told)
    for index, prompt in enumerate(run.prompts):
        metadata = root / f"{index:05d}" / "metadata.jsonl"
        if not metadata.exists():
            files.write_text(metadata, json.dumps(prompt) + "\n")


def _batches(run: Run) -> list[list[tuple[int, int]]]:
    """(prompt index, sample) in batches of ``run.batch``, with those that only fill the last one where the subject
    wants full batches."""
    n, size = len(run.prompts), run.batch
    if getattr(run.subject, "batch_matters", False):
        places = [[min(start + k, n - 1) for k in range(size)] for start in range(0, n, size)]
        return [[(index, sample) for index in batch] for sample in range(run.images_per_prompt) for batch in places]
    count = n * run.images_per_prompt
    end = count + -count % size if getattr(run.subject, "full_batches", False) else count
    return [[(k % n, k // n) for k in range(start, min(start + size, end))] for start in range(0, count, size)]


def _generate(run: Run, jobs: list[tuple[int, int]]) -> np.ndarray:
    """uint8 [len(jobs), H, W, 3]; jobs are a batch.  Raises ValueError, naming the remedy, where memory runs out,
    and for what is no image."""
    asked = [run.prompts[index]["label" if conditions(run.subject) == LABELS else "prompt"] for index, _ in jobs]
    seeds = [image_seed(run.seed, prompt_id(run.prompts, index), sample) for index, sample in jobs]
    try:
        images = np.asarray(run.subject.generate(asked, seeds))
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        smaller = f"give --batch {run.batch // 2} (images of its own)" if run.batch > 1 else "give another --device"
        raise ValueError(
            f"generator {run.model!r} ran out of memory on a batch of {run.batch}; {smaller}, or free some and run "
            "the same command again: what is made so far is kept"
        ) from error
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(jobs) or images.shape[3] != 3:
        raise ValueError(
            f"generator {run.model!r} gave {images.dtype} {images.shape} for {len(jobs)} {conditions(run.subject)}; "
            f"it must give uint8 [{len(jobs)}, H, W, 3]"
        )
    return images


def _out_of_memory(error: Exception) -> bool:
    """Whether numpy, torch's allocators or CUDA's libraries had no room; torch has several classes for that."""
    words = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def images(run: Run, root: Path, shard: Shard = WHOLE) -> Images:
    """The images of a run, or of one part of it: a Folder's own, or those that a generator makes in ``root`` where they
    are missing.  Parts are dealt out in whole batches.

    Raises ValueError where another process is at work on the same images, and as ``Folder.samples`` does."""
    batches = shard.take(_batches(run))
    jobs = [job for batch in batches for job in batch if job[1] < run.images_per_prompt]
    if isinstance(run.subject, Folder):
        found, extra = run.subject.samples(run.prompts, run.images_per_prompt)
        return Images(run.subject.root, {job: found[job] for job in jobs if job in found}, extra)
    paths = {job: root / place(*job) for job in jobs}
    with exclusive(root, shard):
        _prepare(run, root)
        contents = _contents(root, paths, shard)
        missing = _missing(contents, paths)
        _make(run, paths, [batch for batch in batches if missing.intersection(batch)], missing, contents)
        contents.finish()
    return Images(root, paths)


def _contents(root: Path, paths: dict[tuple[int, int], Path], shard: Shard) -> Rows:
    """The hashes of the images that were made in ``root``, those of ``paths`` and, for a whole run, all others."""
    others = [row["id"] for row in read_rows(root / MADE)] if shard.whole else []
    return Rows(root / MADE, sorted({*others, *(place(*job) for job in paths)}), shard)


def _missing(contents: Rows, paths: dict[tuple[int, int], Path]) -> set[tuple[int, int]]:
    """The images that are absent, torn, or not those that were made; stderr says how many of the last kind."""
    missing, others, known = set(), [], {}
    for job, path in paths.items():
        name = place(*job)
        content = files.digest_file(path) if is_whole(path) else None
        if content is not None and contents.kept.get(name, {"content": content})["content"] == content:
            known[name] = {"content": content}  # without a row: written just before a kill
            continue
        others += [] if content is None else [path]
        contents.kept.pop(name, None)
        missing.add(job)
    contents.add(known)
    if others:
        print(f"note: {_replaced(others)}; they are made again", file=sys.stderr)
    return missing


def _replaced(found: list[Path]) -> str:
    return f"{len(found)} images are not those that were made, the first {found[0]}"


def replaced(root: Path) -> list[Path]:
    """The images in ``root`` whose files are not those that were made there."""
    rows = {root / row["id"]: row["content"] for row in read_rows(root / MADE)}
    return [path for path, content in rows.items() if path.is_file() and files.digest_file(path) != content]


def _make(
    run: Run,
    paths: dict[tuple[int, int], Path],
    batches: list[list[tuple[int, int]]],
    missing: set[tuple[int, int]],
    contents: Rows,
) -> None:
    """Make ``batches`` whole and write those of their images that are ``missing``, and the hashes of their files.

    A batch is written while the next one is made: a kill costs at most one finished batch, Ctrl-C and errors none.
    With the usual compression a PNG takes longer to write than a fast GPU takes to make it, hence ``COMPRESSION``."""
    title = f"{run.model}: {run.suite} generated"
    with (
        ThreadPoolExecutor(min(WRITERS, env.cores())) as writers,
        tqdm(total=len(missing), desc=title, unit="image", mininterval=0.5, disable=not batches or None) as bar,
    ):
        writing: dict[str, Future] = {}
        for batch in batches:
            made = dict(zip(batch, _generate(run, batch), strict=True))
            _finish(writing, contents, bar)
            writing = {
                place(*job): writers.submit(_write, paths[job], image) for job, image in made.items() if job in missing
            }
        _finish(writing, contents, bar)


def _write(path: Path, image: np.ndarray) -> str:
    """Write an image; the hash of its file."""
    with files.atomic(path) as part:
        Image.fromarray(image).save(part, compress_level=COMPRESSION)
    return files.digest_file(path)


def _finish(writing: dict[str, Future], contents: Rows, bar: tqdm) -> None:
    """Wait until all is written; raises what a writer raised."""
    done = {}
    for name, each in writing.items():
        done[name] = {"content": each.result()}
        bar.update()
    contents.add(done)
