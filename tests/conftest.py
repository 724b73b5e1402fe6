"""Fixtures that several test files share: a tiny captioner, drawn photos, the shipped model."""

import json
import os
import sys
from pathlib import Path

# Before PyTorch is there: the tests run in several processes side by side, whose threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import datasets
import pytest
import torch
from PIL import Image, ImageDraw
from transformers import ViTImageProcessorPil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from modeling_captioner import CaptionerConfig, CaptionerForConditionalGeneration, CaptionerProcessor  # noqa: E402
from train.data.vocabulary import make_tokenizer  # noqa: E402

# After each stream, `datasets` waits 5 s for threads of PyArrow, in case the program is about to exit.
datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0

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
    # A network with random weights must be able to tell them apart: a small circle and a large square.
    if shape == "circle":
        draw.ellipse([size // 3, size // 3, 2 * size // 3, 2 * size // 3], fill=colour)
    else:
        draw.rectangle([size // 8, size // 8, 7 * size // 8, 7 * size // 8], fill=colour)
    return photo, f"a {colour} {shape} on a grey ground"


def all_drawn_photos():
    return [drawn_photo(colour, shape) for colour in COLOURS for shape in SHAPES]


@pytest.fixture(scope="session")
def drawn_photos():
    """Eight photos and their captions, all different."""
    return all_drawn_photos()


@pytest.fixture
def files(tmp_path, drawn_photos):
    """The drawn photos as files."""
    files = [tmp_path / f"{number}.png" for number in range(len(drawn_photos))]
    for file, (photo, _) in zip(files, drawn_photos, strict=True):
        photo.save(file)
    return files


def build_tiny(**options):
    """(model, processor) with random weights, in evaluation mode; options are `CaptionerConfig`'s."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer([caption for _, caption in all_drawn_photos()], min_count=1)
    options = TINY_ENCODER | {"hidden_size": 32, "embedding_size": 16, "vocab_size": len(tokenizer)} | options
    size = {"height": options["image_size"], "width": options["image_size"]}
    images = ViTImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_convert_rgb=True)
    model = CaptionerForConditionalGeneration(CaptionerConfig(**options)).eval()
    return model, CaptionerProcessor(images, tokenizer)


@pytest.fixture(scope="session")
def tiny_captioner():
    return build_tiny


def learn_by_heart(folder):
    """Write a tiny captioner that knows the captions of the drawn photos by heart into `folder`."""
    model, processor = build_tiny(dropout=0.0, word_dropout=0.0)
    photos, captions = zip(*all_drawn_photos(), strict=True)
    pixel_values = processor(images=list(photos), return_tensors="pt").pixel_values
    labels = torch.tensor(
        [[*ids[1:], model.config.eos_token_id] for ids in processor.tokenizer(list(captions))["input_ids"]]
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(100):
        model(pixel_values, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.generation_config.update(max_new_tokens=12, suppress_tokens=[0, 1, 2])
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


@pytest.fixture(scope="session")
def learnt_captioner(tmp_path_factory):
    """The folder of a tiny captioner that knows the captions of the drawn photos by heart."""
    folder = tmp_path_factory.mktemp("learnt")
    learn_by_heart(folder)
    return folder


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


@pytest.fixture(scope="session")
def exported(learnt_captioner, drawn_set, tmp_path_factory):
    """A published copy of the learnt captioner with its ONNX export, calibrated on the drawn photos."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason=f"needs {package}")
    from publishing.export import main

    folder = tmp_path_factory.mktemp("exported")
    main(["--model", str(learnt_captioner), "--folder", str(folder), "--onnx", "--photos", str(drawn_set)])
    return folder
