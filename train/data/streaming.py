"""Streaming captioned photos without storing them on disk: `StreamedPhotos`, `MixedStream`."""

import itertools
import logging
import random
import zlib
from contextlib import closing

from datasets import Dataset, Image, concatenate_datasets
from datasets.utils.file_utils import xopen
from torch.utils.data import IterableDataset

from captioning.prefetch import prefetch_map
from modeling_captioner import PhotoError

from .captions import CaptionReader
from .columns import id_columns, image_column, key_of
from .dataset import KARPATHY, load_splits, training_split, validation_split
from .download import fetch, is_url, make_client

SHUFFLE_BUFFER = 1000  # photos
logger = logging.getLogger(__name__)


class StreamedPhotos(IterableDataset):
    """A stream of the photos of a split, which are not checked beforehand.

    A row is {"photo": number, "set", "name", "image", "captions", "languages", "label": None, "epoch"}.

    The split "train" is shuffled within a buffer, determined by seed and epoch. If the data set has no validation
    split, `validation_fraction` of the photos is held out, selected by a hash so that all processes and runs select the
    same ones. Raises `ValueError` if the columns of the data set are not recognized, or if it has no captions.
    """

    def __init__(self, source, settings, split, languages=None):
        self.source, self.settings, self.split, self.epoch = source, settings, split, 0
        self.workers = settings.download_workers
        self.skipped = 0  # rows without captions
        splits = load_splits(source, settings, streaming=True)
        stream, own = _with_features(next(iter(splits.values()))), None
        self.by_column = "split" in stream.column_names and len(splits) == 1
        if self.by_column:
            parts = list(splits.items())
            if split == "validation" and settings.eval_split:
                self.split = KARPATHY.get(settings.eval_split, settings.eval_split)
        else:
            grouped = {}  # {split: [(name in the data set, stream)]}
            for name, part in splits.items():
                grouped.setdefault(KARPATHY.get(name, name), []).append((name, part))
            own = validation_split(grouped, settings)
            parts = grouped[own if own and split == "validation" else training_split(grouped)]
            streams = [_with_features(part) for _, part in parts]
            stream = concatenate_datasets(streams) if len(streams) > 1 else streams[0]
        self.image = image_column(stream, settings)
        self.captions_of, self.ids = CaptionReader(stream, settings, source, languages), id_columns(stream.features)
        if isinstance(stream.features[self.image], Image):
            stream = stream.cast_column(self.image, Image(decode=False))
        self.by_hash = not self.by_column and not own and settings.validation_fraction > 0
        if self.by_hash and next(iter(stream.filter(self._belongs)), None) is None:
            logger.warning("No photo of the stream falls in the split %r; using all photos for it.", split)
            self.by_hash = False
        photos = settings.max_train_samples if split == "train" else settings.max_eval_samples
        self.length = photos or self._length(parts)
        self.stream = stream.filter(self._belongs)
        if photos:
            self.stream = self.stream.take(photos)
        if split == "train":
            self.stream = self.stream.shuffle(settings.seed, buffer_size=SHUFFLE_BUFFER)

    def _belongs(self, row):
        captions = self.captions_of(row)
        if not captions:
            self.skipped += 1
            return False
        if self.by_column:
            return KARPATHY.get(row["split"]) == self.split
        if not self.by_hash:
            return True
        ids = [row[column] for column in self.ids if row[column] is not None]
        key = ids[0] if ids else key_of(row[self.image]) or captions
        hashed = zlib.crc32(f"{self.settings.seed} {key}".encode())
        return (hashed < self.settings.validation_fraction * 2**32) == (self.split == "validation")

    def _length(self, parts):
        """Number of photos according to the metadata of the data set, or None."""
        sizes = [stream.info.splits[name].num_examples for name, stream in parts if name in (stream.info.splits or ())]
        fraction = 1 - self.settings.validation_fraction if self.by_hash else 1
        return round(fraction * sum(sizes)) if len(sizes) == len(parts) else None

    def set_epoch(self, epoch):
        self.epoch = epoch
        self.stream.set_epoch(epoch)

    def __len__(self):
        if not self.length:
            raise TypeError("The number of photos in the stream is unknown.")
        return self.length

    def __iter__(self):
        self.skipped = 0
        with make_client(self.workers) as client:
            fetched = prefetch_map(lambda row: (row, self._image(row[self.image], client)), self.stream, self.workers)
            with closing(fetched) as photos:  # before the client, so that no request waits for a closed connection
                yield from self._rows(photos)
        if self.skipped and self.epoch == 0:
            logger.warning("%d rows of the stream have no caption.", self.skipped)

    def _rows(self, photos):
        for number, (row, image) in enumerate(photos):
            name = (_path(image) or str(number)).rpartition("/")[2]
            pairs = self.captions_of(row)
            yield {
                "photo": number,
                "set": self.source.name,
                "name": name,
                "image": image,
                "captions": [text for _, text in pairs],
                "languages": [language for language, _ in pairs],
                "label": None,
                "epoch": self.epoch,
            }

    @staticmethod
    def _image(cell, client):
        """The photo as {"path", "bytes"}, the `PhotoError` that says why it could not be read, or None if missing."""
        if isinstance(cell, str):
            cell = {"path": cell, "bytes": None}
        if not cell or cell["bytes"]:
            return cell
        path, content = cell["path"], None
        if is_url(path):
            try:
                content = fetch(client, path)
            except PhotoError as error:
                return error
        elif "://" in (path or ""):  # for example a file in a repository on the Hub
            try:
                with xopen(path, "rb") as file:
                    content = file.read()
            except (OSError, ValueError, ImportError) as error:  # also if the protocol is unknown, or lacks its package
                return PhotoError(f"{path} cannot be read: {error}")
        return {"path": path, "bytes": content}


class MixedStream(IterableDataset):
    """Several [`StreamedPhotos`] as one stream, drawn in proportion to their numbers of photos and their weights.

    An epoch of the split "train" ends when each stream has been read `weight` times (rounded, at least once if it is
    above 0); that of another split reads each once.
    """

    def __init__(self, streams, weights, seed):
        self.streams, self.weights, self.seed, self.epoch = streams, weights, seed, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return sum(self._times(weight) * len(photos) for photos, weight in zip(self.streams, self.weights, strict=True))

    @staticmethod
    def _times(weight):
        return max(1, round(weight)) if weight else 0

    def __iter__(self):
        rng = random.Random(f"{self.seed} {self.epoch}")
        readers, shares = {}, {}
        for number, (photos, weight) in enumerate(zip(self.streams, self.weights, strict=True)):
            if times := self._times(weight):
                readers[number] = itertools.chain.from_iterable(self._passes(photos, times))
                shares[number] = times * (photos.length or 1)
        while readers:
            number = rng.choices(list(readers), [shares[key] for key in readers])[0]
            row = next(readers[number], None)
            if row is None:
                del readers[number]
            else:  # each stream numbers its own photos from 0
                yield row | {"photo": row["photo"] * len(self.streams) + number}

    def _passes(self, photos, times):
        for repetition in range(times):
            photos.set_epoch(self.epoch * times + repetition)
            yield photos


def _with_features(stream):
    if isinstance(stream, Dataset):  # of paths, in the layouts of COCO and Flickr
        return stream.to_iterable_dataset()
    return stream if stream.column_names else stream._resolve_features()


def _path(image):
    return image["path"] if isinstance(image, dict) else None
