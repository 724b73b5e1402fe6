"""The caption as a sentence on the page, and what visitors take along: its text, a picture of all maps, a film."""

import io

import numpy as np
import pytest
from PIL import Image

from modeling_captioner import explain, open_photo
from tests.helpers.page_fixtures import EXAMPLES, PHONE_AND_DESKTOP, brightest_region, needs_browser, upload_photo

pytestmark = needs_browser
TILE, GAP, LABEL, LINE = 228, 14, 30, 30  # pixels; as demo/pictures.js lays the picture out


@pytest.fixture(scope="module")
def pale(captioner):
    """A photo of little contrast, on which the greenest spot is the map's, as a file, and its explanation."""
    photo = open_photo(EXAMPLES / "coffee.jpg")
    file = io.BytesIO()
    Image.blend(Image.new("RGB", photo.size, "gray"), photo, 0.08).save(file, "PNG")
    explanation = explain(captioner.model, captioner.processor, open_photo(file))
    return ("pale.png", file.getvalue()), explanation


def save(page, button):
    """Press the button with the keyboard. Returns the downloaded file, opened, and its name."""
    page.locator(button).focus()
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    page.locator(".status").get_by_text(f"Saved as {download.value.suggested_filename}").wait_for()
    return Image.open(download.value.path()), download.value.suggested_filename


@PHONE_AND_DESKTOP
def test_sentence_is_selected_and_copied(open_page, captioner, width, theme):
    page = open_page(width, theme=theme, permissions=["clipboard-read", "clipboard-write"])
    upload_photo(page, EXAMPLES / "chelsea.jpg")
    caption = explain(captioner.model, captioner.processor, open_photo(EXAMPLES / "chelsea.jpg")).caption
    assert page.locator(".sentence").inner_text() == caption
    assert page.locator(".sentence").bounding_box()["y"] < page.locator(".words").bounding_box()["y"]
    page.locator(".sentence").click(click_count=3)
    assert page.evaluate("getSelection().toString().trim()") == caption
    page.locator("button.copy").focus()
    page.keyboard.press("Enter")
    page.locator(".status:visible").get_by_text("Copied").wait_for()
    assert page.locator(".status").get_attribute("role") == "status"  # read out when it changes
    assert page.evaluate("navigator.clipboard.readText()") == caption
    page.mouse.move(0, 0)  # where no word scrolls under it
    page.locator(".word").nth(1).focus()
    assert page.locator(".sentence .shown").all_inner_texts() == [caption.split()[1]]
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_sentence_is_copied_without_https(open_page):
    """A page on a local network has no `navigator.clipboard`."""
    page = open_page(locale="vi-VN")
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    upload_photo(page, EXAMPLES / "path.jpg")
    page.get_by_role("button", name="Sao chép").click()
    page.locator(".status:visible").get_by_text("Đã sao chép").wait_for()
    page.evaluate("document.body.append(Object.assign(document.createElement('textarea'), { id: 'note' }))")
    page.locator("#note").press("Control+v")
    assert page.locator("#note").input_value() == page.locator(".sentence").text_content()


@PHONE_AND_DESKTOP
def test_picture_has_a_tile_with_the_map_of_each_word(open_page, pale, width, theme):
    page = open_page(width, theme=theme)
    photo, explanation = pale
    upload_photo(page, photo)
    page.locator("input.blur").fill("0.15")  # the minimum: cells do not mix; the picture is drawn as the page is
    picture, name = save(page, "button.save-picture")
    words = explanation.words
    assert name == explanation.caption.replace(" ", "-") + ".png"
    tall = round(TILE * 400 / 600)
    rows = -(-(1 + len(words)) // 6)
    assert picture.size == (GAP + 6 * (TILE + GAP), GAP + LINE + LABEL + rows * (LABEL + tall + GAP))
    pixels = np.asarray(picture.convert("RGB"))
    for number, word in enumerate(words, start=1):
        left, top = GAP + number % 6 * (TILE + GAP), GAP + LINE + 2 * LABEL + number // 6 * (LABEL + tall + GAP)
        tile = pixels[top : top + tall, left : left + TILE]
        assert word.map[brightest_region(tile[..., 1:2])] > 0.9 * word.map.max(), word.text
        label = pixels[top - LABEL + 4 : top - 2, left : left + TILE]
        assert (label.min(axis=(0, 2)) < 100).sum() > 20, word.text
    assert (pixels[:GAP, :] == 255).all()


@PHONE_AND_DESKTOP
def test_film_has_a_frame_for_each_word(open_page, pale, width, theme):
    page = open_page(width, theme=theme)
    photo, explanation = pale
    upload_photo(page, photo)
    page.locator("input.blur").fill("0.15")
    film, name = save(page, "button.save-film")
    assert name == explanation.caption.replace(" ", "-") + ".webp"
    assert (film.format, film.n_frames, film.info["loop"]) == ("WEBP", len(explanation.words), 0)
    tall = round(640 * 400 / 600)
    frames, times = [], []
    for number, word in enumerate(explanation.words):
        film.seek(number)
        frames.append(np.asarray(film.convert("RGB")).astype(int))
        times.append(film.info["duration"])
        assert frames[-1].shape[1] == 640
        assert word.map[brightest_region(frames[-1][:tall, :, 1:2])] > 0.9 * word.map.max(), word.text
    assert times == [900] * (len(times) - 1) + [2500]
    inked = [(frame[tall + 8 :].max(axis=2) < 90).sum() for frame in frames]
    assert inked == sorted(set(inked))  # the sentence grows


def test_browser_that_writes_no_webp_says_so(open_page):
    """Safari's `toBlob` returns PNG instead."""
    page = open_page()
    upload_photo(page, EXAMPLES / "path.jpg")
    page.evaluate("""() => {
        const toBlob = HTMLCanvasElement.prototype.toBlob;
        HTMLCanvasElement.prototype.toBlob = function (callback) { toBlob.call(this, callback, "image/png"); };
    }""")
    page.locator("button.save-film").click()
    page.locator(".status:visible").get_by_text("This browser cannot write films").wait_for()
