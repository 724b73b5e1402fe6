"""Which photos to caption: paths, folders, patterns, lists of paths, data sets."""

import glob
import io
import os
import sys
from pathlib import Path

from PIL import Image

from modeling_captioner import PhotoError, open_photo
from modeling_captioner.photos import FORMATS


def find_photos(given, lists, recursive):
    """The paths of all photos that `given` (paths, folders, patterns) and the files `lists` name, in this order."""
    given = [path for one in given for path in (read_list("-") if one == "-" else [one])]
    given += [path for file in lists for path in read_list(file)]
    if not given:
        raise ValueError("No photo is named; give pictures, folders, a --list, or a --dataset_name.")
    return [path for one in given for path in expand(one, recursive)]


def read_list(file):
    """The paths in a file ("-" for standard input), a line each, or with NUL between them as `find -print0` writes."""
    data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    paths = data.split(b"\0") if b"\0" in data else data.splitlines()
    return [os.fsdecode(path) for path in paths if path.strip()]


def expand(given, recursive):
    """The path itself, a folder's pictures, or what a pattern matches; the path itself where there are none."""
    if not os.path.exists(given) and glob.has_magic(given):
        found = [path for match in sorted(glob.glob(given, recursive=True)) for path in expand(match, recursive)]
        return found or [given]
    if not os.path.isdir(given):
        return [given]
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    files = Path(given).rglob("*") if recursive else Path(given).iterdir()
    pictures = [path for path in files if path.suffix.lower() in suffixes and path.is_file()]
    shown = [path for path in pictures if not any(part.startswith(".") for part in path.relative_to(given).parts)]
    return [str(path) for path in sorted(shown)] or [given]


def read_file(path, side=None):
    """The photo at `path`; `side` as `open_photo` takes it. Raises `PhotoError`."""
    if os.path.isdir(path):
        raise PhotoError(f"{path} is a folder without pictures; give one that holds JPEG or PNG files.")
    return open_photo(path, side=side)


def stream_dataset(name, config, split, column):
    """A data set's photos, read while they are captioned: pairs of a name, SPLIT/NUMBER, and what `read_row` takes; and
    how many there are, or None where it does not say."""
    import datasets

    datasets.disable_progress_bars()
    rows = datasets.load_dataset(name, config, split=split, streaming=True)
    columns = rows.column_names or list(next(iter(rows), {}))
    if column not in columns:
        raise ValueError(f"{name} has no column {column!r} but {', '.join(columns)}; name the photos': --image_column.")
    rows = rows.select_columns(column).cast_column(column, datasets.Image(decode=False))
    splits = rows.info.splits or {}
    total = splits[split].num_examples if split in splits else None
    return ((f"{split}/{number}", row[column]) for number, row in enumerate(rows)), total


def read_row(image, side=None):
    """The photo in a data set's cell: bytes, or where they lie. Raises `PhotoError`."""
    if image is None:
        raise PhotoError("The row has no photo.")
    if image["bytes"] is not None:
        return open_photo(io.BytesIO(image["bytes"]), side=side)
    if "://" not in image["path"]:
        return open_photo(image["path"], side=side)
    import fsspec

    try:
        with fsspec.open(image["path"]) as file:
            data = file.read()
    except OSError as error:
        raise PhotoError(f"{image['path']} cannot be fetched ({error}).") from error
    return open_photo(data, side=side)
