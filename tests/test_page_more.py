"""The page's lecture, and its corrections."""

import json
import re

import torch
from browsing import EXAMPLES, PATIENCE, PHONE_AND_DESK, SIDE, bring, needs_browser, said
from datasets import load_dataset
from PIL import Image

from modeling_captioner import explain, open_photo

pytest_plugins = ["browsing"]
pytestmark = needs_browser
TIMES = "\N{MULTIPLICATION SIGN}"


@PHONE_AND_DESK
def test_lecture_tells_the_numbers_of_the_visitors_photo(open_page, captioner, width, theme):
    page = open_page(width=width, theme=theme)
    bring(page, EXAMPLES / "chelsea.jpg")
    words = said(page)
    page.get_by_role("tab", name="How it works").click()
    page.locator(".lecture:visible").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert f"451 {TIMES} 300" in page.locator(".pixels-text").text_content()

    size = captioner.model.config.image_size
    middle = open_photo(EXAMPLES / "chelsea.jpg").resize((size, size), Image.BILINEAR).getpixel([(size - 6) // 2] * 2)
    assert [int(b.text_content()) for b in page.locator(".window span").first.locator("b").all()] == list(middle)

    with torch.no_grad():
        features = captioner.model.encoder.backbone.forward_features(torch.zeros(1, 3, size, size))
    shape = f" {TIMES} ".join(map(str, [*features.shape[2:], features.shape[1]]))
    assert page.locator(".stages strong").last.text_content() == shape

    vocabulary = captioner.processor.tokenizer.get_vocab()
    shown = dict(re.match(r"(.+?)(\d+)$", item).groups() for item in page.locator(".vocabulary li").all_text_contents())
    assert {word: vocabulary[word] for word in shown} == {word: int(number) for word, number in shown.items()}
    page.locator(".try").fill("a zyzzyva")
    page.locator(".tokens li.unknown").first.wait_for()
    page.wait_for_function("document.querySelectorAll('.tokens li').length === 2")

    assert page.locator(".sentence").text_content() == " ".join(["<start>", *words, "<end>"])
    photo = open_photo(EXAMPLES / "chelsea.jpg")
    expected = explain(captioner.model, captioner.processor, photo).words
    for number in (0, len(words) - 1):
        page.locator(".steps button").nth(number).click()
        bars = page.locator(".next li").all_text_contents()
        assert [re.sub(r"[\d.]+%$", "", bar) for bar in bars][:5] == [word for word, _ in expected[number].alternatives]
        heads = page.locator(".head")
        assert heads.count() == captioner.model.config.num_attention_heads
        heads.last.click()
        sums = page.locator(".scores tfoot td").all_text_contents()
        assert sums[0] == f"all {SIDE * SIDE}"
        assert sums[-1] == "1.000"


@PHONE_AND_DESK
def test_corrections_are_kept_only_when_asked(open_page, open_app, browser, tmp_path, width, theme):
    page = open_page()
    page.locator("#photo").wait_for()
    assert page.locator("#teach").count() == 0
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.goto(f"{open_app.address}?__theme={theme}")
    bring(page, EXAMPLES / "coffee.jpg")
    page.get_by_text("Teach it").click()
    page.get_by_text("What is kept").wait_for()
    field = "#right_words textarea, #right_words input"
    page.wait_for_function(
        "([field, words]) => document.querySelector(field).value === words", arg=[field, " ".join(said(page))]
    )
    before = set(open_app.corrections.iterdir())
    page.locator(field).fill("a cup of  coffee on a wooden table")
    page.locator("#keep").click()
    page.locator("#kept").get_by_text("Kept, thank you").wait_for()
    page.close()
    assert len(set(open_app.corrections.iterdir()) - before - {open_app.corrections / "metadata.jsonl"}) == 1
    row = json.loads((open_app.corrections / "metadata.jsonl").read_text().splitlines()[-1])
    assert open_app.corrections / row["file_name"] not in before
    assert row["captions"] == ["a cup of coffee on a wooden table"]
    assert open_photo(open_app.corrections / row["file_name"]).size == open_photo(EXAMPLES / "coffee.jpg").size
    learnt = load_dataset(str(open_app.corrections), cache_dir=str(tmp_path))["train"]
    assert learnt[0]["captions"] == row["captions"]
