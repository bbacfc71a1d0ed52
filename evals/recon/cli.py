"""``vgt eval recon``: reconstruction scores of an autoencoder, or of two folders of images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from evals.engine import options
from evals.engine.images import which
from evals.engine.options import above_zero, listed, option, positive
from evals.engine.records import Outcome
from evals.features import INCEPTION
from evals.recon.metrics import METRICS, Tools, chosen
from evals.recon.protocol import DEFAULT, PIPELINES, resolve
from vgt.core.text import table
from vgt.core.weights import PUBLISHED, say_once

EXAMPLE = "vgt eval recon --subject vgt:vgt_ae_internvl --data photos"
WEIGHTS = tuple(dict.fromkeys(metric.weights for metric in METRICS.values() if metric.weights))


class Options(options.Count, options.Coverage, options.Precision, options.Common):
    subject: str | None = option(None, "vgt:<checkpoint>, python:<module>:<object>, pca or fake:identity")
    data: str | None = option(None, "scenes (default), photos, a folder of images, a .tar shard or a folder of them")
    pairs: tuple[Path, Path] | None = option(None, "compare two folders instead", metavar=("REAL", "RECON"))
    protocols: str = option(
        DEFAULT,
        f"{', '.join(PIPELINES)}; several are printed side by side",
        flag="--protocol",
        metavar="A[,B...]",
    )
    metrics: str | None = option(
        None, f"only these of {', '.join(METRICS)} (default: all for which there are weights)", metavar="A[,B...]"
    )
    size: int | None = option(None, "image side for a subject that takes any", type=positive)
    batch: int = option(32, "images at a time; it decides their last bits", type=positive)
    weights: list[str] = option(
        [], f"weights file of {', '.join(WEIGHTS)} (default: by name in $VGT_WEIGHTS)", metavar="ID=PATH"
    )
    any_weights: bool = option(False, "accept other Inception weights, under a label")
    memory: float = option(8.0, "GB that a metric may take for one image", metavar="GB", type=above_zero)


def weights(given: list[str]) -> dict[str, Path]:
    """``--weights`` texts -> {id: path}."""
    found = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or name not in WEIGHTS:
            raise ValueError(f"--weights {text!r} is not of the form ID=PATH with an ID of {', '.join(WEIGHTS)}")
        found[name] = Path(path)
    return found


def evaluate(given: Options) -> Outcome:
    protocols = list(dict.fromkeys(listed(given.protocols)))
    for name in protocols:
        resolve(name, None)
    tools = Tools(weights(given.weights), given.any_weights)
    metrics = None if given.metrics is None else listed(given.metrics)
    _check(given, metrics, tools)
    score = _scorer(given, metrics=metrics, weights=tools.weights)
    found = {name: score(protocol=name) for name in protocols}
    outcome = sum(found.values(), Outcome.none())
    if outcome.records and not any(r.n for r in outcome.records):
        raise ValueError(f"nothing could be measured: {outcome.records[0].note}")
    if metrics is None:
        _say_what_is_left_out(tools)
    if len(found) > 1 and outcome.records:
        print(side_by_side(found))
    return outcome


def _check(given: Options, metrics: list[str] | None, tools: Tools) -> None:
    """Raises ValueError for an option that would do nothing."""
    given.refuse("nothing is drawn at random", "seed")
    if given.pairs:
        given.refuse(
            "--pairs compares all images of the two folders as they are", "subject", "data", "n", "size", "dtype"
        )
    if metrics is not None:
        needed = {METRICS[name].weights for name in metrics if name in METRICS}
        for name in tools.weights:
            if name not in needed:
                raise ValueError(
                    f"--weights {name}=... would do nothing: no metric of --metrics needs it; leave it out"
                )
        if not needed & set(INCEPTION):
            given.refuse("no metric of --metrics needs the Inception network", "any_weights")


def _scorer(given: Options, **settings):
    """What scores one protocol: two folders, or a subject on data."""
    from evals.calibration import run as calibration
    from evals.judges.analytic import AnalyticJudge
    from evals.recon import run as reconstruction

    if given.pairs:
        asked = given.passed_to(reconstruction.pairs, **settings)
        return lambda **protocol: reconstruction.pairs(*given.pairs, **{**asked, **protocol})
    judge = AnalyticJudge()
    tokenizer = given.named(options.tokenizer(given.subject, given.out, given.on, given.dtype, given.size))
    asked = given.passed_to(
        reconstruction.run,
        agreement=lambda a, b: calibration.agreement(judge, a, b),
        judge=f"{judge.name} {judge.fingerprint[:12]}",
        data=which(given.data or "scenes", "--data"),
        **settings,
    )
    return lambda **protocol: reconstruction.run(tokenizer, **{**asked, **protocol})


def _say_what_is_left_out(tools: Tools) -> None:
    """One line for each file that is missing, with all the metrics that need it."""
    absent: dict[str, list[str]] = {}
    for name, reason in chosen(None, tools)[1].items():
        if METRICS[name].weights:
            key = published_for(METRICS[name].weights)
            absent.setdefault(key, [reason]).append(name)
    for reason, *names in absent.values():
        say_once(f"not measured: {', '.join(names)}: {reason}")


def published_for(weights_id: str) -> str:
    """The name in PUBLISHED of what features or LPIPS need: the Inception network under all its names is one file."""
    return weights_id if weights_id in PUBLISHED else "inception"


def side_by_side(outcomes: Mapping[str, Outcome]) -> str:
    """A table, metrics by protocols; ``*``: what the papers with that protocol report."""
    cells = {(r.metric, name): r for name, outcome in outcomes.items() for r in outcome.records}
    params = [next((r.protocol_params for r in outcome.records), {}) for outcome in outcomes.values()]
    rows = []
    for name in ("geometry", "model_res", "eval_res", "resampler", "quantize"):
        rows.append([name, *(str(p.get(name, "")) for p in params)])
    for metric in dict.fromkeys(metric for metric, _ in cells):
        row = [metric]
        for name in outcomes:
            one = cells.get((metric, name))
            text = "-" if one is None else "none" if one.value is None else f"{one.value:.4f}"
            row.append(text + ("*" if one and metric in PIPELINES[name]["own"] else " "))
        rows.append(row)
    return "\n".join([table(rows, header=["", *outcomes]), "* reported by the papers that use the protocol", ""])
