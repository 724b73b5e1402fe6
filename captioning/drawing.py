"""Photos with maps over them, as one picture: `--attention`."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from modeling_captioner import PhotoError, explain

from .outputs import printable

MOST_DRAWN = 30  # the picture of more photos is too tall to open
# A map over its photo, from "not looked at", which darkens, to "looked at", which shines: red, green, blue, alpha.
HEAT = {0: (8, 10, 40, 0.62), 0.35: (90, 20, 110, 0.46), 0.65: (235, 90, 40, 0.46), 1: (255, 228, 90, 0.52)}


def caption_with_maps(model, processor, photos, read, generation, failed, drawn):
    """As `caption_photos`, one by one, and puts each name, a small photo and its explanation into `drawn`."""
    for name, source in photos:
        try:
            photo = read(source)
        except PhotoError as error:
            failed.append((name, error))
            continue
        explanation = explain(model, processor, photo, num_return_sequences=1, **generation)
        photo.thumbnail((512, 512))
        drawn.append((name, photo, explanation))
        yield [(name, explanation.caption, explanation.log_probability)]


def check_drawing(path, photos):
    """What would otherwise come out after the last photo."""
    if Path(path).suffix.lower() not in (".png", ".jpg", ".pdf", ".svg"):
        raise ValueError(f"--attention {path}: end the name with .png, .jpg, .pdf or .svg.")
    if not Path(path).parent.is_dir():
        raise ValueError(f"--attention {path}: the folder does not exist; make it first.")
    if photos > MOST_DRAWN:
        raise ValueError(f"--attention draws at most {MOST_DRAWN} photos, not {photos}; give fewer.")


def draw(drawn, path):
    """A picture of (path, photo, explanation) below each other: the photo, and for each word where it looked."""
    columns, tile, gap, heading = 6, 1.9, 0.12, 0.65  # lengths in inches
    label = 0.25  # above each tile
    rows = [-(-(1 + len(explanation.words)) // columns) for _, _, explanation in drawn]
    heights = [tile * min(photo.height / photo.width, 1.5) for _, photo, _ in drawn]
    width = columns * (tile + gap) + gap
    height = sum(heading + count * (label + each + gap) for count, each in zip(rows, heights, strict=True)) + gap
    figure = Figure(figsize=(width, height), dpi=120)
    top = height
    for (name, photo, explanation), count, tall in zip(drawn, rows, heights, strict=True):
        title = {"x": gap / width, "parse_math": False, "va": "top"}
        figure.text(y=(top - 0.15) / height, s=explanation.caption, size=13, weight="bold", **title)
        figure.text(y=(top - 0.45) / height, s=printable(name), size=8, color="grey", **title)
        top -= heading
        tiles = [(photo, "")]
        tiles += [(heated(photo, word.map), f"{word.text}  {word.probability:.0%}") for word in explanation.words]
        for number, (picture, text) in enumerate(tiles):
            row, column = divmod(number, columns)
            left, bottom = gap + column * (tile + gap), top - (row + 1) * (label + tall + gap) + gap
            axes = figure.add_axes((left / width, bottom / height, tile / width, tall / height))
            axes.imshow(picture)
            axes.set_title(text, size=9, pad=3, parse_math=False)
            axes.axis("off")
        top -= count * (label + tall + gap)
    figure.savefig(path, bbox_inches="tight", pad_inches=gap)  # a long caption may stand out on the right


def heated(photo, attention):
    """The photo, lit where a word looked; a glance at everything stays dim."""
    smooth = np.asarray(Image.fromarray(attention).resize(photo.size, Image.Resampling.BICUBIC))
    strength = smooth / max(smooth.max(), 2.4 / attention.size)
    heat = np.stack([np.interp(strength, list(HEAT), channel) for channel in zip(*HEAT.values(), strict=True)], axis=-1)
    colour, alpha = heat[..., :3], heat[..., 3:]
    return (np.asarray(photo) * (1 - alpha) + colour * alpha).astype(np.uint8)
