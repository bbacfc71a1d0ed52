"""``vgt report evidence``: the samples behind a score, each with its images and what the judge found, one model alone
or two side by side on the same prompt and seed.

A sample is what the record's value is the mean of (vgt/core/samples.py); its value comes from there, and what is shown
with it from the evaluator's own evidence: GenEval's detections, DPG-Bench's answers, answers about scenes, pairs of a
reconstruction.  Both are shown only while they are what was measured (``Record.hashes``).  A page is static and whole:
one file of HTML with its data, images beside it, no requests.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np
from PIL import Image

from reports.figures.images import inside, strip
from reports.measured import label
from reports.tradeoff import Axis
from vgt.core import files, images, photos, record, samples, scenes, sides, text
from vgt.core.record import Record
from vgt.core.sides import Pair, Side, Stored
from vgt.core.text import Fields

TEMPLATES = Path(__file__).parent / "templates"
HEADLINES = ("overall", "images-correct", "dpg", "accuracy", "psnr-mean")  # the score of a suite that holds its samples
MEGABYTES = 200  # of images that a run writes
SAMPLES = 20_000  # that a page holds
SHOWN_AS_THEY_ARE = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")  # what browsers read
Item = dict[str, Any]  # JSON-able: what is the same on both sides of a sample, or what one side has


@dataclass
class Pictures:
    """The image files of a report, each once, named by content; ``left_out``: how many did not fit ``limit`` bytes."""

    folder: Path
    limit: int
    names: dict[str, bool] = field(default_factory=dict)  # name -> whether it fitted
    size: int = 0

    @property
    def left_out(self) -> int:
        return sum(not fitted for fitted in self.names.values())

    def add(self, content: bytes, suffix: str = ".png") -> str | None:
        """The file's place relative to the page; None where it does not fit any more."""
        name = hashlib.sha256(content).hexdigest()[:24] + suffix
        if name not in self.names:
            self.names[name] = self.size + len(content) <= self.limit
            if self.names[name]:
                self.size += len(content)
                if not (self.folder / name).is_file():
                    with files.atomic(self.folder / name) as part:
                        part.write_bytes(content)
        return f"{self.folder.name}/{name}" if self.names[name] else None

    def pixels(self, image: np.ndarray, **about: Any) -> Item:
        """An image uint8 [H, W, 3] as the page shows it."""
        out = io.BytesIO()
        Image.fromarray(image).save(out, "PNG")
        return self._shown(self.add(out.getvalue()), image.shape[1], image.shape[0], **about)

    def file(self, path: Path, content: str | None, **about: Any) -> Item:
        """An image file; ``content``: the hash of the one that was scored.  What is not there is told.

        Raises ValueError for another image than that."""
        if not path.is_file():
            return {"lost": "the image file is not there", **about}
        data = path.read_bytes()
        if content is not None and hashlib.sha256(data).hexdigest() != content:
            raise ValueError(f"{path} is not the image that was scored; evaluate again")
        try:
            width, height = images.image_size(path)
            suffix = path.suffix.lower()
            if suffix not in SHOWN_AS_THEY_ARE:
                return self.pixels(images.read_image(path), **about)
        except images.ImageError as error:
            return {"lost": str(error), **about}
        return self._shown(self.add(data, suffix), width, height, **about)

    def _shown(self, place: str | None, width: int, height: int, **about: Any) -> Item:
        told = {"src": place} if place else {"lost": f"left out: the images of this report reach {self.limit >> 20} MB"}
        return {**told, "width": width, "height": height, **about}


