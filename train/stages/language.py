"""The stage `language`: pretrains the decoder as a language model, on captions without photos."""

import torch
from torch.utils.data import DataLoader
from transformers.modeling_outputs import BaseModelOutput

from ..checkpoints import save_captioner
from ..data import EpochSampler, captioned_datasets, captions_of, collate_captions, read_captions
from .captions import mean_loss, word_losses


class Language:
    def __init__(self, captioner, processor, settings, device):
        self.model, self.processor, self.settings = captioner, processor, settings
        sets = captioned_datasets(settings, photos=False, languages=captioner.config.languages)
        self.captions = {
            split: [pair for splits in sets.values() if split in splits for pair in captions_of(splits[split])]
            for split in ("train", "validation")
        }
        if settings.captions_file:
            self.captions["train"] = read_captions(settings.captions_file, captioner.config.languages)
        captioner.requires_grad_(False)
        for parameter in self._trained_parameters(captioner):
            parameter.requires_grad_(True)

    @staticmethod
    def _trained_parameters(model):
        """The decoder's parameters except the attention's, which has nothing to attend to."""
        named = model.decoder.named_parameters()
        return [parameter for name, parameter in named if not name.startswith("attention.")]

    def dataloader(self, split):
        rows = list(enumerate(self.captions[split]))
        return DataLoader(
            rows,
            self.settings.per_device_train_batch_size,
            sampler=EpochSampler(rows, self.settings.seed) if split == "train" else None,
            collate_fn=self._collate,
        )

    def _collate(self, rows):
        numbers, captions = zip(*rows, strict=True)
        batch = {"number": torch.tensor(numbers), "caption": [text for _, text in captions]}
        return batch | collate_captions(self.processor.tokenizer, captions)

    def parameter_groups(self, model):
        return [{"params": self._trained_parameters(model), "lr": self.settings.learning_rate}]

    def num_items(self, batch):
        return (batch["labels"] != -100).sum()

    def loss(self, model, batch, num_items):
        return {"loss": self._forward(model, batch, num_items_in_batch=num_items).loss}

    def _forward(self, model, batch, **options):
        """Run the model with a single region of zeros in place of a photo."""
        captions = {name: batch[name] for name in ("labels", "decoder_input_ids")}
        regions = torch.zeros(len(batch["labels"]), 1, self.model.config.hidden_size, device=batch["labels"].device)
        return model(encoder_outputs=BaseModelOutput(regions), **captions, **options)

    def sample_names(self, batch):
        return [repr(caption) for caption in batch["caption"]]

    def validation_step(self, model, batch):
        labels = batch["labels"]
        losses = word_losses(self._forward(model, batch).logits, labels).sum(1).tolist()
        words = (labels != -100).sum(1).tolist()
        rows = zip(batch["number"].tolist(), losses, words, strict=True)
        return {number: {"loss": loss, "words": count} for number, loss, count in rows}

    def compute_metrics(self, model, results):
        loss = mean_loss(results.values())
        return {"validation_loss": loss, "score": -loss}

    def examples(self, model):
        return []  # the attention is untrained

    def save(self, model, folder):
        save_captioner(model, self.processor, folder)
