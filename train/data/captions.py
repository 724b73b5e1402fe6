"""Captions in the forms that data sets have them in: [`CaptionReader`]."""

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
from .columns import FIRST_ROWS, STRINGS, check_column

CAPTION_COLUMNS = ("captions", "caption", "sentences", "sentences_raw", "answer", "text", "txt", "caption_0")
NUMBERED = re.compile(r"(?:caption|sentence|text|comment)_?\d+", re.IGNORECASE)  # columns with a caption each
# Keys of the caption in a dictionary: "raw" and "tokens" are Karpathy's.
TEXT_KEYS = ("raw", "caption", "captions", "sentence", "sentences", "text", "string", "value", "tokens")
# Start and end of a caption, padding: many tutorials store them in the captions.
MARKS = re.compile(
    r"[<\[]\|?/?(?:s|pad|cls|sep|[bes]os|start|end|(?:start|begin|end)[ _-]?(?:of[ _-]?)?(?:text|seq(?:uence)?))"
    r"\|?[>\]]|^\s*(?:start(?:of)?seq|ssss)\b|\b(?:end(?:of)?seq|eeee)\s*$",
    re.IGNORECASE,
)
FEWEST_WORDS = 3  # strings of a list, on average, for it to be a caption in words rather than captions of one word
NOT_TEXT = "which is not text; name another column: --caption_column."
QUOTES_WITHOUT_COMMA = re.compile(r"""['"]\s+['"]""")
logger = logging.getLogger(__name__)


class NotTextError(ValueError):
    """A cell that contains no captions; the message says what it contains, and the remedy."""


class CaptionReader:
    """Reads the captions of rows, `reader(row)`: a list of strings, without the start and end marks of other tools.

    Of several columns with captions, the first one counts in which a row has any: rows of different origin may have
    their captions in different columns. Lists of words are joined.

    Args:
        split: a `Dataset`, or an `IterableDataset` whose features are known.

    Raises `ValueError` if no column contains captions, and for a cell that is not text.
    """

    def __init__(self, split, settings):
        self.language, features = settings.caption_language, split.features
        groups = _caption_columns(split.column_names, settings.caption_column)
        check_column(
            split, groups[0][0] if groups else settings.caption_column, CAPTION_COLUMNS, "captions", "--caption_column"
        )
        self.groups = [names for names in groups if all(_may_be_text(features[name]) for name in names)]
        if not self.groups:
            ((name, *_), *_) = groups
            raise ValueError(f"The column {name!r} contains {_type_name(features[name])}, {NOT_TEXT}")
        self.columns = [name for names in self.groups for name in names]
        self.labels = {name: features[name] for name in self.columns if isinstance(features[name], ClassLabel)}
        lists = [name for name in self.columns if isinstance(features[name], List)]
        first = list(itertools.islice(split.select_columns(lists), FIRST_ROWS)) if lists else []
        self.words = {name for name in lists if is_words([row[name] or [] for row in first], FEWEST_WORDS)}
        for name in self.words:
            logger.warning("The column %r contains lists of words, which are joined to one caption each.", name)

    def __call__(self, row):
        for names in self.groups:
            if texts := [text for name in names for text in self._texts(name, row[name])]:
                return texts
        return []

    def _texts(self, name, cell):
        if name in self.labels and cell is not None:
            cell = self.labels[name].int2str(cell)
        if name in self.words:
            cell = [cell or []]
        try:
            return texts_of(cell, self.language)
        except NotTextError as error:
            raise ValueError(f"The column {name!r} contains {error}") from error


def _caption_columns(columns, given):
    """Groups of columns that contain captions; the columns of a group complement each other."""
    if given and given != "caption_0":
        return [[given]] if given in columns else []
    known = [[name] for wanted in CAPTION_COLUMNS for name in columns if name.lower() == wanted != "caption_0"]
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
    """The captions in a cell, without empty ones: a string, bytes, or a dictionary or a list of them.

    A list of words within a list is one caption. Of a dictionary by language, `language` is read. Raises
    [`NotTextError`].
    """
    if cell is None:
        return []
    if isinstance(cell, bytes):
        cell = _decoded(cell)
    if isinstance(cell, str):
        written = _written_list(cell)
        return texts_of(written, language) if written else list(filter(None, [clean(cell)]))
    if isinstance(cell, dict):
        return _texts_of_dictionary(cell, language)
    if isinstance(cell, list | tuple):
        cell = [_joined(one) if isinstance(one, list | tuple) and is_words([one]) else one for one in cell]
        return [text for one in cell for text in texts_of(one, language)]
    raise NotTextError(f"{cell!r}, {NOT_TEXT}")


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
        raise NotTextError(f"dictionaries with the keys {names}; choose one of them: --caption_language.")
    return [text for key in keys or cell for text in texts_of(cell[key], language)]


def _same_language(name, language):
    """Whether a name such as "en", "EN" or "en-US" is that of a language."""
    name, language = (re.split("[-_]", one.lower()) for one in (name, language))
    return name[: len(language)] == language


def is_words(lists, fewest=2):
    """Whether lists of strings are captions that are split into words, and not lists of captions.

    Args:
        fewest: number of strings per list, on average, below which they are not.
    """
    words = [word for words in lists for word in words]
    if len(words) < fewest * max(1, sum(map(bool, lists))) or not all(isinstance(word, str) for word in words if word):
        return False
    words = [word.strip() for word in words if word]
    if any(regex.search(r"\s", word) for word in words):
        return False
    unspaced = [word for word in words if regex.match(f"[{UNSPACED}]", word)]
    longest = 3 if any(regex.match(r"[\p{Han}\p{Hiragana}\p{Katakana}]", word) for word in unspaced) else 10
    return not unspaced or sum(map(len, unspaced)) / len(unspaced) < longest


def _joined(words):
    return join_words(word.strip() for word in words if word)


def _decoded(cell):
    try:
        return cell.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotTextError(f"{cell[:20]!r}, {NOT_TEXT}") from error


def _written_list(text):
    """The list of strings, or the dictionary, that a text is, as in CSV files; None for any other text."""
    if text[:1] not in ("[", "{") or text[-1:] not in ("]", "}"):
        return None
    try:
        value = json.loads(text)
    except ValueError:
        if QUOTES_WITHOUT_COMMA.search(text):  # Python would join the strings
            return None
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    strings = value.values() if isinstance(value, dict) else value
    return value if isinstance(value, list | dict) and all(isinstance(one, str) for one in strings) else None


def clean(caption):
    """A caption in Unicode's composed form (NFC), without the marks of other tools."""
    caption = unicodedata.normalize("NFC", caption)
    return re.sub(r"\s+", " ", MARKS.sub(" ", caption)).strip() if MARKS.search(caption) else caption.strip()


def read_captions(file):
    """The lines of a text file, one caption each. Raises `ValueError` if there are none."""
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"captions_file={file!r} is not UTF-8 text; save it as UTF-8.") from error
    captions = list(filter(None, map(clean, lines)))
    if not captions:
        raise ValueError(f"captions_file={file!r} is empty; it should have a caption a line.")
    return captions
