"""The tab that shows two captions side by side: of two photos, or of one photo by two captioners or settings."""

import gradio as gr

from demo.languages import add_language_choice
from demo.viewer import (
    EXAMPLES,
    add_examples,
    add_panel,
    add_photo_input,
    add_viewer,
    add_viewer_events,
)

# An update without a value changes nothing. Setting a photo that is already there would be a change, which is copied
# back, and so on for ever.
COPY_PHOTO = "(same, own, other) => (same && own?.path !== other?.path ? own : { __type__: 'update' })"


def add_compare_tab(captioners, translate, tab, photo):
    """Add both sides. `captioners` maps names to `Batcher`s; `photo` is the photo input of the first tab.

    At first the left side has the first captioner and the right side the last. If there is only one captioner, the left
    side shows greedy search instead, so that the sides differ.
    """
    several = len(captioners) > 1
    translate(gr.Markdown(), value="compare_intro_captioners" if several else "compare_intro")
    languages = list(captioners[next(iter(captioners))].languages or ())
    same = translate(gr.Checkbox(True, elem_id="same_photo"), label="compare_same_photo")
    with gr.Row(elem_id="comparison"):
        names = list(captioners)
        # With one captioner, the sides differ in the language if it speaks several, else in the search.
        left = add_side("a", captioners, names[0], None if several or languages else 1, languages[:1], translate)
        right = add_side("b", captioners, names[-1], None, languages[:2][-1:], translate)

    def first_photo(own, path):
        return gr.skip() if own else path or EXAMPLES[0]

    private = {"api_visibility": "private"}
    tab.select(first_photo, [left, photo], left, show_progress="hidden", **private)
    gr.on([left.change, same.change], None, [same, left, right], right, js=COPY_PHOTO, **private)
    right.change(None, [same, right, left], left, js=COPY_PHOTO, **private)


def add_side(side, captioners, name, num_beams, language, translate):
    """Add the choice of captioner, beams and language, the photo and its viewer. Returns the photo input.

    `language` is a list with the side's language at first, empty for captioners of one language.
    """
    with add_panel(f"side_{side}"):
        gr.Markdown(f"## {side.upper()}")
        with gr.Row():
            choice = gr.Radio(list(captioners), value=name, visible=len(captioners) > 1, elem_id=f"captioner_{side}")
            translate(choice, label="compare_captioner")
            num_beams = num_beams or captioners[name].engine.defaults.get("num_beams") or 1
            beams = gr.Slider(1, 8, num_beams, step=1, elem_id=f"beams_{side}")
            translate(beams, label="num_beams")
            languages = [add_language_choice(captioners[name], each, f"language_{side}") for each in language]
            for each in languages:
                translate(each, label="caption_language")
        photo = add_photo_input(translate, f"photo_{side}")
        viewer = add_viewer(f"viewer_{side}", ("compare.js", "mountComparedViewer"))
        add_examples(photo, translate, f"examples_{side}")

    def get_captioner(name, num_beams, *language):
        captioner = captioners[name]
        spoken = {"language": language[0]} if language and language[0] in (captioner.languages or ()) else {}
        return captioner, {"num_beams": int(num_beams), "do_sample": False} | spoken

    add_viewer_events(get_captioner, f"side_{side}", photo, viewer, [choice, beams, *languages])
    return photo
