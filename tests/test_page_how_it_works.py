"""The "How it works" tab in a real browser."""

import re

import torch
from page_fixtures import EXAMPLES, PHONE_AND_DESKTOP, SIDE, caption_words, needs_browser, upload_photo
from PIL import Image

from modeling_captioner import explain, open_photo

pytest_plugins = ["page_fixtures"]
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
