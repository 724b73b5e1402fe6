"""Labeled photos without captions: names of labels, sentences that mention them, and training on both."""

from collections import Counter

import pytest
from datasets import ClassLabel, Dataset, Features, Image

from tests.helpers.drawn import COLORS, SHAPES, drawn_photo
from tests.helpers.training import arguments, history
from train.cli import main, resolve, run
from train.data import CaptionedPhotos, LabeledPhotos, LabelSentences, held_out_split, labeled_dataset
from train.data.labels import (
    MAX_SENTENCES,
    MIN_SENTENCES,
    bare_name,
    framed_names,
    label_names,
    label_texts,
    mentions,
)
from train.words import split_words


@pytest.mark.parametrize(
    ("label", "names"),
    [
        ("cup", ["cup", "mug"]),
        ("caltech101/grand_piano", ["piano"]),
        ("n02099601_golden_retriever", ["dog", "golden retriever", "retriever"]),
        ("imagenet/n02071294_killer_whale", ["killer whale", "whale"]),
        ("toothbrush", ["toothbrush"]),
        ("caltech101/BACKGROUND_Google", []),
        ("coco", []),
        # ImageNet's own: synonyms, of which Latin ones are left out
        ("tench, Tinca tinca", ["tench"]),
        ("Tinca tinca, tench", ["tench"]),
        ("tench, tinca tinca", ["tench"]),
        ("n01440764 tench, Tinca tinca", ["fish", "tench"]),
        ("tiger shark, Galeocerdo cuvieri", ["tiger shark", "shark"]),
        ("ice bear, polar bear, Ursus Maritimus, Thalarctos maritimus", ["ice bear", "polar bear", "bear"]),
        ("timber wolf, gray wolf, Canis lupus lycaon", ["timber wolf", "gray wolf", "wolf"]),
        ("gorilla, Gorilla gorilla", ["gorilla"]),
        ("American egret, great white heron, Egretta albus", ["american egret", "great white heron", "egret"]),
        ("Lhasa, Lhasa apso", ["lhasa", "lhasa apso"]),
        ("binoculars, field glasses, opera glasses", ["binoculars", "field glasses", "opera glasses"]),
        ("Pizza margherita", ["pizza margherita", "margherita"]),
        # remarks, articles, punctuation
        ("crane (bird, wading)", ["crane"]),
        ("ice cream (cone)", ["ice cream"]),
        ("(cone)", ["cone"]),
        ("traffic cone (orange", ["traffic cone orange", "orange"]),
        ("a dog", ["dog"]),
        ("The Eiffel Tower!", ["eiffel tower", "tower"]),
        ("dog.n.01", ["dog"]),
        ("T_shirt", ["t-shirt"]),
        ("hen-of-the-woods", ["hen of the woods", "hen"]),
        ("salt & pepper", ["salt and pepper", "pepper"]),
        ("\u092c\u093f\u0932\u094d\u0932\u0940", ["\u092c\u093f\u0932\u094d\u0932\u0940"]),  # vowel signs
        *(
            (nothing, [])
            for nothing in ("", " ", "_", "???", "...", "()", "nan", "None", "N/A", "null", "7", "a", "unknown")
        ),
        ("dog, nan, ???", ["dog"]),
    ],
)
def test_names_of_labels(label, names):
    assert label_names(label) == names


@pytest.mark.parametrize(
    ("caption", "names", "named"),
    [
        ("Two cups of coffee .", ["cup"], True),
        ("a cupboard", ["cup"], False),
        ("ripe cherries", ["cherry"], True),
        ("a grand piano", ["grand piano"], True),
        ("a piano that is grand", ["grand piano"], False),
    ],
)
def test_mentions_match_whole_words(caption, names, named):
    assert mentions(caption, names) is named


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("n02708093_anchor", "an anchor"),
        *((name, f"an {name}") for name in ("hourglass", "hour", "heirloom", "umbrella", "oboe", "upright piano")),
        *((name, f"an {name}") for name in ("unidentified object", "eel", "mp3 player", "suv", "x-ray", "8 ball")),
        *((name, f"a {name}") for name in ("unicycle", "unicorn", "ewer", "euphonium", "ukulele", "one way sign")),
        *((name, f"a {name}") for name in ("yurt", "cd player", "tv", "usb stick", "hermit crab", "4x4", "rhythm")),
        ("MP3 player", "an mp3 player"),
        ("European fire salamander", "a european fire salamander"),
        ("\u00e9clair", "an \u00e9clair"),
        # plurals and substances have no article, what only looks like them does
        *((name, name) for name in ("binoculars", "parallel bars", "jeans", "people", "broccoli", "guacamole", "skis")),
        *((name, f"a {name}") for name in ("lens", "bus", "compass", "cactus", "rhinoceros", "dress", "lens cap")),
        *((name, name) for name in ("a dog", "an apple", "the eiffel tower")),
        ("a ox", "a cow"),  # the captions' name has its own article
        ("stanford40/riding_a_horse", "riding a horse"),
    ],
)
def test_articles_follow_the_sound(label, name):
    assert bare_name(label) == name


