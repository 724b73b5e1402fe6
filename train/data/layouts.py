"""Captioned photos on disk, in the layouts that people have them in: `load_folder`."""

import csv
import json
import logging
import os
import re
from pathlib import Path, PurePosixPath

from datasets import Dataset, DatasetDict, Features, List, Value, load_dataset, load_dataset_builder
from datasets.packaged_modules.text.text import Text
from datasets.packaged_modules.webdataset.webdataset import WebDataset

from .columns import SUFFIXES
from .webdataset import Shards

PATHS = Features({"image": Value("string"), "captions": List(Value("string"))})
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
FLICKR = ("*.token.txt", "*.token", "captions.txt", "results.csv")  # the last one is Flickr30k's on Kaggle
logger = logging.getLogger(__name__)


def load_folder(settings, streaming=False):
    """The splits of the data set in the folder `settings.data_dir`.

    Recognised are COCO's layout (annotations/captions_*.json beside train2017/, val2017/; 2014 likewise; or any JSON
    file of that form beside images/), Flickr8k's and Flickr30k's (Images/ with captions.txt, or *.token.txt with lists
    of the splits' photos), what `load_dataset` knows (pictures with metadata.jsonl or metadata.csv, and parquet files),
    and webdataset shards (*.tar).

    Returns a `DatasetDict`; with `streaming` an `IterableDatasetDict` where the photos lie in shards. Raises
    `ValueError` for a folder that does not exist or holds nothing of these.
    """
    folder = Path(settings.data_dir)
    if not folder.is_dir():
        raise ValueError(f"data_dir={str(folder)!r} is not a folder; give one that holds photos and their captions.")
    annotations = sorted({*folder.glob("*.json"), *folder.glob("*/*.json")})
    named = [file for file in annotations if "caption" in file.name.lower()]
    if splits := _coco(folder, named) or _flickr(folder):
        return splits
    shards = sorted(map(str, folder.rglob("*.tar")))
    # The builder is named where the files of another one could outnumber its own.
    if any(found for name in METADATA for found in folder.rglob(name)):
        return load_dataset("imagefolder", data_dir=str(folder), streaming=streaming)
    if any(folder.rglob("*.parquet")):
        options = {"path": "parquet", "data_dir": str(folder)} if shards else {"path": str(folder)}
        return load_dataset(**options, streaming=streaming)
    if shards:
        return built_splits(load_dataset_builder("webdataset", data_dir=str(folder)), settings, streaming)
    if splits := _coco(folder, annotations):  # as tools write it, under any name
        return splits
    raise ValueError(
        f"data_dir={str(folder)!r} holds no captions of photos that are there; known are parquet files, pictures with"
        " metadata.jsonl or metadata.csv, webdataset shards (*.tar), and the layouts of COCO, Flickr8k and Flickr30k."
    )


def built_splits(builder, settings, streaming):
    """The splits of a builder of `datasets`; those of webdataset shards as [`Shards`] reads them."""
    if isinstance(builder, Text):
        builder = _shards_beside(builder)
    if isinstance(builder, WebDataset):
        told, builder = builder.info.splits, Shards.like(builder, settings)
        builder.info.splits = told if streaming else None  # how many rows there are
    if streaming:
        return builder.as_streaming_dataset()
    builder.download_and_prepare()
    return builder.as_dataset()


def _shards_beside(builder):
    """The shards in the folders of a text, such as one that counts them, for which `datasets` may take them."""
    folders = {split: {file.rpartition("/")[0] for file in files} for split, files in builder.config.data_files.items()}
    shards = {split: [f"{folder}/*.tar" for folder in sorted(some)] for split, some in folders.items()}
    try:
        return load_dataset_builder("webdataset", data_files=shards)
    except FileNotFoundError:
        return builder


def _caption(annotation):
    """Its caption; None for a box or a mask, which tools write into the same file."""
    caption = annotation.get("caption") if isinstance(annotation, dict) else None
    return caption if isinstance(caption, str) else None


def _coco(folder, files):
    """Captions in COCO's form; None where none of the files has any of photos that are there."""
    photos, splits = _photos_in(folder, unique=True) if files else {}, {}
    for file in files:
        content = _coco_content(file)
        if content is None:
            continue
        captions = {}  # of the photo with this number
        for annotation in content["annotations"]:
            if caption := _caption(annotation):
                captions.setdefault(annotation["image_id"], []).append(caption)
        split = splits.setdefault(_split_of(file.relative_to(folder)), {})
        name, parent = file.stem.rpartition("captions_")[2], file.parent.relative_to(folder)
        places = [name, f"images/{name}", "images", parent, parent / "images"]
        absent = 0
        for image in content["images"]:
            path = _found(photos, image["file_name"], places)
            if path and image["id"] in captions:
                split.setdefault(path, []).extend(captions[image["id"]])
            absent += path is None
        if absent:
            logger.warning("%s lists %d photos, of which %d are absent.", file.name, len(content["images"]), absent)
    return _splits(splits)


