"""The stage `distil`: knowledge distillation of a timm teacher into the encoder, on photos without captions.

Follows "Knowledge distillation: A good teacher is patient and consistent" (Beyer et al. 2022): student and teacher see
the same crop, with aggressive cropping, mixup and a long schedule. With `distil_block`, the last feature map learns to
predict the map of an earlier, frozen block, and only the class distribution comes from the teacher.
"""

import math
import random

import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms import v2

from ..checkpoints import save_captioner
from ..data import EpochSampler, captioned_dataset, names_of, photo_of, pixel_values, sources, unlabeled_photos
from ..encoders import trainable_from
from ..probe import word_probe

TEMPERATURE = 2.0  # of the class distributions (Hinton et al. 2015)
CROP_SCALE = (0.25, 1.0)  # fraction of the photo's area
VALIDATION_PHOTOS = 500


class Crops(TorchDataset):
    """Random crops, determined by seed, epoch and photo; whole photos if `seed` is None, for validation."""

    def __init__(self, photos, size, seed=None):
        self.photos, self.size, self.seed, self.epoch = photos, size, seed, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(self.photos)

    def __getitem__(self, index):
        # Small crops are of a quarter of the area, and up to a third wider than high.
        side = self.size if self.seed is None else math.ceil(self.size / (CROP_SCALE[0] * 3 / 4) ** 0.5)
        photo = photo_of(self.photos[index], side)
        if self.seed is not None:
            photo = self._crop(photo, random.Random(f"{self.seed} {self.epoch} {index}"))
        return index, v2.functional.pil_to_tensor(photo.resize((self.size, self.size)))  # (3, size, size), uint8

    @staticmethod
    def _crop(photo, rng):
        width, height = photo.size
        scale, ratio = rng.uniform(*CROP_SCALE) ** 0.5, rng.uniform(3 / 4, 4 / 3) ** 0.5
        crop_width, crop_height = min(width, width * scale * ratio), min(height, height * scale / ratio)
        left, top = rng.uniform(0, width - crop_width), rng.uniform(0, height - crop_height)
        photo = photo.crop((round(left), round(top), round(left + crop_width), round(top + crop_height)))
        return photo.transpose(0) if rng.random() < 0.5 else photo  # mirrored: no caption here says left or right


class Distiller(nn.Module):
    """The student encoder with linear prediction heads, which are discarded after training.

    Args:
        encoder: a `CaptionerEncoder`.
        channels: number of channels of the teacher's feature map.
        block: name of a frozen block of the encoder whose map is also predicted, or None.
    """

    def __init__(self, encoder, channels, block=None):
        super().__init__()
        self.encoder, self.block, self.block_maps = encoder, block, []
        self.to_teacher = nn.Linear(encoder.backbone.num_features, channels)
        if block:
            getattr(encoder.backbone, block).register_forward_hook(self._store_map)
            size = encoder.backbone.default_cfg["input_size"]
            with torch.no_grad():
                encoder.eval().features(torch.zeros(1, *size, device=next(encoder.parameters()).device))
            self.to_block = nn.Linear(encoder.backbone.num_features, self.block_map.shape[1])

    def _store_map(self, block, inputs, output):
        self.block_maps.append(output.detach())  # (photos, channels, side, side)

    @property
    def block_map(self):
        """The block's map of the last batch, which the encoder may have processed in parts."""
        return torch.cat(self.block_maps)

    def forward(self, pixel_values):
        """Regions of the last feature map, (batch, regions, channels)."""
        self.block_maps = []
        return self.encoder.features(pixel_values)


def check_block(encoder, block):
    """Raises `ValueError` unless `block` is a frozen block of the encoder: the target map must not change."""
    if block and block not in encoder.frozen_blocks:
        frozen = ", ".join(encoder.frozen_blocks) or "none"
        raise ValueError(f"distil_block={block!r} is not a frozen block of the encoder; the frozen blocks: {frozen}.")


