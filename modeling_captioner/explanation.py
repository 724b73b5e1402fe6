"""What an explained caption consists of, without PyTorch: `Explanation`, `Word`."""

import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np


@dataclass
class Word:
    """A word of a caption.

    `probability` is the model's probability of the word given the preceding words; `map` (rows, columns), float32, is
    its attention map, averaged over the heads, and sums to 1; `alternatives` are the most likely words at this
    position, with their probabilities.
    """

    text: str
    probability: float
    map: np.ndarray
    alternatives: list[tuple[str, float]]


@dataclass
class Explanation:
    """A caption, its words, and all returned beams, best first, each with its natural log-probability.

    `language` is the one it was said in, None for a captioner of one language. `confidence`, from 0 to 1, is the
    probability that every content word of the caption is right, see `confidence_of`; None if the captioner was not
    calibrated.
    """

    caption: str
    log_probability: float
    words: list[Word]
    beams: list[tuple[str, float]] = field(default_factory=list)
    language: str | None = None
    confidence: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The explanation as a dictionary for JSON; maps are lists of rows, rounded to 5 digits.

        Only a captioner of several languages has a `language`, and only a calibrated one a `confidence`.
        """
        values = {
            "caption": self.caption,
            "log_probability": self.log_probability,
            "words": [
                {
                    "text": word.text,
                    "probability": word.probability,
                    "map": np.round(word.map.astype(float), 5).tolist(),
                    "alternatives": [{"word": other, "probability": share} for other, share in word.alternatives],
                }
                for word in self.words
            ],
            "beams": [{"caption": caption, "log_probability": score} for caption, score in self.beams],
        }
        optional = {"language": self.language, "confidence": self.confidence}
        return values | {name: value for name, value in optional.items() if value is not None}


def split_at(text, offsets):
    """Split `text` into one string per token, as written, with the punctuation around it.

    `offsets` are the places of the tokens in `text`, pairs of start and end.
    """
    starts = [0]
    for (_, end), (start, _) in pairwise(offsets):
        opening = re.split(r"\s", text[end:start])[-1]  # such as a quotation mark
        starts.append(start - len(opening))
    return [text[start:end].strip() for start, end in pairwise([*starts, len(text)])] if offsets else []
