"""The word probe: a linear probe of an encoder's features that needs no decoder.

For each caption word of medium frequency, a ridge regression on the photo's mean region predicts whether any caption of
the photo contains the word. The result is the cross-validated area under the ROC curve.
"""

from collections import Counter

import torch

from .words import split_words

WORDS = 120
FOLDS = 5
SKIPPED = 30  # the most frequent words occur in captions of almost every photo
RIDGE = 0.3  # regularisation strength, in units of the features' mean variance times the number of photos


def word_probe(features, captions):
    """Cross-validated AUC, averaged over words.

    Args:
        features: mean region of each photo, (photos, channels), float.
        captions: list of captions of each photo.
    """
    photo_words = [set(split_words(" ".join(texts))) for texts in captions]
    counts = Counter(word for words in photo_words for word in words)
    candidates = [word for word, count in counts.most_common() if count < len(photo_words)]
    skipped = min(SKIPPED, len(candidates) // 4)
    words = candidates[skipped : skipped + WORDS]
    targets = torch.tensor([[word in present for word in words] for present in photo_words], dtype=torch.float64)
    features = features.double()
    features = (features - features.mean(0)) / features.std()
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    scores = torch.zeros_like(targets)
    for fold in order.chunk(FOLDS):
        train = torch.ones(len(features), dtype=torch.bool)
        train[fold] = False
        inputs, centred = features[train], targets[train] - targets[train].mean(0)
        ridge = RIDGE * inputs.var(0).mean() * len(inputs)
        gram = inputs.T @ inputs + ridge * torch.eye(inputs.shape[1], dtype=torch.float64)
        scores[fold] = features[fold] @ torch.linalg.solve(gram, inputs.T @ centred)
        scores[fold] -= scores[fold].mean(0)
    return torch.stack([_auc(scores[:, word], targets[:, word]) for word in range(len(words))]).mean().item()


def _auc(scores, targets):
    """Fraction of (positive, negative) pairs that the scores rank correctly (Mann & Whitney 1947)."""
    ranks = scores.argsort().argsort().double() + 1
    positive = targets.sum()
    return (ranks[targets > 0].sum() - positive * (positive + 1) / 2) / (positive * (len(targets) - positive))
