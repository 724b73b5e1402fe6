"""Loading captioned data sets from disk in all common layouts: `load_folder`."""

import csv
import filecmp
import json
import logging
import os
import re
from pathlib import Path, PurePosixPath

from datasets import Dataset, DatasetDict, Features, List, Value, load_dataset, load_dataset_builder
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from datasets.packaged_modules.text.text import Text
from datasets.packaged_modules.webdataset.webdataset import WebDataset

from captioning.folders import describe, list_photos

from .webdataset import Shards

PATHS = Features({"image": Value("string"), "captions": List(Value("string"))})
IMAGE_FOLDER_SUFFIXES = frozenset(ImageFolder.EXTENSIONS)  # without HEIC and AVIF
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
FLICKR = ("*.token.txt", "*.token", "captions.txt", "results.csv")  # results.csv is Flickr30k's file on Kaggle
logger = logging.getLogger(__name__)


def load_folder(folder, settings, streaming=False):
    """Load the splits of the data set in a folder.

    Recognizes the layouts of

    - COCO: annotations/captions_*.json next to train2017/ and val2017/ (or 2014), or any such JSON file next to images/
    - Flickr8k and Flickr30k: Images/ and captions.txt, or *.token.txt and lists of the photos of each split
    - `load_dataset`: parquet files, or images with metadata.jsonl or metadata.csv
    - webdataset: shards (*.tar)

    Returns a `DatasetDict`; with `streaming`, an `IterableDatasetDict` except in the layouts of COCO and Flickr. Raises
    `ValueError` if the folder does not exist or contains none of these.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"data_dir={str(folder)!r} is not a folder; give a folder with photos and captions.")
    annotations = sorted({*folder.glob("*.json"), *folder.glob("*/*.json")})
    named = [file for file in annotations if "caption" in file.name.lower()]
    if splits := _load_coco(folder, named) or _load_flickr(folder):
        return splits
    shards = sorted(map(str, folder.rglob("*.tar")))
    # `load_dataset` infers the builder from the most frequent extension; where that may be wrong, it is given here.
    if any(found for name in METADATA for found in folder.rglob(name)):
        links = [place for place in folder.rglob("*") if place.is_symlink()]  # `datasets` does not follow them
        if links := [place for place in links if any((place / name).is_file() for name in METADATA)]:
            logger.warning("Left out of %s: %d linked folders with metadata; move them here.", folder, len(links))
        return load_dataset("imagefolder", data_dir=str(folder), streaming=streaming)
    if any(folder.rglob("*.parquet")):
        options = {"path": "parquet", "data_dir": str(folder)} if shards else {"path": str(folder)}
        return load_dataset(**options, streaming=streaming)
    if shards:
        return build_splits(load_dataset_builder("webdataset", data_dir=str(folder)), settings, streaming)
    if splits := _load_coco(folder, annotations):  # annotation tools use any file name
        return splits
    raise ValueError(
        f"data_dir={str(folder)!r} contains no photos with captions; give a folder of parquet files, images with"
        " metadata.jsonl or metadata.csv, webdataset shards (*.tar), or the layout of COCO, Flickr8k or Flickr30k."
    )


def load_photo_folder(folder):
    """Like `load_dataset(folder, split="train")`, but HEIC and AVIF are read too, and what is left out is logged."""
    if not os.path.isdir(folder):
        return load_dataset(folder, split="train")
    photos, left_out = list_photos(folder, follow_links=False)  # `datasets` does not follow them
    _warn_left_out(folder, left_out)
    added = sorted({os.path.splitext(photo)[1].lower() for photo in photos} - IMAGE_FOLDER_SUFFIXES)
    if not added or any(Path(folder).rglob("*.parquet")):
        return load_dataset(folder, split="train")
    found = load_dataset_builder("imagefolder", data_dir=folder)

    class Photos(ImageFolder):
        EXTENSIONS = (*IMAGE_FOLDER_SUFFIXES, *added)

    builder = Photos(
        dataset_name=found.dataset_name,
        # A part of the cache's name, so that a cache from before pillow-heif was installed is not used.
        config_name="".join(added).replace(".", "_"),
        hash=found.hash,
        base_path=found.base_path,
        data_files=found.config.data_files,
    )
    builder.download_and_prepare()
    return builder.as_dataset(split="train")


def _warn_left_out(folder, left_out):
    if left_out:
        logger.warning("Left out of %s: %s.", folder, describe(left_out))


def build_splits(builder, settings, streaming):
    """Build the splits of a `datasets` builder. Webdataset shards are read by [`Shards`]."""
    if isinstance(builder, Text):
        builder = _shards_next_to(builder)
    if isinstance(builder, WebDataset):
        info, builder = builder.info, Shards.like(builder, settings)
        builder.info.splits = info.splits if streaming else None  # the number of rows of each
    if streaming:
        return builder.as_streaming_dataset()
    builder.download_and_prepare()
    return builder.as_dataset()


def _shards_next_to(builder):
    """A builder of the shards next to text files, for example a list of them; `datasets` may prefer the text files."""
    shards = {
        split: sorted({f"{file.rpartition('/')[0]}/*.tar" for file in files})
        for split, files in builder.config.data_files.items()
    }
    try:
        return load_dataset_builder("webdataset", data_files=shards)
    except FileNotFoundError:
        return builder


def _caption(annotation):
    """The caption of an annotation; None for a box or a mask, which may be in the same file."""
    caption = annotation.get("caption") if isinstance(annotation, dict) else None
    return caption if isinstance(caption, str) else None


def _load_coco(folder, files):
    """Load annotation files in COCO's format; None if they contain no captions of existing photos."""
    photos, splits = _index_photos(folder) if files else {}, {}
    for file in files:
        content = _coco_content(file)
        if content is None:
            continue
        captions = {}  # {image ID: captions}
        for annotation in content["annotations"]:
            if caption := _caption(annotation):
                captions.setdefault(annotation["image_id"], []).append(caption)
        split = splits.setdefault(_split_of(file.relative_to(folder)), {})
        name, parent = file.stem.rpartition("captions_")[2], file.parent.relative_to(folder)
        places = [name, f"images/{name}", "images", parent, parent / "images"]
        missing = 0
        for image in content["images"]:
            path = _find_photo(photos, image["file_name"], places)
            if path and image["id"] in captions:
                split.setdefault(path, []).extend(captions[image["id"]])
            missing += path is None
        if missing:
            logger.warning("%s lists %d photos, of which %d are missing.", file.name, len(content["images"]), missing)
    return _to_dataset_dict(splits)


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


