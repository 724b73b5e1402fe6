"""The page itself: what there is, and what happens when."""

from pathlib import Path

import gradio as gr

from demo.answers import COVER_SIDE, answer_photo, begun, covered, describe, opened, uploaded
from demo.batching import Batcher
from demo.endpoint import add_endpoint
from demo.language import TEXTS, Translator, language_of
from demo.lecture import lecture
from demo.many import add_many
from demo.teaching import add_teaching
from modeling_captioner import explain_caption

FOLDER = Path(__file__).parent
EXAMPLES = [str(path) for path in sorted(FOLDER.glob("examples/*.jpg"))]
SCRIPTS = ("helpers.js", "heat.js", "words.js", "stage.js", "bring.js", "cover.js")
# Of events that ask the model: so many visitors at once, for the batcher to put together.
MODEL = {"show_progress": "minimal", "concurrency_id": "model"}
LINKS = ("", "_hover", "_active", "_visited")
# Fonts of the visitor's own system: nothing is fetched.
THEME = gr.themes.Base(
    primary_hue="indigo",
    secondary_hue="amber",
    neutral_hue="slate",
    font=["system-ui", "Segoe UI", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
).set(
    # Gradio's own greys, links and button are too pale to read with ease.
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_300",
    block_label_text_color="*neutral_700",
    block_label_text_color_dark="*neutral_200",
    **{f"link_text_color{state}": "*primary_700" for state in LINKS},
    **{f"link_text_color{state}_dark": "*primary_300" for state in LINKS},
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
)


def build_page(model, processor, corrections=None, keep_seconds=3600):
    """Returns the page (`gr.Blocks`) and the options of its `launch` that make its look.

    `corrections` is the folder in which visitors' corrections are kept; without it nobody is asked for any.
    `keep_seconds` is how long a visitor's files stay on the disk at least; at most twice as long.
    """
    translated = Translator()
    explain = Batcher(model, processor).explain
    with gr.Blocks(title="Captioner", analytics_enabled=False, delete_cache=(keep_seconds, keep_seconds)) as page:
        translated(gr.Markdown(elem_id="heading"), value="heading")
        with gr.Tabs(overflow_behavior="wrap"):  # and none hides in a menu on a phone
            with translated(gr.Tab(), label="see_tab"), gr.Column(elem_id="see"):
                photo, stage, settings = make_inputs(model, translated)
                connect(model, processor, explain, photo, stage, settings)
                if corrections:
                    add_teaching(corrections, photo, stage, translated)
            with translated(gr.Tab(), label="lecture_tab") as tab:
                add_lecture(model, processor, photo, settings, tab)
            with translated(gr.Tab(), label="many_tab"):
                add_many(explain, translated)
        translated.on_load(page)
        page.load(None, js=read("page.js"))
    # In the head, because Gradio would confine `css` to what lies within its own frame.
    head = f"<style>{read('page.css')}</style>"
    return page, {"theme": THEME, "head": head, "footer_links": ["api"]}


def make_inputs(model, translated):
    """One photo, the stage on which its answer is shown, and the settings."""
    photo = gr.Image(
        type="filepath", sources=["upload", "webcam", "clipboard"], height=320, elem_id="photo", buttons=[]
    )
    translated(photo, label="photo", placeholder="photo_drop")
    # The photo's own file is what we want: open_photo opens photos, and says what is wrong with them.
    photo.preprocess = lambda payload: payload and uploaded(payload.path)
    stage = gr.HTML(
        html_template=read("stage.html"),
        css_template=read("stage.css"),
        js_on_load="\n".join(read(name) for name in SCRIPTS),
        apply_default_css=False,
        elem_id="stage",
        texts=TEXTS,
        covered=None,
        cover_side=COVER_SIDE,
    )
    translated(gr.Examples(EXAMPLES, photo, elem_id="examples", api_visibility="private").dataset, label="examples")
    return photo, stage, make_settings(model.generation_config, translated)


def make_settings(defaults, translated):
    """How the caption is searched for, folded away; `generation` reads the values."""
    with translated(gr.Accordion(open=False), label="settings"):
        with gr.Row():
            beams = gr.Slider(1, 8, defaults.num_beams or 1, step=1)
            words = gr.Slider(1, 40, defaults.max_new_tokens or 20, step=1)
        with gr.Row():
            temperature = gr.Slider(0, 2, 0, step=0.1)
            top_p = gr.Slider(0.05, 1, 1, step=0.05)
    for slider, name in ((beams, "beams"), (words, "words"), (temperature, "temperature"), (top_p, "top_p")):
        translated(slider, label=name, info=f"{name}_info")
    return [beams, words, temperature, top_p]


def generation(beams, words, temperature, top_p):
    """The settings as `generate` takes them, which refuses a temperature of 2 for not being 2.0; none, no chance."""
    settings = {"num_beams": int(beams), "max_new_tokens": int(words), "do_sample": temperature > 0}
    return settings | ({"temperature": float(temperature), "top_p": float(top_p)} if temperature else {})


def connect(model, processor, explain, photo, stage, settings):
    """What happens when."""

    def answer(request: gr.Request, path, *values):
        return answer_photo(explain, path, language_of(request), **generation(*values))

    def go_on(request: gr.Request, event: gr.EventData, path, *values):
        settings = generation(*values) | {"text": begun(event.text)}
        return answer_photo(explain, path, language_of(request), **settings) | {"begun": len(event.text.split())}

    def cover(request: gr.Request, event: gr.EventData, path, *values):
        photo = covered(opened(path, language_of(request)), event.cover)
        again = describe(explain(photo, **generation(*values)))
        first = explain_caption(model, processor, photo, begun(event.caption))
        probabilities = [word.probability for word in first.words]
        return gr.HTML(covered=again | {"probabilities": probabilities, "asked": event.asked})

    private = MODEL | {"api_visibility": "private"}
    changes = [photo.change, *(setting.change for setting in settings)]
    gr.on(changes, answer, [photo, *settings], stage, trigger_mode="always_last", **private)
    stage.go_on(go_on, [photo, *settings], stage, **private)
    stage.cover(cover, [photo, *settings], stage, **private)
    stage.another(None, None, photo, js="() => null", api_visibility="private")
    stage.brought(None, None, photo, js="() => window.broughtPhoto", api_visibility="private")
    add_endpoint(explain, photo, settings, generation, MODEL)


def add_lecture(model, processor, photo, settings, tab):
    """The numbers behind the visitor's caption, of an example where there is no photo yet."""

    def tokenize(text):
        tokenizer = processor.tokenizer
        return [[tokenizer.decode(number), number] for number in tokenizer(text[:200]).input_ids[1:]]

    board = gr.HTML(
        html_template=read("lecture.html"),
        css_template=read("lecture.css"),
        js_on_load="\n".join(read(name) for name in ("helpers.js", "heat.js", "lecture.js")),
        apply_default_css=False,
        server_functions=[tokenize],
        elem_id="lecture",
        texts=TEXTS,
    )

    def tell(request: gr.Request, path, *values):
        path, language = path or EXAMPLES[0], language_of(request)
        original = opened(path, language, side=None).size
        return lecture(model, processor, opened(path, language), original, **generation(*values))

    tab.select(tell, [photo, *settings], board, api_visibility="private", **MODEL)


def read(name):
    return (FOLDER / name).read_text(encoding="utf-8")
