"""Finding the columns of a data set by their names, types and cells."""

import hashlib
import itertools
import logging
import os
import re
from collections import Counter

import pyarrow
from datasets import Image, Value

from modeling_captioner.photos import photo_suffixes

from .download import is_url

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "url", "coco_url")
NAME_COLUMNS = ("image_id", "filename", "file_name")  # which need not be unique
ID_COLUMNS = ("cocoid", "imgid", *NAME_COLUMNS)  # IDs of photos
SUFFIXES = photo_suffixes()
STRINGS = ("string", "large_string")
IMAGE_COLUMN_NAME = re.compile("image|img|photo|pic", re.IGNORECASE)
INSPECTED_ROWS = 20  # the first rows, which show what a column contains
FINGERPRINT_PARTS, FINGERPRINT_BYTES = 16, 4096  # of a photo's file
logger = logging.getLogger(__name__)


def image_column(split, settings):
    """Name of the column with the photos. Raises `ValueError` if there is none."""
    name = settings.image_column or find_image_column(split)
    return check_column(split, name, IMAGE_COLUMNS, "photos", "--image_column")


def find_image_column(split):
    """Name of the column with the photos, or None.

    Columns of images are recognized by their type. Columns of URLs and paths are recognized by their cells, because
    their names vary; among several of them, known names come first, then URLs with the extension of an image file.

    Args:
        split: a `Dataset`, or an `IterableDataset` whose features are known.
    """
    features, known = split.features, [name for name in IMAGE_COLUMNS if name in split.column_names]
    known += [name for name in split.column_names if name.lower() in IMAGE_COLUMNS and name not in known]
    images = [name for name in [*known, *features] if _is_image(features[name], name in known)]
    if images:
        return images[0]
    strings = [name for name in [*known, *features] if getattr(features[name], "dtype", None) in STRINGS]
    if not strings:
        return None
    rows = list(itertools.islice(split.select_columns(list(dict.fromkeys(strings))), INSPECTED_ROWS))
    cells = {name: next((row[name] for row in rows if row[name]), "") for name in strings}
    evidence = {
        name: [name in known, _suffix(cells[name]) in SUFFIXES, bool(IMAGE_COLUMN_NAME.search(name))] for name in cells
    }
    urls = [name for name in cells if is_url(cells[name]) and any(evidence[name])]
    urls.sort(key=evidence.get, reverse=True)
    paths = [name for name in cells if evidence[name][1] and os.path.isfile(cells[name])]
    name = next(iter([*urls, *paths, *(name for name in cells if name in known)]), None)
    if name and name not in known:
        logger.warning("Reading photos from the column %r. To read another one, use --image_column.", name)
    return name


def _is_image(feature, known):
    if known and isinstance(feature, dict):  # an `Image` saved without its type
        return {"bytes", "path"} <= feature.keys()
    return isinstance(feature, Image) or (known and getattr(feature, "dtype", None) in ("binary", "large_binary"))


def _suffix(path):
    return os.path.splitext(re.split("[?#]", path)[0])[1].lower()


def photo_keys(split, image, processes=None):
    """A key for each row, equal for rows with the same photo: an ID of the data set, a URL, a path or a hash.

    Different photos may have the same file name, in two folders: they get different keys.

    Args:
        image: name of the column with the photos, which is read only if there is no column with unique IDs.
        processes: number of processes that read it.
    """
    photos = split.select_columns([image])
    if isinstance(photos.features[image], Image):
        photos = photos.cast_column(image, Image(decode=False))
    for column in id_columns(split.features):
        ids = split[column][:]
        if None not in ids and len(set(ids)) > 1:
            return _keys_of_names(ids, photos, image) if column in NAME_COLUMNS else ids
    keys = photos.map(
        lambda row: {"key": key_of(row[image])},
        remove_columns=[image],
        num_proc=processes,
        desc="finding duplicate photos",
    )
    return keys["key"][:]


def _keys_of_names(ids, photos, image):
    """The keys of rows with these file names: of those that several rows share, also what the photos look like."""
    counts, keys = Counter(ids), list(ids)
    shared = [row for row, own in enumerate(ids) if counts[own] > 1]
    cells = photos.with_format("arrow").select(shared)
    prints = [_fingerprint(cell) for table in cells.iter(1000) for cell in table[image]]
    known = {ids[row]: found for row, found in zip(shared, prints, strict=True) if found}
    for row, found in zip(shared, prints, strict=True):  # a row may leave out the photo that another row has
        keys[row] = (ids[row], found or known.get(ids[row]))
    return keys


def _fingerprint(cell):
    """What tells a photo from others: its path or URL, or a hash of some of its bytes. None if it is missing.

    Args:
        cell: an Arrow scalar, so that the bytes are not copied, and most are not even read.
    """
    content, path = cell, None
    if isinstance(cell, pyarrow.StructScalar):
        content, path = cell.get("bytes"), cell.get("path")
    if content is None or not content.is_valid:
        return path.as_py() if path is not None else None
    if isinstance(content, pyarrow.StringScalar | pyarrow.LargeStringScalar):
        return content.as_py()
    bytes_ = memoryview(content.as_buffer())
    parts = [bytes_[part * len(bytes_) // FINGERPRINT_PARTS :][:FINGERPRINT_BYTES] for part in range(FINGERPRINT_PARTS)]
    return hashlib.sha256(b"".join([*parts, bytes_[-FINGERPRINT_BYTES:], str(len(bytes_)).encode()])).hexdigest()


def id_columns(features):
    return [name for name in ID_COLUMNS if isinstance(features.get(name), Value)]


def key_of(image):
    """A key of the photo in a cell: its path or URL, or a hash of its bytes. None if the photo is missing."""
    if isinstance(image, dict):
        return hashlib.sha256(image["bytes"]).hexdigest() if image["bytes"] else image["path"]
    return image


def check_column(split, name, known, what, option):
    """Return `name` if it is a column of `split`. Raises `ValueError` otherwise."""
    if name in split.column_names:
        return name
    problem = f"There is no column {name!r}" if name else f"No column with {what} was recognized"
    raise ValueError(
        f"{problem} among {', '.join(split.column_names)}; choose one with {option} (known names: {', '.join(known)})."
    )
