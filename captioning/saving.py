"""Atomic writing: `save_captioner`, `write_file`, and `writing` for other files."""

import contextlib
import filecmp
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

REMEDY = "free disk space, then try again."
MARK = "written-by-save_captioner"  # a file in temporary folders, so that only these are deleted


def save_captioner(
    model: Any, processor: Any, folder: str | Path, state_dict: dict | None = None, remedy: str = REMEDY
) -> None:
    """Save a captioner to `folder`, in place of an earlier one.

    A process that is killed meanwhile leaves the earlier captioner, the new one, or one without weights, which does not
    load; never the settings of one with the weights of the other.

    Raises `OSError` with a message ending in `remedy` if it cannot be written.
    """
    folder = Path(folder)
    with writing(folder / "model.safetensors", remedy=remedy), _temporary_folder(folder) as part:
        model.save_pretrained(part, state_dict=state_dict)
        processor.save_pretrained(part)
        weights = sorted(part.glob("model*.safetensors*"))
        settings = [file for file in part.iterdir() if file not in weights and file.name != MARK]
        if not all(_are_same(file, folder / file.name) for file in settings):
            for earlier in folder.glob("model*.safetensors*"):
                earlier.unlink()
        for file in [*settings, *weights]:
            os.replace(file, folder / file.name)


@contextlib.contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    """A new folder in `parent`, deleted at the end, like those that killed processes have left there."""
    parent.mkdir(parents=True, exist_ok=True)
    for mark in parent.glob(f".part-*/{MARK}"):
        shutil.rmtree(mark.parent, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=parent) as folder:
        Path(folder, MARK).touch()
        yield Path(folder)


def _are_same(file: Path, other: Path) -> bool:
    return other.is_file() and filecmp.cmp(file, other, shallow=False)


def write_file(path: str | Path, data: bytes) -> None:
    """Write a file, in place of an earlier one, which stays intact if the process is killed. Raises `OSError`."""
    part = Path(path).with_name(f".{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            file.write(data)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def writing(place: str | Path, part: Path | None = None, remedy: str = REMEDY) -> Iterator[None]:
    """Context for writing `place` by way of the temporary folder `part`, which is removed before and after a failure.

    Raises `OSError` with one sentence ending in `remedy` if the disk is full or not writable.
    """
    if part:
        shutil.rmtree(part, ignore_errors=True)
    try:
        yield
    except (OSError, SafetensorError) as error:
        if part:
            shutil.rmtree(part, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"{place} could not be written ({reason}); {remedy}") from error
