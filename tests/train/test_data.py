"""Data sets of all formats are loaded with the columns `image` and `captions`."""

import csv
import io
import json

import numpy as np
import PIL.Image
import pytest
from datasets import Dataset, Features, Image, Value
from datasets import config as datasets_config

from modeling_captioner import PhotoError
from tests.helpers.paths import SHARED
from tests.helpers.photo_server import PhotoServer
from tests.helpers.shards import tar
from tests.helpers.training import single_dataset
from train.data import Collate, photo_of, pixel_values
from train.settings import Settings

TEXTS = ["a small one", "the photo"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("train.data.download.CACHE_DIR", tmp_path / "photos")


@pytest.fixture
def photo_bytes(drawn_photos):
    file = io.BytesIO()
    drawn_photos[0][0].save(file, "JPEG")
    return file.getvalue()


def parquet(folder, columns, rows=10, features=None):
    """Write a parquet file whose rows have the same cells, but different photos."""
    folder.mkdir(parents=True, exist_ok=True)
    name, photo = next((name, cell) for name, cell in columns.items() if isinstance(cell, dict))
    rows = [columns | {name: photo | {"bytes": numbered(photo["bytes"], number)}} for number in range(rows)]
    Dataset.from_list(rows, features=features).to_parquet(folder / "train.parquet")
    return folder


def numbered(photo, number):
    """A different file with the same image: bytes after its end are ignored."""
    return photo + bytes([number])


def loaded(folder, **options):
    return single_dataset(Settings(data_dir=[str(folder)], **options))


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({"captions": TEXTS}, TEXTS),
        ({"caption": "a small one"}, TEXTS[:1]),
        ({"caption": TEXTS}, TEXTS),
        ({"caption_0": TEXTS[0], "caption_1": TEXTS[1]}, TEXTS),
        ({"sentences": TEXTS}, TEXTS),
        ({"sentences": [{"raw": text, "tokens": text.split()} for text in TEXTS]}, TEXTS),
        ({"sentences_raw": TEXTS}, TEXTS),
        ({"question": "What is this?", "answer": TEXTS}, TEXTS),
        ({"text": TEXTS[1]}, TEXTS[1:]),
        ({"captions": [TEXTS[0], " ", ""]}, TEXTS[:1]),
    ],
)
def test_columns_are_recognized(tmp_path, photo_bytes, cells, expected):
    folder = parquet(tmp_path / "set", {"image": {"bytes": photo_bytes, "path": "1.jpg"}} | cells)
    splits = loaded(folder)
    assert {name: len(split) for name, split in splits.items()} == {"train": 8, "validation": 2}
    row = splits["validation"][0]
    assert row.keys() == {"image", "captions", "languages"}
    assert row["captions"] == expected
    assert photo_of(row).size == (64, 64)


def test_unknown_columns_are_listed_and_can_be_chosen(tmp_path, photo_bytes):
    folder = parquet(tmp_path / "set", {"picture": {"bytes": photo_bytes, "path": None}, "words": "a dog"})
    with pytest.raises(
        ValueError, match=r"with photos was recognized among picture, words; .*--image_column \(known names: image,"
    ):
        loaded(folder)
    with pytest.raises(ValueError, match=r"with captions was recognized .*--caption_column \(known names: captions,"):
        loaded(folder, image_column="picture")
    with pytest.raises(ValueError, match="no column 'pictures' among picture, words; choose one with --image_column"):
        loaded(folder, image_column="pictures")
    assert loaded(folder, image_column="picture", caption_column="words")["train"][0]["captions"] == ["a dog"]


def test_karpathys_splits(tmp_path, photo_bytes):
    names = ["train", "restval", "val", "test", "train"]
    rows = [
        {"image": {"bytes": numbered(photo_bytes, number), "path": None}, "sentences": [f"{number}"], "split": name}
        for number, name in enumerate(names)
    ]
    (tmp_path / "set").mkdir()
    Dataset.from_list(rows).to_parquet(tmp_path / "set" / "all.parquet")
    splits = loaded(tmp_path / "set")
    assert sorted(texts[0] for texts in splits["train"]["captions"]) == ["0", "1", "4"]
    assert splits["validation"]["captions"][:] == [["2"]]


def test_the_validation_split_depends_on_the_seed(tmp_path, photo_bytes):
    rows = [{"image": {"bytes": numbered(photo_bytes, n), "path": None}, "text": str(n)} for n in range(50)]
    (tmp_path / "set").mkdir()
    Dataset.from_list(rows).to_parquet(tmp_path / "set" / "all.parquet")
    one, same, other = (loaded(tmp_path / "set", seed=seed) for seed in (1, 1, 2))
    assert len(one["train"]) == 40
    assert one["validation"]["captions"][:] == same["validation"]["captions"][:] != other["validation"]["captions"][:]
    assert not {str(texts) for texts in one["train"]["captions"]} & {
        str(texts) for texts in one["validation"]["captions"]
    }
    assert len(loaded(tmp_path / "set", max_train_samples=5, max_eval_samples=3)["train"]) == 5


