"""The page captions with the ONNX export where there is one, and imports PyTorch when something needs it."""

import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT

PAGE = """
import sys
from argparse import Namespace
from captioning.engine import load_engine
from demo.batching import Batcher
from demo.page import build_page
from modeling_captioner import open_photo

model, corrections, *photos = sys.argv[1:]
engine = load_engine(Namespace(model=model, engine=None, device=None, dtype=None), {})
build_page({"captioner": (engine, model)}, corrections)
captioner, photos = Batcher(engine, model), [open_photo(photo) for photo in photos]
settings = {"num_beams": 3, "max_new_tokens": 12, "do_sample": False}
for photo in photos:
    print(captioner.explain(photo, **settings).caption)
print(captioner.explain_caption(photos[0], "a red circle").words[1].probability > 0.5)
print(sorted({"torch", "transformers", "timm"} & sys.modules.keys()))
print(captioner.explain(photos[0], **settings | {"do_sample": True, "temperature": 0.01}).caption)
captioner.taught = captioner.model
print(captioner.explain(photos[1], **settings).caption)
"""


@pytest.mark.slow
def test_pytorch_is_imported_when_something_needs_it(exported, files, drawn_photos, tmp_path):
    """Sampling needs it, and a copy that was taught; not the page, its corrections or a given caption."""
    command = [sys.executable, "-c", PAGE, exported, tmp_path, *files[:2]]
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    captions = [caption for _, caption in drawn_photos[:2]]
    assert done.stdout.splitlines() == [*captions, "True", "[]", *captions], done.stderr
