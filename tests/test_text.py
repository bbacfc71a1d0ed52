"""The one reader of JSON, JSON lines, CSV and TOML; the table of the terminal."""

import io
import math
import re

import pytest

from vgt.core import text
from vgt.core.text import Fields, table

# -------------------------------------------------------------------------------------------------------- reading


def test_json_lines_end_at_newlines_only(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": "\xe2\x80\xa8"}\r\n\n \t\r\n{"a": 2}')
    assert list(text.json_lines(path)) == [(1, {"a": "\u2028"}), (4, {"a": 2})]
    rows = list(text.objects(path))
    assert rows == [{"a": "\u2028"}, {"a": 2}] and rows[1].where == f"{path}, line 4"
    path.write_text("[1]\n")
    with pytest.raises(ValueError, match=r"rows.jsonl, line 1: \[1\] is no JSON object"):
        list(text.objects(path))


def test_a_log_loses_its_torn_last_line_only(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert text.log_rows(path) == []
    path.write_text('{"a": "\u2028"}\n\n{"a": 2}\n{"a": ', encoding="utf-8")
    assert text.log_rows(path) == [{"a": "\u2028"}, {"a": 2}]
    path.write_bytes(b'{"a": 1}\n{"a": "\xc3')  # torn within a character
    assert text.log_rows(path) == [{"a": 1}]
    with pytest.raises(ValueError, match="line 2 is not UTF-8"):
        list(text.objects(path))


@pytest.mark.parametrize("bad", [b'{"a": ', b"\x00\x00", b'{"a": "\xff"}', b"5", b'{"a": 1} {"a": 2}'])
def test_a_bad_line_before_the_last_is_an_error(tmp_path, bad):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + bad + b'\n{"a": 3}\n')
    with pytest.raises(ValueError, match=r"rows.jsonl, line 2(: not valid JSON| is not UTF-8|: 5 is no JSON object)"):
        text.log_rows(path)


def test_json_files_name_the_line(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert text.read_json(path) == {"a": 1}
    path.write_text('{"a": 1,\n"b": }\n')
    with pytest.raises(ValueError, match=r"a.json, line 2: not valid JSON \(.*column 6\)"):
        text.read_json(path)
    with pytest.raises(ValueError, match="is a folder, not a file"):
        text.read_json(tmp_path)
    with pytest.raises(ValueError, match="b.json does not exist"):
        text.read_json(tmp_path / "b.json")


@pytest.mark.parametrize("levels", [text.DEPTH + 1, 100_000])
@pytest.mark.parametrize("begin, middle, end", [("[", "", "]"), ('{"a":', "1", "}"), ("[0, [1], ", "1", "]")])
def test_deep_json_is_one_line(levels, begin, middle, end):
    with pytest.raises(ValueError, match=r"^it: nested more than 100 levels deep; [^\n]*$"):
        text.parse_json(begin * levels + middle + end * levels, "it")


def test_json_of_some_depth_and_many_brackets_is_read():
    assert text.parse_json("[" * 100 + "]" * 100, "it") and len(text.parse_json(f"[{'[1],' * 999}[1]]", "it")) == 1000
    with pytest.raises(ValueError, match="it: not valid JSON .*digits"):
        text.parse_json("9" * 5000, "it")


@pytest.mark.parametrize("deep", [f"a = {'[' * 5000}{']' * 5000}", ".".join("a" * 5000) + " = 1", f"[{'a.' * 500}a]"])
def test_deep_toml_is_one_line(deep):
    assert text.parse_toml('a.b = [[1]]\n[c]\nd = "x"\n', "it") == {"a": {"b": [[1]]}, "c": {"d": "x"}}
    with pytest.raises(ValueError, match=r"^it[^\n]* nested more than 100 levels deep[^\n]*$"):
        text.parse_toml(deep, "it")
    with pytest.raises(ValueError, match="it is not valid TOML: .*line 2"):
        text.parse_toml("a = 1\nb = \n", "it")


def test_csv_rows(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b'\xef\xbb\xbfid,text\r\n1,"two\nlines, ""quoted"""\r\n\r\n3\r\n')
    rows = list(text.csv_rows(path, ["id"]))
    assert rows == [{"id": "1", "text": 'two\nlines, "quoted"'}, {"id": "3", "text": ""}]
    assert [row.where for row in rows] == [f"{path}, line {n}" for n in (3, 5)]
    path.write_text("a\tb\n1\t2\n")
    assert list(text.csv_rows(path, delimiter="\t")) == [{"a": "1", "b": "2"}]


@pytest.mark.parametrize(
    "content, fault",
    [
        (b"a\n1\n", "has no column 'id' .found: a."),
        (b"", "has no column 'id' .found: none."),
        (b"id,id\n1,2\n", "has the column 'id' twice"),
        (b"id\n1\n2\0\n", "line 3: holds a NUL byte"),
        (b"id,b\n1,2\n3,4,5\n", "line 3: 3 cells, the header has 2"),
        (b'id,b\n1,2\n3,"4\n5,6\n', "line 4: not valid CSV"),
        (b"id,b\n1,2\n3,\xff\n", "line 3 is not UTF-8"),
        ("id,b\n1,2\n".encode("utf-16"), "line 1 is not UTF-8"),
    ],
)
def test_broken_csv_is_one_line(tmp_path, content, fault):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"t.csv[^\n]*{fault}") as error:
        list(text.csv_rows(path, ["id"]))
    assert "\n" not in str(error.value)


# --------------------------------------------------------------------------------------------------------- fields


def test_fields_give_values_of_one_kind():
    row = Fields({"t": "x", "n": 0.5, "w": "3.0", "f": False, "o": '{"a": 1}', "p": {"a": 2}}, "f, line 3")
    assert (row.text("t"), row.number("n", 0, 1), row.whole("w"), row.flag("f")) == ("x", 0.5, 3, False)
    assert row.object("o") == {"a": 1} and row.object("p") == {"a": 2}
    assert row.object("o").where == "f, line 3, field 'o'"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "0.5", True, None, [0.5], 10**400, 1.5, -0.1])
