"""The page as it opens, before a visitor has done anything: an example, its caption and its first map."""

import contextlib
from types import SimpleNamespace

import pytest
from playwright.sync_api import TimeoutError

from captioning.opening import find_noun
from demo.i18n import TEXTS
from demo.opening import SHOWS, caption_examples
from modeling_captioner import explain, open_photo
from tests.helpers.marks import slow_case
from tests.helpers.page_fixtures import (
    EXAMPLES,
    PHONE_AND_DESKTOP,
    caption_words,
    engine_of,
    map_pixels,
    needs_browser,
    running_app,
    save_captioner,
    upload_photo,
)

MARK = "The captioner gets this one wrong"


@pytest.fixture(scope="module")
def captions(captioner):
    return {
        name: explain(captioner.model, captioner.processor, open_photo(EXAMPLES / f"{name}.jpg")).caption
        for name in SHOWS
    }


def test_captions_are_right_if_they_name_what_is_shown():
    assert set(SHOWS) == {path.stem for path in EXAMPLES.glob("*.jpg")}
    assert find_noun("a small Cat on a table", SHOWS["chelsea"]) == 2
    assert find_noun("một con mèo", SHOWS["chelsea"]) == 2
    assert find_noun("một tách cà phê", ["cà phê"]) == 2
    assert find_noun("a catalogue of cats", SHOWS["chelsea"]) is None
    assert find_noun("", SHOWS["chelsea"]) is None


def test_page_opens_with_the_first_right_example(captioner, captions):
    path, answer, wrong = caption_examples(engine_of(captioner))
    assert wrong == [name for name, nouns in SHOWS.items() if find_noun(captions[name], nouns) is None]
    name = next((name for name in SHOWS if name not in wrong), next(iter(SHOWS)))
    assert path == str(EXAMPLES / f"{name}.jpg")
    assert answer["caption"] == captions[name]
    assert answer["resting"] == find_noun(captions[name], SHOWS[name])


@needs_browser
@pytest.mark.parametrize(
    ("width", "height", "theme"), [(360, 740, "dark"), slow_case(1280, 900, "light"), slow_case(1600, 900, "dark")]
)
def test_photo_caption_and_map_are_seen_without_scrolling_or_requests(open_page, captioner, width, height, theme):
    page = open_page(width, height, theme=theme)
    requests = []
    page.on("request", lambda request: requests.append(request))
    page.reload()
    page.locator(".word").first.wait_for()
    page.wait_for_load_state("networkidle")
    _, answer, _ = caption_examples(engine_of(captioner))
    assert page.locator(".sentence").inner_text() == " ".join(caption_words(page)) == answer["caption"]
    for element in ("img.photo", ".sentence", "#photo", ".word >> nth=0"):
        box = page.locator(element).bounding_box()
        assert box["y"] >= 0, element
        assert box["y"] + box["height"] <= height, element
        assert box["x"] + box["width"] <= width, element
    assert page.evaluate("[scrollY, document.documentElement.scrollWidth]") == [0, width]
    drop = page.locator("#photo button").first.bounding_box()
    assert drop["width"] > min(320, 0.4 * width)
    if answer["resting"] is not None:  # reduced motion: not played, but the noun's map is there
        assert page.locator(".word.shown").get_attribute("data-index") == str(answer["resting"])
        assert map_pixels(page).any()
    sent = [request.url for request in requests if request.method == "POST" or "queue" in request.url]
    assert sent == []


@needs_browser
def test_words_are_played_once(open_page, captioner):
    page = open_page(reduced_motion="no-preference")
    page.add_init_script("""
        window.seen = [];
        new MutationObserver(() => {
            const shown = document.querySelector(".word.shown")?.dataset.index ?? null;
            if (document.querySelector(".word") && shown !== window.seen.at(-1)) window.seen.push(shown);
        }).observe(document, { subtree: true, childList: true, attributeFilter: ["class"] });
    """)
    page.reload()
    _, answer, _ = caption_examples(engine_of(captioner))
    resting = None if answer["resting"] is None else str(answer["resting"])
    count = len(answer["words"])
    page.wait_for_function("count => window.seen.length > count", arg=count)
    page.locator("button.play:text-is('Play')").wait_for()
    assert page.evaluate("window.seen") == [*map(str, range(count)), resting]


