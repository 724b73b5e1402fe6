"""From captions to the tokenizer: words by falling frequency, the rest `<unk>`."""

from collections import Counter

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<unk>", "<start>", "<end>")  # their ids are 0, 1, 2, 3, as CaptionerConfig says


def make_tokenizer(captions, min_count):
    """A word-level tokenizer; a word's id falls as its frequency in `captions` rises.

    Text is lower-cased and split into words of letters, digits and inner apostrophes or hyphens; punctuation is
    dropped. `tokenizer(text)` puts `<start>` first; `tokenizer.decode` joins words by spaces. Raises `ValueError` if
    no word is seen `min_count` times.
    """
    splitting = Tokenizer(models.WordLevel({}, unk_token="<unk>"))
    splitting.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    splitting.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+(?:['\u2019\-]\w+)*"), "removed", invert=True)
    counts = Counter(word for caption in captions for word in _words(splitting, caption))
    words = [word for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if count >= min_count]
    if not words:
        raise ValueError(f"No word is seen {min_count} times in the captions; lower --min_word_count.")
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = splitting.normalizer, splitting.pre_tokenizer
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A", special_tokens=[("<start>", vocabulary["<start>"])]
    )
    pad, unk, start, end = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, unk_token=unk, bos_token=start, eos_token=end
    )


def _words(tokenizer, text):
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))]


def encode(tokenizer, captions, max_words):
    """The captions' labels: lists of ids, each a caption's words and `<end>`, without `<start>`."""
    ids = tokenizer(captions, truncation=True, max_length=max_words + 1).input_ids
    return [[*caption[1:], tokenizer.eos_token_id] for caption in ids]
