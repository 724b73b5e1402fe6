"""The modules of the page without a server: search, resizing and decoding equal those of Python; encoding on a GPU."""

import base64
import json

import numpy as np
import pytest
from PIL import Image

from modeling_captioner.confidence import confidence_of
from modeling_captioner.onnx_files import FILES
from modeling_captioner.onnx_search import search
from publishing.static_site import build_site
from tests.helpers.page_fixtures import CHROMIUM, CHROMIUM_ARGUMENTS, TIMEOUT, needs_browser, skip_unless_site_builds
from tests.helpers.paths import ROOT, SHIPPED
from tests.helpers.photo_server import FileServer
from tests.helpers.search_settings import SEARCH_SETTINGS
from train.data import make_tokenizer

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
        np.testing.assert_allclose([score for _, score in captions], [sum(scores) for _, scores in others], atol=1e-4)
    assert len({tuple(captions[0][0]) for captions in expected}) > 5
    if settings.get("length_penalty", 1) <= 1:  # a larger one prefers the longest captions
        assert len({len(captions[0][0]) for captions in expected}) > 1


def test_confidence_equals_that_of_python(modules):
    numbers = {"intercept": 1.5, "total": 0.3, "lowest": 0.5, "length": -0.1}
    numbers["languages"] = {"vi": {"intercept": -0.5, "total": 0.2, "lowest": 0.0, "length": 0.05}}
    confidence = """async ([...values]) => (await import("/confidence.js")).confidenceOf(...values) ?? null"""
    for probabilities in ([0.9, 0.5, 0.02, 1.0], [1e-30] * 20):
        scores = np.log(probabilities).tolist()
        for language in ("vi", "en", None):
            found = modules.evaluate(confidence, [probabilities, numbers, language])
            assert found == pytest.approx(confidence_of(scores, numbers, language), rel=1e-9)
        assert modules.evaluate(confidence, [probabilities, None, None]) is None


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


LANGUAGES = """async ({ tokenizer, config, generation, requests }) => {
    const { Captioner } = await import("/captioner.js");
    class Tensor { constructor(type, data, dims) { Object.assign(this, { data, dims }); } }
    const begun = [];
    const decoder = { // says the word after the one that it has read
        inputNames: [],
        run({ input_ids: { data: [id] } }) {
            begun.push(Number(id));
            const logits = Float32Array.from({ length: 9 }, (_, word) => 10 * (word === Number(id) + 1));
            return {
                logits: { data: logits, dims: [1, 1, 9] },
                cross_attentions: { data: new Float32Array(4).fill(0.25), dims: [1, 1, 1, 4] },
            };
        },
    };
    const parts = { ort: { Tensor }, processor: {}, encoder: null, decoder };
    const captioner = new Captioner({ ...parts, tokenizer, config, generation });
    const photo = { states: [], regions: { data: new Float32Array(4), dims: [1, 4, 1] } };
    const captions = [];
    for (const options of requests) {
        try {
            const { caption } = await captioner.caption(photo, "", options);
            captions.push([begun[0], caption]);
        } catch (error) {
            captions.push(error.message);
        }
        begun.length = 0;
    }
    return captions;
}"""


def test_languages_begin_with_their_own_token_and_settings(modules):
    vocabulary = ["<pad>", "<unk>", "<en>", "<end>", "<vi>", "một", "con", "mèo", "cat"]
    tokenizer = {"model": {"vocab": {word: number for number, word in enumerate(vocabulary)}, "unk_token": "<unk>"}}
    generation = {
        **{"eos_token_id": 3, "decoder_start_token_id": 2, "max_new_tokens": 3, "num_beams": 1},
        "languages": {"en": {"decoder_start_token_id": 2}, "vi": {"decoder_start_token_id": 4, "max_new_tokens": 2}},
    }
    arguments = {"tokenizer": tokenizer, "generation": generation, "config": {"languages": ["en", "vi"]}}
    requests = [{}, {"language": "vi"}, {"language": "vi", "max_new_tokens": 3}, {"language": "en"}, {"language": "xx"}]
    found = modules.evaluate(LANGUAGES, arguments | {"requests": requests})
    unknown = "language='xx' is unknown; choose one of en, vi."
    assert found == [[2, ""], [4, "một con"], [4, "một con mèo"], [2, ""], unknown]
    arguments |= {"config": {}, "generation": generation | {"languages": None}, "requests": [{}, {"num_beams": 1}]}
    assert modules.evaluate(LANGUAGES, arguments) == [[2, ""]] * 2, "a captioner of one language"


TOKENIZE = """async ({ tokenizer, texts }) => {
    const { Tokenizer } = await import("/tokenizer.js");
    const loaded = new Tokenizer(tokenizer);
    return texts.map((text) => loaded.encode(text));
}"""


