"""Reading captions from the cells of a data set, in all common formats: [`CaptionReader`]."""

import ast
import itertools
import json
import logging
import re
import unicodedata
from pathlib import Path

import regex
from datasets import ClassLabel, Image, List, Value

from ..words import UNSPACED, join_words
from .columns import INSPECTED_ROWS, STRINGS, check_column

CAPTION_COLUMNS = ("captions", "caption", "sentences", "sentences_raw", "answer", "text", "txt", "caption_0")
NUMBERED = re.compile(r"(?:caption|sentence|text|comment)_?\d+", re.IGNORECASE)  # columns with one caption each
# Keys of the caption in a dictionary. "raw" and "tokens" are those of Karpathy's JSON files.
TEXT_KEYS = ("raw", "caption", "captions", "sentence", "sentences", "text", "string", "value", "tokens")
# Start, end and padding tokens, which many tutorials store in the captions.
SPECIAL_TOKENS = re.compile(
    r"[<\[]\|?/?(?:s|pad|cls|sep|[bes]os|start|end|(?:start|begin|end)[ _-]?(?:of[ _-]?)?(?:text|seq(?:uence)?))"
    r"\|?[>\]]|^\s*(?:start(?:of)?seq|ssss)\b|\b(?:end(?:of)?seq|eeee)\s*$",
    re.IGNORECASE,
)
MIN_WORDS = 3  # lists with fewer strings on average contain one-word captions rather than the words of one caption
LANGUAGE_COLUMNS = ("language", "lang")
NOT_TEXT = "which is not text; choose another column with --caption_column."
QUOTES_WITHOUT_COMMA = re.compile(r"""['"]\s+['"]""")
logger = logging.getLogger(__name__)


class NotTextError(ValueError):
    """A cell contains no captions; the message says what it contains instead, and what to do."""


class CaptionReader:
    """Reads the captions of a row: `reader(row)` returns a list of (language, caption), without start and end tokens.

    If several columns contain captions, each row uses the first one that is not empty, because rows from different
    sources may have their captions in different columns. Lists of words are joined.

    The language is None, unless the captioner has several. It is then, in this order, the one that the data name (by
    columns such as `captions_vi`, dictionaries by language, or a column `language`), or that of the data set.

    Args:
        split: a `Dataset`, or an `IterableDataset` whose features are known.
        source: the [`Source`] of the split.
        languages: languages of a captioner with several.

    Raises `ValueError` if no column contains captions, if a cell is not text, or if the language of a caption is not
    known.
    """

    def __init__(self, split, settings, source=None, languages=None):
        self.language, self.languages, features = settings.caption_language, languages or [], split.features
        self.source = source
        groups = _caption_columns(split.column_names, settings.caption_column, self.languages)
        check_column(
            split, groups[0][0] if groups else settings.caption_column, CAPTION_COLUMNS, "captions", "--caption_column"
        )
        self.groups = [names for names in groups if all(_may_be_text(features[name]) for name in names)]
        if not self.groups:
            ((name, *_), *_) = groups
            raise ValueError(f"The column {name!r} contains {_type_name(features[name])}, {NOT_TEXT}")
        named = {name for name in split.column_names if self._language_of_column(name)}
        self.groups = [[name for name in names if name not in named] for names in self.groups]
        self.groups = [[*names, *sorted(named)] for names in self.groups] or [sorted(named)]
        self.row_language = next((name for name in LANGUAGE_COLUMNS if languages and name in features), None)
        self.columns = list(dict.fromkeys(name for names in self.groups for name in names))
        self.labels = {name: features[name] for name in self.columns if isinstance(features[name], ClassLabel)}
        lists = [name for name in self.columns if isinstance(features[name], List)]
        first = list(itertools.islice(split.select_columns(lists), INSPECTED_ROWS)) if lists else []
        self.words = {name for name in lists if is_words([row[name] or [] for row in first], MIN_WORDS)}
        for name in self.words:
            logger.warning("The column %r contains lists of words; each list is joined into one caption.", name)
        self.columns += [self.row_language] if self.row_language else []

    def __call__(self, row):
        for names in self.groups:
            if pairs := [pair for name in names for pair in self._captions(name, row)]:
                return pairs
        return []

    def _language_of_column(self, name):
        """The language that the name of a column ends with: "vi" for captions_vi."""
        stem, _, language = name.rpartition("_")
        return next(
            (own for own in self.languages if stem in CAPTION_COLUMNS and own.lower() == language.lower()), None
        )

    def _captions(self, name, row):
        """The (language, caption) pairs of a cell."""
        cell = row[name]
        if name in self.labels and cell is not None:
            cell = self.labels[name].int2str(cell)
        if name in self.words:
            cell = [cell or []]
        try:
            if not self.languages:
                return [(None, text) for text in texts_of(cell, self.language)]
            if names_languages(cell, self.languages):
                return [(own, text) for own in self.languages for text in _texts_in(cell, own)]
            texts = texts_of(cell)
            return [(self._language(name, row), text) for text in texts] if texts else []
        except NotTextError as error:
            raise ValueError(f"The column {name!r} contains {error}") from error

    def _language(self, name, row):
        """The language of the captions in a column of a row."""
        language = self._language_of_column(name)
        language = language or (row[self.row_language] if self.row_language else None) or self.source.language
        known = ", ".join(self.languages)
        if language is None:
            raise ValueError(
                f"The captions of {self.source.name} do not say their language, and the captioner has several; give the"
                f" language of each data set with --data_languages ({known})."
            )
        matching = [own for own in self.languages if _same_language(language, own)]
        if not matching:
            raise ValueError(
                f"{self.source.name} has captions in {language!r}; the captioner's languages are {known}. Start a new"
                " captioner with --languages, or leave that data set out."
            )
        return matching[0]


