"""Photos with a class label and no caption: names for the labels, and sentences that mention them.

Follows "Deep Compositional Captioning" (Hendricks et al. 2016) and "Captioning Images with Diverse Objects"
(Venugopalan et al. 2017): from labeled photos and unpaired text, a captioner learns to name objects that no captioned
photo shows.
"""

import random
import unicodedata
from pathlib import Path

import regex
import yaml
from datasets import ClassLabel, Image, Value, concatenate_datasets

from ..words import split_words
from .layouts import load_photo_folder

MAX_NAME_POSITION = 4  # a sentence is about a name only if the name begins within its first words
MAX_SENTENCES = 40  # per label, the shortest ones
MIN_SENTENCES = 5  # fewer are often about a homonym
TABLE = yaml.safe_load(Path(__file__).with_name("labels.yaml").read_text(encoding="utf-8"))
WNID = regex.compile(r"^n\d{8}[_ ]?")  # WordNet's number of a meaning
SENSE = regex.compile(r"\.[anrsv]\.\d\d$")  # WordNet's name of a meaning: "dog.n.01"
REMARK = regex.compile(r"\([^()]*\)")
BETWEEN_WORDS = regex.compile(r"[^\w\p{M}'\u2019\u200c\u200d]|_")
LETTER = regex.compile(r"\b([tuvx]) (?=\p{L}{3})")  # of "T-shirt" and "x-ray", where captions have a hyphen
ARTICLE = regex.compile(r"^(?:an?|the) (?=\S)")
PREPOSITION = regex.compile(r" (?:of|in|on|with|for|from|at) ")
LATIN_ENDING = regex.compile(r"\w(?:us|a|um|is|i|ae|os|[^s]es|ans|ens|or)$")
ENGLISH_ENDING = regex.compile(r"\w\w(?:an|ese|ish|ic|ern|ch)$")  # of adjectives: "American egret"


def labeled_dataset(folders):
    """Load labeled photos from imagefolders or folders of parquet files. Photos whose label has no name are dropped.

    Returns a `Dataset` with the columns `image` (not decoded) and `label` (string). Raises `ValueError` if a folder has
    no column `label`.
    """
    sets = []
    for folder in folders:
        photos = load_photo_folder(folder)
        if "label" not in photos.column_names:
            raise ValueError(
                f"labeled_photos={folder!r} has no column 'label', only {', '.join(photos.column_names)}; rename the"
                " column with the labels."
            )
        feature = photos.features["label"]
        labels = photos["label"][:]
        if isinstance(feature, ClassLabel):
            labels = ["" if label is None or label < 0 else feature.int2str(label) for label in labels]
        photos = photos.select_columns("image").cast_column("image", Image(decode=False))
        photos = photos.add_column("label", [str(label) for label in labels], feature=Value("string"))
        sets.append(photos.select([row for row, label in enumerate(labels) if label_names(str(label))]))
    return concatenate_datasets(sets)


