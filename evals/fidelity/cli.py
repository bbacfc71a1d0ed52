"""``vgt eval fidelity``: how close a set of images comes to a reference set."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from evals.engine import options
from evals.engine.images import which
from evals.engine.options import listed, option, positive
from evals.engine.records import Outcome
from evals.features import NAMES, SOURCES
from evals.fidelity.metrics import ALIASES, METRICS, TABLES
from vgt.core import files, record
from vgt.core.record import Record
from vgt.core.text import csv_text, setting_value, table

EXAMPLE = "vgt eval fidelity --subject folder:samples --real photos --features efflite2 --metrics kid,prdc"


class Options(options.Count, options.Coverage, options.Sampling, options.Common):
    subject: str | None = option(
        None,
        "folder:<dir>, images:<model>[@<accel>x] of the work folder, an .npz with arr_0, or vgt:<checkpoint> of a "
        "generator by class",
    )
    real: str | None = option(
        None,
        "a folder (or folder:<dir>), photos, scenes, scenes:<task>, images:<model>, an .npz of images or of mu, sigma",
    )
    features: str = option("efflite2", f"of {', '.join(NAMES)} (default efflite2)", metavar="ID,...")
    metrics: str | None = option(None, f"of {', '.join([*METRICS, *ALIASES, *TABLES])}", metavar="NAME,...")
    weights: list[str] = option([], "weights file or folder of features", metavar="[ID=]PATH")
    any_weights: bool = option(False, "accept other weights than the published ones")
    labels: Literal["balanced", "uniform"] | None = option(
        None,
        "of a generator by class: equally many of each (default), or each drawn from all with --seed, as ADM's scripts "
        "do",
    )
    sweep: str | None = option(
        None,
        "of a generator by class: one sampling setting at several values with the same labels and seeds, in one table; "
        "for example guidance=1,1.5,2",
        metavar="NAME=VALUE,...",
    )
    size: int | None = option(None, "side in pixels to resize both sets to (default: the subject's)", type=positive)
    paired: bool = option(False, "the images are reconstructions of --real, by name")
    allow_few: bool = option(False, "Frechet distance of fewer images than dimensions")
    export: Path | None = option(None, "write the subject's statistics there", metavar="NPZ")
    batch: int = option(32, "images per pass; it decides the last bits of features", type=positive)

    def given(self) -> dict[str, Any]:
        extractors = listed(self.features)
        asked = {"extractors": extractors, "metrics": None if self.metrics is None else listed(self.metrics)}
        named = None if self.real is None else which(self.real, "--real")
        real = named if isinstance(named, str) else self.real
        return {**super().given(), **asked, "real": real, "weights": weights(self.weights, extractors)}


def weights(given: list[str], features: list[str]) -> dict[str, str]:
    """``--weights`` texts -> {id: path}; without an id a path belongs to the single features asked for.

    Raises ValueError for features that were not asked for, and for those whose weights come with a package."""
    found = {}
    for text in given:
        name, equals, path = text.partition("=")
        if equals and name in NAMES:
            found[name] = path
        elif len(features) == 1:
            found[features[0]] = text
        else:
            raise ValueError(f"--weights {text!r} does not say for which features; give ID=PATH, ID of {features}")
    for name in found:
        if name not in features or SOURCES[name].locate is not None:
            why = "the weights come with a package" if name in features else f"--features are {', '.join(features)}"
            raise ValueError(f"--weights of {name} would do nothing: {why}; leave it out")
    return found


def swept(text: str) -> tuple[str, list[Any]]:
    """The setting and its values in ``--sweep NAME=VALUE,...``.  Raises ValueError for another form, fewer than two
    values and equal ones."""
    name, _, rest = text.partition("=")
    values = [setting_value(part) for part in listed(rest)] if rest else []
    if not name.isidentifier() or len(values) < 2 or any(value in values[:i] for i, value in enumerate(values)):
        raise ValueError(
            f"--sweep {text!r} is no setting with two or more different values; give for example guidance=1,1.5,2"
        )
    return name, values


def evaluate(given: Options) -> Outcome:
    from evals.fidelity import run as fidelity

    named = options.named_subject(given.subject, "folder:samples")
    if given.real is None:
        given.refuse("there is no --real", "paired", "allow_few")
    if all(SOURCES[name].locate for name in listed(given.features) if name in SOURCES):
        given.refuse("the weights come with a package", "any_weights")
    if not named.startswith("vgt:"):
        made = ("seed", "labels", "sweep", "sampling", "autoencoder", "dtype")
        given.refuse(f"the images of {named} are made already", *made)
        return fidelity.run(named, **given.passed_to(fidelity.run))
    return _generated(given, named) if given.sweep is None else _sweep(given, named)


def _sweep(given: Options, named: str) -> Outcome:
    """The generator at each value of --sweep, and the table of all.  Raises ValueError before anything is made."""
    from evals.subjects import vgt

    assert given.sweep is not None
    name, values = swept(given.sweep)
    given.refuse("each value of --sweep has statistics of its own", "export")
    if name in given.sampling:
        raise ValueError(f"--sweep {given.sweep} and the setting {name} {given.sampling[name]} contradict; give one")
    settings = [{**given.sampling, name: value} for value in values]
    for one in settings:
        vgt.check_sampling(named.partition(":")[2], one)
    found: dict[Any, Outcome] = {}
    for value, one in zip(values, settings, strict=True):
        own = given.name and f"{given.name}+{name}{value}"
        found[value] = _generated(given.model_copy(update={"sampling": one, "name": own}), named)
    if given.shard.whole:
        rows = [(value, r) for value, outcome in found.items() for r in outcome.records]
        print(_table(name, rows))
        model = record.folder_name(rows[0][1].subject.partition("+")[0])
        path = given.out / "sweeps" / f"{model}-{name}.csv"
        columns = ("suite", "metric", "value", "low", "high", "n", "n_expected", "subject")
        lines = [[name, *columns], *([value, *(getattr(r, c) for c in columns)] for value, r in rows)]
        files.write_text(path, csv_text(lines))
        print(f"table: {path}")
    return sum(found.values(), Outcome.none())


def _table(name: str, rows: list[tuple[Any, Record]]) -> str:
    """A line for each value of the setting, a column for each metric, with its interval."""
    cells: dict[Any, dict[str, str]] = {}
    for value, r in rows:
        interval = "" if r.low is None or r.high is None else f" [{r.low:.4g}, {r.high:.4g}]"
        cells.setdefault(value, {})[r.metric] = "-" if r.value is None else f"{r.value:.4g}{interval}"
    metrics = list(dict.fromkeys(r.metric for _, r in rows))
    lines = [[str(value), *(of.get(metric, "-") for metric in metrics)] for value, of in cells.items()]
    return table(lines, header=[name, *metrics])


def _generated(given: Options, named: str) -> Outcome:
    """A generator by class: its images, and how close they come."""
    from evals.engine import generation
    from evals.engine.api import LABELS, conditions
    from evals.fidelity import run as fidelity
    from evals.fidelity.images import CLASSES
    from evals.subjects import load_generator

    fidelity.asked(**given.passed_to(fidelity.asked))  # before images are made
    made = load_generator(named, device=given.on(), settings=given.ours)
    if conditions(made) != LABELS:
        given.refuse(f"{named} is asked with prompts", "labels")
    count, labels = given.n or generation.CLASS_IMAGES, given.labels or generation.BALANCED
    asked = generation.of_classes(given.named(made), count, given.seed, given.batch, labels)
    generation.images(asked, asked.folder(given.out, CLASSES), given.shard)
    if not given.shard.whole:  # a part makes images; all of them are compared at once
        return Outcome.none()
    return fidelity.run(asked, **given.passed_to(fidelity.run))
