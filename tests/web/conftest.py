"""The page without a server, built and opened in a browser."""

from types import SimpleNamespace

import pytest

from modeling_captioner.onnx_captioner import OnnxCaptioner
from publishing.static_site import build_site
from tests.helpers.page_fixtures import TIMEOUT, skip_unless_site_builds
from tests.helpers.paths import SHIPPED
from tests.helpers.photo_server import FileServer


@pytest.fixture(scope="session")
def site(made_once):
    """The folder of the site with the shipped captioner."""
    skip_unless_site_builds()
    return made_once("site", build_site)


@pytest.fixture(scope="module")
def open_site(browser):
    """Open a site in a new browser context with Playwright's options. Returns the page and all requests of the context.

    Fails if the page raises a JavaScript error. `wait=False`: do not wait until the page loads the captioner, which it
    does once the service worker is there.
    """
    contexts, errors = [], []

    def open_(address, wait=True, **options):
        context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"} | options
        )
        context.set_default_timeout(TIMEOUT)
        contexts.append(context)
        requests = []
        context.on("request", lambda request: requests.append(request.url))
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        if wait:
            page.locator("html[data-captioner]").wait_for()
        return page, requests

    yield open_
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture(scope="module")
def visit(site, open_site):
    """A visit to the site: its page, all its requests, its address, and the bytes that it has received."""
    with FileServer(site) as server:
        page, requests = open_site(server.address)
        page.locator("html[data-captioner=ready]").wait_for()
        yield SimpleNamespace(page=page, requests=requests, address=server.address, received=server.sent)


@pytest.fixture(scope="session")
def reference():
    return OnnxCaptioner(SHIPPED)
