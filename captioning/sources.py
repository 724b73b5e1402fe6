"""Photo sources: paths, folders, glob patterns, lists of paths, datasets."""

import codecs
import collections
import glob
import io
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from modeling_captioner import PhotoError, open_photo
from modeling_captioner.photos import URLS, download_photo, read_download

from .errors import print_warning
from .folders import describe, list_photos


def find_photos(patterns: Iterable[str], lists: Iterable[str], recursive: bool) -> list[str]:
    """The paths of all photos named by `patterns` (paths, folders, globs) and then by the files `lists`."""
    patterns = [path for pattern in patterns for path in (read_list("-") if pattern == "-" else [pattern])]
    patterns += [path for file in lists for path in read_list(file)]
    if not patterns:
        raise ValueError("No photos given; pass images, folders, --list or --dataset_name.")
    left_out: collections.Counter = collections.Counter()
    photos = [path for pattern in patterns for path in expand(pattern, recursive, left_out)]
    if left_out:
        print_warning(f"left out of the folders: {describe(left_out)}.")
    return photos


def read_list(file: str) -> list[str]:
    """Read paths from a file ("-" for standard input), one per line or NUL-separated as written by `find -print0`.

    The file may start with a byte order mark, and with that of UTF-16 it is read as such. Raises `ValueError` for
    anything else that contains NULs.
    """
    data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    refusal = f"{'Standard input' if file == '-' else file} is not a list of paths in UTF-8; save it as UTF-8."
    try:
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            data = data.decode("utf-16").encode()
        lines = data.split(b"\0") if b"\0" in data else data.splitlines()
        paths = [os.fsdecode(path.removeprefix(codecs.BOM_UTF8)) for path in lines if path.strip()]
    except UnicodeError as error:
        raise ValueError(refusal) from error
    # UTF-16 without a mark, or a binary file, is split within its words, where "." or "/" would be the whole disk.
    if b"\0" in data and not all(os.path.exists(path) for path in paths if len(path) == 1):
        raise ValueError(refusal)
    return paths


def expand(pattern: str, recursive: bool, left_out: collections.Counter) -> list[str]:
    """Expand a folder to its images and a glob to its matches; the pattern itself if there are none.

    Counts in the `collections.Counter` `left_out` what is left out of folders.
    """
    if not os.path.exists(pattern) and glob.has_magic(pattern):
        matches = sorted(glob.glob(pattern, recursive=True))
        return [path for match in matches for path in expand(match, recursive, left_out)] or [pattern]
    if not os.path.isdir(pattern):
        return [pattern]
    photos, missing = list_photos(Path(pattern), recursive)
    left_out.update(missing)
    return [str(Path(photo)) for photo in photos] or [pattern]


def read_file(path: str, side: int | None = None) -> Image.Image:
    """Open the photo at `path`; see `open_photo` for `side`. Raises `PhotoError`."""
    if os.path.isdir(path):
        raise PhotoError(f"{path} is a folder without images; give one that contains JPEG or PNG files.")
    return open_photo(path, side=side)


def stream_dataset(
    name: str, config: str | None, split: str, column: str
) -> tuple[Iterator[tuple[str, Any]], int | None]:
    """Stream the photos of a dataset. Returns pairs of a name, SPLIT/NUMBER, and an argument for `read_row`; and the
    number of photos, or None if unknown."""
    import datasets

    datasets.disable_progress_bars()
    rows = datasets.load_dataset(name, config, split=split, streaming=True)
    columns = rows.column_names or list(next(iter(rows), {}))
    if column not in columns:
        raise ValueError(f"{name} has no column {column!r}, only {', '.join(columns)}; set --image_column.")
    rows = rows.select_columns(column).cast_column(column, datasets.Image(decode=False))
    splits = rows.info.splits or {}
    total = splits[split].num_examples if split in splits else None
    return ((f"{split}/{number}", row[column]) for number, row in enumerate(rows)), total


def read_row(image: dict[str, Any] | None, side: int | None = None) -> Image.Image:
    """Open the photo in a dataset cell: bytes, a path or a URL. Raises `PhotoError`."""
    if image is None:
        raise PhotoError("The row contains no image.")
    if image["bytes"] is not None:
        return open_photo(io.BytesIO(image["bytes"]), side=side)
    if image["path"].startswith(URLS):
        return open_photo(download_photo(image["path"]), side=side)
    if "://" not in image["path"]:
        return open_photo(image["path"], side=side)
    import fsspec

    try:
        with fsspec.open(image["path"]) as file:
            data = read_download(file, image["path"])
    except PhotoError:
        raise
    except (OSError, ValueError, ImportError) as error:  # also if the protocol is unknown, or lacks its package
        raise PhotoError(f"{image['path']} could not be downloaded ({error}).") from error
    return open_photo(data, side=side)
