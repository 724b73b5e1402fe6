"""Rows of photos with captions or labels, and how they become batches."""

import itertools
import logging
import random
import re

import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset as TorchDataset

from modeling_captioner import PhotoError

from .dataset import names_of, photo_of
from .labels import names_of_label
from .vocabulary import encode

MAX_WORDS = 40  # longer captions are cut
KEPT_SHARE = (0.8, 1.0)  # of a photo's width and height in a crop: what a caption names should stay in it
SIDES = re.compile(r"\b(left|right)", re.IGNORECASE)
TRIED = 100  # photos of a stream before their broken share counts
logger = logging.getLogger(__name__)


class CaptionedPhotos(TorchDataset):
    """A split as rows {"photo": number, "name", "captions", "label", "epoch", "image" or "region_features"}.

    Args:
        photos: a data set with the columns `image` and `captions`; or `label`, and `captions` are given beside it.
        first: the first photo's number.
    """

    def __init__(self, photos, features=None, captions=None, first=0):
        self.photos, self.features, self.first, self.epoch = photos, features, first, 0
        self.captions, self.names = captions or photos["captions"][:], names_of(photos)
        self.labels = photos["label"][:] if captions else [None] * len(photos)

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(self.photos)

    def __getitem__(self, index):
        row = {
            "photo": self.first + index,
            "name": self.names[index],
            "captions": self.captions[index],
            "label": self.labels[index],
            "epoch": self.epoch,
        }
        if self.features is None:
            return row | {"image": self.photos[index]["image"]}
        return row | {"region_features": torch.from_numpy(self.features[index].astype("float32"))}


class LabelledPhotos(TorchDataset):
    """Captioned photos, and a share of labelled ones that is drawn for each epoch.

    A label's name is drawn in proportion to the square root of the number of its sentences: what people often write
    about more often than a rare species, whatever the number of photos. The sentences are drawn in each epoch as well.

    Args:
        captioned, labelled: [`CaptionedPhotos`]; the captions of `labelled` are all sentences of the label.
        share: of the labelled photos among the photos of an epoch.
        count: captions of a labelled photo.
    """

    def __init__(self, captioned, labelled, share, count, seed):
        self.captioned, self.labelled, self.count, self.seed = captioned, labelled, count, seed
        self.drawn = round(len(captioned) * share / (1 - share))
        self.captions = captioned.captions
        self.rows_of, sentences = {}, {}  # {name: rows}, {name: number}
        for row, label in enumerate(labelled.labels):
            name = names_of_label(label)[0]
            self.rows_of.setdefault(name, []).append(row)
            sentences[name] = len(labelled.captions[row])
        self.weights = [sentences[name] ** 0.5 for name in self.rows_of]
        self.set_epoch(0)

    def set_epoch(self, epoch):
        self.captioned.set_epoch(epoch)
        self.labelled.set_epoch(epoch)
        chance = random.Random(f"{self.seed} {epoch}")
        rows = chance.choices(list(self.rows_of.values()), self.weights, k=self.drawn)
        self.rows = [chance.choice(some) for some in rows]

    def __len__(self):
        return len(self.captioned) + self.drawn

    def __getitem__(self, index):
        if index < len(self.captioned):
            return self.captioned[index]
        row = self.labelled[self.rows[index - len(self.captioned)]]
        chance = random.Random(f"{self.seed} {row['epoch']} {index}")
        return row | {"captions": chance.choices(row["captions"], k=self.count)}


class Collate:
    """Rows to a batch: photos (or features) stacked, the same number of captions of each as labels.

    With a seed (in training) photos are cropped a little and mirrored; the same seed, epoch and photo give the same
    again. A broken photo of a stream, which nobody has tried before, stays as a grey one without a caption. Raises
    `PhotoError` for any other, and `ValueError` where more than `max_broken_fraction` are broken.
    """

    def __init__(self, processor, settings, seed=None):
        self.processor, self.settings, self.seed = processor, settings, seed
        self.seen, self.broken = 0, 0

    def __call__(self, rows):
        batch = {name: [row[name] for row in rows] for name in ("name", "captions", "label")}
        batch["photo"] = torch.tensor([row["photo"] for row in rows])
        labels = [self._labels(row["captions"]) for row in rows]
        if "region_features" in rows[0]:
            batch["region_features"] = torch.stack([row["region_features"] for row in rows])
        else:
            photos = [self._photo(row) for row in rows]
            labels = [ids if photo else [[-100]] * len(ids) for photo, ids in zip(photos, labels, strict=True)]
            photos = [photo or Image.new("RGB", (8, 8)) for photo in photos]
            batch["pixel_values"] = self.processor(images=photos, return_tensors="pt").pixel_values
        return batch | {"labels": padded([ids for some in labels for ids in some])}

    def _labels(self, captions):
        captions = itertools.islice(itertools.cycle(captions), self.settings.captions_per_photo)
        return encode(self.processor.tokenizer, list(captions), MAX_WORDS)

    def _photo(self, row):
        """The photo; None in place of a broken one."""
        self.seen += 1
        try:
            photo = photo_of(row)
        except PhotoError as error:
            if not self.settings.streaming:
                raise
            self.broken += 1
            logger.warning("Skipped: %s", error)
            if self.broken > self.settings.max_broken_fraction * max(self.seen, TRIED):
                raise ValueError(
                    f"{self.broken} of the stream's first {self.seen} photos are broken, more than max_broken_fraction="
                    f"{self.settings.max_broken_fraction} allows; the last: {error}"
                ) from error
            return None
        if self.seed is None:
            return photo
        return augmented(photo, row["captions"], random.Random(f"{self.seed} {row['epoch']} {row['photo']}"))


def augmented(photo, captions, chance):
    """A photo changed as its captions survive it: cropped a little, mirrored unless somebody says left or right."""
    width, height = (side * chance.uniform(*KEPT_SHARE) for side in photo.size)
    left, top = chance.uniform(0, photo.width - width), chance.uniform(0, photo.height - height)
    photo = photo.crop((round(left), round(top), round(left + width), round(top + height)))
    mirrored = chance.random() < 0.5 and not any(SIDES.search(caption) for caption in captions)
    return photo.transpose(0) if mirrored else photo


def padded(labels):
    """Lists of ids as one tensor, (captions, words), -100 after their ends."""
    return pad_sequence([torch.tensor(ids) for ids in labels], batch_first=True, padding_value=-100)
