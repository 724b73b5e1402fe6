"""What the server of the page sends and leaves behind: no browser needed."""

import gzip
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from demo.corrections import read_corrections, save_correction, take_back
from modeling_captioner import open_photo
from tests.helpers.page_client import PageClient
from tests.helpers.page_fixtures import EXAMPLES, TIMEOUT, wait_until_ready
from tests.helpers.paths import ROOT
from tests.helpers.programs import run_python

PROXY = "http://127.0.0.1:9"  # nobody answers there
PROXIES = {"http_proxy": PROXY, "HTTPS_PROXY": PROXY, "ALL_PROXY": "socks5://127.0.0.1:9"}


@pytest.fixture(scope="module")
def proxied(learnt_captioner, tmp_path_factory):
    """A page that was started where the environment names proxies: its address, process and temporary folder."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "app.py", "--model", learnt_captioner, "--port", str(port)]
    environment = os.environ | PROXIES | {"TMPDIR": str(folder)}
    with (folder.parent / "server.log").open("wb") as log:
        app = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment)
    url = f"http://127.0.0.1:{port}/"
    try:
        wait_until_ready(url, app, folder.parent / "server.log")
        yield url, app, folder
    finally:
        app.kill()
        app.wait()


def test_proxies_in_the_environment_do_not_keep_the_page_from_starting(proxied):
    address, _, folder = proxied
    assert PageClient(address).http.get("/").status_code == 200
    assert "Traceback" not in (folder.parent / "server.log").read_text()


def test_the_page_is_compressed_and_photos_are_not(proxied):
    client = PageClient(proxied[0])
    with client.http.stream("GET", "/", headers={"Accept-Encoding": "gzip"}) as response:
        sent = b"".join(response.iter_raw())
    assert response.headers["content-encoding"] == "gzip"
    assert len(sent) < len(gzip.decompress(sent)) / 2.5
    photo = client.upload_photo("photo.jpg", (EXAMPLES / "coffee.jpg").read_bytes())
    assert "content-encoding" not in client.http.get(f"gradio_api/file={photo['path']}").headers


def test_a_link_to_the_page_is_described_by_the_page(proxied):
    address = proxied[0]
    client = PageClient(address)
    html = client.http.get("/", headers={"X-Forwarded-Proto": "https", "X-Forwarded-Host": "captions.example"}).text
    described = dict(re.findall(r'<meta property="og:(\w+)" content="([^"]*)"', html))
    assert described["title"] == "See what the model sees"
    assert described["url"] == "https://captions.example/"
    assert "Gradio" not in " ".join(described.values())
    assert "Click to try out" not in html
    assert f'content="{address}"' in client.http.get("/").text


def test_the_sample_under_use_via_api_is_not_an_address(proxied):
    """The page refuses addresses, so a visitor who copies the sample would get an error."""
    endpoint = PageClient(proxied[0]).http.get("gradio_api/info").json()["named_endpoints"]["/caption"]
    assert "raw.githubusercontent.com" not in str(endpoint)
    assert "photo.jpg" in str(endpoint["code_snippets"]["python"])


def test_the_empty_table_has_its_headings(proxied):
    components = PageClient(proxied[0]).http.get("config").json()["components"]
    (table,) = (each["props"]["value"] for each in components if each["props"].get("elem_id") == "table")
    assert table["headers"] == ["File", "Caption", "Log-probability", "Problem"]
    assert table["data"] == []


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")
def test_closing_the_terminal_leaves_no_photos(proxied):
    """Nor what onnxruntime's telemetry would write beside them. The last test of this server, which it ends."""
    address, app, folder = proxied
    PageClient(address).upload_photo("photo.jpg", (EXAMPLES / "coffee.jpg").read_bytes())
    assert list(folder.rglob("photo.jpg"))
    app.send_signal(signal.SIGHUP)
    app.send_signal(signal.SIGTERM)  # as a terminal that is closed may send both
    assert app.wait(TIMEOUT / 1000) == 0
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_corrections_are_taken_back_by_their_names_only(tmp_path):
    names = [save_correction(tmp_path, open_photo(EXAMPLES / "coffee.jpg"), f"cup {number}") for number in range(3)]
    other = tmp_path / "other.jpg"
    other.write_bytes(b"not a correction")
    assert take_back(tmp_path, [names[1], "other.jpg", f"../{tmp_path.name}/{names[0]}", None, 3]) == 1
    assert [row["captions"] for row in read_corrections(tmp_path)] == [["cup 0"], ["cup 2"]]
    assert {file.name for file in tmp_path.iterdir()} == {names[0], names[2], "other.jpg", "metadata.jsonl"}


def test_corrections_have_the_same_columns_once_they_have_languages(tmp_path):
    photo = open_photo(EXAMPLES / "coffee.jpg")
    save_correction(tmp_path, photo, "a cup")
    save_correction(tmp_path, photo, "một cái tách", "vi", default_language="en")
    assert [row["language"] for row in read_corrections(tmp_path)] == ["en", "vi"]


def test_wrong_model_and_occupied_port_print_one_line(learnt_captioner, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        for options in (["--model", tmp_path], ["--model", learnt_captioner, "--engine", "torch", "--port", port]):
            app = run_python("app.py", *options)
            assert app.returncode == 1
            assert re.fullmatch(r"error: .+\n", app.stderr)
