"""The pages say what is so: their commands parse or run, their links and paths lead somewhere, their numbers are those
of the published records, and every section that a comment cites exists."""

from __future__ import annotations

import itertools
import re
import shlex
import tomllib
from importlib import util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evals.engine import registry
from reports import markdown
from vgt.__main__ import VERBS, _parser, dispatch
from vgt.core import record

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
GUIDES = [p for p in PAGES if p.name not in ("EXPERIMENTS.md", "CHANGELOG.md")]  # what is so now, not what was
FACTS = ("vgt", "mar", "vfmtok", "evaluators", "decode")
TOP = ("vgt", "evals", "bench", "reports", "tests", "docs")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")

# Commands that run here as they stand, and what makes those that are long small.
RUN = {
    "list": [], "doctor": [], "prompts": [], "compare": [], "reconstruct my_photo": [], 'generate "a photo': [],
    "eval recon --pairs": ["--metrics", "psnr-mean"],
    "eval geneval --subject fake:oracle": ["-n", "6", "--images-per-prompt", "1"],
    "eval geneval --subject vgt:query_ar_internvl --accel": ["-n", "6", "--images-per-prompt", "1"],
    "train query_ar_internvl --plan": [],
}  # fmt: skip


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return [body for name, body in BLOCK.findall(read(page)) if name == language]


def spans(page: Path) -> list[str]:
    return SPAN.findall(BLOCK.sub("", read(page)))


def whole_commands(page: Path) -> list[list[str]]:
    """The command lines of a page's blocks (and of workflow steps), each as its words."""
    bodies = [body for language in ("", "bash") for body in blocks(page, language)]
    lines = [re.sub(r"^(?:[A-Z_]+=\S+ )+", "", line) for b in bodies for line in b.replace("\\\n", " ").splitlines()]
    lines += [m[1] for body in blocks(page, "yaml") for m in re.finditer(r"- run: (.*)", body)]
    words = [shlex.split(line, comments=True) for line in lines if known(line.split(" ")[0])]
    parts = [
        list(part) for line in words for key, part in itertools.groupby(line, lambda w: w not in ("&&", "|")) if key
    ]
    return [part for part in parts if known(part[0])]


def known(word: str) -> bool:
    return word in ("vgt", "python", "python3", "pytest", "tox", "pip", "torchrun", "accelerate", "hf", "ruff")


def vgt_words(words: list[str]) -> list[str] | None:
    """What follows ``vgt`` in a command, which torchrun or accelerate may start; None for another program's."""
    if words[0] == "vgt":
        return words[1:]
    return words[words.index("vgt") + 1 :] if words[0] in ("torchrun", "accelerate") else None


def parser(words: list[str]):
    """The parser of a vgt command's verb, or of its evaluator."""
    assert words[0] in VERBS, f"no verb {words[0]!r}"
    found = _parser(words[0])[1]
    if words[0] == "eval" and len(words) > 1:
        choices = next(a for a in found._actions if a.dest == "evaluator").choices
        assert words[1] in choices, f"no evaluator {words[1]!r}"
        found = choices[words[1]]
        if found.fill:  # an evaluator's flags are added when it is used
            found.fill()
    return found


def check_flags(words: list[str]) -> None:
    """The flags of a command, which may be cut short, exist."""
    flags = [w.split("=")[0] for w in words if re.match(r"--?[a-zA-Z]", w)]
    inside = vgt_words(words)
    if inside:
        options = parser(inside)._option_string_actions
        flags = [w.split("=")[0] for w in inside if re.match(r"--?[a-zA-Z]", w)]
        assert all(flag in options for flag in flags), f"{' '.join(words)}: no such flag"
    elif words[:2] in (["python", "-m"], ["python3", "-m"]):
        module = words[2]
        if module.split(".")[0] in TOP:
            assert util.find_spec(module), f"no module {module}"
            code = "".join(read(p) for p in (ROOT / module.split(".")[0]).rglob("*.py"))
            code += "".join(read(p) for p in (ROOT / "vgt" / "commands").glob("*.py"))
            assert all(f'"{flag}"' in code for flag in flags if flag != "-m"), f"{' '.join(words)}: no such flag"
    elif words[0] == "tox":
        envs = re.findall(r"^\[testenv:(\w+)\]", read(ROOT / "tox.ini"), re.M)
        assert all(e in [*envs, "test"] for e in words[2:3] if words[1:2] == ["-e"]), " ".join(words)
    elif words[0] == "pytest":
        paths = [w.split("::")[0] for w in words[1:] if "/" in w]
        assert all((ROOT / path).exists() for path in paths), " ".join(words)
    elif words[0] == "pip":
        extras = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
        assert all(e in extras for w in words for m in re.findall(r"^\.\[(.*)\]$", w) for e in m.split(",")), words


