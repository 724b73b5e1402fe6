"""Data sets on disk in the layouts of Flickr, COCO and webdataset, with the variations found in practice."""

import io
import json
import shutil
import sys

import pytest
from datasets import Dataset, Image
from datasets import config as datasets_config
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from tests.helpers.paths import SHARED
from tests.helpers.shards import tar
from tests.helpers.training import arguments, history, single_dataset, single_stream
from train.cli import resolve, run
from train.data import photo_of
from train.data.layouts import load_folder, load_photo_folder
from train.settings import Settings


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def put(tmp_path, drawn_photos):
    """Write photos to these paths in the data set's folder, and return the folder."""

    def put(*paths):
        for path in paths:
            file = tmp_path / "set" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            drawn_photos[0][0].save(file)
        return tmp_path / "set"

    return put


def load(folder):
    """Load a folder and open its photos. Returns {split: {file name: captions}}."""
    splits = load_folder(str(folder), Settings())
    for split in splits.values():
        for row in split:
            photo_of({"image": {"path": row["image"], "bytes": None}})
    return {name: {row["image"].rpartition("/")[2]: row["captions"] for row in split} for name, split in splits.items()}


def test_folders_of_photos_without_captions(put, drawn_photos, monkeypatch, caplog):
    """HEIC and AVIF are read, also where the folder was read before pillow-heif was installed; the rest is told."""
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    folder = put("train/dog/1.jpg", "train/cat/2.avif", "validation/cat/3.jpg", "train/cat/4.jpg")
    heif.from_pillow(drawn_photos[0][0]).save(folder / "train" / "cat" / "5.heic")
    (folder / "train" / "cat" / "6.nef").touch()
    (folder / "linked").symlink_to(folder / "train")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pillow_heif", None)
        assert len(load_photo_folder(str(folder))) == 3
    assert "1 HEIC (install pillow-heif)" in caplog.text
    caplog.clear()
    photos = load_photo_folder(str(folder)).cast_column("image", Image(decode=False))
    names = [row["image"]["path"].rpartition("/")[2] for row in photos if photo_of(row)]
    assert sorted(names) == ["1.jpg", "2.avif", "4.jpg", "5.heic"]
    assert photos.features["label"].names == ["cat", "dog"]
    assert ".heic" not in ImageFolder.EXTENSIONS, "other users of `datasets` read what they did"
    (warning,) = [record.message for record in caplog.records]
    assert "1 linked folder" in warning
    assert "1 RAW (export as JPEG)" in warning
    assert "HEIC" not in warning


def test_metadata_in_a_linked_folder_is_told(put, caplog):
    folder = put("a/1.jpg")
    (folder / "a" / "metadata.jsonl").write_text('{"file_name": "1.jpg", "text": "a red circle"}\n')
    elsewhere = shutil.copytree(folder / "a", folder.parent / "elsewhere")
    (folder / "b").symlink_to(elsewhere)
    assert len(load_folder(str(folder), Settings())["train"]) == 1
    assert "1 linked folders with metadata; move them here" in caplog.text


# Flickr


@pytest.mark.parametrize("header", ["image,caption\n", "image_name,comment_number,comment\n", ""])
def test_flickr_captions_with_and_without_a_header(put, header):
    folder = put("Images/1.jpg", "Images/2.jpg")
    number = "0, " if "number" in header else ""
    (folder / "captions.txt").write_text(
        f'{header}1.jpg,{number}a dog runs\n1.jpg,{number}"a dog , running"\n2.jpg,{number}a cat\n'
    )
    assert load(folder) == {"train": {"1.jpg": ["a dog runs", "a dog , running"], "2.jpg": ["a cat"]}}


def test_flickr_with_unusual_file_names(put, caplog):
    """A byte order mark, empty lines at the end, PNG, capital letters, spaces, and a caption without its photo."""
    folder = put("Images/1.JPG", "Images/2.png", "Images/a dog.jpeg")
    lines = "1.jpg,one\r\n2.png,two\r\na dog.jpeg,three\r\ngone.jpg,four\r\n\r\n \r\n"
    (folder / "captions.txt").write_text(lines, encoding="utf-8-sig", newline="")
    assert load(folder) == {"train": {"1.JPG": ["one"], "2.png": ["two"], "a dog.jpeg": ["three"]}}
    assert "1 photos of captions.txt are missing, such as gone.jpg." in caplog.text


