"""The page without a server: its search and its resizing equal those of Python, and the built site in a browser."""

import contextlib
import functools
import http.server
import threading

import numpy as np
import pytest
from conftest import ROOT
from page_fixtures import TIMEOUT, needs_browser
from PIL import Image

from captioning.search import search

pytest_plugins = ["page_fixtures"]
pytestmark = needs_browser


class FileServer(http.server.ThreadingHTTPServer):
    """A plain file server for a folder, as `python -m http.server` is one."""

    def __init__(self, folder):
        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *arguments):
                pass

        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
        self.address = f"http://127.0.0.1:{self.server_port}/"


@contextlib.contextmanager
def serving(folder):
    server = FileServer(folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.address
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def modules(browser):
    """A blank page of a server that serves the folder web/."""
    with serving(ROOT / "web") as address:
        page = browser.new_page()
        page.set_default_timeout(TIMEOUT)
        page.goto(f"{address}search.js")
        yield page
        page.close()


SEARCH = """async ({ table, mix, output, starts, prompts, settings }) => {
    const { search } = await import("/search.js");
    const dot = (row, vector) => row.reduce((sum, value, i) => sum + value * vector[i], 0);
    const step = async (words, [states]) => {
        const next = words.map((word, beam) => mix.map((row, i) => Math.tanh(dot(row, states[beam]) + table[word][i])));
        return [next.map((state) => Float32Array.from(output, (row) => dot(row, state))), [next]];
    };
    const captions = [];
    for (const start of starts) {
        for (const prompt of prompts) captions.push(await search(step, [[start]], prompt, settings));
    }
    return captions.map((beams) => beams.map(({ ids, logProbability }) => [ids, logProbability]));
}"""


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 1},
        {"num_beams": 3},
        {"num_beams": 5, "length_penalty": 0.0},
        {"num_beams": 4, "length_penalty": 2.0},
        {"num_beams": 2, "length_penalty": -1.0},
        {"num_beams": 3, "early_stopping": True},
        {"num_beams": 3, "early_stopping": "never", "length_penalty": 1.5},
        {"num_beams": 3, "min_new_tokens": 4},
        {"num_beams": 2, "max_length": 9},
        {"num_beams": 1, "no_repeat_ngram_size": 1},
        {"num_beams": 3, "no_repeat_ngram_size": 2, "suppress_tokens": [0, 1, 2, 5]},
    ],
    ids=str,
)
def test_search_equals_that_of_python(modules, settings):
    """A small RNN with random weights, computed in Python and in the browser, from 20 initial states."""
    random = np.random.default_rng(7)
    table, mix, output = (random.normal(size=size) * 1.5 for size in ((12, 8), (8, 8), (12, 8)))
    output[3] += 0.3
    starts = np.tanh(random.normal(size=(20, 8)))
    settings = {"max_new_tokens": 8, "eos_token_id": 3} | settings
    if "max_length" in settings:
        del settings["max_new_tokens"]

    def step(words, states):
        state = np.tanh(states[0] @ mix.T + table[words])
        return (state @ output.T).astype(np.float32), [state]

    prompts = [[2], [2, 4, 7, 4]]
    expected = [search(step, [start[None]], prompt, settings) for start in starts for prompt in prompts]
    arguments = {"table": table, "mix": mix, "output": output, "starts": starts}
    arguments = {name: array.tolist() for name, array in arguments.items()}
    found = modules.evaluate(SEARCH, arguments | {"prompts": prompts, "settings": settings})
    for captions, others in zip(found, expected, strict=True):
        assert [ids for ids, _ in captions] == [ids for ids, _ in others]
        np.testing.assert_allclose([score for _, score in captions], [score for _, score in others], atol=1e-4)
    assert len({tuple(captions[0][0]) for captions in expected}) > 5
    if settings.get("length_penalty", 1) <= 1:  # a larger one prefers the longest captions
        assert len({len(captions[0][0]) for captions in expected}) > 1


RESIZE = """async ({ pixels, width, height, channels, newWidth, newHeight }) => {
    const { resize } = await import("/resize.js");
    return [...resize(Uint8Array.from(pixels), width, height, channels, newWidth, newHeight)];
}"""


@pytest.mark.parametrize(
    ("size", "new_size"),
    [((97, 61), (29, 29)), ((40, 30), (29, 64)), ((3, 2), (29, 29)), ((29, 500), (29, 29)), ((48, 48), (123, 77))],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_resizing_equals_that_of_pillow(modules, size, new_size, channels):
    """Random pixels, half of them black or white; shrunk, enlarged, and one side only."""
    random = np.random.default_rng(0)
    pixels = random.integers(-128, 384, size=(size[1], size[0], channels)).clip(0, 255).astype(np.uint8)
    expected = np.asarray(Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels).resize(new_size, 2))
    found = modules.evaluate(
        RESIZE,
        {
            "pixels": pixels.ravel().tolist(),
            "channels": channels,
            **dict(zip(("width", "height"), size, strict=True)),
            **dict(zip(("newWidth", "newHeight"), new_size, strict=True)),
        },
    )
    np.testing.assert_array_equal(np.reshape(found, expected.shape), expected)
