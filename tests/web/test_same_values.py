"""What the pages display is as large, and what is covered as gray, as the Python code has it."""

import re

from demo import predict
from tests.helpers.paths import ROOT


def constant(file, pattern):
    (value,) = re.findall(pattern, (ROOT / file).read_text(encoding="utf-8"))
    return int(value)


def test_both_pages_have_the_same_sizes_and_color():
    assert constant("web/photos.js", r"MAX_DISPLAY_SIDE = (\d+);") == predict.MAX_DISPLAY_SIDE
    assert constant("web/photos.js", r"MIN_DISPLAY_SIDE = (\d+);") == predict.MIN_DISPLAY_SIDE
    assert constant("web/photo_panel.js", r"MASK_SIDE = (\d+);") == predict.MASK_SIDE
    assert (constant("web/worker.js", r"MASK_COLOR = (\d+);"),) * 3 == predict.MASK_COLOR
    (drawn,) = re.findall(
        r"pixels\.data\.set\(\[(\d+), (\d+), (\d+), 255 \* cell\]", (ROOT / "demo/occlusion.js").read_text()
    )
    assert tuple(map(int, drawn)) == predict.MASK_COLOR
