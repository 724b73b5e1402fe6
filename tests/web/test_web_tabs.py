"""The page without a server before its captioner is there, and its tabs: side by side, many photos, the camera."""

import csv
import io
import json
import threading

import numpy as np
import pytest

from modeling_captioner import open_photo
from modeling_captioner.onnx_captioner import OnnxCaptioner
from publishing.static_site import site_files
from tests.helpers.page_fixtures import (
    EXAMPLES,
    assert_no_serious_violations,
    caption_words,
    choose_photo,
    needs_browser,
)
from tests.helpers.paths import SHIPPED
from tests.helpers.photo_server import FileServer

pytestmark = needs_browser


@pytest.mark.slow
def test_before_the_captioner_is_there(site, open_site, reference):
    """The page opens with an example and its caption; a photo is seen at once, and captioned later."""
    (encoder,) = (path for path in site_files(site) if "encoder" in path)
    with FileServer(site) as server:
        server.held[encoder] = threading.Event()
        page, _ = open_site(server.address)
        opening = json.loads((site / "opening.json").read_text())["answers"]
        assert " ".join(caption_words(page)) in [answer["caption"] for answer in opening.values()]
        assert page.locator("img.photo").get_attribute("src").startswith("examples/")
        assert page.locator(".photo-input").is_visible()
        total = sum(
            size for path, (size, _) in json.loads((site / "large_files.json").read_text()).items() if "asy" not in path
        )
        page.get_by_text(f"of {total / 1e6:.1f} MB …").wait_for()
        page.locator(".photo-input input").set_input_files(EXAMPLES / "kite.jpg")
        page.locator("img.photo[src^='data:']").wait_for()
        assert (
            page.locator(".photo").evaluate("async (e) => (await e.decode(), e.naturalWidth / e.naturalHeight)") > 1.2
        )
        assert not page.locator(".word, .message:visible").count()
        server.held[encoder].set()
        page.locator(".word").first.wait_for()
        assert (
            " ".join(caption_words(page)) == OnnxCaptioner(SHIPPED).explain(open_photo(EXAMPLES / "kite.jpg")).caption
        )
        assert page.locator("#status").text_content() == ""


@pytest.mark.slow
def test_the_example_can_be_changed_like_a_photo(site, open_site, reference):
    with FileServer(site) as server:
        page, _ = open_site(server.address)
        answer = next(iter(json.loads((site / "opening.json").read_text())["answers"].values()))
        other = page.locator(".words > li").nth(1).locator(".alternative:enabled:not(.chosen)").first
        text = f"{answer['words'][0]['text']} {other.locator('span').text_content()}"
        other.click()
        page.locator(".words > li.prefix").nth(1).wait_for()
        photo = open_photo(site / answer["photo"])
        assert " ".join(caption_words(page)) == reference.explain(photo, text=text).caption


@pytest.mark.slow
def test_two_captions_side_by_side(visit, reference):
    """Greedy search beside beams; a word is shown on both sides; then two photos."""
    page = visit.page
    choose_photo(page, EXAMPLES / "coffee.jpg")
    page.get_by_role("tab", name="Side by side").click()
    sides = [page.locator("#comparison > section").nth(number) for number in (0, 1)]
    photo = open_photo(EXAMPLES / "coffee.jpg")
    expected = [OnnxCaptioner(SHIPPED, num_beams=1).explain(photo).caption, reference.explain(photo).caption]
    for side, caption in zip(sides, expected, strict=True):
        side.locator(".sentence", has_text=caption).wait_for()
    sides[0].locator(".word").first.hover()
    assert sides[1].locator(".word.shown > span").all_text_contents() == caption_words(sides[0])[:1]
    page.get_by_label("The same photo on both sides").uncheck()
    sides[1].locator(".photo-input input").set_input_files(EXAMPLES / "kite.jpg")
    caption = reference.explain(open_photo(EXAMPLES / "kite.jpg")).caption
    sides[1].locator(".sentence", has_text=caption).wait_for()
    assert sides[0].locator(".sentence").text_content() == expected[0]


def test_lecture(visit):
    """The tour of the visitor's photo and caption, from the captioner's own graphs."""
    page = visit.page
    page.get_by_role("tab", name="Caption").click()
    choose_photo(page, EXAMPLES / "coffee.jpg")
    words = caption_words(page.locator("#caption_tab"))
    page.get_by_role("tab", name="How it works").click()
    tour = page.locator("#how_tab")
    tour.locator(".tour:visible").wait_for()
    assert tour.locator(".word-choice button").all_text_contents() == [*words, "<end>"]
    steps, text = [], ""
    while True:
        steps.append(tour.locator(".panel").get_attribute("data-step"))
        text += tour.locator(".panel").text_content()
        if tour.locator(".next").is_disabled():
            break
        tour.locator(".next").click()
    assert {"pixels", "stages", "regions", "transfer", "attention", "context", "second", "next"} <= {*steps}
    assert "8 \u00d7 8 \u00d7 2,048" in text
    assert "undefined" not in text
    assert "NaN" not in text
    page.get_by_role("tab", name="Caption").click()