@pytest.mark.parametrize("suffix", [".jpg", ""])
def test_flickr_split_lists_with_spaces_in_names(put, suffix):
    folder = put(*(f"Images/photo {number}.jpg" for number in range(4)))
    captions = "".join(f"photo {number}.jpg#{k}\tcaption {k}\n" for number in range(4) for k in range(2))
    (folder / "Flickr8k.token.txt").write_text(captions)
    for name, numbers in (("trainImages", (0, 1)), ("devImages", (2,)), ("testImages", (3,))):
        (folder / f"Flickr 8k.{name}.txt").write_text("".join(f"photo {number}{suffix}\n" for number in numbers) + "\n")
    texts = ["caption 0", "caption 1"]
    assert load(folder) == {
        "train": {"photo 0.jpg": texts, "photo 1.jpg": texts},
        "validation": {"photo 2.jpg": texts},
        "test": {"photo 3.jpg": texts},
    }


def test_flickr8k_lemmas_are_not_read_as_captions(put):
    folder = put("Flicker8k_Dataset/1.jpg")
    (folder / "Flickr8k.lemma.token.txt").write_text("1.jpg#0\tdog run\n")
    (folder / "Flickr8k.token.txt").write_text("1.jpg#0\tDogs are running .\n")
    assert load(folder)["train"] == {"1.jpg": ["Dogs are running ."]}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("results_20130124.token", "1.jpg#0\tA man , smiling .\n1.jpg#1\tA man | one .\n2.jpg#0\tA cat .\n"),
        ("results.csv", "image_name| comment_number| comment\n1.jpg| 0| A man , smiling .\n2.jpg| 0| A cat .\n"),
    ],
)
def test_flickr30k_files(put, name, content):
    folder = put("flickr30k-images/1.jpg", "flickr30k-images/2.jpg")
    (folder / name).write_text(content)
    captions = ["A man , smiling .", "A man | one ."]
    assert load(folder)["train"] == {"1.jpg": captions[: content.count("1.jpg")], "2.jpg": ["A cat ."]}


# COCO


