"""Photos with a class label and no caption: names for the labels, and sentences that mention them.

Follows "Deep Compositional Captioning" (Hendricks et al. 2016) and "Captioning Images with Diverse Objects"
(Venugopalan et al. 2017): from labelled photos and unpaired text, a captioner learns to name objects that no captioned
photo shows.
"""

import random
import re
from pathlib import Path

import yaml
from datasets import ClassLabel, Image, Value, concatenate_datasets

from ..words import split_words
from .layouts import load_photo_folder

WNID = re.compile(r"^n\d{8}[_ ]?")
MAX_NAME_POSITION = 4  # a sentence is about a name only if the name begins within its first words
MAX_SENTENCES = 40  # per label, the shortest ones
MIN_SENTENCES = 5  # fewer are often about a homonym
TABLE = yaml.safe_load(Path(__file__).with_name("labels.yaml").read_text(encoding="utf-8"))


def labelled_dataset(folders):
    """Load labelled photos from imagefolders or folders of parquet files. Photos whose label has no name are dropped.

    Returns a `Dataset` with the columns `image` (not decoded) and `label` (string). Raises `ValueError` if a folder has
    no column `label`.
    """
    sets = []
    for folder in folders:
        photos = load_photo_folder(folder)
        if "label" not in photos.column_names:
            raise ValueError(
                f"labelled_photos={folder!r} has no column 'label', only {', '.join(photos.column_names)}; rename the"
                " column with the labels."
            )
        feature = photos.features["label"]
        labels = photos["label"][:]
        if isinstance(feature, ClassLabel):
            labels = feature.int2str(labels)
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

    A label may be a path ("caltech101/grand_piano") and start with a WordNet ID ("n02099601_golden_retriever"). Its
    names are the label itself or synonyms, the category of ImageNet's breeds and species ("dog"), and the head noun.
    """
    names = _full_names(label)
    head = names[-1].split()[-1:] if names and _normalise(label) not in TABLE["names"] else []
    return list(dict.fromkeys([*names, *head]))


def _full_names(label):
    name = _normalise(label)
    if not name or name in TABLE["nameless"]:
        return []
    wnid = WNID.match(label.rpartition("/")[2])
    kinds = [kind for kind, ranges in TABLE["imagenet_kinds"].items() if wnid and _within(wnid[0][:9], ranges)]
    return kinds + TABLE["names"].get(name, [name])


def _normalise(label):
    return re.sub(r"[_\s-]+", " ", WNID.sub("", label.rpartition("/")[2])).strip().lower()


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
    """Sentences that mention a label: sentences of a corpus that begin with its name, or else the bare name."""

    def __init__(self, captions):
        self.captions_by_word = {}  # {word: captions that have it among their first words}
        for caption in dict.fromkeys(captions):
            for word in set(split_words(caption)[:MAX_NAME_POSITION]):
                self.captions_by_word.setdefault(word, []).append(caption)

    def __call__(self, label):
        """Return up to `MAX_SENTENCES` sentences for a label that has a name."""
        names = [name for name in _full_names(label) if name not in TABLE["homonyms"]]
        sentences = next(filter(None, map(self._sentences_about, names)), [])
        return sentences[:MAX_SENTENCES] if len(sentences) >= MIN_SENTENCES else [bare_name(label)]

    def _sentences_about(self, name):
        """The sentences that begin with a name, shortest first."""
        first_words = {word for form in _inflections(name) for word in split_words(form)[:1]}
        captions = {text for word in first_words for text in self.captions_by_word.get(word, ())}
        captions = [text for text in captions if _is_about(text, name)]
        return sorted(captions, key=lambda text: (len(text), text))


def bare_name(label):
    """The name of a label with its article, such as "an anchor"."""
    name = _full_names(label)[0]
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _is_about(sentence, name):
    words = split_words(sentence)
    return mentions(" ".join(words[: MAX_NAME_POSITION + len(split_words(name)) - 1]), [name])
