"""What the page shows before a visitor has chosen a photo: an example with its caption.

`examples/shows.json` lists, for each example, nouns that name what it shows, in English and Vietnamese. A caption that
contains none of them is wrong, and the page says so. The page opens with the first example, in the file's order, whose
caption is right.
"""

import json
import re
from pathlib import Path

from demo.predict import MAX_DISPLAY_SIDE, photo_to_data_url
from modeling_captioner import explain_photos, open_photo

FOLDER = Path(__file__).parent / "examples"
SHOWS = json.loads((FOLDER / "shows.json").read_text(encoding="utf-8"))


def caption_examples(model, processor):
    """Caption all examples with the captioner's default settings.

    Returns the path of the example that the page opens with, the answer that the viewer shows for it, and the names of
    the examples with a wrong caption.
    """
    photos = [open_photo(example_path(name), side=MAX_DISPLAY_SIDE) for name in SHOWS]
    explanations = explain_photos(model, processor, photos, do_sample=False)
    nouns = [
        find_noun(explanation.caption, nouns) for explanation, nouns in zip(explanations, SHOWS.values(), strict=True)
    ]
    wrong = [name for name, index in zip(SHOWS, nouns, strict=True) if index is None]
    first = next((number for number, index in enumerate(nouns) if index is not None), 0)
    answer = explanations[first].to_dict() | {
        "photo": photo_to_data_url(photos[first]),
        "opening": True,
        "resting": nouns[first],
    }
    return example_path(list(SHOWS)[first]), answer, wrong


def example_path(name):
    return str(FOLDER / f"{name}.jpg")


def find_noun(caption, nouns):
    """The index of the caption's first word that is one of the nouns, or the first word of one; None without any."""
    match = re.search(rf"(?<!\S)({'|'.join(map(re.escape, nouns))})(?!\S)", caption.lower())
    return match and len(caption[: match.start()].split())
