"""How much an encoder knows, before any decoder is trained: the word probe.

For each of the caption words of middle frequency, a ridge regression predicts from the photo's mean region whether
anybody used the word; what counts is the area under the ROC curve on photos that the regression has not seen.
"""

import re
from collections import Counter

import torch

WORDS = 120
FOLDS = 5
SKIPPED = 30  # the most frequent words are said of nearly every photo
RIDGE = 0.3  # of the features' mean variance, times the number of photos


def word_probe(features, captions):
    """Mean AUC over words and folds.

    Args:
        features: mean region of each photo, (photos, channels), float.
        captions: for each photo its captions.
    """
    said = [set(re.findall(r"[a-z]+", " ".join(texts).lower())) for texts in captions]
    counts = Counter(word for words in said for word in words)
    telling = [(word, count) for word, count in counts.most_common() if count < len(said)]
    skipped = min(SKIPPED, len(telling) // 4)
    words = [word for word, _ in telling[skipped : skipped + WORDS]]
    targets = torch.tensor([[word in words_of for word in words] for words_of in said], dtype=torch.float64)
    features = features.double()
    features = (features - features.mean(0)) / features.std()
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    scores = torch.zeros_like(targets)
    for fold in order.chunk(FOLDS):
        rest = torch.ones(len(features), dtype=torch.bool)
        rest[fold] = False
        inputs, wanted = features[rest], targets[rest] - targets[rest].mean(0)
        ridge = RIDGE * inputs.var(0).mean() * len(inputs)
        gram = inputs.T @ inputs + ridge * torch.eye(inputs.shape[1], dtype=torch.float64)
        scores[fold] = features[fold] @ torch.linalg.solve(gram, inputs.T @ wanted)
        scores[fold] -= scores[fold].mean(0)
    return torch.stack([_auc(scores[:, word], targets[:, word]) for word in range(len(words))]).mean().item()


def _auc(scores, targets):
    """Share of (photo with the word, photo without it) pairs that the scores put in order (Mann & Whitney 1947)."""
    ranks = scores.argsort().argsort().double() + 1
    positive = targets.sum()
    return (ranks[targets > 0].sum() - positive * (positive + 1) / 2) / (positive * (len(targets) - positive))
