"""COCO's names of photos: `image_id`."""

import re
from pathlib import Path


def image_id(photo: str | Path) -> int | str:
    """The COCO image id if the file is named by it (COCO_val2014_000000000042.jpg, 42.jpg), else the file name."""
    number = re.fullmatch(r"(?:COCO_\w+_)?(\d+)", Path(photo).stem)
    return int(number[1]) if number else Path(photo).name
