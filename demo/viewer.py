"""A photo, its caption and where the model looked for each word: the components and events that tabs share.

`panel` is the `elem_id` of the column that contains the photo input and its viewer; the scripts of the viewer look for
the photo input there, so that several viewers can be on one page.
"""

from functools import partial
from pathlib import Path

import gradio as gr

from demo.i18n import get_language
from demo.predict import MASK_SIDE, MAX_DISPLAY_SIDE, apply_mask, caption_upload, check_text
from demo.scripts import mount
from demo.uploads import check_upload, open_upload

FOLDER = Path(__file__).parent
EXAMPLES = [str(path) for path in sorted(FOLDER.glob("examples/*.jpg"))]
VIEWER_EVENTS = ("continue_caption", "show_caption", "caption_masked", "correct", "remove_photo", "photo_uploaded")
# Options of the events that run the model. They share one concurrency limit, so that the batcher sees them together.
MODEL_EVENT = {"show_progress": "minimal", "concurrency_id": "model"}


def add_panel(elem_id):
    """A column for a photo input and its viewer, to be used as a context manager."""
    return gr.Column(elem_id=elem_id, elem_classes="caption-panel", min_width=320)


def add_photo_input(translate, elem_id="photo"):
    """Add the input for a photo. Its value is the path of the uploaded file."""
    photo = gr.Image(
        type="filepath",
        sources=["upload", "webcam", "clipboard"],
        height=320,
        elem_id=elem_id,
        elem_classes="photo-input",
        buttons=[],
    )
    # Pass the uploaded file on unchanged: open_photo decodes it, and reports what is wrong with it.
    photo.preprocess = lambda payload: payload and check_upload(payload.path)
    # Gradio's sample under "Use via API" is a photo on another server, which the page refuses.
    photo.example_payload = lambda: {"path": "photo.jpg", "meta": {"_type": "gradio.FileData"}}
    photo.example_value = lambda: "photo.jpg"
    return translate(photo, label="photo", placeholder="photo_placeholder")


def add_viewer(elem_id="viewer", script=("attention_viewer.js", "mountViewer"), answer=None, **options):
    """Add the viewer, which shows a caption and its maps: those of `answer` when the page opens.

    `script` is the module and the function in it that show the viewer. `options`: `corrections`, whether it offers to
    correct the caption, and `remembered`, whether what it shows is kept in the page's address.
    """
    return gr.HTML(
        answer,
        html_template=read("attention_viewer.html"),
        css_template=read("attention_viewer.css"),
        js_on_load=mount(*script, VIEWER_EVENTS),
        apply_default_css=False,
        elem_id=elem_id,
        elem_classes="attention-viewer",
        occlusion=None,
        mask_side=MASK_SIDE,
        **options,
    )


def add_examples(photo, translate, elem_id="examples"):
    examples = gr.Examples(EXAMPLES, photo, elem_id=elem_id, api_visibility="private")
    translate(examples.dataset, label="examples")


def add_viewer_events(get_captioner, panel, photo, viewer, settings, opening=None):
    """Connect the photo, the viewer and the settings of a panel.

    `get_captioner(*values)` converts the values of `settings` to a `Batcher` and keyword arguments for `generate`.
    `opening` is the path of the photo that the viewer shows until there is another one. Returns a function that
    captions the photo again after an event.
    """

    # Not named `caption`: Gradio names endpoints after functions, private ones too, and `/caption` is the API's.
    def caption_photo(request: gr.Request, path, *values):
        captioner, kwargs = get_captioner(*values)
        return caption_upload(captioner.explain, path, get_language(request), **kwargs)

    def caption_again(request: gr.Request, path, *values):
        return caption_photo(request, path or opening, *values) | {"opening": bool(opening and not path)}

    def continue_caption(request: gr.Request, event: gr.EventData, path, *values):
        captioner, kwargs = get_captioner(*values)
        kwargs |= {"text": check_text(event.text)}
        result = caption_upload(captioner.explain, path or opening, get_language(request), **kwargs)
        return result | {"prefix_length": len(event.text.split()), "opening": bool(opening and not path)}

    def caption_masked(request: gr.Request, event: gr.EventData, path, *values):
        captioner, kwargs = get_captioner(*values)
        photo = apply_mask(open_upload(path or opening, get_language(request), side=MAX_DISPLAY_SIDE), event.mask)
        result = captioner.explain(photo, **kwargs).to_dict()
        first_caption = explain_given(captioner, photo, check_text(event.caption), kwargs)
        probabilities = [word.probability for word in first_caption.words]
        return gr.HTML(occlusion=result | {"probabilities": probabilities, "request_id": event.request_id})

    def show_caption(request: gr.Request, event: gr.EventData, path, *values):
        captioner, kwargs = get_captioner(*values)
        explain = partial(explain_given, captioner, caption=check_text(event.caption), settings=kwargs)
        result = caption_upload(explain, path or opening, get_language(request))
        return result | {"prefix_length": len(event.caption.split()), "opening": bool(opening and not path)}

    private = MODEL_EVENT | {"api_visibility": "private"}
    photo.change(caption_photo, [photo, *settings], viewer, trigger_mode="always_last", **private)
    changes = [setting.change for setting in settings]
    gr.on(changes, caption_again, [photo, *settings], viewer, trigger_mode="always_last", **private)
    viewer.continue_caption(continue_caption, [photo, *settings], viewer, **private)
    viewer.caption_masked(caption_masked, [photo, *settings], viewer, **private)
    viewer.show_caption(show_caption, [photo, *settings], viewer, **private)
    viewer.remove_photo(None, None, photo, js="() => null", api_visibility="private")
    uploaded = f"() => document.querySelector('#{panel}').uploadedPhoto"
    viewer.photo_uploaded(None, None, photo, js=uploaded, api_visibility="private")

    def caption_after(event):
        """Caption the photo again after the event, such as when another model answers."""
        event.success(caption_again, [photo, *settings], viewer, **private)

    return caption_after


def explain_given(captioner, photo, caption, settings):
    """Explain a given caption in the language of the settings."""
    language = {"language": settings["language"]} if "language" in settings else {}
    return captioner.explain_caption(photo, caption, **language)


def read(name):
    return (FOLDER / name).read_text(encoding="utf-8")