def _caption_columns(columns, given, languages=()):
    """Group the columns that contain captions. A row's captions are those of all columns of a group.

    With `languages`, columns such as captions_vi count too.
    """
    if given and given != "caption_0":
        return [[given]] if given in columns else []
    wanted_names = [*CAPTION_COLUMNS, *(f"{name}_{language}" for name in CAPTION_COLUMNS for language in languages)]
    known = [[name] for wanted in wanted_names for name in columns if name.lower() == wanted.lower() != "caption_0"]
    numbered = [name for name in columns if NUMBERED.fullmatch(name)]
    return [*known, numbered] if numbered else known


def _may_be_text(feature):
    if isinstance(feature, dict):
        return any(map(_may_be_text, feature.values()))
    if isinstance(feature, List):
        return _may_be_text(feature.feature)
    if isinstance(feature, Value):
        return feature.dtype in (*STRINGS, "binary", "large_binary", "null")
    return not isinstance(feature, Image)


def _type_name(feature):
    if isinstance(feature, dict):
        return f"dictionaries with the keys {', '.join(feature)}"
    return f"lists of {_type_name(feature.feature)}" if isinstance(feature, List) else feature.dtype


def texts_of(cell, language=None):
    """The non-empty captions in a cell: a string, bytes, or a (nested) list or dictionary of them.

    In a list of lists of words, each inner list is one caption. In a dictionary with languages as keys, the captions in
    `language` are read. Raises [`NotTextError`].
    """
    if cell is None:
        return []
    if isinstance(cell, bytes):
        cell = _decode(cell)
    if isinstance(cell, str):
        parsed = _parse_literal(cell)
        return texts_of(parsed, language) if parsed else list(filter(None, [clean(cell)]))
    if isinstance(cell, dict):
        return _texts_of_dictionary(cell, language)
    if isinstance(cell, list | tuple):
        items = [_join(item) if isinstance(item, list | tuple) and is_words([item]) else item for item in cell]
        return [text for item in items for text in texts_of(item, language)]
    raise NotTextError(f"{cell!r}, {NOT_TEXT}")


def _texts_in(cell, language):
    """The captions in one of the languages that a cell names; [] if it lacks this one."""
    try:
        return texts_of(cell, language)
    except NotTextError:
        return []


