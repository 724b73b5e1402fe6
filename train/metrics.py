"""Caption metrics of the COCO evaluation: BLEU, ROUGE-L and CIDEr-D, and, if Java is installed, METEOR and SPICE.

The scorers come from `pycocoevalcap`. Its tokenizer requires Java, so [`tokenize`] replaces it.
"""

import logging
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import regex
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.cider.cider_scorer import precook
from pycocoevalcap.meteor import meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.spice import get_stanford_models
from pycocoevalcap.spice.spice import Spice

from .words import CHARACTER, LETTER, normalize

# The Penn Treebank tokenizer of the COCO evaluation splits off clitics, drops punctuation and keeps hyphenated words.
CLITICS = regex.compile(r"(?<=\w)(n't|'(?:s|re|ve|ll|d|m))\b")
WORD = regex.compile(rf"n't|'(?:s|re|ve|ll|d|m)\b|[#&]|{CHARACTER}|{LETTER}+(?:[-/.:]{LETTER}+|(?<=\d),\d+)*", regex.V1)
# Stanford CoreNLP, which SPICE downloads on first use; without a network, that would fail without a message.
SPICE_MODELS, CORENLP = Path(get_stanford_models.__file__).parent / "lib", "stanford-corenlp-3.6.0"
METEOR = ["java", "-Xmx2G", "-jar", str(Path(meteor.__file__).with_name(meteor.METEOR_JAR))]
METEOR += ["-", "-", "-stdio", "-l", "en", "-norm"]
JAVA_START_SECONDS, JAVA_SECONDS = 60, 3600  # within which Java says its version, and scores all captions
END = "<end>"
MAX_NGRAM = 4
SIGMA = 6.0  # of the length penalty (Vedantam et al. 2015, section 5.2)
logger = logging.getLogger(__name__)


def tokenize(caption):
    """Tokenize a caption as the COCO evaluation does: lower case, no punctuation, "man's" as "man 's".

    In scripts without spaces, each character is a word; the COCO evaluation makes a word of each sentence there.

    Returns the words, joined by spaces. On 55,667 human captions, 59 results differ from `PTBTokenizer`, most of them
    for abbreviations ("st."); on the 35,000 captions of Flickr8k's training and validation splits, 23.
    """
    text = normalize(caption).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return " ".join(WORD.findall(CLITICS.sub(r" \1", text)))


def caption_metrics(references, candidates):
    """Score captions against reference captions.

    Args:
        references: list of reference captions of each photo.
        candidates: one caption per photo.

    Returns {"CIDEr-D", "BLEU-1" .. "BLEU-4", "ROUGE-L"}. All range from 0 to 1, except CIDEr-D, which ranges from 0 to
    10 as in `pycocoevalcap` (published figures are often multiplied by 100). The document frequencies of CIDEr-D are
    those of `references` (Vedantam et al. 2015).
    """
    references, candidates = _tokenize_all(references, candidates)
    bleu, _ = Bleu(MAX_NGRAM).compute_score(references, candidates, verbose=0)
    cider, _ = Cider(n=MAX_NGRAM, sigma=SIGMA).compute_score(references, candidates)
    rouge, _ = Rouge().compute_score(references, candidates)
    scores = {"CIDEr-D": cider} | {f"BLEU-{order}": value for order, value in enumerate(bleu, start=1)}
    return {name: float(value) for name, value in (scores | {"ROUGE-L": rouge}).items()}


def java_metrics(references, candidates):
    """METEOR if Java is installed, and SPICE if its models are installed too. Thousands of photos take minutes.

    Takes the arguments of `caption_metrics`. Returns those of {"METEOR", "SPICE"} that are available, from 0 to 1. A
    Java that does not start or that fails is logged, and its metric left out.
    """
    if not shutil.which("java"):
        return {}
    references, candidates = _tokenize_all(references, candidates)
    scorers = {"METEOR": _meteor}
    if all((SPICE_MODELS / f"{name}.jar").exists() for name in (CORENLP, f"{CORENLP}-models")):
        scorers["SPICE"] = lambda *captions: Spice().compute_score(*captions)[0]
    scores = {}
    try:  # macOS has a program of this name that only says that there is no Java
        _run(["java", "-version"], JAVA_START_SECONDS)
        for name, scorer in scorers.items():
            scores[name] = float(scorer(references, candidates))
    except (OSError, ValueError, IndexError, subprocess.SubprocessError) as error:
        output = f"{getattr(error, 'stdout', None) or ''}\n{getattr(error, 'stderr', None) or ''}".strip()
        left_out = " and ".join(scorers.keys() - scores.keys())
        logger.warning("%s left out, because Java failed: %s", left_out, (output or str(error)).splitlines()[0])
    return scores


