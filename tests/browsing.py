"""What the tests of the page share: a running `app.py` and a browser before it (PYTEST_DONT_REWRITE)."""

import importlib.util
import io
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import COLOURS, ROOT, SHAPES, SHIPPED, TINY_ENCODER, drawn_photo
from PIL import Image
from transformers import ViTImageProcessor

from modeling_captioner import (
    CaptionerConfig,
    CaptionerForConditionalGeneration,
    CaptionerProcessor,
)
from train.data import make_tokenizer

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
EXAMPLES = ROOT / "demo" / "examples"
SIDE = 8
PATIENCE = 120_000  # milliseconds: a machine that also trains is slow

PHONE_AND_DESK = pytest.mark.parametrize(("width", "theme"), [(360, "dark"), (1280, "light")])
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="the page's tests need Chromium: apt install chromium")


def save_captioner(folder):
    """A captioner with random weights whose attention and words differ clearly, in `folder`."""
    torch.manual_seed(3)
    captions = [drawn_photo(colour, shape)[1] for colour in COLOURS for shape in SHAPES]
    tokenizer = make_tokenizer([*captions, "a man is riding a horse along the beach with two dogs"], min_count=1)
    options = TINY_ENCODER | {"image_size": 32 * SIDE, "hidden_size": 64, "vocab_size": len(tokenizer)}
    model = CaptionerForConditionalGeneration(CaptionerConfig(**options)).eval()
    with torch.no_grad():
        model.decoder.attention.query.weight *= 300
        model.decoder.narrow.weight *= 30
    model.generation_config.update(
        suppress_tokens=[0, 1, 2], min_new_tokens=6, max_new_tokens=9, repetition_penalty=2.0
    )
    model.save_pretrained(folder)
    size = {"height": options["image_size"], "width": options["image_size"]}
    images = ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_convert_rgb=True)
    CaptionerProcessor(images, tokenizer).save_pretrained(folder)


@pytest.fixture(scope="session")
def captioner(tmp_path_factory):
    """The shipped captioner, or a tiny one where there is none yet: its folder, model and processor."""
    folder = SHIPPED
    if not (SHIPPED / "model.safetensors").exists():
        folder = tmp_path_factory.mktemp("captioner")
        save_captioner(folder)
    model = CaptionerForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return SimpleNamespace(folder=folder, model=model, processor=CaptionerProcessor.from_pretrained(folder))


@pytest.fixture(scope="session")
def address(captioner, tmp_path_factory):
    """Where the page is, for the tests that need no option of it."""
    with running_app(captioner, tmp_path_factory.mktemp("app")) as address:
        yield address


@pytest.fixture(scope="session")
def open_app(captioner, tmp_path_factory):
    """A page that keeps corrections, and serves agents where the package for that is installed."""
    corrections = tmp_path_factory.mktemp("kept") / "corrections"
    options = ["--corrections", str(corrections)] + ["--mcp"] * bool(importlib.util.find_spec("mcp"))
    with running_app(captioner, tmp_path_factory.mktemp("app"), *options) as address:
        yield SimpleNamespace(address=address, corrections=corrections)


@contextmanager
def running_app(captioner, folder, *options):
    """Starts `app.py` on a free port and stops it after; gives its address. What it prints goes into `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "app.log"
    command = [sys.executable, "app.py", "--model", captioner.folder, "--port", str(port), *options]
    with log.open("wb") as file:
        app = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}/"
    try:
        wait_for(url, app, log)
        yield url
    finally:
        app.terminate()
        app.wait(PATIENCE / 1000)


def wait_for(url, app, log):
    deadline = time.monotonic() + 2 * PATIENCE / 1000
    while time.monotonic() < deadline:
        try:
            return urllib.request.urlopen(url, timeout=5)
        except (urllib.error.URLError, ConnectionError):
            assert app.poll() is None, log.read_text()
            time.sleep(0.2)
    pytest.fail(f"{url} does not answer: {log.read_text()}")


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="the page's tests need playwright")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, address):
    """Opens the page in a fresh window; options are Playwright's. Nothing outside the machine may be asked."""
    contexts, strangers, failures = [], [], []

    def open_(width=1280, height=900, theme="light", **options):
        options = {"viewport": {"width": width, "height": height}, "reduced_motion": "reduce"} | options
        context = browser.new_context(**options)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on("request", lambda request: strangers.append(request.url))
        page.goto(f"{address}?__theme={theme}")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert failures == []  # of the page's script
    assert [url for url in strangers if not url.startswith((address, "data:", "blob:"))] == []


def bring(page, photo):
    """Give the page a photo (a path, or bytes as `(name, bytes)`) and wait for its answer."""
    if isinstance(photo, tuple):
        photo = {"name": photo[0], "mimeType": "image/jpeg", "buffer": photo[1]}
    page.locator("#photo input[type=file]").first.set_input_files(photo)
    page.locator(".word, .message:visible").first.wait_for()
    page.wait_for_function("[...document.querySelectorAll('img.picture[src]')].every((e) => e.complete)")


def said(page):
    return [name.text_content() for name in page.locator(".word > span").all()]


def overlay(page):
    """The map as it is drawn: (height, width, 4), uint8."""
    data = page.locator("canvas.map").evaluate("canvas => canvas.toDataURL()")
    with urllib.request.urlopen(data) as png:
        return np.asarray(Image.open(io.BytesIO(png.read())).convert("RGBA"))


def brightest_region(pixels):
    """(row, column) of the brightest region, seen near its corner, where no number is: red rises with the attention."""
    height, width = pixels.shape[:2]
    rows, columns = (
        ((np.arange(SIDE) + 0.15) / SIDE * height).astype(int),
        ((np.arange(SIDE) + 0.15) / SIDE * width).astype(int),
    )
    red = pixels[rows][:, columns, 0]
    return divmod(int(np.argmax(red)), SIDE)
