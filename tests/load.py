"""The running page under load: many visitors at once, then many in a row, each with a photo of their own.

`python tests/load.py --at_once 200 --in_a_row 2000` starts app.py with a captioner that knows drawn photos by heart,
so that an answer tells whose photo it was, and fails if one is wrong or missing, if the server's memory grows from the
first quarter of the requests to the last by more than 5 %, or if any visitor's file is on the disk in the end.
"""

import argparse
import io
import os
import random
import re
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
os.environ["HF_HUB_OFFLINE"] = "1"

import psutil  # noqa: E402
from browsing import running_app  # noqa: E402
from conftest import COLOURS, SHAPES, drawn_photo, learn_by_heart  # noqa: E402
from visiting import Visitor  # noqa: E402


def photo_of(number):
    """A photo that nobody else has, and its caption."""
    colour, shape = COLOURS[number % 4], SHAPES[number // 4 % 2]
    photo, caption = drawn_photo(colour, shape)
    photo.putpixel((0, 0), (number % 256, number // 256, 0))
    file = io.BytesIO()
    photo.save(file, "PNG")
    return file.getvalue(), caption


def visit(address, number):
    """Whether a visitor got the caption of the own photo; otherwise what they got."""
    content, caption = photo_of(number)
    visitor = Visitor(address)
    with visitor.http:
        event, said = visitor.ask(visitor.brought(f"{number}.png", content), 1, 12, 0, 1)
    return (event == "complete" and said["caption"] == caption) or (event, said)


def server_at(address):
    port = int(re.search(r":(\d+)/", address)[1])
    (server,) = {c.pid for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port}
    return psutil.Process(server)


def files_in(folder):
    """The paths of its files. Unlike `Path.rglob`, `os.walk` passes over folders that vanish meanwhile."""
    return {os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names}


def try_load(at_once, in_a_row, kept_seconds, folder):
    """Returns what is to be told. Raises `AssertionError` where a promise is broken."""
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
    learn_by_heart(folder / "model")
    with running_app(SimpleNamespace(folder=folder / "model"), folder, "--delete_cache", str(kept_seconds)) as address:
        assert visit(address, 0) is True
        examples = {path for path in files_in(folder / "uploads") if path.endswith(".jpg")}
        begun = time.monotonic()
        with ThreadPoolExecutor(at_once) as visitors:
            wrong = [
                answer for answer in visitors.map(lambda n: visit(address, n), range(at_once)) if answer is not True
            ]
        seconds = time.monotonic() - begun
        assert not wrong, f"{len(wrong)} of {at_once} at once: {wrong[:3]}"
        memory, server = [], server_at(address)
        for number in range(in_a_row):
            answer = visit(address, random.Random(number).randrange(8_000))
            assert answer is True, f"request {number}: {answer}"
            memory.append(server.memory_info().rss / 1e6)
        quarter = max(1, in_a_row // 4)
        first, last = sum(memory[:quarter]) / quarter, sum(memory[-quarter:]) / quarter
        assert last < 1.05 * first, f"memory grew from {first:.0f} to {last:.0f} MB"
        deadline = time.monotonic() + 60 + 4 * kept_seconds
        while left := files_in(folder / "uploads") - examples:
            assert time.monotonic() < deadline, f"{len(left)} files are left, such as {min(left)}"
            time.sleep(1)
    return (
        f"{at_once} requests at once answered in {seconds:.0f} s, {in_a_row} in a row, each with the own photo's"
        f" caption; memory {first:.0f} MB in the first quarter, {last:.0f} MB in the last; no file left"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--at_once", type=int, default=200)
    parser.add_argument("--in_a_row", type=int, default=2_000)
    parser.add_argument("--delete_cache", type=int, default=60, help="seconds, as app.py takes them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            print(try_load(options.at_once, options.in_a_row, options.delete_cache, Path(folder)))
        except BaseException:
            print((Path(folder) / "app.log").read_text(), file=sys.stderr)
            raise


if __name__ == "__main__":
    main()
