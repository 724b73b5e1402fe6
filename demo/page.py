"""Builds the page: its components and their events."""

from pathlib import Path

import gradio as gr

from demo.api import add_api_endpoint
from demo.batch_tab import add_batch_tab
from demo.batching import Batcher
from demo.corrections import add_corrections_panel
from demo.how_it_works_tab import trace
from demo.i18n import TEXTS, Translator, get_language
from demo.predict import MASK_SIDE, MAX_DISPLAY_SIDE, apply_mask, caption_upload, check_text, explanation_to_dict
from demo.uploads import check_upload, open_upload
from modeling_captioner import explain_caption

FOLDER = Path(__file__).parent
EXAMPLES = [str(path) for path in sorted(FOLDER.glob("examples/*.jpg"))]
# Gradio runs a component's script as one function, so the files share one scope.
VIEWER_SCRIPTS = (
    "i18n.js",
    "dom.js",
    "attention_map.js",
    "word_buttons.js",
    "attention_viewer.js",
    "upload.js",
    "occlusion.js",
)
HOW_IT_WORKS_SCRIPTS = ("i18n.js", "dom.js", "attention_map.js", "how_it_works.js")
# Options of the events that run the model. They share one concurrency limit, so that the batcher sees them together.
MODEL_EVENT = {"show_progress": "minimal", "concurrency_id": "model"}
LINK_STATES = ("", "_hover", "_active", "_visited")
# System fonts only, so that nothing is downloaded from other servers.
THEME = gr.themes.Base(
    primary_hue="indigo",
    secondary_hue="amber",
    neutral_hue="slate",
    font=["system-ui", "Segoe UI", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
).set(
    # Gradio's default greys, links and button have too little contrast.
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_300",
    block_label_text_color="*neutral_700",
    block_label_text_color_dark="*neutral_200",
    **{f"link_text_color{state}": "*primary_700" for state in LINK_STATES},
    **{f"link_text_color{state}_dark": "*primary_300" for state in LINK_STATES},
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
)


def build_page(model, processor, corrections=None, delete_cache=3600):
    """Build the page. Returns it (`gr.Blocks`) and the options of `launch` that set its appearance.

    Args:
        model, processor: the captioner.
        corrections: the folder in which visitors' corrections are saved; None hides the panel for corrections.
        delete_cache: seconds until visitors' files are deleted; at most twice as long.
    """
    translate = Translator()
    explain = Batcher(model, processor).explain
    with gr.Blocks(title="Captioner", analytics_enabled=False, delete_cache=(delete_cache, delete_cache)) as page:
        translate(gr.Markdown(elem_id="heading"), value="heading")
        with gr.Tabs(overflow_behavior="wrap"):  # on a phone, the default hides tabs in a menu
            with translate(gr.Tab(), label="caption_tab"), gr.Column(elem_id="caption_tab"):
                photo, viewer, settings = add_inputs(model, translate)
                add_events(model, processor, explain, photo, viewer, settings)
                if corrections:
                    add_corrections_panel(corrections, photo, viewer, translate)
            with translate(gr.Tab(), label="how_tab") as tab:
                add_how_it_works(model, processor, photo, settings, tab)
            with translate(gr.Tab(), label="batch_tab"):
                add_batch_tab(explain, translate)
        translate.on_load(page)
        page.load(None, js=read("page.js"))
    # A <style> in the head, because Gradio scopes `css` to its own container.
    head = f"<style>{read('page.css')}</style>"
    return page, {"theme": THEME, "head": head, "footer_links": ["api"]}


def add_inputs(model, translate):
    """Add the photo, the viewer that shows its caption, and the settings. Returns these components."""
    photo = gr.Image(
        type="filepath", sources=["upload", "webcam", "clipboard"], height=320, elem_id="photo", buttons=[]
    )
    translate(photo, label="photo", placeholder="photo_placeholder")
    # Pass the uploaded file on unchanged: open_photo decodes it, and reports what is wrong with it.
    photo.preprocess = lambda payload: payload and check_upload(payload.path)
    viewer = gr.HTML(
        html_template=read("attention_viewer.html"),
        css_template=read("attention_viewer.css"),
        js_on_load="\n".join(read(name) for name in VIEWER_SCRIPTS),
        apply_default_css=False,
        elem_id="viewer",
        texts=TEXTS,
        occlusion=None,
        mask_side=MASK_SIDE,
    )
    translate(gr.Examples(EXAMPLES, photo, elem_id="examples", api_visibility="private").dataset, label="examples")
    return photo, viewer, add_settings(model.generation_config, translate)


def add_settings(defaults, translate):
    """Add the generation settings, collapsed. `generation_kwargs` converts their values."""
    with translate(gr.Accordion(open=False), label="settings"):
        with gr.Row():
            num_beams = gr.Slider(1, 8, defaults.num_beams or 1, step=1)
            max_new_tokens = gr.Slider(1, 40, defaults.max_new_tokens or 20, step=1)
        with gr.Row():
            temperature = gr.Slider(0, 2, 0, step=0.1)
            top_p = gr.Slider(0.05, 1, 1, step=0.05)
    sliders = {"num_beams": num_beams, "max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
    for name, slider in sliders.items():
        translate(slider, label=name, info=f"{name}_info")
    return list(sliders.values())


def generation_kwargs(num_beams, max_new_tokens, temperature, top_p):
    """Convert the settings to arguments of `generate`. A temperature of 0 turns sampling off."""
    kwargs = {"num_beams": int(num_beams), "max_new_tokens": int(max_new_tokens), "do_sample": temperature > 0}
    # `generate` accepts a temperature of 2.0 but not of 2.
    return kwargs | ({"temperature": float(temperature), "top_p": float(top_p)} if temperature else {})


def add_events(model, processor, explain, photo, viewer, settings):
    """Connect the photo, the viewer and the settings."""

    # Not named `caption`: Gradio names endpoints after functions, private ones too, and `/caption` is the API's.
    def caption_photo(request: gr.Request, path, *values):
        return caption_upload(explain, path, get_language(request), **generation_kwargs(*values))

    def continue_caption(request: gr.Request, event: gr.EventData, path, *values):
        kwargs = generation_kwargs(*values) | {"text": check_text(event.text)}
        result = caption_upload(explain, path, get_language(request), **kwargs)
        return result | {"prefix_length": len(event.text.split())}

    def caption_masked(request: gr.Request, event: gr.EventData, path, *values):
        photo = apply_mask(open_upload(path, get_language(request), side=MAX_DISPLAY_SIDE), event.mask)
        result = explanation_to_dict(explain(photo, **generation_kwargs(*values)))
        first_caption = explain_caption(model, processor, photo, check_text(event.caption))
        probabilities = [word.probability for word in first_caption.words]
        return gr.HTML(occlusion=result | {"probabilities": probabilities, "request_id": event.request_id})

    private = MODEL_EVENT | {"api_visibility": "private"}
    changes = [photo.change, *(setting.change for setting in settings)]
    gr.on(changes, caption_photo, [photo, *settings], viewer, trigger_mode="always_last", **private)
    viewer.continue_caption(continue_caption, [photo, *settings], viewer, **private)
    viewer.caption_masked(caption_masked, [photo, *settings], viewer, **private)
    viewer.remove_photo(None, None, photo, js="() => null", api_visibility="private")
    viewer.photo_uploaded(None, None, photo, js="() => window.uploadedPhoto", api_visibility="private")
    add_api_endpoint(explain, photo, settings, generation_kwargs, MODEL_EVENT)


def add_how_it_works(model, processor, photo, settings, tab):
    """Add the "How it works" tab for the visitor's photo, or for an example if there is no photo yet."""

    def tokenize(text):
        tokenizer = processor.tokenizer
        return [[tokenizer.decode(token_id), token_id] for token_id in tokenizer(text[:200]).input_ids[1:]]

    board = gr.HTML(
        html_template=read("how_it_works.html"),
        css_template=read("how_it_works.css"),
        js_on_load="\n".join(read(name) for name in HOW_IT_WORKS_SCRIPTS),
        apply_default_css=False,
        server_functions=[tokenize],
        elem_id="how_it_works",
        texts=TEXTS,
    )

    def run(request: gr.Request, path, *values):
        path, language = path or EXAMPLES[0], get_language(request)
        original_size = open_upload(path, language).size
        opened = open_upload(path, language, side=MAX_DISPLAY_SIDE)
        return trace(model, processor, opened, original_size, **generation_kwargs(*values))

    tab.select(run, [photo, *settings], board, api_visibility="private", **MODEL_EVENT)


def read(name):
    return (FOLDER / name).read_text(encoding="utf-8")
