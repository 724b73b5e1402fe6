"""caption.py, killed at random moments over many photos and resumed each time, captions each photo once.

`python tests/caption_kills.py --photos 500 --kills 50` fails if in the end a photo is missing or there twice, if a line
is not whole, or if a caption is not the one that the captioner knows by heart.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

from conftest import COLOURS, ROOT, SHAPES, drawn_photo, learn_by_heart  # noqa: E402


def draw_photos(count, folder):
    """Small photos, {path: what a captioner that knows them says}."""
    folder.mkdir()
    captions = {}
    for number in range(count):
        photo, caption = drawn_photo(COLOURS[number % 4], SHAPES[number // 4 % 2])
        photo.save(folder / f"{number}.png")
        captions[str(folder / f"{number}.png")] = caption
    return captions


def start(model, photos, output):
    # Few photos at once, so that it may be killed between many lines.
    command = ["caption.py", "--model", model, photos, "--output", output, "--resume", "--batch_size", "4"]
    return subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT)


def lines_of(output):
    """How many whole lines there are so far."""
    return output.read_bytes().count(b"\n") if output.exists() else 0


def kill_after_some(process, output, lines):
    """Kill when so many more lines are written. Returns whether it was killed, or had ended by then."""
    wanted = lines_of(output) + lines
    while lines_of(output) < wanted:
        if process.poll() is not None:
            assert process.returncode == 0, process.returncode
            return False
        time.sleep(0.001)
    process.kill()
    process.wait()
    return True


def try_kills(photos, kills, folder):
    """Returns how many kills there were. Raises `AssertionError`."""
    chance = random.Random(0)
    learn_by_heart(folder / "model")
    captions = draw_photos(photos, folder / "photos")
    output, killed = folder / "captions.jsonl", 0
    most = max(1, 2 * photos // kills - 4)  # which needs about `kills` of them for all photos
    while kill_after_some(start(folder / "model", folder / "photos", output), output, chance.randint(1, most)):
        killed += 1
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert output.read_bytes().endswith(b"\n")
    assert len(rows) == photos
    assert {row["file"]: row["caption"] for row in rows} == captions
    return killed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=500)
    parser.add_argument("--kills", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        killed = try_kills(options.photos, options.kills, Path(folder))
    print(f"{options.photos} photos, {killed} kills: each captioned once, no half line, no wrong caption")


if __name__ == "__main__":
    main()
