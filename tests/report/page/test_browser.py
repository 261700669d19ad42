"""The page as a person meets it: opened from disk in a real browser, without a network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from saliency_lab.report.page.page import ReportFiles, write_report

from ..rundirs import write_evaluation

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SCREENS = {"desktop": (1400, 900), "phone": (390, 844)}


@dataclass
class Visit:
    """An open page and everything that it said or asked for."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def said(self, kind: str, text: str) -> None:
        if kind == "error":
            self.errors.append(text)

    def picture(self, canvas: str) -> str:
        return self.page.eval_on_selector(canvas, "canvas => canvas.toDataURL()")

    def settle(self) -> None:
        """Until what was asked for is drawn: decoding is asynchronous.

        A locator waits without evaluating text in the page, which the page's own policy forbids.
        """
        self.page.locator(".viewer[aria-busy=false]").wait_for()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("no Chromium or Chrome is installed")
    with api.sync_playwright() as playwright:
        # Without a user data folder of ours, each launch makes a fresh one and removes it.
        opened = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield opened
        opened.close()


def _visit(browser: Any, page: Path, screen: str = "desktop", scheme: str = "light") -> Visit:
    width, height = SCREENS[screen]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        offline=True,
        reduced_motion="reduce",
    )
    context.set_default_timeout(20_000)
    visit = Visit(context.new_page())
    visit.page.on("request", lambda request: visit.requests.append(request.url))
    visit.page.on("pageerror", lambda error: visit.errors.append(str(error)))
    visit.page.on("console", lambda said: visit.said(said.type, said.text))
    visit.page.goto(page.as_uri())
    visit.settle()
    return visit


@pytest.fixture
def visit(browser: Any, report: ReportFiles) -> Iterator[Visit]:
    opened = _visit(browser, report.page)
    yield opened
    opened.page.context.close()
    assert opened.errors == []
    own = report.page.as_uri()
    assert [url for url in opened.requests if url != own and not url.startswith("data:")] == []


def test_the_slider_changes_picture_and_caption(visit: Visit) -> None:
    page = visit.page
    page.select_option("#pick-method", "gradient/active")
    seen = set()
    for step in (0, 4, 12):
        page.locator("#fraction").fill(str(step))
        visit.settle()
        caption = page.inner_text("#caption")
        assert ("0 % of", "10 % of", "90 % of")[(0, 4, 12).index(step)] in caption
        assert "probability" in caption
        assert page.locator("#steps tr[aria-current]").count() == 1
        seen.add((visit.picture("#view-image"), caption))
    assert len(seen) == 3
    assert len({picture for picture, _ in seen}) == 3


def test_the_caption_says_what_the_run_measured(visit: Visit) -> None:
    """Not only that it changes: class and probability are those of the rows' step."""
    page = visit.page
    page.locator("#fraction").fill("0")
    visit.settle()
    first = page.inner_text("#caption")
    assert "still" in first
    rows = page.locator("#steps tbody tr")
    assert rows.count() == 13
    shown = rows.nth(0).locator("td").nth(0).inner_text()
    assert f"still {shown}" in first


def test_black_deletion_blackens_as_many_pixels_as_it_says(visit: Visit) -> None:
    page = visit.page
    page.select_option("#pick-method", "gradient/original")
    share = """() => {
      const canvas = document.querySelector('#view-image');
      const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
      const pixels = data.length / 4;
      const dark = (at) => data[4 * at] + data[4 * at + 1] + data[4 * at + 2] === 0;
      return Array.from({ length: pixels }, (_, at) => dark(at)).filter(Boolean).length / pixels;
    }"""
    page.locator("#fraction").fill("0")
    visit.settle()
    before = page.evaluate(share)
    page.locator("#fraction").fill("8")
    visit.settle()
    assert page.evaluate(share) - before == pytest.approx(0.5, abs=0.03)


def test_arrow_keys_move_the_slider_and_tab_reaches_it(visit: Visit) -> None:
    page = visit.page
    page.focus("#next")
    for _ in range(2):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "fraction"
    before, picture = page.inner_text("#fraction-text"), visit.picture("#view-image")
    page.keyboard.press("ArrowRight")
    visit.settle()
    assert page.inner_text("#fraction-text") != before
    assert visit.picture("#view-image") != picture
    outline = page.eval_on_selector("#fraction", "e => getComputedStyle(e).outlineStyle")
    assert outline == "solid"


