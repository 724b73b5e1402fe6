"""Photos with a class label and no caption: what to call them, and sentences that do.

After "Deep Compositional Captioning" (Hendricks et al. 2016) and "Captioning Images with Diverse Objects" (Venugopalan
et al. 2017): a captioner learns to name what no captioned photo shows from labelled photos and from text alone.
"""

import random
import re
from pathlib import Path

import yaml
from datasets import ClassLabel, Image, Value, concatenate_datasets, load_dataset

WORD = re.compile(r"\w+(?:['-]\w+)*")
WNID = re.compile(r"^n\d{8}[_ ]?")
NAME_PLACE = 4  # words of a sentence among which the name must begin, so that the sentence is about it
SENTENCES = 40  # of each label, the shortest
FEW_SENTENCES = 5  # fewer are often about a homonym
TABLE = yaml.safe_load(Path(__file__).with_name("labels.yaml").read_text(encoding="utf-8"))


def labelled_dataset(folders):
    """The labelled photos of imagefolders or folders of parquet files, whose labels name something.

    Returns a `Dataset` with the columns `image` (not decoded) and `label` (string). Raises `ValueError` for a folder
    without the column `label`.
    """
    sets = []
    for folder in folders:
        photos = load_dataset(folder, split="train")
        if "label" not in photos.column_names:
            raise ValueError(f"labelled_photos={folder!r} has no column 'label', but {', '.join(photos.column_names)}.")
        feature = photos.features["label"]
        labels = photos["label"][:]
        if isinstance(feature, ClassLabel):
            labels = feature.int2str(labels)
        photos = photos.select_columns("image").cast_column("image", Image(decode=False))
        photos = photos.add_column("label", [str(label) for label in labels], feature=Value("string"))
        sets.append(photos.select([row for row, label in enumerate(labels) if names_of_label(str(label))]))
    return concatenate_datasets(sets)


def held_out_split(photos, seed):
    """Photos to learn from and, of each label that has several, a tenth (at least one) to be named in validation.

    Returns ({"train": Dataset, "validation": Dataset}).
    """
    rows = {}
    for row, label in enumerate(photos["label"]):
        rows.setdefault(label, []).append(row)
    held_out = set()
    for label, own in sorted(rows.items()):
        if len(own) > 1:
            held_out.update(random.Random(f"{seed} {label}").sample(own, max(1, len(own) // 10)))
    return {
        "train": photos.select([row for row in range(len(photos)) if row not in held_out]),
        "validation": photos.select(sorted(held_out)),
    }


def names_of_label(label):
    """What a caption may call a label, the best name first; [] where the label names nothing.

    A label may be a path ("caltech101/grand_piano") and begin with ImageNet's id ("n02099601_golden_retriever"). Beside
    its own name there are synonyms, for ImageNet's breeds and species their kind ("dog"), and its head noun.
    """
    own = _own_names(label)
    head = own[-1].split()[-1:] if own and _plain(label) not in TABLE["names"] else []
    return list(dict.fromkeys([*own, *head]))


def _own_names(label):
    name = _plain(label)
    if not name or name in TABLE["nameless"]:
        return []
    wnid = WNID.match(label.rpartition("/")[2])
    kinds = [kind for kind, ranges in TABLE["imagenet_kinds"].items() if wnid and _within(wnid[0][:9], ranges)]
    return kinds + TABLE["names"].get(name, [name])


def _plain(label):
    return re.sub(r"[_\s-]+", " ", WNID.sub("", label.rpartition("/")[2])).strip().lower()


def _within(wnid, ranges):
    return any(first <= wnid <= last for first, last in ranges)


def names_it(caption, names):
    """Whether a caption contains one of the names, as whole words, in the singular or the plural."""
    words = f" {' '.join(WORD.findall(caption.lower()))} "
    return any(f" {form} " in words for name in names for form in _forms(name))


def _forms(name):
    yield name
    yield f"{name}s"
    yield f"{name}es"
    if name.endswith("y"):
        yield f"{name[:-1]}ies"


class LabelSentences:
    """Sentences that name a label: those of a text that begin with the name, or the bare name."""

    def __init__(self, captions):
        self.beginning = {}  # {word: sentences in whose beginning it stands}
        for caption in dict.fromkeys(captions):
            for word in set(WORD.findall(caption.lower())[:NAME_PLACE]):
                self.beginning.setdefault(word, []).append(caption)

    def __call__(self, label):
        """Up to `SENTENCES` sentences for a label that names something."""
        found = next(filter(None, map(self._about, _own_names(label))), [])
        return found[:SENTENCES] if len(found) >= FEW_SENTENCES else [bare_name(label)]

    def _about(self, name):
        """The sentences that begin with a name, the shortest first."""
        found = {text for form in _forms(name) for text in self.beginning.get(form.split()[0], ())}
        found = [text for text in found if _begins(text, name)]
        return sorted(found, key=lambda text: (len(text), text))


def bare_name(label):
    """A label's name with its article, such as "an anchor"."""
    name = _own_names(label)[0]
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _begins(sentence, name):
    words = WORD.findall(sentence.lower())
    return names_it(" ".join(words[: NAME_PLACE + len(name.split()) - 1]), [name])
