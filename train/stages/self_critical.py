"""The stage `self_critical`: reinforcement learning with CIDEr-D, the evaluation metric, as the reward.

The baseline of a sampled caption's reward is the reward of the greedy caption ("Self-critical Sequence Training for
Image Captioning", Rennie et al. 2017), or the mean reward of the photo's other samples ("A Better Variant of
Self-Critical Sequence Training", Luo 2020). Adding a cross-entropy term keeps the captions close to the references
("Google's Neural Machine Translation System", Wu et al. 2016, eq. 9).
"""

import torch
from transformers.modeling_outputs import BaseModelOutput

from ..metrics import CiderReward
from .captions import Captions, model_inputs, word_losses

BASELINES = ("mean", "greedy")


class SelfCritical(Captions):
    def __init__(self, captioner, processor, settings, device):
        super().__init__(captioner, processor, settings, device)
        self.reward = CiderReward(self.datasets["train"].captions, settings.bleu_weight)

    def loss(self, model, batch):
        """Negative log-likelihood per word of the sampled captions, weighted by their advantage over the baseline.

        Also returns the mean reward, the mean number of words, and the entropy of the word distribution in nats, which
        approaches 0 if sampling collapses to a single caption.
        """
        model.eval()  # no dropout: the policy gradient needs the distribution that the captions are sampled from
        ids = self._generate(batch, do_sample=True, num_return_sequences=self.settings.sampled_captions)
        rewards = self._rewards(ids, batch)  # (photos, samples)
        if self.settings.baseline == "greedy":
            baseline = self._rewards(self._generate(batch, do_sample=False), batch)
        else:
            samples = rewards.shape[1]
            baseline = (rewards.sum(1, keepdim=True) - rewards) / (samples - 1)
        labels = ids[:, 1:].masked_fill(ids[:, 1:] == self.model.config.pad_token_id, -100)
        logits = model(**model_inputs(batch), labels=labels).logits
        mask = labels != -100
        advantages = (rewards - baseline).flatten()[:, None]
        log_probs = logits.detach()[mask].float().log_softmax(-1)  # (words, vocabulary)
        loss = (advantages * word_losses(logits, labels)).sum() / mask.sum()
        if self.settings.cross_entropy_weight:
            model.train()
            loss = loss + self.settings.cross_entropy_weight * model(**model_inputs(batch), labels=batch["labels"]).loss
        return {
            "loss": loss,
            "count": mask.sum(),
            "reward": rewards.mean(),
            "entropy": -(log_probs.exp() * log_probs).sum(-1).mean(),
            "words": mask.sum() / len(mask),
        }

    @torch.no_grad()
    def _generate(self, batch, **generation):
        """Generate captions by unrestricted sampling or greedy search. Returns ids (captions, words)."""
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
        """The reward of each generated caption given the photo's references, (photos, captions per photo)."""
        captions = self.processor.batch_decode(ids, skip_special_tokens=True)
        captions_per_photo = len(captions) // len(batch["captions"])
        references = [references for references in batch["captions"] for _ in range(captions_per_photo)]
        return torch.tensor(self.reward(captions, references), device=ids.device).float().view(-1, captions_per_photo)