@pytest.mark.parametrize("embedded", [True, False])
def test_rows_of_the_same_photo_are_merged(tmp_path, photo_bytes, embedded):
    """Whether each row contains the photo itself or its file name."""
    folder = tmp_path / "set"
    folder.mkdir()
    rows = []
    for number in range(30):
        name, photo = f"{number % 10}.jpg", numbered(photo_bytes, number % 10)
        (folder / name).write_bytes(photo)
        image = {"image": {"bytes": photo, "path": None}} if embedded else {"file_name": name}
        rows.append(image | {"caption": f"{number}"})
    if embedded:
        folder = tmp_path / "parquet"
        folder.mkdir()
        Dataset.from_list(rows).to_parquet(folder / "all.parquet")
    else:
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = loaded(folder)
    captions = [row["captions"] for split in splits.values() for row in split]
    assert sorted(captions) == sorted([[str(n), str(n + 10), str(n + 20)] for n in range(10)])
    assert len(splits["validation"]) == 2
    alone = single_dataset(Settings(data_dir=[str(folder)]), photos=False)
    assert {name: split["captions"][:] for name, split in alone.items()} == {
        name: split["captions"][:] for name, split in splits.items()
    }


@pytest.mark.parametrize("column", ["filename", "image_id"])
def test_different_photos_with_the_same_name_stay_apart(tmp_path, photo_bytes, column):
    """Two folders with 0.jpg to 4.jpg, and two rows with a caption each per photo; one row leaves its photo out."""
    rows = []
    for caption in ("one", "two"):
        for photo in range(10):
            name = f"{photo % 5}.jpg" if column == "filename" else photo % 5
            image = {"bytes": photo_bytes[:-2] + bytes([photo]) * 9, "path": f"{caption}-{photo}.jpg"}
            rows.append({"image": image, column: name, "caption": f"{caption} {photo}"})
    Dataset.from_list(rows).to_parquet(tmp_path / "all.parquet")
    splits = loaded(tmp_path)
    captions = [row["captions"] for split in splits.values() for row in split]
    assert sorted(captions) == [[f"one {photo}", f"two {photo}"] for photo in range(10)]
    for split in splits.values():
        for row in split:
            assert row["image"]["bytes"].endswith(bytes([int(row["captions"][0][-1])]) * 9)


def test_a_name_in_a_list_is_that_of_the_photo_beside_it(tmp_path, photo_bytes):
    """A folder of the same names elsewhere is another photo's, unless the files are equal."""
    for place, number in (("Images", 1), ("a_backup", 2), ("thumbnails", 3)):
        (tmp_path / place).mkdir()
        for name in ("0.jpg", "1.jpg"):
            (tmp_path / place / name).write_bytes(numbered(photo_bytes, number))
    (tmp_path / "captions.txt").write_text("image,caption\n0.jpg,a dog\n1.jpg,a cat\n")
    splits = loaded(tmp_path)
    paths = {row["captions"][0]: row["image"]["path"] for split in splits.values() for row in split}
    assert paths == {"a dog": str(tmp_path / "Images" / "0.jpg"), "a cat": str(tmp_path / "Images" / "1.jpg")}


def test_photos_are_opened_as_large_as_they_are_needed(tmp_path, tiny_captioner):
    """A photo of 12 megapixels is not decoded whole to be reduced to a few hundred pixels."""
    _, processor = tiny_captioner()
    path = tmp_path / "large.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    PIL.Image.fromarray(noise).resize((4000, 3000), PIL.Image.Resampling.BICUBIC).save(path)
    row = {"image": {"path": str(path), "bytes": None}, "captions": ["noise"], "epoch": 0, "photo": 0}
    side = processor.image_processor.size["height"]
    assert min(photo_of(row).size) == 3000
    for seed in (None, 0):  # JPEG is decoded at an eighth at the least
        assert side <= min(Collate(processor, Settings(), seed)._photo(row).size) <= 3000 / 8
    whole = processor(images=photo_of(row), return_tensors="pt").pixel_values
    assert (pixel_values(processor, [row]) - whole).abs().mean() < 0.05


