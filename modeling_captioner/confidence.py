"""How sure a captioner is of a caption, without PyTorch: `confidence_of`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

INTERCEPT = "intercept"
FEATURES = ("total", "lowest", "length")


def caption_features(log_probabilities: Sequence[float]) -> dict[str, float]:
    """What the confidence depends on: {name: value} for each of `FEATURES`.

    On validation photos, the entropies of the words' distributions and how the beams differ told nothing beyond these.

    Args:
        log_probabilities: the natural log-probability of each word of a caption and of its end.
    """
    values = sum(log_probabilities), min(log_probabilities), len(log_probabilities)
    return dict(zip(FEATURES, values, strict=True))


def confidence_of(
    log_probabilities: Sequence[float], numbers: Mapping[str, Any] | None, language: str | None = None
) -> float | None:
    """The probability that every content word of a caption stands in one of the photo's references.

    Args:
        log_probabilities: the natural log-probability of each word of the caption and of its end.
        numbers: `CaptionerConfig.confidence`, a logistic regression: the intercept, the weight of each feature, and
            under `languages` those of languages that have numbers of their own.
        language: that of the caption.

    Returns a number from 0 to 1, or None without `numbers`.
    """
    if not numbers:
        return None
    numbers = numbers.get("languages", {}).get(language, numbers)
    features = caption_features(log_probabilities)
    logit = numbers[INTERCEPT] + sum(numbers[name] * value for name, value in features.items())
    return 1 / (1 + math.exp(-logit)) if logit > 0 else math.exp(logit) / (1 + math.exp(logit))
