"""Atomic writing: `save_captioner`, and `writing` for other files."""

import contextlib
import os
import shutil
from pathlib import Path

from safetensors import SafetensorError


def save_captioner(model, processor, folder, state_dict=None, remedy="free disk space, then try again."):
    """Save a captioner to `folder`, replacing each file atomically, so that the folder can be loaded at any time.

    Raises `OSError` with a message ending in `remedy` if it cannot be written.
    """
    folder = Path(folder)
    part = folder / "part"
    with writing(folder / "model.safetensors", part, remedy):
        part.mkdir(parents=True)
        model.save_pretrained(part, state_dict=state_dict)
        processor.save_pretrained(part)
    for file in part.iterdir():
        os.replace(file, folder / file.name)
    part.rmdir()


@contextlib.contextmanager
def writing(place, part=None, remedy="free disk space, then try again."):
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