def test_filters_choose_images(visit: Visit) -> None:
    page = visit.page
    everything = page.locator("#cards .card").count()
    page.select_option("#pick-answers", "wrong")
    wrong = page.locator("#cards .card").count()
    assert 0 < wrong < everything
    assert all("taken for" in text for text in page.locator("#cards h3").all_inner_texts())
    page.select_option("#pick-answers", "right")
    assert page.locator("#cards .card").count() == everything - wrong
    page.select_option("#pick-answers", "all")
    label = page.locator("#pick-class option").nth(1)
    name = label.inner_text().rsplit(" (", 1)[0]
    page.select_option("#pick-class", label.get_attribute("value"))
    titles = page.locator("#cards h3").all_inner_texts()
    assert titles
    assert all(title.startswith(name) for title in titles)
    assert f"{len(titles)} of" in page.inner_text("#shown-count")


def test_methods_are_chosen_once_for_curves_and_cards(visit: Visit) -> None:
    page = visit.page
    page.locator("#examples button[data-choose=none]").click()
    assert page.locator("#cards tbody tr").count() == 0
    assert page.locator("#curves .curve:visible").count() == 0
    page.locator("#curves input[data-method='gradient/active']").check()
    assert page.locator("#examples input[data-method='gradient/active']").is_checked()
    assert page.locator("#cards .card").first.locator("tbody tr").count() == 1
    assert page.locator("#curves .curve:visible").count() == 2 * 4
    page.locator("#curves button[data-view=active]").click()
    boxes = page.locator("#curves input[data-method]:checked")
    chosen = {boxes.nth(at).get_attribute("data-method") for at in range(boxes.count())}
    assert chosen == {"gradient/active", "smoothgrad/active", "random_map/original"}
    page.locator("#curves button[data-choose=gradient]").click()
    assert page.locator("#curves input[data-method]:checked").count() == 5
    page.locator("#curves button[data-choose=all]").click()
    assert page.locator("#curves .curve:visible").count() == 2 * (10 + 5 + 5 + 5)


def test_another_panel_another_fill_another_map(visit: Visit) -> None:
    page = visit.page
    pictures = [visit.picture("#view-image")]
    page.select_option("#pick-condition", label="white-deletion")
    visit.settle()
    pictures.append(visit.picture("#view-image"))
    assert "(white)" in page.inner_text("#caption")
    page.select_option("#pick-panel", label="CIFAR-10 · ResNet-18")
    visit.settle()
    maps = []
    for method in ("gradient/original", "smoothgrad/original"):
        page.select_option("#pick-method", method)
        visit.settle()
        maps.append(visit.picture("#view-map"))
        pictures.append(visit.picture("#view-image"))
    assert len(set(maps)) == 2
    assert len(set(pictures)) == 4


def test_next_previous_and_look_closer_open_other_images(visit: Visit) -> None:
    page = visit.page
    titles = [page.inner_text("#viewer-title")]
    page.click("#next")
    visit.settle()
    titles.append(page.inner_text("#viewer-title"))
    page.click("#previous")
    visit.settle()
    assert page.inner_text("#viewer-title") == titles[0]
    assert titles[1] != titles[0]
    page.locator("#cards .card button").nth(3).press("Enter")
    visit.settle()
    assert page.inner_text("#viewer-title") not in titles
    assert page.evaluate("document.activeElement.id") == "fraction"


def test_pointing_at_a_curve_reads_its_values(visit: Visit) -> None:
    page = visit.page
    chart = page.locator(".panel .chart").first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    readout = page.locator(".panel .readout").first
    texts = []
    for share in (0.15, 0.9):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
        texts.append(readout.inner_text())
    assert texts[0] != texts[1]
    readout.locator("input").focus()
    page.keyboard.press("Home")
    assert "Values at 0 %" in readout.inner_text()
    assert "100.0 %" in readout.inner_text()


def test_curves_are_shown_over_the_deleted_share_at_a_click(visit: Visit) -> None:
    page = visit.page
    panel = page.locator("[data-panel]").first
    readout = panel.locator(".readout")
    areas = panel.locator(".areas").inner_text()
    panel.locator("input[data-read]").focus()
    page.keyboard.press("End")
    nominal = readout.inner_text()
    assert "Values at 90 %" in nominal
    titles = panel.locator(".charts svg.chart:visible text:last-of-type").all_text_contents()
    panel.locator("button[data-over=deleted_share]").click()
    assert panel.locator("button[data-over=deleted_share]").get_attribute("aria-pressed") == "true"
    assert page.locator("button[data-over=fraction][aria-pressed=true]").count() == 0
    assert "Areas, their intervals and tests stay over" in panel.locator(".axes").inner_text()
    moved = panel.locator(".charts svg.chart:visible text:last-of-type").all_text_contents()
    assert len(moved) == len(titles)
    assert set(moved) == {"share of pixels deleted, mean over images"}
    # The active map is 0 on most pixels: its curve ends long before 90 % are deleted.
    ended = readout.locator("tr[data-key='gradient/active'] [data-value]").first
    assert ended.inner_text() == "–"
    assert "ends at" in ended.get_attribute("title")
    page.keyboard.press("Tab")
    assert panel.locator(".areas").inner_text() == areas
    page.locator("button[data-over=fraction]").last.click()
    assert readout.inner_text() == nominal


