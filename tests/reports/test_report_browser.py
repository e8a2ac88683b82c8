"""A report in Chromium at a desk's and a phone's width: nothing is loaded, everything fits, every picture has a text."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from engine.reports import ContactSheet, Report
from engine.reports.comparisons import dot_figure, line_figure
from engine.reports.figures import bar_figure, scatter_figure
from tests.reports.test_report import png, tradeoff_row

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
]
LONG = "a_very_long_name_of_a_prompt_strategy+with_another_one+and_one_more_without_any_space_to_break_at"
UNTOLD = """() => [...document.querySelectorAll("img, main svg")].filter(one =>
    !(one.getAttribute(one.tagName === "IMG" ? "alt" : "aria-label") || "").trim()).length"""
OUTSIDE = """() => [...document.querySelectorAll("td:first-child, th:first-child")]
    .filter(one => one.getBoundingClientRect().left < one.closest(".scroll").getBoundingClientRect().left - 1).length"""


def full_report() -> Report:
    """Everything that a page can hold, with long names."""
    rows = [
        tradeoff_row(source=source, shots=shots, seed=seed, strategy=LONG, linear_probe=0.5 + 0.01 * seed)
        for source in ("generative", "retrieval", "original")
        for shots in (1, 5)
        for seed in (0, 1)
    ]
    wide = [{"method": name} | {f"mini-{n} clip_i": 80.0 + n for n in range(14)} for name in ("none", "realrag")]
    sheet = ContactSheet(
        title=LONG, group="rare", source="generative", images=[png()] * 11 + [b""], captions=["a cat"] * 12, per_row=12
    )
    part = Report(
        title="A part",
        findings=["It is so."],
        figures={"Bars": bar_figure({LONG: 3.0, "b": 4.0}, spread={LONG: 1.0}, title="bars", label="%")},
        sheets=[sheet],
        tables={"realrag_table_1": wide},
    )
    return Report(
        title=f"A study of {LONG}",
        findings=[f"{LONG} has 50.0 ± 1.0 %."],
        tables={
            "tradeoff": rows,
            "realrag_table_1": wide,
            "errors": [{"stage": "make", "reason": "x" * 300, "count": 1}],
        },
        figures={
            "Dots": dot_figure({"d": {"a": (1.0, 0.5), LONG: (2.0, None)}}, title="dots", label="%"),
            "Lines": line_figure({"a": [(1.0, 1.0, None), (2.0, 3.0, 0.5)]}, x="epoch", y="loss"),
            "Scatter": scatter_figure(rows, "cler", "linear_probe", title="scatter"),
        },
        sheets=[sheet],
        parts=[part],
    )


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return full_report().write(tmp_path_factory.mktemp("report")).as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_loads_nothing_and_tells_its_pictures(browser: Any, address: str, width: int):
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(120_000)  # the machine may be busy
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.querySelectorAll('main svg').length") >= 5
    assert page.evaluate(UNTOLD) == 0
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert complaints == []
    table = page.locator(".scroll", has_text="mini-13 CLIP-I").last
    table.evaluate("one => { one.scrollLeft = one.scrollWidth }")
    assert page.evaluate(OUTSIDE) == 0
    page.close()


def test_the_parts_can_be_opened_by_the_keyboard(browser: Any, address: str):
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.set_default_timeout(120_000)
    page.goto(address)
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("details[open]").count() == 1
    page.close()
