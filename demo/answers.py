"""What the page is told about a photo: plain numbers and words, sent once."""

import base64
import io
from pathlib import Path

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder
from PIL import Image

from demo.language import in_language
from modeling_captioner import PhotoError, open_photo

SHOWN_SIDE = 1280  # pixels of the longer side of the photo as the page shows it, at most
LEAST_SIDE = 480  # and at least, or a map could not be seen on it
MOST_CHARACTERS = 600  # of a caption
COVER_SIDE = 48  # cells a side of the grid in which a visitor covers parts of the photo
COVER_COLOUR = (128, 128, 128)  # after normalisation nothing at all


def answer_photo(explain, path, language, **settings):
    """Caption the photo at `path` (None where there is none) with `explain(photo, **settings)`.

    Returns a dictionary for JSON: `{}`, `{"message": ...}` for a photo that cannot be captioned, in the visitor's
    language, or the photo as the page can show it and its explanation.
    """
    if path is None:
        return {}
    try:
        photo = open_photo(path, side=SHOWN_SIDE)
    except PhotoError as error:
        return {"message": friendly(error, path, language)}
    return describe(explain(photo, **settings)) | {"photo": shown(photo)}


def covered(photo, cover):
    """The photo with grey where the cover lies, its edges as soft as the page draws them.

    `cover` is a string of COVER_SIDE * COVER_SIDE digits, row by row, "1" where the photo is covered.
    """
    cells = (np.frombuffer(cover.encode(), np.uint8) == ord("1")).reshape(COVER_SIDE, COVER_SIDE)
    mask = Image.fromarray(cells.astype(np.uint8) * 255).resize(photo.size, Image.Resampling.BILINEAR)
    return Image.composite(Image.new("RGB", photo.size, COVER_COLOUR), photo, mask)


def describe(explanation):
    """An `Explanation` for JSON; a word's map is a list of rows."""
    return {
        "caption": explanation.caption,
        "log_probability": explanation.log_probability,
        "words": [
            {
                "text": word.text,
                "probability": word.probability,
                "map": np.round(word.map.astype(float), 5).tolist(),
                "alternatives": [{"word": other, "probability": share} for other, share in word.alternatives],
            }
            for word in explanation.words
        ],
        "beams": [{"caption": caption, "log_probability": score} for caption, score in explanation.beams],
    }


def shown(photo):
    """The photo as a browser can show it, upright, of a screen's size; it travels in the answer and is not stored."""
    longer = max(photo.size)
    scale = min(max(longer, LEAST_SIDE), SHOWN_SIDE) / longer
    size = [max(1, round(side * scale)) for side in photo.size]
    # Quick for large photos: first whole points are averaged, then the rest is interpolated.
    small = photo.resize(size, Image.Resampling.BILINEAR, reducing_gap=1.1)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def begun(text):
    """The words that a caption begins with, if they are few enough to be a caption's. Raises `gr.Error`."""
    if len(text) > MOST_CHARACTERS:
        raise gr.Error(f"text has {len(text)} characters, more than {MOST_CHARACTERS}; begin the caption with fewer.")
    return text


def uploaded(path):
    """The path, if a visitor's own file lies there.

    Gradio (6.31) checks only paths that come labelled as files, and whoever talks to the server without a browser can
    leave the label out. Raises `gr.Error` for any other file of the server.
    """
    if not Path(path).resolve().is_relative_to(Path(get_upload_folder()).resolve()):
        raise gr.Error("Send the photo itself: the server's own files are not for captioning.")
    return path


def opened(path, language="en", side=SHOWN_SIDE):
    """The photo at `path`, as `open_photo` gives it. Raises `gr.Error`, which the visitor sees."""
    try:
        return open_photo(path, side=side)
    except PhotoError as error:
        raise gr.Error(friendly(error, path, language)) from error


def friendly(error, path, language="en"):
    """The error's sentence with the photo's own name: where the server keeps the file is nobody's business."""
    return in_language(str(error).replace(str(path), Path(path).name), language)
