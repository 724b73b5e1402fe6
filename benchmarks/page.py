"""How long a visitor waits: the page's first caption, and each further one of a 12-megapixel photo.

    python benchmarks/page.py

A browser (Chromium, headless) opens a really running `app.py`, gives it an example, and then drops a photo of 4000 x
3000 pixels on it again and again. The clock runs from the page's opening, or from the drop, until the caption's first
word and the picture are on the screen. Below that, where the time goes: the browser's parts as it reports them, the
server's as they take alone, and what is left, which is Gradio's queue and the way there and back.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from browsing import ARGUMENTS, CHROMIUM, EXAMPLES, PATIENCE, SHIPPED, bring, running_app  # noqa: E402

from captioning.loading import load_captioner  # noqa: E402
from demo.answers import SHOWN_SIDE, describe, shown  # noqa: E402
from modeling_captioner import explain, open_photo  # noqa: E402

LARGE = (4000, 3000)
# Drops the file on the stage; gives the milliseconds of the upload, of waiting for the answer, of drawing, and of all.
DROP = """async () => {
    const [stage, words] = [".stage", ".words"].map((name) => document.querySelector(name));
    const data = new DataTransfer();
    data.items.add(document.querySelector("#large").files[0]);
    performance.clearResourceTimings();
    const start = performance.now();
    const answered = new Promise((resolve) =>
        new MutationObserver(() => resolve(performance.now())).observe(words, { childList: true }));
    stage.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
    const answer = await answered;
    await document.querySelector(".picture").decode();
    await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
    const end = performance.now();
    const [upload] = performance.getEntriesByType("resource").filter(({ name }) => name.includes("/gradio_api/upload"));
    return [upload.duration, answer - upload.responseEnd, end - answer, end - start];
}"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=8, help="of everything (default: %(default)s)")
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        large = [enlarged(name, folder) for name in ("astronaut", "chelsea")]  # the same photo again is no news
        print(f"photos of {LARGE[0]} x {LARGE[1]} pixels, {large[0].stat().st_size / 1e6:.1f} MB; medians of {repeats}")
        started = time.perf_counter()
        with running_app(SimpleNamespace(folder=SHIPPED), Path(folder)) as address, sync_playwright() as driver:
            print(f"{'app.py, from its start until it answers':<60} {time.perf_counter() - started:8.2f} s")
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            first = [opened(browser, address) for _ in range(repeats)]
            print(f"{'first caption, from opening the page: a fresh server':<60} {first[0]:8.2f} s")
            print(f"{'first caption, from opening the page: later visitors':<60} {statistics.median(first[1:]):8.2f} s")
            names = ("upload", "until the answer is there", "drawing", "a further caption, from the drop")
            tell(names, dropped(browser, address, large, repeats))
        tell(*served(large[0], repeats))


def enlarged(name, folder):
    grain = Image.effect_noise(LARGE, 40).convert("RGB")  # a camera's; without it the file would be far smaller
    photo = Image.blend(open_photo(EXAMPLES / f"{name}.jpg").resize(LARGE), grain, 0.1)
    photo.save(Path(folder) / f"{name}.jpg", quality=90)
    return Path(folder) / f"{name}.jpg"


def tell(names, rows):
    for name, values in zip(names, zip(*rows, strict=True), strict=True):
        print(f"{name:<60} {statistics.median(values):8.0f} ms   worst {max(values):.0f}")


def opened(browser, address):
    """Seconds from the page's opening until an example's first word is there."""
    context = browser.new_context()  # nothing is cached
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    start = time.perf_counter()
    page.goto(address)
    page.locator(".gallery-item").nth(3).click()
    page.locator(".word").first.wait_for()
    seconds = time.perf_counter() - start
    context.close()
    return seconds


def dropped(browser, address, photos, repeats):
    """Milliseconds (repeats, 4) of `DROP`."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    bring(page, EXAMPLES / "coffee.jpg")
    page.evaluate("document.body.append(Object.assign(document.createElement('input'), {type: 'file', id: 'large'}))")
    rows = []
    for number in range(repeats + 1):
        page.locator("#large").set_input_files(photos[number % 2])
        rows.append(page.evaluate(DROP))
    return rows[1:]


def served(photo, repeats):
    """The names of the server's parts, and the milliseconds (repeats, parts) that each takes by itself."""
    model, processor = load_captioner(str(SHIPPED), None, "float32")
    rows = []
    for _ in range(repeats + 1):
        times = [time.perf_counter()]
        opened = open_photo(photo, side=SHOWN_SIDE)
        times.append(time.perf_counter())
        pixel_values = processor(images=opened, return_tensors="pt").pixel_values
        times.append(time.perf_counter())
        model.get_encoder()(pixel_values)
        times.append(time.perf_counter())
        explanation = explain(model, processor, opened)
        times.append(time.perf_counter())
        answer = json.dumps(describe(explanation) | {"photo": shown(opened)})
        times.append(time.perf_counter())
        rows.append([1000 * (after - before) for before, after in pairwise(times)])
    names = ("opening the photo", "of the model: making it small", "of the model: the encoder", "the model")
    return (*(f"  server: {name}" for name in names), f"  server: the answer, {len(answer) / 1e3:.0f} kB"), rows[1:]


if __name__ == "__main__":
    main()
