"""The tab "Side by side" in a real browser, with two captioners whose attention differs."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from captioning.loading import load_captioner
from modeling_captioner import explain, open_photo
from tests.helpers.marks import slow_case
from tests.helpers.page_client import PageClient, file_data
from tests.helpers.page_fixtures import (
    EXAMPLES,
    assert_no_serious_violations,
    brightest_region,
    caption_words,
    map_pixels,
    needs_browser,
    running_app,
    save_captioner,
)
from tests.helpers.programs import run_python

ASTRONAUT, KITE = EXAMPLES / "astronaut.jpg", EXAMPLES / "kite.jpg"  # the tab opens with the first example


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folders of two captioners. The second generates with three beams."""
    folders = {name: tmp_path_factory.mktemp("captioners") / name for name in ("dot", "additive")}
    for name, folder in folders.items():
        save_captioner(folder, attention_type=name)
    file = folders["additive"] / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_beams": 3}))
    return folders


@pytest.fixture(scope="module")
def explain_with(folders):
    """Explains a photo with one of the captioners, without the page."""
    captioners = {name: load_captioner(str(folder), "cpu", "float32") for name, folder in folders.items()}
    return lambda name, photo, **settings: explain(*captioners[name], open_photo(photo), **settings)


@pytest.fixture(scope="module")
def address(folders, tmp_path_factory):
    options = ["--model", str(folders["additive"])]
    with running_app(SimpleNamespace(folder=folders["dot"]), tmp_path_factory.mktemp("app"), *options) as address:
        yield address


@pytest.fixture
def open_sides(open_page):
    """Open the tab. Returns the page and both sides, with their captions."""

    def open_(**options):
        page = open_page(**options)
        page.get_by_role("tab", name="Side by side").click()
        sides = page.locator("#side_a"), page.locator("#side_b")
        for side in sides:
            wait_for_caption(side)
        return page, *sides

    return open_


def wait_for_caption(side):
    side.locator(".word").first.wait_for()
    side.locator("img.photo").evaluate("photo => photo.decode()")


def wait_for_words(side, caption):
    side.locator(".sentence").get_by_text(caption, exact=True).wait_for(state="attached")
    assert " ".join(caption_words(side)) == caption


def upload(side, photo):
    side.locator(".photo-input input[type=file]").first.set_input_files(photo)
    wait_for_caption(side)


def photo_of(side):
    return side.locator("img.photo").get_attribute("src")


