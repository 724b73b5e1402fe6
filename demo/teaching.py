"""Teach it: visitors' corrections, kept as a data set that `train/` reads, where the page was started to keep them."""

import json
import threading
import uuid
from pathlib import Path

import gradio as gr

from demo.answers import SHOWN_SIDE, friendly
from demo.language import TEXTS, language_of
from modeling_captioner import PhotoError, open_photo

MOST_CHARACTERS = 300
MOST_BYTES = 2_000_000_000  # of all corrections together

one_at_a_time = threading.Lock()


def add_teaching(folder, photo, stage, translated):
    """The panel under the answer. `photo` and `stage` are the page's; corrections go into `folder`."""
    with translated(gr.Accordion(open=False, elem_id="teach"), label="teach"):
        translated(gr.Markdown(), value="teach_note")
        words = translated(gr.Textbox(max_length=MOST_CHARACTERS, elem_id="right_words"), label="teach_words")
        button = translated(gr.Button(elem_id="keep"), value="teach_keep")
        outcome = gr.Markdown(elem_id="kept")
        with translated(gr.Accordion(open=False), label="teach_how"):
            translated(gr.Markdown(), value="teach_how_text")

    def keep(request: gr.Request, path, right_words):
        texts = TEXTS[language_of(request)]
        if not path:
            return texts["teach_no_photo"]
        right_words = " ".join(right_words.split())[:MOST_CHARACTERS]
        if not right_words:
            return texts["teach_no_words"]
        if sum(file.stat().st_size for file in Path(folder).iterdir()) > MOST_BYTES:
            return texts["teach_full"]
        try:
            keep_correction(folder, open_photo(path, side=SHOWN_SIDE), right_words)
        except PhotoError as error:
            return friendly(error, path, language_of(request))
        return texts["teach_kept"]

    private = {"api_visibility": "private"}
    stage.change(None, stage, words, js="(answer) => (answer && answer.caption) || ''", **private)
    button.click(keep, [photo, words], outcome, **private)


def keep_correction(folder, photo, words):
    """Adds a photo and its right words to the imagefolder.

    The photo is saved anew, no larger than the page shows it, upright, and without what its file said of place, time
    and camera.
    """
    photo.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    folder = Path(folder)
    name = f"{uuid.uuid4().hex}.jpg"
    photo.save(folder / name, "JPEG", quality=95)
    with one_at_a_time, (folder / "metadata.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"file_name": name, "captions": [words]}, ensure_ascii=False) + "\n")
