"""The page without a server, built and opened in a browser; its modules alone are in test_web_modules.py."""

import io
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image, ImageOps

from modeling_captioner import open_photo
from modeling_captioner.onnx_captioner import OnnxCaptioner
from publishing.static_site import main, site_files
from tests.helpers.page_fixtures import (
    EXAMPLES,
    SIDE,
    assert_no_serious_violations,
    brightest_region,
    caption_words,
    choose_photo,
    map_pixels,
    needs_browser,
)
from tests.helpers.paths import SHIPPED
from tests.helpers.photo_server import FileServer

pytestmark = needs_browser
NOISE = 0.3  # of a caption's log-probability between onnxruntime in a browser and in Python


def png(photo):
    file = io.BytesIO()
    photo.save(file, "PNG")
    return file.getvalue()


def log_probability(beam):
    """Of a beam as the page lists it: "a cat average -0.9, sum -3.6"."""
    return float(beam.rpartition(" ")[2])


def score(explanation, reference):
    """What beam search maximizes; the end counts as a word."""
    penalty = reference.defaults.get("length_penalty")
    return explanation.log_probability / (len(explanation.words) + 1) ** (1.0 if penalty is None else penalty)


def test_captions_equal_those_of_python(visit, reference):
    """The example photos, mirrored ones and a few details; nothing is requested from anywhere else.

    Word for word, but for ties: onnxruntime sums in another order in a browser, so a caption's log-probability differs
    by up to about 0.1 (0.25 if the CPU lacks VNNI), and beam search may drop another beginning. On average, these
    captions must be as likely as Python's.
    """
    photos = [open_photo(file) for file in sorted(EXAMPLES.glob("*.jpg"))]
    assert visit.page.evaluate("crossOriginIsolated"), "otherwise there is only one thread"
    captions, differences, gains = [], [], []
    details = [photo.crop((photo.width // 3, 0, photo.width, photo.height // 2)) for photo in photos]
    changed = [*map(ImageOps.mirror, photos), *details[:2]]
    files = [*sorted(EXAMPLES.glob("*.jpg")), *(("photo.png", png(photo)) for photo in changed)]
    for photo, file in zip([*photos, *changed], files, strict=True):
        choose_photo(visit.page, file)
        captions.append(" ".join(caption_words(visit.page)))
        expected = reference.explain(photo)
        found = reference.explain_caption(photo, captions[-1])
        beams = visit.page.locator(".beams li").all_text_contents()
        differences.append(abs(log_probability(beams[0]) - found.log_probability))
        assert differences[-1] < NOISE, captions[-1]
        if captions[-1] != expected.caption:
            gains.append(score(found, reference) - score(expected, reference))
    assert sum(differences) / len(captions) < NOISE / 3, differences
    assert len(gains) <= 2
    assert sum(gains) / len(captions) > -NOISE / 10, gains
    assert len(captions) == 14
    assert len(set(captions)) > 7
    assert len([url for url in visit.requests if "onnx" in url]) >= 4, "requests are seen"
    assert not any("webgpu" in url for url in visit.requests), "one photo at a time needs no GPU"
    assert [url for url in visit.requests if not url.startswith((visit.address, "data:", "blob:"))] == []


def test_page_and_worker_may_not_request_anything_else(visit):
    request = """() => new Promise((resolve) => {
        self.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
        fetch("http://127.0.0.1:9/").catch(() => {});
    })"""
    assert visit.page.evaluate(request) == "connect-src"
    (worker,) = [worker for worker in visit.page.workers if worker.url.endswith("/worker.js")]
    assert worker.evaluate(request) == "connect-src"


def test_map_is_brightest_where_the_attention_is_largest(visit, reference):
    choose_photo(visit.page, EXAMPLES / "coffee.jpg")
    visit.page.locator("input.blur").fill("0.15")  # the minimum: where the map is sampled, no neighbour mixes in
    expected = reference.explain(open_photo(EXAMPLES / "coffee.jpg"))
    for number, word in enumerate(expected.words):
        visit.page.locator(".word").nth(number).hover()
        assert word.map[brightest_region(map_pixels(visit.page.locator("#caption_tab")))] > 0.97 * word.map.max(), (
            word.text
        )


def test_alternatives_and_beams(visit, reference):
    """Going on from an alternative with three beams, then with one."""
    photo = open_photo(EXAMPLES / "coffee.jpg")
    choose_photo(visit.page, EXAMPLES / "coffee.jpg")
    other = visit.page.locator(".words > li").nth(1).locator(".alternative:enabled:not(.chosen)").first
    text = f"{caption_words(visit.page)[0]} {other.locator('span').text_content()}"
    other.click()
    visit.page.locator(".words > li.prefix").nth(1).wait_for()
    expected = reference.explain(photo, text=text)
    assert " ".join(caption_words(visit.page)) == expected.caption
    for beam, (caption, log_probability) in zip(visit.page.locator(".beams li").all(), expected.beams, strict=True):
        score = beam.locator("small").text_content()
        assert beam.text_content() == caption + score
        assert float(score.rpartition(" ")[2]) == pytest.approx(log_probability, abs=0.1)  # "average ..., sum ..."
    visit.page.locator("#settings summary").click()
    visit.page.locator("input[name=num_beams]").fill("1")
    visit.page.locator(".beams").wait_for(state="hidden")
    assert " ".join(caption_words(visit.page)) == OnnxCaptioner(SHIPPED, num_beams=1).explain(photo).caption
    visit.page.locator("input[name=num_beams]").fill("3")
    visit.page.locator(".beams").wait_for()


def test_covering_captions_the_photo_again(visit, reference):
    photo = open_photo(EXAMPLES / "astronaut.jpg")
    choose_photo(visit.page, EXAMPLES / "astronaut.jpg")
    words = reference.explain(photo).words
    assert caption_words(visit.page) == [word.text for word in words]
    # The word of which it is clearest what is covered: a tie between regions might be decided otherwise.
    number = max(range(len(words)), key=lambda place: covered_regions(words[place].map)[1])
    visit.page.locator(".word").nth(number).click()
    visit.page.locator("button.cover-word").click()
    visit.page.locator(".covered-sentence button").first.wait_for()
    hidden, _ = covered_regions(words[number].map)
    mask = Image.fromarray(np.kron(hidden.reshape(SIDE, SIDE), np.ones((6, 6), np.uint8)) * 255).resize(photo.size, 2)
    covered = Image.composite(Image.new("RGB", photo.size, (128, 128, 128)), photo, mask)
    caption = " ".join(visit.page.locator(".covered-sentence button").all_text_contents())
    expected, found = reference.explain(covered), reference.explain_caption(covered, caption)
    assert score(found, reference) > score(expected, reference) - NOISE / len(found.words), (caption, expected.caption)
    first = " ".join(caption_words(visit.page))
    for change, before, after in zip(
        visit.page.locator(".word small").all_text_contents(),
        words,
        reference.explain_caption(covered, first).words,
        strict=True,
    ):
        shown = [float(percent.rstrip("%")) / 100 for percent in change.split(" → ")]
        assert shown == pytest.approx([before.probability, after.probability], abs=0.05), (change, before.text)
    label = visit.page.locator(".covered-label").text_content()
    assert ("Unchanged" in label) == (caption == first)


def covered_regions(weights):
    """What the page covers of a map: 1 for the fewest regions that hold half of it, but a quarter at most (regions,).

    Also how far that is from covering other ones: the smallest difference of weights, or of their sum, that decides.
    """
    weights = weights.ravel()
    order = np.argsort(-weights, kind="stable")
    sums = np.cumsum(weights[order])
    count = min(int(np.searchsorted(sums, 0.5)) + 1, SIDE * SIDE // 4)
    hidden = np.zeros(SIDE * SIDE, np.uint8)
    hidden[order[:count]] = 1
    margins = [weights[order[count - 1]] - weights[order[count]]]
    if count < SIDE * SIDE // 4:
        margins += [sums[count - 1] - 0.5]
    if count > 1:
        margins += [0.5 - sums[count - 2]]
    return hidden, min(margins)


@pytest.mark.slow
def test_second_visit_needs_no_server(site, open_site):
    with FileServer(site) as server:
        page, _ = open_site(server.address)
        choose_photo(page, EXAMPLES / "kite.jpg")
        first = caption_words(page)
        page.close()
    page = page.context.new_page()
    page.goto(server.address)
    choose_photo(page, EXAMPLES / "kite.jpg")
    assert caption_words(page) == first


def test_unreadable_photo_gets_a_sentence_and_the_next_a_caption(visit):
    choose_photo(visit.page, ("holiday.jpg", b"no picture at all"))
    assert visit.page.locator(".message").text_content().startswith("holiday.jpg is not an image that ")
    visit.page.get_by_label("chelsea").click()
    visit.page.locator(".word").first.wait_for()
    assert not visit.page.locator(".message").is_visible()


def test_damaged_model_and_old_browser_get_a_sentence(site, open_site, tmp_path):
    shutil.copytree(site, tmp_path / "site", copy_function=os.link)
    (name,) = (path for path in site_files(site) if "encoder" in path)
    encoder = tmp_path / "site" / name
    encoder.unlink()
    encoder.write_bytes(b"no model")
    with FileServer(tmp_path / "site") as server:
        page, _ = open_site(server.address)
        page.locator("#failure:visible").wait_for()
        message = page.locator("#failure").text_content()
        assert message.startswith(f"The model could not be loaded: {name} is not the file that was published (8 bytes ")
        assert page.locator(".word").count(), "the example with which the page opens stays"
        page.add_init_script("delete window.WebAssembly")
        page.goto(server.address)
        page.locator("#failure:visible").wait_for()
        assert page.locator("#failure").text_content().startswith("This browser does not run WebAssembly, ")


@pytest.mark.slow
def test_axe_finds_no_serious_violations(visit):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    visit.page.reload()
    visit.page.locator("#settings summary").click()
    assert_no_serious_violations(axe, visit.page)
    cover_a_word_of_chelsea(visit.page)
    assert_no_serious_violations(axe, visit.page)


@pytest.mark.slow
def test_vietnamese_page_on_a_phone_in_the_dark(visit, open_site):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    options = {"viewport": {"width": 360, "height": 800}, "color_scheme": "dark", "locale": "vi-VN"}
    page, _ = open_site(visit.address, **options)
    page.get_by_role("heading", name="Xem mô hình nhìn thấy gì").wait_for()
    assert page.locator("html").get_attribute("lang") == "vi"
    choose_photo(page, ("holiday.jpg", b"no picture at all"))
    assert page.locator(".message").text_content().startswith("holiday.jpg không phải là ảnh mà ")
    assert_no_serious_violations(axe, page)
    cover_a_word_of_chelsea(page)
    assert_no_serious_violations(axe, page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.context.close()


def cover_a_word_of_chelsea(page):
    choose_photo(page, EXAMPLES / "chelsea.jpg")
    page.locator(".word").first.click()
    page.locator("button.cover-word").click()
    page.locator(".covered-sentence button").first.wait_for()


def test_a_captioner_that_browsers_cannot_run_is_refused_in_a_sentence(site, tmp_path, capsys):
    def message():
        with pytest.raises(SystemExit) as end:
            main([str(tmp_path / "site"), "--model", str(tmp_path)])
        assert end.value.code == 1
        return capsys.readouterr().err

    for file in [*SHIPPED.glob("*.json"), SHIPPED / "model.safetensors"]:
        (tmp_path / file.name).symlink_to(file)
    assert message().startswith(f"error: {tmp_path} has no ONNX export; ")
    (tmp_path / "onnx").symlink_to(SHIPPED / "onnx")
    settings = json.loads((tmp_path / "generation_config.json").read_text()) | {"repetition_penalty": 2.0}
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    assert message().startswith("error: generation_config.json sets repetition_penalty, ")
