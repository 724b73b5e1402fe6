"""Response time of the page: its first map, the first caption, and captions of 12-megapixel photos.

    python -m benchmarks.page
    python -m benchmarks.page --static

Headless Chromium opens a running `app.py`, uploads a photo, and then repeatedly drops photos of 4000 x 3000 pixels.
Times run from opening the page until the first map of the example is drawn, and until the first word of the uploaded
photo's caption; or from the drop until the first word of the caption and the photo are visible. They are broken down
into the browser's own measurements and the steps of the server, measured separately; the remainder is Gradio's queue
and the network. `--static` measures the page without a server instead, which runs the model in the browser, from a
plain file server on the same machine.
"""

import argparse
import json
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

from PIL import Image
from playwright.sync_api import sync_playwright

from captioning.loading import load_captioner
from demo.predict import MAX_DISPLAY_SIDE, photo_to_data_url
from modeling_captioner import explain, open_photo
from publishing.static_site import build_site
from tests.helpers.page_fixtures import (
    CHROMIUM,
    CHROMIUM_ARGUMENTS,
    EXAMPLES,
    OWN_WORD,
    SHIPPED,
    TIMEOUT,
    running_app,
    upload_photo,
)
from tests.helpers.photo_server import FileServer

LARGE = (4000, 3000)
# Drops the file; returns the milliseconds for the upload, until the response, for rendering, and in total.
DROP = """async () => {
    const [viewer, words] = [".viewer", ".words"].map((name) => document.querySelector(name));
    const data = new DataTransfer();
    data.items.add(document.querySelector("#large").files[0]);
    performance.clearResourceTimings();
    const start = performance.now();
    const answered = new Promise((resolve) =>
        new MutationObserver(() => resolve(performance.now())).observe(words, { childList: true }));
    viewer.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
    const answer = await answered;
    await document.querySelector(".photo").decode();
    await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
    const end = performance.now();
    const [upload] = performance.getEntriesByType("resource").filter(({ name }) => name.includes("/gradio_api/upload"));
    if (!upload) return [end - start]; // the page without a server
    return [upload.duration, answer - upload.responseEnd, end - answer, end - start];
}"""

