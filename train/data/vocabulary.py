"""Building a word-level tokenizer from captions."""

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ..words import EXTRA_SPACE, TONE_MARKS, WORD, unspaced_scripts

SPECIAL_TOKENS = ("<pad>", "<unk>", "<start>", "<end>")  # ids 0 to 3, the defaults of CaptionerConfig
START = "<start>"
MAX_VOCABULARY = 2**31  # the trainer's own limit would be 30,000; min_count is the only one wanted


def make_tokenizer(captions, min_count, languages=()):
    """Build a word-level tokenizer whose vocabulary is sorted by descending frequency in `captions`.

    Text is lower-cased and split into words of letters, digits, and apostrophes or hyphens inside a word; punctuation
    is dropped. In scripts without spaces, such as Chinese, each character is a word. `tokenizer(text)` prepends
    `<start>`; `tokenizer.decode` joins words with spaces, but not such characters.

    With `languages`, a first token of each, such as `<vi>`, takes the place of `<start>`; `tokenizer(text)` prepends
    that of the first language. In Vietnamese, both placements of tone marks ("hoà" and "hòa") are one word. Raises
    `ValueError` if no word occurs `min_count` times.
    """
    start, *others = [language_token(language) for language in languages] or [START]
    special_tokens = [start if token == START else token for token in SPECIAL_TOKENS] + others
    splitter = Tokenizer(models.WordLevel({}, unk_token="<unk>"))
    tones = [normalizers.Replace(Regex(new), old) for new, old in TONE_MARKS.items()] if "vi" in languages else []
    splitter.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase(), *tones])
    splitter.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), "removed", invert=True)
    trainer = trainers.WordLevelTrainer(vocab_size=MAX_VOCABULARY, min_frequency=min_count, show_progress=False)
    splitter.train_from_iterator(captions, trainer)  # counts the words on all cores
    words = sorted(splitter.get_vocab(), key=splitter.token_to_id)
    if not words:
        raise ValueError(f"No word occurs {min_count} times in the captions; lower --min_word_count.")
    vocabulary = {word: index for index, word in enumerate([*special_tokens, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = splitter.normalizer, splitter.pre_tokenizer
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, vocabulary[start])]
    )
    if unspaced_scripts(" ".join(words)):
        spaced = [decoders.Replace(Regex(r"\z"), " "), decoders.Fuse()]
        tokenizer.decoder = decoders.Sequence([*spaced, decoders.Replace(Regex(rf"{EXTRA_SPACE}|\s+\z"), "")])
    pad, unk, start, end = special_tokens[:4]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, unk_token=unk, bos_token=start, eos_token=end
    )
    if others:
        tokenizer.add_special_tokens({"additional_special_tokens": others})
    return tokenizer


def language_token(language):
    """The first token of the captions in a language."""
    return f"<{language}>"


def start_token(tokenizer, language=None):
    """The id of the first token of a caption. `language` is None for a captioner of one language."""
    return tokenizer.bos_token_id if language is None else tokenizer.convert_tokens_to_ids(language_token(language))


def encode(tokenizer, captions, max_words):
    """Encode captions as labels: lists of the ids of up to `max_words` words and `<end>`, without `<start>`."""
    ids = tokenizer(captions, truncation=True, max_length=max_words + 1).input_ids
    return [[*caption[1:], tokenizer.eos_token_id] for caption in ids]
