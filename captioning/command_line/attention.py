"""`caption.py --attention`: captions with their attention maps, for a figure."""

from pathlib import Path

from modeling_captioner import PhotoError

from .outputs import check_folder

MAX_DRAWN = 30  # photos; a taller figure is hard to open


def caption_with_maps(captioner, photos, read, failed, drawn):
    """Like `caption_photos`, one photo at a time; appends (name, thumbnail, explanation) to `drawn`."""
    for name, source in photos:
        try:
            photo = read(source)
        except PhotoError as error:
            failed.append((name, error))
            continue
        explanation = captioner.explain(photo)
        photo.thumbnail((512, 512))
        drawn.append((name, photo, explanation))
        yield [(name, explanation.caption, explanation.log_probability)]


def check_drawing(path, photos):
    """Check `--attention` before captioning, so that a mistake is reported at once. Raises `ValueError`."""
    if Path(path).suffix.lower() not in (".png", ".jpg", ".pdf", ".svg"):
        raise ValueError(f"--attention {path}: the file name must end with .png, .jpg, .pdf or .svg.")
    check_folder(Path(path).parent, f"--attention {path}")
    if photos > MAX_DRAWN:
        raise ValueError(f"--attention draws at most {MAX_DRAWN} photos, but {photos} were given; pass fewer.")
