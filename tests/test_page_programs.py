"""The page for programs and for many: the endpoint, MCP, many photos, many visitors."""

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

import pytest
from browsing import EXAMPLES, PATIENCE, PHONE_AND_DESK, SIDE, bring, needs_browser, said
from conftest import ROOT
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from demo.batching import MOST_TOGETHER, Batcher
from modeling_captioner import explain, open_photo

pytest_plugins = ["browsing"]
NAMES = ("astronaut", "chelsea", "china", "coffee", "flower", "rocket")


@pytest.fixture(scope="module")
def client(address):
    return Client(address, verbose=False, httpx_kwargs={"timeout": PATIENCE / 1000})


@pytest.fixture(scope="module")
def captions(captioner):
    """What the model says of each example by itself."""
    photos = {name: open_photo(EXAMPLES / f"{name}.jpg") for name in NAMES}
    return {name: explain(captioner.model, captioner.processor, photo).caption for name, photo in photos.items()}


def ask(client, name, **settings):
    return client.predict(photo=handle_file(EXAMPLES / f"{name}.jpg"), api_name="/caption", **settings)


def post(url, body, **headers):
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"} | headers
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=PATIENCE / 1000) as answer:
        return answer.read().decode()


def test_endpoint_gives_caption_words_probabilities_and_maps(client, captions):
    answer = ask(client, "coffee")
    assert answer["caption"] == captions["coffee"]
    for word in answer["words"]:
        assert len(word["map"]) == len(word["map"][0]) == SIDE
        assert sum(map(sum, word["map"])) == pytest.approx(1, abs=1e-3)
        assert 0 <= word["probability"] <= 1
        assert [set(other) for other in word["alternatives"]] == [{"word", "probability"}] * 5
    begun = ask(client, "coffee", text="a man", num_beams=2)
    assert begun["caption"].startswith("a man ")
    assert len(begun["beams"]) == 2


def test_endpoint_takes_chance_and_length(client):
    """Drawn from the likeliest word alone a caption is the greedy one; drawn from all of them it is another."""
    greedy = ask(client, "coffee", num_beams=1)["caption"]
    assert ask(client, "coffee", num_beams=1, temperature=1, top_p=0.05)["caption"] == greedy
    bold = {ask(client, "coffee", num_beams=1, temperature=2)["caption"] for _ in range(4)}
    assert bold != {greedy}
    assert len(ask(client, "coffee", num_beams=1, max_new_tokens=3)["words"]) <= 3


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_curl_as_the_docs_have_it(address, captions):
    (lines,) = re.findall(r"```sh\n(page=.+?)```", (ROOT / "docs/page.md").read_text(encoding="utf-8"), re.DOTALL)
    lines = lines.replace("http://127.0.0.1:7860/", address).replace("photo.jpg", "coffee.jpg")
    done = subprocess.run(["bash", "-ec", lines], cwd=EXAMPLES, capture_output=True, text=True, check=True)
    event, data = done.stdout.strip().rsplit("\n", 2)[-2:]
    assert event == "event: complete"
    assert json.loads(data.removeprefix("data: "))[0]["caption"] == captions["coffee"]


