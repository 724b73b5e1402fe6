"""The page's texts in Vietnamese, and its numbers in the browser's language."""

import re

import pytest

from demo.i18n import translate_error
from modeling_captioner import PhotoError, open_photo
from tests.helpers.page_fixtures import EXAMPLES, needs_browser, upload_photo

pytestmark = needs_browser


def test_page_is_translated_to_vietnamese(open_page):
    page = open_page(locale="vi-VN")
    page.get_by_role("heading", name="Xem mô hình nhìn thấy gì").wait_for()
    upload_photo(page, ("holiday.jpg", b"no picture at all"))
    assert page.locator(".message").text_content().startswith("holiday.jpg không phải là ảnh đọc được")
    upload_photo(page, EXAMPLES / "chelsea.jpg")
    assert page.locator("button.play").text_content() == "Phát"
    assert page.locator("html").get_attribute("lang") == "vi"
    page.get_by_role("tab", name="So sánh").click()
    page.get_by_label("Hai bên dùng chung một ảnh").wait_for()


def test_numbers_follow_the_browser_language(open_page):
    """German is not among the page's languages, but its numbers are still written with a comma."""
    page = open_page(locale="de-DE")
    upload_photo(page, EXAMPLES / "coffee.jpg")
    percents = page.locator(".alternative small").all_text_contents()
    assert all(re.fullmatch(r"\d+(,\d)?\s%", percent) for percent in percents)
    assert any("," in percent for percent in percents)
    page.get_by_role("tab", name="How it works").click()
    page.locator(".tour:visible").wait_for()
    while not page.locator(".scores").count():
        page.locator(".tour .next").click()
    assert page.locator(".scores tfoot td").last.text_content() == "1,000"


def test_photo_errors_are_translated_to_vietnamese(tmp_path):
    whole = (EXAMPLES / "kite.jpg").read_bytes()
    for name, content in {"text": b"no picture", "half": whole[:9000], "empty": b"", "large": whole}.items():
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(content)
        with pytest.raises(PhotoError) as error:
            open_photo(path, max_pixels=200_000)
        sentence = translate_error(str(error.value), "vi")
        assert sentence.startswith(str(path))
        assert sentence != str(error.value) == translate_error(str(error.value), "en")


@pytest.mark.slow
def test_batch_table_formats_numbers(open_page):
    page = open_page(locale="de-DE")
    page.get_by_role("tab", name="Many photos").click()
    page.locator("#files input[type=file]").set_input_files(EXAMPLES / "coffee.jpg")
    page.locator("#files").get_by_text("coffee").first.wait_for()
    page.locator("#start").click()
    page.locator("#table").get_by_text(re.compile(r"^-\d+,\d\d$")).locator("visible=true").first.wait_for()
