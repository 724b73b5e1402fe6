"""Captioning many photos: `caption_photos` decodes photos in threads while the model generates captions."""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from PIL import Image

from captioning.prefetch import prefetch_map
from modeling_captioner import PhotoError
from modeling_captioner.cores import usable_cores

from .outputs import Captions

MAX_DECODERS = 32  # threads, each of which holds a decoded photo


def caption_photos(
    captioner: Any,
    photos: Iterable[tuple[str, Any]],
    read: Callable[[Any], Image.Image],
    batch_size: int,
    failed: list[tuple[str, PhotoError]],
    languages: Sequence[str | None] = (None,),
) -> Iterator[list[tuple[str, Captions]]]:
    """Caption photos.

    Args:
        captioner: an engine, see `captioning.engine`.
        photos: iterable of (name, source) pairs.
        read: function that opens a source as a `PIL.Image.Image`, or raises `PhotoError`.
        batch_size: number of photos per batch.
        failed: list to which (name, error) pairs are appended.
        languages: those of the captioner to caption in; None for its default.

    Yields lists of (name, [(caption, natural log-probability, confidence) in each language]), in the order of the
    photos.
    """

    def decode(photo):
        name, source = photo
        try:
            return name, captioner.preprocess(read(source))
        except PhotoError as error:
            return name, error

    workers = min(usable_cores(), MAX_DECODERS)
    with contextlib.closing(prefetch_map(decode, photos, workers, ahead=batch_size)) as decoded:
        while batch := list(itertools.islice(decoded, batch_size)):
            failed += [(name, result) for name, result in batch if isinstance(result, PhotoError)]
            valid = [(name, result) for name, result in batch if not isinstance(result, PhotoError)]
            if valid:
                names, pixel_values = zip(*valid, strict=True)
                captions = [captioner.caption(pixel_values, language=language) for language in languages]
                yield [(name, found) for name, *found in zip(names, *captions, strict=True)]