MAP_IS_DRAWN = """() => {
    const map = document.querySelector(".viewer:not([hidden]) canvas.map");
    return map?.getContext("2d").getImageData(9, 9, 1, 1).data[3] > 0;
}"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=8, help="repetitions of each measurement (default: %(default)s)")
    parser.add_argument("--static", action="store_true", help="measure the page without a server")
    options = parser.parse_args()
    if options.static:
        measure_static(options.repeats)
    else:
        measure_gradio(options.repeats)


def measure_gradio(repeats):
    with tempfile.TemporaryDirectory() as folder:
        large = [
            make_large_photo(name, folder) for name in ("astronaut", "chelsea")
        ]  # alternating, because dropping the same photo again has no effect
        print(f"photos of {LARGE[0]} x {LARGE[1]} pixels, {large[0].stat().st_size / 1e6:.1f} MB; medians of {repeats}")
        started = time.perf_counter()
        app = running_app(SimpleNamespace(folder=SHIPPED), Path(folder), engine=None)
        with app as address, sync_playwright() as driver:
            print(f"{'app.py, from start to first response':<60} {time.perf_counter() - started:8.2f} s")
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
            maps, captions = zip(*(time_opening(browser, address) for _ in range(repeats)), strict=True)
            for name, seconds in (("first map", maps), ("first own caption", captions)):
                print(f"{name + ' after opening the page, first visitor':<60} {seconds[0]:8.2f} s")
                print(f"{name + ' after opening the page, later visitors':<60} {statistics.median(seconds[1:]):8.2f} s")
            names = ("upload", "until the response", "rendering", "next caption, from the drop")
            print_times(names, time_drops(browser, address, large, repeats))
        print_times(*time_server(large[0], repeats))


def measure_static(repeats):
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        build_site(Path(folder, "site"))
        large = [make_large_photo(name, folder) for name in ("astronaut", "chelsea")]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        with FileServer(Path(folder, "site")) as server:
            times = [time_visits(browser, server.address) for _ in range(repeats)]
            print_times(("first caption after opening the page", "the same, second visit"), times)
            small = [EXAMPLES / "astronaut.jpg", EXAMPLES / "chelsea.jpg"]
            print_times(["next caption, 0.3 megapixels"], time_drops(browser, server.address, small, repeats))
            print_times(["next caption, 12 megapixels"], time_drops(browser, server.address, large, repeats))


def time_visits(browser, address):
    """Milliseconds from opening the page until the first word of a caption, the first time and the second."""
    context = browser.new_context()  # with an empty cache
    context.set_default_timeout(TIMEOUT)
    times = []
    for _ in range(2):
        page, start = context.new_page(), time.perf_counter()
        page.goto(address)
        page.get_by_label("coffee").click()
        page.locator(".word").first.wait_for()
        times.append(1000 * (time.perf_counter() - start))
        page.close()
    context.close()
    return times


def make_large_photo(name, folder):
    noise = Image.effect_noise(LARGE, 40).convert("RGB")  # sensor noise, without which the file would be far smaller
    photo = Image.blend(open_photo(EXAMPLES / f"{name}.jpg").resize(LARGE), noise, 0.1)
    photo.save(Path(folder) / f"{name}.jpg", quality=90)
    return Path(folder) / f"{name}.jpg"


def print_times(names, rows):
    for name, values in zip(names, zip(*rows, strict=True), strict=True):
        print(f"{name:<60} {statistics.median(values):8.0f} ms   worst {max(values):.0f}")


def time_opening(browser, address):
    """Seconds from opening the page until a map of the example is drawn, and until an uploaded photo is captioned.

    The photo is uploaded as soon as the page takes it.
    """
    context = browser.new_context()  # with an empty cache
    context.set_default_timeout(TIMEOUT)
    page = context.new_page()
    start = time.perf_counter()
    page.goto(address)
    page.wait_for_function(MAP_IS_DRAWN)
    first_map = time.perf_counter() - start
    page.locator("#photo input[type=file]").first.set_input_files(EXAMPLES / "coffee.jpg")
    page.locator(OWN_WORD).first.wait_for()
    seconds = time.perf_counter() - start
    context.close()
    return first_map, seconds


def time_drops(browser, address, photos, repeats):
    """The milliseconds returned by `DROP`, (repeats, 4), or (repeats, 1) without a server."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(TIMEOUT)
    page.goto(address)
    page.locator(".photo-input").first.wait_for()
    upload_photo(page, EXAMPLES / "coffee.jpg")
    page.evaluate("document.body.append(Object.assign(document.createElement('input'), {type: 'file', id: 'large'}))")
    rows = []
    for number in range(repeats + 1):
        page.locator("#large").set_input_files(photos[number % 2])
        rows.append(page.evaluate(DROP))
    return rows[1:]


def time_server(photo, repeats):
    """The names of the server's steps, and the milliseconds of each, (repeats, steps)."""
    model, processor = load_captioner(str(SHIPPED), None, "float32")
    rows = []
    for _ in range(repeats + 1):
        times = [time.perf_counter()]
        opened = open_photo(photo, side=MAX_DISPLAY_SIDE)
        times.append(time.perf_counter())
        pixel_values = processor(images=opened, return_tensors="pt").pixel_values
        times.append(time.perf_counter())
        model.get_encoder()(pixel_values)
        times.append(time.perf_counter())
        explanation = explain(model, processor, opened)
        times.append(time.perf_counter())
        answer = json.dumps(explanation.to_dict() | {"photo": photo_to_data_url(opened)})
        times.append(time.perf_counter())
        rows.append([1000 * (after - before) for before, after in pairwise(times)])
    names = ("opening the photo", "model: preprocessing", "model: encoder", "model: total")
    return (*(f"  server: {name}" for name in names), f"  server: the response, {len(answer) / 1e3:.0f} kB"), rows[1:]


if __name__ == "__main__":
    main()
