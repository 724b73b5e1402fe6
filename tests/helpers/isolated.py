"""Code for a process that has a captioner's folder, but not this repository; and the captions expected from it."""

from PIL import Image

from modeling_captioner import CaptionerForConditionalGeneration, CaptionerProcessor

# Code of an isolated process, which gets a folder and photo files, and prints JSON.
BEGINNING = """
import json, sys
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline

folder, *files = sys.argv[1:]
photos = [Image.open(file) for file in files]

def captions(model, processor, **inputs):
    inputs = processor(images=photos, return_tensors="pt", **inputs).to(model.dtype)
    return processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)

def load(auto_class, **options):
    return auto_class.from_pretrained(folder, trust_remote_code=True, **options)

def tell(told):
    print()  # a library may have printed a question on this line
    print(json.dumps(told))
"""


def captions_here(folder, files):
    model = CaptionerForConditionalGeneration.from_pretrained(folder)
    processor = CaptionerProcessor.from_pretrained(folder)
    ids = model.generate(**processor(images=[Image.open(file) for file in files], return_tensors="pt"))
    return processor.batch_decode(ids, skip_special_tokens=True)
