"""Fixtures and helpers for tests of the page: a running `app.py` and a browser."""

import importlib.util
import io
import shutil
import socket
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessorPil

from captioning.torch_captioner import TorchCaptioner
from modeling_captioner import (
    CaptionerConfig,
    CaptionerForConditionalGeneration,
    CaptionerProcessor,
)
from publishing.static_site import fetch_runtime
from tests.helpers.captioners import TINY_ENCODER
from tests.helpers.drawn import COLORS, SHAPES, drawn_photo
from tests.helpers.marks import slow_case
from tests.helpers.paths import ROOT, SHIPPED
from tests.helpers.programs import start_python
from train.data import make_tokenizer

CHROMIUM = shutil.which("chromium")
CHROMIUM_ARGUMENTS = [
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
OWN_WORD = ".caption-panel:not(.opening) .word"  # not of the example with which the page opens
TIMEOUT = 120_000  # milliseconds; generous, because a training may be running on the same machine


PHONE_AND_DESKTOP = pytest.mark.parametrize(("width", "theme"), [(360, "dark"), slow_case(1280, "light")])
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: apt install chromium")


def save_captioner(folder, **options):
    """Save a captioner with random weights whose words and attention maps are clearly different to `folder`.

    `options` are `CaptionerConfig`'s.
    """
    torch.manual_seed(3)
    captions = [drawn_photo(color, shape)[1] for color in COLORS for shape in SHAPES]
    languages = options.get("languages") or []
    captions += ["một con mèo đang ngồi trên giường"] * bool(languages)
    captions += ["a man is riding a horse along the beach with two dogs"]
    tokenizer = make_tokenizer(captions, min_count=1, languages=languages)
    sizes = {"image_size": 32 * SIDE, "hidden_size": 64, "vocab_size": len(tokenizer)}
    options = TINY_ENCODER | sizes | options
    model = CaptionerForConditionalGeneration(CaptionerConfig(**options)).eval()
    with torch.no_grad():
        if model.config.attention_type == "additive":  # its query goes through tanh, which must not saturate
            model.decoder.attention.query.weight *= 10
            model.decoder.attention.score.weight *= 100
        else:
            model.decoder.attention.query.weight *= 300
        model.decoder.output_projection.weight *= 30
    model.generation_config.update(
        suppress_tokens=[0, 1, 2], min_new_tokens=6, max_new_tokens=9, repetition_penalty=2.0
    )
    if languages:
        starts = {language: tokenizer.convert_tokens_to_ids(f"<{language}>") for language in languages}
        model.generation_config.suppress_tokens = sorted({0, 1, 2, *starts.values()})
        model.generation_config.languages = {name: {"decoder_start_token_id": id} for name, id in starts.items()}
        model.generation_config._from_model_config = False  # else only what config.json knows is loaded
        with torch.no_grad():
            model.decoder.embedding.weight[list(starts.values())] *= 30  # the start must change what is said
    model.save_pretrained(folder)
    size = {"height": options["image_size"], "width": options["image_size"]}
    images = ViTImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_convert_rgb=True)
    CaptionerProcessor(images, tokenizer, languages or None).save_pretrained(folder)


@pytest.fixture(scope="session")
def captioner(tmp_path_factory):
    """The shipped captioner, or a tiny one if there are no weights: its folder, model and processor."""
    folder = SHIPPED
    if not (SHIPPED / "model.safetensors").exists():
        folder = tmp_path_factory.mktemp("captioner")
        save_captioner(folder)
    model = CaptionerForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return SimpleNamespace(folder=folder, model=model, processor=CaptionerProcessor.from_pretrained(folder))


def engine_of(captioner):
    """The fixture `captioner` as an engine in PyTorch."""
    return TorchCaptioner(str(captioner.folder), "cpu")


@pytest.fixture(scope="session")
def address(captioner, tmp_path_factory):
    """URL of a page that runs with default options."""
    with running_app(captioner, tmp_path_factory.mktemp("app")) as address:
        yield address


@pytest.fixture(scope="session")
def corrections_app(captioner, tmp_path_factory):
    """A page with `--corrections`, and with `--mcp` if the mcp package is installed: its address and folder."""
    folder = tmp_path_factory.mktemp("data") / "corrections"
    options = ["--corrections", str(folder)] + ["--mcp"] * bool(importlib.util.find_spec("mcp"))
    with running_app(captioner, tmp_path_factory.mktemp("app"), *options) as address:
        yield SimpleNamespace(address=address, folder=folder)


