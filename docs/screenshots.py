"""Retake the README's screenshots of the page: `python -m docs.screenshots [--model FOLDER]`."""

import argparse
import tempfile
from pathlib import Path
from types import SimpleNamespace

from playwright.sync_api import sync_playwright

from captioning.opening import find_noun
from demo.opening import SHOWS
from tests.helpers.page_fixtures import (
    CHROMIUM,
    CHROMIUM_ARGUMENTS,
    EXAMPLES,
    SHIPPED,
    TIMEOUT,
    running_app,
    upload_photo,
)

DOCS = Path(__file__).parent


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=SHIPPED, help="captioner to use (default: the shipped one)")
    parser.add_argument("--photo", default=EXAMPLES / "chelsea.jpg", help="photo to upload (default: %(default)s)")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        running_app(SimpleNamespace(folder=options.model), Path(folder)) as address,
        sync_playwright() as driver,
    ):
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        for name, width, theme in (("page", 1280, "light"), ("page_dark", 1280, "dark"), ("phone", 360, "light")):
            page = open_caption(browser, address, options.photo, width, theme)
            word_to_show(page, Path(options.photo).stem).hover()
            page.screenshot(path=DOCS / f"{name}.png", full_page=True)
        page = open_caption(browser, address, options.photo, 1280, "light")
        page.get_by_role("tab", name="How it works").click()
        page.locator(".tour:visible").wait_for()
        while not page.locator(".scores").count():  # the step with the sums
            page.locator(".tour .next").click()
        page.screenshot(path=DOCS / "how_it_works.png", full_page=True)
        browser.close()


def open_caption(browser, address, photo, width, theme):
    page = browser.new_page(viewport={"width": width, "height": 800}, reduced_motion="reduce")
    page.set_default_timeout(TIMEOUT)
    page.goto(f"{address}?__theme={theme}")
    upload_photo(page, photo)
    page.wait_for_load_state("networkidle")
    return page


def word_to_show(page, name):
    """The noun that names an example, or else the longest word: the maps of nouns have a clear peak."""
    words = page.locator(".word > span").all_text_contents()
    noun = find_noun(" ".join(words), SHOWS[name]) if name in SHOWS else None
    longest = max(range(len(words)), key=lambda index: len(words[index]))
    return page.locator(".word").nth(longest if noun is None else noun)


if __name__ == "__main__":
    main()
