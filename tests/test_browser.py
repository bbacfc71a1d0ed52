"""The pages in a real browser: filters, sorting, comparison, keyboard, widths, print.

Needs selenium (the extra ``browser``), chromium and chromedriver (Debian: chromium, chromium-driver); skipped without,
with the reason."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import evidence_work
import pytest

from reports import evidence
from reports.page import render
from vgt.core import files, samples, sides

selenium = pytest.importorskip("selenium", reason="selenium is not installed: pip install -e '.[browser]'")

from selenium import webdriver  # noqa: E402
from selenium.common.exceptions import WebDriverException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        lacking = "chromium" if chromium is None else "chromedriver (Debian: chromium-driver)"
        pytest.skip(f"{lacking} is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    folder = tmp_path_factory.mktemp("browser")
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", f"user-data-dir={folder}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "localhost,127.0.0.1"
    try:
        found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    except WebDriverException as error:
        pytest.skip(f"chromium does not start: {str(error.msg).splitlines()[0]}")
    yield found
    found.quit()


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return evidence_work.make(tmp_path_factory.mktemp("evidence"))


@pytest.fixture
def opened(browser, work, tmp_path):
    """Opens the page of one record, or of two beside each other, at a width; checks at the end that it stayed silent
    and asked nobody."""

    def page(*names: str, mark: str = "") -> webdriver.Chrome:
        stored = sides.read(str(work)).stored
        if not set(names) <= stored.keys():
            pytest.skip("torch is not installed, which reconstructs")
        one, *other = (stored[name] for name in names)
        evidence.write([sides.Pair("", one, other[0] if other else None)], tmp_path)
        return show(tmp_path / "index.html", mark)

    def show(path: Path, mark: str = "") -> webdriver.Chrome:
        browser.get("about:blank")
        width(browser, 1280)
        browser.get(path.as_uri() + mark)
        return browser

    page.show = show
    yield page
    said = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert not said
    asked = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert all(name.startswith(("file:", "data:")) for name in asked)


def width(browser, pixels: int, media: str = "") -> None:
    size = {"width": pixels, "height": 900, "deviceScaleFactor": 1, "mobile": pixels < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media})


def ids(browser) -> list[str]:
    return [card.get_attribute("data-id") for card in browser.find_elements(By.CSS_SELECTOR, ".sample")]


def count(browser) -> str:
    return browser.find_element(By.ID, "count").text


def choose(browser, name: str, value: str) -> None:
    Select(browser.find_element(By.NAME, name)).select_by_value(value)


def values(work: Path, name: str) -> dict[str, float]:
    kept = samples.read_file(sides.read(str(work)).stored[name].samples)
    return dict(zip(kept.ids, kept.values, strict=True))


OURS, THEIRS = "ours/scenes-geneval/overall", "theirs/scenes-geneval/overall"


def test_failures_come_first_and_the_sort_turns_round(opened, work):
    browser, known = opened(OURS), values(work, OURS)
    order = ids(browser)
    assert sorted(order) == sorted(known) and [known[i] for i in order] == sorted(known.values())
    assert count(browser) == "24 of 24 samples"
    choose(browser, "sort", "best")
    assert [known[i] for i in ids(browser)] == sorted(known.values(), reverse=True)
    choose(browser, "sort", "order")
    assert ids(browser) == list(known)
    choose(browser, "sort", "text")
    words = [card.text for card in browser.find_elements(By.CSS_SELECTOR, ".sample h2")]
    assert words == sorted(words)


def test_filters_by_category_result_and_words(opened, work):
    browser, known = opened(OURS), values(work, OURS)
    choose(browser, "group", "counting")
    assert sorted(ids(browser)) == [i for i in known if i.startswith("counting")]
    choose(browser, "result", "failed")
    assert sorted(ids(browser)) == [i for i in known if i.startswith("counting") and not known[i]]
    assert count(browser) == f"{len(ids(browser))} of 24 samples"
    browser.find_element(By.ID, "everything").click()
    assert len(ids(browser)) == 24
    search = browser.find_element(By.NAME, "text")
    prompt = browser.find_element(By.CSS_SELECTOR, ".sample h2").text
    search.send_keys(" ".join(reversed(prompt.upper().split())))
    found = [card.text.split() for card in browser.find_elements(By.CSS_SELECTOR, ".sample h2")]
    assert prompt.split() in found and all(set(prompt.split()) <= set(words) for words in found) and len(found) < 24
    search.send_keys(" nowhere")
    assert not ids(browser) and "No sample fits" in browser.find_element(By.ID, "items").text
    assert count(browser) == "0 of 24 samples"


def test_only_where_two_models_disagree(opened, work):
    browser = opened(OURS, THEIRS)
    a, b = values(work, OURS), values(work, THEIRS)
    choose(browser, "versus", "differ")
    differ = {i for i in a if a[i] != b[i]}
    assert set(ids(browser)) == differ and 0 < len(differ) < 24
    choose(browser, "versus", "a")
    assert set(ids(browser)) == {i for i in a if a[i] > b[i]}
    for card in browser.find_elements(By.CSS_SELECTOR, ".sample"):
        left, right = (side.text for side in card.find_elements(By.CSS_SELECTOR, ".side"))
        assert left.startswith("A") and "right" in left and right.startswith("B") and "wrong" in right
    choose(browser, "versus", "same")
    assert set(ids(browser)) == set(a) - differ
    browser.find_element(By.ID, "everything").click()
    choose(browser, "sort", "ahead")
    gaps = [b[i] - a[i] for i in ids(browser)]
    assert gaps == sorted(gaps, reverse=True) and gaps[0] > 0 > gaps[-1]


def test_a_view_has_an_address(opened, work):
    browser = opened(OURS, THEIRS)
    choose(browser, "versus", "b")
    choose(browser, "group", "colors")
    address, seen = browser.current_url, ids(browser)
    browser.get("about:blank")
    browser.get(address)
    assert "versus=b" in address and ids(browser) == seen and len(seen) < 24
    browser.execute_script("location.hash = '#group=nothing&sort=order'")
    assert browser.execute_async_script("setTimeout(arguments[0], 50)") is None
    assert ids(browser) == list(values(work, OURS))


def test_images_and_boxes(opened):
    browser = opened(OURS)
    browser.execute_script("for (const img of document.images) img.loading = 'eager'")
    loaded = "return Promise.all([...document.images].map(img => img.decode().then(() => img.naturalWidth)))"
    assert set(browser.execute_script(loaded)) == {64}
    (pixelated,) = set(
        browser.execute_script("return [...document.images].map(img => getComputedStyle(img).imageRendering)")
    )
    assert pixelated == "pixelated"
    browser.execute_script("document.querySelector('.shot svg rect').scrollIntoView()")
    rect = browser.find_element(By.CSS_SELECTOR, ".shot g:not(.low) rect")
    assert rect.is_displayed()
    browser.find_element(By.NAME, "boxes").click()
    assert not rect.is_displayed()


def test_answers_with_what_they_depend_on(opened):
    browser = opened("ours/scenes-dpg/dpg", "theirs/scenes-dpg/dpg")
    card = browser.find_element(By.CSS_SELECTOR, ".sample")
    head = [cell.text for cell in card.find_elements(By.CSS_SELECTOR, ".asked thead th")]
    assert head == ["", "Question", "A 1", "A 2", "B 1", "B 2"]
    rows = card.find_elements(By.CSS_SELECTOR, ".asked tbody tr")
    assert rows and all(
        {c.text for c in row.find_elements(By.CSS_SELECTOR, ".answer")} <= {"yes", "no"} for row in rows
    )
    assert any("depends on 1" in row.text for row in rows)


def test_only_the_keyboard(opened):
    browser = opened(OURS, THEIRS)
    for _ in range(20):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        if browser.switch_to.active_element.get_attribute("name") == "versus":
            break
    else:
        pytest.fail("the keyboard does not reach the comparison")
    browser.switch_to.active_element.send_keys("they disagree")
    assert "they disagree" in Select(browser.find_element(By.NAME, "versus")).first_selected_option.text
    assert len(ids(browser)) < 24
    reset = browser.find_element(By.ID, "everything")
    browser.execute_script("arguments[0].focus()", reset)
    reset.send_keys(Keys.ENTER)
    assert len(ids(browser)) == 24


@pytest.mark.parametrize(
    "names",
    [
        (OURS, THEIRS),
        ("ours/scenes-dpg/dpg", "theirs/scenes-dpg/dpg"),
        ("vlm/scenes-vqa/accuracy", "vlm-tuned/scenes-vqa/accuracy"),
        ("ae/scenes/psnr-mean", "ae-dark/scenes/psnr-mean"),
    ],
    ids=lambda names: names[0].split("/")[1],
)
def test_nothing_sticks_out_at_any_width_and_print_has_no_controls(opened, names):
    browser = opened(*names)
    for pixels in (390, 1280, 1920):
        width(browser, pixels)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= pixels
        form, first = (browser.find_element(By.CSS_SELECTOR, what).rect for what in ("#filters", ".sample"))
        assert form["y"] + form["height"] <= first["y"]  # the controls cover nothing
    width(browser, 1280, media="print")
    assert not browser.find_element(By.ID, "filters").is_displayed()
    assert browser.find_element(By.CSS_SELECTOR, ".sample").is_displayed()


def test_a_prompt_with_markup_is_text(opened):
    browser = opened("noise/own/images-correct")
    assert {card.text for card in browser.find_elements(By.CSS_SELECTOR, ".sample h2")} == {evidence_work.MARKUP}
    assert "images-correct" in browser.title


def test_thousands_of_samples_are_shown_a_page_at_a_time(opened, tmp_path):
    side = {"model": "made-up", "label": "made-up", "about": [], "partial": False, "note": ""}
    score = {"value": 0.5, "low": None, "high": None, "n": 5000, "n_expected": 5000, "n_failed": 0, "unit": "share"}
    items = [
        {"id": f"p{i:04d}", "text": f"prompt {i}", "groups": [f"task {i % 7}"], "sides": [{"value": float(i % 2)}]}
        for i in range(5000)
    ]
    shown = {"suite": "many", "metric": "overall", "kind": "vqa", "better": "high", "notes": [], "items": items}
    files.write_text(tmp_path / "many.html", evidence.html({**shown, "sides": [side | {"score": score}]}))
    browser = opened.show(tmp_path / "many.html")
    first = ids(browser)
    assert len(first) == 60 and count(browser) == "5000 of 5000 samples, 1 to 60 shown"
    browser.find_element(By.ID, "next").send_keys(Keys.ENTER)
    second = ids(browser)
    assert len(second) == 60 and not set(first) & set(second) and "61 to 120" in count(browser)
    choose(browser, "group", "task 3")
    assert int(re.match(r"\d+", count(browser))[0]) == sum(i % 7 == 3 for i in range(5000))
    assert "page 1 of 12" in browser.find_element(By.ID, "pages").text
    browser.find_element(By.NAME, "text").send_keys("prompt 4999")
    assert not ids(browser)
    choose(browser, "group", "")
    assert ids(browser) == ["p4999"] and not browser.find_element(By.ID, "pages").is_displayed()


# ---------------------------------------------------------------------------------------------------- the report's page


@pytest.fixture
def table(opened, work, tmp_path):
    """The browser on the report's page, all of it unfolded, and its longest table."""
    browser = opened.show(render(work, work, tmp_path / "report", evidence=True))
    browser.execute_script("for (const each of document.querySelectorAll('details')) each.open = true")
    found = max(
        browser.find_elements(By.CSS_SELECTOR, ".table"),
        key=lambda each: len(each.find_elements(By.CSS_SELECTOR, "tbody tr")),
    )
    return browser, found


