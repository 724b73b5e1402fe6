"""The page for programs: the endpoint `/caption`, which is also a tool of the MCP server."""

from typing import TypedDict

import gradio as gr
from gradio.components.api_component import Api
from gradio_client.utils import python_type_to_json_schema

from demo.answers import begun, describe, opened


class Choice(TypedDict):
    word: str
    probability: float


class CaptionWord(TypedDict):
    text: str
    probability: float
    map: list[list[float]]
    alternatives: list[Choice]


class Beam(TypedDict):
    caption: str
    log_probability: float


class Caption(TypedDict):
    caption: str
    log_probability: float
    words: list[CaptionWord]
    beams: list[Beam]


def add_endpoint(explain, photo, settings, generation, options):
    """Adds `/caption`. `explain(photo, **settings)` gives explanations; `photo` and `settings` are the page's inputs,
    `generation` reads the settings' values, `options` are those of the page's other events."""

    def caption(photo, num_beams, max_new_tokens, temperature, top_p, text):
        """Say in one English sentence what a photo shows, and for each word how sure the model is and where it looked.

        Args:
            photo: the picture, in any common format.
            num_beams: captions tried at once, 1 to 8; 1 takes the likeliest word each time.
            max_new_tokens: the most words said, 1 to 40.
            temperature: 0 for no chance; above it words are drawn, the higher the bolder, up to 2.
            top_p: words are drawn only from the likeliest that make up this share, 0.05 to 1.
            text: words that the caption begins with; may be empty.

        Returns:
            caption, its natural log-probability, words (each with its text, its probability, the map of where the model
            looked as rows of shares that sum to 1, and the likeliest alternatives), and beams, best first.
        """
        if photo is None:
            raise gr.Error("There is no photo; give one.")
        settings = generation(num_beams, max_new_tokens, temperature, top_p)
        return describe(explain(opened(photo), text=begun(text), **settings))

    text = gr.Textbox("", label="text", visible=False)
    answer = Api(None, python_type_to_json_schema(Caption), "caption")
    gr.Button(visible=False).click(caption, [photo, *settings, text], answer, api_name="caption", **options)
