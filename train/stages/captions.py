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
    EpochSampler,
    LabeledPhotos,
    LabelSentences,
    MixedStream,
    StreamedPhotos,
    WeightedPhotos,
    cached_features,
    captioned_datasets,
    held_out_split,
    label_names,
    labeled_dataset,
    mentions,
    photo_of,
    read_captions,
    sources,
)
from ..encoders import trainable_from
from ..metrics import caption_metrics

EXAMPLES, EXAMPLE_SIDE = 4, 512  # validation photos to plot at each validation, and their size in pixels
SHOWN = ("CIDEr-D", "BLEU-4")  # for each data set and language


def word_losses(logits, labels):
    """Cross-entropy of each word, (captions, words), 0 for padding."""
    return F.cross_entropy(logits.transpose(1, 2).float(), labels, reduction="none")


def mean_loss(rows):
    """Mean loss per word of rows {"loss": sum over words, "words": number of words}."""
    return sum(row["loss"] for row in rows) / sum(row["words"] for row in rows)


def group_rows(rows):
    """Group results by data set and language: {"set/language": rows}."""
    groups = {}
    for row in rows:
        groups.setdefault("/".join(filter(None, (row["set"], row["language"]))), []).append(row)
    return groups


def group_metrics(rows):
    """Caption metrics of results of one data set and language, and the fraction of distinct captions."""
    captions = [row["caption"] for row in rows]
    metrics = caption_metrics([row["references"] for row in rows], captions)
    return metrics | {"distinct": len(set(captions)) / len(captions)}


def model_inputs(batch):
    return {name: batch[name] for name in ("pixel_values", "region_features") if name in batch}


def caption_inputs(batch):
    return {name: batch[name] for name in ("labels", "decoder_input_ids")}