def coco(file, numbers, name="{}.jpg", boxes=False):
    """Write an annotation file in which photo number n has the caption "photo n"."""
    annotations = [{"id": number, "image_id": number, "caption": f"photo {number}"} for number in numbers]
    box = {"image_id": numbers[0], "bbox": [0, 0, 5, 5], "category_id": 1}
    content = {
        "images": [{"id": number, "file_name": name.format(number)} for number in numbers],
        "annotations": [box, *annotations, box | {"caption": None}] if boxes else annotations,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def test_coco_from_annotation_tools(put):
    """Boxes among the captions, a folder in `file_name`, photos in images/, any name of the annotation file."""
    folder = put("images/1.jpg", "images/2.jpg")
    coco(folder / "annotations" / "captions_train.json", [1, 2], boxes=True)
    assert load(folder) == {"train": {"1.jpg": ["photo 1"], "2.jpg": ["photo 2"]}}
    for name in ("images/{}.jpg", "{}.jpg", "C:\\\\photos\\\\{}.jpg", "/home/someone/else/{}.jpg"):
        shutil.rmtree(folder / "annotations")
        coco(folder / "annotations" / "instances_default.json", [1, 2], name, boxes=True)
        assert load(folder) == {"train": {"1.jpg": ["photo 1"], "2.jpg": ["photo 2"]}}, name


@pytest.mark.parametrize(
    ("annotations", "photos", "name"),
    [
        ("annotations/captions_{}.json", "{}/{}.jpg", "{number}.jpg"),
        ("annotations/captions_{}.json", "images/{}/{}.jpg", "{number}.jpg"),
        ("{}/_annotations.coco.json", "{}/{}.jpg", "{number}.jpg"),
        ("annotations/{}.json", "{}/{}.jpg", "{split}/{number}.jpg"),
    ],
)
def test_coco_with_the_same_names_in_two_splits(put, annotations, photos, name):
    folder = put(*(photos.format(split, 1) for split in ("train", "val")))
    for split in ("train", "val"):
        coco(folder / annotations.format(split), [1], name.replace("{split}", split).replace("{number}", "{}"))
    splits = load_folder(str(folder), Settings())
    for split, own in (("train", "train"), ("validation", "val")):
        assert [row["image"] for row in splits[split]] == [str(folder / photos.format(own, 1))]


def test_coco_ambiguous_file_names_are_skipped(put, caplog):
    folder = put("one/1.jpg", "other/1.jpg", "one/2.jpg")
    coco(folder / "annotations" / "captions_train.json", [1, 2])
    assert load(folder)["train"].keys() == {"1.jpg", "2.jpg"}, "the same picture twice is not ambiguous"
    with (folder / "other" / "1.jpg").open("ab") as file:
        file.write(b"another picture")
    assert load(folder) == {"train": {"2.jpg": ["photo 2"]}}
    assert "captions_train.json lists 2 photos, of which 1 are missing." in caplog.text


def test_coco_without_training_photos_does_not_train_on_validation_photos(put):
    folder = put("val2017/3.jpg", "val2017/4.jpg")
    coco(folder / "annotations" / "captions_train2017.json", [1, 2])
    coco(folder / "annotations" / "captions_val2017.json", [3, 4])
    settings = Settings(data_dir=[str(folder)])
    assert len(single_dataset(settings, ["validation"])["validation"]) == 2, "they can still be evaluated on"
    for photos in (True, False):
        with pytest.raises(ValueError, match="The split 'train' of set has no photos with captions"):
            single_dataset(settings, ["train"], photos)


def test_annotations_without_photos_are_an_error(put):
    coco(put("1.jpg") / "annotations" / "captions_train2017.json", [5])
    with pytest.raises(ValueError, match="contains no photos with captions; give a folder of parquet"):
        load_folder(str(put()), Settings())


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the photos in ../shared")
def test_uit_viic(caplog):
    """All three splits; 257 of 3,850 photos exist."""
    splits = load_folder(str(SHARED / "data" / "uit-viic"), Settings())
    assert {name: len(split) for name, split in splits.items()} == {"train": 195, "validation": 51, "test": 11}
    assert [record.message for record in caplog.records] == [
        "uitviic_captions_test2017.json lists 231 photos, of which 220 are missing.",
        "uitviic_captions_train2017.json lists 2695 photos, of which 2500 are missing.",
        "uitviic_captions_val2017.json lists 924 photos, of which 873 are missing.",
    ]
    assert all(len(texts) >= 5 for texts in splits["test"]["captions"])


# Webdataset shards


@pytest.fixture(scope="module")
def photo(drawn_photos):
    file = io.BytesIO()
    drawn_photos[0][0].save(file, "PNG")
    return file.getvalue()


def read(folder, streaming, **options):
    """Load or stream all photos, and open them. Returns [(file name, captions)]."""
    settings = Settings(data_dir=[str(folder)], streaming=streaming, validation_fraction=0, **options)
    if streaming:
        rows = list(single_stream(settings, "validation"))
    else:
        rows = single_dataset(settings, ["validation"])["validation"]
    assert all(photo_of(row).size == (64, 64) for row in rows)
    return sorted((row["image"]["path"].rpartition("/")[2], row["captions"]) for row in rows)


COCO_JSON = b'{"captions": ["one", "two"], "cocoid": 9, "box": [1, 2]}'


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (
            ["1.JPG", ("1.TXT", b"one\ntwo\n"), "2.jpg", ("2.txt", b"three")],
            [("1.JPG", ["one", "two"]), ("2.jpg", ["three"])],
        ),
        (
            ["photo.1.jpg", ("photo.1.txt", b"one"), "photo.2.png", ("photo.2.txt", b"two")],
            [("photo.1.jpg", ["one"]), ("photo.2.png", ["two"])],
        ),
        (
            ["./a/1.jpg", ("./a/1.caption", b"one"), "./b/1.jpg", ("./b/1.caption", b"two")],
            [("1.jpg", ["one"]), ("1.jpg", ["two"])],
        ),
        (
            [("1.json", COCO_JSON), "1.jpg", "2.webp", ("2.json", b'{"captions": ["three"], "box": "none"}')],
            [("1.jpg", ["one", "two"]), ("2.webp", ["three"])],
        ),
        (["1.jpg", ("1.json", b'["one", "two"]'), "2.jpg", ("2.json", b"{torn"), "3.jpg"], [("1.jpg", ["one", "two"])]),
        (["1.jpg", ("1.json", b'{"caption": "one", "url": "http://x"}'), ("1.txt", b"one")], [("1.jpg", ["one"])]),
        (["1.jpg", ("1.cls", b"7"), ("1.text", "một".encode("utf-8-sig"))], [("1.jpg", ["một"])]),
    ],
)
def test_webdataset_members(tmp_path, photo, streaming, members, expected):
    """Capital letters, dots and folders in names, image formats, captions in text files or in any kind of JSON."""
    tar(tmp_path / "set" / "0.tar", dict((name, photo) if isinstance(name, str) else name for name in members))
    assert read(tmp_path / "set", streaming) == expected