def test_many_photos(visit, reference, tmp_path):
    """A folder with one file that is no photo, and one whose name a spreadsheet would take for a formula."""
    page, folder = visit.page, tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name, path in (("chelsea", "more/cat.jpg"), ("kite", "=1+1.jpg"), ("coffee", "tách, cà phê.jpg")):
        (folder / path).write_bytes((EXAMPLES / f"{name}.jpg").read_bytes())
    (folder / "notes.txt").write_text("no photo")
    (folder / ".DS_Store").write_text("hidden")
    page.get_by_role("tab", name="Many photos").click()
    page.locator("#batch_tab .folder").set_input_files(folder)
    page.locator("#batch_tab .json:enabled").wait_for()
    rows = {path.name: path for path in [folder / "more" / "cat.jpg", folder / "=1+1.jpg", folder / "tách, cà phê.jpg"]}
    explained = {name: reference.explain(open_photo(path)) for name, path in rows.items()}
    with page.expect_download() as download:
        page.locator("#batch_tab .json").click()
    saved = {row.pop("file").split("/")[-1]: row for row in json.loads(download.value.path().read_text("utf-8"))}
    assert saved.keys() == {*rows, "notes.txt"}
    for name, explanation in explained.items():
        assert saved[name]["caption"] == explanation.caption
        np.testing.assert_allclose(saved[name]["log_probability"], explanation.log_probability, atol=0.1)
    assert "not an image" in saved["notes.txt"]["problem"]
    assert page.locator("#batch_tab .failed").text_content() == "1 of 4 could not be captioned: photos/notes.txt"
    with page.expect_download() as download:
        page.locator("#batch_tab .csv").click()
    content = download.value.path().read_bytes()
    assert content.startswith(b"\xef\xbb\xbf"), "spreadsheets would take it for another encoding"
    table = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    assert {row["caption"] for row in table} == {*(each.caption for each in explained.values()), ""}
    assert not any(value.startswith(("=", "+", "-", "@")) for row in table for value in (row["file"], row["caption"]))

    thumbnail = page.get_by_role("button", name="Open photos/more/cat.jpg")
    assert (
        thumbnail.locator("img").evaluate("async (e) => (await e.decode(), Math.max(e.naturalWidth, e.naturalHeight))")
        == 96
    )
    thumbnail.click()
    page.locator("#caption_tab .sentence", has_text=explained["cat.jpg"].caption).wait_for()


def test_several_dropped_photos_are_captioned_as_many(visit):
    page = visit.page
    page.get_by_role("tab", name="Caption").click()
    before = page.locator("#batch_tab tbody tr").count()
    page.evaluate("""async () => {
        const transfer = new DataTransfer();
        for (const name of ["kite", "path"]) {
            transfer.items.add(new File([await (await fetch(`examples/${name}.jpg`)).blob()], `dropped ${name}.jpg`));
        }
        const drop = new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true });
        document.querySelector("header").dispatchEvent(drop);
    }""")
    page.locator("#batch_tab tbody tr").nth(before + 1).wait_for()
    assert page.get_by_role("button", name="Open dropped path.jpg").is_visible()


def test_camera(visit):
    """Captions follow the camera, and its picture can be kept; without permission there is a sentence."""
    page = visit.page
    page.get_by_role("tab", name="Camera").click()
    page.get_by_role("button", name="Start the camera").click()
    page.locator(".camera-caption .shown").wait_for()
    map_sum = (
        "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.reduce((a, b) => a + b)"
    )
    assert page.locator("#camera_tab canvas").evaluate(map_sum) > 0
    before = page.locator("#caption_tab img.photo").get_attribute("src")
    assert "tab=4" in page.url
    page.get_by_role("button", name="Keep this picture").click()
    src = "document.querySelector('#caption_tab img.photo').getAttribute('src')"
    page.wait_for_function(f"before => {src} !== before", arg=before)
    page.locator("#caption_tab .word").first.wait_for()
    assert "tab=" not in page.url, "a reload would open the camera rather than the picture"
    assert page.locator("#camera_tab video").evaluate("video => video.srcObject") is None, "the camera is off"
    page.evaluate("""() => {
        navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException("denied", "NotAllowedError"));
    }""")
    page.get_by_role("tab", name="Camera").click()
    page.get_by_role("button", name="Start the camera").click()
    page.get_by_text("The browser does not let this page use the camera").wait_for()
    page.get_by_role("tab", name="Caption").click()


def test_tabs_by_keyboard_and_for_screen_readers(visit):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    page = visit.page
    page.get_by_role("tab", name="Caption").focus()
    for tab in ("how_tab", "compare_tab", "batch_tab", "camera_tab"):
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.getAttribute('aria-controls')") == tab
        assert page.locator(f"#{tab}").is_visible()
        assert_no_serious_violations(axe, page)
    page.keyboard.press("ArrowRight")
    assert page.locator("#caption_tab").is_visible()