def _index_photos(folder):
    """Map relative paths, file names and lower-case file names to the paths of the photos in a folder.

    A file name that belongs to different photos is left out.
    """
    photos, names = {}, {}
    found, left_out = list_photos(folder)
    _warn_left_out(folder, left_out)
    for path in found:
        photos[Path(path).relative_to(folder).as_posix()] = path
        names.setdefault(os.path.basename(path), []).append(path)
    names = {
        name: paths[0]
        for name, paths in names.items()
        if all(filecmp.cmp(paths[0], path, shallow=False) for path in paths[1:])
    }
    return {name.lower(): path for name, path in names.items()} | names | photos


def _find_photo(photos, name, places=()):
    """Path of the photo with this name: in one of the folders `places`, or anywhere. None if it is missing."""
    name = PurePosixPath(name.replace("\\", "/"))
    keys = (*((PurePosixPath(place) / name).as_posix() for place in places), str(name), name.name, name.name.lower())
    return next((photos[key] for key in keys if key in photos), None)


def _load_flickr(folder):
    """Load captions listed by file name, and lists of the photos of each split; None if there are none."""
    # Flickr8k's second token file contains lemmas.
    files = [file for name in FLICKR for file in sorted(folder.rglob(name)) if ".lemma." not in file.name]
    photos = _index_photos(folder) if files else {}
    for file in files:
        captions, missing = {}, set()
        parent = file.parent.relative_to(folder)
        for name, caption in _flickr_rows(file):
            if path := _find_photo(photos, name, (parent / "Images", parent / "images", parent)):
                captions.setdefault(path, []).append(caption)
            else:
                missing.add(name)
        if captions:
            if missing:  # Flickr8k's list contains a few photos that its archive lacks
                logger.warning("%d photos of %s are missing, such as %s.", len(missing), file.name, min(missing))
            return _to_dataset_dict(_flickr_splits(folder, photos, captions) or {"train": captions})
    return None


def _flickr_splits(folder, photos, captions):
    """{split: {path: captions}} according to files such as Flickr_8k.trainImages.txt."""
    by_stem = {Path(path).stem: path for path in captions}  # some lists leave out the extension
    splits = {}
    for file in sorted(folder.rglob("*.txt")):
        for word, split in (("train", "train"), ("dev", "validation"), ("val", "validation"), ("test", "test")):
            if word in file.name.lower():
                lines = map(str.strip, file.read_text(encoding="utf-8-sig").splitlines())
                paths = [_find_photo(photos, line) or by_stem.get(line) for line in lines if line]
                if rows := {path: captions[path] for path in paths if path in captions}:
                    splits.setdefault(split, {}).update(rows)
                break
    return splits


def _flickr_rows(file):
    """Yield (name, caption) from lines "photo.jpg#0<TAB>caption", "photo.jpg,caption" or "photo.jpg| 0| caption"."""
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
            continue  # header
        if len(rest) > 1 and rest[0].strip().isdigit():  # number of the caption
            rest = rest[1:]
        yield name, separator.join(rest).strip()


def _to_dataset_dict(splits):
    """Convert {split: {path: captions}} to a `DatasetDict`; None if there are no photos."""
    if not any(splits.values()):
        return None
    columns = {split: {"image": list(rows), "captions": list(rows.values())} for split, rows in splits.items()}
    return DatasetDict({split: Dataset.from_dict(rows, PATHS) for split, rows in columns.items()})
