"""Captioning many photos: `caption_photos` decodes photos in threads while the model generates captions."""

import contextlib
import itertools

from captioning.cores import usable_cores
from captioning.prefetch import prefetch_map
from modeling_captioner import PhotoError

MAX_DECODERS = 32  # threads, each of which holds a decoded photo


def caption_photos(captioner, photos, read, batch_size, failed):
    """Caption photos.

    Args:
        captioner: an engine, see `captioning.engine`.
        photos: iterable of (name, source) pairs.
        read: function that opens a source as a `PIL.Image.Image`, or raises `PhotoError`.
        batch_size: number of photos per batch.
        failed: list to which (name, error) pairs are appended.

    Yields lists of (name, caption, natural log-probability), in the order of the photos.
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
                captions = captioner.caption(pixel_values)
                yield [(name, *caption) for name, caption in zip(names, captions, strict=True)]
