"""Visitors' corrections of captions (`--corrections`): an imagefolder data set that `train/` reads."""

import json
import os
import re
import threading
import uuid
from pathlib import Path

from demo.predict import MAX_DISPLAY_SIDE

MAX_FOLDER_BYTES = 2_000_000_000  # all corrections together
NAME = re.compile(r"[0-9a-f]{32}\.jpg")  # of a saved photo; cannot be guessed, so who knows it may take it back

metadata_lock = threading.Lock()


def read_corrections(folder):
    """The rows of the data set, the latest last: dictionaries with `file_name`, `captions` and perhaps `language`."""
    try:
        lines = (Path(folder) / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines]


def save_correction(folder, photo, caption, language=None, default_language=None):
    """Add a photo and its corrected caption to the data set. Returns the name of its file.

    The photo is re-encoded at display size, upright and without metadata such as place, time and camera. `language` is
    the caption's, None for a captioner of one language; rows from before it had several get `default_language`.
    """
    photo.thumbnail((MAX_DISPLAY_SIDE, MAX_DISPLAY_SIDE))
    folder = Path(folder)
    name = f"{uuid.uuid4().hex}.jpg"
    row = {"file_name": name, "captions": [caption]} | ({"language": language} if language else {})
    try:
        photo.save(folder / name, "JPEG", quality=95)
        with metadata_lock:
            rows = read_corrections(folder)
            if language:  # a data set has the same columns in all rows
                rows = [{**other, "language": other.get("language", default_language)} for other in rows]
            write_corrections(folder, [*rows, row])
    except OSError:  # such as a full disk: no photo without a row
        (folder / name).unlink(missing_ok=True)
        raise
    return name


def take_back(folder, names):
    """Delete corrections by the names of their files; other names are ignored. Returns how many there were."""
    names = {name for name in names if isinstance(name, str) and NAME.fullmatch(name)}
    with metadata_lock:
        rows = read_corrections(folder)
        left = [row for row in rows if row["file_name"] not in names]
        if len(left) < len(rows):
            write_corrections(folder, left)
    for name in names:
        (Path(folder) / name).unlink(missing_ok=True)
    return len(rows) - len(left)


def write_corrections(folder, rows):
    """Replace metadata.jsonl at once, so that a trainer or a full disk never leaves half of it."""
    new = Path(folder) / f".metadata-{uuid.uuid4().hex}"
    try:
        new.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        os.replace(new, Path(folder) / "metadata.jsonl")
    finally:
        new.unlink(missing_ok=True)


def is_full(folder):
    return sum(file.stat().st_size for file in Path(folder).iterdir()) > MAX_FOLDER_BYTES
