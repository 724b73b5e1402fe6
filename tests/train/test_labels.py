"""Labelled photos without captions: names of labels, sentences that mention them, and training on both."""

from collections import Counter

import pytest
from datasets import ClassLabel, Dataset, Features, Image

from tests.helpers.drawn import COLOURS, SHAPES, drawn_photo
from tests.helpers.training import arguments, history
from train.cli import main, resolve, run
from train.data import CaptionedPhotos, LabelledPhotos, LabelSentences, held_out_split, labelled_dataset
from train.data.labels import bare_name, label_names, mentions


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
        ("", []),
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


def test_sentences_about_a_label_or_its_bare_name():
    about = [f"A {colour} piano in a room ." for colour in ("black", "white", "brown", "old", "large")]
    sentences = LabelSentences([*about, "A man and a woman sit in a room with a piano .", "A pianist plays ."])
    assert sorted(sentences("caltech101/grand_piano")) == sorted(about)
    assert sentences("sea lion") == ["a sea lion"]
    assert bare_name("n02708093_anchor") == "an anchor"
    throws = [f"A {age} pitcher throws a ball ." for age in ("young", "old", "tall", "left-handed", "famous")]
    assert LabelSentences(throws)("n03950228_pitcher") == ["a pitcher"]


@pytest.fixture
def labelled_set(tmp_path):
    """Drawn photos of two classes, with three times as many circles as squares, as parquet with a `ClassLabel`."""
    rows = [(drawn_photo(colour, shape)[0], shape) for shape in SHAPES for colour in COLOURS]
    rows += [row for row in rows if row[1] == "circle"] * 2
    columns = {"image": [photo for photo, _ in rows], "label": [SHAPES.index(shape) for _, shape in rows]}
    folder = tmp_path / "labelled"
    folder.mkdir()
    features = Features({"image": Image(), "label": ClassLabel(names=SHAPES)})
    Dataset.from_dict(columns, features).to_parquet(folder / "train.parquet")
    return folder


def test_a_tenth_of_each_label_is_held_out(labelled_set):
    photos = labelled_dataset([str(labelled_set)])
    parts = held_out_split(photos, seed=0)
    assert Counter(photos["label"]) == {"circle": 12, "square": 4}
    assert Counter(parts["validation"]["label"]) == {"circle": 1, "square": 1}
    assert len(parts["train"]) == 14


def test_names_are_sampled_equally_and_reproducibly(labelled_set):
    photos = labelled_dataset([str(labelled_set)])
    captions = [[f"a {label}", f"one {label}"] for label in photos["label"]]
    captioned = CaptionedPhotos(photos.select(range(16)), captions=[["x"]] * 16)
    labelled = CaptionedPhotos(photos, captions=captions, first=16)
    mixed = LabelledPhotos(captioned, labelled, share=0.8, count=3, seed=0)
    assert len(mixed) == 16 + 64
    first = [mixed[row]["captions"] for row in range(16, 80)]
    assert 22 < sum("circle" in texts[0] for texts in first) < 42  # about half, although 3 of 4 photos are circles
    assert {len(texts) for texts in first} == {3}
    mixed.set_epoch(1)
    assert [mixed[row]["captions"] for row in range(16, 80)] != first
    mixed.set_epoch(0)
    assert [mixed[row]["captions"] for row in range(16, 80)] == first


def test_names_are_learnt_from_labelled_photos(drawn_set, labelled_set, tmp_path):
    """The validation captions mention the labels of held-out labelled photos."""
    text = tmp_path / "text.txt"
    text.write_text("".join(f"a {shape} of {colour} paper\n" for shape in ("circle", "square") for colour in COLOURS))
    options = {"captions_file": text, "labelled_photos": [labelled_set], "labelled_share": 0.8, "learning_rate": 0.01}
    options |= {"encoder_trainable_from": "all", "encoder_learning_rate": 1e-3, "num_train_epochs": 25, "seed": 1}
    options |= {"dropout": 0, "word_dropout": 0, "eval_steps": 250}
    run(resolve(arguments(data_dir=drawn_set, output_dir=tmp_path / "run", **options)))
    rows = history(tmp_path / "run")
    assert rows[-1]["naming"] == 1


def test_labelled_photos_without_labels_are_an_error(drawn_set, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(arguments(data_dir=drawn_set, output_dir=tmp_path / "run", labelled_photos=[drawn_set]))
    assert "has no column 'label'" in capsys.readouterr().err
