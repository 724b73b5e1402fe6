"""Fixtures that several test files share: a tiny captioner, drawn photos, the shipped model."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from transformers import ViTImageProcessor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from modeling_captioner import CaptionerConfig, CaptionerForConditionalGeneration, CaptionerProcessor  # noqa: E402
from train.vocabulary import make_tokenizer  # noqa: E402

SHIPPED = ROOT / "modeling_captioner"
SHARED = ROOT.parent / "shared"
COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square")
# A small convolutional network keeps tests fast; Inception-v3 is tested where it matters.
TINY_ENCODER = {"encoder_name": "test_resnet", "image_size": 64, "encoder_frozen": True}


def drawn_photo(colour, shape, size=64):
    """A coloured shape on grey, with the caption that a person would give it."""
    photo = Image.new("RGB", (size, size), "lightgrey")
    draw = ImageDraw.Draw(photo)
    box = [size // 4, size // 4, 3 * size // 4, 3 * size // 4]
    (draw.ellipse if shape == "circle" else draw.rectangle)(box, fill=colour)
    return photo, f"a {colour} {shape} on a grey ground"


@pytest.fixture(scope="session")
def drawn_photos():
    """Eight photos and their captions, all different."""
    return [drawn_photo(colour, shape) for colour in COLOURS for shape in SHAPES]


@pytest.fixture
def tiny_captioner(drawn_photos):
    """Builds (model, processor) with random weights, in evaluation mode; options are `CaptionerConfig`'s."""

    def build(**options):
        torch.manual_seed(0)
        tokenizer = make_tokenizer([caption for _, caption in drawn_photos], min_count=1)
        options = TINY_ENCODER | {"hidden_size": 32, "embedding_size": 16, "vocab_size": len(tokenizer)} | options
        size = {"height": options["image_size"], "width": options["image_size"]}
        images = ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_convert_rgb=True)
        model = CaptionerForConditionalGeneration(CaptionerConfig(**options)).eval()
        return model, CaptionerProcessor(images, tokenizer)

    return build


@pytest.fixture(scope="session")
def drawn_set(tmp_path_factory, drawn_photos):
    """An imagefolder of the drawn photos: the same eight to train on and to validate with."""
    folder = tmp_path_factory.mktemp("drawn")
    for split in ("train", "validation"):
        (folder / split).mkdir()
        rows = []
        for number, (photo, caption) in enumerate(drawn_photos):
            photo.save(folder / split / f"{number}.png")
            rows.append({"file_name": f"{number}.png", "captions": [caption]})
        (folder / split / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
