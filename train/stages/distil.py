"""The stage `distil`: the encoder learns to see as a timm teacher sees, on photos without captions.

After "Knowledge distillation: A good teacher is patient and consistent" (Beyer et al. 2022): student and teacher get
the same crop, crops are strong, photos are mixed, and the schedule is long. With `distil_block` the last feature map
learns to keep what the map of an earlier, frozen block knows, and the teacher gives its classes alone.
"""

import random

import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms import v2

from ..checkpoints import save_captioner
from ..data import captioned_dataset, names_of, photo_of, unlabelled_photos
from ..encoders import trainable_from
from ..probe import word_probe

TEMPERATURE = 2.0  # of the class distributions (Hinton et al. 2015)
CROP_SCALE = (0.25, 1.0)  # share of the photo's area
VALIDATION_PHOTOS = 500


class Crops(TorchDataset):
    """Random crops, the same again for the same seed, epoch and photo; or, for validation, whole photos."""

    def __init__(self, photos, size, seed=None):
        self.photos, self.size, self.seed, self.epoch = photos, size, seed, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(self.photos)

    def __getitem__(self, index):
        photo = photo_of(self.photos[index])
        if self.seed is not None:
            photo = self._crop(photo, random.Random(f"{self.seed} {self.epoch} {index}"))
        return index, v2.functional.pil_to_tensor(photo.resize((self.size, self.size)))  # (3, size, size), uint8

    @staticmethod
    def _crop(photo, chance):
        width, height = photo.size
        share, shape = chance.uniform(*CROP_SCALE) ** 0.5, chance.uniform(3 / 4, 4 / 3) ** 0.5
        crop_width, crop_height = min(width, width * share * shape), min(height, height * share / shape)
        left, top = chance.uniform(0, width - crop_width), chance.uniform(0, height - crop_height)
        photo = photo.crop((round(left), round(top), round(left + crop_width), round(top + crop_height)))
        return photo.transpose(0) if chance.random() < 0.5 else photo  # mirrored: no caption says left or right here


class Distiller(nn.Module):
    """The student encoder, with linear heads to what it should predict; they are discarded after training.

    Args:
        encoder: a `CaptionerEncoder`.
        channels: the teacher's.
        block: name of a frozen block of the encoder whose map is to be predicted as well, or None.
    """

    def __init__(self, encoder, channels, block=None):
        super().__init__()
        self.encoder, self.block = encoder, block
        self.to_teacher = nn.Linear(encoder.backbone.num_features, channels)
        if block:
            getattr(encoder.backbone, block).register_forward_hook(self._keep_map)
            size = encoder.backbone.default_cfg["input_size"]
            with torch.no_grad():
                encoder.eval().features(torch.zeros(1, *size, device=next(encoder.parameters()).device))
            self.to_block = nn.Linear(encoder.backbone.num_features, self.block_map.shape[1])

    def _keep_map(self, block, inputs, output):
        self.block_map = output.detach()  # (batch, channels, side, side)

    def forward(self, pixel_values):
        """The last feature map's regions, (batch, regions, channels)."""
        return self.encoder.features(pixel_values)


def check_block(encoder, block):
    """Raises `ValueError` for a block that the encoder lacks or that is trained: its map has to stay as it is."""
    if block and block not in encoder.frozen_blocks:
        frozen = ", ".join(encoder.frozen_blocks) or "none"
        raise ValueError(f"distil_block={block!r} is not a frozen block of the encoder: {frozen}.")