def test_endpoint_describes_itself(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert list(endpoints) == ["/caption"]
    returns = endpoints["/caption"]["returns"][0]["python_type"]["type"]
    assert "words: list[dict(text: str, probability: float, map: list[list[float]]" in returns


def test_beams_have_the_scores_of_the_search(captioner):
    """Also those of captions that end before the others; nothing but the model may decide here."""
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


def test_bad_photo_among_many_requests_fails_alone(client, captions, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")

    def one(name):
        try:
            path = broken if name == "broken" else EXAMPLES / f"{name}.jpg"
            return client.predict(photo=handle_file(path), api_name="/caption")["caption"]
        except AppError as error:
            return str(error)

    names = [*NAMES, "broken", *reversed(NAMES), *NAMES, "coffee"]
    with ThreadPoolExecutor(20) as visitors:
        answers = list(visitors.map(one, names))
    expected = captions | {"broken": "broken.jpg is not a picture that can be read; save it as JPEG or PNG."}
    assert answers == [expected[name] for name in names]


def test_what_waits_together_is_captioned_together_and_fails_alone(captioner, captions):
    passes, begun, go_on = [], threading.Event(), threading.Event()

    def wait_for_company(_, inputs):
        passes.append(len(inputs[0]))
        begun.set()
        go_on.wait()

    hook = captioner.model.encoder.register_forward_pre_hook(wait_for_company)
    photos = {name: open_photo(EXAMPLES / f"{name}.jpg") for name in NAMES}
    batcher = Batcher(captioner.model, captioner.processor)
    with ThreadPoolExecutor(20) as visitors:
        first = visitors.submit(batcher.explain, photos["coffee"])
        begun.wait()  # and as long as the model is busy with it, the others gather
        others = [visitors.submit(batcher.explain, photos[name]) for name in NAMES * 3]
        bad = visitors.submit(batcher.explain, "no photo")
        while batcher.waiting.qsize() < 19:
            time.sleep(0.01)
        go_on.set()
        assert [answer.result().caption for answer in (first, *others)] == [captions[n] for n in ("coffee", *NAMES * 3)]
        with pytest.raises(ValueError, match="image"):
            bad.result()
        shorter = visitors.submit(batcher.explain, photos["coffee"], max_new_tokens=7)
    hook.remove()
    assert passes[0] == 1
    assert max(passes) == MOST_TOGETHER
    assert len(shorter.result().words) <= 7


def test_server_opens_no_files_of_its_own(address):
    """Whoever leaves out Gradio's label of a file must not read the server's pictures."""
    photo = {"path": str(EXAMPLES / "coffee.jpg")}
    call = f"{address}gradio_api/call/caption"
    event = json.loads(post(call, {"data": [photo, 1, 20, 0, 1, ""]}))["event_id"]
    with urllib.request.urlopen(f"{call}/{event}", timeout=PATIENCE / 1000) as answer:
        assert "the server's own files are not for captioning" in answer.read().decode()


def test_agents_find_the_tool_and_use_it(open_app, captions):
    pytest.importorskip("mcp", reason="needs gradio[mcp]")

    def tell(method, **params):
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = post(f"{open_app.address}gradio_api/mcp/", body)
        return json.loads(answer.split("data: ", 1)[1])["result"]

    (tool,) = tell("tools/list")["tools"]
    assert tool["name"] == "caption"
    assert tool["description"].startswith("Say in one English sentence what a photo shows")
    assert tool["inputSchema"]["required"] == ["photo"]
    assert all("description" in option for option in tool["inputSchema"]["properties"].values())
    photo = "data:image/jpeg;base64," + base64.b64encode((EXAMPLES / "coffee.jpg").read_bytes()).decode()
    answer = tell("tools/call", name="caption", arguments={"photo": photo})
    told = ast.literal_eval(answer["content"][0]["text"])  # Gradio tells agents in Python's words
    assert told["caption"] == captions["coffee"]
    inner = tell("tools/call", name="caption", arguments={"photo": f"{open_app.address}secret.jpg"})
    assert inner["isError"]


@needs_browser
def test_page_says_what_the_endpoint_says(open_page, client):
    page = open_page()
    bring(page, EXAMPLES / "rocket.jpg")
    assert " ".join(said(page)) == ask(client, "rocket")["caption"]


@needs_browser
def test_twenty_visitors_at_once_each_get_their_own_photos_caption(browser, address, captioner, tmp_path):
    """Twenty windows; each photo is of a size of its own, by which it is known again."""
    photos = {}
    for number in range(20):
        photo = open_photo(EXAMPLES / f"{NAMES[number % len(NAMES)]}.jpg")
        photos[tmp_path / f"{number}.png"] = photo.crop((10 * number, 5 * number, photo.width, photo.height - number))
    for path, photo in photos.items():
        photo.save(path)
    context = browser.new_context(reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
    visitors = {path: context.new_page() for path in photos}
    for page in visitors.values():
        page.goto(address, wait_until="commit")
    for page in visitors.values():
        page.locator("#photo input[type=file]").first.wait_for(state="attached")
    for path, page in visitors.items():
        page.locator("#photo input[type=file]").first.set_input_files(path)
    for path, page in visitors.items():
        page.locator(".word").first.wait_for()
        assert " ".join(said(page)) == explain(captioner.model, captioner.processor, photos[path]).caption
        shape = page.locator("img.picture").evaluate(
            "async (e) => (await e.decode(), e.naturalWidth / e.naturalHeight)"
        )
        assert shape == pytest.approx(photos[path].width / photos[path].height, rel=0.005)
    context.close()


@needs_browser
@PHONE_AND_DESK
def test_many_photos_become_a_table(open_page, captions, tmp_path, width, theme):
    with zipfile.ZipFile(tmp_path / "holiday.zip", "w") as archive:
        archive.write(EXAMPLES / "china.jpg", "far/china.jpg")
        archive.writestr("broken.jpg", b"no picture")
        archive.writestr("__MACOSX/china.jpg", b"what computers put there")
    page = open_page(width=width, theme=theme)
    page.get_by_role("tab", name="Many photos").click()
    (tmp_path / "note.png").write_bytes(b"no picture either")
    photos = [tmp_path / "holiday.zip", EXAMPLES / "coffee.jpg", tmp_path / "note.png"]
    page.locator("#files input[type=file]").set_input_files(photos)
    page.locator("#files").get_by_text("coffee").first.wait_for()
    page.locator("#start").click()
    expected = [
        {"file": "holiday.zip/far/china.jpg", "caption": captions["china"], "problem": ""},
        {
            "file": "holiday.zip/broken.jpg",
            "caption": "",
            "problem": "broken.jpg is not a picture that can be read; save it as JPEG or PNG.",
        },
        {"file": "coffee.jpg", "caption": captions["coffee"], "problem": ""},
        {
            "file": "note.png",
            "caption": "",
            "problem": "note.png is not a picture that can be read; save it as JPEG or PNG.",
        },
    ]
    page.locator("#csv:not([disabled])").wait_for()
    page.locator("#table").get_by_text(captions["china"]).locator("visible=true").first.wait_for()
    with page.expect_download() as download:
        page.locator("#csv").click()
    with open(download.value.path(), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row.pop("log_probability") or 0) < 0 for row in rows] == [True, False, True, False]
    assert rows == expected
    with page.expect_download() as download:
        page.locator("#jsonl").click()
    rows = [json.loads(line) for line in download.value.path().read_text(encoding="utf-8").splitlines()]
    assert [{key: row[key] for key in expected[0]} for row in rows] == expected
