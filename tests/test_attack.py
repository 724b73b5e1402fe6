"""The running page under attack: the promises of SECURITY.md, tried by somebody who says what they like."""

import io
import itertools
import json
import shutil
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from browsing import EXAMPLES, PATIENCE, needs_browser, running_app, save_captioner
from conftest import ROOT
from PIL import Image
from visiting import API, SETTINGS, Visitor, photo

pytest_plugins = ["browsing"]
COFFEE = (EXAMPLES / "coffee.jpg").read_bytes()
SCRIPT = "<img/src=x/onerror=window.hacked=1>"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A page that keeps corrections, of a captioner whose words are script; and where its visitors' files lie."""
    folder = tmp_path_factory.mktemp("site")
    model, uploads, corrections = folder / "model", folder / "uploads", folder / "corrections"
    save_captioner(model)
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"].items()
    tokenizer["model"]["vocab"] = {word if word[0] == "<" else word + SCRIPT: number for word, number in words}
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(uploads))
        options = ["--corrections", str(corrections), "--max_file_size", "2mb"]
        with running_app(SimpleNamespace(folder=model), folder, *options) as address:
            yield SimpleNamespace(address=address, model=model, uploads=uploads, corrections=corrections, root=folder)


@pytest.fixture
def visitor(site):
    return Visitor(site.address)


def is_refused(answer):
    return isinstance(answer, dict) and "error" in answer


