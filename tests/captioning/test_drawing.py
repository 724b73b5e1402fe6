"""`captioning/drawing.py`: the picture of attention maps looks like the page's."""

import json
import re

import numpy as np
from PIL import Image

from captioning.drawing import BLUR, COLORMAP, overlay_map
from captioning.loading import SHIPPED


def test_the_page_has_the_same_palette_and_blur():
    demo = SHIPPED.parent / "demo"
    (colors,) = re.findall(r"const COLOU?R_MAP = (\[.*?\n\]);", (demo / "attention_map.js").read_text(), re.DOTALL)
    colors = json.loads(re.sub(r",\s*\]", "]", colors))
    assert {stop: tuple(color) for stop, *color in colors} == COLORMAP
    viewer = (demo / "attention_viewer.html").read_text()
    assert re.search(r'class="blur"[^>]* value="([\d.]+)"', viewer)[1] == str(BLUR)


def test_attended_regions_glow_and_uniform_maps_stay_dim():
    photo = Image.new("RGB", (96, 64), (100, 100, 100))
    peaked = np.zeros((8, 8), np.float32)
    peaked[1, 6] = 1
    drawn = overlay_map(photo, peaked).astype(int)
    row, column = divmod(int(drawn[..., 1].argmax()), 96)
    assert (row // 8, column // 12) == (1, 6)
    assert drawn[row, column].tolist() == [int(100 * 0.52 + channel * 0.48) for channel in (255, 228, 90)]
    assert drawn[60, 4].tolist() == [int(100 * 0.4 + channel * 0.6) for channel in (10, 12, 34)]
    uniform = overlay_map(photo, np.full((8, 8), 1 / 64, np.float32))
    assert len(np.unique(uniform.reshape(-1, 3), axis=0)) == 1
    assert uniform.max() < 130