def test_sentences_about_a_label_or_frames_around_its_name():
    about = [f"A {color} piano in a room ." for color in ("black", "white", "brown", "old", "large")]
    corpus = [*about, "A man and a woman sit in a room with a piano .", "A pianist plays ."]
    sentences = LabelSentences(corpus)
    assert sorted(sentences("caltech101/grand_piano")) == sorted(about)
    framed = sentences("sea lion")
    assert {"a close up of a sea lion", "a sea lion on a white background"} < set(framed)
    assert MIN_SENTENCES <= len(framed) <= MAX_SENTENCES
    assert all(mentions(sentence, ["sea lion"]) for sentence in framed)
    assert len({len(split_words(sentence)) for sentence in framed}) >= 4
    assert min(len(split_words(sentence)) for sentence in sentences("anchor")) >= 4  # never "an anchor" alone
    assert "a person riding a horse" in sentences("stanford40/riding_a_horse")
    assert "a close up of binoculars" in sentences("binoculars")
    throws = [f"A {age} pitcher throws a ball ." for age in ("young", "old", "tall", "left-handed", "famous")]
    assert LabelSentences(throws)("n03950228_pitcher") == framed_names("pitcher")
    # frames belong to a language
    assert LabelSentences(corpus, language="vi")("c\u00e1i neo") == ["c\u00e1i neo"]


def test_words_of_labels_and_frames_are_in_the_texts_of_the_vocabulary():
    labels = ["anchor", "stanford40/riding_a_horse"]
    words = {word for text in label_texts(labels) for word in split_words(text)}
    assert words == {word for label in labels for text in framed_names(label) for word in split_words(text)}


@pytest.fixture
def labeled_set(tmp_path):
    """Drawn photos of two classes, with three times as many circles as squares, as parquet with a `ClassLabel`."""
    rows = [(drawn_photo(color, shape)[0], shape) for shape in SHAPES for color in COLORS]
    rows += [row for row in rows if row[1] == "circle"] * 2
    columns = {"image": [photo for photo, _ in rows], "label": [SHAPES.index(shape) for _, shape in rows]}
    folder = tmp_path / "labeled"
    folder.mkdir()
    features = Features({"image": Image(), "label": ClassLabel(names=SHAPES)})
    Dataset.from_dict(columns, features).to_parquet(folder / "train.parquet")
    return folder


def test_a_tenth_of_each_label_is_held_out(labeled_set):
    photos = labeled_dataset([str(labeled_set)])
    parts = held_out_split(photos, seed=0)
    assert Counter(photos["label"]) == {"circle": 12, "square": 4}
    assert Counter(parts["validation"]["label"]) == {"circle": 1, "square": 1}
    assert len(parts["train"]) == 14


def test_names_are_sampled_equally_and_reproducibly(labeled_set):
    photos = labeled_dataset([str(labeled_set)])
    captions = [[f"a {label}", f"one {label}"] for label in photos["label"]]
    captioned = CaptionedPhotos(photos.select(range(16)), captions=[["x"]] * 16)
    labeled = CaptionedPhotos(photos, captions=captions, first=16)
    mixed = LabeledPhotos(captioned, labeled, share=0.8, count=3, seed=0)
    assert len(mixed) == 16 + 64
    first = [mixed[row]["captions"] for row in range(16, 80)]
    assert 22 < sum("circle" in texts[0] for texts in first) < 42  # about half, although 3 of 4 photos are circles
    assert {len(texts) for texts in first} == {3}
    mixed.set_epoch(1)
    assert [mixed[row]["captions"] for row in range(16, 80)] != first
    mixed.set_epoch(0)
    assert [mixed[row]["captions"] for row in range(16, 80)] == first


@pytest.mark.slow
def test_names_are_learnt_from_labeled_photos(drawn_set, labeled_set, tmp_path):
    """The validation captions mention the labels of held-out labeled photos."""
    text = tmp_path / "text.txt"
    text.write_text("".join(f"a {shape} of {color} paper\n" for shape in ("circle", "square") for color in COLORS))
    options = {"captions_file": text, "labeled_photos": [labeled_set], "labeled_share": 0.8, "learning_rate": 0.01}
    options |= {"encoder_trainable_from": "all", "encoder_learning_rate": 1e-3, "num_train_epochs": 25, "seed": 1}
    options |= {"dropout": 0, "word_dropout": 0, "eval_steps": 250}
    run(resolve(arguments(data_dir=drawn_set, output_dir=tmp_path / "run", **options)))
    rows = history(tmp_path / "run")
    assert rows[-1]["naming"] == 1


def test_photos_without_a_label_are_left_out(tmp_path):
    """-1 and null in a column of classes, and classes that name nothing."""
    photo = drawn_photo(COLORS[0], SHAPES[0])[0]
    features = Features({"image": Image(), "label": ClassLabel(names=["nan", "tench, Tinca tinca", "???"])})
    Dataset.from_dict({"image": [photo] * 5, "label": [0, 1, -1, None, 2]}, features).to_parquet(tmp_path / "0.parquet")
    assert labeled_dataset([str(tmp_path)])["label"] == ["tench, Tinca tinca"]


def test_labeled_photos_without_labels_are_an_error(drawn_set, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(arguments(data_dir=drawn_set, output_dir=tmp_path / "run", labeled_photos=[drawn_set]))
    assert "has no column 'label'" in capsys.readouterr().err
