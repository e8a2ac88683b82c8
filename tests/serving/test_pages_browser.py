"""The pages in Chromium: both widths, the keyboard alone, accessibility, a strict policy, no other host."""

import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from engine.testing.data import class_image
from tests.serving.pages_server import (
    CLASSES,
    EVIL,
    KEY,
    add_images,
    generated,
    image_row,
    make_app,
    make_service,
    make_workspace,
    original,
    served,
    session_of,
)
from tests.serving.visitor import Visitor

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
]
expect = sync_api.expect
expect.set_options(timeout=60_000)  # the machine may be busy
WIDTHS = (1280, 390)
STUDY = {
    **{"task": "matching", "sets": "2", "seed": "5", "rows": "2"},
    **{"name-1": "with references", "references-1": "some", "source-1": "generative"},
    **{"name-2": "alone", "references-2": "none", "source-2": "generative"},
}


STREAM = "new ReadableStream({start(one) { one.enqueue(new TextEncoder().encode(BODY)); }})"
"""A stream that stays open."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Any:
    workspace = make_workspace(tmp_path_factory.mktemp("pages") / "workspace")
    recipe = generated(0, 31_337, prompt=EVIL, class_name=EVIL, strategy=EVIL, dataset=EVIL)
    add_images(workspace, [image_row(recipe, class_image(0, 1))])
    return workspace


@pytest.fixture(scope="module")
def address(workspace: Any) -> Iterator[str]:
    with served(make_app(make_service(workspace))) as address:
        yield address


@pytest.fixture(scope="module")
def cookie(workspace: Any) -> dict[str, str]:
    return session_of(make_service(workspace))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(params=WIDTHS)
def visitor(request: pytest.FixtureRequest, browser: Any, address: str, cookie: dict[str, str]) -> Iterator[Visitor]:
    visitor = Visitor(browser, address, request.param, cookie)
    yield visitor
    visitor.close()


@pytest.fixture
def desk(browser: Any, address: str, cookie: dict[str, str]) -> Iterator[Visitor]:
    visitor = Visitor(browser, address, 1280, cookie)
    yield visitor
    visitor.close()


def check_page(page: Any) -> None:
    """No sideways scroll, one main heading, and no serious finding of axe."""
    from axe_playwright_python.sync_playwright import Axe

    wide = page.locator("html").evaluate("element => element.scrollWidth - element.clientWidth")
    assert wide <= 0, f"{page.url} scrolls {wide} pixels sideways"
    assert page.locator("h1").count() == 1
    assert page.locator("html").get_attribute("lang") == "en"
    found = [one for one in Axe().run(page).response["violations"] if one["impact"] in ("serious", "critical")]
    assert not found, [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found]
    assert not page.evaluate("() => window.hacked || 0")


def make_study(visitor: Visitor, form: dict[str, str] | None = None) -> str:
    made = visitor.context.request.post(
        visitor.address + "/study", form=form or STUDY, headers={"origin": visitor.address}, max_redirects=0
    )
    return str(made.headers["location"])


def link_of(visitor: Visitor, study: str, rater: str) -> str:
    page = visitor.open(f"{study}?raters={rater}")
    return str(page.locator("[data-copy]").first.get_attribute("data-copy"))


def test_every_page_fits_and_is_accessible(visitor: Visitor):
    row = generated(0, 0, original(0, 0).id).id
    study = make_study(visitor)
    for path in (
        "/login",
        "/",
        "/add",
        "/study/new?rows=3",
        "/study",
        f"{study}?raters=Rita",
        "/errors",
        "/gallery/none",
    ):
        page = visitor.open(path)
        if path == "/gallery/none":
            visitor.problems.clear()  # the browser reports the status 404
        check_page(page)
    page = visitor.open("/gallery?source=generative")
    expect(page.locator("#class-choices option").first).to_be_attached()
    check_page(page)
    page = visitor.open(f"/gallery/{row}")
    expect(page.get_by_role("heading", name="Exact duplicates")).to_be_visible()
    expect(page.get_by_role("heading", name="Reference", exact=True)).to_be_visible()
    check_page(page)


def test_a_key_logs_in_by_keyboard(browser: Any, address: str):
    visitor = Visitor(browser, address, 1280)
    page = visitor.open("/login?next=/gallery")
    page.keyboard.type(KEY)  # the field has the focus
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{address}/gallery")
    visitor.close()


def test_a_comparison_streams_into_its_columns(visitor: Visitor):
    page = visitor.open("/")
    page.keyboard.type("a photo of a red apple")  # the prompt has the focus
    page.keyboard.press("Enter")
    columns = page.locator("[data-request]")
    expect(columns).to_have_count(3)
    for number in range(3):
        expect(columns.nth(number).locator(".facts")).to_contain_text("on the device")
        expect(columns.nth(number).locator(".frame img")).to_be_visible()
    expect(page.locator(".references a")).to_have_count(2)
    expect(page.get_by_text("imagefoundry train-retriever")).to_be_visible()
    assert sorted(visitor.posts) == ["/v1/images/generations"] * 3
    check_page(page)
    page.reload()  # the address holds the comparison, and the table the images
    for number in range(3):
        expect(columns.nth(number).locator(".facts")).to_contain_text("$0, from the table")
    columns.nth(1).locator(".references a").click()
    expect(page.get_by_role("heading", name="Recipe")).to_be_visible()


def test_a_failed_column_can_be_tried_again(desk: Visitor):
    page = desk.open("/?prompt=fail&seed=1")
    column = page.locator("[data-request]").first
    expect(column.locator(".status")).to_have_text("the queue is full")
    before = len(desk.posts)
    column.get_by_role("button", name="Try again").press("Enter")
    expect(column.locator(".status")).to_have_text("the queue is full")
    assert len(desk.posts) == before + 1


def test_queue_and_previews_are_shown_in_turn(desk: Visitor):
    """The page hears each event of the stream as it comes: here the answer stops after every one of them."""
    import base64
    import json

    from engine.images import encode_png

    image = base64.b64encode(encode_png(class_image(1, 1))).decode()
    events = [
        {"type": "imagefoundry.queued", "position": 3, "eta_seconds": 4.0},
        {"type": "image_generation.partial_image", "b64_json": image, "partial_image_index": 0},
    ]
    for number, (shown, text) in enumerate((("Place 4 in the queue, about 4.0 s", ""), ("preview 1", "Preview"))):
        body = "".join(f"event: x\ndata: {json.dumps(event)}\n\n" for event in events[: number + 1])
        page = desk.page
        desk.open("/")
        page.add_init_script(
            f"window.fetch = async () => new Response({STREAM}, {{status: 200}});".replace("BODY", json.dumps(body))
        )
        desk.open("/?prompt=x&seed=1")
        column = page.locator("[data-request]").first
        expect(column.locator(".status")).to_contain_text(shown)
        if text:
            expect(column.get_by_alt_text(text)).to_be_visible()


def test_an_object_is_added_and_generated_with_and_without(visitor: Visitor, workspace: Any):
    name = f"odd thing {visitor.page.viewport_size['width']}"
    page = visitor.open("/add")
    page.keyboard.type(name)
    photographs = [
        {
            "name": f"{EVIL}{number}.png",
            "mimeType": "image/png",
            "buffer": image_row(original(1, 0), class_image(1, number))["image"],
        }
        for number in range(3)
    ]
    page.locator("#photographs").set_input_files(photographs)
    page.get_by_role("button", name="Add and generate").press("Enter")
    columns = page.locator("[data-request]")
    expect(columns).to_have_count(2)
    for number in range(2):
        expect(columns.nth(number).locator(".facts")).to_contain_text("on the device")
    expect(columns.nth(1).locator(".references a")).to_have_count(1)
    expect(page.locator(".grid li")).to_have_count(3)
    assert workspace.count(f"class_name = '{name}' AND source = 'original'") == 3
    reference = columns.nth(1).locator(".references a").get_attribute("href").removeprefix("/gallery/")
    assert workspace.fetch([reference], ["class_name"])["class_name"][0].as_py() == name
    check_page(page)


def test_too_many_photographs_are_refused_before_they_are_sent(desk: Visitor):
    page = desk.open("/add")
    page.locator("#name").fill("x")
    one = {"name": "x.png", "mimeType": "image/png", "buffer": b"x"}
    page.locator("#photographs").set_input_files([one] * 21)
    page.get_by_role("button", name="Add and generate").click()
    expect(page.locator("#added")).to_contain_text("choose 20 at most")
    assert desk.posts == []


def test_the_gallery_is_searched_and_paged_by_keyboard(desk: Visitor):
    page = desk.open("/gallery")
    expect(page.locator(".grid li")).to_have_count(60)
    page.get_by_role("link", name="Older images").press("Enter")
    expect(page).to_have_url(re.compile("before="))
    page.locator("#q").fill("green tree")
    page.locator("#q").press("Enter")
    expect(page.get_by_text("images nearest to")).to_be_visible()
    expect(page.locator(".grid .caption").first).to_have_text(CLASSES[1])
    page.locator(".grid a").first.press("Enter")
    page.get_by_role("link", name="Similar to this one").press("Enter")
    expect(page).to_have_url(re.compile("like="))


def test_a_study_is_made_rated_by_keyboard_and_resumed(visitor: Visitor, browser: Any, workspace: Any):
    page = visitor.open("/study/new")
    page.locator("#sets").fill("2")
    for number, (name, references) in enumerate((("helped", "some"), ("alone", "none")), 1):
        page.locator(f"#name-{number}").fill(name)
        page.locator(f"#source-{number}").select_option("generative")
        page.locator(f"#references-{number}").select_option(references)
    page.get_by_role("button", name="Make the study").press("Enter")
    expect(page.get_by_text("Nobody has answered yet")).to_be_visible()
    study = page.url.removeprefix(visitor.address)
    link = link_of(visitor, study, "Rita")

    rater = Visitor(browser, visitor.address, visitor.page.viewport_size["width"])
    screen = rater.open(link)
    check_page(screen)
    screen.keyboard.press("Tab")
    screen.keyboard.press("Tab")
    screen.keyboard.press("Enter")
    expect(screen.get_by_text("1 of 2")).to_be_visible()
    check_page(screen)
    expect(screen.locator("fieldset img")).to_have_count(2)
    screen.keyboard.press("6")
    screen.keyboard.press("3")
    screen.keyboard.press("Enter")
    expect(screen.get_by_text("2 of 2")).to_be_visible()
    assert workspace.read("ratings", f"study_id = '{study.removeprefix('/study/')}'").num_rows == 2
    rater.close()

    rater = Visitor(browser, visitor.address, visitor.page.viewport_size["width"])
    screen = rater.open(link)
    expect(screen.get_by_text("2 of 2")).to_be_visible()
    screen.keyboard.press("7")
    screen.keyboard.press("2")
    screen.keyboard.press("Enter")
    expect(screen.get_by_role("heading", name="Thank you, Rita")).to_be_visible()
    check_page(screen)
    rater.close()

    rows = workspace.read("ratings", f"study_id = '{study.removeprefix('/study/')}'").to_pylist()
    assert sorted(row["answer"] for row in rows) == [2, 3, 6, 7]
    page = visitor.open(study)
    expect(page.locator("progress")).to_have_attribute("value", "4")
    figure = page.locator(".figures img").first
    expect(figure).to_be_visible()
    assert figure.evaluate("async image => { await image.decode(); return image.naturalWidth; }") > 100
    check_page(page)


def test_results_follow_the_answers_while_the_page_is_open(desk: Visitor, browser: Any):
    study = make_study(desk)
    link = link_of(desk, study, "Rob")
    page = desk.open(study)
    expect(page.get_by_text("Nobody has answered yet")).to_be_visible()
    rater = Visitor(browser, desk.address, 390)
    screen = rater.open(f"{link}&agreed=1")
    expect(screen.locator("fieldset")).to_have_count(2)
    screen.keyboard.press("6")
    screen.keyboard.press("3")
    screen.keyboard.press("Enter")
    expect(screen.get_by_text("2 of 2")).to_be_visible()
    rater.close()
    expect(page.locator("progress")).to_have_attribute("value", "2")


def test_real_or_generated_by_keyboard(desk: Visitor, browser: Any):
    form = {"task": "real_fake", "sets": "1", "seed": "1", "rows": "2", "name-1": "real", "source-1": "original"}
    study = make_study(desk, form | {"name-2": "made", "source-2": "generative"})
    link = link_of(desk, study, "Ruth")
    rater = Visitor(browser, desk.address, 390)
    screen = rater.open(f"{link}&agreed=1")
    for key in ("1", "0"):
        expect(screen.get_by_role("heading", name="Is this a photograph?")).to_be_visible()
        check_page(screen)
        at = screen.locator("input[name=at]").get_attribute("value")
        screen.keyboard.press(key)
        screen.keyboard.press("Enter")
        expect(screen.locator(f'input[name=at][value="{at}"]')).to_have_count(0)
    expect(screen.get_by_role("heading", name="Thank you, Ruth")).to_be_visible()
    rater.close()


def test_an_incomplete_screen_says_so(desk: Visitor):
    link = link_of(desk, make_study(desk), "Rita")
    page = desk.open(f"{link}&agreed=1")
    page.keyboard.press("5")
    page.get_by_role("button", name="Save and go on").click()
    expect(page.get_by_role("alert")).to_have_text("Rate every image, then go on.")
    desk.problems.clear()  # the browser reports the status 400


@pytest.mark.parametrize(
    "path", ["/gallery?class={}", "/?prompt={}&seed=1", "/add?name={}&seed=1", "/study/new?name-1={}"]
)
def test_markup_in_an_address_does_nothing(desk: Visitor, path: str):
    from urllib.parse import quote

    page = desk.open(path.format(quote(EVIL)))
    expect(page.locator("h1")).to_be_visible()
    assert not page.evaluate("() => window.hacked || 0")
    assert page.locator("img[src=x]").count() == 0


def test_colours_follow_the_system(browser: Any, address: str, cookie: dict[str, str]):
    colours = set()
    for scheme in ("light", "dark"):
        visitor = Visitor(browser, address, 1280, cookie)
        visitor.page.emulate_media(color_scheme=scheme)
        page = visitor.open("/gallery")
        colours.add(page.locator("body").evaluate("element => getComputedStyle(element).backgroundColor"))
        check_page(page)
        visitor.close()
    assert len(colours) == 2
