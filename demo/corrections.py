"""The panel in which visitors correct captions (`--corrections`). Corrections form a data set that `train/` reads."""

import json
import threading
import uuid
from pathlib import Path

import gradio as gr

from demo.i18n import TEXTS, get_language
from demo.predict import MAX_DISPLAY_SIDE
from demo.uploads import error_message
from modeling_captioner import PhotoError, open_photo

MAX_CAPTION_LENGTH = 300  # characters
MAX_FOLDER_BYTES = 2_000_000_000  # all corrections together

metadata_lock = threading.Lock()


def add_corrections_panel(folder, photo, viewer, translate):
    """Add the panel below the caption. `photo` and `viewer` are the page's components; `folder` is the data set."""
    with translate(gr.Accordion(open=False, elem_id="corrections"), label="corrections"):
        translate(gr.Markdown(), value="corrections_privacy")
        caption = gr.Textbox(max_length=MAX_CAPTION_LENGTH, elem_id="corrected_caption")
        translate(caption, label="corrections_caption")
        button = translate(gr.Button(elem_id="save_correction"), value="corrections_save")
        status = gr.Markdown(elem_id="correction_status")
        with translate(gr.Accordion(open=False), label="corrections_training"):
            translate(gr.Markdown(), value="corrections_training_text")

    def save(request: gr.Request, path, caption):
        texts = TEXTS[get_language(request)]
        if not path:
            return texts["corrections_no_photo"]
        caption = " ".join(caption.split())[:MAX_CAPTION_LENGTH]
        if not caption:
            return texts["corrections_no_caption"]
        if sum(file.stat().st_size for file in Path(folder).iterdir()) > MAX_FOLDER_BYTES:
            return texts["corrections_full"]
        try:
            save_correction(folder, open_photo(path, side=MAX_DISPLAY_SIDE), caption)
        except PhotoError as error:
            return error_message(error, path, get_language(request))
        return texts["corrections_saved"]

    private = {"api_visibility": "private"}
    viewer.change(None, viewer, caption, js="(answer) => (answer && answer.caption) || ''", **private)
    button.click(save, [photo, caption], status, **private)


def save_correction(folder, photo, caption):
    """Add a photo and its corrected caption to the imagefolder data set in `folder`.

    The photo is re-encoded at display size, upright and without metadata such as place, time and camera.
    """
    photo.thumbnail((MAX_DISPLAY_SIDE, MAX_DISPLAY_SIDE))
    folder = Path(folder)
    name = f"{uuid.uuid4().hex}.jpg"
    photo.save(folder / name, "JPEG", quality=95)
    with metadata_lock, (folder / "metadata.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"file_name": name, "captions": [caption]}, ensure_ascii=False) + "\n")
