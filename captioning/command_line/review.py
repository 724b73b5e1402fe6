"""`caption.py --min_confidence`: captions that are less sure are set aside for a person."""

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from captioning.errors import print_warning, printable

from .outputs import CaptionFile, Captions, TextFiles


class Review:
    """An output whose less sure captions go to another one, and are not made again with `--resume`.

    Of several languages, a photo is set aside if the caption in any of them is less sure.

    Args:
        output: an output, see `outputs`.
        aside: one of the outputs below.
        minimum: the least confidence of captions that need no review.
    """

    def __init__(self, output: Any, aside: Any, minimum: float):
        self.output, self.aside, self.minimum, self.name = output, aside, minimum, output.name

    def begin(self, photos: list[str], resume: bool) -> set[str]:
        done = self.output.begin(photos, resume)
        return done | set(map(self.name, self.aside.begin(photos, resume)))

    def add(self, captions: Iterable[tuple[str, Captions]]) -> None:
        parts: dict[bool, list[tuple[str, Captions]]] = {True: [], False: []}
        for photo, found in captions:
            parts[all((caption.confidence or 0) >= self.minimum for caption in found)].append((photo, found))
        for output, part in ((self.output, parts[True]), (self.aside, parts[False])):
            if part:
                output.add(part)

    def finish(self, position: Callable, found: int) -> None:
        aside = self.aside.finish(lambda photo: position(self.name(photo)), found)
        self.output.finish(position, max(found - aside, 0))


class ReviewFile(CaptionFile):
    """FILE.review.csv beside FILE, in the order of the photos."""

    def finish(self, position: Callable, found: int) -> int:
        """Returns the number of captions that are set aside."""
        count = len(self._lines(self._files()))
        if count:
            super().finish(position, 0)
            print_warning(f"{self.path} contains {count} captions that a person should check.")
        return count


class ReviewTexts(TextFiles):
    """PHOTO.review.txt beside PHOTO; renamed to PHOTO.txt, it is a caption like the others."""

    def __init__(self, languages: Sequence[str] = ()):
        super().__init__(languages, ".review.txt")

    def begin(self, photos: list[str], resume: bool) -> set[str]:
        done = super().begin(photos, resume)
        return {photo for photo in photos if self.name(photo) in done}

    def finish(self, position: Callable, found: int) -> int:
        return 0


class ReviewLines:
    """Lines on standard error: PATH<TAB>CAPTION<TAB>CONFIDENCE, of several languages each pair of these."""

    def begin(self, photos: list[str], resume: bool) -> set[str]:
        return set()

    def add(self, captions: Iterable[tuple[str, Captions]]) -> None:
        for photo, found in captions:
            values = [value for caption in found for value in (caption.text, f"{caption.confidence:.2f}")]
            print("review:", "\t".join(map(printable, [photo, *values])), file=sys.stderr, flush=True)

    def finish(self, position: Callable, found: int) -> int:
        return 0
