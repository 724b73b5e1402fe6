"""Mutated pictures through `open_photo`: each ends in a picture or in one sentence, within 5 seconds and 1 GB.

`python -m tests.helpers.fuzz.photos --files 10000` prints what became of them, and each file that broke the promise.
The files are opened in processes that may die; seconds are those of the processor, and memory is the most that the
process held (Linux tells), Python and PyTorch included.
"""

import argparse
import collections
import json
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from modeling_captioner import PhotoError, open_photo
from tests.helpers.fuzz.mutations import mutated
from tests.helpers.fuzz.pictures import BOMBS, pictures

MOST_SECONDS = 5
MOST_MEGABYTES = 1_000
FORGOTTEN_SECONDS = 120  # after which a file that hangs is given up
FILES_A_PROCESS = 50
# Half as the page opens them, half as the trainer does.
SIDES = (None, 1280)


@dataclass
class Outcome:
    """What became of a file; `said` is "photo", a sentence, or what went wrong."""

    number: int
    name: str
    said: str
    seconds: float
    megabytes: float
    is_answer: bool

    @property
    def kept(self):
        return self.is_answer and self.seconds <= MOST_SECONDS and self.megabytes <= MOST_MEGABYTES


def try_photos(numbers, folder):
    """Yields an [`Outcome`] for each of the files."""
    numbers = collections.deque(numbers)
    while numbers:
        together = [numbers.popleft() for _ in range(min(FILES_A_PROCESS, len(numbers)))]
        pipe = forked(lambda write, together=together: [write(outcome_of(number, folder)) for number in together])
        for line in pipe:
            yield Outcome(together.pop(0), *json.loads(line))
        if together:  # the process died of the first that it did not answer
            yield Outcome(together[0], mutated(together[0])[0], "The process died.", 0, 0, False)
            numbers.extendleft(reversed(together[1:]))


def forked(work):
    """Run `work(write)` in a process of its own; yields the lines of JSON that it writes, until it ends or dies."""
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        try:
            work(lambda values: os.write(writing, json.dumps(values).encode() + b"\n"))
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        yield from pipe
    os.waitpid(process, 0)


def outcome_of(number, folder):
    path = folder / f"{number}.jpg"
    if number < len(BOMBS):  # made from large pictures, whose memory is not to be counted
        ((name,),) = map(json.loads, forked(lambda write: write([write_mutated(number, path)])))
    else:
        name = write_mutated(number, path)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    signal.alarm(FORGOTTEN_SECONDS)
    begun = time.process_time()
    said, is_answer = opened(path, SIDES[number % 2])
    seconds = time.process_time() - begun
    signal.alarm(0)
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6
    path.unlink()
    return name, said.replace(str(path), "FILE"), seconds, peak, is_answer


def write_mutated(number, path):
    name, content = mutated(number)
    path.write_bytes(content)
    return name


def opened(path, side):
    """What became of the photo, and whether that is an answer as promised."""
    try:
        photo = open_photo(path, side=side)
    except PhotoError as error:
        sentence = str(error)
        return sentence, str(path) in sentence and "\n" not in sentence and sentence.endswith(".")
    except BaseException:
        return traceback.format_exc(), False
    return "photo", photo.mode == "RGB" and min(photo.size) > 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    options = parser.parse_args()
    pictures()
    start, outcomes = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        for outcome in try_photos(range(options.first, options.first + options.files), Path(folder)):
            outcomes.append(outcome)
            if not outcome.kept:
                print("BROKEN:", outcome, flush=True)
    said = collections.Counter(re.sub(r"\d{2,}", "N", outcome.said) for outcome in outcomes)
    for words, count in said.most_common(20):
        print(f"{count:6} {words}")
    for what in ("seconds", "megabytes"):
        most = max(outcomes, key=lambda outcome: getattr(outcome, what))
        print(f"most {what}: {getattr(most, what):.2f} ({most.number}, {most.name})")
    broken = sum(not outcome.kept for outcome in outcomes)
    print(f"{len(outcomes)} files in {time.monotonic() - start:.0f} s, {broken} broke the promise")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
