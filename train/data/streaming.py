"""Captioned photos from shards that never touch the disk: `StreamedPhotos`."""

import zlib

from datasets import Dataset, Image
from datasets.utils.file_utils import xopen
from torch.utils.data import IterableDataset

from modeling_captioner import PhotoError

from .columns import IMAGE_COLUMNS, caption_columns, column_of, key_of, texts_of
from .dataset import KARPATHY, load_splits, validation_split
from .download import fetch, fetched_ahead, is_address, make_client

BUFFER = 1000  # photos among which the next one is drawn


class StreamedPhotos(IterableDataset):
    """The photos of a split as they arrive, not yet tried.

    A row is {"photo": number, "name", "image", "captions", "label": None, "epoch"}.

    The split "train" comes in an order that the seed and the epoch decide, as far as the buffer reaches. Where the set
    has no split for validation, a share of the photos is kept for it, chosen by their hashes, so that the same ones are
    chosen whoever reads. Raises `ValueError` for a set whose columns are unknown.
    """

    def __init__(self, settings, split):
        splits = load_splits(settings, streaming=True)
        own = validation_split(splits, settings)
        name = own if own and split == "validation" else "train" if "train" in splits else next(iter(splits))
        stream = splits[name]
        if isinstance(stream, Dataset):  # of paths, as in COCO's and Flickr's own layouts
            stream = stream.to_iterable_dataset()
        if stream.column_names is None:
            stream = stream._resolve_features()
        self.image = column_of(stream, settings.image_column, IMAGE_COLUMNS, "photos", "--image_column")
        self.texts = caption_columns(stream, settings)
        if isinstance(stream.features[self.image], Image):
            stream = stream.cast_column(self.image, Image(decode=False))
        karpathy = "split" in stream.column_names and len(splits) == 1
        shared = not karpathy and not own and settings.validation_fraction > 0

        def belongs(row):
            captions = self._captions(row)
            if karpathy:
                return bool(captions) and KARPATHY.get(row["split"]) == split
            if not shared or not captions:  # no photo need be hashed
                return bool(captions)
            key = key_of(row[self.image]) or captions
            held_out = zlib.crc32(f"{settings.seed} {key}".encode()) < settings.validation_fraction * 2**32
            return held_out == (split == "validation")

        photos = settings.max_train_samples if split == "train" else settings.max_eval_samples
        self.length, self.epoch, self.workers = photos, 0, settings.download_workers
        if photos is None and stream.info.splits and name in stream.info.splits:
            share = 1 - settings.validation_fraction if shared else 1
            self.length = round(share * stream.info.splits[name].num_examples)
        self.stream = stream.filter(belongs)
        if photos:
            self.stream = self.stream.take(photos)
        if split == "train":
            self.stream = self.stream.shuffle(settings.seed, buffer_size=BUFFER)

    def _captions(self, row):
        return [text for name in self.texts for text in texts_of(row[name])]

    def set_epoch(self, epoch):
        self.epoch = epoch
        self.stream.set_epoch(epoch)

    def __len__(self):
        if not self.length:
            raise TypeError("How many photos the stream holds is not known.")
        return self.length

    def __iter__(self):
        with make_client(self.workers) as client:
            photos = fetched_ahead(lambda row: (row, self._image(row[self.image], client)), self.stream, self.workers)
            for number, (row, image) in enumerate(photos):
                name = (_path(image) or str(number)).rpartition("/")[2]
                row = {"photo": number, "name": name, "image": image, "captions": self._captions(row)}
                yield row | {"label": None, "epoch": self.epoch}

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
            with xopen(path, "rb") as file:
                content = file.read()
        return {"path": path, "bytes": content}


def _path(image):
    return image["path"] if isinstance(image, dict) else None
