"""`captioning/prefetch.py` and the pixels that `caption.py` holds ahead."""

import threading

import pytest
from PIL import Image

from captioning.command_line.pipeline import caption_photos
from captioning.prefetch import prefetch_map


def test_results_come_in_order_and_no_more_than_asked_for_are_held():
    begun, most = [], 0
    for number, result in enumerate(prefetch_map(lambda value: begun.append(value) or -value, range(50), 3, ahead=7)):
        assert result == -number
        most = max(most, len(begun) - number)
    assert sorted(begun) == list(range(50))
    assert most <= 1 + 7


def test_closing_cancels_what_has_not_begun():
    """One thread is held up: what waits behind it is never computed, and closing waits for nothing else."""
    begun, release = [], threading.Event()

    def compute(value):
        begun.append(value)
        if value:
            release.wait(60)
        return value

    results = prefetch_map(compute, range(100), 1, ahead=20)
    assert next(results) == 0
    threading.Timer(0.1, release.set).start()
    results.close()
    assert begun in ([0], [0, 1])


@pytest.mark.parametrize("where", ["function", "values"])
def test_a_failure_reaches_the_caller_and_ends_the_rest(where):
    begun = []

    def compute(value):
        begun.append(value)
        if where == "function" and value == 3:
            raise KeyError(value)
        return value

    def values():
        for value in range(1000):
            if where == "values" and value == 3:
                raise KeyError(value)
            yield value

    results = prefetch_map(compute, values(), 2)
    with pytest.raises(KeyError, match="3"):
        list(results)
    assert len(begun) < 10


class Captioner:
    """Counts how many photos were opened when a batch is captioned."""

    def __init__(self, opened):
        self.opened, self.seen = opened, []

    def preprocess(self, photo):
        return photo.size

    def caption(self, photos, language):
        self.seen.append(len(self.opened))
        return [(str(size), 0.0) for size in photos]


def test_two_batches_are_in_memory_whatever_the_cores():
    opened = []

    def read(number):
        opened.append(number)
        return Image.new("RGB", (1 + number, 1))

    captioner, photos = Captioner(opened), [(number, number) for number in range(40)]
    rows = [row for batch in caption_photos(captioner, photos, read, 8, []) for row in batch]
    assert rows == [(number, [(f"({1 + number}, 1)", 0.0)]) for number in range(40)]
    assert all(seen <= 8 * (2 + batch) for batch, seen in enumerate(captioner.seen))
