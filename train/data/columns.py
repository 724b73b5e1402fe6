"""Columns as people name them, and what is in their cells."""

import hashlib

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "url", "coco_url")
CAPTION_COLUMNS = ("captions", "caption", "sentences", "sentences_raw", "answer", "text", "txt", "caption_0")


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