ROWS = """return [...arguments[0].querySelectorAll('tbody tr')].filter(row => !row.hidden)
    .map(row => [...row.cells].map(cell => [cell.textContent.trim(), cell.dataset.sort]))"""


def test_tables_sort_by_a_head_and_come_back(table):
    browser, _ = table
    for found in browser.find_elements(By.CSS_SELECTOR, ".table"):
        before = browser.execute_script(ROWS, found)
        numbers = [{row[i][1] for row in before} - {None} for i in range(len(before[0]))]
        column = next((i for i, each in enumerate(numbers) if len(each) > 1), None)
        if column is not None:
            break
    else:
        pytest.fail("no table has a column of numbers that differ")
    heads = found.find_elements(By.CSS_SELECTOR, "thead tr:last-child th")
    heads[column].send_keys(Keys.ENTER)
    assert heads[column].get_attribute("aria-sort") == "descending"
    numbers = [float(row[column][1]) for row in browser.execute_script(ROWS, found) if row[column][1] is not None]
    assert numbers == sorted(numbers, reverse=True) and len(set(numbers)) > 1
    heads[column].click()
    rows = browser.execute_script(ROWS, found)
    numbers = [float(row[column][1]) for row in rows if row[column][1] is not None]
    assert heads[column].get_attribute("aria-sort") == "ascending" and numbers == sorted(numbers)
    assert sorted(map(str, rows)) == sorted(map(str, before))
    heads[column].send_keys(Keys.SPACE)
    assert browser.execute_script(ROWS, found) == before


def test_tables_are_filtered_by_words(table):
    browser, found = table
    before = browser.execute_script(ROWS, found)
    field = found.find_element(By.CSS_SELECTOR, "input.filter")
    field.send_keys("theirs Counting")
    rows = browser.execute_script(ROWS, found)
    wanted = [row for row in before if all(w in " ".join(c[0] for c in row).lower() for w in ("theirs", "counting"))]
    assert rows == wanted and 0 < len(rows) < len(before)
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(Keys.DELETE)
    assert browser.execute_script(ROWS, found) == before


def test_a_score_of_the_report_leads_to_its_samples(table, work):
    browser, _ = table
    links = [link.get_attribute("href") for link in browser.find_elements(By.CSS_SELECTOR, "td a.evidence")]
    browser.get(next(link for link in links if link.endswith("/ours--scenes-geneval--overall.html#group=counting")))
    assert sorted(ids(browser)) == [i for i in values(work, OURS) if i.startswith("counting")]
    browser.find_element(By.LINK_TEXT, "All scores").click()
    assert len(browser.find_elements(By.CSS_SELECTOR, "tbody tr")) >= 7
