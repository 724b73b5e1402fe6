"""The panel for corrections in a real browser."""

import json

from datasets import load_dataset

from modeling_captioner import open_photo
from tests.helpers.page_fixtures import EXAMPLES, PHONE_AND_DESKTOP, TIMEOUT, caption_words, needs_browser, upload_photo

pytestmark = needs_browser


@PHONE_AND_DESKTOP
def test_corrections_are_saved_only_on_request(open_page, corrections_app, browser, tmp_path, width, theme):
    page = open_page()
    page.locator("#photo").wait_for()
    assert page.locator("#corrections").count() == 0
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(TIMEOUT)
    page.goto(f"{corrections_app.address}?__theme={theme}")
    upload_photo(page, EXAMPLES / "coffee.jpg")
    page.locator("#caption_tab button.correct").click()
    page.get_by_text("If you click the button").wait_for()
    field = "#corrected_caption textarea, #corrected_caption input"
    page.wait_for_function(
        "([field, words]) => document.querySelector(field).value === words", arg=[field, " ".join(caption_words(page))]
    )
    before = set(corrections_app.folder.iterdir())
    page.locator(field).fill("a cup of  coffee on a wooden table")
    page.locator("#save_correction").click()
    page.locator("#correction_status").get_by_text("Saved. Thank you").wait_for()
    page.locator(field).fill("a quokka on a wooden table")
    page.locator("#correction_marks mark").get_by_text("quokka").wait_for()
    page.locator("#save_correction").click()
    saved = page.locator("#saved_corrections").get_by_label("a quokka on a wooden table")
    saved.check()
    page.locator("#take_back").click()
    page.locator("#correction_status").get_by_text("Taken back and deleted: 1").wait_for()
    saved.wait_for(state="detached")
    page.reload()  # the browser knows what it has saved
    page.locator("#caption_tab button.correct").click()
    page.locator("#saved_corrections").get_by_label("a cup of coffee on a wooden table").wait_for()
    page.close()
    assert len(set(corrections_app.folder.iterdir()) - before - {corrections_app.folder / "metadata.jsonl"}) == 1
    row = json.loads((corrections_app.folder / "metadata.jsonl").read_text().splitlines()[-1])
    assert corrections_app.folder / row["file_name"] not in before
    assert row["captions"] == ["a cup of coffee on a wooden table"]
    assert open_photo(corrections_app.folder / row["file_name"]).size == open_photo(EXAMPLES / "coffee.jpg").size
    dataset = load_dataset(str(corrections_app.folder), cache_dir=str(tmp_path))["train"]
    assert dataset[0]["captions"] == row["captions"]
