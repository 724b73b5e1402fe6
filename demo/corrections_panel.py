"""The panel in which visitors correct captions, see the corrections that they have saved, and take them back."""

from html import escape

import gradio as gr

from demo.corrections import is_full, read_corrections, save_correction, take_back
from demo.i18n import TEXTS, get_language
from demo.predict import MAX_DISPLAY_SIDE
from demo.teaching import unknown_words
from demo.uploads import error_message
from modeling_captioner import PhotoError, open_photo

MAX_CAPTION_LENGTH = 300  # characters
PRIVATE = {"api_visibility": "private"}
QUIET = PRIVATE | {"show_progress": "hidden"}


def add_corrections_panel(folder, captioner, photo, viewer, language, may_see_all, page, translate):
    """Add the panel. `photo`, `viewer` and `language` are the page's components; `folder` is the data set.

    `language` is the choice of the captions' language, None for a captioner of one. `may_see_all(request)` tells
    whether the visitor sees everyone's corrections; others see those that this browser has saved, whose names it keeps.
    """
    saved_here = gr.BrowserState([], storage_key="captioner-corrections", secret="not needed")
    languages = [language] if language else []
    with gr.Row():
        translate(gr.Markdown(), value="corrections_heading")
        translate(gr.Button(elem_id="close_corrections", min_width=80), value="close")
    translate(gr.Markdown(), value="corrections_privacy")
    caption = gr.Textbox(max_length=MAX_CAPTION_LENGTH, elem_id="corrected_caption")
    translate(caption, label="corrections_caption")
    marked = gr.HTML(elem_id="correction_marks", apply_default_css=False)
    button = translate(gr.Button(elem_id="save_correction", variant="primary"), value="corrections_save")
    status = gr.Markdown(elem_id="correction_status")
    with gr.Column(visible=False, elem_id="saved_corrections") as saved:
        chosen = translate(gr.CheckboxGroup([], elem_id="saved_captions"), label="corrections_list")
        back_button = translate(gr.Button(elem_id="take_back"), value="corrections_take_back")
    with translate(gr.Accordion(open=False), label="corrections_training"):
        translate(gr.Markdown(), value="corrections_training_text")

    def list_saved(request, names):
        rows = read_corrections(folder)
        if not may_see_all(request):
            rows = [row for row in rows if row["file_name"] in names]
        choices = [(describe(row), row["file_name"]) for row in reversed(rows)]
        return gr.CheckboxGroup(choices=choices, value=[]), gr.Column(visible=bool(choices))

    def show_saved(request: gr.Request, names):
        return list_saved(request, names)

    def mark(request: gr.Request, caption):
        return mark_unknown(TEXTS[get_language(request)], captioner.processor.tokenizer, caption)

    def save(request: gr.Request, path, caption, names, *language):
        texts = TEXTS[get_language(request)]

        def answer(text, names=names):
            return text, names, *list_saved(request, names)

        if not path:
            return answer(texts["corrections_no_photo"])
        caption = " ".join(caption.split())[:MAX_CAPTION_LENGTH]
        if not caption:
            return answer(texts["corrections_no_caption"])
        if is_full(folder):
            return answer(texts["corrections_full"])
        try:
            opened = open_photo(path, side=MAX_DISPLAY_SIDE)
        except PhotoError as error:
            return answer(error_message(error, path, get_language(request)))
        default = captioner.languages[0] if captioner.languages else None
        name = save_correction(folder, opened, caption, *language, default_language=default)
        return answer(texts["corrections_saved"], [*names, name])

    def back(request: gr.Request, chosen, names):
        texts = TEXTS[get_language(request)]
        allowed = chosen if may_see_all(request) else [name for name in chosen if name in names]
        count = take_back(folder, allowed)
        names = [name for name in names if name not in allowed]
        return texts["corrections_taken_back"].format(count), names, *list_saved(request, names)

    shown = "() => document.querySelector('#caption_tab').shownCaption ?? ''"
    viewer.change(None, None, caption, js=shown, **PRIVATE)
    viewer.correct(None, None, caption, js=shown, **PRIVATE)
    caption.change(mark, caption, marked, trigger_mode="always_last", **QUIET)
    listed = [saved_here, chosen, saved]
    button.click(save, [photo, caption, saved_here, *languages], [status, *listed], **PRIVATE)
    back_button.click(back, [chosen, saved_here], [status, *listed], **QUIET)
    page.load(show_saved, saved_here, [chosen, saved], **QUIET)


def describe(row):
    """A correction in one line, as the list shows it."""
    return " ".join(row["captions"]) + (f" ({row['language']})" if "language" in row else "")


def mark_unknown(texts, tokenizer, caption):
    """The words of the caption that the model cannot learn to say, in a sentence; empty if there are none."""
    words = unknown_words(tokenizer, [caption or ""])
    marks = ", ".join(f"<mark>{escape(word)}</mark>" for word in words)
    return f"<p>{escape(texts['corrections_unknown']).format(words=marks)}</p>" if words else ""
