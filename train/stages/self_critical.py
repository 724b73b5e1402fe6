"""The stage `self_critical`: the captioner is rewarded for whole captions by CIDEr-D, the metric it is judged by.

"Self-critical Sequence Training" (Rennie et al. 2017) compares each sampled caption with the greedy one; "A Better
Variant of Self-Critical Sequence Training" (Luo 2020) with the mean of the photo's other samples. A share of
cross-entropy keeps the captions close to the references', as "Google's Neural Machine Translation System" (Wu et al.
2016, eq. 9) mixes them.
"""

import torch
from transformers.modeling_outputs import BaseModelOutput

from ..metrics import CiderReward
from .captions import Captions, model_inputs, word_losses

BASELINES = ("mean", "greedy")


class SelfCritical(Captions):
    def __init__(self, captioner, processor, settings, device):
        if settings.baseline not in BASELINES:
            raise ValueError(f"baseline={settings.baseline!r} is unknown; choose one of {', '.join(BASELINES)}.")
        super().__init__(captioner, processor, settings, device)
        self.reward = CiderReward(self.sets["train"].captions, settings.bleu_weight)

    def loss(self, model, batch):
        """The sampled captions' negative log-probability a word, weighted by their reward above the baseline.

        Beside it, to be watched: the samples' mean reward, and the entropy of the words' distribution in nats, which
        falls to nought where the captioner has only one thing left to say.
        """
        model.eval()  # what is judged is what is said: no dropout
        ids = self._say(batch, do_sample=True, num_return_sequences=self.settings.sampled_captions)
        rewards = self._rewards(ids, batch)  # (photos, samples)
        if self.settings.baseline == "greedy":
            baseline = self._rewards(self._say(batch, do_sample=False), batch)
        else:
            samples = rewards.shape[1]
            baseline = (rewards.sum(1, keepdim=True) - rewards) / (samples - 1)
        labels = ids[:, 1:].masked_fill(ids[:, 1:] == self.model.config.pad_token_id, -100)
        logits = model(**model_inputs(batch), labels=labels).logits
        said = labels != -100
        advantages = (rewards - baseline).flatten()[:, None]
        chosen = logits.detach()[said].float().log_softmax(-1)  # (words, vocabulary)
        loss = (advantages * word_losses(logits, labels)).sum() / said.sum()
        if self.settings.cross_entropy_weight:
            model.train()
            loss = loss + self.settings.cross_entropy_weight * model(**model_inputs(batch), labels=batch["labels"]).loss
        return {
            "loss": loss,
            "count": said.sum(),
            "reward": rewards.mean(),
            "entropy": -(chosen.exp() * chosen).sum(-1).mean(),
            "words": said.sum() / len(said),
        }

    @torch.no_grad()
    def _say(self, batch, **generation):
        """Captions of the batch's photos, (captions, words), by plain sampling or greedy choice."""
        captioner = self.model
        if "region_features" in batch:
            regions = BaseModelOutput(captioner.encoder.project(batch["region_features"]))
        else:
            regions = captioner.encoder(batch["pixel_values"])
        return captioner.generate(
            encoder_outputs=regions,
            num_beams=1,
            no_repeat_ngram_size=0,
            top_k=0,
            max_new_tokens=self.settings.max_new_tokens,
            **generation,
        )

    def _rewards(self, ids, batch):
        """CIDEr-D of each caption against those of people, (photos, captions a photo)."""
        captions = self.processor.batch_decode(ids, skip_special_tokens=True)
        each = len(captions) // len(batch["captions"])
        references = [people for people in batch["captions"] for _ in range(each)]
        return torch.tensor(self.reward(captions, references), device=ids.device).float().view(-1, each)