@pytest.mark.parametrize("page", GUIDES, ids=lambda p: p.name)
def test_commands_of_a_page_are_understood(page):
    for words in whole_commands(page):
        check_flags(words)
        inside = vgt_words(words)
        if inside:
            _parser(inside[0])[1].parse_args(inside[1:])  # exits where an argument is missing or wrong
    for text in spans(page):
        try:
            words = shlex.split(text)
        except ValueError:
            continue
        if len(words) > 1 and known(words[0]) and re.match(r"[a-z-]", words[1]):
            check_flags(words)


def test_a_command_that_is_wrong_is_noticed():
    for text in ("vgt evaluate x", "vgt eval geneva", "vgt eval geneval --acel 4", "python -m bench.gpu.nothing"):
        with pytest.raises(AssertionError):
            check_flags(shlex.split(text))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with what the pages' commands name: a photograph, pairs of images, stored records."""
    here = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)
    Image.fromarray(pixels[0]).save(here / "my_photo.jpg")
    for name in ("originals", "reconstructions"):
        (here / name).mkdir()
        for i, image in enumerate(pixels):
            Image.fromarray(image // (1 + (name == "reconstructions"))).save(here / name / f"{i}.png")
    for each in record.read(markdown.RECORDS):
        if each.subject in ("query_ar_internvl", "mar_internvl") and each.suite.startswith("scenes"):
            record.write(each, here / "runs" / "tiny" / "records")
    return here


def runnable() -> list:
    """(command, arguments that make it small), each command once, README's first."""
    found = {}
    for page in [README, *sorted(ROOT.glob("docs/*.md"))]:
        for words in whole_commands(page):
            line = shlex.join(words[1:]).replace("'", '"')
            for start, smaller in RUN.items():
                if words[0] == "vgt" and line.startswith(start):
                    found.setdefault(line, (words[1:], smaller))
    return [pytest.param(*value, id=f"vgt {key}"[:60]) for key, value in found.items()]


@pytest.mark.parametrize(("words", "smaller"), runnable())
def test_commands_run(words, smaller, workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    result = dispatch([*words, *smaller]) or {}
    assert result.get("exit", 0) == 0
    assert capsys.readouterr().out.strip() or list(workplace.glob("*.jsonl"))


def test_every_small_command_is_used():
    lines = [shlex.join(p.values[0]).replace("'", '"') for p in runnable()]
    assert not [start for start in RUN if not any(line.startswith(start) for line in lines)]


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "training.md"], ids=lambda p: p.name)
def test_python_of_a_page_runs(page, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    (code,) = blocks(page, "python")
    exec(compile(code, page.name, "exec"), {})
    with Image.open("star.png") as image:
        assert image.size == (64, 64)


def test_the_policy_of_the_gate_page_is_one(workplace, monkeypatch, capsys):
    (text,) = blocks(ROOT / "docs" / "gate.md", "toml")
    monkeypatch.chdir(workplace)
    Path("gate.toml").write_text(text, encoding="utf-8")
    dispatch(["gate", "--baseline", "runs/tiny", "--candidate", "runs/tiny", "--policy", "gate.toml"])
    assert "overall" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------- links and paths


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", BLOCK.sub("", read(page)), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", read(page))):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(found), f"{page.name}: {target}"


@pytest.mark.parametrize("page", GUIDES, ids=lambda p: p.name)
def test_paths_that_a_page_names_exist(page):
    text = re.sub(r"<[^>]*>|\{[^}]*\}", "*", read(page))
    for path in re.findall(rf"(?<![\w/.:-])((?:{'|'.join(TOP)})/[\w*./-]*[\w*/])", text):
        assert list(ROOT.glob(path.rstrip("/"))), f"{page.name} names {path}"
    for name in re.findall(r"(?<![\w/.-])([A-Z_]{3,}\.md)\b", text):
        assert (ROOT / name).exists() or (ROOT / "evals" / name).exists(), f"{page.name} names {name}"


