"""The stage `language`: the decoder learns to speak from captions without photos, before it learns to look."""

from pathlib import Path

import torch
from torch.utils.data import DataLoader
from transformers.modeling_outputs import BaseModelOutput

from ..checkpoints import save_captioner
from ..data import captioned_dataset
from ..vocabulary import encode
from .captions import MAX_WORDS, collate


class Language:
    def __init__(self, captioner, processor, settings, device):
        self.model, self.processor, self.settings = captioner, processor, settings
        captions = {
            split: [text for texts in photos["captions"] for text in texts]
            for split, photos in captioned_dataset(settings).items()
        }
        if settings.captions_file:
            captions["train"] = read_captions(settings.captions_file)
        self.items = {
            split: [{"labels": [ids]} for ids in encode(processor.tokenizer, texts, MAX_WORDS)]
            for split, texts in captions.items()
        }

    def batches(self, split):
        size = self.settings.per_device_train_batch_size
        return DataLoader(self.items[split], size, shuffle=split == "train", collate_fn=collate)

    def parameters(self, model):
        """All of the decoder but the attention, which has nothing to look at."""
        decoder = [
            parameter for name, parameter in model.decoder.named_parameters() if not name.startswith("attention.")
        ]
        return [{"params": decoder, "lr": self.settings.learning_rate}]

    def loss(self, model, batch):
        """One empty region stands for the photo."""
        empty = torch.zeros(len(batch["labels"]), 1, self.model.config.hidden_size, device=batch["labels"].device)
        return model(encoder_outputs=BaseModelOutput(empty), **batch).loss

    @torch.inference_mode()
    def evaluate(self, model):
        losses = [
            self.loss(model, {"labels": batch["labels"].to(model.device)}).item()
            for batch in self.batches("validation")
        ]
        loss = sum(losses) / len(losses)
        return {"validation_loss": loss, "score": -loss}

    def save(self, model, folder):
        save_captioner(model, self.processor, folder)


def read_captions(file):
    """The lines of a text file, one caption each. Raises `ValueError` where there are none."""
    captions = [line for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]
    if not captions:
        raise ValueError(f"captions_file={file!r} is empty; it should have a caption a line.")
    return captions
