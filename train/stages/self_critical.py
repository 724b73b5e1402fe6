"""The stage `self_critical`: reinforcement learning with CIDEr-D, the evaluation metric, as the reward.

The reward of a sampled caption is compared with the mean reward of the photo's other samples ("A Better Variant of
Self-Critical Sequence Training", Luo 2020, after Rennie et al. 2017). Adding a cross-entropy term keeps the captions
close to the references ("Google's Neural Machine Translation System", Wu et al. 2016, eq. 9).
"""

import random

import torch
from transformers.modeling_outputs import BaseModelOutput

from ..data import start_token
from ..metrics import CiderReward
from ..words import FUNCTION_WORDS, split_words
from .captions import Captions, caption_inputs, word_losses


class SelfCritical(Captions):
    def __init__(self, captioner, processor, settings, device):
        super().__init__(captioner, processor, settings, device)
        self.reward = CiderReward(self.datasets["train"].captions)

    def num_items(self, batch):
        """The number of photos: how many words will be sampled is not known yet."""
        return torch.tensor(len(batch["photo"]), device=batch["photo"].device)

    def loss(self, model, batch, num_items):
        """Negative log-likelihood per word of the sampled captions, weighted by their advantage over the mean reward of
        the photo's other samples. Each photo is captioned in one of the languages of its references, drawn at random.

        Also returns the mean reward, the mean number of words, the entropy of the word distribution in nats, which
        approaches 0 if sampling collapses to a single caption, and the fraction of samples that repeat a word.
        """
        model.eval()  # no dropout: the policy gradient needs the distribution that the captions are sampled from
        regions = self._regions(batch)
        languages = [random.choice(languages) for languages in batch["languages"]]
        ids = self._sample(regions.detach(), languages)
        captions = self.processor.batch_decode(ids, skip_special_tokens=True)
        repeated = torch.tensor(list(map(repeated_words, captions)), device=ids.device).view(len(regions), -1)
        rewards = self._rewards(captions, batch, languages).to(ids.device)  # (photos, samples)
        rewards = rewards - self.settings.repetition_penalty * repeated
        baseline = (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
        labels = ids[:, 1:].masked_fill(ids[:, 1:] == self.model.config.pad_token_id, -100)
        logits = model(encoder_outputs=BaseModelOutput(regions), labels=labels, decoder_input_ids=ids[:, :-1]).logits
        mask = labels != -100
        log_probs = logits.detach()[mask].float().log_softmax(-1)  # (words, vocabulary)
        loss = ((rewards - baseline).flatten()[:, None] * word_losses(logits, labels)).sum() / mask.sum()
        if self.settings.cross_entropy_weight:
            model.train()
            references = model(encoder_outputs=BaseModelOutput(regions), **caption_inputs(batch))
            loss = loss + self.settings.cross_entropy_weight * references.loss
        means = {
            "loss": loss,
            "reward": rewards.mean(),
            "entropy": -(log_probs.exp() * log_probs).sum(-1).mean(),
            "words": mask.sum() / len(mask),
            "repetitions": (repeated > 0).float().mean(),
        }
        return {name: mean * len(batch["photo"]) / num_items for name, mean in means.items()}

    def _regions(self, batch):
        """The projected regions (photos, regions, hidden) of a batch, encoded once for sampling and for all losses."""
        encoder = self.model.encoder
        if "region_features" in batch:
            return encoder.project(batch["region_features"])
        return encoder(batch["pixel_values"]).last_hidden_state

    @torch.no_grad()
    def _sample(self, regions, languages):
        """Sample captions from the unrestricted distribution of words. Returns ids (captions, words)."""
        starts = [start_token(self.processor.tokenizer, language) for language in languages]
        return self.model.generate(
            encoder_outputs=BaseModelOutput(regions),
            decoder_input_ids=torch.tensor(starts, device=regions.device)[:, None],
            do_sample=True,
            num_return_sequences=self.settings.sampled_captions,
            num_beams=1,
            no_repeat_ngram_size=0,
            conjunction_token_ids=[],
            top_k=0,
            max_new_tokens=self.settings.max_new_tokens,
        )

    def _rewards(self, captions, batch, languages):
        """The CIDEr-D of each sampled caption against the photo's references in its language, (photos, samples)."""
        references = [
            [text for text, own in zip(texts, owners, strict=True) if own == language]
            for texts, owners, language in zip(batch["captions"], batch["languages"], languages, strict=True)
        ]
        samples = len(captions) // len(references)
        rewards = self.reward(captions, [texts for texts in references for _ in range(samples)])
        return torch.tensor(rewards).float().view(-1, samples)


def repeated_words(caption):
    """How many words of a caption repeat an earlier one, apart from function words.

    CIDEr-D pays for echoes such as "a black and black jacket", which people do not write.
    """
    words = [word for word in split_words(caption) if word not in FUNCTION_WORDS]
    return len(words) - len(set(words))