@needs_browser
@pytest.mark.parametrize(("width", "theme"), [(360, "dark"), slow_case(1280, "light"), slow_case(1600, "dark")])
def test_two_captioners_show_their_own_words_and_maps(open_sides, explain_with, width, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    page, left, right = open_sides(width=width, theme=theme)
    assert photo_of(left) == photo_of(right)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [side.bounding_box() for side in (left, right)]
    assert (boxes[0]["y"] == boxes[1]["y"]) == (width > 360)  # next to each other, or below each other

    peaks = []
    for side, name in ((left, "dot"), (right, "additive")):
        expected = explain_with(name, ASTRONAUT)
        assert " ".join(caption_words(side)) == expected.caption
        side.locator("input.blur").evaluate("e => { e.value = 0.15; e.dispatchEvent(new Event('input')); }")
        for number, word in enumerate(expected.words):
            side.locator(".word").nth(number).hover()
            assert word.map[brightest_region(map_pixels(side))] > 0.97 * word.map.max(), (name, word.text)
        peaks.append({int(word.map.argmax()) for word in expected.words})
    assert peaks[0].isdisjoint(peaks[1])  # a side that showed the other's maps would fail
    assert_no_serious_violations(axe, page)


@needs_browser
def test_two_photos(open_sides, explain_with):
    page, left, right = open_sides()
    first = photo_of(left)
    page.locator("#same_photo input").uncheck()
    right.locator("button.remove-photo").click()
    upload(right, KITE)
    wait_for_words(right, explain_with("additive", KITE).caption)
    assert photo_of(right) != photo_of(left) == first
    wait_for_words(left, explain_with("dot", ASTRONAUT).caption)

    page.locator("#same_photo input").check()
    wait_for_words(right, explain_with("additive", ASTRONAUT).caption)
    assert photo_of(right) == first
    right.locator("button.remove-photo").click()  # from both sides
    left.locator(".viewer").wait_for(state="hidden")
    upload(left, KITE)
    wait_for_words(left, explain_with("dot", KITE).caption)
    wait_for_words(right, explain_with("additive", KITE).caption)


@needs_browser
def test_two_settings_of_one_captioner(open_sides, explain_with):
    _, left, right = open_sides()
    right.get_by_label("dot", exact=True).check()
    beams = right.get_by_label("number input for Beams")
    beams.fill("4")
    beams.press("Enter")
    right.locator(".beams li").nth(3).wait_for()
    searched, greedy = explain_with("dot", ASTRONAUT, num_beams=4), explain_with("dot", ASTRONAUT, num_beams=1)
    wait_for_words(right, searched.caption)
    wait_for_words(left, greedy.caption)
    assert searched.caption != greedy.caption


@needs_browser
def test_word_is_shown_on_the_other_side_if_its_caption_has_it(open_sides, explain_with):
    """At its nearest occurrence, with the map of the other captioner."""
    _, left, right = open_sides()
    own, other = ([word.text for word in explain_with(name, ASTRONAUT).words] for name in ("dot", "additive"))
    shared = [number for number, word in enumerate(own) if word in other]
    lacking = [number for number, word in enumerate(own) if word not in other]
    assert shared
    assert lacking
    for number in shared:
        left.locator(".word").nth(number).hover()
        shown = [int(word.get_attribute("data-index")) for word in right.locator(".word.shown").all()]
        places = [place for place, word in enumerate(other) if word == own[number]]
        assert shown == [min(places, key=lambda place: abs(place - number))]
        assert map_pixels(right).any()
    left.locator(".word").nth(lacking[0]).hover()
    assert right.locator(".word.shown").count() == 0
    assert not map_pixels(right).any()


@needs_browser
def test_caption_continues_with_the_captioner_of_its_side(open_sides, explain_with):
    _, left, right = open_sides()
    first = caption_words(left)
    words = explain_with("additive", ASTRONAUT).words
    other = next(text for text, _ in words[1].alternatives if text != words[1].text and text[0] != "<")
    alternatives = right.locator(".words > li").nth(1).locator(".alternative")
    alternatives.filter(has_text=re.compile(rf"^{other}[0-9]")).click()
    right.locator(".words > li.prefix").nth(1).wait_for()
    text = f"{words[0].text} {other}"
    assert " ".join(caption_words(right)) == explain_with("additive", ASTRONAUT, text=text).caption
    assert caption_words(left) == first


@needs_browser
def test_sides_are_accessible_by_keyboard(open_sides):
    page, left, right = open_sides()
    right.get_by_label("additive").focus()
    page.keyboard.press("ArrowUp")
    page.wait_for_function("document.querySelector('#side_b .beams').hidden === false")
    left.locator(".word").first.focus()
    first = map_pixels(left)
    page.keyboard.press("ArrowRight")
    assert not np.array_equal(first, map_pixels(left))
    pinned = [side.locator(".word[aria-pressed=true]").all_text_contents() for side in (left, right)]
    page.keyboard.press("Enter")
    assert left.locator(".word[aria-pressed=true]").all_text_contents() != pinned[0]
    assert right.locator(".word[aria-pressed=true]").all_text_contents() == pinned[1]
    page.locator("#same_photo input").focus()
    page.keyboard.press("Space")
    right.locator("button.remove-photo").focus()
    page.keyboard.press("Enter")
    right.locator(".photo-input button:focus").wait_for()
    assert left.locator(".viewer").is_visible()


@needs_browser
def test_one_captioner_compares_greedy_search_with_its_own_beams(browser, folders, explain_with, tmp_path):
    with running_app(SimpleNamespace(folder=folders["additive"]), tmp_path) as address:
        page = browser.new_page(reduced_motion="reduce")
        page.goto(address)
        page.get_by_role("tab", name="Side by side").click()
        for side, num_beams in (("a", 1), ("b", 3)):
            wait_for_caption(page.locator(f"#side_{side}"))
            wait_for_words(
                page.locator(f"#side_{side}"), explain_with("additive", ASTRONAUT, num_beams=num_beams).caption
            )
        assert page.get_by_text("Captioner", exact=True).count() == 0  # there is nothing to choose
        page.close()


def test_limits_of_a_public_page_hold(address):
    client = PageClient(address)
    photo = client.upload_photo("kite.jpg", KITE.read_bytes())
    for side in ("a", "b"):
        answer = client.trigger(f"photo_{side}", "change", photo, "additive", 1)
        assert "words" in str(answer)
        for data in (file_data(str(KITE)), {"path": str(KITE)}, file_data("https://huggingface.co/large.bin")):
            assert "error" in client.trigger(f"photo_{side}", "change", data, "dot", 1), data
            event = {"event_data": {"text": "a"}}
            assert "error" in client.trigger(f"viewer_{side}", "continue_caption", data, "dot", 1, **event), data
        for settings in (["../dot", 1], [None, 1], ["dot", 9], ["dot", None]):
            answer = client.trigger(f"photo_{side}", "change", photo, *settings)
            assert "error" in answer, settings
            assert "Traceback" not in str(answer)
    endpoints = client.http.get("gradio_api/info").json()["named_endpoints"]
    assert list(endpoints) == ["/caption"]


@pytest.mark.parametrize("options", [["--model", "missing/"], ["--deploy", "ann/page"]])
def test_second_captioner_that_cannot_be_used_gets_one_sentence(folders, options):
    app = run_python("app.py", "--model", folders["dot"], "--model", folders["additive"], *options)
    assert app.returncode == 1
    assert re.fullmatch(r"error: (missing/|--deploy) .+\.\n", app.stderr)