@contextmanager
def running_app(captioner, folder, *options, engine="torch"):
    """Run `app.py` on a free port and yield its URL. Its output goes to `app.log` in `folder`.

    By default with PyTorch, because the tests compare what it shows with the model's own results.
    """
    options = [*options, *(["--engine", engine] if engine else [])]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "app.log"
    app = start_python("app.py", "--model", captioner.folder, "--port", port, *options, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}/"
    try:
        wait_until_ready(url, app, log)
        yield url
    finally:
        app.terminate()
        app.wait(TIMEOUT / 1000)


def wait_until_ready(url, app, log):
    deadline = time.monotonic() + 2 * TIMEOUT / 1000
    while time.monotonic() < deadline:
        try:
            return urllib.request.urlopen(url, timeout=5)
        except OSError:  # refused, or too busy to answer within the timeout
            assert app.poll() is None, log.read_text()
            time.sleep(0.2)
    pytest.fail(f"{url} does not answer: {log.read_text()}")


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, address):
    """Open the page in a new browser context with Playwright's options.

    Fails if the page raises a JavaScript error or sends a request to any other server.
    """
    contexts, requests, errors = [], [], []

    def open_(width=1280, height=900, theme="light", **options):
        options = {"viewport": {"width": width, "height": height}, "reduced_motion": "reduce"} | options
        context = browser.new_context(**options)
        context.set_default_timeout(TIMEOUT)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"{address}?__theme={theme}")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert errors == []
    assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []


def upload_photo(page, photo):
    """Upload a photo, a path or `(name, bytes)`, and wait for its caption or error message."""
    if isinstance(photo, tuple):
        photo = {"name": photo[0], "mimeType": "image/jpeg", "buffer": photo[1]}
    page.locator(".photo-input input[type=file]").first.set_input_files(photo)
    page.locator(f"{OWN_WORD}, .message:visible").first.wait_for()
    page.wait_for_function("() => [...document.querySelectorAll('img.photo[src]')].every((e) => e.complete)")


def choose_photo(page, photo):
    """Choose a photo, a path or `(name, bytes)`, on the page without a server, and wait for its caption or message."""
    if isinstance(photo, tuple):
        photo = {"name": photo[0], "mimeType": "image/png", "buffer": photo[1]}
    tab = page.locator("#caption_tab")  # another tab has viewers, too
    tab.locator(".words").evaluate("words => words.replaceChildren()")
    tab.locator(".photo-input input").set_input_files(photo)
    tab.locator(".word, .message:visible").first.wait_for()


def caption_words(page):
    return [word.text_content() for word in page.locator(".word > span").all()]


def map_pixels(page):
    """The RGBA pixels of the drawn map, (height, width, 4), uint8."""
    data = page.locator("canvas.map").evaluate("canvas => canvas.toDataURL()")
    with urllib.request.urlopen(data) as png:
        return np.asarray(Image.open(io.BytesIO(png.read())).convert("RGBA"))


def brightest_region(pixels):
    """(row, column) of the region with the most red and green, which increase with attention: red mostly in the lower
    part of the color scale, green in the upper one.

    Sampled near the regions' corners, because their centers may contain numbers.
    """
    height, width = pixels.shape[:2]
    rows, columns = (
        ((np.arange(SIDE) + 0.15) / SIDE * height).astype(int),
        ((np.arange(SIDE) + 0.15) / SIDE * width).astype(int),
    )
    brightness = pixels[rows][:, columns, :2].sum(axis=-1, dtype=int)
    return divmod(int(np.argmax(brightness)), SIDE)


def assert_no_serious_violations(axe, page, exclude=()):
    # A button that has just been enabled fades in: its contrast counts once transitions have ended.
    page.wait_for_function(
        "() => document.getAnimations().every("
        "a => a.playState !== 'running' || a.effect.getComputedTiming().endTime === Infinity)"
    )
    violations = axe.run(page, context={"exclude": list(exclude)}).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in violations if v["impact"] in ("serious", "critical")] == []


def skip_unless_site_builds():
    """Skip a test that needs the page without a server and what it is built from."""
    if not (SHIPPED / "onnx").is_dir():
        pytest.skip("modeling_captioner/ contains no ONNX export")
    try:
        fetch_runtime()
    except OSError as error:
        pytest.skip(str(error))
