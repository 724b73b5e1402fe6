"""A page whose captioner speaks two languages: captions, settings, corrections and the API in both."""

import json
from types import SimpleNamespace

import pytest

from demo.corrections import read_corrections
from modeling_captioner import CaptionerForConditionalGeneration, CaptionerProcessor, explain, open_photo
from tests.helpers.page_client import SETTINGS, PageClient
from tests.helpers.page_fixtures import (
    EXAMPLES,
    TIMEOUT,
    needs_browser,
    running_app,
    save_captioner,
    upload_photo,
)

pytestmark = [needs_browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def bilingual(tmp_path_factory):
    """The running page with `--corrections`: its address, the folder of them, and `say(language, **settings)`."""
    folder = tmp_path_factory.mktemp("bilingual")
    save_captioner(folder / "model", languages=["en", "vi"])
    model = CaptionerForConditionalGeneration.from_pretrained(folder / "model").eval()
    processor, photo = CaptionerProcessor.from_pretrained(folder / "model"), open_photo(EXAMPLES / "coffee.jpg")

    def say(language, **settings):
        return explain(model, processor, photo, language=language, **settings).caption

    options = ["--corrections", str(folder / "corrections")]
    with running_app(SimpleNamespace(folder=folder / "model"), folder, *options) as address:
        yield SimpleNamespace(address=address, corrections=folder / "corrections", say=say)


def open_in(browser, address, locale):
    page = browser.new_context(locale=locale, reduced_motion="reduce").new_page()
    page.set_default_timeout(TIMEOUT)
    page.goto(address)
    page.locator(".word").first.wait_for()
    return page


def wait_for_caption(page, caption):
    shown = "[...document.querySelectorAll('#caption_tab .word > span')].map((word) => word.textContent).join(' ')"
    page.wait_for_function(f"caption => {shown} === caption", arg=caption)


def test_captions_are_in_the_language_of_the_page_and_the_other_is_a_click_away(browser, bilingual):
    english, vietnamese = bilingual.say("en"), bilingual.say("vi")
    assert english != vietnamese
    visits = [("en-US", english, "Tiếng Việt", vietnamese), ("vi-VN", vietnamese, "English", english)]
    for locale, first, other, second in visits:
        page = open_in(browser, bilingual.address, locale)
        upload_photo(page, EXAMPLES / "coffee.jpg")
        wait_for_caption(page, first)
        assert page.locator(".caption-language").is_hidden()
        page.locator("#caption_language").get_by_label(other).check()
        wait_for_caption(page, second)
        assert page.locator(".caption-language:visible").count() == 1  # it says which language that is
        assert page.locator(".said").get_attribute("lang") == ("vi" if locale == "en-US" else "en")
        page.context.close()


def test_tour_and_side_by_side_show_both_languages_on_one_photo(browser, bilingual):
    page = open_in(browser, bilingual.address, "en-US")
    upload_photo(page, EXAMPLES / "coffee.jpg")
    wait_for_caption(page, bilingual.say("en"))
    page.get_by_role("tab", name="How it works").click()
    page.locator(".tour:visible").wait_for()
    while not page.locator(".language").count():
        page.locator(".tour .next").click()
    for number, language in enumerate(("en", "vi")):
        shown = page.locator(".language").nth(number).locator("figcaption").all_text_contents()
        words = [text.rsplit(" · ", 1)[0] for text in shown]
        assert " ".join(words) == bilingual.say(language)
    page.get_by_role("tab", name="Side by side").click()
    for side in ("a", "b"):
        page.locator(f"#side_{side} .word").first.wait_for()
    languages = [page.locator(f"#side_{side} .said").get_attribute("lang") for side in ("a", "b")]
    assert languages == ["en", "vi"]
    page.context.close()


def test_corrections_are_in_the_language_of_the_caption(browser, bilingual):
    page = open_in(browser, bilingual.address, "vi-VN")
    upload_photo(page, EXAMPLES / "coffee.jpg")
    wait_for_caption(page, bilingual.say("vi"))
    page.locator("#caption_tab button.correct").click()
    page.locator("#corrected_caption textarea, #corrected_caption input").fill("một con mèo đang ngồi")
    page.locator("#save_correction").click()
    page.locator("#correction_status").get_by_text("Đã lưu").wait_for()
    (row,) = read_corrections(bilingual.corrections)
    assert (row["captions"], row["language"]) == (["một con mèo đang ngồi"], "vi")
    assert json.loads((bilingual.corrections / "metadata.jsonl").read_text(encoding="utf-8")) == row
    page.context.close()


def test_api_takes_the_language(bilingual):
    client = PageClient(bilingual.address)
    photo = client.upload_photo("coffee.jpg", (EXAMPLES / "coffee.jpg").read_bytes())
    captions = {}
    for language in ("en", "vi"):
        response = client.http.post("gradio_api/call/caption", json={"data": [photo, *SETTINGS, "", language]})
        stream = client.http.get(f"gradio_api/call/caption/{response.json()['event_id']}").text
        captions[language] = json.loads(stream.strip().rsplit("data: ", 1)[1])[0]["caption"]
    assert captions == {language: bilingual.say(language, num_beams=1, max_new_tokens=6) for language in captions}