def _meteor(references, candidates):
    """METEOR of all captions. Of `pycocoevalcap`, its program alone: its wrapper waits forever if Java ends early."""
    lines = [" ||| ".join(["SCORE", *references[photo], candidates[photo][0]]) for photo in references]
    counts = _run(METEOR, JAVA_SECONDS, "\n".join(lines)).splitlines()
    scores = _run(METEOR, JAVA_SECONDS, " ||| ".join(["EVAL", *counts])).splitlines()
    return scores[-1]  # the last one is that of all captions together


def _run(command, seconds, text=""):
    return subprocess.run(
        command, input=text + "\n", capture_output=True, encoding="utf-8", timeout=seconds, check=True
    ).stdout


def _tokenize_all(references, candidates):
    references = {photo: [tokenize(text) for text in texts] for photo, texts in enumerate(references)}
    return references, {photo: [tokenize(text)] for photo, text in enumerate(candidates)}


class CiderReward:
    """CIDEr-D of single captions, the reward of self-critical training. Document frequencies come from a fixed corpus.

    The end of a caption counts as a word, as in ImageCaptioning.pytorch. Otherwise, a caption that stops in the middle
    of a phrase ("a man on a") would lose nothing, and self-critical training would learn to stop there.
    """

    def __init__(self, corpus):
        """
        Args:
            corpus: list of reference captions of each photo.
        """
        self.frequencies = Counter(
            ngram for texts in corpus for ngram in set().union(*(_ngrams(text) for text in texts))
        )
        self.log_photos = np.log(len(corpus))
        self.vectors = {}

    def __call__(self, captions, references):
        """Compute the reward of each caption.

        Args:
            captions: list of strings.
            references: list of reference captions for each of `captions`.

        Returns an array (captions,), float64, from 0 to 10.
        """
        pairs = zip(captions, references, strict=True)
        return np.array([self._score(caption, own_references) for caption, own_references in pairs])

    def _score(self, caption, references):
        vector, norms, length = self._vector(caption)
        score = 0.0
        for text in references:
            if text not in self.vectors:
                self.vectors[text] = self._vector(text)
            other, other_norms, other_length = self.vectors[text]
            # Eq. 5 of the CIDEr paper, with the clipping and the Gaussian length penalty of CIDEr-D.
            products = np.zeros(MAX_NGRAM)
            for ngram in vector.keys() & other.keys():
                products[len(ngram) - 1] += min(vector[ngram], other[ngram]) * other[ngram]
            scale = norms * other_norms
            score += np.divide(products, scale, out=np.zeros(MAX_NGRAM), where=scale > 0).mean() * np.exp(
                -((length - other_length) ** 2) / (2 * SIGMA**2)
            )
        return 10 * score / max(len(references), 1)

    def _vector(self, caption):
        """TF-IDF of a caption's n-grams, the norm per n-gram order (MAX_NGRAM,), and the number of words."""
        counts = _ngrams(caption)
        vector = {
            ngram: count * (self.log_photos - np.log(max(self.frequencies[ngram], 1)))
            for ngram, count in counts.items()
        }
        squares = np.zeros(MAX_NGRAM)
        for ngram, weight in vector.items():
            squares[len(ngram) - 1] += weight**2
        return vector, np.sqrt(squares), sum(count for ngram, count in counts.items() if len(ngram) == 1)


def _ngrams(caption):
    return precook(f"{tokenize(caption)} {END}", n=MAX_NGRAM)
