"""The language of the captions, of a captioner that speaks several: a choice beside the photo."""

import json

import gradio as gr

from demo.i18n import TEXTS
from demo.scripts import load


def add_language_choice(captioner, language, elem_id):
    """Add the choice. `language` is the one at first, by default the captioner's first."""
    names = TEXTS["en"]["own_names"]
    choices = [(names.get(each, each), each) for each in captioner.languages]
    return gr.Radio(choices, value=language or captioner.languages[0], elem_id=elem_id, elem_classes="language-choice")


def speak_page_language(page, captioner, choice):
    """Choose the language in the page's address, or that of the page if the captioner speaks it, and remember it."""
    spoken = json.dumps(captioner.languages)
    script = f"""async () => {{
        const [{{ language }}, {{ readState }}] = [await {load("i18n.js")}, await {load("page_state.js")}];
        const chosen = [readState("captions"), language].find((each) => {spoken}.includes(each)) ?? {spoken}[0];
        return chosen === {spoken}[0] ? {{ __type__: "update" }} : chosen; // nothing else than what is there
    }}"""
    page.load(None, None, choice, js=script, api_visibility="private")
    remember = f"""async (chosen) => {{
        const [{{ language }}, {{ writeState }}] = [await {load("i18n.js")}, await {load("page_state.js")}];
        writeState({{ captions: chosen === language ? null : chosen }});
    }}"""
    choice.change(None, choice, None, js=remember, api_visibility="private")
