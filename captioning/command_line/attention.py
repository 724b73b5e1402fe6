"""`caption.py --attention`: captions with their attention maps, for a figure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from modeling_captioner import Explanation, PhotoError

from .outputs import Caption, Captions, check_folder

MAX_DRAWN = 30  # photos; a taller figure is hard to open


def caption_with_maps(
    captioner: Any,
    photos: Iterable[tuple[str, Any]],
    read: Callable[[Any], Image.Image],
    failed: list[tuple[str, PhotoError]],
    drawn: list[tuple[str, Image.Image, Explanation]],
    languages: Sequence[str | None] = (None,),
) -> Iterator[list[tuple[str, Captions]]]:
    """Like `caption_photos`, photo by photo; appends (name, thumbnail, explanation) to `drawn` for each language."""
    for name, source in photos:
        try:
            photo = read(source)
        except PhotoError as error:
            failed.append((name, error))
            continue
        explanations = [captioner.explain(photo, language=language) for language in languages]
        photo.thumbnail((512, 512))
        drawn += [(name, photo, explanation) for explanation in explanations]
        yield [(name, [Caption(found.caption, found.log_probability, found.confidence) for found in explanations])]


def check_drawing(path: str, photos: int) -> None:
    """Check `--attention` before captioning, so that a mistake is reported at once. Raises `ValueError`."""
    if Path(path).suffix.lower() not in (".png", ".jpg", ".pdf", ".svg"):
        raise ValueError(f"--attention {path}: the file name must end with .png, .jpg, .pdf or .svg.")
    check_folder(Path(path).parent, f"--attention {path}")
    if photos > MAX_DRAWN:
        raise ValueError(f"--attention draws at most {MAX_DRAWN} photos, but {photos} were given; pass fewer.")
