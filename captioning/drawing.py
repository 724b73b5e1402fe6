"""Drawing attention maps over photos, for `caption.py --attention` and the trainer's examples: `draw`."""

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from .errors import printable

# Overlay color (red, green, blue, alpha) by attention strength: unattended regions darken, attended ones glow.
COLORMAP = {0: (8, 10, 40, 0.62), 0.35: (90, 20, 110, 0.46), 0.65: (235, 90, 40, 0.46), 1: (255, 228, 90, 0.52)}


def draw(drawn, path):
    """Draw (name, photo, explanation) triples as one figure: the photo, and the attention map of each word."""
    columns, tile, gap, heading = 6, 1.9, 0.12, 0.65  # tile size, gap and heading height in inches
    label = 0.25  # above each tile
    rows = [-(-(1 + len(explanation.words)) // columns) for _, _, explanation in drawn]
    heights = [tile * min(photo.height / photo.width, 1.5) for _, photo, _ in drawn]
    width = columns * (tile + gap) + gap
    height = sum(heading + count * (label + tall + gap) for count, tall in zip(rows, heights, strict=True)) + gap
    figure = Figure(figsize=(width, height), dpi=120)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height), autoscale_on=False)  # in inches
    axes.axis("off")
    style = {"parse_math": False, "va": "top"}
    top = height
    for (name, photo, explanation), count, tall in zip(drawn, rows, heights, strict=True):
        axes.text(gap, top - 0.15, explanation.caption, size=13, weight="bold", **style)
        axes.text(gap, top - 0.45, printable(name), size=8, color="grey", **style)
        top -= heading
        tiles = [(photo, "")]
        tiles += [(overlay_map(photo, word.map), f"{word.text}  {word.probability:.0%}") for word in explanation.words]
        for number, (picture, text) in enumerate(tiles):
            row, column = divmod(number, columns)
            left, bottom = gap + column * (tile + gap), top - (row + 1) * (label + tall + gap) + gap
            axes.imshow(picture, extent=(left, left + tile, bottom, bottom + tall), aspect="auto")
            axes.text(left + tile / 2, bottom + tall + 0.04, text, size=9, ha="center", parse_math=False)
        top -= count * (label + tall + gap)
    figure.savefig(path, bbox_inches="tight", pad_inches=gap)  # a long caption may extend beyond the right edge


def overlay_map(photo, attention):
    """Overlay an attention map on a photo; a uniform map stays dim."""
    smooth = np.asarray(Image.fromarray(attention).resize(photo.size, Image.Resampling.BICUBIC))
    strength = smooth / max(smooth.max(), 2.4 / attention.size)
    overlay = np.stack(
        [np.interp(strength, list(COLORMAP), channel) for channel in zip(*COLORMAP.values(), strict=True)], axis=-1
    )
    color, alpha = overlay[..., :3], overlay[..., 3:]
    return (np.asarray(photo) * (1 - alpha) + color * alpha).astype(np.uint8)
