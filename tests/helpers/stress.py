"""Stress test of the running page: many visitors at once, then many in a row, each with a different photo.

`python -m tests.helpers.stress --at_once 200 --in_a_row 2000` starts app.py with a captioner that has memorized drawn
photos, so that a caption identifies its photo. It fails if a caption is wrong or missing, if the server's memory grows
with the number of requests, or if a visitor's file is left on the disk.
"""

import argparse
import io
import os
import random
import re
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

os.environ["HF_HUB_OFFLINE"] = "1"

import psutil

from tests.helpers.captioners import learn_by_heart
from tests.helpers.drawn import COLORS, SHAPES, drawn_photo
from tests.helpers.page_client import PageClient
from tests.helpers.page_fixtures import running_app

# The server keeps the states of the last 200 visitors; each request here is another visitor's.
SETTLING_REQUESTS = 250
# A visitor's state, which Gradio would keep for 10,000 visitors, takes about 70 kB, and a photo of this test 120 kB.
MAX_KILOBYTES = 35


def make_photo(number):
    """A unique photo, and its caption."""
    color, shape = COLORS[number % 4], SHAPES[number // 4 % 2]
    photo, caption = drawn_photo(color, shape, size=200)
    photo.putpixel((0, 0), (number % 256, number // 256, 0))
    file = io.BytesIO()
    photo.save(file, "PNG")
    return file.getvalue(), caption


def send_photo(address, number):
    """Return True if the photo got its own caption, otherwise the answer."""
    content, caption = make_photo(number)
    client = PageClient(address)
    with client.http:
        event, result = client.caption(client.upload_photo(f"{number}.png", content), 1, 12, 0, 1)
    return (event == "complete" and result["caption"] == caption) or (event, result)


def server_process(address):
    port = int(re.search(r":(\d+)/", address)[1])
    (server,) = {c.pid for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port}
    return psutil.Process(server)


def list_files(folder):
    """All file paths. Unlike `Path.rglob`, `os.walk` ignores directories that are deleted in the meantime."""
    return {os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names}


def run(at_once, in_a_row, delete_cache, folder):
    """Return a summary. Raises `AssertionError` if a check fails."""
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
    learn_by_heart(folder / "model")
    with running_app(SimpleNamespace(folder=folder / "model"), folder, "--delete_cache", str(delete_cache)) as address:
        assert send_photo(address, 0) is True
        examples = {path for path in list_files(folder / "uploads") if path.endswith(".jpg")}
        start = time.monotonic()
        with ThreadPoolExecutor(at_once) as visitors:
            wrong = [
                answer
                for answer in visitors.map(lambda n: send_photo(address, n), range(at_once))
                if answer is not True
            ]
        seconds = time.monotonic() - start
        assert not wrong, f"{len(wrong)} of {at_once} at once: {wrong[:3]}"
        memory, server = [], server_process(address)
        for number in range(in_a_row):
            answer = send_photo(address, random.Random(number).randrange(8_000))
            assert answer is True, f"request {number}: {answer}"
            memory.append(server.memory_info().rss / 1e6)
        settled = memory[SETTLING_REQUESTS:]
        quarter = len(settled) // 4
        first, last = statistics.mean(settled[:quarter]), statistics.mean(settled[-quarter:])
        grown = 1_000 * (last - first) / (len(settled) - quarter)
        assert grown < MAX_KILOBYTES, f"memory grew by {grown:.0f} kB per request, from {first:.0f} to {last:.0f} MB"
        deadline = time.monotonic() + 60 + 4 * delete_cache
        while left := list_files(folder / "uploads") - examples:
            assert time.monotonic() < deadline, f"{len(left)} files are left, for example {min(left)}"
            time.sleep(1)
    return (
        f"{at_once} concurrent requests took {seconds:.0f} s, then {in_a_row} in a row; each photo got its caption;"
        f" memory {first:.0f} MB in the first quarter, {last:.0f} MB in the last; no files left"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--at_once", type=int, default=200)
    parser.add_argument("--in_a_row", type=int, default=2_000, help=f"more than {SETTLING_REQUESTS + 4}")
    parser.add_argument("--delete_cache", type=int, default=60, help="as in app.py, in seconds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            print(run(options.at_once, options.in_a_row, options.delete_cache, Path(folder)))
        except BaseException:
            print((Path(folder) / "app.log").read_text(), file=sys.stderr)
            raise


if __name__ == "__main__":
    main()
