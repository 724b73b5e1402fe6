"""Whether the attention can be believed: cover what was looked at, and see how far the word's log-probability falls.

    python benchmarks/attention.py ../shared/data/flickr8k --photos 200

For each content word of the model's own captions, the four most attended of the regions are covered in the picture by
its mean colour, then four random ones, then the four least attended; the caption is kept and scored again. Maps that
say something make the first fall largest. Also how concentrated the maps are: their entropy in nats, of at most
log 64 = 4.16, and how much they differ between the words of a caption (mean total variation distance).
"""

import argparse
import re
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))

from modeling_captioner import CaptionerForConditionalGeneration, CaptionerProcessor, explain
from train.data import captioned_dataset, photo_of
from train.settings import Settings

COVERED = 4
FUNCTION_WORDS = re.compile(
    "a|an|the|is|are|of|in|on|at|to|with|and|his|her|its|their|it|he|she|they|by|for|from|up|down|while|as|that|this|"
    "there|through|over|into|near|another|two|three|one|some|be|being|has|have"
)


def covered(pixel_values, regions, side):
    """The photo with these regions (row by row numbers of a side x side grid) in its mean colour."""
    pixel_values = pixel_values.clone()
    edges = torch.linspace(0, pixel_values.shape[-1], side + 1).round().int()
    colour = pixel_values.mean((1, 2), keepdim=True)
    for region in regions:
        row, column = divmod(int(region), side)
        pixel_values[:, edges[row] : edges[row + 1], edges[column] : edges[column + 1]] = colour
    return pixel_values


@torch.inference_mode()
def measure(model, processor, photo, chance):
    """A row (fall when most, random, least attended regions are covered; entropy) for each content word."""
    explanation = explain(model, processor, photo)
    inputs = processor(images=photo, text=explanation.caption, return_tensors="pt")
    ids, side = inputs.decoder_input_ids, len(explanation.words[0].map)
    pictures, places = [], []
    for place, word in enumerate(explanation.words):
        if FUNCTION_WORDS.fullmatch(word.text):
            continue
        order = word.map.flatten().argsort()
        for regions in (order[-COVERED:], chance.choice(side * side, COVERED, replace=False), order[:COVERED]):
            pictures.append(covered(inputs.pixel_values[0], regions, side))
        places.append(place)
    if not places:
        return np.empty((0, 4)), maps_distance(explanation)
    pictures = torch.stack([inputs.pixel_values[0], *pictures])
    logits = model(pictures, decoder_input_ids=ids[:, :-1].expand(len(pictures), -1)).logits.log_softmax(-1)
    said = logits.gather(2, ids[:, 1:, None].expand(len(pictures), -1, 1)).squeeze(-1)  # (pictures, words)
    rows = []
    for number, place in enumerate(places):
        weights = explanation.words[place].map.flatten()
        entropy = -(weights * np.log(weights + 1e-12)).sum()
        rows.append([*(said[0, place] - said[1 + 3 * number : 4 + 3 * number, place]).tolist(), entropy])
    return np.array(rows), maps_distance(explanation)


def maps_distance(explanation):
    """Mean total variation distance between the maps of neighbouring words: 0 is the same map, 1 no overlap."""
    maps = np.stack([word.map.flatten() for word in explanation.words])
    return np.abs(maps[1:] - maps[:-1]).sum(1).mean() / 2 if len(maps) > 1 else 0.0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir")
    parser.add_argument("--model", default=str(Path(__file__).parents[1] / "modeling_captioner"))
    parser.add_argument("--photos", type=int, default=200)
    options = parser.parse_args()
    model = CaptionerForConditionalGeneration.from_pretrained(options.model).eval()
    processor = CaptionerProcessor.from_pretrained(options.model)
    photos = captioned_dataset(Settings(data_dir=options.data_dir, max_eval_samples=options.photos))["validation"]
    chance = np.random.default_rng(0)
    measured = [measure(model, processor, photo_of(row), chance) for row in tqdm(photos, leave=False)]
    rows = np.concatenate([rows for rows, _ in measured])
    errors = rows.std(0) / len(rows) ** 0.5
    print(f"{model.config.attention_type}: {len(rows)} content words of {len(photos)} photos")
    for name, column in (("most attended", 0), ("random", 1), ("least attended", 2)):
        print(
            f"  {COVERED} {name:14} regions covered: log-probability falls by"
            f" {rows[:, column].mean():.3f} +- {errors[column]:.3f}"
        )
    print(
        f"  entropy of a map: {rows[:, 3].mean():.2f} nats; distance of neighbouring words' maps:"
        f" {np.mean([distance for _, distance in measured]):.2f}"
    )


if __name__ == "__main__":
    main()
