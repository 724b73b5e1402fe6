"""The API endpoint `/caption`, which is also a tool of the MCP server."""

import gradio as gr
from gradio.components.api_component import Api
from gradio_client.utils import python_type_to_json_schema
from typing_extensions import NotRequired, TypedDict  # the standard library's from Python 3.11 on

from demo.predict import MAX_DISPLAY_SIDE, check_text
from demo.uploads import open_upload

API_NAME = "caption"
LANGUAGE_INDEX = 6  # the values before it: the photo, four settings and the text


class Alternative(TypedDict):
    word: str
    probability: float


class Word(TypedDict):
    text: str
    probability: float
    map: list[list[float]]
    alternatives: list[Alternative]


class Beam(TypedDict):
    caption: str
    log_probability: float


class Caption(TypedDict):
    caption: str
    log_probability: float
    language: NotRequired[str]
    confidence: NotRequired[float]
    words: list[Word]
    beams: list[Beam]


class Page(gr.Blocks):
    """`gr.Blocks` that also answer a call of the endpoint without its last value, the language.

    Gradio rejects a call with fewer values than the endpoint has, such as one that was written for a captioner of one
    language.
    """

    async def preprocess_data(self, block_fn, inputs, *args, **kwargs):
        if block_fn.api_name == API_NAME and len(inputs) == len(block_fn.inputs) - 1 == LANGUAGE_INDEX:
            inputs = [*inputs, None]
        return await super().preprocess_data(block_fn, inputs, *args, **kwargs)


def add_api_endpoint(explain, photo, settings, generation_kwargs, event_options):
    """Add the endpoint `/caption`.

    `explain(photo, **kwargs)` returns an `Explanation`, `photo` and `settings` are the page's inputs,
    `generation_kwargs` converts the settings' values to keyword arguments, and `event_options` are the options of the
    page's other events that run the model.
    """

    def caption(photo, num_beams, max_new_tokens, temperature, top_p, text, language=None):
        """Describe a photo in one sentence, with each word's probability and attention map.

        Args:
            photo: the photo, in any common image format.
            num_beams: number of beams, 1 to 8; 1 is greedy search.
            max_new_tokens: maximum number of words, 1 to 40.
            temperature: 0 turns sampling off; higher values up to 2 make less likely words more frequent.
            top_p: sample only from the most likely words whose probabilities add up to this value, 0.05 to 1.
            text: the words that the caption starts with; may be empty.
            language: the language of the caption, of a captioner that speaks several; by default its first.

        Returns:
            The caption, its natural log-probability, its words (each with its text, its probability, its attention map
            as rows of weights that sum to 1, and its most likely alternatives), and the beams, best first. The
            language, if the captioner speaks several, and the confidence from 0 to 1, if it is calibrated.
        """
        if photo is None:
            raise gr.Error("photo is missing; upload one.")
        kwargs = generation_kwargs(num_beams, max_new_tokens, temperature, top_p, *([language] if language else []))
        opened = open_upload(photo, side=MAX_DISPLAY_SIDE)
        return explain(opened, text=check_text(text), **kwargs).to_dict()

    sliders, language = settings[:4], settings[4:]
    text = gr.Textbox("", label="text", visible=False)
    output = Api(None, python_type_to_json_schema(Caption), "caption")
    gr.Button(visible=False).click(
        caption, [photo, *sliders, text, *language], output, api_name=API_NAME, **event_options
    )
