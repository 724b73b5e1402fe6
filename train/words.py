"""What separates words in different scripts, for captions, vocabulary and metrics."""

import regex

# Scripts without spaces between words; captions in them are split into characters, as is common for Chinese.
# A class for the regular expressions of `regex` and of `tokenizers`. The last one lengthens vowels in Japanese.
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}ー"
# A space that joining words by spaces puts between two such characters.
EXTRA_SPACE = rf"(?<=[{UNSPACED}]\p{{M}}?\p{{M}}?) (?=[{UNSPACED}])"


def join_words(words):
    """Join the words of a caption by spaces, or without them in scripts that have none."""
    return regex.sub(EXTRA_SPACE, "", " ".join(words))
