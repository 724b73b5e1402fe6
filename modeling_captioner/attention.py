"""Attention of words over the regions of a photo, of three kinds: `ATTENTIONS`."""

import math

from torch import nn


class DotAttention(nn.Module):
    """Scaled dot-product attention of words over regions (Luong et al. 2015, eq. 8; Vaswani et al. 2017, eq. 1).

    Shapes, here and below: `states` (batch, words, hidden), `regions` (batch, regions, hidden). Returns the context
    (batch, words, hidden) and the weights (batch, heads, words, regions), which sum to 1 over the regions. Words
    attend independently of each other, so all captions of a photo can be passed as one sequence.
    """

    def __init__(self, config):
        super().__init__()
        self.query = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, states, regions):
        scores = self.query(states) @ regions.transpose(1, 2) / math.sqrt(regions.shape[-1])  # (batch, words, regions)
        weights = scores.softmax(dim=-1)
        return weights @ regions, weights.unsqueeze(1)


class AdditiveAttention(nn.Module):
    """Additive attention, scored by a small network (Bahdanau et al. 2015, appendix A.1.2; Xu et al. 2015)."""

    def __init__(self, config):
        super().__init__()
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.score = nn.Linear(config.hidden_size, 1, bias=False)

    def forward(self, states, regions):
        pairs = self.query(states).unsqueeze(2) + regions.unsqueeze(1)  # (batch, words, regions, hidden)
        weights = self.score(pairs.tanh()).squeeze(-1).softmax(dim=-1)  # (batch, words, regions)
        return weights @ regions, weights.unsqueeze(1)


class MultiHeadAttention(nn.Module):
    """Multi-head dot-product attention (Vaswani et al. 2017, section 3.2.2).

    The encoder projects the regions once per photo, so that a generation step only projects the query.
    """

    def __init__(self, config):
        super().__init__()
        self.heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, states, regions):
        query, keys = self._split_heads(self.query(states)), self._split_heads(regions)  # (batch, heads, ..., head_dim)
        weights = (query @ keys.transpose(2, 3) / math.sqrt(keys.shape[-1])).softmax(dim=-1)
        return self.output((weights @ keys).transpose(1, 2).flatten(2)), weights

    def _split_heads(self, vectors):
        return vectors.unflatten(-1, (self.heads, -1)).transpose(1, 2)


ATTENTIONS = {"dot": DotAttention, "additive": AdditiveAttention, "multi_head": MultiHeadAttention}
