"""Words in all scripts: how captions are split into them and joined again, for the vocabulary and the metrics."""

import functools
import unicodedata
from pathlib import Path

import regex

# Scripts without spaces between words. Their captions are split into characters, as is common for Chinese.
UNSPACED_SCRIPTS = ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar")
# Sets and patterns for the regular expressions of both `regex` and `tokenizers`. The long vowel mark is of no script.
UNSPACED = "".join(rf"\p{{{script}}}" for script in UNSPACED_SCRIPTS) + "ー"
CHARACTER = rf"[{UNSPACED}&&\w]\p{{M}}*"
LETTER = rf"[\w&&[^{UNSPACED}]]"  # or digit, with the marks that follow it, such as vowel signs
# A word may contain apostrophes, hyphens, and joiners (Persian, Sinhala).
WORD = rf"{CHARACTER}|{LETTER}+(?:['\u2019\u200c\u200d\-]{LETTER}+)*"
# A space between two such characters, where words were joined with spaces.
EXTRA_SPACE = rf"(?<=[{UNSPACED}]\p{{M}}?\p{{M}}?) (?=[{UNSPACED}])"

# Vietnamese tone marks at the end of a syllable: both placements are in use ("hoà" and "hòa"), and one word. Not after
# q, where u belongs to the consonant ("quý").
TONE_MARKS = {
    rf"(?<!q){new}\b": old
    for new, old in [
        *zip(["oà", "oá", "oả", "oã", "oạ"], ["òa", "óa", "ỏa", "õa", "ọa"], strict=True),
        *zip(["oè", "oé", "oẻ", "oẽ", "oẹ"], ["òe", "óe", "ỏe", "õe", "ọe"], strict=True),
        *zip(["uỳ", "uý", "uỷ", "uỹ", "uỵ"], ["ùy", "úy", "ủy", "ũy", "ụy"], strict=True),
    ]
}
# Words that a caption may repeat, such as articles, prepositions and classifiers.
FUNCTION_WORDS = frozenset(Path(__file__).with_name("function_words.txt").read_text(encoding="utf-8").split())

_word = regex.compile(WORD, regex.V1)


def split_words(text):
    """The words of a text in lower case, without punctuation."""
    return _word.findall(text.lower())


def normalize(text):
    """A text in Unicode NFC and lower case, with one placement of Vietnamese tone marks."""
    text = unicodedata.normalize("NFC", text).lower()
    return functools.reduce(lambda text, mark: regex.sub(mark[0], mark[1], text), TONE_MARKS.items(), text)


def join_words(words):
    """Join words with spaces, except between characters of scripts that have none."""
    return regex.sub(EXTRA_SPACE, "", " ".join(words))


def unspaced_scripts(text):
    """The scripts without spaces that occur in a text."""
    return [script for script in UNSPACED_SCRIPTS if regex.search(rf"\p{{{script}}}", text)]


def describe_words(text):
    """What the words of a text are: "words", or "characters (Han, ...) and words"."""
    scripts = unspaced_scripts(text)
    return f"characters ({', '.join(scripts)}) and words" if scripts else "words"
