"""Map-style datasets of captioned and labeled photos, and the collate function."""

import itertools
import logging
import math
import random
import re

import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset as TorchDataset

from modeling_captioner import PhotoError

from .dataset import names_of, photo_of, side_of
from .labels import label_names
from .vocabulary import encode, start_token

MAX_WORDS = 80  # or characters, in scripts without spaces; longer captions are truncated
CROP_SCALE = (0.8, 1.0)  # fraction of width and height; large, so that the objects of the caption stay visible
# Left and right in English, Vietnamese, Chinese and Japanese, Hindi, and Arabic.
SIDES = re.compile(r"\b(left|right|trái|phải)|[左右]|बा[एय]|दा[एय]|يسار|يمين", re.IGNORECASE)
MIN_CHECKED = 100  # photos of a stream to check before too many broken ones stop the run
logger = logging.getLogger(__name__)


class CaptionedPhotos(TorchDataset):
    """A split with rows {"photo": number, "set", "name", "captions", "languages", "label", "epoch", "image" or
    "region_features"}.

    Args:
        photos: a `Dataset` with the columns `image`, `captions` and `languages`, or `image` and `label` if `captions`
            is given.
        name: name of the data set.
        features: cached [`Features`] to use instead of the images.
        captions: list of captions of each photo, in `language`.
        first: number of the first photo.
    """

    def __init__(self, photos, name="", features=None, captions=None, language=None, first=0):
        self.photos, self.name, self.features, self.first, self.epoch = photos, name, features, first, 0
        self.captions, self.names = captions or photos["captions"][:], names_of(photos)
        self.languages = [[language] * len(texts) for texts in captions] if captions else photos["languages"][:]
        self.labels = photos["label"][:] if captions else [None] * len(photos)

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(self.photos)

    def __getitem__(self, index):
        row = {
            "photo": self.first + index,
            "set": self.name,
            "name": self.names[index],
            "captions": self.captions[index],
            "languages": self.languages[index],
            "label": self.labels[index],
            "epoch": self.epoch,
        }
        if self.features is None:
            return row | {"image": self.photos[index]["image"]}
        return row | {"region_features": torch.from_numpy(self.features[index].astype("float32"))}


class WeightedPhotos(TorchDataset):
    """The photos of several data sets, each drawn `weight` times in an epoch.

    The fractional part of a weight is the fraction of the photos that is drawn once more, others in each epoch.

    Args:
        sets: a list of [`CaptionedPhotos`].
        weights: one number for each.
    """

    def __init__(self, sets, weights, seed):
        self.sets, self.weights, self.seed = sets, weights, seed
        self.captions = [captions for photos in sets for captions in photos.captions]
        self.set_epoch(0)

    def set_epoch(self, epoch):
        self.rows = []
        for number, (photos, weight) in enumerate(zip(self.sets, self.weights, strict=True)):
            photos.set_epoch(epoch)
            times, more = divmod(round(len(photos) * weight), len(photos))
            rng = random.Random(f"{self.seed} {epoch} {number}")
            drawn = [*range(len(photos))] * times + rng.sample(range(len(photos)), more)
            self.rows += [(photos, row) for row in drawn]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        photos, row = self.rows[index]
        return photos[row]


class LabeledPhotos(TorchDataset):
    """Captioned photos mixed with labeled photos, which are sampled for each epoch.

    A label's name is sampled with a probability proportional to its number of sentences to the power of 3/4 (as words
    are in "Distributed Representations of Words and Phrases", Mikolov et al. 2013), whatever its number of photos: a
    name that is common in text more often than a rare species. The captions of a labeled photo are sentences that
    mention its label, also sampled for each epoch.

    Args:
        captioned: [`CaptionedPhotos`] or [`WeightedPhotos`].
        labeled: [`CaptionedPhotos`]; their captions are all candidate sentences of the label.
        share: fraction of the photos of an epoch that are labeled photos.
        count: number of captions to sample per labeled photo.
    """

    def __init__(self, captioned, labeled, share, count, seed):
        self.captioned, self.labeled, self.count, self.seed = captioned, labeled, count, seed
        self.num_labeled = round(len(captioned) * share / (1 - share))
        self.captions = captioned.captions
        self.rows_by_name, sentence_counts = {}, {}
        for row, label in enumerate(labeled.labels):
            name = label_names(label)[0]
            self.rows_by_name.setdefault(name, []).append(row)
            sentence_counts[name] = len(labeled.captions[row])
        self.weights = [sentence_counts[name] ** 0.75 for name in self.rows_by_name]
        self.set_epoch(0)

    def set_epoch(self, epoch):
        self.captioned.set_epoch(epoch)
        self.labeled.set_epoch(epoch)
        rng = random.Random(f"{self.seed} {epoch}")
        candidates = rng.choices(list(self.rows_by_name.values()), self.weights, k=self.num_labeled)
        self.rows = [rng.choice(rows) for rows in candidates]

    def __len__(self):
        return len(self.captioned) + self.num_labeled

    def __getitem__(self, index):
        if index < len(self.captioned):
            return self.captioned[index]
        row = self.labeled[self.rows[index - len(self.captioned)]]
        rng = random.Random(f"{self.seed} {row['epoch']} {index}")
        captions = rng.choices(row["captions"], k=self.count)
        return row | {"captions": captions, "languages": row["languages"][:1] * self.count}