class Distil:
    def __init__(self, captioner, processor, settings, device):
        self.captioner, self.processor, self.settings = captioner, processor, settings
        self.teacher = load_teacher(settings.teacher_name, settings.teacher_weights).to(device)
        self.teacher_data = timm.data.resolve_model_data_config(self.teacher)
        self.size = settings.distil_image_size or settings.image_size
        trainable_from(captioner.encoder, settings.encoder_trainable_from, settings.freeze_batch_norm)
        check_block(captioner.encoder, settings.distil_block)
        captioner.encoder.norm.requires_grad_(False)
        captioner.encoder.projection.requires_grad_(False)
        self.model = Distiller(captioner.encoder.to(device), self.teacher.num_features, settings.distil_block)
        photos = unlabelled_photos(settings).shuffle(seed=settings.seed)
        held_out = min(VALIDATION_PHOTOS, len(photos) // 10)
        photos, self.validation = photos.select(range(held_out, len(photos))), photos.select(range(held_out))
        self.photos = photos.select(range(min(len(photos), settings.max_train_samples or len(photos))))
        self.probed = None
        if settings.data_dir or settings.dataset_name:
            self.probed = captioned_dataset(settings, ["validation"])["validation"]

    def batches(self, split):
        size = max(self.size, self.teacher_data["input_size"][-1])
        photos, seed = (self.photos, self.settings.seed) if split == "train" else (self.validation, None)
        return DataLoader(
            Crops(photos, size, seed),
            self.settings.per_device_train_batch_size,
            shuffle=split == "train",
            drop_last=split == "train",
            num_workers=self.settings.dataloader_num_workers,
        )

    def parameters(self, model):
        encoder = [parameter for parameter in model.encoder.backbone.parameters() if parameter.requires_grad]
        return [
            {"params": encoder, "lr": self.settings.encoder_learning_rate},
            {
                "params": [value for name, value in model.named_parameters() if name.startswith("to_")],
                "lr": self.settings.learning_rate,
            },
        ]

    def loss(self, model, batch):
        photos = batch[1].float() / 255
        if self.settings.mixup_alpha:
            share = random.betavariate(self.settings.mixup_alpha, self.settings.mixup_alpha)
            photos = share * photos + (1 - share) * photos.flip(0)
        return {"loss": self._distance(model, photos), "count": torch.tensor(len(photos), device=photos.device)}

    def names(self, batch):
        names = names_of(self.photos)
        return [names[number] for number in batch[0].tolist()]

    def _distance(self, model, photos):
        """How far the student is from the teacher, and from its own earlier block, for the same pixels.

        Args:
            photos: (batch, 3, size, size), float in [0, 1].
        """
        with torch.no_grad():
            maps = self.teacher.forward_features(pixels_for(photos, self.teacher_data))
            classes = self.teacher.forward_head(maps)
        student_data = {
            "input_size": (3, self.size, self.size),
            "mean": self.processor.image_processor.image_mean,
            "std": self.processor.image_processor.image_std,
        }
        regions = model(pixels_for(photos, student_data))  # (batch, regions, channels)
        pooled = model.to_teacher(regions.mean(1))
        predicted = self.teacher.get_classifier()(pooled)
        distance = TEMPERATURE**2 * F.kl_div(
            (predicted / TEMPERATURE).log_softmax(-1),
            (classes / TEMPERATURE).log_softmax(-1),
            log_target=True,
            reduction="batchmean",
        )
        if model.block:
            return distance + map_distance(model.to_block(regions), model.block_map)
        target_pooled = maps.mean((2, 3))
        spread = target_pooled.var(dim=0) + 1e-4
        distance = distance + ((pooled - target_pooled) ** 2 / spread).mean()
        return distance + map_distance(model.to_teacher(regions), maps)

    def judge(self, model, batch):
        distance = self._distance(model, batch[1].float() / 255).item()
        return dict.fromkeys(batch[0].tolist(), distance)

    def score(self, model, judged):
        numbers = {"validation_loss": sum(judged.values()) / len(judged)}
        if self.probed:
            numbers["word_probe_auc"] = self._probe(model.encoder, next(model.parameters()).device)
        return numbers | {"score": numbers.get("word_probe_auc", -numbers["validation_loss"])}

    def examples(self, model):
        return []  # it has no words for what it sees

    @torch.inference_mode()
    def _probe(self, encoder, device):
        means = []
        for start in range(0, len(self.probed), self.settings.per_device_eval_batch_size):
            rows = self.probed.select(
                range(start, min(len(self.probed), start + self.settings.per_device_eval_batch_size))
            )
            pixels = self.processor(images=[photo_of(row) for row in rows], return_tensors="pt").pixel_values
            means.append(encoder.features(pixels.to(device)).mean(1).cpu())
        return word_probe(torch.cat(means), self.probed["captions"])

    def save(self, model, folder):
        tensors = {f"encoder.{name}": value for name, value in model.encoder.state_dict().items()}
        save_captioner(self.captioner, self.processor, folder, self.captioner.state_dict() | tensors)


def map_distance(predicted, maps):
    """Mean squared error in units of each channel's variance, so that every channel counts alike.

    Args:
        predicted: (batch, regions, channels), of a square of regions.
        maps: (batch, channels, side, side), resized to that square.
    """
    side = round(predicted.shape[1] ** 0.5)
    target = F.interpolate(maps.float(), (side, side), mode="bilinear").flatten(2).transpose(1, 2)
    return ((predicted - target) ** 2 / (target.var(dim=(0, 1)) + 1e-3)).mean()


def pixels_for(photos, data):
    """Photos (batch, 3, size, size) in [0, 1], resized and normalised as a network wants them."""
    if photos.shape[-2:] != data["input_size"][-2:]:
        photos = F.interpolate(photos, data["input_size"][-2:], mode="bilinear", antialias=True)
    photos = v2.functional.normalize(photos, list(data["mean"]), list(data["std"]))
    return photos.contiguous(memory_format=torch.channels_last)


def load_teacher(name, weights):
    """A timm network in evaluation mode, its parameters fixed.

    Args:
        weights: a file whose tensors have timm's names, or other names in timm's order (as ports of TensorFlow's
            EfficientNets have); without it timm fetches the pretrained weights from the Hub.
    """
    teacher = timm.create_model(name, pretrained=weights is None)
    if weights:
        tensors = timm.models.load_state_dict(weights)  # safetensors, or a .pth read without its code
        own = teacher.state_dict()
        if tensors.keys() != own.keys():
            kept = [value for key, value in tensors.items() if not key.endswith("num_batches_tracked")]
            wanted = [key for key in own if not key.endswith("num_batches_tracked")]
            if [value.shape for value in kept] != [own[key].shape for key in wanted]:
                raise ValueError(f"teacher_weights={weights!r} are not weights of {name}.")
            tensors = dict(zip(wanted, kept, strict=True))
        teacher.load_state_dict(tensors, strict=False)
    return teacher.eval().requires_grad_(False)
