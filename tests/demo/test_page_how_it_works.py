"""The tour of the tab "How it works" in a real browser."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from demo.trace import stages, trace
from modeling_captioner import explain, open_photo
from tests.helpers.page_fixtures import (
    EXAMPLES,
    PHONE_AND_DESKTOP,
    SIDE,
    assert_no_serious_violations,
    caption_words,
    needs_browser,
    upload_photo,
)
from tests.helpers.paths import SHIPPED

TIMES = "\N{MULTIPLICATION SIGN}"
STEPS = ["pixels", "stages", "regions", "transfer", "vocabulary", "rnn", "attention", "heads", "context", "second"]
STEPS += ["next", "end"]
LANGUAGES = "languages"  # the last step, of a captioner that speaks several
WIDTHS = (390, 768, 1024, 1280, 1920)


def steps_of(captioner):
    return STEPS + [LANGUAGES] * (len(captioner.model.config.languages or []) > 1)


def open_tour(page):
    page.get_by_role("tab", name="How it works").click()
    page.locator(".tour:visible").wait_for()


def show_step(page, name):
    """Go on until the step is shown."""
    for _ in STEPS:
        if page.locator(f".panel[data-step={name}]").count():
            return
        page.locator(".tour .next").click()
    raise AssertionError(f"the tour has no step {name}")


@needs_browser
@PHONE_AND_DESKTOP
def test_tour_shows_the_numbers_of_the_uploaded_photo(open_page, captioner, width, theme):
    page = open_page(width=width, theme=theme)
    upload_photo(page, EXAMPLES / "chelsea.jpg")
    words = caption_words(page)
    open_tour(page)
    assert f"451 {TIMES} 300" in page.locator(".panel .text").text_content()
    size = captioner.model.config.image_size
    middle = open_photo(EXAMPLES / "chelsea.jpg").resize((size, size), Image.BILINEAR).getpixel([(size - 6) // 2] * 2)
    assert [int(b.text_content()) for b in page.locator(".patch span").first.locator("b").all()] == list(middle)

    show_step(page, "stages")
    with torch.no_grad():
        features = captioner.model.encoder.backbone.forward_features(torch.zeros(1, 3, size, size))
    shape = f" {TIMES} ".join(f"{size:,}" for size in [*features.shape[2:], features.shape[1]])
    assert page.locator(".stages strong").last.text_content() == shape
    page.locator(".feature-map").last.click()
    assert page.locator("dialog.large img").evaluate("image => image.complete && image.naturalWidth > 0")
    page.keyboard.press("Escape")

    show_step(page, "vocabulary")
    vocabulary = captioner.processor.tokenizer.get_vocab()
    shown = dict(re.match(r"(.+?)(\d+)$", item).groups() for item in page.locator(".vocabulary li").all_text_contents())
    assert {word: vocabulary[word] for word in shown} == {word: int(number) for word, number in shown.items()}
    page.locator(".tokenizer-input").fill("a zyzzyva")
    page.locator(".tokens li.unknown").first.wait_for()
    page.wait_for_function("document.querySelectorAll('.tokens li').length === 2")

    expected = explain(captioner.model, captioner.processor, open_photo(EXAMPLES / "chelsea.jpg")).words
    show_step(page, "next")
    for number in (0, len(words) - 1):
        page.locator(".word-choice button").nth(number).click()
        shown = page.locator(".candidates tbody tr td:first-child").all_text_contents()
        assert shown[:5] == [word for word, _ in expected[number].alternatives]
    show_step(page, "end")
    (start,) = captioner.processor.tokenizer.convert_ids_to_tokens([captioner.model.config.decoder_start_token_id])
    assert page.locator(".full-caption").text_content() == " ".join([start, *words, "<end>"])


@needs_browser
def test_values_are_tied_to_the_picture_and_the_sums_add_up(open_page, captioner):
    page = open_page()
    upload_photo(page, EXAMPLES / "chelsea.jpg")
    open_tour(page)
    show_step(page, "attention")
    page.locator(".word-choice button").nth(1).click()
    word = explain(captioner.model, captioner.processor, open_photo(EXAMPLES / "chelsea.jpg")).words[1]
    row = page.locator(".scores tbody tr[data-region]").nth(2)
    region = int(row.get_attribute("data-region"))
    row.hover()
    assert page.locator(".cells .lit").get_attribute("data-region") == str(region)  # the row lights its region
    part, part_again, total, weight = map(float, re.findall(r"= ([\d.]+), and ([\d.]+) / ([\d.]+) = ([\d.]+)",
                                                            page.locator(".formula").text_content())[0])  # fmt: skip
    assert part == part_again == pytest.approx(total * weight, rel=0.02)
    cells = [cell.text_content() for cell in page.locator(".scores tbody tr.lit td").all()]
    assert np.exp(float(cells[1])) == pytest.approx(part, abs=0.01)
    assert float(cells[3]) == weight
    sums = page.locator(".scores tfoot td").all_text_contents()
    assert (sums[0], float(sums[2]), sums[3]) == (f"all {SIDE * SIDE}", total, "1.000")
    other = next(i for i in range(SIDE * SIDE) if not page.locator(f".scores tr[data-region='{i}']").count())
    page.locator(f".cells [data-region='{other}']").hover()  # a region outside the table gets a row of its own
    assert page.locator(".scores tbody tr.lit").get_attribute("data-region") == str(other)

    show_step(page, "heads")
    peak = int(word.map.argmax())
    page.locator(f".mean [data-region='{peak}']").hover()
    terms, heads, mean = re.search(r": \((.+)\) / (\d+) = ([\d.]+)", page.locator(".formula").text_content()).groups()
    assert sum(map(float, terms.split(" + "))) / int(heads) == pytest.approx(float(mean), abs=0.001)
    assert float(mean) == pytest.approx(
        word.map.ravel()[peak], abs=0.001
    )  # the mean of the heads is the first tab's map


@needs_browser
def test_arrow_keys_lead_through_the_tour_and_nothing_moves(open_page, captioner):
    page, steps = open_page(width=1280, height=800), steps_of(captioner)
    open_tour(page)
    seen, places = [], set()
    for _ in steps:
        seen.append(page.locator(".panel").get_attribute("data-step"))
        places.add(tuple(page.locator(".tour .next").bounding_box().values()))
        page.keyboard.press("ArrowRight")
    assert seen == steps
    assert len(places) == 1
    assert page.locator(".tour .next").is_disabled()
    page.keyboard.press("ArrowLeft")
    assert page.locator(".panel").get_attribute("data-step") == steps[-2]
    page.locator(".word-choice button").first.focus()
    page.keyboard.press("ArrowRight")  # inside the words, it leads to the next word
    assert page.locator(".panel").get_attribute("data-step") == steps[-2]
    assert (
        page.locator(".word-choice button:focus").text_content()
        == page.locator(".word-choice button").nth(1).text_content()
    )


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_each_step_fits_every_screen_and_is_accessible(open_page, captioner, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    page = open_page(theme=theme)
    open_tour(page)
    for name in steps_of(captioner):
        show_step(page, name)
        assert_no_serious_violations(axe, page)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, width)
            right = page.locator(".panel .figure").evaluate(
                "figure => Math.max(...[...figure.querySelectorAll('*')].map(e => e.getBoundingClientRect().right))"
            )
            assert right <= width, (name, width)


@needs_browser
@PHONE_AND_DESKTOP
def test_transfer_learning_counts_the_parameters_of_the_served_network(open_page, captioner, width, theme):
    page = open_page(width=width, theme=theme)
    open_tour(page)
    show_step(page, "transfer")
    model, backbone = captioner.model, captioner.model.encoder.backbone

    def count(modules):
        return sum(parameter.numel() for module in modules for parameter in module.parameters())

    blocks = [(name, count([block])) for name, block in backbone.named_children() if count([block])]
    assert page.locator(".blocks li").all_inner_texts() == [f"{name}\n{number:,}" for name, number in blocks]
    assert page.locator(".blocks li.frozen").count() == len(blocks)
    total = model.num_parameters()
    new = total - count([backbone])
    slider, learning = page.locator(".frozen-blocks"), page.locator(".frozen-count")
    assert f"{len(blocks)} of {len(blocks)} blocks are frozen; {new:,} of {total:,} " in learning.text_content()
    slider.focus()
    for _ in range(2):
        page.keyboard.press("ArrowLeft")
    new += sum(number for _, number in blocks[-2:])
    assert f"{len(blocks) - 2} of {len(blocks)} blocks are frozen; {new:,} of {total:,} " in learning.text_content()
    assert page.locator(".blocks li:not(.frozen)").all_inner_texts() == [
        f"{n}\n{number:,}" for n, number in blocks[-2:]
    ]
    page.keyboard.press("Home")
    assert "100%" in learning.text_content()
    assert page.locator(".blocks li.frozen").count() == 0
    classifier = (backbone.num_features + 1) * backbone.default_cfg["num_classes"]
    assert f"{classifier:,} parameters" in page.locator(".classifier-text").text_content()
    trained_from = model.config.encoder_trained_from
    assert bool(page.locator(".trained-text").text_content()) == bool(trained_from)


def test_shipped_captioner_records_that_its_encoder_was_fine_tuned():
    """As train/recipes/shipped.yaml says; an unknown record would hide the sentence about fine-tuning."""
    assert json.loads((SHIPPED / "config.json").read_text())["encoder_trained_from"] == "all"


def test_shown_channels_differ_most_between_places():
    """Not the largest, nor those with a fine pattern that is the same everywhere."""
    features = torch.zeros(1, 8, 16, 16)
    features[0, 0] = 100
    features[0, 1, ::2, ::2] = 50
    features[0, 2, :, :8] = 1
    features[0, 3, 4:12, 4:12] = -2
    (stage, _) = stages([features, torch.zeros(1, 4, 4, 4)])
    assert {channel["index"] for channel in stage["channels"][:2]} == {2, 3}


@pytest.mark.parametrize("caption", ["", "a", "a red circle on a gray ground"])
def test_any_caption_is_traced(tiny_captioner, drawn_photos, caption):
    """Also an empty one, as of a captioner without a minimum length."""
    model, processor = tiny_captioner()
    photo, _ = drawn_photos[0]
    result = trace(model.eval(), processor, photo, photo.size, caption)
    assert [step["output"] for step in result["steps"]] == [*caption.split(), "<end>"]
    assert len(result["region_values"]) == result["regions"]
    for step in result["steps"]:
        assert np.sum(step["heads"], axis=-1) == pytest.approx(1, abs=1e-3)
        assert len(step["state"]) == len(step["second_state"]) == len(step["context"])
