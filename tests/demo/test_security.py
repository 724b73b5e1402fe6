"""Attacks on the running page: the guarantees of SECURITY.md, tested with arbitrary requests."""

import http.client
import io
import itertools
import json
import shutil
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import httpx
import pytest
from PIL import Image

from tests.helpers.page_client import API, SETTINGS, PageClient, file_data
from tests.helpers.page_fixtures import EXAMPLES, TIMEOUT, needs_browser, running_app, save_captioner
from tests.helpers.programs import run_python

COFFEE = (EXAMPLES / "coffee.jpg").read_bytes()
SCRIPT = "<img/src=x/onerror=window.hacked=1>"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A page with `--corrections` whose captioner generates HTML with a script, and the folders that it uses."""
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
def client(site):
    return PageClient(site.address)


def is_error(answer):
    return isinstance(answer, dict) and "error" in answer


def make_zip(**files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def caption_zip(client, content, name="photos.zip"):
    """Caption a zip archive in the batch tab. Returns the rows of the table as lists."""
    table, *_ = client.trigger("start", "click", [client.upload_photo(name, content)])
    return table["data"]


def test_server_files_cannot_be_read(site, client):
    own = EXAMPLES / "coffee.jpg"
    paths = [own, "/etc/passwd", f"file://{own}", f"{site.uploads}/../../../../..{own}", site.model / "config.json"]
    for path in map(str, paths):
        forms = [file_data(path), {"path": path}, file_data(path, url=path), {"url": path}, path]
        for data in forms if path == str(own) else forms[:1]:
            event, result = client.caption(data)
            assert event == "error", result
            assert is_error(client.trigger("photo", "change", data, *SETTINGS)), data
            continued = client.trigger("viewer", "continue_caption", data, *SETTINGS, event_data={"text": "a"})
            assert is_error(continued), data
            assert is_error(client.trigger("start", "click", [data])), data
            assert is_error(client.trigger("save_correction", "click", data, "words")), data
        for route in (f"file={path}", f"file/{path}", f"file={site.uploads}/../..{path}"):
            assert client.http.get(f"{API}/{route}").status_code in (403, 404), route
    assert client.caption(client.upload_photo("coffee.jpg", COFFEE))[0] == "complete"


def test_urls_are_not_downloaded(client):
    """Neither from the server's private network, nor from the internet, where a large file could fill its memory."""
    uploaded = client.upload_photo("coffee.jpg", COFFEE)
    for data in (file_data("https://huggingface.co/large.bin"), file_data("http://9.9.9.9/photo.jpg")):
        answers = [
            client.caption(data),
            client.caption(uploaded, data, *SETTINGS[1:]),  # Gradio downloads for any input, not only for photos
            client.trigger("photo", "change", data, *SETTINGS),
            client.trigger("start", "click", [data]),
        ]
        assert all("this page does not download URLs" in str(answer) for answer in answers), answers
    requests = []

    class PrivateServer(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(COFFEE)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), PrivateServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/secret.jpg"
        for url in (
            address,
            address.replace("127.0.0.1", "localhost"),
            address.replace("127.0.0.1", "[::ffff:7f00:1]"),
        ):
            for data in (file_data(url), {"path": url}, file_data(url, url=url), {"url": url}, url):
                assert client.caption(data)[0] == "error"
                assert is_error(client.trigger("photo", "change", data, *SETTINGS))
                assert is_error(client.trigger("start", "click", [data]))
            for route in ("file=", "proxy=", "file/"):
                assert client.http.get(f"{API}/{route}{url}").status_code in (403, 404)
        server.shutdown()
    assert requests == []


def test_uploads_stay_in_their_folder(site, client):
    before = {path for path in site.root.rglob("*") if site.uploads not in path.parents}
    names = ("../../../evil.jpg", "/evil.jpg", f"{site.root}/evil.jpg", "..", "a/../../evil.jpg", "x" * 400 + ".jpg")
    for name in names:
        answer = client.upload(name, COFFEE)
        if answer.status_code == 200:
            assert str(answer.json()[0]).startswith(f"{site.uploads}/")
            assert ".." not in answer.json()[0].split("/")
    assert {path for path in site.root.rglob("*") if site.uploads not in path.parents} == before


