"""The page without a server: its search and its resizing equal those of Python, and the built site in a browser."""

import io
import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, SHIPPED
from page_fixtures import (
    CHROMIUM,
    CHROMIUM_ARGUMENTS,
    EXAMPLES,
    SIDE,
    TIMEOUT,
    assert_no_serious_violations,
    brightest_region,
    caption_words,
    map_pixels,
    needs_browser,
    skip_unless_site_builds,
)
from photo_server import FileServer
from PIL import Image, ImageOps
from search_settings import SEARCH_SETTINGS

from captioning.onnx_captioner import OnnxCaptioner
from captioning.onnx_files import FILES
from captioning.search import search
from modeling_captioner import open_photo
from publishing.static_site import build_site, main
from train.data import make_tokenizer

pytest_plugins = ["page_fixtures"]
pytestmark = needs_browser


@pytest.fixture(scope="module")
def modules(browser):
    """A blank page of a server that serves the folder web/."""
    with FileServer(ROOT / "web") as server:
        page = browser.new_page()
        page.set_default_timeout(TIMEOUT)
        page.goto(f"{server.address}/search.js")
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
    [*SEARCH_SETTINGS, {"num_beams": 3, "min_new_tokens": 4}, {"num_beams": 2, "max_length": 9}],
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


DECODE = """async ({ tokenizer, captions }) => {
    const { Captioner } = await import("/captioner.js");
    const parts = { ort: {}, config: { eos_token_id: 3 }, generation: {}, processor: {}, encoder: null };
    const captioner = new Captioner({ ...parts, tokenizer, decoder: { inputNames: [] } });
    return captions.map((ids) => captioner.decode(ids));
}"""


