"""The registry of protocols, the page written from it, and the checks that stand behind its numbers."""

from __future__ import annotations

import json

from parity import checks

from evals.engine import protocol_page
from evals.engine.registry import EVALUATORS, protocols


def test_every_protocol_belongs_to_an_evaluator_and_says_what_it_is():
    for name, protocol in protocols().items():
        assert protocol.evaluator in {*EVALUATORS, "gate"}, name
        assert protocol.summary and not protocol.summary.endswith("."), name


def test_checks_name_registered_protocols():
    assert {check.protocol for check in checks()} <= protocols().keys()


def test_the_page_is_the_one_that_the_registry_gives():
    assert protocol_page.PAGE.read_text(encoding="utf-8") == protocol_page.page(), (
        "run `python -m parity && python -m evals.engine.protocol_page`"
    )


def test_measured_tolerances_are_those_of_the_checks_and_within_their_limits():
    rows = json.loads(protocol_page.TOLERANCES.read_text(encoding="utf-8"))
    assert [(r["protocol"], r["against"]) for r in rows] == [(c.protocol, c.against) for c in checks()]
    assert all(row["difference"] <= row["limit"] for row in rows)
