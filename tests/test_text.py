"""The table of the terminal: padding, sides, header and rule."""

import pytest

from vgt.core.text import table


def test_columns_are_padded_and_lines_end_without_spaces():
    assert table([["a", "bb"], ["ccc", ""]]) == "a    bb\nccc"


def test_the_last_side_stands_for_further_columns():
    text = table([["x", 1.5, 10], ["yy", 22.25, 7]], "lr", ["name", "value", "n"])
    assert text.splitlines() == ["name  value   n", "x       1.5  10", "yy    22.25   7"]


def test_a_rule_below_the_header_is_as_long_as_the_longest_line():
    assert table([["a", None]], header=["head", "x"], rule=True) == "head  x\n-------\na"


def test_nothing_gives_nothing_and_a_header_stands_alone():
    assert table([]) == "" and table([], header=["a", "b"]) == "a  b"


def test_ragged_rows_are_refused():
    with pytest.raises(ValueError, match="cells"):
        table([["a"], ["b", "c"]])
