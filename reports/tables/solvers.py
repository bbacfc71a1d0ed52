"""Samplers of the flow head: score against evaluations a token, from the records of ``vgt eval solvers``."""

from __future__ import annotations

from dataclasses import dataclass

from reports.measured import Measured, row_label
from reports.tables.table import NOT_APPLICABLE, Cell, Column, Row, Table, finish, from_record
from vgt.core.record import Record

METRIC, SCORE = "evaluations-needed", "overall"
NAMES = {
    "sde": "Stochastic (published)",
    "sde2": "Stochastic, order 2",
    "ode": "Euler",
    "heun": "Heun",
    "ab2": "Adams-Bashforth 2",
    "dpmpp": "DPM-Solver++ 2M",
}


@dataclass(frozen=True)
class Setting:
    """One setting of a study: its score record and, but for the baseline, the result of its test."""

    record: Record
    result: dict
    baseline: bool
    recommended: bool

    @property
    def sampler(self) -> str:
        return self.record.extra["settings"]["sampler"]

    @property
    def schedule(self) -> str:
        return self.record.extra["settings"].get("time_schedule", "linear")

    @property
    def evaluations(self) -> int:
        return self.record.extra["head_evaluations"]

    @property
    def solver(self) -> str:
        """In the readers' words, with the time schedule where it is not the published one."""
        name = NAMES.get(self.sampler, self.sampler)
        return name if self.schedule == "linear" else f"{name}, {self.schedule}"


def studies(measured: Measured) -> list[Record]:
    """The studies' own records: those on test prompts first, then by acceleration."""
    found = [r for r in measured.records if r.metric == METRIC]
    return sorted(found, key=lambda r: (not r.suite.endswith("-test"), r.subject, r.accel or 0, r.suite))


def settings(measured: Measured, study: Record) -> list[Setting]:
    """A study's settings whose scores are among the records, in its order."""
    known = {r.model: r for r in measured.records if r.suite == study.suite and r.metric == SCORE}
    return [
        Setting(known[row["model"]], row, row["p"] is None, row["model"] == study.extra["recommended"])
        for row in study.extra["results"]
        if row["model"] in known
    ]


def title(study: Record) -> str:
    """Whose study on which prompts, e.g. "QueryAR (InternVL) 16x, test prompts"."""
    return f"{row_label(study.subject, study.accel)}, {study.suite.rpartition('-')[2]} prompts"


def _verdict(setting: Setting) -> str:
    if setting.baseline:
        return "baseline"
    words = "not inferior" if setting.result["passed"] else "not shown"
    return f"{words}, recommended" if setting.recommended else words


def build(measured: Measured, study: Record) -> Table:
    """One row a setting: score, gain over the baseline with its lower bound, p-value, cost."""
    margin = study.protocol_params["margin"]
    columns = [
        Column("evaluations", "Evaluations a token", "", 0),
        Column(SCORE, "Overall", "", 3, "high", "GenEval rules"),
        Column("gain", "Gain", "", 3, None, "Against the baseline"),
        Column("low", "Lower bound", "", 3, None, "Against the baseline"),
        Column("adjusted", "p (Holm)", "", 4, None, "Against the baseline"),
        Column("verdict", "Verdict", group="Against the baseline", text=True),
        Column("seconds", "s/image", "", 3, None, "Cost", optional=True),
    ]
    rows = []
    for one in settings(measured, study):
        cost = one.record.extra.get("seconds_per_image")
        cells = {"evaluations": Cell(float(one.evaluations)), SCORE: from_record(one.record)}
        cells |= {k: Cell(NOT_APPLICABLE if one.baseline else one.result[k]) for k in ("gain", "low", "adjusted")}
        cells |= {"verdict": Cell(_verdict(one)), "seconds": Cell(cost)}
        rows.append(Row(one.solver, cells))
    extra = study.extra
    notes = [
        f"{extra['prompts']} prompts ({extra['different_prompts']} different ones) made for this study, not the "
        f"benchmark suite; the baseline is {study.protocol_params['baseline']}.",
        f"Not inferior: a loss of {margin:g} or more is refuted at 5 % (one-sided, paired by image, clustered by "
        "prompt), after Holm's correction over all settings. The lower bound is one-sided, 95 %, uncorrected.",
        "Evaluations: of the flow head for each token, on two rows each under guidance. Seconds: wall time while these "
        "images were drawn, with other work beside; timings proper are those of `vgt bench`.",
    ]
    name = f"solvers_{study.subject}_{study.accel}x_{study.suite.rpartition('-')[2]}"
    return finish(Table(name, f"Samplers: {title(study)}", columns, rows, notes, row_head="Sampler"))