@dataclass(frozen=True)
class Samples:
    """The samples of one record.  ``kind`` decides what a page shows of them; ``about``: sample -> what is the same for
    every model (prompt, what was expected, questions); ``found``: sample -> what this model has; ``notes``: what a
    reader must know."""

    stored: Stored
    kind: str
    about: dict[str, Item]
    found: dict[str, Item]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Source:
    """A record with its values by sample, and the folder that its evidence lies in; ``pictures`` takes images."""

    stored: Stored
    values: samples.Samples
    work: Path
    pictures: Pictures

    @property
    def record(self) -> Record:
        return self.stored.record

    @functools.cached_property
    def path(self) -> Path:
        path = inside(self.work, self.record.evidence)
        assert path is not None, "looked at before"
        return path

    @functools.cached_property
    def value(self) -> dict[str, float]:
        return dict(zip(self.values.ids, self.values.values, strict=True))

    def rows(self) -> dict[str, Fields]:
        """The rows of the evidence by id, in their order."""
        return {row.text("id"): row for row in text.objects(self.path)}

    @functools.cached_property
    def told(self) -> Fields:
        """Whose images of which prompts were judged (beside the rows of GenEval and DPG-Bench)."""
        beside = self.path.with_suffix(".run.json")
        _check(self.record, "judging", beside)
        return Fields.of(text.read_json(beside), str(beside))

    def prompt_id(self, index: int) -> str:
        return str(self.told["prompts"][index].get("id", f"{index:05d}"))

    def asked(self) -> dict[tuple[int, int], str | None]:
        """(prompt, sample) -> the name of its image, None for one that was not there, in the suite's order."""
        there = {tuple(job): name for name, job in self.told.object("images").items()}
        every = ((i, s) for i in range(len(self.told["prompts"])) for s in range(self.told["images_per_prompt"]))
        return {job: there.get(job) for job in every}

    @functools.cached_property
    def folder(self) -> Path:
        """Where the images lie: beside the rows, or one above those of a judge of its own."""
        for folder in (self.path.parent, self.path.parent.parent):
            if (folder / "images.hashes").is_file():
                return folder
        return self.path.parent

    @functools.cached_property
    def made(self) -> dict[str, str]:
        """The hash of each image as it was made, where that is told."""
        return {row["id"]: row["content"] for row in text.log_rows(self.folder / "images.hashes")}

    def image(self, name: str | None, content: str | None = None, **about: Any) -> Item:
        if name is None:
            return {"lost": "this image is missing", **about}
        if not self.made and not (self.folder / name).is_file():
            return {"lost": "judged in a folder elsewhere, and not kept here", **about}
        return self.pictures.file(self.folder / name, content or self.made.get(name), **about)


# --------------------------------------------------------------------------------- what each evaluator's evidence holds


def _clause(clause: Mapping[str, Any], include: Sequence[Mapping[str, Any]]) -> str:
    """ "2 or more: red star, left of the circle"."""
    number = clause.get("count", 1)
    words = " ".join(filter(None, (clause.get("color"), clause["class"])))
    words = f"{number} x {words}" if number > 1 else words
    if "position" in clause:
        relation, other = clause["position"]
        words += f", {relation} the {include[other]['class']}"
    return words


def _covered(metric: str, prompt: Mapping[str, Any]) -> bool:
    if metric in scenes.TASKS:
        return prompt["tag"] == metric
    return bool(prompt.get("held_out")) if metric == "held_out" else True


def _geneval(source: _Source) -> Samples:
    """Detections over the image; what was expected and why it is wrong, as the official results file says."""
    told, rows, metric = source.told, source.rows(), source.record.metric
    variant = source.record.suite.removeprefix(told.text("suite"))  # "+threshold0.5" of other rules
    lines = _results(source.path.with_name(f"results{variant}.jsonl"))
    about: dict[str, Item] = {}
    found: dict[str, Item] = {}
    for (index, sample), name in source.asked().items():
        prompt = told["prompts"][index]
        if not _covered(metric, prompt):
            continue
        whole = metric == "prompts-any"
        key = source.prompt_id(index) if whole else f"{source.prompt_id(index)}/{sample:04d}"
        include = prompt["include"]
        more = [f"fewer than {c['count']} {c['class']}" for c in prompt.get("exclude", ())]
        expected = [_clause(clause, include) for clause in include] + more
        groups = [prompt["tag"], *(["held_out"] if prompt.get("held_out") else [])]
        about[key] = {"text": prompt["prompt"], "groups": groups, "expected": expected}
        entry = found.setdefault(key, {"value": source.value.get(key), "images": []})
        entry["images"].append(_judged(source, name, rows.get(name or ""), lines.get(name or "")))
        right = entry["images"][-1].get("right")
        if not whole and right is not None and entry["value"] is not None and right != (entry["value"] > 0):
            raise ValueError(f"{source.path.parent}: the results of {name} are not those of {source.record.name}")
    return Samples(source.stored, "geneval", about, found)


def _results(path: Path) -> dict[str, Fields]:
    return {row.text("filename"): row for row in text.objects(path)} if path.is_file() else {}