class Distil:
    def __init__(self, captioner, processor, settings, device):
        self.captioner, self.processor, self.settings = captioner, processor, settings
        self.teacher = load_teacher(settings.teacher_name, settings.teacher_weights).to(device)
        self.teacher_data_config = timm.data.resolve_model_data_config(self.teacher)
        self.size = settings.image_size
        trainable_from(captioner, settings.encoder_trainable_from, settings.freeze_batch_norm)
        check_block(captioner.encoder, settings.distil_block)
        captioner.encoder.norm.requires_grad_(False)
        captioner.encoder.projection.requires_grad_(False)
        self.model = Distiller(captioner.encoder.to(device), self.teacher.num_features, settings.distil_block)
        photos = unlabeled_photos(settings).shuffle(seed=settings.seed)
        held_out = min(VALIDATION_PHOTOS, len(photos) // 10)
        photos, self.validation_photos = photos.select(range(held_out, len(photos))), photos.select(range(held_out))
        self.photos = photos.select(range(min(len(photos), settings.max_train_samples or len(photos))))
        self.probe_photos = None
        if settings.data_dir or settings.dataset_name:
            first = sources(settings)[0]
            self.probe_photos = captioned_dataset(first, settings, ["validation"])["validation"]

    def dataloader(self, split):
        size = max(self.size, self.teacher_data_config["input_size"][-1])
        photos, seed = (self.photos, self.settings.seed) if split == "train" else (self.validation_photos, None)
        crops = Crops(photos, size, seed)
        return DataLoader(
            crops,
            self.settings.per_device_train_batch_size,
            sampler=EpochSampler(crops, self.settings.seed) if split == "train" else None,
            drop_last=split == "train",
            num_workers=self.settings.dataloader_num_workers,
        )

    def parameter_groups(self, model):
        encoder = [parameter for parameter in model.encoder.backbone.parameters() if parameter.requires_grad]
        return [
            {"params": encoder, "lr": self.settings.encoder_learning_rate},
            {
                "params": [value for name, value in model.named_parameters() if name.startswith("to_")],
                "lr": self.settings.learning_rate,
            },
        ]

    def num_items(self, batch):
        return torch.tensor(len(batch[0]), device=batch[1].device)

    def loss(self, model, batch, num_items):
        photos = batch[1].float() / 255
        if self.settings.mixup_alpha:
            lam = random.betavariate(self.settings.mixup_alpha, self.settings.mixup_alpha)
            photos = lam * photos + (1 - lam) * photos.flip(0)
        return {"loss": self._distil_loss(model, photos) * len(photos) / num_items}

    def sample_names(self, batch):
        names = names_of(self.photos)
        return [names[index] for index in batch[0].tolist()]

    def _distil_loss(self, model, photos):
        """Divergence from the teacher's classes, plus the distance from the target feature map.

        Args:
            photos: (batch, 3, size, size), float in [0, 1].
        """
        with torch.no_grad():
            maps = self.teacher.forward_features(preprocess(photos, self.teacher_data_config))
            teacher_logits = self.teacher.forward_head(maps)
        student_data_config = {
            "input_size": (3, self.size, self.size),
            "mean": self.processor.image_processor.image_mean,
            "std": self.processor.image_processor.image_std,
        }
        regions = model(preprocess(photos, student_data_config))  # (batch, regions, channels)
        pooled = model.to_teacher(regions.mean(1))
        student_logits = self.teacher.get_classifier()(pooled)
        loss = TEMPERATURE**2 * F.kl_div(
            (student_logits / TEMPERATURE).log_softmax(-1),
            (teacher_logits / TEMPERATURE).log_softmax(-1),
            log_target=True,
            reduction="batchmean",
        )
        if model.block:
            return loss + map_distance(model.to_block(regions), model.block_map)
        target_pooled = maps.mean((2, 3))
        variance = target_pooled.var(dim=0) + 1e-4
        loss = loss + ((pooled - target_pooled) ** 2 / variance).mean()
        return loss + map_distance(model.to_teacher(regions), maps)

    def validation_step(self, model, batch):
        loss = self._distil_loss(model, batch[1].float() / 255).item()
        return dict.fromkeys(batch[0].tolist(), loss)

    def compute_metrics(self, model, results):
        metrics = {"validation_loss": sum(results.values()) / len(results)}
        if self.probe_photos:
            metrics["word_probe_auc"] = self._probe(model.encoder, next(model.parameters()).device)
        return metrics | {"score": metrics.get("word_probe_auc", -metrics["validation_loss"])}

    def examples(self, model):
        return []  # this stage does not train a decoder

    @torch.inference_mode()
    def _probe(self, encoder, device):
        photos, batch_size = self.probe_photos, self.settings.per_device_eval_batch_size
        features = []
        for start in range(0, len(photos), batch_size):
            rows = photos.select(range(start, min(len(photos), start + batch_size)))
            features.append(encoder.features(pixel_values(self.processor, rows).to(device)).mean(1).cpu())
        return word_probe(torch.cat(features), photos["captions"])

    def save(self, model, folder):
        tensors = {f"encoder.{name}": value for name, value in model.encoder.state_dict().items()}
        save_captioner(self.captioner, self.processor, folder, self.captioner.state_dict() | tensors)


def map_distance(predicted, maps):
    """Mean squared error divided by each channel's variance, so that all channels have equal weight.

    Args:
        predicted: (batch, regions, channels), where the regions form a square.
        maps: (batch, channels, side, side), resized to that square.
    """
    side = round(predicted.shape[1] ** 0.5)
    target = F.interpolate(maps.float(), (side, side), mode="bilinear").flatten(2).transpose(1, 2)
    return ((predicted - target) ** 2 / (target.var(dim=(0, 1)) + 1e-3)).mean()


def preprocess(photos, data_config):
    """Resize and normalize photos (batch, 3, size, size) in [0, 1] according to a timm data configuration."""
    if photos.shape[-2:] != data_config["input_size"][-2:]:
        photos = F.interpolate(photos, data_config["input_size"][-2:], mode="bilinear", antialias=True)
    photos = v2.functional.normalize(photos, list(data_config["mean"]), list(data_config["std"]))
    return photos.contiguous(memory_format=torch.channels_last)


def load_teacher(name, weights):
    """A timm model in evaluation mode with frozen parameters.

    Args:
        weights: file whose tensors have timm's names, or different names but timm's order (as in ports of TensorFlow's
            EfficientNets). Default: timm's pretrained weights, downloaded from the Hub.
    """
    teacher = timm.create_model(name, pretrained=weights is None)
    if weights:
        tensors = timm.models.load_state_dict(weights)  # safetensors, or .pth with weights_only=True
        expected = teacher.state_dict()
        if tensors.keys() != expected.keys():
            values = [value for key, value in tensors.items() if not key.endswith("num_batches_tracked")]
            keys = [key for key in expected if not key.endswith("num_batches_tracked")]
            if [value.shape for value in values] != [expected[key].shape for key in keys]:
                raise ValueError(f"teacher_weights={weights!r} are not weights of {name}; give a file that fits it.")
            tensors = dict(zip(keys, values, strict=True))
        teacher.load_state_dict(tensors, strict=False)
    return teacher.eval().requires_grad_(False)
