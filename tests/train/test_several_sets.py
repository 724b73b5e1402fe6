"""Several data sets in one run, and captions in several languages."""

import csv
import json
from collections import Counter

import pytest
from datasets import Dataset

from tests.helpers.captioners import build_tiny
from tests.helpers.training import arguments, history
from train.cli import run
from train.data import (
    CaptionedPhotos,
    MixedStream,
    StreamedPhotos,
    WeightedPhotos,
    captioned_datasets,
    captions_of,
    make_tokenizer,
    sources,
)
from train.data.batches import Collate, collate_captions
from train.options import resolve
from train.settings import Settings

VIETNAMESE = {"circle": "một hình tròn", "square": "một hình vuông"}


def write_set(folder, photos, columns):
    """Write a data set with the splits train and validation; `columns` returns the caption columns of a caption."""
    folder.mkdir()
    for split in ("train", "validation"):
        rows = []
        for number, (photo, caption) in enumerate(photos):
            file = folder / f"{number}.png"
            photo.save(file)
            rows.append({"image": {"bytes": file.read_bytes(), "path": file.name}} | columns(caption))
            file.unlink()
        Dataset.from_list(rows).to_parquet(folder / f"{split}-0.parquet")
    return str(folder)


def translate(caption):
    return next(text for shape, text in VIETNAMESE.items() if shape in caption)


@pytest.fixture
def english(tmp_path, drawn_photos):
    return write_set(tmp_path / "english", drawn_photos[:4], lambda caption: {"captions": [caption, f"{caption} !"]})


@pytest.fixture
def vietnamese(tmp_path, drawn_photos):
    return write_set(tmp_path / "vietnamese", drawn_photos[4:], lambda caption: {"caption": translate(caption)})


@pytest.fixture
def both(tmp_path, drawn_photos):
    return write_set(
        tmp_path / "both", drawn_photos, lambda caption: {"captions": [caption], "captions_vi": [translate(caption)]}
    )


def test_each_data_set_has_a_name_a_weight_and_a_language():
    settings = Settings(
        dataset_name=["a/b"],
        data_dir=["x/photos", "y/photos"],
        data_weights=[1, 0.5, 2],
        data_languages=["en", "vi", "vi"],
    )
    found = [(source.name, source.language, source.weight) for source in sources(settings)]
    assert found == [("a/b", "en", 1), ("x/photos", "vi", 0.5), ("y/photos", "vi", 2)]
    with pytest.raises(ValueError, match="--data_weights gives 1 weights for 2 data sets; give one for each"):
        sources(Settings(data_dir=["a", "b"], data_weights=[1]))
    with pytest.raises(ValueError, match="--data_languages gives 3 languages for 1 data sets"):
        sources(Settings(data_dir=["a"], data_languages=["en", "vi", "fr"]))


def test_languages_come_from_columns_dictionaries_rows_or_the_data_set(tmp_path, drawn_photos):
    def captions(name, columns, **options):
        folder = write_set(tmp_path / name, drawn_photos[:1], columns)
        settings = Settings(data_dir=[folder], **options)
        (splits,) = captioned_datasets(settings, ["train"], languages=["en", "vi"]).values()
        return captions_of(splits["train"])

    expected = [("en", "a dog"), ("vi", "con chó")]
    assert (
        captions("columns", lambda _: {"caption": "a dog", "caption_vi": "con chó"}, data_languages=["en"]) == expected
    )
    assert (
        captions("keys", lambda _: {"captions": {"vi": ["con chó"], "en": ["a dog"], "fr": ["un chien"]}}) == expected
    )
    pairs = [{"language": "vi", "caption": "con chó"}, {"language": "en-US", "caption": "a dog"}]
    assert captions("pairs", lambda _: {"captions": pairs}) == expected
    assert captions("rows", lambda _: {"caption": "con chó", "language": "vi"}) == expected[1:]
    assert captions("given", lambda _: {"caption": "con chó"}, data_languages=["vi"]) == expected[1:]
    with pytest.raises(ValueError, match=r"captions of unknown do not say their language.*--data_languages \(en, vi\)"):
        captions("unknown", lambda _: {"caption": "con chó"})
    with pytest.raises(ValueError, match="french has captions in 'fr'; the captioner's languages are en, vi"):
        captions("french", lambda _: {"caption": "un chien"}, data_languages=["fr"])


def test_weights_say_how_often_a_photo_is_drawn(english, vietnamese):
    sets = [
        CaptionedPhotos(splits["train"], name)
        for name, splits in captioned_datasets(Settings(data_dir=[english, vietnamese]), ["train"]).items()
    ]
    photos = WeightedPhotos(sets, [2, 0.5], seed=1)
    drawn = []
    for epoch in range(4):
        photos.set_epoch(epoch)
        rows = Counter((row["set"], row["name"]) for row in photos)
        assert sorted(rows.values()) == [1] * 2 + [2] * 4, "half of the four photos once, the others twice"
        drawn.append(frozenset(name for set_name, name in rows if set_name == "vietnamese"))
    assert len(set(drawn)) > 1, "other photos in other epochs"


