"""The API endpoint, MCP, batching, the tab for many photos, and many visitors at once."""

import ast
import base64
import csv
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import gradio as gr
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from demo.batch_tab import MAX_PHOTOS, caption_files
from demo.batching import MAX_BATCH_SIZE, Batcher
from modeling_captioner import explain, open_photo
from tests.helpers.page_client import API, PageClient
from tests.helpers.page_fixtures import (
    EXAMPLES,
    OWN_WORD,
    PHONE_AND_DESKTOP,
    SIDE,
    TIMEOUT,
    caption_words,
    engine_of,
    needs_browser,
    upload_photo,
)
from tests.helpers.paths import ROOT

NAMES = ("astronaut", "boats", "chelsea", "coffee", "kite", "path")


@pytest.fixture(scope="module")
def client(address):
    return Client(address, verbose=False, httpx_kwargs={"timeout": TIMEOUT / 1000})


@pytest.fixture(scope="module")
def captions(captioner):
    """The caption of each example, computed without the page."""
    photos = {name: open_photo(EXAMPLES / f"{name}.jpg") for name in NAMES}
    return {name: explain(captioner.model, captioner.processor, photo).caption for name, photo in photos.items()}


def caption(client, name, **settings):
    return client.predict(photo=handle_file(EXAMPLES / f"{name}.jpg"), api_name="/caption", **settings)


def post(url, body, **headers):
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"} | headers
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT / 1000) as answer:
        return answer.read().decode()


def test_endpoint_returns_caption_words_probabilities_and_maps(client, captions):
    answer = caption(client, "coffee")
    assert answer["caption"] == captions["coffee"]
    for word in answer["words"]:
        assert len(word["map"]) == len(word["map"][0]) == SIDE
        assert sum(map(sum, word["map"])) == pytest.approx(1, abs=1e-3)
        assert 0 <= word["probability"] <= 1
        assert [set(other) for other in word["alternatives"]] == [{"word", "probability"}] * 5
    continued = caption(client, "coffee", text="a man", num_beams=2)
    assert continued["caption"].startswith("a man ")
    assert len(continued["beams"]) == 2


def test_endpoint_applies_sampling_and_length(client):
    """Sampling from the most likely word alone is greedy search; sampling from all words gives other captions."""
    greedy = caption(client, "coffee", num_beams=1)["caption"]
    assert caption(client, "coffee", num_beams=1, temperature=1, top_p=0.05)["caption"] == greedy
    sampled = {caption(client, "coffee", num_beams=1, temperature=2)["caption"] for _ in range(4)}
    assert sampled != {greedy}
    assert len(caption(client, "coffee", num_beams=1, max_new_tokens=3)["words"]) <= 3


def test_language_may_be_left_out_of_a_request(address, captioner):
    """Scripts for captioners of one language send no language; that means the first one. Nothing else is optional."""
    client = PageClient(address)
    uploaded = client.upload_photo("coffee.jpg", (EXAMPLES / "coffee.jpg").read_bytes())
    languages = captioner.model.config.languages or []
    for language in (None, *languages):
        photo = open_photo(EXAMPLES / "coffee.jpg")
        settings = {"num_beams": 1, "max_new_tokens": 12, "language": language}
        expected = explain(captioner.model, captioner.processor, photo, **settings)
        event, answer = client.caption(uploaded, 1, 12, 0, 1, language=language)
        assert (event, answer["caption"]) == ("complete", expected.caption)
        assert answer.get("language") == (language or next(iter(languages), None))
    call = client.http.post(f"{API}/run/caption", json={"data": [uploaded, 1, 12, 0, 1]})
    assert call.status_code == 500


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_curl_example_of_the_docs(address, captions):
    (lines,) = re.findall(r"```sh\n(page=.+?)```", (ROOT / "docs/page.md").read_text(encoding="utf-8"), re.DOTALL)
    lines = lines.replace("http://127.0.0.1:7860/", address).replace("photo.jpg", "coffee.jpg")
    done = subprocess.run(["bash", "-ec", lines], cwd=EXAMPLES, capture_output=True, text=True, check=True)
    event, data = done.stdout.strip().rsplit("\n", 2)[-2:]
    assert event == "event: complete"
    assert json.loads(data.removeprefix("data: "))[0]["caption"] == captions["coffee"]