@needs_browser
@PHONE_AND_DESKTOP
def test_wrong_examples_are_marked_in_words(open_page, captions, width, theme):
    page = open_page(width, theme=theme)
    page.locator(".gallery-item[data-example]").first.wait_for()
    for name, nouns in SHOWS.items():
        button = page.locator(f".gallery-item[aria-label^='{name}']")
        is_wrong = find_noun(captions[name], nouns) is None
        label = TEXTS["en"]["example_names"][name]
        assert button.get_attribute("aria-label") == (f"{label}. {MARK}" if is_wrong else label)
        mark = button.evaluate("button => getComputedStyle(button, '::after').content")
        assert mark == ('"wrong caption"' if is_wrong else "none")


@needs_browser
def test_another_captioner_has_its_own_marks(browser, tmp_path):
    """A captioner with random weights knows none of the nouns."""
    save_captioner(tmp_path / "model")
    with running_app(SimpleNamespace(folder=tmp_path / "model"), tmp_path) as address:
        page = browser.new_page(locale="vi-VN")
        page.goto(address)
        page.locator(".gallery-item[data-mark='mô tả sai']").nth(len(SHOWS) - 1).wait_for()
        assert page.locator(".word").count() > 0
        page.close()


@needs_browser
@PHONE_AND_DESKTOP
def test_example_can_be_explored_until_there_is_an_own_photo(open_page, captioner, width, theme):
    """Settings, alternatives and covering work for it, by keyboard; then it makes room."""
    page = open_page(width, theme=theme)
    page.locator(".word").nth(1).focus()
    if page.locator(".word").nth(1).get_attribute("aria-pressed") != "true":
        page.keyboard.press("Enter")
    page.locator(".alternative:visible:enabled:not(.chosen)").first.focus()
    chosen = page.evaluate("document.activeElement.querySelector('span').textContent")
    page.keyboard.press("Enter")
    page.locator(".words > li.prefix").first.wait_for()
    assert chosen in caption_words(page)
    assert page.locator("#photo").is_visible()

    page.get_by_text("Generation settings").click()
    length = page.get_by_label("number input for Maximum length")
    path, _, _ = caption_examples(engine_of(captioner))
    shorter = explain(captioner.model, captioner.processor, open_photo(path), max_new_tokens=3)
    words = "[...document.querySelectorAll('.word > span')].map((word) => word.textContent).join(' ')"
    for _ in range(20):
        length.fill("3")
        length.press("Enter")
        # On a loaded machine, Gradio sets a slider that has just appeared to its initial value after that.
        with contextlib.suppress(TimeoutError):
            page.wait_for_function(f"caption => {words} === caption", arg=shorter.caption, timeout=6_000)
            break
    assert " ".join(caption_words(page)) == shorter.caption
    assert page.locator("#photo").is_visible()

    page.locator(".word").first.focus()
    page.locator("button.cover-word").press("Enter")
    page.locator(".covered-sentence button").first.wait_for()

    upload_photo(page, EXAMPLES / "kite.jpg")
    assert not page.locator("#photo").is_visible()
    assert page.locator(".opening").count() == 0
    page.locator("button.remove-photo").press("Enter")
    page.locator("#photo button:focus").wait_for()
    assert not page.locator(".viewer").is_visible()


@needs_browser
def test_tab_key_reaches_the_upload_area_and_the_words(open_page):
    page = open_page()
    page.locator(".word").first.wait_for()
    page.get_by_role("tab", name="Caption").focus()
    reached = []
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.className + document.activeElement.ariaLabel"))
    upload = next(i for i, text in enumerate(reached) if "upload-container" in text)
    word = next(i for i, text in enumerate(reached) if text.startswith("word"))
    assert upload < word
