"""The stage `captions`: photos and what people said of them. The encoder is frozen, and looks at each photo once, or is
fine-tuned from a block on."""

import random
import re
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm.auto import tqdm
from transformers.modeling_outputs import BaseModelOutput

from ..checkpoints import save_captioner
from ..data import captioned_dataset, photo_of
from ..encoders import trainable_from
from ..features import cached_features
from ..metrics import caption_metrics
from ..vocabulary import encode

MAX_WORDS = 40  # longer captions are cut
KEPT_SHARE = (0.8, 1.0)  # of a photo's width and height in a crop: what a caption names should stay in it
SIDES = re.compile(r"\b(left|right)", re.IGNORECASE)


class CaptionedPhotos(TorchDataset):
    """Photos, or their features, each with the same number of captions as labels.

    With a seed (in training) photos are cropped a little and mirrored; the same seed, epoch and photo give the same
    again.
    """

    def __init__(self, photos, features, processor, captions_per_photo, seed=None):
        self.photos, self.features, self.processor = photos, features, processor
        self.captions_per_photo, self.seed, self.epoch = captions_per_photo, seed, 0
        self.captions = photos["captions"][:]
        self.labels = [encode(processor.tokenizer, captions, MAX_WORDS) for captions in self.captions]

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(self.photos)

    def __getitem__(self, index):
        labels = self.labels[index]
        labels = [labels[number % len(labels)] for number in range(self.captions_per_photo)]
        item = {"photo": torch.tensor(index), "labels": labels}
        if self.features is not None:
            return item | {"region_features": torch.from_numpy(self.features[index].astype("float32"))}
        photo = photo_of(self.photos[index])
        if self.seed is not None:
            photo = augmented(photo, self.captions[index], random.Random(f"{self.seed} {self.epoch} {index}"))
        return item | {"pixel_values": self.processor(images=photo, return_tensors="pt").pixel_values[0]}


def augmented(photo, captions, chance):
    """A photo changed as its captions survive it: cropped a little, mirrored unless somebody says left or right."""
    width, height = (side * chance.uniform(*KEPT_SHARE) for side in photo.size)
    left, top = chance.uniform(0, photo.width - width), chance.uniform(0, photo.height - height)
    photo = photo.crop((round(left), round(top), round(left + width), round(top + height)))
    mirrored = chance.random() < 0.5 and not any(SIDES.search(caption) for caption in captions)
    return photo.transpose(0) if mirrored else photo


def collate(items):
    """A batch: photos (or features) stacked, and the labels of all their captions, (photos x captions, words)."""
    labels = [torch.tensor(caption) for item in items for caption in item["labels"]]
    batch = {name: torch.stack([item[name] for item in items]) for name in items[0] if name != "labels"}
    return batch | {"labels": pad_sequence(labels, batch_first=True, padding_value=-100)}


def model_inputs(batch):
    return {name: tensor for name, tensor in batch.items() if name != "photo"}


class Captions:
    def __init__(self, captioner, processor, settings, device):
        self.model, self.processor, self.settings = captioner, processor, settings
        self.splits = captioned_dataset(settings)
        trainable_from(captioner.encoder, settings.encoder_trainable_from)
        folder = Path(settings.features_dir or Path(settings.output_dir) / "features")
        encoder = captioner.encoder.to(device)
        self.sets = {}
        for split, photos in self.splits.items():
            features = None
            if not settings.encoder_trainable_from:
                features = cached_features(encoder, processor, photos, folder, settings.per_device_eval_batch_size)
            seed = settings.seed if split == "train" else None
            self.sets[split] = CaptionedPhotos(photos, features, processor, settings.captions_per_photo, seed)

    def batches(self, split):
        train = split == "train"
        size = self.settings.per_device_train_batch_size if train else self.settings.per_device_eval_batch_size
        return DataLoader(
            self.sets[split],
            size,
            shuffle=train,
            collate_fn=collate,
            num_workers=self.settings.dataloader_num_workers,
        )

    def parameters(self, model):
        encoder = [parameter for parameter in model.encoder.backbone.parameters() if parameter.requires_grad]
        known = {id(parameter) for parameter in model.encoder.backbone.parameters()}
        rest = [parameter for parameter in model.parameters() if id(parameter) not in known]
        groups = [{"params": rest, "lr": self.settings.learning_rate}]
        return [*groups, {"params": encoder, "lr": self.settings.encoder_learning_rate}] if encoder else groups

    def loss(self, model, batch):
        return model(**model_inputs(batch)).loss

    @torch.inference_mode()
    def evaluate(self, model):
        """The loss on validation captions, and the metrics of the captions that the model gives to those photos."""
        losses, captions = [], []
        for batch in tqdm(self.batches("validation"), desc="validation", leave=False):
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            output = model(**model_inputs(batch))
            losses.append(output.loss.item())
            ids = model.generate(
                encoder_outputs=BaseModelOutput(output.encoder_last_hidden_state),
                num_beams=self.settings.num_beams,
                max_new_tokens=self.settings.max_new_tokens,
            )
            captions += self.processor.batch_decode(ids, skip_special_tokens=True)
        numbers = caption_metrics(self.splits["validation"]["captions"][:], captions)
        return {"validation_loss": sum(losses) / len(losses)} | numbers | {"score": numbers["CIDEr-D"]}

    def save(self, model, folder):
        save_captioner(model, self.processor, folder)
