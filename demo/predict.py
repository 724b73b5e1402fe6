"""Captions one photo for the page: an uploaded file in, a JSON-serializable dictionary out."""

import base64
import io

import gradio as gr
import numpy as np
from PIL import Image

from demo.uploads import error_message
from modeling_captioner import PhotoError, open_photo

MAX_DISPLAY_SIDE = 1280  # pixels, longer side of the photo as the page displays it
MIN_DISPLAY_SIDE = 480  # a map is unreadable on anything smaller
MAX_TEXT_LENGTH = 600  # characters of the text that a caption starts with
MASK_SIDE = 48  # cells per side of the grid in which a visitor covers parts of the photo
MASK_COLOR = (128, 128, 128)  # close to zero after normalization


def caption_upload(explain, path, page_language, **generation_kwargs):
    """Caption the uploaded photo at `path` with `explain(photo, **generation_kwargs)`.

    Returns `{}` if `path` is None, `{"message": ...}` in the visitor's language if the photo cannot be opened, and
    otherwise the explanation together with the photo as a data URL.
    """
    if path is None:
        return {}
    try:
        photo = open_photo(path, side=MAX_DISPLAY_SIDE)
    except PhotoError as error:
        return {"message": error_message(error, path, page_language)}
    return explain(photo, **generation_kwargs).to_dict() | {"photo": photo_to_data_url(photo)}


def apply_mask(photo, mask):
    """Paint the masked cells of the photo gray, with the soft edges that the page displays.

    `mask` is a string of MASK_SIDE * MASK_SIDE digits in row-major order; "1" marks a covered cell.
    """
    cells = (np.frombuffer(mask.encode(), np.uint8) == ord("1")).reshape(MASK_SIDE, MASK_SIDE)
    image = Image.fromarray(cells.astype(np.uint8) * 255).resize(photo.size, Image.Resampling.BILINEAR)
    return Image.composite(Image.new("RGB", photo.size, MASK_COLOR), photo, image)


def photo_to_data_url(photo):
    """Encode the photo as a JPEG data URL at display size, so that the server does not have to store it."""
    longer = max(photo.size)
    scale = min(max(longer, MIN_DISPLAY_SIDE), MAX_DISPLAY_SIDE) / longer
    size = [max(1, round(side * scale)) for side in photo.size]
    # reducing_gap makes large photos fast: they are box-filtered by an integer factor before the interpolation.
    small = photo.resize(size, Image.Resampling.BILINEAR, reducing_gap=1.1)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def check_text(text):
    """Return the text that a caption starts with. Raises `gr.Error` if it is too long."""
    if len(text) > MAX_TEXT_LENGTH:
        raise gr.Error(f"text has {len(text)} characters, more than the limit of {MAX_TEXT_LENGTH}; shorten it.")
    return text
