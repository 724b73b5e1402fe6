"""The state of the page in its address, so that back, reload and a shared link bring it back; see page_state.js."""

import json

import gradio as gr

from demo.scripts import load

QUIET = {"api_visibility": "private", "show_progress": "hidden"}


def remember_values(page, components):
    """Keep the values of components in the address. `components` maps their names in it to two or more components."""
    specs = json.dumps([[name, component.value, allowed(component)] for name, component in components.items()])
    values = list(components.values())
    page.load(None, None, values, js=f"async () => (await {load('page_state.js')}).restoreValues({specs})", **QUIET)
    remember = f"async (...values) => {{ (await {load('page_state.js')}).rememberValues({specs}, values); }}"
    gr.on([component.change for component in values], None, values, None, js=remember, **QUIET)


def allowed(component):
    """What an address may set the component to: a list of choices, or the minimum and maximum of a slider."""
    if isinstance(component, gr.Slider):
        return [component.minimum, component.maximum]
    return [value for _, value in component.choices]


def remember_photo(photo):
    remember = f"async (photo) => {{ (await {load('page_state.js')}).rememberPhoto(photo); }}"
    photo.change(None, photo, None, js=remember, **QUIET)
