"""The "How it works" tab: a tour of the model on the visitor's photo and caption."""

import gradio as gr

from demo.i18n import get_language
from demo.predict import MAX_DISPLAY_SIDE, check_text
from demo.scripts import mount
from demo.uploads import open_upload
from demo.viewer import MODEL_EVENT, read

# The tour shows the caption on the first tab, not another one: of all that the viewer has, only that is sent.
CAPTION_ONLY = "(photo, answer, ...settings) => [photo, answer?.caption ?? '', ...settings]"


def add_how_it_works(captioner, photo, viewer, settings, get_captioner, tab, opening):
    """Add the tour of the photo and caption in `viewer`, or of the photo at the path `opening` if there is none yet.

    `get_captioner(*values)` converts the values of `settings` to a `Batcher` and keyword arguments for `generate`.
    """

    def tokenize(text):
        tokenizer = captioner.processor.tokenizer
        return [[tokenizer.decode(token_id), token_id] for token_id in tokenizer(text[:200]).input_ids[1:]]

    board = gr.HTML(
        html_template=read("how_it_works.html"),
        css_template=read("how_it_works.css"),
        js_on_load=mount("how_it_works.js", "mountHowItWorks"),
        apply_default_css=False,
        server_functions=[tokenize],
        elem_id="how_it_works",
    )

    def run(request: gr.Request, path, caption, *values):
        from demo.trace import trace  # imports PyTorch

        path, page_language = path or opening, get_language(request)
        original_size = open_upload(path, page_language).size
        opened = open_upload(path, page_language, side=MAX_DISPLAY_SIDE)
        kwargs = get_captioner(*values)[1]
        caption = check_text(caption) or captioner.explain(opened, **kwargs).caption
        language = {"language": kwargs["language"]} if "language" in kwargs else {}
        result = trace(captioner.model, captioner.processor, opened, original_size, caption, **language)
        return result | {"languages": caption_in_each_language(captioner, opened, kwargs)}

    inputs = [photo, viewer, *settings]
    tab.select(run, inputs, board, js=CAPTION_ONLY, api_visibility="private", **MODEL_EVENT)


def caption_in_each_language(captioner, photo, settings):
    """The photo's caption in each language that the captioner speaks: its words, their ids and their maps."""
    tokenizer = captioner.processor.tokenizer
    captions = []
    for language in captioner.languages or ():
        explanation = captioner.explain(photo, **settings | {"language": language}).to_dict()
        words = [
            {"text": word["text"], "id": tokenizer.convert_tokens_to_ids(word["text"]), "map": word["map"]}
            for word in explanation["words"]
        ]
        captions.append({"language": language, "start": f"<{language}>", "words": words})
    return captions
