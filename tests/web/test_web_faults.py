"""The page without a server where something goes wrong: what a visitor does in between, hosts, browsers, photos."""

import json
import os
import re
import shutil

import pytest

from modeling_captioner import open_photo
from publishing.static_site import site_files
from tests.helpers.page_fixtures import EXAMPLES, caption_words, choose_photo, needs_browser
from tests.helpers.photo_server import FileServer

pytestmark = needs_browser

READY = "html[data-captioner=ready]"
# Choose an example as a file, and move a slider before anything else can happen.
CHOOSE_AND_MOVE = """async ([name, beams]) => {
    const files = new DataTransfer();
    files.items.add(new File([await (await fetch(`examples/${name}.jpg`)).blob()], `${name}.jpg`));
    const input = document.querySelector(".photo-input input");
    input.files = files.files;
    input.dispatchEvent(new Event("change"));
    const slider = document.querySelector("input[name=num_beams]");
    slider.value = beams;
    slider.dispatchEvent(new Event("change"));
}"""
# From now on, record which captions stand under which photos, at every change of either.
WATCH_PAIRS = """() => {
    const [photo, sentence] = [document.querySelector("img.photo"), document.querySelector(".sentence")];
    window.pairs = [];
    window.watcher?.disconnect();
    window.watcher = new MutationObserver(() => window.pairs.push([photo.src, sentence.textContent]));
    window.watcher.observe(photo, { attributeFilter: ["src"] });
    window.watcher.observe(sentence, { childList: true });
}"""
# Drop files, {name: address}, or an address on what a selector finds. Returns whether the browser would leave the page.
DROP = """async ([selector, files, address]) => {
    const transfer = new DataTransfer();
    for (const [name, url] of Object.entries(files)) {
        transfer.items.add(new File([await (await fetch(url)).blob()], name));
    }
    if (address) transfer.setData("text/uri-list", address);
    const target = document.querySelector(selector);
    const events = ["dragover", "drop"].map((type) => {
        const event = new DragEvent(type, { dataTransfer: transfer, bubbles: true, cancelable: true });
        target.dispatchEvent(event);
        return event;
    });
    return events.some((event) => !event.defaultPrevented);
}"""


@pytest.fixture
def copy(site, tmp_path):
    """A copy of the site whose files may be removed."""
    return shutil.copytree(site, tmp_path / "site", copy_function=os.link)


def caption_with(reference, name, beams):
    return reference.explain(open_photo(EXAMPLES / f"{name}.jpg"), num_beams=beams).caption


def test_a_setting_moved_while_a_photo_is_on_its_way(visit, reference):
    """The new photo's caption stands under the new photo, with the new setting."""
    page = visit.page
    choose_photo(page, EXAMPLES / "chelsea.jpg")
    for name, beams in (("kite", 1), ("coffee", 3)):
        before = page.locator("img.photo").get_attribute("src")
        old_caption = page.locator(".sentence").text_content()
        page.evaluate(WATCH_PAIRS)
        page.evaluate(CHOOSE_AND_MOVE, [name, str(beams)])
        page.wait_for_function(
            """before => document.querySelector("img.photo").src !== before && document.querySelector(".word")
                && !document.querySelector(".attention-viewer.busy")""",
            arg=before,
        )
        expected = caption_with(reference, name, beams)
        assert " ".join(caption_words(page)) == page.locator(".sentence").text_content() == expected
        # The old photo may be captioned again meanwhile, but under it stands nothing of the new one.
        pairs = page.evaluate("window.pairs")
        assert {caption for photo, caption in pairs if photo != before} <= {"", expected}
        assert expected not in {caption for photo, caption in pairs if photo == before} - {old_caption}
    page.evaluate(CHOOSE_AND_MOVE, ["chelsea", "3"])


@pytest.mark.slow
def test_photos_may_be_dropped_anywhere(visit, reference):
    page = visit.page
    page.reload()  # the settings of another test are forgotten
    page.locator(READY).wait_for()
    choose_photo(page, EXAMPLES / "chelsea.jpg")
    for selector, name in (("header", "kite"), ("footer", "coffee"), (".viewer .photo", "path")):
        page.locator(".words").evaluate("words => words.replaceChildren()")
        leaves = page.evaluate(DROP, [selector, {f"{name}.jpg": f"examples/{name}.jpg"}, None])
        assert not leaves, "the browser would open the photo in place of the page"
        page.locator(".word").first.wait_for()
        assert " ".join(caption_words(page)) == reference.explain(open_photo(EXAMPLES / f"{name}.jpg")).caption
    caption = caption_words(page)
    assert not page.evaluate(DROP, ["header", {}, "https://example.org/cat.jpg"])
    page.get_by_text("That was no file, and images of other pages cannot be read").wait_for()
    assert caption_words(page) == caption


