"""The page without a server remembers: its address, back and reload."""

import pytest

from tests.helpers.page_fixtures import EXAMPLES, caption_words, choose_photo, needs_browser
from tests.helpers.photo_server import FileServer

pytestmark = needs_browser
SHOWN = "[...document.querySelectorAll('#viewer .word > span')].map((word) => word.textContent).join()"


@pytest.fixture(scope="module")
def server(site):
    with FileServer(site) as server:
        yield server


def open_ready(open_site, address):
    page, _ = open_site(address)
    page.locator("html[data-captioner=ready]").wait_for()
    return page


def wait_for_words(page, words):
    page.wait_for_function(f"words => {SHOWN} === words", arg=",".join(words))


@pytest.mark.slow
def test_reload_and_back_bring_back_what_was_seen(open_site, server):
    page = open_ready(open_site, server.address)
    first = caption_words(page)
    page.locator("[data-example=coffee]").click()
    page.locator("#viewer img.photo[src^='data:']").wait_for()
    page.locator("#viewer .word").first.wait_for()
    item = page.locator("#viewer .words > li").nth(1)
    item.locator(".word").click()
    item.locator(".alternative:enabled:not(.chosen)").first.click()
    page.locator("#viewer .words > li.prefix").nth(1).wait_for()
    words = caption_words(page)
    pinned = 0 if page.locator("#viewer .word").first.get_attribute("aria-pressed") != "true" else 2
    page.locator("#viewer .word").nth(pinned).click()
    page.locator("[aria-controls=batch_tab]").click()
    assert all(part in page.url for part in ("example=coffee", "text=", f"word={pinned}", "tab=3")), page.url
    page.reload()
    page.locator("#batch_tab:not([hidden])").wait_for()
    page.go_back()
    wait_for_words(page, words)
    page.locator(f"#viewer .word[data-index='{pinned}'][aria-pressed=true]").wait_for()
    page.evaluate("history.go(-2)")  # before the example was chosen
    page.wait_for_url(lambda url: "example" not in url)
    wait_for_words(page, first)


@pytest.mark.slow
def test_own_photo_and_settings_survive_a_reload(open_site, server):
    page = open_ready(open_site, server.address)
    choose_photo(page, EXAMPLES / "kite.jpg")
    page.locator("#settings summary").click()
    beams = page.locator("#settings input[name=num_beams]")
    other = "1" if beams.input_value() != "1" else "2"
    beams.fill(other)
    page.wait_for_url(f"**photo=1*num_beams={other}*")
    page.wait_for_function("() => JSON.parse(sessionStorage['captioner-photo']).url.length > 1000")
    page.locator("#viewer:not(.busy)").wait_for()
    words = caption_words(page)
    page.reload()
    page.locator("html[data-captioner=ready]").wait_for()
    wait_for_words(page, words)
    assert page.locator("#settings input[name=num_beams]").input_value() == other


@pytest.mark.slow
def test_the_settings_of_both_sides_are_in_the_address(open_site, server):
    page = open_ready(open_site, f"{server.address}?tab=2&a_num_beams=4&b_num_beams=99")
    sides = page.locator("#comparison .caption-panel")
    sides.nth(1).locator(".word").first.wait_for()
    values = [sides.nth(side).locator("input[name=num_beams]").input_value() for side in (0, 1)]
    assert values[0] == "4"
    assert values[1] != "99"
    sides.nth(1).locator("input[name=num_beams]").fill("1")
    page.locator("#same_photo").uncheck()
    page.wait_for_url("**b_num_beams=1*same=0*")
    page.reload()
    page.locator("#comparison:visible .caption-panel").first.wait_for()
    assert not page.locator("#same_photo").is_checked()


@pytest.mark.slow
def test_nonsense_in_the_address_opens_the_page_as_if_it_were_not_there(open_site, server):
    page = open_ready(open_site, server.address)
    words = caption_words(page)
    nonsense = [
        "photo=99",
        "word=999",
        "tab=9",
        "num_beams=1e9",
        "max_new_tokens=x",
        "lang=%00",
        "captions=xx",
        "same=x",
    ]
    other = open_ready(open_site, f"{server.address}?{'&'.join(nonsense)}&text={'a' * 700}")
    assert caption_words(other) == words
    assert other.locator("[aria-controls=caption_tab]").get_attribute("aria-selected") == "true"
    assert 1 <= int(other.locator("#settings input[name=num_beams]").input_value()) <= 8
