"""The stage `captions`: photos and what people said of them. The encoder is frozen, and looks at each photo once, or is
fine-tuned from a block on."""

import contextlib
import copy
import functools
import itertools
from pathlib import Path

from torch.nn import functional as F
from torch.utils.data import ConcatDataset, DataLoader
from transformers.modeling_outputs import BaseModelOutput

from modeling_captioner import PhotoError, explain

from ..checkpoints import save_captioner
from ..data import (
    CaptionedPhotos,
    Collate,
    LabelledPhotos,
    LabelSentences,
    StreamedPhotos,
    cached_features,
    captioned_dataset,
    held_out_split,
    labelled_dataset,
    names_it,
    names_of_label,
    photo_of,
    read_captions,
)
from ..encoders import trainable_from
from ..metrics import caption_metrics

EXAMPLES = 4  # validation photos that are drawn at each validation


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
        trainable_from(captioner.encoder, settings.encoder_trainable_from, settings.freeze_batch_norm)
        wanted = ("validation",) if settings.evaluate_only else ("train", "validation")
        if settings.streaming:
            self.sets = {split: StreamedPhotos(settings, split) for split in wanted}
            return
        self.encoder = captioner.encoder.to(device)
        if settings.mixed_precision == "bf16":  # twice as fast, on CPUs as well; the weights that are trained stay
            self.encoder = copy.deepcopy(self.encoder).bfloat16()
        photos = captioned_dataset(settings, wanted)
        self.sets = {split: CaptionedPhotos(photos[split], self._features(photos[split])) for split in wanted}
        if settings.labelled_photos and not settings.evaluate_only:
            self._add_labelled()

    def _features(self, photos):
        """What a frozen encoder sees, computed once; None where it learns, or looks at each photo only once."""
        settings = self.settings
        if settings.encoder_trainable_from or settings.evaluate_only:
            return None
        folder = Path(settings.features_dir or Path(settings.output_dir) / "features")
        return cached_features(self.encoder, self.processor, photos, folder, settings.per_device_eval_batch_size)

    def _add_labelled(self):
        settings = self.settings
        text = [caption for captions in self.sets["train"].captions for caption in captions]
        sentences = LabelSentences(read_captions(settings.captions_file) if settings.captions_file else text)
        for split, photos in held_out_split(labelled_dataset(settings.labelled_photos), settings.seed).items():
            captioned = self.sets[split]
            if split == "validation":
                photos = photos.select(range(min(len(photos), settings.max_eval_samples or len(photos))))
            captions = [sentences(label) for label in photos["label"]]
            if split == "validation":
                labelled = CaptionedPhotos(photos, self._features(photos), captions, len(captioned))
                self.sets[split] = ConcatDataset([captioned, labelled])
            elif settings.labelled_share:
                labelled = CaptionedPhotos(photos, self._features(photos), captions, len(captioned))
                count, share = settings.captions_per_photo, settings.labelled_share
                self.sets[split] = LabelledPhotos(captioned, labelled, share, count, settings.seed)

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
        own = (batch["photo"].tolist(), batch["name"], batch["label"], captions, batch["captions"], losses, words)
        rows = zip(*own, strict=True)
        keys = ("name", "label", "caption", "people", "loss", "words")
        return {photo: dict(zip(keys, row, strict=True)) for photo, *row in rows if row[-1]}  # no words: a broken photo

    def score(self, model, judged):
        """The loss on validation captions, and the metrics of the captions that the model gives to those photos.

        Of labelled photos the share whose caption names the label.
        """
        labelled = [row for row in judged.values() if row["label"]]
        judged = {photo: row for photo, row in judged.items() if not row["label"]}
        captions = [row["caption"] for row in judged.values()]
        numbers = {"validation_loss": mean_loss(judged)}
        numbers |= caption_metrics([row["people"] for row in judged.values()], captions)
        numbers["distinct"] = len(set(captions)) / len(captions)
        if labelled:
            named = [names_it(row["caption"], names_of_label(row["label"])) for row in labelled]
            numbers["naming"] = sum(named) / len(named)
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
        if not self.settings.streaming:
            captioned = (rows.datasets[0] if isinstance(rows, ConcatDataset) else rows).photos
            rows = map(CaptionedPhotos(captioned).__getitem__, range(len(captioned)))
        for row in itertools.islice(rows, EXAMPLES):
            with contextlib.suppress(PhotoError):  # of a stream
                photo = photo_of(row)
                photo.thumbnail((512, 512))
                photos.append((row["name"], photo))
        return photos

    def save(self, model, folder):
        save_captioner(model, self.processor, folder)
