"""The "How it works" tab in a real browser."""

import json
import re

import torch
from PIL import Image

from demo.how_it_works_tab import stages
from modeling_captioner import explain, open_photo
from tests.helpers.page_fixtures import EXAMPLES, PHONE_AND_DESKTOP, SIDE, caption_words, needs_browser, upload_photo
from tests.helpers.paths import SHIPPED

pytestmark = needs_browser
TIMES = "\N{MULTIPLICATION SIGN}"


@PHONE_AND_DESKTOP
def test_tab_shows_the_numbers_of_the_uploaded_photo(open_page, captioner, width, theme):
    page = open_page(width=width, theme=theme)
    upload_photo(page, EXAMPLES / "chelsea.jpg")
    words = caption_words(page)
    page.get_by_role("tab", name="How it works").click()
    page.locator(".how-it-works:visible").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert f"451 {TIMES} 300" in page.locator(".pixels-text").text_content()

    size = captioner.model.config.image_size
    middle = open_photo(EXAMPLES / "chelsea.jpg").resize((size, size), Image.BILINEAR).getpixel([(size - 6) // 2] * 2)
    assert [int(b.text_content()) for b in page.locator(".patch span").first.locator("b").all()] == list(middle)

    with torch.no_grad():
        features = captioner.model.encoder.backbone.forward_features(torch.zeros(1, 3, size, size))
    shape = f" {TIMES} ".join(f"{size:,}" for size in [*features.shape[2:], features.shape[1]])
    assert page.locator(".stages strong").last.text_content() == shape

    vocabulary = captioner.processor.tokenizer.get_vocab()
    shown = dict(re.match(r"(.+?)(\d+)$", item).groups() for item in page.locator(".vocabulary li").all_text_contents())
    assert {word: vocabulary[word] for word in shown} == {word: int(number) for word, number in shown.items()}
    page.locator(".tokenizer-input").fill("a zyzzyva")
    page.locator(".tokens li.unknown").first.wait_for()
    page.wait_for_function("document.querySelectorAll('.tokens li').length === 2")

    assert page.locator(".full-caption").text_content() == " ".join(["<start>", *words, "<end>"])
    photo = open_photo(EXAMPLES / "chelsea.jpg")
    expected = explain(captioner.model, captioner.processor, photo).words
    for number in (0, len(words) - 1):
        page.locator(".steps button").nth(number).click()
        bars = page.locator(".candidates li").all_text_contents()
        assert [re.sub(r"[\d.]+%$", "", bar) for bar in bars][:5] == [word for word, _ in expected[number].alternatives]
        heads = page.locator(".head")
        assert heads.count() == captioner.model.config.num_attention_heads
        heads.last.click()
        sums = page.locator(".scores tfoot td").all_text_contents()
        assert sums[0] == f"all {SIDE * SIDE}"
        assert sums[-1] == "1.000"


@PHONE_AND_DESKTOP
def test_transfer_learning_counts_the_parameters_of_the_served_network(open_page, captioner, width, theme):
    page = open_page(width=width, theme=theme)
    page.get_by_role("tab", name="How it works").click()
    page.locator(".layers li").first.wait_for()
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
