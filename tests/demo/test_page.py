"""The page's first tab, in a real browser with a running `app.py`."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from modeling_captioner import explain, open_photo
from tests.helpers.marks import slow_case
from tests.helpers.page_fixtures import (
    EXAMPLES,
    OWN_WORD,
    PHONE_AND_DESKTOP,
    SIDE,
    assert_no_serious_violations,
    brightest_region,
    caption_words,
    map_pixels,
    needs_browser,
    upload_photo,
)

pytestmark = needs_browser
PIXELS = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)


@PHONE_AND_DESKTOP
def test_photo_is_captioned_and_each_word_has_its_map(open_page, captioner, width, theme):
    page = open_page(width, theme=theme)
    upload_photo(page, EXAMPLES / "coffee.jpg")
    page.locator("input.blur").fill("0.15")  # the minimum: where the map is sampled, no neighbour mixes in
    expected = explain(captioner.model, captioner.processor, open_photo(EXAMPLES / "coffee.jpg"))
    assert " ".join(caption_words(page)) == expected.caption == page.locator(".sentence").text_content()

    drawn = []
    for number, word in enumerate(expected.words):
        page.locator(".word").nth(number).hover()
        drawn.append(map_pixels(page))
        assert word.map[brightest_region(drawn[-1])] > 0.97 * word.map.max(), word.text
    maps = np.stack([word.map for word in expected.words])
    furthest = np.abs(maps - maps[0]).sum(axis=(1, 2)).argmax()
    assert np.abs(drawn[0].astype(int) - drawn[furthest]).mean() > 2
    page.locator("input.strength").fill("0")
    assert not map_pixels(page)[:, :, 3].any()


def test_tapping_a_word_shows_its_map(open_page):
    page = open_page(width=360, has_touch=True)
    upload_photo(page, EXAMPLES / "path.jpg")
    pinned = page.locator(".word[aria-pressed=true]")  # the word with the sharpest map, whose map is shown
    first, pixels = int(pinned.get_attribute("data-index")), map_pixels(page)
    assert pixels.any()
    other = page.locator(".word").nth(0 if first else 1)
    other.tap()
    assert other.get_attribute("aria-pressed") == "true"
    assert not np.array_equal(map_pixels(page), pixels)
    other.tap()
    assert pinned.count() == 0


def test_regions_show_the_grid_of_weights(open_page, captioner):
    page = open_page()
    upload_photo(page, EXAMPLES / "path.jpg")
    page.locator("button.regions").click()
    words = explain(captioner.model, captioner.processor, open_photo(EXAMPLES / "path.jpg")).words
    for number, word in enumerate(words):
        page.locator(".word").nth(number).hover()
        assert word.map[brightest_region(map_pixels(page))] > 0.97 * word.map.max(), word.text


@pytest.mark.parametrize(
    ("widths", "zoom"), [((360, 1280), 3), slow_case((1280, 360), 1), slow_case((1600, 1000), 1.5)]
)
def test_map_covers_the_photo_exactly(open_page, widths, zoom):
    """At every size and zoom, and when they change."""
    page = open_page(width=widths[0], device_scale_factor=zoom)
    upload_photo(page, EXAMPLES / "kite.jpg")
    size = Image.open(EXAMPLES / "kite.jpg").size
    ratio = size[0] / size[1]
    for width in widths:
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function(
            """zoom => {
                const [picture, canvas] = [".photo", ".map"].map((name) => document.querySelector(name));
                return canvas.width === Math.round(picture.getBoundingClientRect().width * zoom);
            }""",
            arg=zoom,
        )
        picture, canvas = page.locator("img.photo").bounding_box(), page.locator("canvas.map").bounding_box()
        assert picture == pytest.approx(canvas, abs=0.1)
        assert picture["width"] / picture["height"] == pytest.approx(ratio, rel=0.01)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_photo_is_turned_as_its_exif_says(open_page):
    page = open_page()
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.open(EXAMPLES / "kite.jpg").save(file, "JPEG", exif=exif)
    upload_photo(page, ("turned.jpg", file.getvalue()))
    box = page.locator("img.photo").bounding_box()
    assert box["width"] < box["height"]


@pytest.mark.parametrize("size", [(3000, 120), *map(slow_case, ((120, 3000), (3, 2)))])
def test_map_is_visible_on_photos_of_any_shape(open_page, size):
    page = open_page(width=360)
    file = io.BytesIO()
    open_photo(EXAMPLES / "boats.jpg").resize(size).save(file, "PNG")
    upload_photo(page, ("odd.png", file.getvalue()))
    picture, canvas = page.locator("img.photo").bounding_box(), page.locator("canvas.map").bounding_box()
    assert picture == pytest.approx(canvas, abs=0.5)
    assert max(picture["width"], picture["height"]) > 300
    assert picture["width"] / picture["height"] == pytest.approx(size[0] / size[1], rel=0.05)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_broken_photo_gets_an_error_message_and_the_next_a_caption(open_page):
    page = open_page()
    upload_photo(page, ("holiday.jpg", b"no picture at all"))
    assert re.fullmatch(r"holiday\.jpg is not a readable image; .*\.", page.locator(".message").text_content())
    assert page.locator(".word").count() == 0
    page.locator("#photo input[type=file]").first.set_input_files(EXAMPLES / "path.jpg")
    page.locator(OWN_WORD).first.wait_for()
    assert not page.locator(".message").is_visible()


def test_words_and_maps_are_accessible_by_keyboard(open_page):
    page = open_page()
    upload_photo(page, EXAMPLES / "chelsea.jpg")
    page.locator(".word").first.focus()
    first = map_pixels(page)
    page.keyboard.press("ArrowRight")
    assert not np.array_equal(first, map_pixels(page))
    if page.locator(".word").nth(1).get_attribute("aria-pressed") != "true":
        page.keyboard.press("Enter")
    assert page.locator(".word").nth(1).get_attribute("aria-pressed") == "true"
    assert re.match(
        r".+, probability .+%\. Looked mostly at the .+", page.locator(".word").nth(1).get_attribute("aria-label")
    )
    page.keyboard.press("ArrowDown")  # to the first alternative for this word
    page.keyboard.press("ArrowDown")
    other = page.evaluate("document.activeElement.querySelector('span').textContent")
    page.keyboard.press("Enter")
    page.locator(".words > li.prefix").nth(1).wait_for()
    assert page.evaluate("document.activeElement.querySelector('span').textContent") == other == caption_words(page)[1]
    page.locator("button.remove-photo").focus()
    page.keyboard.press("Enter")
    page.locator("#photo button:focus").wait_for()


def test_hovering_draws_within_two_frames_without_requests(open_page):
    """Count the frames from the mouse event to the first frame with the map, and measure how long drawing takes."""
    page = open_page()
    upload_photo(page, EXAMPLES / "boats.jpg")
    page.wait_for_load_state("networkidle")
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.evaluate("""() => {
        const canvas = document.querySelector("canvas.map");
        const drawn = () => canvas.getContext("2d").getImageData(9, 9, 1, 1).data[3] > 0; // blocks until drawn
        window.waits = [];
        document.addEventListener("pointerover", (event) => {
            if (!event.target.closest(".word")) return;
            canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
            const before = performance.now();
            let [frames, drawing] = [0, null];
            const frame = () => {
                frames += 1;
                if (drawn()) window.waits.push([frames, drawing]);
                else requestAnimationFrame(frame);
            };
            requestAnimationFrame(frame);
            document.addEventListener("pointerover", () => {
                drawing = drawn() ? performance.now() - before : Infinity;
            }, { once: true });
        }, true);
    }""")
    words = page.locator(".word").all()
    for number, word in enumerate(words):
        word.hover()
        page.wait_for_function("count => window.waits.length >= count", arg=number + 1)
    frames, milliseconds = zip(*page.evaluate("window.waits"), strict=True)
    assert max(frames) <= 2
    assert min(milliseconds) < 33  # two frames; other processes may delay some words, but not all
    assert requests == []


def test_hovering_the_photo_highlights_the_words_that_looked_there(open_page, captioner):
    page = open_page()
    upload_photo(page, EXAMPLES / "coffee.jpg")
    words = explain(captioner.model, captioner.processor, open_photo(EXAMPLES / "coffee.jpg")).words
    box = page.locator("img.photo").bounding_box()
    for number in (0, len(words) - 1):
        row, column = divmod(int(words[number].map.argmax()), SIDE)
        page.mouse.move(box["x"] + (column + 0.5) / SIDE * box["width"], box["y"] + (row + 0.5) / SIDE * box["height"])
        lights = [
            float(word.evaluate("e => e.style.getPropertyValue('--attention')")) for word in page.locator(".word").all()
        ]
        expected = [word.map[row, column] / max(word.map.max(), 4 / SIDE**2) for word in words]
        assert lights == pytest.approx(expected, abs=0.01)


def test_example_is_revealed_word_by_word_and_can_be_played(open_page):
    """`seen` records every change, regardless of timing: how many words are still hidden, and which map is shown."""
    page = open_page(reduced_motion="no-preference")
    page.locator("button.play:text-is('Play')").wait_for()  # the example with which the page opens has been played
    page.locator(".words").evaluate("""words => {
        window.seen = [];
        new MutationObserver(() => {
            const shown = words.querySelector(".shown")?.dataset.index ?? null;
            window.seen.push([words.querySelectorAll(".upcoming").length, shown && Number(shown)]);
        }).observe(words, { subtree: true, childList: true, attributeFilter: ["class"] });
    }""")
    page.locator(".gallery-item[aria-label^='chelsea']").press("Enter")
    page.wait_for_function("window.seen.length > document.querySelectorAll('.word').length")
    count = len(caption_words(page))
    pinned = int(page.locator(".word[aria-pressed=true]").get_attribute("data-index"))  # its map stays
    assert page.evaluate("window.seen") == [*([count - 1 - number, number] for number in range(count)), [0, pinned]]
    page.evaluate("window.seen = []")
    page.locator("button.play").click()
    page.wait_for_function("window.seen.length >= 3")
    assert page.evaluate("window.seen")[:3] == [[0, 0], [0, 1], [0, 2]]


def test_revealing_can_be_skipped(open_page):
    page = open_page(reduced_motion="no-preference")
    page.locator("button.play:text-is('Play')").wait_for()  # the example with which the page opens has been played
    page.locator(".words").evaluate("""words => {
        const unsaid = () => words.querySelectorAll(".upcoming").length;
        new MutationObserver(() => {
            if (!unsaid() || window.skipped) return;
            window.skipped = [unsaid()];
            words.querySelector(".word").dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
            window.skipped.push(unsaid());
        }).observe(words, { subtree: true, childList: true, attributeFilter: ["class"] });
    }""")
    upload_photo(page, EXAMPLES / "chelsea.jpg")
    page.wait_for_function("window.skipped")
    before, after = page.evaluate("window.skipped")
    assert before > after == 0


@PHONE_AND_DESKTOP
def test_choosing_an_alternative_continues_the_caption(open_page, captioner, width, theme):
    page = open_page(width, theme=theme)
    upload_photo(page, EXAMPLES / "coffee.jpg")
    photo = open_photo(EXAMPLES / "coffee.jpg")
    words = explain(captioner.model, captioner.processor, photo).words
    position = 2
    other = next(text for text, _ in words[position].alternatives if text != words[position].text and text[0] != "<")
    prefix = " ".join([word.text for word in words[:position]] + [other])
    alternatives = page.locator(".words > li").nth(position).locator(".alternative")
    assert alternatives.count() == 5
    if page.locator(".word").nth(position).get_attribute("aria-pressed") != "true":
        page.locator(".word").nth(position).click()  # on a phone, only the selected word shows its alternatives
    alternatives.filter(has_text=re.compile(rf"^{other}[0-9]")).click()
    page.locator(".words > li.prefix").nth(position).wait_for()
    assert " ".join(caption_words(page)) == explain(captioner.model, captioner.processor, photo, text=prefix).caption


def test_beams_are_listed_with_their_scores(open_page, captioner):
    page = open_page()
    upload_photo(page, EXAMPLES / "coffee.jpg")
    page.get_by_text("Generation settings").click()
    beams = page.get_by_label("number input for Beams")
    beams.fill("3")
    beams.press("Enter")
    page.locator(".beams li").nth(2).wait_for()
    expected = explain(captioner.model, captioner.processor, open_photo(EXAMPLES / "coffee.jpg"), num_beams=3).beams
    for beam, (caption, log_probability) in zip(page.locator(".beams li").all(), expected, strict=True):
        assert beam.locator("span").text_content() == caption
        average, total = map(float, re.findall(r"-?[\d.]+", beam.locator("small").text_content()))
        assert total == pytest.approx(log_probability, abs=0.011)
        assert average == pytest.approx(log_probability / (len(caption.split()) + 1), abs=0.011)
    chosen = page.locator(".beam").nth(1)
    caption = chosen.locator("span").text_content()
    chosen.click()
    page.wait_for_function("text => document.querySelector('.sentence').textContent === text", arg=caption)
    page.locator("button.original").click()
    assert page.locator(".sentence").text_content() == expected[0][0]


@PHONE_AND_DESKTOP
def test_covering_shows_how_each_probability_drops(open_page, captioner, width, theme):
    page = open_page(width, theme=theme)
    upload_photo(page, EXAMPLES / "coffee.jpg")
    first = caption_words(page)
    page.locator("button.brush").click()
    page.locator("img.photo").scroll_into_view_if_needed()
    box = page.locator("img.photo").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.5, steps=5)
    page.mouse.up()
    page.locator(".covered-sentence button").first.wait_for()
    assert all(re.fullmatch(r"[\d.]+% → [\d.]+%", text) for text in page.locator(".word small").all_text_contents())
    assert caption_words(page) == first
    page.locator("button.uncover").click()
    assert not page.locator(".covered").is_visible()

    page.locator(".word").first.focus()
    page.locator("button.cover-word").click()
    page.locator(".covered-sentence button").first.wait_for()
    photo = open_photo(EXAMPLES / "coffee.jpg")
    before = explain(captioner.model, captioner.processor, photo).words[0]
    order = np.argsort(-before.map.ravel(), kind="stable")
    needed = int(np.searchsorted(np.cumsum(before.map.ravel()[order]), 0.5)) + 1
    hidden = np.zeros(SIDE * SIDE, bool)
    hidden[order[: min(needed, SIDE * SIDE // 4)]] = True
    mask = np.kron(hidden.reshape(SIDE, SIDE), np.ones((6, 6), np.uint8)) * 255
    mask = Image.fromarray(mask.astype(np.uint8)).resize(photo.size, Image.BILINEAR)
    covered = Image.composite(Image.new("RGB", photo.size, (128, 128, 128)), photo, mask)
    after = explain(captioner.model, captioner.processor, covered)
    words = page.locator(".covered-sentence button").all_text_contents()
    assert " ".join(words) == after.caption
    changed = page.locator(".covered-sentence .changed").count()
    label = page.locator(".covered-label").text_content()
    assert ("Unchanged" in label) == (after.caption == " ".join(first)) == (changed == 0 and len(words) == len(first))
    plain = map_pixels(page)
    page.locator(".covered-sentence button").last.hover()  # the second caption has maps of its own
    assert not np.array_equal(map_pixels(page), plain)


def test_photo_dropped_on_the_viewer_replaces_the_current_one(open_page):
    page = open_page()
    upload_photo(page, EXAMPLES / "kite.jpg")
    data = page.evaluate_handle(
        """async (url) => {
            const file = new File([await (await fetch(url)).blob()], "next.png", { type: "image/png" });
            const data = new DataTransfer();
            data.items.add(file);
            return data;
        }""",
        PIXELS,
    )
    before = page.locator("img.photo").get_attribute("src")
    page.locator(".viewer").dispatch_event("drop", {"dataTransfer": data})
    page.wait_for_function("before => document.querySelector('img.photo').src !== before", arg=before)


def test_photo_pasted_into_the_page_as_it_opens_is_captioned(open_page):
    page = open_page()
    page.locator(".gallery-item[aria-label]").first.wait_for()
    page.evaluate(
        """async (url) => {
            const data = new DataTransfer();
            data.items.add(new File([await (await fetch(url)).blob()], "pasted.png", { type: "image/png" }));
            document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
        }""",
        PIXELS,
    )
    page.locator(OWN_WORD).first.wait_for()
    assert page.locator("img.photo").evaluate("async (e) => (await e.decode(), e.naturalWidth === e.naturalHeight)")


def test_webcam_photo_is_captioned(open_page):
    page = open_page(permissions=["camera"])
    page.get_by_label("Capture from camera").click()
    page.get_by_text("Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('#photo video')?.videoWidth > 0")
    page.get_by_label("capture photo").click()
    page.locator(OWN_WORD).first.wait_for()


@pytest.mark.parametrize(
    ("width", "theme"), [(360, "dark"), slow_case(360, "light"), slow_case(1280, "dark"), slow_case(1280, "light")]
)
def test_axe_finds_no_serious_violations(open_page, width, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    page = open_page(width=width, theme=theme)
    page.locator(".gallery-item[aria-label]").first.wait_for()
    assert_no_serious_violations(axe, page)
    upload_photo(page, EXAMPLES / "chelsea.jpg")
    page.locator(".word").first.click()
    page.locator("button.cover-word").click()
    page.locator(".covered-sentence button").first.wait_for()
    page.get_by_text("Generation settings").click()
    assert_no_serious_violations(axe, page)
    page.get_by_role("tab", name="How it works").click()
    page.locator(".tour:visible").wait_for()
    assert_no_serious_violations(axe, page)
    page.get_by_role("tab", name="Many photos").click()
    page.locator("#start").wait_for()
    assert_no_serious_violations(axe, page)
    page.locator("#files input[type=file]").set_input_files(EXAMPLES / "coffee.jpg")
    page.locator("#files").get_by_text("coffee").first.wait_for()
    page.locator("#start").click()
    page.locator("#csv:not([disabled])").wait_for()
    # Gradio's file list (6.31) has an input inside a button.
    assert_no_serious_violations(axe, page, exclude=[["#files"]])