def test_broken_photos_are_skipped_and_logged(tmp_path, photo_bytes, caplog):
    rows = [{"image": {"bytes": numbered(photo_bytes, n), "path": f"{n}.jpg"}, "text": "a dog"} for n in range(20)]
    rows[3]["image"] = {"bytes": photo_bytes[:300], "path": "torn.jpg"}
    rows[4]["image"] = {"bytes": b"<html>", "path": "page.jpg"}
    (tmp_path / "set").mkdir()
    features = Features({"image": Image(), "text": Value("string")})
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "set" / "all.parquet")
    splits = loaded(tmp_path / "set", max_broken_fraction=0.5)
    assert len(splits["train"]) + len(splits["validation"]) == 18
    assert "torn.jpg is damaged" in caplog.text
    assert "page.jpg is not a readable image" in caplog.text
    assert "photos in the split 'train' are skipped" in caplog.text
    with pytest.raises(
        ValueError, match=r"photos in the split .* are broken, more than max_broken_fraction=0.01 allows"
    ):
        loaded(tmp_path / "set", max_broken_fraction=0.01)


def test_photos_are_downloaded_from_urls(tmp_path, photo_bytes):
    (tmp_path / "set").mkdir()
    with PhotoServer({f"{name}.jpg": photo_bytes for name in "123"}) as server:
        rows = [{"coco_url": f"{server.address}/{name}.jpg", "caption": "a dog"} for name in ("1", "2", "3", "missing")]
        Dataset.from_list(rows).to_parquet(tmp_path / "set" / "all.parquet")
        splits = loaded(tmp_path / "set", max_broken_fraction=1)
    kept = [row for split in splits.values() for row in split]
    assert len(kept) == 3
    assert photo_of(kept[0]).size == (64, 64)


def test_flickr8k_layouts(tmp_path, photo_bytes):
    folder = tmp_path / "set"
    (folder / "Images").mkdir(parents=True)
    for number in range(10):
        (folder / "Images" / f"{number}.jpg").write_bytes(photo_bytes)
    with open(folder / "captions.txt", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("image", "caption"), *((f"{n}.jpg", f"a dog , number {n}") for n in range(11))])
    splits = loaded(folder)
    assert (len(splits["train"]), len(splits["validation"])) == (8, 2)
    assert splits["train"][0]["captions"][0].startswith("a dog , number")

    lines = [f"{n}.jpg#{k}\tcaption {k} of {n}" for n in range(10) for k in range(5)]
    (folder / "Flickr8k.token.txt").write_text("\n".join(lines))
    (folder / "Flickr_8k.trainImages.txt").write_text("\n".join(f"{n}.jpg" for n in range(6)))
    (folder / "Flickr_8k.devImages.txt").write_text("6.jpg\n7.jpg")
    (folder / "Flickr_8k.testImages.txt").write_text("8.jpg\n9.jpg")
    splits = loaded(folder)
    assert sorted(texts[0] for texts in splits["validation"]["captions"]) == ["caption 0 of 6", "caption 0 of 7"]
    assert len(splits["train"][0]["captions"]) == 5


def test_coco_layout(tmp_path, photo_bytes):
    folder = tmp_path / "set"
    (folder / "annotations").mkdir(parents=True)
    for split, numbers in (("train2014", range(3)), ("val2014", range(3, 5))):
        (folder / split).mkdir()
        for number in numbers:
            (folder / split / f"{number}.jpg").write_bytes(photo_bytes)
        content = {
            "images": [{"id": number, "file_name": f"{number}.jpg"} for number in numbers],
            "annotations": [{"image_id": number, "caption": f"number {number}"} for number in numbers],
        }
        (folder / "annotations" / f"captions_{split}.json").write_text(json.dumps(content))
    splits = loaded(folder)
    assert sorted(texts[0] for texts in splits["validation"]["captions"]) == ["number 3", "number 4"]
    assert photo_of(splits["train"][0]).size == (64, 64)


def test_webdataset_shards(tmp_path, photo_bytes):
    folder = tmp_path / "set"
    members = {}
    for number in range(5):
        members |= {f"{number:04}.jpg": numbered(photo_bytes, number), f"{number:04}.txt": f"number {number}".encode()}
    tar(folder / "shard-0.tar", members)
    splits = loaded(folder)
    assert (len(splits["train"]), len(splits["validation"])) == (4, 1)
    assert splits["train"][0]["captions"][0].startswith("number")


def test_a_row_without_a_photo_is_an_error():
    with pytest.raises(PhotoError, match="missing"):
        photo_of({"image": None})


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the photos in ../shared")
def test_real_data_sets():
    flickr = loaded(SHARED / "data" / "flickr8k", max_train_samples=20, max_eval_samples=20)
    coco = loaded(SHARED / "data" / "coco-mini")
    assert flickr["train"][0]["captions"][0]
    assert photo_of(flickr["validation"][3]).size == (224, 224)
    assert len(coco["validation"]) == 61