def held_out_split(photos, seed):
    """Hold out a tenth of the photos of each label, but at least one, for validation. Single photos are not held out.

    Returns {"train": Dataset, "validation": Dataset}.
    """
    rows = {}
    for row, label in enumerate(photos["label"]):
        rows.setdefault(label, []).append(row)
    held_out = set()
    for label, label_rows in sorted(rows.items()):
        if len(label_rows) > 1:
            held_out.update(random.Random(f"{seed} {label}").sample(label_rows, max(1, len(label_rows) // 10)))
    return {
        "train": photos.select([row for row in range(len(photos)) if row not in held_out]),
        "validation": photos.select(sorted(held_out)),
    }


def label_names(label):
    """The names that a caption may use for a label, best first; [] if the label does not name an object.

    A label may be a path ("caltech101/grand_piano"), start with a WordNet ID ("n02099601_golden_retriever"), and list
    synonyms as ImageNet does ("tench, Tinca tinca"). Its names are the category of ImageNet's breeds and species
    ("dog"), the label itself or names to use instead of it, its synonyms that are not Latin, and its head noun.
    """
    names, synonyms = _full_names(label), _synonyms(label)
    if not names or _other_names(synonyms[0]):
        return names
    head = PREPOSITION.split(synonyms[0])[0].split()[-1]
    return list(dict.fromkeys([*names, head]))


def _full_names(label):
    synonyms = _synonyms(label)
    if not synonyms:
        return []
    wnid = WNID.match(_last_part(label))
    kinds = [kind for kind, ranges in TABLE["imagenet_kinds"].items() if wnid and _within(wnid[0][:9], ranges)]
    names = _other_names(synonyms[0]) or synonyms[:1]
    return list(dict.fromkeys([*kinds, *names, *synonyms[1:]]))


def _other_names(name):
    return TABLE["names"].get(name) or TABLE["actions"].get(name)


def _synonyms(label):
    """The names that a label lists: without articles, remarks in parentheses, and Latin names beside English ones."""
    text = SENSE.sub("", WNID.sub("", _last_part(label))).replace("_", " ").replace("&", " and ")
    parts = _parts(REMARK.sub(" ", text)) or _parts(text)  # "(cone)" is nothing but a remark
    parts = [part for part in parts if not _is_latin(part)] or parts
    names = [ARTICLE.sub("", _normalize(part)) for part in parts]
    return list(dict.fromkeys(LETTER.sub(r"\1-", name) for name in names if name not in TABLE["nameless"]))


def _parts(text):
    """The parts of a list that contain letters."""
    return [part.strip() for part in regex.split("[,;|]", text) if regex.search(r"\p{L}", part)]


def _last_part(label):
    return label.rpartition("/")[2]


def _normalize(text):
    """Lower case, single spaces, and punctuation only inside words."""
    words = BETWEEN_WORDS.sub(" ", unicodedata.normalize("NFC", text)).lower().split()
    return " ".join(filter(None, (word.strip("'\u2019") for word in words)))


def _is_latin(name):
    """Whether a name is a species' name, such as "Canis lupus familiaris"."""
    genus, *epithets = name.split()
    if len(genus) > 3 and genus.lower() in epithets:  # "Gorilla gorilla"
        return True
    if not epithets or not _is_latin_word(epithets[0]):
        return False
    if genus[0].isupper():
        return not ENGLISH_ENDING.search(genus) and all(word.islower() or word.endswith("us") for word in epithets)
    return len(genus) > 3 and _is_latin_word(genus)


def _is_latin_word(word):
    return word in TABLE["latin"] or (bool(LATIN_ENDING.search(word)) and word not in TABLE["english"])


def _within(wnid, ranges):
    return any(first <= wnid <= last for first, last in ranges)


def mentions(caption, names):
    """Whether a caption contains one of the names as whole words, in singular or plural."""
    words = _spaced(caption)
    return any(_spaced(form) in words for name in names for form in _inflections(name))


def _spaced(text):
    return f" {' '.join(split_words(text))} "


def _inflections(name):
    yield name
    yield f"{name}s"
    yield f"{name}es"
    if name.endswith("y"):
        yield f"{name[:-1]}ies"


class LabelSentences:
    """Sentences that mention a label: those of a corpus that begin with its name, or else frames around its name.

    Args:
        captions: the corpus.
        language: the language of labels and corpus, which has `frames` in labels.yaml.
    """

    def __init__(self, captions, language="en"):
        self.language = language
        self.captions_by_word = {}  # {word: captions that have it among their first words}
        for caption in dict.fromkeys(captions):
            for word in set(split_words(caption)[:MAX_NAME_POSITION]):
                self.captions_by_word.setdefault(word, []).append(caption)

    def __call__(self, label):
        """Return up to `MAX_SENTENCES` sentences for a label that has a name."""
        names = [name for name in _full_names(label) if name not in TABLE["homonyms"]]
        sentences = next(filter(None, map(self._sentences_about, names)), [])
        if len(sentences) < MIN_SENTENCES:
            return framed_names(label, self.language)
        return sentences[:MAX_SENTENCES]

    def _sentences_about(self, name):
        """The sentences that begin with a name, shortest first."""
        first_words = {word for form in _inflections(name) for word in split_words(form)[:1]}
        captions = {text for word in first_words for text in self.captions_by_word.get(word, ())}
        captions = [text for text in captions if _is_about(text, name)]
        return sorted(captions, key=lambda text: (len(text), text))


def _is_about(sentence, name):
    words = split_words(sentence)
    return mentions(" ".join(words[: MAX_NAME_POSITION + len(split_words(name)) - 1]), [name])


def framed_names(label, language="en"):
    """The name of a label in each of a language's frames, such as "a close up of an anchor".

    A language without frames in labels.yaml has one: the bare name.
    """
    frames = TABLE["action_frames" if _synonyms(label)[0] in TABLE["actions"] else "frames"]
    name = bare_name(label, language)
    return [frame.format(name=name) for frame in frames.get(language, ["{name}"])]


def label_texts(labels, language="en"):
    """Texts with all words that the framed names of labels have, for the vocabulary: names, and empty frames."""
    frames = [frame for table in (TABLE["frames"], TABLE["action_frames"]) for frame in table.get(language, [])]
    return [bare_name(label, language) for label in labels] + [frame.format(name="") for frame in frames]


def bare_name(label, language="en"):
    """The name of a label with its article in English, such as "an anchor"; "binoculars" and "corn" have none.

    A label that begins with an article keeps it, unless captions call it otherwise; an action has none either.
    """
    name = _full_names(label)[0]
    first = _synonyms(label)[0]
    if first in TABLE["actions"]:
        return first
    if language != "en":
        return name
    given = ARTICLE.match(_normalize(REMARK.sub(" ", _last_part(label))))
    if given and name == first:
        return given[0] + name
    return name if _has_no_article(name) else f"{article(name)} {name}"


def article(name):
    """The indefinite article by the sound of a name: "an" hourglass, "a" unicycle, "an" mp3 player."""
    letters = unicodedata.normalize("NFD", name.lower())
    sound = "".join(letter for letter in letters if not unicodedata.combining(letter))
    if regex.match(TABLE["articles"]["an"], sound, regex.VERBOSE):
        return "an"
    if regex.match(TABLE["articles"]["a"], sound, regex.VERBOSE):
        return "a"
    return "an" if sound[0] in "aeiou" else "a"


def _has_no_article(name):
    """Whether a name is a plural or a substance, judged by its head noun."""
    head = PREPOSITION.split(name)[0].split()[-1]
    if head in TABLE["singular"]:
        return False
    return head in TABLE["plural"] + TABLE["substances"] or bool(regex.search(r"[^isu]s$", head))