def test_endpoint_documents_its_return_type(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert list(endpoints) == ["/caption"]
    returns = endpoints["/caption"]["returns"][0]["python_type"]["type"]
    assert "words: list[dict(text: str, probability: float, map: list[list[float]]" in returns


def test_beams_have_the_scores_of_generate(captioner):
    """Also for captions that end before the others. Processors that change the scores are turned off."""
    plain = {"num_beams": 4, "max_new_tokens": 12, "min_new_tokens": 0, "repetition_penalty": 1.0}
    photo = open_photo(EXAMPLES / "astronaut.jpg")
    inputs = captioner.processor(images=photo, text="", return_tensors="pt")
    found = captioner.model.generate(
        **inputs, **plain, num_return_sequences=4, return_dict_in_generate=True, output_scores=True
    )
    beams = explain(captioner.model, captioner.processor, photo, **plain).beams
    for (caption, log_probability), ids, score in zip(beams, found.sequences, found.sequences_scores, strict=True):
        ended = (ids[1:] == captioner.model.config.eos_token_id).any().item()
        assert log_probability == pytest.approx(score.item() * (len(caption.split()) + ended), abs=1e-3)


def test_broken_photo_does_not_affect_other_requests(client, captions, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")

    def request(name):
        try:
            path = broken if name == "broken" else EXAMPLES / f"{name}.jpg"
            return client.predict(photo=handle_file(path), api_name="/caption")["caption"]
        except AppError as error:
            return str(error)

    names = [*NAMES, "broken", *reversed(NAMES), *NAMES, "coffee"]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(request, names))
    expected = captions | {"broken": "broken.jpg is not a readable image; save it as JPEG or PNG."}
    assert answers == [expected[name] for name in names]


def test_waiting_requests_are_batched_and_fail_alone(captioner, captions):
    batch_sizes, started, proceed = [], threading.Event(), threading.Event()

    def block(_, inputs):
        batch_sizes.append(len(inputs[0]))
        started.set()
        proceed.wait()

    engine = engine_of(captioner)
    hook = engine.model.encoder.register_forward_pre_hook(block)
    photos = {name: open_photo(EXAMPLES / f"{name}.jpg") for name in NAMES}
    batcher = Batcher(engine, captioner.folder)
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(batcher.explain, photos["coffee"])
        started.wait()  # while the model is busy, the other requests queue up
        others = [pool.submit(batcher.explain, photos[name]) for name in NAMES * 3]
        bad = pool.submit(batcher.explain, "no photo")
        while batcher.requests.qsize() < 19:
            time.sleep(0.01)
        proceed.set()
        assert [answer.result().caption for answer in (first, *others)] == [captions[n] for n in ("coffee", *NAMES * 3)]
        with pytest.raises(ValueError, match=r"no photo does not exist; check the path\."):
            bad.result()
        shorter = pool.submit(batcher.explain, photos["coffee"], max_new_tokens=7)
    hook.remove()
    assert batch_sizes[0] == 1
    assert max(batch_sizes) == MAX_BATCH_SIZE
    assert len(shorter.result().words) <= 7


def test_endpoint_rejects_paths_on_the_server(address):
    """API clients must not be able to read images on the server by omitting the mark of files that Gradio checks."""
    photo = {"path": str(EXAMPLES / "coffee.jpg")}
    call = f"{address}gradio_api/call/caption"
    event = json.loads(post(call, {"data": [photo, 1, 20, 0, 1, "", "en"]}))["event_id"]
    with urllib.request.urlopen(f"{call}/{event}", timeout=TIMEOUT / 1000) as answer:
        assert "files on the server cannot be captioned" in answer.read().decode()


def test_mcp_tool(corrections_app, captions):
    pytest.importorskip("mcp", reason="needs gradio[mcp]")

    def call(method, **params):
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = post(f"{corrections_app.address}gradio_api/mcp/", body)
        return json.loads(answer.split("data: ", 1)[1])["result"]

    (tool,) = call("tools/list")["tools"]
    assert tool["name"] == "caption"
    assert tool["description"].startswith("Describe a photo in one sentence")
    assert tool["inputSchema"]["required"] == ["photo"]
    assert all("description" in option for option in tool["inputSchema"]["properties"].values())
    photo = "data:image/jpeg;base64," + base64.b64encode((EXAMPLES / "coffee.jpg").read_bytes()).decode()
    answer = call("tools/call", name="caption", arguments={"photo": photo})
    result = ast.literal_eval(answer["content"][0]["text"])  # Gradio returns the repr of a Python object
    assert result["caption"] == captions["coffee"]
    private = call("tools/call", name="caption", arguments={"photo": f"{corrections_app.address}secret.jpg"})
    assert private["isError"]


@pytest.mark.slow
def test_photos_beyond_the_limit_are_counted(tmp_path, captioner):
    """The last row says how many are left out."""
    (tmp_path / "photo.jpg").write_bytes((EXAMPLES / "coffee.jpg").read_bytes())
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for number in range(MAX_PHOTOS + 2):
            archive.writestr(f"{number}.jpg", b"")
    paths = [str(tmp_path / "photo.jpg"), str(tmp_path / "photos.zip")]
    explain_photo = partial(explain, captioner.model, captioner.processor)
    *rows, last = caption_files(explain_photo, paths, "en", gr.Progress())
    assert len(rows) == MAX_PHOTOS
    assert last["problem"] == "Left out, because there are more than 1,000 photos: 3. Upload them next."


@needs_browser
def test_page_and_endpoint_give_the_same_caption(open_page, client):
    page = open_page()
    upload_photo(page, EXAMPLES / "kite.jpg")
    assert " ".join(caption_words(page)) == caption(client, "kite")["caption"]


@needs_browser
@pytest.mark.slow
def test_twenty_concurrent_visitors_get_the_captions_of_their_own_photos(browser, address, captioner, tmp_path):
    """Twenty browser tabs; each photo has a unique size, which identifies it."""
    photos = {}
    for number in range(20):
        photo = open_photo(EXAMPLES / f"{NAMES[number % len(NAMES)]}.jpg")
        photos[tmp_path / f"{number}.png"] = photo.crop((10 * number, 5 * number, photo.width, photo.height - number))
    for path, photo in photos.items():
        photo.save(path)
    with browser.new_context(reduced_motion="reduce") as context:  # closed also if the test fails
        context.set_default_timeout(TIMEOUT)
        visitors = {path: context.new_page() for path in photos}
        for page in visitors.values():  # in a row: the requests are concurrent, the loading need not be
            page.goto(address, wait_until="commit")
            page.locator("#photo input[type=file]").first.wait_for(state="attached")
        for path, page in visitors.items():
            page.locator("#photo input[type=file]").first.set_input_files(path)
        for path, page in visitors.items():
            page.locator(OWN_WORD).first.wait_for()
            assert " ".join(caption_words(page)) == explain(captioner.model, captioner.processor, photos[path]).caption
            decoded = "async (e) => (await e.decode(), e.naturalWidth / e.naturalHeight)"
            shape = page.locator("img.photo").evaluate(decoded)
            assert shape == pytest.approx(photos[path].width / photos[path].height, rel=0.005)


@needs_browser
@PHONE_AND_DESKTOP
def test_batch_tab_captions_photos_and_zips(open_page, captions, tmp_path, width, theme):
    with zipfile.ZipFile(tmp_path / "holiday.zip", "w") as archive:
        archive.write(EXAMPLES / "boats.jpg", "far/boats.jpg")
        archive.writestr("broken.jpg", b"no picture")
        archive.writestr("__MACOSX/boats.jpg", b"metadata of macOS")
    page = open_page(width=width, theme=theme)
    page.get_by_role("tab", name="Many photos").click()
    (tmp_path / "note.png").write_bytes(b"no picture either")
    photos = [tmp_path / "holiday.zip", EXAMPLES / "coffee.jpg", tmp_path / "note.png"]
    page.locator("#files input[type=file]").set_input_files(photos)
    page.locator("#files").get_by_text("coffee").first.wait_for()
    page.locator("#start").click()
    expected = [
        {"file": "holiday.zip/far/boats.jpg", "caption": captions["boats"], "problem": ""},
        {
            "file": "holiday.zip/broken.jpg",
            "caption": "",
            "problem": "broken.jpg is not a readable image; save it as JPEG or PNG.",
        },
        {"file": "coffee.jpg", "caption": captions["coffee"], "problem": ""},
        {
            "file": "note.png",
            "caption": "",
            "problem": "note.png is not a readable image; save it as JPEG or PNG.",
        },
    ]
    page.locator("#csv:not([disabled])").wait_for()
    page.locator("#table").get_by_text(captions["boats"]).locator("visible=true").first.wait_for()
    with page.expect_download() as download:
        page.locator("#csv").click()
    with open(download.value.path(), newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [float(row.pop("log_probability") or 0) < 0 for row in rows] == [True, False, True, False]
    assert rows == expected
    with page.expect_download() as download:
        page.locator("#jsonl").click()
    rows = [json.loads(line) for line in download.value.path().read_text(encoding="utf-8").splitlines()]
    assert [{key: row[key] for key in expected[0]} for row in rows] == expected