def test_files_that_comments_name_exist():
    names = {path.name for top in TOP for path in (ROOT / top).rglob("*.py")}
    for path in cited_files():
        if path.suffix == ".py" and "tests" not in path.parts:
            named = re.findall(r"(?<![\w*<{./-])([\w/]+\.py)\b", read(path))
            wrong = [n for n in named if not (ROOT / n).exists() and ("/" in n or n not in names)]
            assert not wrong, f"{path.relative_to(ROOT)} names {wrong}"


def test_every_page_is_linked_and_every_evaluator_told():
    missing = [p.name for p in ROOT.glob("docs/*.md") if f"](docs/{p.name})" not in read(README)]
    assert not missing
    table = read(ROOT / "docs" / "evaluate.md")
    assert not [name for name in registry.EVALUATORS if f"`{name}`" not in table]


# ---------------------------------------------------------------------------------------------- numbers and citations


@pytest.mark.parametrize("page", [README, ROOT / "docs/speed.md", ROOT / "docs/results.md"], ids=lambda p: p.name)
def test_tables_are_those_of_the_published_records(page):
    assert markdown.PLACE.search(read(page))
    assert markdown.filled(read(page)) == read(page), "run `python -m reports.markdown`"


def test_the_front_page_is_short_and_names_the_test_command():
    text = read(README)
    assert len(text.splitlines()) <= 120
    assert len(re.findall(r"^<!-- test-command --> *`(.*)`$", text, re.M)) == 1


def sections(name: str) -> set[str]:
    """What ``docs/<name>.md`` can be cited by: numbers of headings, of items in a list below them, and ids of rows."""
    found, below = set(), ""
    for line in read(ROOT / "docs" / f"{name}.md").splitlines():
        if heading := re.match(r"#+ (\d+(?:\.\d+)?)[. ]", line):
            below = heading[1]
            found.add(below)
        elif item := re.match(r"(\d+)\. ", line):
            found.add(f"{below}.{item[1]}")
        elif row := re.match(r"\| ([PDC]\d+) \|", line):
            found.add(row[1])
    return found


NUMBER = r"(?:\d+(?:\.\d+)?|[PDC]\d+)(?![\w%.]*\w)"
CITATION = re.compile(rf"(?:docs/)?(\w+)\.md\)? ({NUMBER}(?:(?:, and|,| and| to| -|-) ?{NUMBER})*)")


def citations(text: str) -> list[tuple[str, str]]:
    text = re.sub(r"\s*\n[\s#>*]*", " ", text)
    return [(m[1], number) for m in CITATION.finditer(text) if m[1] in FACTS for number in re.findall(NUMBER, m[2])]


def cited_files() -> list[Path]:
    code = [p for top in TOP for kind in ("py", "toml") for p in (ROOT / top).rglob(f"*.{kind}")]
    return [*code, *PAGES, ROOT / "evals" / "PROTOCOLS.md"]


def test_sections_that_are_cited_exist():
    there = {name: sections(name) for name in FACTS}
    cited = [(path, name, number) for path in cited_files() for name, number in citations(read(path))]
    missing = [f"{path.relative_to(ROOT)}: docs/{name}.md {n}" for path, name, n in cited if n not in there[name]]
    assert not missing, "\n".join(missing)
    assert len(cited) > 200


def test_a_citation_of_nothing_is_noticed():
    assert citations("# (docs/vgt.md 2.4,\n# 2.11 and D21; docs/mar.md 1.2 - 1.3)") == [
        ("vgt", "2.4"), ("vgt", "2.11"), ("vgt", "D21"), ("mar", "1.2"), ("mar", "1.3"),
    ]  # fmt: skip
    assert "2.44" not in sections("vgt") and {"0.4", "7.5", "D3"} <= sections("evaluators")


def test_sections_of_the_protocols_exist():
    there = sections("evaluators")
    for protocol in registry.protocols().values():
        assert set(re.findall(r"\d+(?:\.\d+)?", protocol.section)) <= there, protocol.id


def test_no_citation_of_a_text_that_readers_do_not_have():
    old = re.compile(
        r"\bspec(?:ification)?s? (?:vgt|mar|vfmtok|evaluators|decode|\d)|shared/spec|/work/(?:shared|main|tmp|wt)", re.I
    )
    mine = Path(__file__).resolve()
    found = [
        f"{p.relative_to(ROOT)}: {m[0]}" for p in cited_files() if p.resolve() != mine for m in old.finditer(read(p))
    ]
    assert not found, "\n".join(found)
