"""The stage `captions`: photos and what people said of them. The encoder is frozen, and looks at each photo once, or is
fine-tuned from a block on."""

import contextlib
import functools
import itertools
import logging
import random
import re
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from transformers.modeling_outputs import BaseModelOutput

from modeling_captioner import PhotoError, explain

from ..checkpoints import save_captioner
from ..data import StreamedPhotos, cached_features, captioned_dataset, encode, names_of, photo_of
from ..encoders import trainable_from
from ..metrics import caption_metrics

MAX_WORDS = 40  # longer captions are cut
KEPT_SHARE = (0.8, 1.0)  # of a photo's width and height in a crop: what a caption names should stay in it
SIDES = re.compile(r"\b(left|right)", re.IGNORECASE)
EXAMPLES = 4  # validation photos that are drawn at each validation
TRIED = 100  # photos of a stream before their broken share counts
logger = logging.getLogger(__name__)


class CaptionedPhotos(TorchDataset):
    """A split as rows {"photo": number, "name", "captions", "epoch", "image" or "region_features"}."""

    def __init__(self, photos, features=None):
        self.photos, self.features, self.epoch = photos, features, 0
        self.captions, self.names = photos["captions"][:], names_of(photos)

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(self.photos)

    def __getitem__(self, index):
        row = {"photo": index, "name": self.names[index], "captions": self.captions[index], "epoch": self.epoch}
        if self.features is None:
            return row | {"image": self.photos[index]["image"]}
        return row | {"region_features": torch.from_numpy(self.features[index].astype("float32"))}


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
        batch = {name: [row[name] for row in rows] for name in ("name", "captions")}
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


def word_losses(logits, labels):
    """The cross-entropy of each word, (captions, words), 0 where there is none."""
    return F.cross_entropy(logits.transpose(1, 2).float(), labels, reduction="none")


def mean_loss(judged):
    """The mean over all words of the rows {"loss": their sum, "words": their number}."""
    return sum(row["loss"] for row in judged.values()) / sum(row["words"] for row in judged.values())


def model_inputs(batch):
    return {name: batch[name] for name in ("pixel_values", "region_features") if name in batch}


class Captions:
    def __init__(self, captioner, processor, settings, device):
        self.model, self.processor, self.settings = captioner, processor, settings
        trainable_from(captioner.encoder, settings.encoder_trainable_from)
        wanted = ("validation",) if settings.evaluate_only else ("train", "validation")
        if settings.streaming:
            self.sets = {split: StreamedPhotos(settings, split) for split in wanted}
            return
        self.sets = {}
        folder = Path(settings.features_dir or Path(settings.output_dir) / "features")
        encoder = captioner.encoder.to(device)
        for split, photos in captioned_dataset(settings, wanted).items():
            features = None
            if not settings.encoder_trainable_from and not settings.evaluate_only:
                features = cached_features(encoder, processor, photos, folder, settings.per_device_eval_batch_size)
            self.sets[split] = CaptionedPhotos(photos, features)

    def batches(self, split):
        train = split == "train"
        size = self.settings.per_device_train_batch_size if train else self.settings.per_device_eval_batch_size
        return DataLoader(
            self.sets[split],
            size,
            shuffle=train and not self.settings.streaming,
            collate_fn=Collate(self.processor, self.settings, self.settings.seed if train else None),
            # Several readers of a stream would each count its photos from nought.
            num_workers=self.settings.dataloader_num_workers if train or not self.settings.streaming else 0,
        )

    def parameters(self, model):
        encoder = [parameter for parameter in model.encoder.backbone.parameters() if parameter.requires_grad]
        known = {id(parameter) for parameter in model.encoder.backbone.parameters()}
        rest = [parameter for parameter in model.parameters() if id(parameter) not in known]
        groups = [{"params": rest, "lr": self.settings.learning_rate}]
        return [*groups, {"params": encoder, "lr": self.settings.encoder_learning_rate}] if encoder else groups

    def loss(self, model, batch):
        loss = model(**model_inputs(batch), labels=batch["labels"]).loss
        return {"loss": loss, "count": (batch["labels"] != -100).sum()}

    def names(self, batch):
        return batch["name"]

    def judge(self, model, batch):
        """A caption of each photo, those of people, and the loss of theirs."""
        output = model(**model_inputs(batch), labels=batch["labels"])
        photos = len(batch["photo"])
        losses = word_losses(output.logits, batch["labels"]).view(photos, -1).sum(1).tolist()
        words = (batch["labels"] != -100).view(photos, -1).sum(1).tolist()
        ids = model.generate(
            encoder_outputs=BaseModelOutput(output.encoder_last_hidden_state),
            num_beams=self.settings.num_beams,
            max_new_tokens=self.settings.max_new_tokens,
        )
        captions = self.processor.batch_decode(ids, skip_special_tokens=True)
        rows = zip(batch["photo"].tolist(), batch["name"], captions, batch["captions"], losses, words, strict=True)
        keys = ("name", "caption", "people", "loss", "words")
        return {photo: dict(zip(keys, row, strict=True)) for photo, *row in rows if row[-1]}  # no words: a broken photo

    def score(self, model, judged):
        """The loss on validation captions, and the metrics of the captions that the model gives to those photos."""
        numbers = {"validation_loss": mean_loss(judged)}
        numbers |= caption_metrics(
            [row["people"] for row in judged.values()], [row["caption"] for row in judged.values()]
        )
        # CIDEr-D is 0 where every photo has the same words, as a single one has, and for whoever says nothing right.
        return numbers | {"score": numbers["CIDEr-D"] or -numbers["validation_loss"]}

    def examples(self, model):
        settings = {name: getattr(self.settings, name) for name in ("num_beams", "max_new_tokens")}
        return [
            (name, photo, explain(model, self.processor, photo, num_return_sequences=1, **settings))
            for name, photo in self._example_photos
        ]

    @functools.cached_property
    def _example_photos(self):
        """(name, photo) of the first validation photos, small."""
        photos = []
        rows = self.sets["validation"]
        rows = rows if self.settings.streaming else map(CaptionedPhotos(rows.photos).__getitem__, range(len(rows)))
        for row in itertools.islice(rows, EXAMPLES):
            with contextlib.suppress(PhotoError):  # of a stream
                photo = photo_of(row)
                photo.thumbnail((512, 512))
                photos.append((row["name"], photo))
        return photos

    def save(self, model, folder):
        save_captioner(model, self.processor, folder)