def _judged(source: _Source, name: str | None, row: Fields | None, line: Fields | None) -> Item:
    """One image with its detections; those that no rule counts are marked."""
    if row is None:
        return source.image(name)
    if "error" in row:
        return source.image(name, why=row["error"])
    details = line.object("details") if line is not None else {}
    boxes = []
    for each in row.need("detections"):
        at = [round(v, 2) for v in each["box"]]
        counts = [*each["box"], each["score"]] in details.get(each["class"], ())
        words = " ".join(filter(None, (each.get("color"), each["class"])))
        boxes.append({"box": at, "words": words, "score": round(each["score"], 3), "counts": counts or line is None})
    judged = {"boxes": sorted(boxes, key=lambda box: (not box["counts"], -box["score"]))}
    if line is not None:
        judged |= {"right": line.flag("correct"), "why": line["reason"] or ""}
    return source.image(name, row.get("image"), **judged)


def _dpg(source: _Source) -> Samples:
    """The questions with the judge's answers: of a prompt for the score, one question of an image for a category."""
    told, rows = source.told, source.rows()
    tiles = source.record.protocol_params.get("tiles")
    about: dict[str, Item] = {}
    found: dict[str, Item] = {}
    for (index, sample), name in source.asked().items():
        if tiles is not None and sample >= tiles:
            continue
        prompt, item, row = told["prompts"][index], source.prompt_id(index), rows.get(name or "")
        answers = row.object("answers") if row is not None and "error" not in row else {}
        why = {"why": row["error"]} if row is not None and "error" in row else {}
        shown = None
        if source.record.metric.startswith("dpg"):
            entry = found.setdefault(item, {"value": source.value.get(item), "images": [], "answers": []})
            about[item] = {"text": prompt["prompt"], "questions": [_question(q) for q in prompt["questions"]]}
            entry["images"].append(source.image(name, **why))
            entry["answers"].append({str(q["proposition_id"]): _answer(q, answers) for q in prompt["questions"]})
            continue
        for question in prompt["questions"]:
            key = f"{item}:{sample}:{question['proposition_id']}"
            if key in source.value:
                shown = shown or source.image(name, **why)
                about[key] = {"text": prompt["prompt"], "questions": [_question(question)]}
                about[key]["groups"] = [about[key]["questions"][0]["category"]]
                said = {str(question["proposition_id"]): _answer(question, answers)}
                found[key] = {"value": source.value[key], "images": [shown], "answers": [said]}
    return Samples(source.stored, "dpg", about, found)


def _question(question: Mapping[str, Any]) -> Item:
    category = " ".join(question["tuple"].partition("(")[0].split()).rstrip(" -")
    after = [parent for parent in question["dependency"] if parent != 0]
    return {"number": question["proposition_id"], "category": category, "text": question["question"], "after": after}


def _answer(question: Mapping[str, Any], answers: Mapping[str, Any]) -> str | None:
    return answers.get(str(question["proposition_id"]))


def _vqa(source: _Source) -> Samples:
    """A question about a scene: what was expected and what was answered.  The scene is rendered again."""
    size = source.record.protocol_params.get("size", 64)
    about: dict[str, Item] = {}
    found: dict[str, Item] = {}
    for scene, row in source.rows().items():
        shown = source.pictures.pixels(scenes.item("test", int(scene), size).image)
        for number, each in enumerate(row.get("asked", ())):
            key = f"{scene}:{number}"
            kind = " ".join(each["question"].split()[:2])
            about[key] = {"text": each["question"], "groups": [kind], "expected": [each["expected"]], "images": [shown]}
            found[key] = {"value": source.value.get(key), "answer": each["answer"]}
        if "error" in row:
            about[scene] = {"text": f"scene {scene}", "images": [shown]}
            found[scene] = {"value": None, "why": row["error"]}
    return Samples(source.stored, "vqa", about, found)


def _recon(source: _Source) -> Samples:
    """Original and reconstruction, where the picture of the first pairs holds them; a scene or a crop that it does not
    hold is rendered again."""
    pixels = {row["id"]: row.get("pixels") for row in text.log_rows(source.path.parent / "images.jsonl")}
    pairs = _pairs(source.path.parent)
    rendered = _rendered(source.record)
    about: dict[str, Item] = {}
    found: dict[str, Item] = {}
    clusters = dict(zip(source.values.ids, source.values.clusters, strict=True))
    kept = 0
    for key, row in source.rows().items():
        cluster = clusters.get(key, key)
        original, rebuilt = pairs.get(pixels.get(key) or "", (None, None))
        kept += rebuilt is not None
        if original is None and (again := rendered(key)) is not None and _hash(again) == pixels.get(key):
            original = again
        first, second = (
            {"lost": "not kept: a run stores its first pairs", "words": words}
            if image is None
            else source.pictures.pixels(image, words=words)
            for image, words in ((original, "original"), (rebuilt, "reconstruction"))
        )
        about[key] = {"text": key, "groups": [] if cluster == key else [cluster], "images": [first]}
        why = {"why": row["error"]} if "error" in row else {}
        found[key] = {"value": source.value.get(key), "images": [second], **why}
    lacking = f"{source.record.model}: {kept} of {len(found)} reconstructions are stored as images"
    return Samples(source.stored, "recon", about, found, () if kept == len(found) else (lacking,))


