"""Writing a captioner, or any other file, so that it is whole or absent: `save_captioner`, `writing`."""

import contextlib
import os
import shutil
from pathlib import Path

from safetensors import SafetensorError


def save_captioner(model, processor, folder, state_dict=None, remedy="make room, then try again."):
    """Write a captioner into `folder` so that at every moment the folder loads: each file is whole or the old one.

    Raises `OSError`, which ends with `remedy`, where it cannot be written.
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
def writing(place, part=None, remedy="make room, then try again."):
    """While `place` is written, by way of the folder `part`, of which nothing is there before or left of a failure.

    Raises `OSError` with one sentence, which ends with `remedy`, where the disk is full or forbids it.
    """
    if part:
        shutil.rmtree(part, ignore_errors=True)
    try:
        yield
    except (OSError, SafetensorError) as error:
        if part:
            shutil.rmtree(part, ignore_errors=True)
        raise OSError(f"{place} could not be written ({error}); {remedy}") from error