def names_languages(cell, languages):
    """Whether a cell says in which of `languages` its captions are: dictionaries by language, or with its name."""
    if isinstance(cell, str):
        cell = _parse_literal(cell)
    if isinstance(cell, list | tuple):
        return any(names_languages(item, languages) for item in cell)
    if not isinstance(cell, dict):
        return False
    if cell.get("language") or cell.get("lang"):
        return True
    if any(cell.get(key) is not None for key in TEXT_KEYS):
        return False
    return any(_same_language(key, language) for key in cell for language in languages)


def _texts_of_dictionary(cell, language):
    own = cell.get("language") or cell.get("lang")
    if isinstance(own, list) and "translation" in cell:  # `TranslationVariableLanguages`
        cell = dict.fromkeys([*own, language]) | dict(zip(own, cell["translation"], strict=True))
    elif language and own and not _same_language(own, language):
        return []
    for key in TEXT_KEYS:
        if cell.get(key) is not None:
            return texts_of([cell[key]] if key == "tokens" else cell[key], language)
    keys = [key for key in cell if language and _same_language(key, language)]
    if not keys and len(cell) > 1:
        names = ", ".join(filter(None, cell))
        raise NotTextError(f"dictionaries with the keys {names}; choose one of them with --caption_language.")
    return [text for key in keys or cell for text in texts_of(cell[key], language)]


def _same_language(name, language):
    """Whether a language tag such as "en", "EN" or "en-US" matches a language."""
    name, language = (re.split("[-_]", one.lower()) for one in (name, language))
    return name[: len(language)] == language


def is_words(lists, min_words=2):
    """Whether lists of strings are tokenized captions rather than lists of captions.

    Args:
        min_words: minimum number of strings per list, on average.
    """
    words = [word for words in lists for word in words]
    if len(words) < min_words * max(1, sum(map(bool, lists))):
        return False
    if not all(isinstance(word, str) for word in words if word):
        return False
    words = [word.strip() for word in words if word]
    if any(regex.search(r"\s", word) for word in words):
        return False
    unspaced = [word for word in words if regex.match(f"[{UNSPACED}]", word)]
    longest = 3 if any(regex.match(r"[\p{Han}\p{Hiragana}\p{Katakana}]", word) for word in unspaced) else 10
    return not unspaced or sum(map(len, unspaced)) / len(unspaced) < longest


def _join(words):
    return join_words(word.strip() for word in words if word)


def _decode(cell):
    try:
        return cell.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotTextError(f"{cell[:20]!r}, {NOT_TEXT}") from error


def _parse_literal(text):
    """Parse a list or dictionary of strings in JSON or Python syntax, as in CSV files; None for any other text."""
    if text[:1] not in ("[", "{") or text[-1:] not in ("]", "}"):
        return None
    try:
        value = json.loads(text)
    except ValueError:
        if QUOTES_WITHOUT_COMMA.search(text):  # Python would concatenate the strings
            return None
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    strings = value.values() if isinstance(value, dict) else value
    return value if isinstance(value, list | dict) and all(isinstance(item, str) for item in strings) else None


def clean(caption):
    """Normalize a caption to Unicode NFC, and remove start, end and padding tokens."""
    caption = unicodedata.normalize("NFC", caption)
    if not SPECIAL_TOKENS.search(caption):
        return caption.strip()
    return re.sub(r"\s+", " ", SPECIAL_TOKENS.sub(" ", caption)).strip()


def read_captions(files, languages=None):
    """Read text files with one caption per line. Returns a list of (language, caption).

    Args:
        languages: the language of each file; None for a captioner of one language.

    Raises `ValueError` if a file contains no captions, or if there is not one file for each language.
    """
    if languages and len(files) != len(languages):
        raise ValueError(
            f"--captions_file gives {len(files)} files for the languages {', '.join(languages)}; give one file for"
            " each, in this order."
        )
    owners = languages or [None] * len(files)
    return [(language, text) for language, file in zip(owners, files, strict=True) for text in _read_lines(file)]


def _read_lines(file):
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"captions_file={file!r} is not UTF-8 text; save it as UTF-8.") from error
    captions = list(filter(None, map(clean, lines)))
    if not captions:
        raise ValueError(f"captions_file={file!r} is empty; it should contain one caption per line.")
    return captions
