"""Logits processors of `generate`: `EchoLogitsProcessor`."""

import torch
from transformers import LogitsProcessor

from .repetition import echo_of


class EchoLogitsProcessor(LogitsProcessor):
    """Forbids what `echo_of` returns."""

    def __init__(self, conjunctions):
        self.conjunctions = conjunctions

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        for row, ids in zip(scores, input_ids.tolist(), strict=True):
            row[echo_of(ids, self.conjunctions)] = -torch.inf
        return scores