@pytest.mark.parametrize("streaming", [False, True])
def test_webdataset_splits_in_folders_and_chosen_columns(tmp_path, photo, streaming):
    folder = tmp_path / "set"
    for split, number in (("train", 1), ("val", 2)):
        metadata = json.dumps({"captions": ["one"], "captions_vi": [f"ảnh {number}"]}).encode()
        tar(folder / split / "000.tar", {f"{number}.jpg": photo, f"{number}.json": metadata})
    settings = Settings(data_dir=[str(folder)], streaming=streaming, caption_column="captions_vi", image_column="jpg")
    for split, caption in (("train", "ảnh 1"), ("validation", "ảnh 2")):
        rows = list(single_stream(settings, split) if streaming else single_dataset(settings, [split])[split])
        assert [row["captions"] for row in rows] == [[caption]]


def test_webdataset_without_known_members_lists_those_found(tmp_path, photo):
    tar(tmp_path / "set" / "0.tar", {"1.jpg": photo, "1.json": b'{"titles": ["one"]}', "1.npy": b""})
    settings = Settings(data_dir=[str(tmp_path / "set")])
    for load in (lambda: single_dataset(settings), lambda: single_stream(settings, "train")):
        with pytest.raises(
            ValueError,
            match=r"among jpg, json, npy, titles; .*--caption_column \(known names: photos .*\.jpeg.*captions",
        ):
            load()


@pytest.mark.parametrize("count", [1, 2])
def test_a_stream_too_short_for_a_validation_split_trains(tmp_path, photo, caplog, count):
    members = {}
    for number in range(count):
        members |= {f"{number}.png": photo + bytes([number]), f"{number}.txt": b"a dog"}
    tar(tmp_path / "set" / "0.tar", members)
    options = {"data_dir": tmp_path / "set", "output_dir": tmp_path / "run", "streaming": True, "max_train_steps": 2}
    run(resolve(arguments(**options, validation_fraction=0.001)))
    assert "No photo of the stream falls in the split 'validation'; using all photos for it." in caplog.text
    rows = history(tmp_path / "run")
    assert "validation_loss" in rows[-1]


def test_a_stream_without_readable_validation_photos_is_an_error(tmp_path, photo):
    tar(tmp_path / "set" / "train" / "0.tar", {"1.png": photo, "1.txt": b"a dog"})
    tar(tmp_path / "set" / "val" / "0.tar", {"2.png": photo[:99], "2.txt": b"a cat"})
    options = {"data_dir": tmp_path / "set", "output_dir": tmp_path / "run", "streaming": True, "max_train_steps": 1}
    with pytest.raises(ValueError, match="There is nothing to validate on; check the data set and its split"):
        run(resolve(arguments(**options)))


# Several layouts in one folder


@pytest.mark.parametrize("count", [1, 5])
def test_archives_do_not_hide_other_layouts(put, count):
    folder = put(*(f"{number}.png" for number in range(count)))
    for name in ("old.tar", "older.tar"):
        tar(folder / name, {"backup.png": (folder / "0.png").read_bytes()})
    rows = [json.dumps({"file_name": f"{number}.png", "text": f"photo {number}"}) for number in range(count)]
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    assert load_folder(folder, Settings())["train"]["text"][:] == [f"photo {number}" for number in range(count)]
    (folder / "metadata.jsonl").unlink()
    photo = {"bytes": (folder / "0.png").read_bytes(), "path": None}
    Dataset.from_list([{"image": photo, "text": "from parquet"}]).to_parquet(folder / "train.parquet")
    (folder / "captions.txt").write_text("captions of no photo at all\nfor the stage language\n")
    assert load_folder(folder, Settings())["train"]["text"][:] == ["from parquet"]
