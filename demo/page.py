"""Builds the page: its components and their events."""

from functools import partial

import gradio as gr

from demo.api import Page, add_api_endpoint
from demo.batch_tab import add_batch_tab
from demo.batching import Batcher
from demo.compare_tab import add_compare_tab
from demo.corrections_panel import add_corrections_panel
from demo.how_it_works_tab import add_how_it_works
from demo.i18n import Translator
from demo.languages import add_language_choice, speak_page_language
from demo.opening import caption_examples
from demo.page_state import remember_photo, remember_values
from demo.scripts import PRELOADS, call, mount
from demo.teaching_panel import add_teaching_panel, may_see_all
from demo.viewer import (
    MODEL_EVENT,
    add_examples,
    add_panel,
    add_photo_input,
    add_viewer,
    add_viewer_events,
    read,
)

LINK_STATES = ("", "_hover", "_active", "_visited")
# System fonts only, so that nothing is downloaded from other servers.
THEME = gr.themes.Base(
    primary_hue="indigo",
    secondary_hue="amber",
    neutral_hue="slate",
    font=["system-ui", "Segoe UI", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
).set(
    # Gradio's default grays, links and button have too little contrast.
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


def build_page(captioners, corrections=None, delete_cache=3600, teacher=None):
    """Build the page. Returns it (`gr.Blocks`) and the options of `launch` that set its appearance.

    Args:
        captioners: a dictionary from names to an engine (see `captioning.engine`) and the captioner's folder or name on
            the Hub. All tabs use the first; "Side by side" offers all.
        corrections: the folder in which visitors' corrections are saved; None hides the panel for corrections.
        delete_cache: seconds until visitors' files are deleted; at most twice as long.
        teacher: a [`demo.teaching.Teacher`], with which visitors teach a copy; None hides its panel.
    """
    translate = Translator()
    batchers = {name: Batcher(*captioner) for name, captioner in captioners.items()}
    captioner = next(iter(batchers.values()))
    opening, answer, wrong = caption_examples(captioner.engine)

    def get_captioner(*values):
        return captioner, generation_kwargs(*values)

    with Page(title="Captioner", analytics_enabled=False, delete_cache=(delete_cache, delete_cache)) as page:
        gr.HTML(
            js_on_load=mount("language_switch.js", "mountLanguageSwitch"),
            elem_id="language_switch",
            apply_default_css=False,
        )
        translate(gr.Markdown(elem_id="heading"), value="heading")
        with gr.Tabs(overflow_behavior="wrap"):  # on a phone, the default hides tabs in a menu
            with translate(gr.Tab(), label="caption_tab"), add_panel("caption_tab"):
                inputs = add_inputs(captioner, answer, bool(corrections), page, translate)
                photo, viewer, settings, language = inputs
                caption_after = add_viewer_events(get_captioner, "caption_tab", photo, viewer, settings, opening)
                add_api_endpoint(captioner.explain, photo, settings, generation_kwargs, MODEL_EVENT)
                if corrections:
                    with gr.Column(elem_id="corrections"):
                        see_all = partial(may_see_all, teacher)
                        add_corrections_panel(corrections, captioner, photo, viewer, language, see_all, page, translate)
                        if teacher:
                            add = partial(add_teaching_panel, teacher, captioner, photo, settings, get_captioner)
                            for event in add(page, translate):
                                caption_after(event)
            with translate(gr.Tab(), label="how_tab") as tab:
                add_how_it_works(captioner, photo, viewer, settings, get_captioner, tab, opening)
            with translate(gr.Tab(), label="compare_tab") as tab:
                add_compare_tab(batchers, translate, tab, photo)
            with translate(gr.Tab(), label="batch_tab"):
                add_batch_tab(captioner.explain, translate)
        translate.on_load(page)
        page.load(None, js=call("gradio_texts.js", "translateGradio", wrong))
        page.load(None, js=call("page_state.js", "rememberTabs"))
        if corrections:
            page.load(None, js=call("corrections.js", "addCorrections"))
    # A <style> in the head, because Gradio scopes `css` to its own container.
    head = f"<style>{read('page.css')}</style>{PRELOADS}"
    return page, {"theme": THEME, "head": head, "footer_links": ["api"]}


def add_inputs(captioner, answer, corrections, page, translate):
    """Add the photo, the viewer, which first shows `answer` and may offer `corrections`, and the settings.

    Returns these components, and the choice of the captions' language, which is also the last setting; None for a
    captioner of one language.
    """
    photo = add_photo_input(translate)
    language = None
    if captioner.languages:
        language = translate(add_language_choice(captioner, None, "caption_language"), label="caption_language")
        speak_page_language(page, captioner, language)
    viewer = add_viewer(answer=answer, corrections=corrections, remembered=True)
    remember_photo(photo)
    add_examples(photo, translate)
    settings = add_settings(captioner.engine.defaults, page, translate)
    return photo, viewer, settings + ([language] if language else []), language


def add_settings(defaults, page, translate):
    """Add the generation settings, collapsed. `generation_kwargs` converts their values."""
    with translate(gr.Accordion(open=False), label="settings"):
        with gr.Row():
            num_beams = gr.Slider(1, 8, defaults.get("num_beams") or 1, step=1)
            max_new_tokens = gr.Slider(1, 40, defaults.get("max_new_tokens") or 20, step=1)
        with gr.Row():
            temperature = gr.Slider(0, 2, 0, step=0.1)
            top_p = gr.Slider(0.05, 1, 1, step=0.05)
    sliders = {"num_beams": num_beams, "max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
    for name, slider in sliders.items():
        translate(slider, label=name, info=f"{name}_info")
    remember_values(page, sliders)
    return list(sliders.values())


def generation_kwargs(num_beams, max_new_tokens, temperature, top_p, *language):
    """Convert the settings to arguments of `generate`. A temperature of 0 turns sampling off."""
    kwargs = {"num_beams": int(num_beams), "max_new_tokens": int(max_new_tokens), "do_sample": temperature > 0}
    if language:
        kwargs["language"] = language[0]
    # `generate` accepts a temperature of 2.0 but not of 2.
    return kwargs | ({"temperature": float(temperature), "top_p": float(top_p)} if temperature else {})
