"""Drawn photos, which a person would caption without doubt."""

from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square")


def drawn_photo(colour, shape, size=64):
    """A coloured shape on grey, with the caption that a person would give it."""
    photo = Image.new("RGB", (size, size), "lightgrey")
    draw = ImageDraw.Draw(photo)
    # A network with random weights must be able to tell them apart: a small circle and a large square.
    if shape == "circle":
        draw.ellipse([size // 3, size // 3, 2 * size // 3, 2 * size // 3], fill=colour)
    else:
        draw.rectangle([size // 8, size // 8, 7 * size // 8, 7 * size // 8], fill=colour)
    return photo, f"a {colour} {shape} on a grey ground"


def all_drawn_photos():
    return [drawn_photo(colour, shape) for colour in COLOURS for shape in SHAPES]
