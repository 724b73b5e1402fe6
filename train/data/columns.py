"""Columns as people name them, and what is in their cells."""

import hashlib

from datasets import Image, Value
from PIL import Image as PillowImage

from modeling_captioner.photos import FORMATS

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "url", "coco_url")
CAPTION_COLUMNS = ("captions", "caption", "sentences", "sentences_raw", "answer", "text", "txt", "caption_0")
ID_COLUMNS = ("cocoid", "image_id", "imgid", "filename", "file_name")  # the same where the photo is
SUFFIXES = {suffix for suffix, name in PillowImage.registered_extensions().items() if name in FORMATS}


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


def caption_columns(split, settings):
    caption = column_of(split, settings.caption_column, CAPTION_COLUMNS, "captions", "--caption_column")
    return [name for name in split.column_names if name.startswith("caption_")] if caption == "caption_0" else [caption]


def column_of(split, given, known, what, option):
    found = [name for name in ([given] if given else known) if name in split.column_names]
    if not found:
        raise ValueError(
            f"{given or f'No column of {what}'} is not among the columns {', '.join(split.column_names)};"
            f" known for {what} are {', '.join(known)}. Name yours: {option}."
        )
    return found[0]


def texts_of(value):
    """The captions in a cell: a string, a list of strings, or of {"raw": string} as in Karpathy's files."""
    if isinstance(value, dict):
        value = value["raw"]
    texts = [value] if isinstance(value, str) else value or []
    texts = [text["raw"] if isinstance(text, dict) else text for text in texts]
    return [text for text in texts if text and text.strip()]