def test_text_becomes_the_same_words_as_in_python(modules):
    """Case, punctuation, decomposed letters, both placements of Vietnamese tone marks, scripts without spaces."""
    texts = [
        *(
            "A dog's ball, on the well-known beach!",
            "a  rock\u2019n\u2019roll band\n(2 people)",
            "CAFÉ cafe\u0301 i\u0307",
        ),
        *("hoà bình hòa HOÀ hoàng quý quả loá khoẻ tuỳ thuỷ", "một con mèo", "hoa\u0300 ", "oà oàng x_oà oà-oà"),
        *("一只狗 with a ball", "ラーメン", "สวัสดี ครับ", "hello'", "-a-", "", "<vi> <unk> unknown words"),
    ]
    captions = [*texts, *(text.replace("à", "a") for text in texts)]
    tokenizer = make_tokenizer(captions[:-3], min_count=1, languages=["en", "vi"])
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    found = modules.evaluate(TOKENIZE, {"tokenizer": description, "texts": texts})
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True  # "<vi>" in a text is a word like any other
    assert found == [backend.encode(text, add_special_tokens=False).ids for text in texts]
    assert len({number for ids in found for number in ids}) > 30


ENCODE = """async () => {
    const [{ Downloader }, { Captioner }, { createGpuSession, useGpuIfFaster }] = await Promise.all(
        ["/download.js", "/captioner.js", "/gpu.js"].map((path) => import(path)));
    const captioner = await Captioner.load(new Downloader(`${location.origin}/`));
    const pixels = { data: Uint8Array.from({ length: 4 * 40 * 30 }, (_, i) => (i * i) % 251), width: 40, height: 30 };
    const encode = async () => [...(await captioner.encode(pixels)).regions.data];
    const result = { adapter: Boolean(await navigator.gpu?.requestAdapter()), cpu: await encode() };
    captioner.gpu = await createGpuSession(captioner);
    if (!captioner.gpu) return result;
    result.gpu = await encode();
    if (!captioner.gpu) throw new Error("the GPU failed");
    captioner.gpu = { run: () => Promise.reject(new Error("device lost")) };
    result.lost = await encode();
    await useGpuIfFaster(captioner, pixels);
    return { ...result, kept: Boolean(captioner.gpu) };
}"""


@pytest.mark.slow
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


OUTPUTS = """async () => {
    const { addOutputs, findContext, findTrunk, readGraph } = await import("/onnx_graph.js");
    const model = new Uint8Array(await (await fetch("/model.onnx")).arrayBuffer());
    const graph = readGraph(model);
    const names = [...findTrunk(graph), findContext(graph)].filter(Boolean);
    const reader = new FileReader();
    const url = new Promise((resolve) => (reader.onload = () => resolve(reader.result)));
    reader.readAsDataURL(new Blob([await addOutputs(model, names)]));
    return { ops: graph.nodes.map(({ op }) => op), inputs: graph.inputs, names, model: await url };
}"""


@pytest.mark.parametrize("file", FILES)
def test_further_outputs_of_an_onnx_file(browser, tmp_path, file):
    """What the lecture shows: outputs of the encoder's blocks, what attention gives to the second RNN."""
    onnx = pytest.importorskip("onnx", reason="needs onnx")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    for script in (ROOT / "web").glob("*.js"):
        (tmp_path / script.name).symlink_to(script)
    (tmp_path / "model.onnx").symlink_to(SHIPPED / "onnx" / file)
    with FileServer(tmp_path) as server:
        page = browser.new_page()
        page.goto(f"{server.address}/search.js")
        found = page.evaluate(OUTPUTS)
        page.close()
    graph = onnx.load(SHIPPED / "onnx" / file).graph
    assert sorted(found["ops"]) == sorted(node.op_type for node in graph.node)
    assert found["inputs"] == [value.name for value in graph.input]
    model = base64.b64decode(found["model"].split(",", 1)[1])
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    inputs = {}
    for value in session.get_inputs():
        shape = [1 if isinstance(side, str) else side for side in value.shape]  # names: one photo, one word
        inputs[value.name] = np.ones(shape, np.int64 if value.name == "input_ids" else np.float32)
    names = [value.name for value in graph.output]
    plain = onnxruntime.InferenceSession(SHIPPED / "onnx" / file, providers=["CPUExecutionProvider"])
    for output, expected in zip(session.run(names, inputs), plain.run(names, inputs), strict=True):
        np.testing.assert_allclose(output, expected, atol=1e-3)
    outputs = session.run(found["names"], inputs)
    if file.startswith("encoder"):
        sides = [output.shape[2:] for output in outputs if output.ndim == 4]
        assert sides[-1] == (8, 8)
        assert len(set(sides)) >= 6, "each resolution of Inception-v3"
    else:
        assert outputs[-1].size == plain.run(["present.first.0"], inputs)[0].size
