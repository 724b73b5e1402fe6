"""The page remembers: undo, its address, back and reload; and nothing moves while a caption is explored."""

from itertools import pairwise

import pytest

from tests.helpers.marks import slow_case
from tests.helpers.page_fixtures import (
    EXAMPLES,
    OWN_WORD,
    assert_no_serious_violations,
    caption_words,
    needs_browser,
    upload_photo,
)

pytestmark = needs_browser
SHIFTS = """() => {
    window.shift = 0;
    window.longest = 0;
    new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) window.shift += entry.value; // also those just after a click
    }).observe({ type: "layout-shift", buffered: false });
}"""


def choose_alternative(page, position=1):
    """Choose another word at this place of the caption. Returns it."""
    if page.locator(".word").nth(position).get_attribute("aria-pressed") != "true":
        page.locator(".word").nth(position).click()
    item = page.locator(".words > li").nth(position)
    button = item.locator(".alternative:enabled:not(.chosen)").first
    text = button.locator("span").text_content()
    button.click()
    page.locator(".words > li.prefix").nth(position).wait_for()
    return text


def test_alternatives_can_be_undone_and_redone(open_page):
    page = open_page()
    upload_photo(page, EXAMPLES / "chelsea.jpg")
    first = caption_words(page)
    undo, redo, original = (page.locator(f"button.{name}") for name in ("undo", "redo", "original"))
    assert [button.is_disabled() for button in (undo, redo, original)] == [True] * 3
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.locator(".words > li").nth(2).locator(".alternative.chosen").click()  # the word that stands there already
    assert (caption_words(page), requests) == (first, [])
    choose_alternative(page)
    second = caption_words(page)
    choose_alternative(page, 2)
    third = caption_words(page)
    undo.click()
    assert caption_words(page) == second
    page.keyboard.press("Control+z")
    assert caption_words(page) == first
    redo.click()
    page.keyboard.press("Control+Shift+z")
    assert caption_words(page) == third
    original.click()
    assert caption_words(page) == first


def test_reload_and_back_bring_back_what_was_seen(open_page):
    page = open_page()
    page.locator(".gallery-item[data-example=coffee]").click()
    page.locator(OWN_WORD).first.wait_for()
    choose_alternative(page)
    words = caption_words(page)
    other = 0 if page.locator(".word").first.get_attribute("aria-pressed") != "true" else 2
    page.locator(".word").nth(other).click()
    page.get_by_role("tab", name="How it works").click()
    page.locator(".tour:visible").wait_for()
    assert page.locator(".word-choice button").all_text_contents()[: len(words)] == words  # the visitor's caption
    assert all(part in page.url for part in ("example=coffee", "text=", f"word={other}", "tab=1"))
    page.reload()
    page.locator(".tour:visible").wait_for()
    page.go_back()
    shown = "[...document.querySelectorAll('.word > span')].map((word) => word.textContent).join()"
    page.wait_for_function(f"words => {shown} === words", arg=",".join(words))
    page.locator(f".word[data-index='{other}'][aria-pressed=true]").wait_for()


def test_own_photo_survives_a_reload(open_page):
    page = open_page()
    upload_photo(page, EXAMPLES / "kite.jpg")
    words = caption_words(page)
    page.wait_for_url("**photo=1**")
    page.reload()
    page.locator(OWN_WORD).first.wait_for()
    assert caption_words(page) == words


def test_nonsense_in_the_address_opens_the_page_as_if_it_were_not_there(open_page):
    page = open_page()
    page.locator(".word").first.wait_for()
    words, address = caption_words(page), page.url
    nonsense = ["example=nobody", "photo=99", "word=999", "tab=7", "num_beams=1e9", "temperature=x", "lang=%00"]
    page.goto("&".join([address, *nonsense, "captions=xx", f"text={'a' * 700}"]))
    page.locator(".word").first.wait_for()
    assert caption_words(page) == words
    assert page.get_by_role("tab", name="Caption", exact=True).get_attribute("aria-selected") == "true"


@pytest.mark.parametrize("width", list(map(slow_case, (390, 768, 1024, 1280, 1920))))
def test_nothing_moves_while_words_are_explored(open_page, width):
    """The measure of web vitals, with what happens just after a click, which that leaves out."""
    page = open_page(width=width, height=900, reduced_motion="no-preference")
    upload_photo(page, EXAMPLES / "chelsea.jpg")
    page.locator("button.play:text-is('Play')").wait_for()
    page.evaluate("document.fonts.ready")
    page.evaluate(SHIFTS)
    for word in page.locator(".word").all():
        word.hover()
    page.locator("button.play").click()
    page.locator("button.play:text-is('Play')").wait_for()
    assert page.evaluate("window.shift") < 0.05


def test_the_cover_is_seen_above_the_map(open_page):
    page = open_page()
    upload_photo(page, EXAMPLES / "chelsea.jpg")
    page.locator("button.cover-word").click()
    page.locator(".covered-sentence button").first.wait_for()
    order = page.evaluate("[...document.querySelector('.frame').children].map(e => e.className).join()")
    assert order == "photo,map,mask"  # the last is painted on top
    page.locator("button.eraser").click()
    box = page.locator("img.photo").bounding_box()
    page.locator("input.brush-size").fill("0.14")
    page.mouse.move(box["x"], box["y"])
    page.mouse.down()
    for row in range(1, 9):
        for column in (0, 8) if row % 2 else (8, 0):
            page.mouse.move(box["x"] + column / 8 * box["width"], box["y"] + row / 8 * box["height"], steps=12)
    page.mouse.up()
    page.locator(".covered").wait_for(state="hidden")  # all of it has been erased
    assert page.locator("button.uncover").is_disabled()


def test_words_are_one_tab_stop_and_headings_are_in_order(open_page):
    page = open_page()
    upload_photo(page, EXAMPLES / "chelsea.jpg")
    assert page.locator(".words [tabindex='0']").count() == 1
    levels = page.evaluate("""() => [...document.querySelectorAll("h1, h2, h3, h4")]
        .filter((heading) => heading.offsetParent).map((heading) => Number(heading.tagName[1]))""")
    assert levels[0] == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
    caption = " ".join(caption_words(page))
    spoken = page.locator("#caption_tab").aria_snapshot()
    assert spoken.count(caption) <= 1 + page.locator(".beam").count()  # once, and perhaps as a beam


def test_the_language_of_the_page_can_be_switched(open_page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    page = open_page()
    page.locator(".language-switch button[lang=vi]").click()
    page.get_by_role("heading", name="Xem mô hình nhìn thấy gì").wait_for()
    assert page.locator("html").get_attribute("lang") == "vi"
    page.get_by_label("Bấm để tải lên").or_(
        page.get_by_label("Tải ảnh lên")
    ).first.wait_for()  # Gradio's own texts, too
    page.locator(".gallery-item[aria-label^='con mèo']").wait_for()
    upload_photo(page, ("holiday.jpg", b"no picture at all"))
    assert (
        page.locator(".message").text_content().startswith("holiday.jpg không phải")
    )  # the server knows of the choice
    assert_no_serious_violations(axe, page)
    page.locator(".language-switch button[lang=en]").click()
    page.get_by_role("heading", name="See what the model sees").wait_for()
    page.locator("#caption_tab .word").first.wait_for()
