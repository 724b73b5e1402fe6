"""Captioned photos from shards that never touch the disk: `StreamedPhotos`."""

import logging
import zlib

from datasets import Dataset, Image, concatenate_datasets
from datasets.utils.file_utils import xopen
from torch.utils.data import IterableDataset

from modeling_captioner import PhotoError

from .captions import CaptionReader
from .columns import id_columns, image_column, key_of
from .dataset import KARPATHY, load_splits, training_split, validation_split
from .download import fetch, fetched_ahead, is_address, make_client

BUFFER = 1000  # photos among which the next one is drawn
logger = logging.getLogger(__name__)


class StreamedPhotos(IterableDataset):
    """The photos of a split as they arrive, not yet tried.

    A row is {"photo": number, "name", "image", "captions", "label": None, "epoch"}.

    The split "train" comes in an order that the seed and the epoch decide, as far as the buffer reaches. Where the set
    has no split for validation, a share of the photos is kept for it, chosen by their hashes, so that the same ones are
    chosen whoever reads. Raises `ValueError` for a set whose columns are unknown, or that has no captions.
    """

    def __init__(self, settings, split):
        self.settings, self.split, self.epoch, self.workers = settings, split, 0, settings.download_workers
        self.without = 0  # rows without captions
        splits = load_splits(settings, streaming=True)
        stream, own = _with_features(next(iter(splits.values()))), None
        self.by_column = "split" in stream.column_names and len(splits) == 1
        if self.by_column:
            parts = list(splits.items())
            if split == "validation" and settings.eval_split:
                self.split = KARPATHY.get(settings.eval_split, settings.eval_split)
        else:
            grouped = {}  # {split: [(own name, stream)]}
            for name, one in splits.items():
                grouped.setdefault(KARPATHY.get(name, name), []).append((name, one))
            own = validation_split(grouped, settings)
            parts = grouped[own if own and split == "validation" else training_split(grouped)]
            streams = [_with_features(one) for _, one in parts]
            stream = concatenate_datasets(streams) if len(streams) > 1 else streams[0]
        self.image = image_column(stream, settings)
        self.captions_of, self.ids = CaptionReader(stream, settings), id_columns(stream.features)
        if isinstance(stream.features[self.image], Image):
            stream = stream.cast_column(self.image, Image(decode=False))
        self.by_hash = not self.by_column and not own and settings.validation_fraction > 0
        if self.by_hash and next(iter(stream.filter(self._belongs)), None) is None:
            logger.warning("No photo of the stream falls to the split %r: it uses all of them.", split)
            self.by_hash = False
        photos = settings.max_train_samples if split == "train" else settings.max_eval_samples
        self.length = photos or self._length(parts)
        self.stream = stream.filter(self._belongs)
        if photos:
            self.stream = self.stream.take(photos)
        if split == "train":
            self.stream = self.stream.shuffle(settings.seed, buffer_size=BUFFER)

    def _belongs(self, row):
        captions = self.captions_of(row)
        if not captions:
            self.without += 1
            return False
        if self.by_column:
            return KARPATHY.get(row["split"]) == self.split
        if not self.by_hash:  # no photo need be hashed
            return True
        ids = [row[column] for column in self.ids if row[column] is not None]
        key = ids[0] if ids else key_of(row[self.image]) or captions
        hashed = zlib.crc32(f"{self.settings.seed} {key}".encode())
        return (hashed < self.settings.validation_fraction * 2**32) == (self.split == "validation")

    def _length(self, parts):
        """How many photos there are, where the data set says so."""
        told = [stream.info.splits[name].num_examples for name, stream in parts if name in (stream.info.splits or ())]
        share = 1 - self.settings.validation_fraction if self.by_hash else 1
        return round(share * sum(told)) if len(told) == len(parts) else None

    def set_epoch(self, epoch):
        self.epoch = epoch
        self.stream.set_epoch(epoch)

    def __len__(self):
        if not self.length:
            raise TypeError("How many photos the stream holds is not known.")
        return self.length

    def __iter__(self):
        self.without = 0
        with make_client(self.workers) as client:
            photos = fetched_ahead(lambda row: (row, self._image(row[self.image], client)), self.stream, self.workers)
            for number, (row, image) in enumerate(photos):
                name = (_path(image) or str(number)).rpartition("/")[2]
                row = {"photo": number, "name": name, "image": image, "captions": self.captions_of(row)}
                yield row | {"label": None, "epoch": self.epoch}
        if self.without and self.epoch == 0:
            logger.warning("%d rows of the stream have no caption.", self.without)

    @staticmethod
    def _image(cell, client):
        """The cell {"path", "bytes"} of a photo, the `PhotoError` that says why it could not be fetched, or None."""
        if isinstance(cell, str):
            cell = {"path": cell, "bytes": None}
        if not cell or cell["bytes"]:
            return cell
        path, content = cell["path"], None
        if is_address(path):
            try:
                content = fetch(client, path)
            except PhotoError as error:
                return error
        elif "://" in (path or ""):  # a file in a repository of the Hub
            try:
                with xopen(path, "rb") as file:
                    content = file.read()
            except (OSError, ValueError, ImportError) as error:  # of an unknown protocol, or without its package
                return PhotoError(f"{path} cannot be read: {error}")
        return {"path": path, "bytes": content}


def _with_features(stream):
    if isinstance(stream, Dataset):  # of paths, as in COCO's and Flickr's own layouts
        return stream.to_iterable_dataset()
    return stream if stream.column_names else stream._resolve_features()


def _path(image):
    return image["path"] if isinstance(image, dict) else None