def test_maps_are_laid_over_the_image_at_a_click(visit: Visit) -> None:
    page = visit.page
    page.select_option("#pick-method", "gradient/active")
    visit.settle()
    pixels = """() => {
      const canvas = document.querySelector('#view-map');
      const context = canvas.getContext('2d');
      return Array.from(context.getImageData(0, 0, canvas.width, canvas.height).data);
    }"""
    alone, intact = page.evaluate(pixels), visit.picture("#view-image")
    page.locator("#over-image").check()
    visit.settle()
    laid = page.evaluate(pixels)
    assert laid != alone
    # Opaque, and grey where the map is nearly nothing: the image shows through.
    assert set(laid[3::4]) == {255}
    darkest = min(range(0, len(alone), 4), key=lambda at: sum(alone[at : at + 3]))
    assert max(laid[darkest : darkest + 3]) - min(laid[darkest : darkest + 3]) <= 8
    assert visit.picture("#view-image") == intact
    page.locator("#over-image").uncheck()
    visit.settle()
    assert page.evaluate(pixels) == alone


def test_disputes_rank_the_images_by_the_two_methods_chosen(visit: Visit) -> None:
    page = visit.page
    assert page.locator("#disputes .card").count() > 1
    first = page.inner_text("#disputes")
    page.select_option("#pick-second", "gradient/inactive")
    assert page.inner_text("#disputes") != first
    page.select_option("#pick-second", "gradient/original")
    assert "do not differ" in page.inner_text("#disputes")


def test_a_page_of_drawn_fractions_shows_what_was_asked_for(browser: Any, tmp_path: Path) -> None:
    # With two images some fraction is drawn for none of them.
    write_evaluation(tmp_path / "runs", draws=3, count=2, shown=2)
    visit = _visit(browser, write_report(tmp_path / "runs", None, tmp_path / "report").page)
    assert "evaluated at 3 of the 13 fractions" in visit.page.inner_text("[data-panel]")
    visit.settle()
    rows = visit.page.locator("#steps tbody tr")
    predicted = [rows.nth(at).locator("td").first.inner_text() for at in range(rows.count())]
    assert sum(text != "–" for text in predicted) == 3
    read = visit.page.locator("input[data-read]").first
    for over in ("deleted_share", "fraction"):
        visit.page.click(f"button[data-over={over}]")
        for step in range(13):
            read.fill(str(step))
    values = visit.page.locator("[data-value]").first
    read.fill("0")
    shown = [values.inner_text()]
    for step in range(1, 13):
        read.fill(str(step))
        shown.append(values.inner_text())
    assert 3 <= sum(text != "–" for text in shown) < 13
    assert visit.errors == []


def test_noise_is_said_to_be_drawn_anew(browser: Any, tmp_path: Path) -> None:
    write_evaluation(tmp_path, count=6, size=8, shown=2, fills=["black", "noise"])
    visit = _visit(browser, write_report(tmp_path, None, tmp_path / "report").page)
    said = []
    for name in ("black-deletion", "noise-deletion"):
        visit.page.select_option("#pick-condition", label=name)
        visit.settle()
        said.append("drawn anew in the browser" in visit.page.inner_text("#caption"))
    assert said == [False, True]
    visit.page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility_check_finds_nothing(browser: Any, report: ReportFiles, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    visit = _visit(browser, report.page, "desktop", scheme)
    visit.page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    found = axe.Axe().run(visit.page)
    checked = {rule["id"] for rule in found.response["passes"]}
    assert {"color-contrast", "label", "select-name"} <= checked
    seen = [
        (rule["id"], node["html"][:160], node["failureSummary"])
        for rule in found.response["violations"]
        for node in rule["nodes"]
    ]
    assert seen == []
    visit.page.context.close()


def test_a_phone_shows_the_page_without_sideways_scrolling(
    browser: Any, report: ReportFiles
) -> None:
    visit = _visit(browser, report.page, "phone", "dark")
    page = visit.page
    assert page.evaluate("document.documentElement.scrollWidth") <= SCREENS["phone"][0]
    for name in ("#view-image", "#pick-method", "#fraction", "#cards .card", ".readout"):
        box = page.locator(name).first.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= SCREENS["phone"][0]
    ground = page.eval_on_selector("body", "body => getComputedStyle(body).backgroundColor")
    assert ground == "rgb(20, 22, 26)"
    assert visit.errors == []
    page.context.close()