def test_streams_are_mixed_by_weight(english, vietnamese):
    """Each data set as often as its weight says, in an order of each epoch's own; validation reads each photo once."""
    settings = Settings(data_dir=[english, vietnamese], data_languages=["en", "vi"], data_weights=[1, 2])
    settings.streaming = True

    def stream(split, weights, epoch=0):
        streams = [StreamedPhotos(source, settings, split, ["en", "vi"]) for source in sources(settings)]
        mixed = MixedStream(streams, weights, settings.seed)
        mixed.set_epoch(epoch)
        return list(mixed)

    rows = stream("train", [1, 2])
    counts = Counter((row["set"], row["photo"]) for row in rows)
    assert Counter(name for name, _ in counts) == {"english": 4, "vietnamese": 4}
    assert {(name, count) for (name, _), count in counts.items()} == {("english", 1), ("vietnamese", 2)}
    assert len({photo for _, photo in counts}) == len(counts), "no two photos have the same number"
    assert {(row["set"], *row["languages"]) for row in rows} == {("english", "en", "en"), ("vietnamese", "vi")}
    order, again, next_epoch = ([row["photo"] for row in stream("train", [1, 2], epoch=epoch)] for epoch in (0, 0, 1))
    assert order == again != next_epoch
    assert sorted(order) == sorted(next_epoch)
    assert {row["set"] for row in stream("train", [1, 0])} == {"english"}
    assert Counter(row["set"] for row in stream("validation", [1, 1])) == {"english": 4, "vietnamese": 4}


def test_captions_begin_with_the_token_of_their_language():
    tokenizer = make_tokenizer(["a dog", "con chó"], 1, ["en", "vi"])
    assert tokenizer.convert_ids_to_tokens(range(5)) == ["<pad>", "<unk>", "<en>", "<end>", "<vi>"]
    batch = collate_captions(tokenizer, [("en", "a dog"), ("vi", "con"), ("vi", None)])
    a, dog, con = tokenizer.convert_tokens_to_ids(["a", "dog", "con"])
    assert batch["labels"].tolist() == [[a, dog, 3], [con, 3, -100], [-100] * 3]
    assert batch["decoder_input_ids"].tolist() == [[2, a, dog], [4, con, 3], [4, 0, 0]]


def test_a_photo_has_as_many_captions_in_each_language(both):
    settings = Settings(data_dir=[both], data_languages=["en"], captions_per_photo=3)
    (splits,) = captioned_datasets(settings, ["train"], languages=["en", "vi"]).values()
    _, processor = build_tiny()
    processor.tokenizer = make_tokenizer((text for _, text in captions_of(splits["train"])), 1, ["en", "vi"])
    batch = Collate(processor, settings)([CaptionedPhotos(splits["train"])[row] for row in range(2)])
    assert batch["label_languages"] == ["en", "vi"]
    assert batch["decoder_input_ids"][:, 0].tolist() == [2, 2, 2, 4, 4, 4] * 2


def test_both_placements_of_vietnamese_tone_marks_are_one_word():
    tokenizer = make_tokenizer(["hòa bình", "thủy", "quý"], 1, ["vi"])
    assert tokenizer("hoà thuỷ Hoà").input_ids == tokenizer("hòa thủy hòa").input_ids
    assert tokenizer.unk_token_id not in tokenizer("quý").input_ids, "after q, the mark stays on y"
    assert tokenizer("ho\N{COMBINING GRAVE ACCENT}a").input_ids == tokenizer("hòa").input_ids, "combining forms"


def test_a_run_with_two_data_sets_learns_both_languages_and_scores_each(tmp_path, english, vietnamese):
    text = {language: tmp_path / f"{language}.txt" for language in ("en", "vi")}
    text["en"].write_text("a red circle on a gray ground\n" * 4, encoding="utf-8")
    text["vi"].write_text("một hình tròn\nmột hình vuông\n" * 2, encoding="utf-8")
    options = {
        "data_dir": [english, vietnamese],
        "data_languages": ["en", "vi"],
        "output_dir": tmp_path / "run",
        "num_train_epochs": 40,
        "eval_steps": 40,
        "learning_rate": 0.01,
        "captions_file": list(text.values()),
    }
    run(resolve(arguments(**options)))
    last = [row for row in history(tmp_path / "run") if "score" in row][-1]
    groups = {name.partition("/")[2]: value for name, value in last.items() if name.startswith("CIDEr-D/")}
    assert groups.keys() == {"english/en", "vietnamese/vi"}
    assert last["CIDEr-D"] == pytest.approx(sum(groups.values()) / 2)
    assert min(groups.values()) > 5, "both are learned by heart"
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["languages"] == ["en", "vi"]
    with open(tmp_path / "run" / "curves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["CIDEr-D/vietnamese/vi"]) == pytest.approx(groups["vietnamese/vi"])
