"""The stage `captions`: cross-entropy on captioned photos, with a frozen or fine-tuned encoder.

A frozen encoder processes each photo once, and its features are cached. A fine-tuned one is trained from a block on.
"""

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
    label_names,
    labelled_dataset,
    mentions,
    photo_of,
    read_captions,
)
from ..encoders import trainable_from
from ..metrics import caption_metrics

EXAMPLES = 4  # validation photos to plot at each validation


def word_losses(logits, labels):
    """Cross-entropy of each word, (captions, words), 0 for padding."""
    return F.cross_entropy(logits.transpose(1, 2).float(), labels, reduction="none")


def mean_loss(results):
    """Mean loss per word of results {"loss": sum over words, "words": number of words}."""
    return sum(row["loss"] for row in results.values()) / sum(row["words"] for row in results.values())


def model_inputs(batch):
    return {name: batch[name] for name in ("pixel_values", "region_features") if name in batch}


class Captions:
    def __init__(self, captioner, processor, settings, device):
        self.model, self.processor, self.settings = captioner, processor, settings
        trainable_from(captioner, settings.encoder_trainable_from, settings.freeze_batch_norm)
        splits = ("validation",) if settings.evaluate_only else ("train", "validation")
        if settings.streaming:
            self.datasets = {split: StreamedPhotos(settings, split) for split in splits}
            return
        self.encoder = captioner.encoder.to(device)
        if settings.mixed_precision == "bf16":  # twice as fast, even on CPUs; a copy, so the captioner stays float32
            self.encoder = copy.deepcopy(self.encoder).bfloat16()
        photos = captioned_dataset(settings, splits)
        self.datasets = {split: CaptionedPhotos(photos[split], self._features(photos[split])) for split in splits}
        if settings.labelled_photos and not settings.evaluate_only:
            self._add_labelled()

    def _features(self, photos):
        """Cached features of a frozen encoder; None if it is trained, or processes each photo only once."""
        settings = self.settings
        if settings.encoder_trainable_from or settings.evaluate_only:
            return None
        folder = Path(settings.features_dir or Path(settings.output_dir) / "features")
        return cached_features(self.encoder, self.processor, photos, folder, settings.per_device_eval_batch_size)

    def _add_labelled(self):
        settings = self.settings
        if settings.captions_file:
            corpus = read_captions(settings.captions_file)
        else:
            corpus = itertools.chain.from_iterable(self.datasets["train"].captions)
        sentences = functools.cache(LabelSentences(corpus))  # many photos have the same label
        for split, photos in held_out_split(labelled_dataset(settings.labelled_photos), settings.seed).items():
            captioned = self.datasets[split]
            if split == "validation":
                photos = photos.select(range(min(len(photos), settings.max_eval_samples or len(photos))))
            captions = [sentences(label) for label in photos["label"]]
            if split == "validation":
                labelled = CaptionedPhotos(photos, self._features(photos), captions, len(captioned))
                self.datasets[split] = ConcatDataset([captioned, labelled])
            elif settings.labelled_share:
                labelled = CaptionedPhotos(photos, self._features(photos), captions, len(captioned))
                count, share = settings.captions_per_photo, settings.labelled_share
                self.datasets[split] = LabelledPhotos(captioned, labelled, share, count, settings.seed)

    def dataloader(self, split):
        train = split == "train"
        batch_size = self.settings.per_device_train_batch_size if train else self.settings.per_device_eval_batch_size
        return DataLoader(
            self.datasets[split],
            batch_size,
            shuffle=train and not self.settings.streaming,
            collate_fn=Collate(self.processor, self.settings, self.settings.seed if train else None),
            # With several workers, each would number the photos of a stream from 0, but results are keyed by number.
            num_workers=self.settings.dataloader_num_workers if train or not self.settings.streaming else 0,
        )

    def parameter_groups(self, model):
        encoder = [parameter for parameter in model.encoder.backbone.parameters() if parameter.requires_grad]
        backbone = {id(parameter) for parameter in model.encoder.backbone.parameters()}
        rest = [parameter for parameter in model.parameters() if id(parameter) not in backbone]
        groups = [{"params": rest, "lr": self.settings.learning_rate}]
        return [*groups, {"params": encoder, "lr": self.settings.encoder_learning_rate}] if encoder else groups

    def loss(self, model, batch):
        loss = model(**model_inputs(batch), labels=batch["labels"]).loss
        return {"loss": loss, "count": (batch["labels"] != -100).sum()}

    def sample_names(self, batch):
        return batch["name"]

    def validation_step(self, model, batch):
        """For each photo, a generated caption, the reference captions, and the loss on the references."""
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
        columns = (batch["photo"].tolist(), batch["name"], batch["label"], captions, batch["captions"], losses, words)
        rows = zip(*columns, strict=True)
        keys = ("name", "label", "caption", "references", "loss", "words")
        return {photo: dict(zip(keys, row, strict=True)) for photo, *row in rows if row[-1]}  # broken: 0 words

    def compute_metrics(self, model, results):
        """Loss on the validation captions, and metrics of the generated captions.

        For labelled photos, "naming" is the fraction whose caption mentions the label.
        """
        labelled = [row for row in results.values() if row["label"]]
        results = {photo: row for photo, row in results.items() if not row["label"]}
        captions = [row["caption"] for row in results.values()]
        metrics = {"validation_loss": mean_loss(results)}
        metrics |= caption_metrics([row["references"] for row in results.values()], captions)
        metrics["distinct"] = len(set(captions)) / len(captions)
        if labelled:
            mentioned = [mentions(row["caption"], label_names(row["label"])) for row in labelled]
            metrics["naming"] = sum(mentioned) / len(mentioned)
        # CIDEr-D is 0 if all photos share the same words (a single photo does), or if no n-gram matches a reference.
        return metrics | {"score": metrics["CIDEr-D"] or -metrics["validation_loss"]}

    def examples(self, model):
        settings = {name: getattr(self.settings, name) for name in ("num_beams", "max_new_tokens")}
        return [
            (name, photo, explain(model, self.processor, photo, num_return_sequences=1, **settings))
            for name, photo in self._example_photos
        ]

    @functools.cached_property
    def _example_photos(self):
        """(name, thumbnail) of the first validation photos."""
        photos = []
        rows = self.datasets["validation"]
        if not self.settings.streaming:
            captioned = (rows.datasets[0] if isinstance(rows, ConcatDataset) else rows).photos
            rows = map(CaptionedPhotos(captioned).__getitem__, range(len(captioned)))
        for row in itertools.islice(rows, EXAMPLES):
            with contextlib.suppress(PhotoError):  # a stream may contain broken photos
                photo = photo_of(row)
                photo.thumbnail((512, 512))
                photos.append((row["name"], photo))
        return photos

    def save(self, model, folder):
        save_captioner(model, self.processor, folder)