class Collate:
    """Collate rows into a batch: `pixel_values` or `region_features`, `labels` and `decoder_input_ids`.

    Each photo has `captions_per_photo` rows of `labels` for each language of the batch; those of a language that it has
    no captions in are empty (-100).

    If `seed` is given (in training), photos are cropped and mirrored at random, and captions are chosen at random,
    determined by seed, epoch and photo. Photos of a stream have not been checked before: a broken one is replaced by a
    black one without captions, and too many (`max_broken_fraction`) raise `ValueError`. Otherwise, a broken photo
    raises `PhotoError`.
    """

    def __init__(self, processor, settings, seed=None):
        self.processor, self.settings, self.seed = processor, settings, seed
        self.side = side_of(processor) if seed is None else math.ceil(side_of(processor) / CROP_SCALE[0])
        self.checked, self.broken = 0, 0

    def __call__(self, rows):
        batch = {name: [row[name] for row in rows] for name in ("set", "name", "captions", "languages", "label")}
        batch["photo"] = torch.tensor([row["photo"] for row in rows])
        languages = list(dict.fromkeys(language for row in rows for language in row["languages"]))
        batch["label_languages"] = languages
        chosen = [[self._choose(row, language) for language in languages] for row in rows]
        if "region_features" in rows[0]:
            batch["region_features"] = torch.stack([row["region_features"] for row in rows])
        else:
            photos = [self._photo(row) for row in rows]
            chosen = [texts if photo else [[]] * len(texts) for photo, texts in zip(photos, chosen, strict=True)]
            photos = [photo or Image.new("RGB", (8, 8)) for photo in photos]
            batch["pixel_values"] = self.processor(images=photos, return_tensors="pt").pixel_values
        captions = [
            (language, text)
            for lists in chosen
            for language, texts in zip(languages, lists, strict=True)
            for text in texts or [None] * self.settings.captions_per_photo
        ]
        return batch | collate_captions(self.processor.tokenizer, captions)

    def _choose(self, row, language):
        """`captions_per_photo` captions of a photo in a language, repeated if there are fewer; [] if there are none."""
        captions = [text for text, own in zip(row["captions"], row["languages"], strict=True) if own == language]
        count = self.settings.captions_per_photo
        if self.seed is not None and len(captions) > count:
            return random.Random(f"{self.seed} {row['epoch']} {row['photo']} captions").sample(captions, count)
        return list(itertools.islice(itertools.cycle(captions), count))

    def _photo(self, row):
        """The photo, or None if it is broken."""
        self.checked += 1
        try:
            photo = photo_of(row, self.side)
        except PhotoError as error:
            if not self.settings.streaming:
                raise
            self.broken += 1
            logger.warning("Skipped: %s", error)
            if self.broken > self.settings.max_broken_fraction * max(self.checked, MIN_CHECKED):
                raise ValueError(
                    f"{self.broken} of the first {self.checked} photos of the stream are broken, more than"
                    f" max_broken_fraction={self.settings.max_broken_fraction} allows; the last one: {error}"
                ) from error
            return None
        if self.seed is None:
            return photo
        return augment(photo, row["captions"], random.Random(f"{self.seed} {row['epoch']} {row['photo']}"))


def augment(photo, captions, rng):
    """Crop and mirror a photo at random so that its captions remain true: no mirroring if one says left or right."""
    width, height = (side * rng.uniform(*CROP_SCALE) for side in photo.size)
    left, top = rng.uniform(0, photo.width - width), rng.uniform(0, photo.height - height)
    photo = photo.crop((round(left), round(top), round(left + width), round(top + height)))
    mirror = rng.random() < 0.5 and not any(SIDES.search(caption) for caption in captions)
    return photo.transpose(0) if mirror else photo


def collate_captions(tokenizer, captions):
    """Tokenize captions as `labels` (captions, words), padded with -100, and the `decoder_input_ids` that precede them.

    Args:
        captions: pairs of a language, or None for a captioner of one language, and a caption, or None for an empty row.
    """
    given = [text for _, text in captions if text is not None]
    encoded = iter(encode(tokenizer, given, MAX_WORDS) if given else [])
    labels = [torch.tensor([-100] if text is None else next(encoded)) for _, text in captions]
    starts = torch.tensor([start_token(tokenizer, language) for language, _ in captions])
    labels = pad_sequence(labels, batch_first=True, padding_value=-100)
    inputs = torch.cat([starts[:, None], labels[:, :-1]], dim=1)
    return {"labels": labels, "decoder_input_ids": inputs.masked_fill(inputs == -100, tokenizer.pad_token_id)}
