"""The tab that shows two captions side by side: of two photos, or of one photo by two captioners or settings."""

import gradio as gr

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
    same = translate(gr.Checkbox(True, elem_id="same_photo"), label="compare_same_photo")
    with gr.Row(elem_id="comparison"):
        names = list(captioners)
        left = add_side("a", captioners, names[0], None if several else 1, translate)
        right = add_side("b", captioners, names[-1], None, translate)

    def first_photo(own, path):
        return gr.skip() if own else path or EXAMPLES[0]

    private = {"api_visibility": "private"}
    tab.select(first_photo, [left, photo], left, show_progress="hidden", **private)
    gr.on([left.change, same.change], None, [same, left, right], right, js=COPY_PHOTO, **private)
    right.change(None, [same, right, left], left, js=COPY_PHOTO, **private)


def add_side(side, captioners, name, num_beams, translate):
    """Add the choice of captioner and beams, the photo and its viewer. Returns the photo input."""
    with add_panel(f"side_{side}"):
        gr.Markdown(f"## {side.upper()}")
        with gr.Row():
            choice = gr.Radio(list(captioners), value=name, visible=len(captioners) > 1, elem_id=f"captioner_{side}")
            translate(choice, label="compare_captioner")
            num_beams = num_beams or captioners[name].model.generation_config.num_beams or 1
            beams = gr.Slider(1, 8, num_beams, step=1, elem_id=f"beams_{side}")
            translate(beams, label="num_beams")
        photo = add_photo_input(translate, f"photo_{side}")
        viewer = add_viewer(f"viewer_{side}", ("compare.js", "mountComparedViewer"))
        add_examples(photo, translate, f"examples_{side}")

    def get_captioner(name, num_beams):
        return captioners[name], {"num_beams": int(num_beams), "do_sample": False}

    add_viewer_events(get_captioner, f"side_{side}", photo, viewer, [choice, beams])
    return photo
