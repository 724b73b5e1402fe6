"""Columns as people name them, and what is in their cells."""

import hashlib
import itertools
import logging
import os
import re

from datasets import Image, Value
from PIL import Image as PillowImage

from modeling_captioner.photos import FORMATS

from .download import is_address

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "url", "coco_url")
ID_COLUMNS = ("cocoid", "image_id", "imgid", "filename", "file_name")  # the same where the photo is
SUFFIXES = {suffix for suffix, name in PillowImage.registered_extensions().items() if name in FORMATS}
STRINGS = ("string", "large_string")
PICTURE_NAME = re.compile("image|img|photo|pic", re.IGNORECASE)  # of a column
FIRST_ROWS = 20  # rows whose cells tell what a column contains
logger = logging.getLogger(__name__)


def image_column(split, settings):
    """Name of the column with the photos. Raises `ValueError` if there is none."""
    name = settings.image_column or find_image_column(split)
    return check_column(split, name, IMAGE_COLUMNS, "photos", "--image_column")


def find_image_column(split):
    """Name of the column with the photos, or None.

    Pictures are recognised by their type. Addresses and paths are recognised by the cells, because their columns have
    all kinds of names; of several, a known name comes first, then addresses that end like the name of a picture.

    Args:
        split: a `Dataset`, or an `IterableDataset` whose features are known.
    """
    features, known = split.features, [name for name in IMAGE_COLUMNS if name in split.column_names]
    known += [name for name in split.column_names if name.lower() in IMAGE_COLUMNS and name not in known]
    pictures = [name for name in [*known, *features] if _is_picture(features[name], name in known)]
    if pictures:
        return pictures[0]
    strings = [name for name in [*known, *features] if getattr(features[name], "dtype", None) in STRINGS]
    if not strings:
        return None
    rows = list(itertools.islice(split.select_columns(list(dict.fromkeys(strings))), FIRST_ROWS))
    cells = {name: next((row[name] for row in rows if row[name]), "") for name in strings}
    evident = {
        name: [name in known, _suffix(cells[name]) in SUFFIXES, bool(PICTURE_NAME.search(name))] for name in cells
    }
    addresses = [name for name in cells if is_address(cells[name]) and any(evident[name])]
    addresses.sort(key=evident.get, reverse=True)
    paths = [name for name in cells if evident[name][1] and os.path.isfile(cells[name])]
    name = next(iter([*addresses, *paths, *(name for name in cells if name in known)]), None)
    if name and name not in known:
        logger.warning("The photos are in the column %r. If not, name another one: --image_column.", name)
    return name


def _is_picture(feature, known):
    if known and isinstance(feature, dict):  # an `Image` that was saved without its type
        return {"bytes", "path"} <= feature.keys()
    return isinstance(feature, Image) or (known and getattr(feature, "dtype", None) in ("binary", "large_binary"))


def _suffix(path):
    return os.path.splitext(re.split("[?#]", path)[0])[1].lower()


def photo_keys(split, image, processes=None):
    """For each row what is the same where its photo is: an id that the set has, an address, a path, or a hash.

    Args:
        image: name of the photos' column, which is read only where nothing else tells photos apart.
        processes: that share the reading.
    """
    for column in id_columns(split.features):
        ids = split[column][:]
        if None not in ids and len(set(ids)) > 1:
            return ids
    photos = split.select_columns([image])
    if isinstance(photos.features[image], Image):
        photos = photos.cast_column(image, Image(decode=False))
    keys = photos.map(
        lambda row: {"key": key_of(row[image])},
        remove_columns=[image],
        num_proc=processes,
        desc="telling photos apart",
    )
    return keys["key"][:]


def id_columns(features):
    return [name for name in ID_COLUMNS if isinstance(features.get(name), Value)]


def key_of(image):
    """What is the same where a cell's photo is: its path or URL, or a hash of its bytes. None for a missing one."""
    if isinstance(image, dict):
        return hashlib.sha256(image["bytes"]).hexdigest() if image["bytes"] else image["path"]
    return image


def check_column(split, name, known, what, option):
    """Return `name`, a column of `split`. Raises `ValueError` if it is not one, or None."""
    if name not in split.column_names:
        raise ValueError(
            f"{name or f'No column of {what}'} is not among the columns {', '.join(split.column_names)};"
            f" known for {what} are {', '.join(known)}. Name yours: {option}."
        )
    return name