def test_a_number_is_finite_and_within_its_limits(value):
    with pytest.raises(ValueError, match=r"^f, line 3, field 'n': .* (is not a finite number|is outside 0..1)$"):
        Fields({"n": value}, "f, line 3").number("n", 0, 1)


@pytest.mark.parametrize(
    "kind, value, fault",
    [
        ("text", 5, "5 is not text"),
        ("text", "\ud83d", "'\\ud83d' holds half a character"),
        ("flag", 1, "1 is not true or false"),
        ("flag", "true", "'true' is not true or false"),
        ("flag", math.nan, "nan is not true or false"),
        ("whole", "1.5", "'1.5' is not a whole number"),
        ("whole", "nan", "'nan' is not a whole number"),
        ("whole", "1e999", "'1e999' is not a whole number"),
        ("whole", True, "True is not a whole number"),
        ("object", "[]", "[] is no JSON object"),
        ("object", "{", "not valid JSON"),
        ("object", None, "None is no JSON object"),
    ],
)
def test_another_kind_names_line_and_field(kind, value, fault):
    with pytest.raises(ValueError, match=re.escape(f"f, line 3, field 'x': {fault}")):
        getattr(Fields({"x": value}, "f, line 3"), kind)("x")
    with pytest.raises(ValueError, match="f, line 3: the field 'y' is missing"):
        getattr(Fields({"x": value}, "f, line 3"), kind)("y")


# --------------------------------------------------------------------------------------------------------- tables


def test_columns_are_padded_and_lines_end_without_spaces():
    assert table([["a", "bb"], ["ccc", ""]]) == "a    bb\nccc"


def test_the_last_side_stands_for_further_columns():
    found = table([["x", 1.5, 10], ["yy", 22.25, 7]], "lr", ["name", "value", "n"])
    assert found.splitlines() == ["name  value   n", "x       1.5  10", "yy    22.25   7"]


def test_a_rule_below_the_header_is_as_long_as_the_longest_line():
    assert table([["a", None]], header=["head", "x"], rule=True) == "head  x\n-------\na"


def test_nothing_gives_nothing_and_a_header_stands_alone():
    assert table([]) == "" and table([], header=["a", "b"]) == "a  b"


def test_ragged_rows_are_refused():
    with pytest.raises(ValueError, match="cells"):
        table([["a"], ["b", "c"]])


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"), ("+cmd", "'+cmd"), ("-x", "'-x"), ("@SUM(A1)", "'@SUM(A1)"), ("\tx", "'\tx"),
        ("-1.5", "-1.5"), ("+3e-2", "+3e-2"), ("'=x", "\'\'=x"), ("\'\'a", "\'\'\'a"), ("'tis", "'tis"),
        ("a=1", "a=1"), ("", ""), ("'", "'"),
    ],
)  # fmt: skip
def test_a_cell_that_a_spreadsheet_would_execute_is_text(cell, written, tmp_path):
    (tmp_path / "a.csv").write_text(text.csv_text([["a", "b"], [cell, -1.5]]), newline="")
    (row,) = text.csv_rows(tmp_path / "a.csv")
    assert (row["a"], row["b"]) == (written, "-1.5") and text.csv_plain(written) == cell


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_verdicts_are_coloured_on_a_terminal_alone(monkeypatch):
    told = "m/photos/psnr  20.1  pass: any loss is below 1\nm/photos/fail  20.1  fail (worse)\ngate: fail (1 fail)"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert text.coloured(told, io.StringIO()) == told
    shown = text.coloured(told, Terminal())
    assert shown.count("\x1b[32mpass\x1b[0m") == 1 and shown.count("\x1b[31mfail\x1b[0m") == 2
    assert re.sub("\x1b\\[\\d+m", "", shown) == told
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            assert text.coloured(told, Terminal()) == told
