"""Drawing attention maps over photos, for `caption.py --attention` and the trainer's examples: `draw`."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from modeling_captioner.explanation import Explanation

from .errors import printable

# demo/attention_map.js has the same: low attention darkens the photo, high attention brightens it. The color of an
# attention from 0 to 1: (red, green, blue, alpha).
COLORMAP = {0: (10, 12, 34, 0.6), 0.35: (70, 24, 96, 0.48), 0.65: (235, 90, 40, 0.42), 1: (255, 228, 90, 0.48)}
BLUR = 0.5  # regions, the standard deviation of the Gaussian that smooths a map


def draw(drawn: list[tuple[str, Image.Image, Explanation]], path: str | Path) -> None:
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
    style: dict[str, Any] = {"parse_math": False, "va": "top"}
    top = height
    for (name, photo, explanation), count, tall in zip(drawn, rows, heights, strict=True):
        axes.text(gap, top - 0.15, explanation.caption, size=13, weight="bold", **style)
        axes.text(gap, top - 0.45, printable(name), size=8, color="gray", **style)
        top -= heading
        tiles: list[tuple[Any, str]] = [(photo, "")]
        tiles += [(overlay_map(photo, word.map), f"{word.text}  {word.probability:.0%}") for word in explanation.words]
        for number, (picture, text) in enumerate(tiles):
            row, column = divmod(number, columns)
            left, bottom = gap + column * (tile + gap), top - (row + 1) * (label + tall + gap) + gap
            axes.imshow(picture, extent=(left, left + tile, bottom, bottom + tall), aspect="auto")
            axes.text(left + tile / 2, bottom + tall + 0.04, text, size=9, ha="center", parse_math=False)
        top -= count * (label + tall + gap)
    figure.savefig(path, bbox_inches="tight", pad_inches=gap)  # a long caption may extend beyond the right edge


def overlay_map(photo: Image.Image, attention: np.ndarray) -> np.ndarray:
    """Overlay an attention map on a photo, as the page draws it; a uniform map stays dim."""
    rows, columns = attention.shape
    smooth = _kernel(photo.height, rows) @ attention @ _kernel(photo.width, columns).T  # (height, width)
    strength = smooth / max(smooth.max(), 2.4 / attention.size)
    overlay = np.stack(
        [np.interp(strength, list(COLORMAP), channel) for channel in zip(*COLORMAP.values(), strict=True)], axis=-1
    )
    color, alpha = overlay[..., :3], overlay[..., 3:]
    return (np.asarray(photo) * (1 - alpha) + color * alpha).astype(np.uint8)


def _kernel(pixels, regions):
    """The weights (pixels, regions) of the regions along a side in each pixel, Gaussians of their distance."""
    distances = (np.arange(pixels)[:, None] + 0.5) * regions / pixels - 0.5 - np.arange(regions)
    weights = np.exp(-(distances**2) / (2 * BLUR**2))
    return weights / weights.sum(axis=1, keepdims=True)