@pytest.mark.parametrize("texts", [["一只狗在草地上 with a ball", "一只 dog", "a ball"], ["a dog", "a ball"]])
def test_words_are_joined_as_in_python(modules, texts):
    tokenizer = make_tokenizer(texts, min_count=1)
    captions = [[*ids[1:], 3] for ids in tokenizer(texts).input_ids]
    found = modules.evaluate(
        DECODE, {"tokenizer": json.loads(tokenizer.backend_tokenizer.to_str()), "captions": captions}
    )
    assert found == texts == tokenizer.batch_decode([ids[:-1] for ids in captions])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site with the shipped captioner."""
    skip_unless_site_builds()
    folder = tmp_path_factory.mktemp("site")
    build_site(folder)
    return folder


@pytest.fixture(scope="module")
def open_site(browser):
    """Open a site in a new browser context with Playwright's options. Returns the page and all requests of the context.

    Fails if the page raises a JavaScript error.
    """
    contexts, errors = [], []

    def open_(address, **options):
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
        page.locator("main").wait_for()  # hidden until the service worker is there
        return page, requests

    yield open_
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture(scope="module")
def visit(site, open_site):
    """A visit to the site: its page, all its requests, and its address."""
    with FileServer(site) as server:
        page, requests = open_site(server.address)
        yield SimpleNamespace(page=page, requests=requests, address=server.address)


@pytest.fixture(scope="module")
def reference():
    return OnnxCaptioner(SHIPPED)


ENCODE = """async () => {
    const [ort, { Captioner }, { createGpuSession, useGpuIfFaster }] = await Promise.all(
        ["/onnxruntime/ort.wasm.min.mjs", "/captioner.js", "/gpu.js"].map((path) => import(path)));
    ort.env.wasm.wasmPaths = `${location.origin}/onnxruntime/`;
    const captioner = await Captioner.load(ort, `${location.origin}/model/`);
    const pixels = { data: Uint8Array.from({ length: 4 * 40 * 30 }, (_, i) => (i * i) % 251), width: 40, height: 30 };
    const encode = async () => [...(await captioner.encode(pixels)).regions.data];
    const result = { adapter: Boolean(await navigator.gpu?.requestAdapter()), cpu: await encode() };
    captioner.gpu = await createGpuSession(captioner.encoderUrl);
    if (!captioner.gpu) return result;
    result.gpu = await encode();
    if (!captioner.gpu) throw new Error("the GPU failed");
    captioner.gpu = { run: () => Promise.reject(new Error("device lost")) };
    result.lost = await encode();
    await useGpuIfFaster(captioner, pixels);
    return { ...result, kept: Boolean(captioner.gpu) };
}"""


def test_encoding_on_a_gpu(browser, exported, tmp_path):
    """SwiftShader, which imitates a GPU on the CPU: not used as it is; passed off as a real one, it gives the same
    regions, the CPU takes over when it is lost, and it is not kept because it is slower.
    """
    skip_unless_site_builds()
    build_site(tmp_path, exported)
    arguments = [*CHROMIUM_ARGUMENTS, "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]
    chromium = browser.browser_type.launch(executable_path=CHROMIUM, args=arguments)
    with FileServer(tmp_path) as server:
        page = chromium.new_page()
        page.set_default_timeout(TIMEOUT)
        requests = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"{server.address}/search.js")
        result = page.evaluate(ENCODE)
        if not result["adapter"]:
            pytest.skip("this Chromium has no WebGPU")
        assert "gpu" not in result
        assert not any("webgpu" in url for url in requests)

        script = (tmp_path / "gpu.js").read_text()
        assert "adapter.info.isFallbackAdapter" in script
        (tmp_path / "gpu.js").write_text(script.replace("adapter.info.isFallbackAdapter", "false"))
        page.reload()
        result = page.evaluate(ENCODE)
    chromium.close()
    assert any("webgpu" in url for url in requests)
    assert np.std(result["cpu"]) > 0.1
    np.testing.assert_allclose(result["gpu"], result["cpu"], atol=0.1 * np.std(result["cpu"]))
    assert result["lost"] == result["cpu"]
    assert not result["kept"]


def choose_photo(page, photo):
    """Choose a photo, a path or `(name, bytes)`, and wait for its caption or error message."""
    if isinstance(photo, tuple):
        photo = {"name": photo[0], "mimeType": "image/png", "buffer": photo[1]}
    page.locator(".words").evaluate("words => words.replaceChildren()")
    page.locator(".photo-input input").set_input_files(photo)
    page.locator(".word, .message:visible").first.wait_for()


def test_captions_equal_those_of_python(visit, reference):
    """The example photos, mirrored ones and details of them; nothing is requested from anywhere else."""
    photos = [open_photo(file) for file in sorted(EXAMPLES.glob("*.jpg"))]
    assert visit.page.evaluate("crossOriginIsolated"), "otherwise there is only one thread"
    captions = []
    for number, file in enumerate(sorted(EXAMPLES.glob("*.jpg"))):
        choose_photo(visit.page, file)
        captions.append(" ".join(caption_words(visit.page)))
        assert captions[-1] == reference.explain(photos[number]).caption, file.name
    details = [photo.crop((photo.width // 3, 0, photo.width, photo.height // 2)) for photo in photos]
    for photo in [*map(ImageOps.mirror, photos), *details[:4], *map(ImageOps.flip, photos[:4])]:
        file = io.BytesIO()
        photo.save(file, "PNG")
        choose_photo(visit.page, ("photo.png", file.getvalue()))
        captions.append(" ".join(caption_words(visit.page)))
        assert captions[-1] == reference.explain(photo).caption
    assert len(captions) == 20
    assert len(set(captions)) > 10
    assert len([url for url in visit.requests if "onnx" in url]) >= 4, "requests are seen"
    assert [url for url in visit.requests if not url.startswith((visit.address, "data:", "blob:"))] == []


def test_page_and_worker_may_not_request_anything_else(visit):
    request = """() => new Promise((resolve) => {
        self.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
        fetch("http://127.0.0.1:9/").catch(() => {});
    })"""
    assert visit.page.evaluate(request) == "connect-src"
    (worker,) = [worker for worker in visit.page.workers if worker.url.endswith("/worker.js")]
    assert worker.evaluate(request) == "connect-src"


def test_map_is_brightest_where_the_attention_is_largest(visit, reference):
    choose_photo(visit.page, EXAMPLES / "astronaut.jpg")
    visit.page.locator("input.blur").fill("0.15")  # the minimum: where the map is sampled, no neighbour mixes in
    expected = reference.explain(open_photo(EXAMPLES / "astronaut.jpg"))
    for number, word in enumerate(expected.words):
        visit.page.locator(".word").nth(number).hover()
        assert word.map[brightest_region(map_pixels(visit.page))] > 0.97 * word.map.max(), word.text


def test_alternatives_and_beams(visit, reference):
    """Going on from an alternative with three beams, then with one."""
    photo = open_photo(EXAMPLES / "coffee.jpg")
    choose_photo(visit.page, EXAMPLES / "coffee.jpg")
    other = visit.page.locator(".words > li").nth(1).locator(".alternative:enabled:not(.chosen)").first
    text = f"{caption_words(visit.page)[0]} {other.locator('span').text_content()}"
    other.click()
    visit.page.locator(".words > li.prefix").nth(1).wait_for()
    expected = reference.explain(photo, text=text)
    assert " ".join(caption_words(visit.page)) == expected.caption
    for beam, (caption, log_probability) in zip(visit.page.locator(".beams li").all(), expected.beams, strict=True):
        score = beam.locator("small").text_content()
        assert beam.text_content() == caption + score
        assert float(score) == pytest.approx(log_probability, abs=0.1)
    visit.page.locator("#settings summary").click()
    visit.page.locator("input[name=num_beams]").fill("1")
    visit.page.locator(".beams").wait_for(state="hidden")
    assert " ".join(caption_words(visit.page)) == OnnxCaptioner(SHIPPED, num_beams=1).explain(photo).caption
    visit.page.locator("input[name=num_beams]").fill("3")
    visit.page.locator(".beams").wait_for()


def test_covering_captions_the_photo_again(visit, reference):
    choose_photo(visit.page, EXAMPLES / "astronaut.jpg")
    visit.page.locator(".word").nth(1).click()
    visit.page.locator("button.cover-word").click()
    visit.page.locator(".occluded:visible").wait_for()
    photo = open_photo(EXAMPLES / "astronaut.jpg")
    weights = reference.explain(photo).words[1].map.ravel()
    order = np.argsort(-weights, kind="stable")
    needed = int(np.searchsorted(np.cumsum(weights[order]), 0.5)) + 1
    hidden = np.zeros(SIDE * SIDE, np.uint8)
    hidden[order[: min(needed, SIDE * SIDE // 4)]] = 255
    mask = Image.fromarray(np.kron(hidden.reshape(SIDE, SIDE), np.ones((6, 6), np.uint8))).resize(photo.size, 2)
    covered = Image.composite(Image.new("RGB", photo.size, (128, 128, 128)), photo, mask)
    expected = reference.explain(covered).caption
    assert visit.page.locator(".occluded-caption").text_content() == expected != " ".join(caption_words(visit.page))
    changes = visit.page.locator(".word small").all_text_contents()
    assert all(change.count("→") == 1 for change in changes)
    before, after = (float(percent.rstrip("%")) for percent in changes[1].split(" → "))
    assert after < before, "the word relied on what is covered"


def test_second_visit_needs_no_server(site, open_site):
    with FileServer(site) as server:
        page, _ = open_site(server.address)
        choose_photo(page, EXAMPLES / "rocket.jpg")
        first = caption_words(page)
        page.close()
    page = page.context.new_page()
    page.goto(server.address)
    page.get_by_label("chelsea").click()
    page.locator(".word").first.wait_for()
    choose_photo(page, EXAMPLES / "rocket.jpg")
    assert caption_words(page) == first


def test_unreadable_photo_gets_a_sentence_and_the_next_a_caption(visit):
    choose_photo(visit.page, ("holiday.jpg", b"no picture at all"))
    assert visit.page.locator(".message").text_content().startswith("holiday.jpg is not an image that ")
    visit.page.get_by_label("chelsea").click()
    visit.page.locator(".word").first.wait_for()
    assert not visit.page.locator(".message").is_visible()


def test_damaged_model_and_old_browser_get_a_sentence(site, open_site, tmp_path):
    shutil.copytree(site, tmp_path / "site", copy_function=os.link)
    encoder = tmp_path / "site" / "model" / "onnx" / FILES[0]
    encoder.unlink()
    encoder.write_bytes(b"no model")
    with FileServer(tmp_path / "site") as server:
        page, _ = open_site(server.address)
        page.get_by_label("chelsea").click()
        page.locator("#failure:visible").wait_for()
        assert page.locator("#failure").text_content().startswith("The model could not be loaded; ")
        page.add_init_script("delete window.WebAssembly")
        page.goto(server.address)
        page.locator("#failure:visible").wait_for()
        assert page.locator("#failure").text_content().startswith("This browser does not run WebAssembly, ")


def test_axe_finds_no_serious_violations(visit):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    visit.page.reload()
    visit.page.locator("#settings summary").click()
    assert_no_serious_violations(axe, visit.page)
    cover_a_word_of_chelsea(visit.page)
    assert_no_serious_violations(axe, visit.page)


def test_vietnamese_page_on_a_phone_in_the_dark(visit, open_site):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    options = {"viewport": {"width": 360, "height": 800}, "color_scheme": "dark", "locale": "vi-VN"}
    page, _ = open_site(visit.address, **options)
    page.get_by_role("heading", name="Xem mô hình nhìn thấy gì").wait_for()
    assert page.locator("html").get_attribute("lang") == "vi"
    choose_photo(page, ("holiday.jpg", b"no picture at all"))
    assert page.locator(".message").text_content().startswith("holiday.jpg không phải là ảnh mà ")
    assert_no_serious_violations(axe, page)
    cover_a_word_of_chelsea(page)
    assert_no_serious_violations(axe, page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.context.close()


def cover_a_word_of_chelsea(page):
    page.get_by_label("chelsea").click()
    page.locator(".word").first.click()
    page.locator("button.cover-word").click()
    page.locator(".occluded:visible").wait_for()


def test_a_captioner_that_browsers_cannot_run_is_refused_in_a_sentence(site, tmp_path, capsys):
    def message():
        with pytest.raises(SystemExit) as end:
            main([str(tmp_path / "site"), "--model", str(tmp_path)])
        assert end.value.code == 1
        return capsys.readouterr().err

    for file in [*(site / "model").glob("*.json"), SHIPPED / "model.safetensors"]:
        (tmp_path / file.name).symlink_to(file)
    assert message().startswith(f"error: {tmp_path} has no ONNX export; ")
    (tmp_path / "onnx").symlink_to(SHIPPED / "onnx")
    settings = json.loads((tmp_path / "generation_config.json").read_text()) | {"repetition_penalty": 2.0}
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    assert message().startswith("error: generation_config.json sets repetition_penalty, ")
