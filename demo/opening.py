"""What the page shows before a visitor has chosen a photo: an example with its caption.

`examples/shows.json` lists, for each example, nouns that name what it shows, in English and Vietnamese. A caption that
contains none of them is wrong, and the page says so. The page opens with the first example, in the file's order, whose
caption is right.
"""

import json
from pathlib import Path

from captioning.opening import choose_opening
from demo.predict import MAX_DISPLAY_SIDE, photo_to_data_url
from modeling_captioner import open_photo

FOLDER = Path(__file__).parent / "examples"
SHOWS = json.loads((FOLDER / "shows.json").read_text(encoding="utf-8"))


def caption_examples(engine):
    """Caption all examples with the captioner's default settings. `engine`: see `captioning.engine`.

    Returns the path of the example that the page opens with, the answer that the viewer shows for it, and the names of
    the examples with a wrong caption.
    """
    photos = [open_photo(example_path(name), side=MAX_DISPLAY_SIDE) for name in SHOWS]
    explanations = engine.explain_photos(photos, do_sample=False)
    first, answer, wrong = choose_opening(explanations, SHOWS)
    return example_path(list(SHOWS)[first]), answer | {"photo": photo_to_data_url(photos[first])}, wrong


def example_path(name):
    return str(FOLDER / f"{name}.jpg")
