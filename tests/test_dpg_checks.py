"""DPG-Bench and understanding against independent formulations."""

import pytest
from parity import dpg, understanding

from evals.dpg.rules import RULES


@pytest.mark.parametrize("check", [*dpg.CHECKS, *understanding.CHECKS], ids=lambda c: f"{c.protocol}-{c.against}")
def test_we_agree_with_independent_formulations(check):
    assert check.measure() <= check.limit


def test_the_formulations_can_tell_the_walks_apart():
    """In random file order the official walk is not the closure: the check would notice a wrong rule."""
    found = [
        dpg.score_tile({i + 1: "yes" if r else "no" for i, r in enumerate(raw)}, questions, rules)[1]
        for questions, _, raw in dpg.random_items(0, False)
        for rules in (RULES["dpg-fixed"], RULES["dpg-ella"])
    ]
    assert sum(a != b for a, b in zip(found[::2], found[1::2], strict=True)) > 10
