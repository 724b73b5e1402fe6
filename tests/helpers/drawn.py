"""Drawn photos, which a person would caption without doubt."""

from PIL import Image, ImageDraw

COLORS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square")


def drawn_photo(color, shape, size=64):
    """A colored shape on gray, with the caption that a person would give it."""
    photo = Image.new("RGB", (size, size), "lightgray")
    draw = ImageDraw.Draw(photo)
    # A network with random weights must be able to tell them apart: a small circle and a large square.
    if shape == "circle":
        draw.ellipse([size // 3, size // 3, 2 * size // 3, 2 * size // 3], fill=color)
    else:
        draw.rectangle([size // 8, size // 8, 7 * size // 8, 7 * size // 8], fill=color)
    return photo, f"a {color} {shape} on a gray ground"


def all_drawn_photos():
    return [drawn_photo(color, shape) for color in COLORS for shape in SHAPES]
