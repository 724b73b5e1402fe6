"""How good the captions are: metrics on the validation photos of each captioned set, each set alone.

    python benchmarks/quality.py ../shared/data/flickr8k ../shared/data/coco-mini

Also counts what metrics do not see: how many captions are distinct, how many contain `<unk>`, and how often a caption
names a gender, an age or a race that nobody who described the photo named.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import torch
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))

from modeling_captioner import CaptionerForConditionalGeneration, CaptionerProcessor
from train.data import captioned_dataset, photo_of
from train.metrics import caption_metrics
from train.settings import Settings

PEOPLE = {
    "gender": r"man|men|woman|women|boys?|girls?|guys?|lady|ladies|male|female|gentlem[ae]n",
    "age": r"child|children|kids?|toddlers?|bab(?:y|ies)|boys?|girls?|teen\w*|adults?|young|old|elderly",
    "race": r"black (?:man|woman|boy|girl|people)|white (?:man|woman|boy|girl|people)|asian|african|caucasian|hispanic",
}


@torch.inference_mode()
def captions_of(model, processor, photos, batch_size, **generation):
    captions = []
    for start in tqdm(range(0, len(photos), batch_size), leave=False):
        rows = photos.select(range(start, min(len(photos), start + batch_size)))
        inputs = processor(images=[photo_of(row) for row in rows], return_tensors="pt").to(model.device)
        captions += processor.batch_decode(model.generate(**inputs, **generation), skip_special_tokens=True)
    return captions


def unfounded(captions, references, words):
    """How many captions use one of `words` where no person did, and how many use one at all."""
    words = re.compile(rf"\b(?:{words})\b", re.IGNORECASE)
    used = [people for caption, people in zip(captions, references, strict=True) if words.search(caption)]
    return sum(not any(words.search(text) for text in people) for people in used), len(used)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", nargs="+")
    parser.add_argument("--model", default=str(Path(__file__).parents[1] / "modeling_captioner"))
    parser.add_argument("--num_beams", type=int, default=3)
    parser.add_argument("--max_new_tokens", type=int, default=20)
    parser.add_argument("--length_penalty", type=float)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--captions", help="Write the captions to this file, as JSON.")
    options = parser.parse_args()
    model = CaptionerForConditionalGeneration.from_pretrained(options.model).eval()
    processor = CaptionerProcessor.from_pretrained(options.model)
    generation = {"num_beams": options.num_beams, "max_new_tokens": options.max_new_tokens}
    if options.length_penalty is not None:
        generation["length_penalty"] = options.length_penalty
    written = {}
    for folder in options.data_dir:
        photos = captioned_dataset(Settings(data_dir=folder))["validation"]
        captions = captions_of(model, processor, photos, options.batch_size, **generation)
        references = photos["captions"][:]
        print(f"{folder}: {len(captions)} photos, {len(set(captions))} distinct captions")
        for name, value in caption_metrics(references, captions).items():
            print(f"  {name:8} {value:.3f}")
        print(f"  <unk>    {sum('<unk>' in caption for caption in captions)}")
        for name, words in PEOPLE.items():
            wrong, used = unfounded(captions, references, words)
            print(f"  {name}: named in {used} captions, in {wrong} of them by no person")
        written[folder] = captions
    if options.captions:
        Path(options.captions).write_text(json.dumps(written, indent=1))


if __name__ == "__main__":
    main()