@pytest.mark.slow
def test_what_a_host_serves_late_is_not_kept(site, open_site):
    """Its own page in the place of a file, and an older version of one; both of small files and of the captioner's."""
    settings = json.loads((site / "model" / "generation_config.json").read_text())
    older = json.dumps(settings | {"num_beams": 1}).encode()
    with FileServer(site) as server:
        server.others = {
            "model/config.json": (b"<!doctype html>", "text/html"),
            "page.css": (b"body { color: red }", "text/css"),
        }
        page, _ = open_site(server.address)
        page.locator("#failure:visible").wait_for()
        assert "model/config.json is not JSON (text/html)" in page.locator("#failure").text_content()
        server.others = {"model/generation_config.json": (older, "application/json")}
        page.reload()
        page.locator(READY).wait_for()
        page.locator("#settings summary").click()
        assert page.locator("input[name=num_beams]").input_value() == "1"
        server.others = {}
        page.reload()
        page.locator(READY).wait_for()
        assert page.locator("input[name=num_beams]").input_value() == str(settings["num_beams"])
        assert page.locator("body").evaluate("body => getComputedStyle(body).color") != "rgb(255, 0, 0)"
    page.reload()
    page.locator(READY).wait_for()
    choose_photo(page, EXAMPLES / "kite.jpg")


def test_servers_that_know_no_mjs(site):
    """Such as nginx as it is installed: it knows these types, and serves others as bytes, which are no modules."""
    known = {".html", ".css", ".js", ".json", ".svg", ".png", ".jpg"}
    others = {path for path in site_files(site) if not any(path.endswith(ending) for ending in known)}
    assert others - {"LICENSE", "README.md"} == {path for path in site_files(site) if path.endswith(".gzip")}


@pytest.mark.parametrize("name", ["onnxruntime/ort-wasm-simd-threaded.js", "onnxruntime/ort.wasm.min.js"])
def test_a_missing_file_is_named(copy, open_site, name):
    (copy / name).unlink()
    with FileServer(copy) as server:
        page, _ = open_site(server.address)
        page.locator("#failure:visible").wait_for()
        message = page.locator("#failure").text_content()
        assert message.startswith("The model could not be loaded: ")
        assert name in message


def test_a_page_that_cannot_start_says_why(copy, browser):
    """A missing module, a page opened by double click, and one without scripts."""
    (copy / "word_buttons.js").unlink()
    page = browser.new_page()
    with FileServer(copy) as server:
        page.goto(server.address)
        page.get_by_text("A script of this page could not be loaded (word_buttons.js: 404).").wait_for()
    page.goto((copy / "index.html").as_uri())
    page.get_by_text("Browsers run this page only from a server").wait_for()
    page.close()
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    with FileServer(copy) as server:
        page.goto(server.address)
        # Text within <noscript> is found by no other locator.
        page.locator("noscript p", has_text="captions photos in your browser and needs JavaScript").wait_for()
    context.close()


def test_first_visit_takes_at_most_33_megabytes(visit):
    """Everything but onnxruntime (3.7 MB) and the page is the captioner, 8 bits a weight."""
    assert 15e6 < visit.received < 33e6


def test_an_error_of_one_photo_is_a_sentence_about_it(site, open_site):
    """Here: a photo whose pixels are gone when the captioner is to get them."""
    with FileServer(site) as server:
        page, _ = open_site(server.address)
        page.evaluate("""() => {
            const post = Worker.prototype.postMessage;
            Worker.prototype.postMessage = function (message, transferred) {
                transferred?.[0]?.close(); // the browser itself then refuses to hand it over
                Worker.prototype.postMessage = post; // only the first photo
                return post.call(this, message, transferred);
            };
        }""")
        page.locator(".words").evaluate("words => words.replaceChildren()")
        photo = {"name": "gone.jpg", "mimeType": "image/jpeg", "buffer": (EXAMPLES / "kite.jpg").read_bytes()}
        page.locator(".photo-input input").set_input_files(photo)
        page.locator(".message:visible").wait_for()
        message = page.locator(".message").text_content()
        assert re.fullmatch(r"gone\.jpg could not be captioned: .+ImageBitmap.+\.", message), message
        assert not page.locator("#failure").is_visible()
        page.locator(".photo-input input").set_input_files(EXAMPLES / "kite.jpg")
        page.locator(".word").first.wait_for()
        assert not page.locator(".message").is_visible()