def _hash(image: np.ndarray) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def _pairs(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Hash of the original -> original and reconstruction, of those that a run keeps as a picture.

    Raises ValueError for a picture that is not the one that was made."""
    picture, told = folder / "pairs.png", folder / "pairs.png.hash"
    both = strip(picture)
    if both is None:
        return {}
    if told.is_file() and told.read_text(encoding="utf-8").strip() != files.digest_file(picture):
        raise ValueError(f"{picture} was changed since it was written; evaluate again")
    return {_hash(np.ascontiguousarray(a)): (a, b) for a, b in zip(*both, strict=True)}


def _rendered(one: Record) -> Callable[[str], np.ndarray | None]:
    """Sample -> the image that it names, for the built-in sets; None for others."""
    params = one.protocol_params

    def image(key: str) -> np.ndarray | None:
        split, _, number = key.rpartition("-")
        if split != params.get("split") or not number.isdecimal() or "size" not in params:
            return None
        if params.get("world") == scenes.WORLD:
            return scenes.item(split, int(number), params["size"]).image
        return photos.crop(split, int(number), params["size"]).image if params.get("crops") == photos.PHOTOS else None

    return image


def _values(source: _Source) -> Samples:
    """The values alone, of evidence that has no images."""
    groups = source.values.groups or [""] * len(source.values.ids)
    rows = zip(source.values.ids, source.values.clusters, groups, strict=True)
    about = {key: {"text": cluster, "groups": [group] if group else []} for key, cluster, group in rows}
    return Samples(source.stored, "values", about, {key: {"value": source.value[key]} for key in about})


READERS = {"geneval": _geneval, "dpg": _dpg, "vqa": _vqa, "recon": _recon}  # by the first folder of ``Record.evidence``


def read(stored: Stored, pictures: Pictures, work: Path | None = None) -> Samples:
    """The samples of one record; ``work``: the folder that evidence lies in, where it is not that of the record.

    Evidence that is gone is told in a note, and the values are shown alone.  Raises ValueError where there are no
    samples, or where samples, evidence or an image are not what was measured."""
    one = stored.record
    beside = stored.samples
    kept = samples.read_file(beside) if beside is not None else None
    if kept is None:
        why = one.note or (
            "a collection holds records alone" if beside is None else "its value is no mean over samples"
        )
        raise ValueError(f"{one.name} has no stored per-sample results ({why}); name the work folder of an evaluation")
    _check(one, "samples", beside)
    source = _Source(stored, kept, work or sides.work(stored), pictures)
    reader = READERS.get((one.evidence or "").partition("/")[0])
    if reader is None:
        return _values(source)
    place = inside(source.work, one.evidence)
    if place is None or not place.is_file():
        found = _values(source)
        gone = f"{one.model}: the evidence is gone or lies elsewhere, so that only values are shown"
        return Samples(stored, "values", found.about, found.found, (gone,))
    _check(one, "evidence", place)
    return reader(source)


def _check(one: Record, what: str, path: Path) -> None:
    """Raises ValueError where a file is not the one that a record was made with."""
    told = one.hashes.get(what)
    if told is not None and (not path.is_file() or files.digest_file(path) != told):
        raise ValueError(f"{path} was changed since {one.name} was measured; evaluate again")


# ------------------------------------------------------------------------------------------------------------ the page


def _better(one: Record) -> str | None:
    """Whether high or low is better, None where that is not known."""
    return Axis(one.suite, one.metric).better or ("high" if one.unit in ("share", "of 100") else None)


def _side(one: Record) -> Item:
    settings = one.extra.get("settings") or {}
    return {
        "model": one.model,
        "label": label(one.subject) + (f", {one.accel}x" if one.accel is not None else ""),
        "score": one.score() | {"n_expected": one.n_expected, "n_failed": one.n_failed, "unit": one.unit},
        "about": [
            *([f"seed {one.seed}"] if one.seed is not None else []),
            *([f"judged by {one.judge}"] if one.judge else []),
            *(f"{name} {value}" for name, value in settings.items() if value is not None),
        ],
        "partial": one.partial,
        "note": one.note or "",
    }


def _apart(a: Record, b: Record) -> list[str]:
    """What two records differ in besides the model."""
    told = [
        f"{name} {getattr(a, name)!r} and {getattr(b, name)!r}"
        for name in ("protocol", "judge", "seed", "unit")
        if getattr(a, name) != getattr(b, name)
    ]
    told += ["another set of prompts or images"] if a.suite_hash != b.suite_hash else []
    left, right = (record.one_form({**r.protocol_params, **(r.extra.get("settings") or {})}) for r in (a, b))
    names = [name for name in sorted({*left, *right}) if left.get(name) != right.get(name)]
    told += [f"{name} {text.shown(left.get(name))} and {text.shown(right.get(name))}" for name in names]
    return [f"A and B differ in {', '.join(told)}"] if told else []


def _asked(about: Item) -> Item:
    """A sample without its images, which one side may not have kept."""
    return {name: value for name, value in about.items() if name != "images"}


def data(found: Sequence[Samples]) -> Item:
    """What a page shows of one side, or of two beside each other, JSON-able.

    Raises ValueError where a sample is of another prompt on the other side."""
    first = found[0]
    one = first.stored.record
    keys = list(dict.fromkeys(key for side in found for key in side.about))
    kinds = {side.kind for side in found}
    about: dict[str, Item] = {}
    for side in found:
        for key, told in side.about.items():
            known = about.setdefault(key, told)
            if len(kinds) == 1 and _asked(known) != _asked(told):
                raise ValueError(f"sample {key} of {one.name} is of another prompt in {side.stored.record.model}")
            if any("lost" in image for image in known.get("images", ())):
                about[key] = told
    notes = [note for side in found for note in side.notes]
    notes += _apart(one, found[1].stored.record) if len(found) == 2 else []
    if len(keys) > SAMPLES:
        notes.append(f"{SAMPLES:,} of {len(keys):,} samples are shown, those with the worst values")
        sign = -1 if _better(one) == "low" else 1

        def worst(key: str) -> float:
            values = [side.found[key].get("value") for side in found if key in side.found]
            return min((sign * value for value in values if value is not None), default=-float("inf"))

        kept = set(sorted(keys, key=worst)[:SAMPLES])
        keys = [key for key in keys if key in kept]
    return {
        "suite": one.suite,
        "metric": one.metric,
        "kind": first.kind,
        "better": _better(one),
        "sides": [_side(side.stored.record) for side in found],
        "notes": notes,
        "items": [{"id": key, **about[key], "sides": [side.found.get(key) for side in found]} for key in keys],
    }


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def html(shown: Item, back: bool = False) -> str:
    """The page of one score; ``back``: with a link to the list of pages."""
    return (
        _environment()
        .get_template("evidence.html.j2")
        .render(
            shown=shown,
            back=back,
            data=json.dumps(shown, separators=(",", ":")).replace("<", "\\u003c"),
            style=_template("style.css") + _template("evidence.css"),
            script=_template("evidence.js"),
        )
    )


def _template(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------ the files


def _sides(roots: Sequence[Path] | None, default: Path, names: Sequence[str]) -> list[Side]:
    """The one or two sides that were named, else all records."""
    if roots is None and names:
        return [sides.read(name) for name in names]
    there: dict[str, Stored] = {}
    for root in roots or [default]:
        there |= sides.read(str(root)).stored
    if not names:
        return [Side("", there)]
    found = []
    for name in names:
        chosen = {key: one for key, one in there.items() if name in (one.record.model, one.record.subject)}
        if not chosen:
            models = ", ".join(sorted({one.record.model for one in there.values()}))
            raise ValueError(f"there is no model {name!r} in these records; they have {models}")
        found.append(Side(name, chosen))
    return found


def _fits(one: Record, pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in (one.metric, f"{one.suite}/{one.metric}"))


def _chosen(found: Iterable[Pair], patterns: Sequence[str], two: bool) -> list[Pair]:
    """The pairs to show: those of the ``patterns``, else the score of each suite that holds the suite's samples.

    Raises ValueError for a pattern that fits nothing, and where there is nothing to show."""
    there = [pair for pair in found if pair.a is not None and (pair.b is not None or not two)]
    stored = [pair for pair in there if all(one.samples and one.samples.is_file() for one in (pair.a, pair.b) if one)]
    for pattern in patterns:
        if not any(_fits(pair.a.record, pattern) for pair in there):
            names = sorted({f"{pair.a.record.suite}/{pair.a.record.metric}" for pair in stored})
            raise ValueError(f"no score fits --metric {pattern}; there are {', '.join(names) or 'none'}")
    if patterns:
        return [pair for pair in there if any(_fits(pair.a.record, pattern) for pattern in patterns)]
    suites: dict[tuple[str, str], list[Pair]] = {}
    for pair in stored:
        suites.setdefault((pair.a.record.model, pair.a.record.suite), []).append(pair)
    chosen = []
    for of in suites.values():
        best = [pair for name in HEADLINES for pair in of if re.match(rf"{name}(\[|$)", pair.a.record.metric)]
        chosen += best[:1] or of
    if not chosen:
        raise ValueError("no record here has per-sample results on each side; name work folders of `vgt eval`")
    return chosen


def _name(pair: Pair) -> str:
    """The file of a page."""
    one = pair.a.record
    models = one.model if pair.b is None else f"{one.model}~{pair.b.record.model}"
    return record.folder_name("--".join((models, one.suite, one.metric)).replace("%", "_").replace("#", "_")) + ".html"


def write(pairs: Sequence[Pair], out: Path, work: Path | None = None, megabytes: int = MEGABYTES) -> dict[str, Path]:
    """A page for every pair (or single record, where ``b`` is None), ``out/index.html`` and the images of all.

    A single page is the index itself.  Returns record name -> page.  Raises ValueError as ``read`` does."""
    pictures = Pictures(out / "images", megabytes << 20)
    made: dict[str, Path] = {}
    rows = []
    for pair in pairs:
        found = [read(one, pictures, work) for one in (pair.a, pair.b) if one is not None]
        shown = data(found)
        name = "index.html" if len(pairs) == 1 else _name(pair)
        made[pair.a.record.name] = files.write_text(out / name, html(shown, back=len(pairs) > 1))
        rows.append(
            {"name": name, **{key: shown[key] for key in ("suite", "metric", "sides")}, "n": len(shown["items"])}
        )
    if len(pairs) > 1:
        page = _environment().get_template("evidence_list.html.j2").render(rows=rows, style=_template("style.css"))
        files.write_text(out / "index.html", page)
    if pictures.left_out:
        print(f"note: {pictures.left_out} images are left out: more than {megabytes} MB; see --megabytes")
    return made


def linked(roots: Sequence[Path], out: Path, work: Path | None = None) -> dict[str, str]:
    """The pages of the main scores of all records, in ``out``; record name -> link to them from beside ``out``, also of
    those made from the same evidence, such as GenEval's tasks, which are a filter there.

    Raises ValueError where no record has samples, and as ``write`` does."""
    (side,) = _sides(roots, out, [])
    chosen = _chosen([Pair(name, one, None) for name, one in sorted(side.stored.items())], (), two=False)
    made = write(chosen, out, work)
    pages = {(side.stored[name].record.model, side.stored[name].record.evidence): name for name in made}
    links = {}
    for name, one in side.stored.items():
        page = pages.get((one.record.model, one.record.evidence)) if one.record.evidence else None
        page = name if name in made else page
        if page is not None and one.samples is not None and one.samples.is_file():
            category = "" if page == name else f"#group={quote(one.record.metric)}"
            links[name] = f"{quote(out.name)}/{quote(made[page].name)}{category}"
    return links


def run(
    roots: Sequence[Path] | None,
    default: Path,
    work: Path | None,
    out: Path,
    metrics: Sequence[str],
    models: tuple[str | None, str | None],
    megabytes: int,
) -> dict:
    """``vgt report evidence`` of all models, one, or two beside each other; returns what the closing JSON line holds.

    Raises ValueError for B without A, and as ``write`` does."""
    a, b = models
    if a is None and b is not None:
        raise ValueError(f"--b {b} has no effect without --a; name the model that it is shown beside")
    if megabytes < 1:
        raise ValueError(f"--megabytes {megabytes} is below 1")
    files.check_writable(out, folder=True)
    given = _sides(roots, default, [name for name in models if name is not None])
    if len(given) == 2:
        found = sides.match(*given)
    else:
        found = [Pair(name, one, None) for name, one in sorted(given[0].stored.items())]
    chosen = _chosen(found, metrics, two=len(given) == 2)
    made = write(chosen, out, work, megabytes)
    for name, page in made.items():
        print(f"{name}: {page}")
    print(f"\nevidence: {out / 'index.html'}")
    return {"evidence": str(out / "index.html"), "pages": {name: str(page) for name, page in made.items()}}
