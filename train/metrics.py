"""How good captions are, by comparison with what people said, as COCO's evaluation has it: BLEU, ROUGE-L, CIDEr-D, and
where there is Java METEOR and SPICE.

The scorers are those of `pycocoevalcap`. Words are split here, because its tokenizer needs Java; see [`words_of`].
"""

import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.cider.cider_scorer import precook
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.spice import get_stanford_models
from pycocoevalcap.spice.spice import Spice

# The Penn Treebank tokenizer of COCO's evaluation splits clitics off and drops punctuation. A hyphenated word is one.
CLITICS = re.compile(r"(?<=\w)(n't|'(?:s|re|ve|ll|d|m))\b")
WORD = re.compile(r"n't|'(?:s|re|ve|ll|d|m)\b|[#&]|\w+(?:[-/.:]\w+|(?<=\d),\d+)*")
# Stanford's parser, which SPICE fetches on its first use; without network, and without a word, that would fail.
SPICE_MODELS, CORENLP = Path(get_stanford_models.__file__).parent / "lib", "stanford-corenlp-3.6.0"
END = "<end>"
NGRAM = 4
SIGMA = 6.0  # of the length penalty (Vedantam et al. 2015, section 5.2)


def words_of(caption):
    """A caption's words as COCO's evaluation counts them: lower case, no punctuation, "man's" as "man 's".

    On 55,667 captions of people the result is that of `PTBTokenizer` but for 59, most of them abbreviations ("st.");
    on Flickr8k's 35,000 of training and validation but for 23.
    """
    text = caption.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return " ".join(WORD.findall(CLITICS.sub(r" \1", text)))


def caption_metrics(references, candidates):
    """Score captions against those of people.

    Args:
        references: for each photo the captions of people, list of lists of strings.
        candidates: for each photo one caption.

    Returns {"CIDEr-D", "BLEU-1" .. "BLEU-4", "ROUGE-L"}, each from 0 to 1 but for CIDEr-D, which goes to 10 as in
    `pycocoevalcap` (published figures in percent are 100 times these). CIDEr-D takes its document frequencies from
    `references` themselves (Vedantam et al. 2015).
    """
    people, model = _tokenized(references, candidates)
    bleu, _ = Bleu(NGRAM).compute_score(people, model, verbose=0)
    cider, _ = Cider(n=NGRAM, sigma=SIGMA).compute_score(people, model)
    rouge, _ = Rouge().compute_score(people, model)
    scores = {"CIDEr-D": cider} | {f"BLEU-{order}": value for order, value in enumerate(bleu, start=1)}
    return {name: float(value) for name, value in (scores | {"ROUGE-L": rouge}).items()}


def java_metrics(references, candidates):
    """METEOR where there is Java, and SPICE where its models are there too; takes minutes for thousands of photos.

    Args as `caption_metrics` takes them. Returns {"METEOR", "SPICE"} or what there is of it, each from 0 to 1.
    """
    people, model = _tokenized(references, candidates)
    scorers = {"METEOR": Meteor} if shutil.which("java") else {}
    if scorers and all((SPICE_MODELS / f"{name}.jar").exists() for name in (CORENLP, f"{CORENLP}-models")):
        scorers["SPICE"] = Spice
    return {name: float(scorer().compute_score(people, model)[0]) for name, scorer in scorers.items()}


def _tokenized(references, candidates):
    people = {photo: [words_of(text) for text in texts] for photo, texts in enumerate(references)}
    return people, {photo: [words_of(text)] for photo, text in enumerate(candidates)}


class CiderReward:
    """CIDEr-D of single captions, with document frequencies counted once over a corpus: the self-critical reward.

    The end of a caption counts as a word, as in ImageCaptioning.pytorch: without it a caption that stops in the middle
    of a phrase ("a man on a") loses nothing, and self-critical training learns to stop there.
    """

    def __init__(self, corpus, bleu_weight=0.0):
        """
        Args:
            corpus: for each photo the captions of people.
            bleu_weight: of the caption's own BLEU-4 (from 0 to 1), which is added.
        """
        self.bleu_weight = bleu_weight
        self.frequencies = Counter(
            ngram for texts in corpus for ngram in set().union(*(_ngrams(text) for text in texts))
        )
        self.log_photos = np.log(len(corpus))
        self.vectors = {}

    def __call__(self, captions, references):
        """The reward of each caption.

        Args:
            captions: list of strings.
            references: for each of them what people said, list of lists of strings.

        Returns an array (captions,), float64, from 0 to 10 and `bleu_weight`.
        """
        scores = np.array([self._score(caption, people) for caption, people in zip(captions, references, strict=True)])
        if self.bleu_weight:
            _, each = Bleu(NGRAM).compute_score(*_tokenized(references, captions), verbose=0)
            scores += self.bleu_weight * np.array(each[-1])
        return scores

    def _score(self, caption, people):
        vector, norms, length = self._vector(caption)
        score = 0.0
        for text in people:
            if text not in self.vectors:
                self.vectors[text] = self._vector(text)
            other, other_norms, other_length = self.vectors[text]
            # Eq. 5 of the CIDEr paper with the clipping and the Gaussian penalty of CIDEr-D.
            products = np.zeros(NGRAM)
            for ngram in vector.keys() & other.keys():
                products[len(ngram) - 1] += min(vector[ngram], other[ngram]) * other[ngram]
            both = norms * other_norms
            score += np.divide(products, both, out=np.zeros(NGRAM), where=both > 0).mean() * np.exp(
                -((length - other_length) ** 2) / (2 * SIGMA**2)
            )
        return 10 * score / max(len(people), 1)

    def _vector(self, caption):
        """TF-IDF of a caption's n-grams, the vectors' lengths (NGRAM,), and the number of words."""
        counts = _ngrams(caption)
        vector = {
            ngram: count * (self.log_photos - np.log(max(self.frequencies[ngram], 1)))
            for ngram, count in counts.items()
        }
        squares = np.zeros(NGRAM)
        for ngram, weight in vector.items():
            squares[len(ngram) - 1] += weight**2
        return vector, np.sqrt(squares), sum(count for ngram, count in counts.items() if len(ngram) == 1)


def _ngrams(caption):
    return precook(f"{words_of(caption)} {END}", n=NGRAM)
