"""Takes the README's screenshots of the real page anew: `python docs/screenshots.py [--model FOLDER]`."""

import argparse
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

from playwright.sync_api import sync_playwright

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS.parent / "tests")]
from browsing import ARGUMENTS, CHROMIUM, EXAMPLES, PATIENCE, SHIPPED, bring, running_app  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=SHIPPED, help="the captioner to show (default: the shipped one)")
    parser.add_argument("--photo", default=EXAMPLES / "astronaut.jpg", help="the photo to show (default: %(default)s)")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        running_app(SimpleNamespace(folder=options.model), Path(folder)) as address,
        sync_playwright() as driver,
    ):
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for name, width, theme in (("page", 1280, "light"), ("page_dark", 1280, "dark"), ("phone", 360, "light")):
            page = open_answer(browser, address, options.photo, width, theme)
            longest_word(page).hover()
            page.screenshot(path=DOCS / f"{name}.png", full_page=True)
        page = open_answer(browser, address, options.photo, 1280, "light")
        page.get_by_role("tab", name="How it works").click()
        page.locator(".tokens li").first.wait_for()
        page.screenshot(path=DOCS / "lecture.png", full_page=True)
        browser.close()


def open_answer(browser, address, photo, width, theme):
    page = browser.new_page(viewport={"width": width, "height": 800}, reduced_motion="reduce")
    page.set_default_timeout(PATIENCE)
    page.goto(f"{address}?__theme={theme}")
    bring(page, photo)
    page.wait_for_load_state("networkidle")
    return page


def longest_word(page):
    """A long word is more likely to be a thing, and a thing is somewhere."""
    words = page.locator(".word > span").all_text_contents()
    return page.locator(".word").nth(max(range(len(words)), key=lambda number: len(words[number])))


if __name__ == "__main__":
    main()