def zipped(**files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def many(visitor, content, name="photos.zip"):
    """The rows of the table, as lists."""
    table, *_ = visitor.press("start", "click", [visitor.brought(name, content)])
    return table["data"]


def test_no_file_of_the_server_is_read(site, visitor):
    own = EXAMPLES / "coffee.jpg"
    paths = [own, "/etc/passwd", f"file://{own}", f"{site.uploads}/../../../../..{own}", site.model / "config.json"]
    for path in map(str, paths):
        for told in (photo(path), {"path": path}, photo(path, url=path), {"url": path}, path):
            event, said = visitor.ask(told)
            assert event == "error", said
            assert is_refused(visitor.press("photo", "change", told, *SETTINGS)), told
            assert is_refused(visitor.press("stage", "go_on", told, *SETTINGS, event_data={"text": "a"})), told
            assert is_refused(visitor.press("start", "click", [told])), told
            assert is_refused(visitor.press("keep", "click", told, "words")), told
        for route in (f"file={path}", f"file/{path}", f"file={site.uploads}/../..{path}"):
            assert visitor.http.get(f"{API}/{route}").status_code in (403, 404), route
    assert visitor.ask(visitor.brought("coffee.jpg", COFFEE))[0] == "complete"


def test_no_address_is_fetched(visitor):
    """Neither those of the server's own network, nor the world's, which would fill its memory at a stranger's word."""
    brought = visitor.brought("coffee.jpg", COFFEE)
    for told in (photo("https://huggingface.co/large.bin"), photo("http://9.9.9.9/photo.jpg")):
        answers = [
            visitor.ask(told),
            visitor.ask(brought, told, *SETTINGS[1:]),  # Gradio fetches for any input, not only for photos
            visitor.press("photo", "change", told, *SETTINGS),
            visitor.press("start", "click", [told]),
        ]
        assert all("this page fetches no addresses" in str(answer) for answer in answers), answers
    asked = []

    class Inner(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(COFFEE)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Inner) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/secret.jpg"
        for url in (
            address,
            address.replace("127.0.0.1", "localhost"),
            address.replace("127.0.0.1", "[::ffff:7f00:1]"),
        ):
            for told in (photo(url), {"path": url}, photo(url, url=url), {"url": url}, url):
                assert visitor.ask(told)[0] == "error"
                assert is_refused(visitor.press("photo", "change", told, *SETTINGS))
                assert is_refused(visitor.press("start", "click", [told]))
            for route in ("file=", "proxy=", "file/"):
                assert visitor.http.get(f"{API}/{route}{url}").status_code in (403, 404)
        server.shutdown()
    assert asked == []


def test_uploads_stay_in_their_folder(site, visitor):
    before = {path for path in site.root.rglob("*") if site.uploads not in path.parents}
    names = ("../../../evil.jpg", "/evil.jpg", f"{site.root}/evil.jpg", "..", "a/../../evil.jpg", "x" * 400 + ".jpg")
    for name in names:
        answer = visitor.upload(name, COFFEE)
        if answer.status_code == 200:
            assert str(answer.json()[0]).startswith(f"{site.uploads}/")
            assert ".." not in answer.json()[0].split("/")
    assert {path for path in site.root.rglob("*") if site.uploads not in path.parents} == before


def test_zips_neither_write_outside_nor_explode(site, visitor):
    before = {path for path in site.root.rglob("*") if site.uploads not in path.parents}
    rows = many(visitor, zipped(**{"../../../evil.jpg": COFFEE, "/evil.jpg": COFFEE, "inner.zip": zipped(a="b")}))
    assert [(row[0], bool(row[1])) for row in rows] == [("photos.zip//evil.jpg", True), ("photos.zip/inner.zip", False)]
    assert {path for path in site.root.rglob("*") if site.uploads not in path.parents} == before

    ((_, caption, _, problem),) = many(visitor, zipped(bomb=bytes(300_000_000)))
    assert (caption, problem) == ("", "bomb is larger than 50 MB; make it smaller.")

    bomb = zipped(bomb=bytes(300_000_000))
    lying = bomb.replace((300_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    ((_, caption, _, problem),) = many(visitor, lying)
    assert caption == ""
    assert problem.endswith(".")

    assert len(many(visitor, zipped(**{f"{number}.jpg": b"no picture" for number in range(1_010)}))) == 1_000
    ((_, caption, _, problem),) = many(visitor, zipped(**{f"{number}.jpg": b"" for number in range(5_001)}))
    assert (caption, problem) == ("", "photos.zip has more than 5000 files; pack fewer.")
    ((_, _, _, problem),) = many(visitor, zipped(a=COFFEE)[:-30] + bytes(30), "broken.zip")
    assert problem.startswith("broken.zip")


def test_corrections_keep_pictures_and_words_and_nothing_else(site, visitor):
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    tall = io.BytesIO()
    Image.new("RGB", (1_000, 3_000)).save(tall, "JPEG", exif=exif)
    brought = visitor.brought("../../evil.jpg", tall.getvalue())
    words = f"../../evil\n{SCRIPT}\0" + "x" * 1_000
    assert visitor.press("keep", "click", brought, words) == ["Kept, thank you."]
    (row,) = map(json.loads, (site.corrections / "metadata.jsonl").read_text().splitlines())
    names = {path.name for path in site.corrections.iterdir()}
    assert names == {"metadata.jsonl", row["file_name"]}
    assert row["file_name"].removesuffix(".jpg").isalnum()
    assert len(row["captions"][0]) <= 300
    kept = Image.open(site.corrections / row["file_name"])
    assert max(kept.size) <= 1_280
    assert not kept.getexif()

    with (site.corrections / "large").open("wb") as file:
        file.truncate(2_000_000_001)
    (answer,) = visitor.press("keep", "click", brought, "words")
    assert "is full" in answer
    assert {path.name for path in site.corrections.iterdir()} == names | {"large"}
    (site.corrections / "large").unlink()


@needs_browser
def test_nothing_that_comes_in_becomes_script(site, browser, tmp_path):
    """The model's words, a file's name, a zip's names, the visitor's own words; and no other page is asked."""
    strangers = []
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.on("request", lambda request: strangers.append(request.url))
    page.goto(site.address)
    page.locator("#photo input[type=file]").first.set_input_files(EXAMPLES / "coffee.jpg")
    page.locator(".word").get_by_text(SCRIPT).first.wait_for()
    page.get_by_text("Teach it").click()
    page.locator("#right_words textarea, #right_words input").fill(f"{SCRIPT} ![](https://evil.example/x.png)")
    page.locator("#keep").click()
    page.locator("#kept").get_by_text("Kept, thank you").wait_for()
    page.get_by_role("button", name="Another photo").first.click()
    bad = {"name": f"{SCRIPT.replace('/', '')}.jpg", "mimeType": "image/jpeg", "buffer": b"no picture"}
    page.locator("#photo input[type=file]").first.set_input_files(bad)
    page.locator(".message:visible").wait_for()
    page.get_by_role("tab", name="Many photos").click()
    archive = tmp_path / "photos.zip"
    archive.write_bytes(zipped(**{f"{SCRIPT}.jpg": COFFEE, "=cmd|calc.jpg": b"no picture"}))
    page.locator("#files input[type=file]").set_input_files(archive)
    page.locator("#files").get_by_text("photos").first.wait_for()
    page.locator("#start").click()
    page.locator("#csv:not([disabled])").wait_for()
    page.locator("#table").get_by_text(SCRIPT).locator("visible=true").first.wait_for()
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[src='x'], [onerror]").count() == 0
    page.close()
    assert [url for url in strangers if not url.startswith((site.address, "data:", "blob:"))] == []


def test_what_is_uploaded_is_never_shown_as_a_page(visitor):
    for name in ("evil.html", "evil.svg", "evil.js", "evil.xhtml"):
        (path,) = visitor.upload(
            name, b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
        ).json()
        headers = visitor.http.get(f"{API}/file={path}").headers
        assert headers["content-disposition"].startswith("attachment")
        assert headers["content-type"] == "application/octet-stream"
        assert headers["x-content-type-options"] == "nosniff"


def test_other_pages_may_not_ask_in_the_visitors_name(visitor):
    for origin in ("http://evil.example", "null", "http://127.0.0.1.evil.example"):
        for method in ("GET", "OPTIONS"):
            headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            answer = visitor.http.request(method, "config", headers=headers)
            assert "access-control-allow-origin" not in answer.headers


def test_what_is_too_large_is_refused_in_a_sentence(site, visitor):
    stored = sum(path.is_file() for path in site.uploads.rglob("*"))
    answer = visitor.upload("large.jpg", bytes(3_000_000))
    assert (answer.status_code, answer.text) == (413, "File size exceeded maximum allowed size of 2097152 bytes.")
    answer = visitor.http.post(f"{API}/queue/join", content=bytes(3_000_000))
    assert (answer.status_code, answer.json()["detail"]) == (413, "The request is too large; send less at once.")
    assert sum(path.is_file() for path in site.uploads.rglob("*")) == stored
    (site.uploads / "large").mkdir()
    with (site.uploads / "large" / "file").open("wb") as file:
        file.truncate(5_000_000_001)
    answer = visitor.upload("coffee.jpg", COFFEE)
    assert (answer.status_code, answer.text) == (503, "The page holds too many photos; try again in an hour.")
    shutil.rmtree(site.uploads / "large")
    assert visitor.upload("coffee.jpg", COFFEE).status_code == 200


def test_who_waits_is_told_and_who_finds_the_queue_full_as_well(site, tmp_path):
    photos = zipped(**{f"{number}.jpg": COFFEE for number in range(300)})  # long enough for two others to come
    with running_app(SimpleNamespace(folder=site.model), tmp_path, "--queue_size", "1") as address:
        brought = [(visitor := Visitor(address), [visitor.brought("photos.zip", photos)]) for _ in range(3)]
        first, second, third = (visitor.told("start", "click", files) for visitor, files in brought)
        assert any(told.get("msg") == "process_starts" for told in first)
        (waits,) = itertools.islice((told for told in second if told.get("msg") == "estimation"), 1)
        assert waits["rank"] == 0
        assert "Queue is full" in next(third)["refused"]
        for others in (first, second):
            *_, end = others
            assert end["success"]


@pytest.mark.parametrize(
    "settings", [[9, 6, 0, 1], [1, 10**9, 0, 1], [1, 6, 1e9, 1], [1, 6, 0, -1], ["x", 6, 0, 1], [None] * 4, [{}] * 4]
)
def test_settings_beyond_their_limits_are_refused(visitor, settings):
    brought = visitor.brought("coffee.jpg", COFFEE)
    event, said = visitor.ask(brought, *settings)
    assert event == "error"
    assert "Traceback" not in str(said)
    assert visitor.ask(brought, text="a" * 601)[0] == "error"


def test_a_private_page_lets_nobody_in(site, tmp_path):
    with running_app(SimpleNamespace(folder=site.model), tmp_path, "--auth", "ann:secret:word") as address:
        stranger = Visitor(address)
        refused = [
            stranger.http.get("config"),
            stranger.http.get(f"{API}/info"),
            stranger.http.get(f"{API}/file={EXAMPLES / 'coffee.jpg'}"),
            stranger.upload("coffee.jpg", COFFEE),
            stranger.http.post(f"{API}/queue/join", json={"data": [None], "fn_index": 0, "session_hash": "x"}),
            stranger.http.post(f"{API}/call/caption", json={"data": [None, *SETTINGS, ""]}),
            stranger.http.post(f"{API}/run/caption", json={"data": [None, *SETTINGS, ""]}),
            stranger.http.post("login", data={"username": "ann", "password": "secret"}),
        ]
        assert [answer.status_code for answer in refused] == [401] * 7 + [400]
        assert stranger.http.post("login", data={"username": "ann", "password": "secret:word"}).status_code == 200
        assert stranger.ask(stranger.brought("coffee.jpg", COFFEE))[0] == "complete"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--auth", "ann"], "--auth is not of the form NAME:PASSWORD; give both."),
        (["--auth", "ann:secret", "--mcp"], "--auth does not protect --mcp; use only one of them."),
    ],
)
def test_a_page_that_would_not_be_private_does_not_start(options, sentence):
    command = [sys.executable, "app.py", *options]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (process.returncode, process.stderr) == (1, f"error: {sentence}\n")