def test_zips_can_neither_write_outside_nor_fill_the_memory(site, client):
    before = {path for path in site.root.rglob("*") if site.uploads not in path.parents}
    rows = caption_zip(
        client, make_zip(**{"../../../evil.jpg": COFFEE, "/evil.jpg": COFFEE, "inner.zip": make_zip(a="b")})
    )
    assert [(row[0], bool(row[1])) for row in rows] == [("photos.zip//evil.jpg", True), ("photos.zip/inner.zip", False)]
    assert {path for path in site.root.rglob("*") if site.uploads not in path.parents} == before

    bomb = make_zip(bomb=bytes(60_000_000))
    ((_, caption, _, problem),) = caption_zip(client, bomb)
    assert (caption, problem) == ("", "bomb is larger than 50 MB; make it smaller.")

    lying = bomb.replace((60_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    ((_, caption, _, problem),) = caption_zip(client, lying)
    assert caption == ""
    assert problem.endswith(".")

    *photos, left_out = caption_zip(client, make_zip(**{f"{number}.jpg": b"no picture" for number in range(1_010)}))
    assert len(photos) == 1_000
    assert "10" in left_out[3]
    ((_, caption, _, problem),) = caption_zip(client, make_zip(**{f"{number}.jpg": b"" for number in range(5_001)}))
    assert (caption, problem) == ("", "photos.zip has more than 5000 files; put fewer files into it.")
    ((_, _, _, problem),) = caption_zip(client, make_zip(a=COFFEE)[:-30] + bytes(30), "broken.zip")
    assert problem.startswith("broken.zip")


def test_corrections_contain_only_the_photo_and_the_caption(site, client):
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    tall = io.BytesIO()
    Image.new("RGB", (1_000, 3_000)).save(tall, "JPEG", exif=exif)
    uploaded = client.upload_photo("../../evil.jpg", tall.getvalue())
    words = f"../../evil\n{SCRIPT}\0" + "x" * 1_000
    answer, *_ = client.trigger("save_correction", "click", uploaded, words, None)
    assert answer == "Saved. Thank you!"
    (row,) = map(json.loads, (site.corrections / "metadata.jsonl").read_text().splitlines())
    names = {path.name for path in site.corrections.iterdir()}
    assert names == {"metadata.jsonl", row["file_name"]}
    assert row["file_name"].removesuffix(".jpg").isalnum()
    assert len(row["captions"][0]) <= 300
    saved = Image.open(site.corrections / row["file_name"])
    assert max(saved.size) <= 1_280
    assert not saved.getexif()

    with (site.corrections / "large").open("wb") as file:
        file.truncate(2_000_000_001)
    answer, *_ = client.trigger("save_correction", "click", uploaded, "words", None)
    assert "is full" in answer
    assert {path.name for path in site.corrections.iterdir()} == names | {"large"}
    (site.corrections / "large").unlink()


@needs_browser
@pytest.mark.slow
def test_no_input_is_run_as_script(site, browser, tmp_path):
    """Captions, names of files, names in zips, corrections. The page sends no request to any other server either."""
    requested = []
    page = browser.new_page()
    page.set_default_timeout(TIMEOUT)
    page.on("request", lambda request: requested.append(request.url))
    page.goto(site.address)
    page.locator("#photo input[type=file]").first.set_input_files(EXAMPLES / "coffee.jpg")
    page.locator(".word").get_by_text(SCRIPT).first.wait_for()
    page.locator("#caption_tab button.correct").click()
    page.locator("#corrected_caption textarea, #corrected_caption input").fill(
        f"{SCRIPT} ![](https://evil.example/x.png)"
    )
    page.locator("#save_correction").click()
    page.locator("#correction_status").get_by_text("Saved. Thank you").wait_for()
    page.get_by_role("button", name="Another photo").first.click()
    bad = {"name": f"{SCRIPT.replace('/', '')}.jpg", "mimeType": "image/jpeg", "buffer": b"no picture"}
    page.locator("#photo input[type=file]").first.set_input_files(bad)
    page.locator(".message:visible").wait_for()
    page.get_by_role("tab", name="Many photos").click()
    archive = tmp_path / "photos.zip"
    archive.write_bytes(make_zip(**{f"{SCRIPT}.jpg": COFFEE, "=cmd|calc.jpg": b"no picture"}))
    page.locator("#files input[type=file]").set_input_files(archive)
    page.locator("#files").get_by_text("photos").first.wait_for()
    page.locator("#start").click()
    page.locator("#csv:not([disabled])").wait_for()
    page.locator("#table").get_by_text(SCRIPT).locator("visible=true").first.wait_for()
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[src='x'], [onerror]").count() == 0
    page.close()
    assert [url for url in requested if not url.startswith((site.address, "data:", "blob:"))] == []


def test_uploads_are_never_served_as_pages(client):
    for name in ("evil.html", "evil.svg", "evil.js", "evil.xhtml"):
        (path,) = client.upload(name, b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>").json()
        headers = client.http.get(f"{API}/file={path}").headers
        assert headers["content-disposition"].startswith("attachment")
        assert headers["content-type"] == "application/octet-stream"
        assert headers["x-content-type-options"] == "nosniff"


def test_cross_origin_requests_are_not_allowed(client):
    for origin in ("http://evil.example", "null", "http://127.0.0.1.evil.example"):
        for method in ("GET", "OPTIONS"):
            headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            answer = client.http.request(method, "config", headers=headers)
            assert "access-control-allow-origin" not in answer.headers


def test_large_requests_are_rejected_with_a_message(site, client):
    stored = sum(path.is_file() for path in site.uploads.rglob("*"))
    answer = client.upload("large.jpg", bytes(3_000_000))
    assert (answer.status_code, answer.text) == (413, "File size exceeded maximum allowed size of 2097152 bytes.")
    answer = client.http.post(f"{API}/queue/join", content=bytes(3_000_000))
    assert (answer.status_code, answer.json()["detail"]) == (413, "The request is too large; send less data at once.")
    assert sum(path.is_file() for path in site.uploads.rglob("*")) == stored
    (site.uploads / "large").mkdir()
    with (site.uploads / "large" / "file").open("wb") as file:
        file.truncate(5_000_000_001)
    answer = client.upload("coffee.jpg", COFFEE)
    assert (answer.status_code, answer.text) == (503, "The storage for uploads is full; try again in an hour.")
    shutil.rmtree(site.uploads / "large")
    assert client.upload("coffee.jpg", COFFEE).status_code == 200


class Proxy(BaseHTTPRequestHandler):
    """A reverse proxy under /captioner that passes the prefix on or strips it."""

    strip = False
    protocol_version = "HTTP/1.0"

    def do_GET(self):
        path = self.path.removeprefix("/captioner") if self.strip else self.path
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        connection = http.client.HTTPConnection(self.upstream, timeout=60)
        connection.putrequest(self.command, path or "/", skip_host=False, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.getheader("Content-Type", ""))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self):
        self.do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def prefixed_site(tmp_path_factory):
    """The address of a page under a root path, without a proxy."""
    folder = tmp_path_factory.mktemp("prefixed")
    save_captioner(folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_ROOT_PATH", "/captioner")
        with running_app(SimpleNamespace(folder=folder / "model"), folder) as address:
            yield address


@pytest.fixture(params=["keeping", "stripping"])
def proxied(request, prefixed_site):
    """The address of a reverse proxy in front of the page, without the prefix."""
    handler = type(
        "Handler", (Proxy,), {"strip": request.param == "stripping", "upstream": prefixed_site[7:].rstrip("/")}
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


CLOSED = [
    "process_recording",
    "proxy=https://example.org",
    "file=https://example.org/",
    "vibe-code",
    "stream/x",
]
SPELLINGS = ["{api}/{route}", "{api}/{upper}", "/{api}/{route}", "{api}//{route}", "{api}%2F{route}", "{api}/./{route}"]
SPELLINGS += ["captioner/{api}/{route}", "captioner/captioner/{api}/{route}", "captioner//{api}/{route}"]


@pytest.mark.parametrize("route", CLOSED)
def test_closed_routes_stay_closed_behind_a_prefix(site, proxied, route):
    """In whatever spelling: the application answers only routes that the page needs."""
    with httpx.Client(trust_env=False) as client:
        for address in (site.address, proxied, f"{proxied}/captioner"):
            for spelling in SPELLINGS:
                path = spelling.format(api=API, route=route, upper=route.upper())
                for method in ("GET", "POST"):
                    files = {"files": ("photo.jpg", COFFEE)} if method == "POST" else None
                    answer = client.request(method, f"{address.rstrip('/')}/{path}", files=files)
                    assert answer.status_code in (404, 405), (address, path, method, answer.status_code)


def test_photos_are_uploaded_behind_a_prefix(proxied):
    """A photo is larger than other requests may be."""
    photo = io.BytesIO()
    Image.effect_noise((2500, 2000), 80).save(photo, "PNG")
    assert len(photo.getvalue()) > 4_000_000
    client = PageClient(f"{proxied}/captioner/")
    uploaded = client.upload("noise.png", photo.getvalue())
    assert uploaded.status_code == 200, uploaded.text
    answer = client.http.post(f"{API}/queue/join", content=bytes(3_000_000))
    assert answer.status_code == 413
    assert client.caption(file_data(uploaded.json()[0]))[0] == "complete"


@pytest.mark.slow
def test_waiting_visitors_see_their_rank_or_that_the_queue_is_full(site, tmp_path):
    photos = make_zip(**{f"{number}.jpg": COFFEE for number in range(120)})  # takes long enough for two more requests
    with running_app(SimpleNamespace(folder=site.model), tmp_path, "--queue_size", "1") as address:
        clients = [PageClient(address) for _ in range(3)]
        files = [[client.upload_photo("photos.zip", photos)] for client in clients]
        first, second, third = (client.stream("start", "click", f) for client, f in zip(clients, files, strict=True))
        assert any(message.get("msg") == "process_starts" for message in first)
        (waiting,) = itertools.islice((message for message in second if message.get("msg") == "estimation"), 1)
        assert waiting["rank"] == 0
        assert "Queue is full" in next(third)["rejected"]
        for messages in (first, second):
            *_, end = messages
            assert end["success"]


@pytest.mark.parametrize(
    "settings", [[9, 6, 0, 1], [1, 10**9, 0, 1], [1, 6, 1e9, 1], [1, 6, 0, -1], ["x", 6, 0, 1], [None] * 4, [{}] * 4]
)
def test_settings_out_of_range_are_rejected(client, settings):
    uploaded = client.upload_photo("coffee.jpg", COFFEE)
    event, result = client.caption(uploaded, *settings)
    assert event == "error"
    assert "Traceback" not in str(result)
    assert client.caption(uploaded, text="a" * 601)[0] == "error"


def test_private_page_requires_the_password(site, tmp_path):
    with running_app(SimpleNamespace(folder=site.model), tmp_path, "--auth", "ann:secret:word") as address:
        anonymous = PageClient(address)
        rejected = [
            anonymous.http.get("config"),
            anonymous.http.get(f"{API}/info"),
            anonymous.http.get(f"{API}/file={EXAMPLES / 'coffee.jpg'}"),
            anonymous.upload("coffee.jpg", COFFEE),
            anonymous.http.post(f"{API}/queue/join", json={"data": [None], "fn_index": 0, "session_hash": "x"}),
            anonymous.http.post(f"{API}/call/caption", json={"data": [None, *SETTINGS, ""]}),
            anonymous.http.post(f"{API}/run/caption", json={"data": [None, *SETTINGS, ""]}),
            anonymous.http.post("login", data={"username": "ann", "password": "secret"}),
        ]
        assert [answer.status_code for answer in rejected] == [401] * 7 + [400]
        assert anonymous.http.post("login", data={"username": "ann", "password": "secret:word"}).status_code == 200
        assert anonymous.caption(anonymous.upload_photo("coffee.jpg", COFFEE))[0] == "complete"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--auth", "ann"], "--auth is not of the form NAME:PASSWORD; give both."),
        (["--auth", "ann:secret", "--mcp"], "--auth does not protect --mcp; use only one of them."),
    ],
)
def test_page_does_not_start_if_auth_would_not_protect_it(options, sentence):
    process = run_python("app.py", *options)
    assert (process.returncode, process.stderr) == (1, f"error: {sentence}\n")