class Captions:
    def __init__(self, captioner, processor, settings, device):
        self.model, self.processor, self.settings = captioner, processor, settings
        trainable_from(captioner, settings.encoder_trainable_from, settings.freeze_batch_norm)
        validates_only = settings.evaluate_only or settings.calibrate_only
        splits = ("validation",) if validates_only else ("train", "validation")
        self.languages = captioner.config.languages or [None]
        if settings.streaming:
            self.datasets = {split: self._streams(split) for split in splits}
            return
        self.encoder = captioner.encoder.to(device)
        if settings.mixed_precision == "bf16":  # twice as fast, even on CPUs; a copy, so the captioner stays float32
            self.encoder = copy.deepcopy(self.encoder).bfloat16()
        sets = captioned_datasets(settings, splits, languages=captioner.config.languages)
        self.datasets = {}
        if "train" in splits:
            drawn = {source.name: source.weight for source in sources(settings) if source.weight}
            photos = self._captioned({name: sets[name] for name in drawn}, "train")
            self.datasets["train"] = WeightedPhotos(photos, list(drawn.values()), settings.seed)
        self.validation_sets = self._captioned(sets, "validation")
        self.datasets["validation"] = ConcatDataset(self.validation_sets)
        if settings.labeled_photos and not validates_only:
            self._add_labeled()

    def _streams(self, split):
        all_sources, settings = sources(self.settings), self.settings
        streams = [StreamedPhotos(source, settings, split, self.model.config.languages) for source in all_sources]
        if len(streams) == 1:
            return streams[0]
        weights = [source.weight if split == "train" else 1.0 for source in all_sources]
        return MixedStream(streams, weights, settings.seed)

    def _captioned(self, sets, split):
        """A [`CaptionedPhotos`] of the split of each data set that has it, with their photos numbered throughout."""
        found, first = [], 0
        for name, splits in sets.items():
            if split in splits:
                found.append(CaptionedPhotos(splits[split], name, self._features(splits[split]), first=first))
                first += len(splits[split])
        return found

    def _features(self, photos):
        """Cached features of a frozen encoder; None if it is trained, or processes each photo only once."""
        settings = self.settings
        if settings.encoder_trainable_from or settings.evaluate_only or settings.calibrate_only:
            return None
        folder = Path(settings.features_dir or Path(settings.output_dir) / "features")
        return cached_features(self.encoder, self.processor, photos, folder, settings.per_device_eval_batch_size)

    def _add_labeled(self):
        settings = self.settings
        if settings.captions_file:
            corpus = read_captions(settings.captions_file, self.model.config.languages)
        else:
            corpus = [
                pair
                for photos in self.datasets["train"].sets
                for languages, texts in zip(photos.languages, photos.captions, strict=True)
                for pair in zip(languages, texts, strict=True)
            ]
        language = settings.labeled_language or self.languages[0]
        sentences = functools.cache(LabelSentences((text for own, text in corpus if own == language), language or "en"))
        for split, photos in held_out_split(labeled_dataset(settings.labeled_photos), settings.seed).items():
            if split == "validation":
                photos = photos.select(range(min(len(photos), settings.max_eval_samples or len(photos))))
            elif not settings.labeled_share:
                continue
            captioned = self.datasets[split]
            labeled = CaptionedPhotos(
                photos,
                "labeled photos",
                self._features(photos),
                captions=[sentences(label) for label in photos["label"]],  # many photos have the same label
                language=language,
                first=sum(map(len, captioned.sets)) if split == "train" else len(captioned),
            )
            if split == "validation":
                self.datasets[split] = ConcatDataset([*self.validation_sets, labeled])
            else:
                count, share = settings.captions_per_photo, settings.labeled_share
                self.datasets[split] = LabeledPhotos(captioned, labeled, share, count, settings.seed)

    def dataloader(self, split):
        train = split == "train"
        batch_size = self.settings.per_device_train_batch_size if train else self.settings.per_device_eval_batch_size
        return DataLoader(
            dataset := self.datasets[split],
            batch_size,
            sampler=EpochSampler(dataset, self.settings.seed) if train and not self.settings.streaming else None,
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

    def num_items(self, batch):
        return (batch["labels"] != -100).sum()

    def loss(self, model, batch, num_items):
        return {"loss": model(**model_inputs(batch), **caption_inputs(batch), num_items_in_batch=num_items).loss}

    def sample_names(self, batch):
        return batch["name"]

    def validation_step(self, model, batch):
        """For each photo and each language of its references, a generated caption, and the loss on the references."""
        output = model(**model_inputs(batch), **caption_inputs(batch))
        shape = len(batch["photo"]), len(batch["label_languages"]), -1
        losses = word_losses(output.logits, batch["labels"]).view(*shape, batch["labels"].shape[1]).sum((2, 3))
        words = (batch["labels"] != -100).view(*shape, batch["labels"].shape[1]).sum((2, 3))
        results = {}
        for column, language in enumerate(batch["label_languages"]):
            photos = words[:, column].nonzero().flatten().tolist()  # a broken photo has no words
            captions = self._caption(model, output.encoder_last_hidden_state[photos], language) if photos else []
            for row, said in zip(photos, captions, strict=True):
                pairs = zip(batch["languages"][row], batch["captions"][row], strict=True)
                results[batch["photo"][row].item(), language or ""] = {
                    "set": batch["set"][row],
                    "language": language,
                    "name": batch["name"][row],
                    "label": batch["label"][row],
                    "references": [text for own, text in pairs if own == language],
                    "loss": losses[row, column].item(),
                    "words": words[row, column].item(),
                } | said
        return results

    def _caption(self, model, regions, language):
        """{"caption"} for each photo, from its regions (photos, regions, hidden)."""
        ids = model.generate(
            encoder_outputs=BaseModelOutput(regions),
            num_beams=self.settings.num_beams,
            max_new_tokens=self.settings.max_new_tokens,
            language=language,
        )
        captions = self.processor.batch_decode(ids, skip_special_tokens=True)
        return [{"caption": caption} for caption in captions]

    def compute_metrics(self, model, results):
        """Loss on the validation captions, and metrics of the generated captions.

        With several data sets or languages, metrics are computed for each, such as "CIDEr-D/coco/vi", and averaged. For
        labeled photos, "naming" is the fraction whose caption mentions the label.
        """
        labeled = [row for row in results.values() if row["label"]]
        groups = group_rows(row for row in results.values() if not row["label"])
        metrics = {"validation_loss": mean_loss([row for rows in groups.values() for row in rows])}
        scores = {name: group_metrics(rows) for name, rows in groups.items()}
        for metric in next(iter(scores.values())):
            metrics[metric] = sum(score[metric] for score in scores.values()) / len(scores)
        if len(groups) > 1:
            metrics |= {f"{metric}/{name}": score[metric] for name, score in scores.items() for metric in SHOWN}
        if labeled:
            mentioned = [mentions(row["caption"], label_names(row["label"])) for row in labeled]
            metrics["naming"] = sum(mentioned) / len(mentioned)
        # CIDEr-D is 0 if all photos share the same words (a single photo does), or if no n-gram matches a reference.
        return metrics | {"score": metrics["CIDEr-D"] or -metrics["validation_loss"]}

    def examples(self, model):
        settings = {name: getattr(self.settings, name) for name in ("num_beams", "max_new_tokens")}
        return [
            (
                name,
                photo,
                explain(model, self.processor, photo, num_return_sequences=1, language=language, **settings),
            )
            for name, photo, languages in self._example_photos
            for language in languages
        ]

    @functools.cached_property
    def _example_photos(self):
        """(name, thumbnail, languages) of the first validation photos of each data set."""
        if self.settings.streaming:
            rows = itertools.islice(self.datasets["validation"], EXAMPLES)
        else:
            count = -(-EXAMPLES // len(self.validation_sets))
            sets = [CaptionedPhotos(photos.photos, photos.name) for photos in self.validation_sets]
            rows = (photos[row] for photos in sets for row in range(min(count, len(photos))))
        photos = []
        for row in rows:
            with contextlib.suppress(PhotoError):  # a stream may contain broken photos
                photo = photo_of(row, EXAMPLE_SIDE)
                photo.thumbnail((EXAMPLE_SIDE, EXAMPLE_SIDE))
                photos.append((row["name"], photo, list(dict.fromkeys(row["languages"]))))
        return photos

    def save(self, model, folder):
        save_captioner(model, self.processor, folder)