def _coco_content(file):
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError:
        return None
    known = isinstance(content, dict) and isinstance(content.get("images"), list)
    return content if known and any(map(_caption, content.get("annotations") or ())) else None


def _split_of(file):
    name = file.as_posix().lower()
    return next(
        (split for part, split in (("train", "train"), ("val", "validation"), ("test", "test")) if part in name),
        "train",
    )


def _photos_in(folder, unique=False):
    """The paths of the pictures in a folder by their paths in it, by their names, and by these in small letters.

    Args:
        unique: leave out a name that several pictures have.
    """
    photos, names = {}, {}
    for place, _, files in sorted(os.walk(folder, followlinks=True)):
        for file in sorted(files):
            if os.path.splitext(file)[1].lower() in SUFFIXES:
                path = os.path.join(place, file)
                photos[Path(path).relative_to(folder).as_posix()] = path
                names.setdefault(file, []).append(path)
    names = {name: paths[0] for name, paths in names.items() if len(paths) == 1 or not unique}
    return {name.lower(): path for name, path in names.items()} | names | photos


def _found(photos, name, places=()):
    """Where the photo of this name lies: at this path in one of the places, or anywhere."""
    name = PurePosixPath(name.replace("\\", "/"))
    wanted = (*((PurePosixPath(place) / name).as_posix() for place in places), str(name), name.name, name.name.lower())
    return next((photos[one] for one in wanted if one in photos), None)


def _flickr(folder):
    """Captions by the names of photos, and lists of the splits' photos, one a line; None where there are none."""
    # Flickr8k's second token file has the words' stems.
    files = [file for name in FLICKR for file in sorted(folder.rglob(name)) if ".lemma." not in file.name]
    photos = _photos_in(folder) if files else {}
    for file in files:
        captions, absent = {}, set()
        for name, caption in _flickr_rows(file):
            if path := _found(photos, name):
                captions.setdefault(path, []).append(caption)
            else:
                absent.add(name)
        if captions:
            if absent:  # Flickr8k's list names a few photos that the archive lacks
                logger.warning("%s names %d photos that are absent, such as %s.", file.name, len(absent), min(absent))
            return _splits(_flickr_lists(folder, photos, captions) or {"train": captions})
    return None


def _flickr_lists(folder, photos, captions):
    """{split: {path: captions}} by files such as Flickr_8k.trainImages.txt."""
    by_stem = {Path(path).stem: path for path in captions}  # some lists leave out the suffix
    splits = {}
    for file in sorted(folder.rglob("*.txt")):
        for word, split in (("train", "train"), ("dev", "validation"), ("val", "validation"), ("test", "test")):
            if word in file.name.lower():
                lines = map(str.strip, file.read_text(encoding="utf-8-sig").splitlines())
                paths = [_found(photos, line) or by_stem.get(line) for line in lines if line]
                if rows := {path: captions[path] for path in paths if path in captions}:
                    splits.setdefault(split, {}).update(rows)
                break
    return splits


def _flickr_rows(file):
    """(name, caption) from lines "photo.jpg#0<TAB>caption", "photo.jpg,caption" or "photo.jpg| 0| caption"."""
    with open(file, encoding="utf-8-sig", newline="") as lines:
        first = lines.readline()
        lines.seek(0)
        separator = next((mark for mark in "\t|" if mark in first), ",")
        quoting = csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE
        rows = [
            row
            for row in csv.reader(lines, delimiter=separator, quoting=quoting, skipinitialspace=True)
            if any(map(str.strip, row))
        ]
    for number, (name, *rest) in enumerate(rows):
        name = re.sub(r"#\d+$", "", name.strip())
        if number == 0 and not Path(name).suffix:
            continue  # the columns' names
        if len(rest) > 1 and rest[0].strip().isdigit():  # the caption's number
            rest = rest[1:]
        yield name, separator.join(rest).strip()


def _splits(splits):
    """{split: {path: captions}} as data sets; None where there is no photo at all."""
    if not any(splits.values()):
        return None
    columns = {split: {"image": list(rows), "captions": list(rows.values())} for split, rows in splits.items()}
    return DatasetDict({split: Dataset.from_dict(rows, PATHS) for split, rows in columns.items()})
