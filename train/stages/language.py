"""The stage `language`: the decoder learns to speak from captions without photos, before it learns to look."""

import torch
from torch.utils.data import DataLoader
from transformers.modeling_outputs import BaseModelOutput

from ..checkpoints import save_captioner
from ..data import MAX_WORDS, captioned_dataset, encode, padded, read_captions
from .captions import mean_loss, word_losses


class Language:
    def __init__(self, captioner, processor, settings, device):
        self.model, self.processor, self.settings = captioner, processor, settings
        sets = captioned_dataset(settings, photos=False)
        self.captions = {
            split: [text for texts in photos["captions"] for text in texts] for split, photos in sets.items()
        }
        if settings.captions_file:
            self.captions["train"] = read_captions(settings.captions_file)
        captioner.requires_grad_(False)
        for parameter in self._learnt(captioner):
            parameter.requires_grad_(True)

    @staticmethod
    def _learnt(model):
        """All of the decoder but the attention, which has nothing to look at."""
        named = model.decoder.named_parameters()
        return [parameter for name, parameter in named if not name.startswith("attention.")]

    def batches(self, split):
        return DataLoader(
            list(enumerate(self.captions[split])),
            self.settings.per_device_train_batch_size,
            shuffle=split == "train",
            collate_fn=self._collate,
        )

    def _collate(self, rows):
        numbers, captions = zip(*rows, strict=True)
        labels = padded(encode(self.processor.tokenizer, list(captions), MAX_WORDS))
        return {"number": torch.tensor(numbers), "caption": captions, "labels": labels}

    def parameters(self, model):
        return [{"params": self._learnt(model), "lr": self.settings.learning_rate}]

    def loss(self, model, batch):
        labels = batch["labels"]
        return {"loss": self._output(model, labels).loss, "count": (labels != -100).sum()}

    def _output(self, model, labels):
        """One empty region stands for the photo."""
        empty = torch.zeros(len(labels), 1, self.model.config.hidden_size, device=labels.device)
        return model(encoder_outputs=BaseModelOutput(empty), labels=labels)

    def names(self, batch):
        return [repr(caption) for caption in batch["caption"]]

    def judge(self, model, batch):
        labels = batch["labels"]
        losses = word_losses(self._output(model, labels).logits, labels).sum(1).tolist()
        words = (labels != -100).sum(1).tolist()
        rows = zip(batch["number"].tolist(), losses, words, strict=True)
        return {number: {"loss": loss, "words": count} for number, loss, count in rows}

    def score(self, model, judged):
        loss = mean_loss(judged)
        return {"validation_loss": loss, "score": -loss}

    def examples(self, model):
        return []  # it has not learnt to look

    def save(self, model, folder):
        save_captioner(model, self.processor, folder)
