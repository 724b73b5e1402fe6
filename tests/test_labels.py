"""Photos with labels and no captions: their names, sentences about them, and what the trainer learns from both."""

import json
from collections import Counter

import pytest
from conftest import COLOURS, SHAPES, drawn_photo
from datasets import ClassLabel, Dataset, Features, Image
from test_training import arguments

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
def test_a_label_has_names(label, names):
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
def test_a_caption_names_a_label_in_whole_words(caption, names, named):
    assert mentions(caption, names) is named


def test_sentences_begin_with_the_name_or_are_frames():
    about = [f"A {colour} piano in a room ." for colour in ("black", "white", "brown", "old", "large")]
    sentences = LabelSentences([*about, "A man and a woman sit in a room with a piano .", "A pianist plays ."])
    assert sorted(sentences("caltech101/grand_piano")) == sorted(about)
    assert sentences("sea lion") == ["a sea lion"]
    assert bare_name("n02708093_anchor") == "an anchor"


@pytest.fixture
def labelled_set(tmp_path):
    """Drawn photos of two classes, circles three times as many, as parquet with a `ClassLabel`."""
    rows = [(drawn_photo(colour, shape)[0], shape) for shape in SHAPES for colour in COLOURS]
    rows += [row for row in rows if row[1] == "circle"] * 2
    columns = {"image": [photo for photo, _ in rows], "label": [SHAPES.index(shape) for _, shape in rows]}
    folder = tmp_path / "labelled"
    folder.mkdir()
    features = Features({"image": Image(), "label": ClassLabel(names=SHAPES)})
    Dataset.from_dict(columns, features).to_parquet(folder / "train.parquet")
    return folder


def test_each_label_keeps_a_tenth_for_validation(labelled_set):
    photos = labelled_dataset([str(labelled_set)])
    parts = held_out_split(photos, seed=0)
    assert Counter(photos["label"]) == {"circle": 12, "square": 4}
    assert Counter(parts["validation"]["label"]) == {"circle": 1, "square": 1}
    assert len(parts["train"]) == 14


def test_names_are_drawn_alike_and_again_for_the_same_epoch(labelled_set):
    photos = labelled_dataset([str(labelled_set)])
    captions = [[f"a {label}", f"one {label}"] for label in photos["label"]]
    captioned = CaptionedPhotos(photos.select(range(16)), captions=[["x"]] * 16)
    labelled = CaptionedPhotos(photos, captions=captions, first=16)
    mixed = LabelledPhotos(captioned, labelled, share=0.8, count=3, seed=0)
    assert len(mixed) == 16 + 64
    first = [mixed[row]["captions"] for row in range(16, 80)]
    assert 22 < sum("circle" in texts[0] for texts in first) < 42  # half of 64, though three in four are circles
    assert {len(texts) for texts in first} == {3}
    mixed.set_epoch(1)
    assert [mixed[row]["captions"] for row in range(16, 80)] != first
    mixed.set_epoch(0)
    assert [mixed[row]["captions"] for row in range(16, 80)] == first


def test_a_word_that_no_caption_has_is_learnt_from_labels(drawn_set, labelled_set, tmp_path):
    """All photos are captioned as a thing on a ground; labels and text alone teach what the thing is called."""
    text = tmp_path / "text.txt"
    text.write_text("".join(f"a {shape} of {colour} paper\n" for shape in ("circle", "square") for colour in COLOURS))
    options = {"captions_file": text, "labelled_photos": [labelled_set], "labelled_share": 0.8, "learning_rate": 0.01}
    options |= {"encoder_trainable_from": "all", "encoder_learning_rate": 1e-3, "num_train_epochs": 25, "seed": 1}
    options |= {"dropout": 0, "word_dropout": 0, "eval_steps": 250}
    run(resolve(arguments(data_dir=drawn_set, output_dir=tmp_path / "run", **options)))
    rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert rows[-1]["naming"] == 1


def test_a_labelled_folder_without_labels_is_named(drawn_set, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(arguments(data_dir=drawn_set, output_dir=tmp_path / "run", labelled_photos=[drawn_set]))
    assert "has no column 'label'" in capsys.readouterr().err
