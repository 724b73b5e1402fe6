"""Faithfulness of the attention maps: occlude the attended regions and measure the drop in each word's log-probability.

    python -m benchmarks.attention FLICKR8K --photos 200

For each content word of the generated captions, the four most attended regions, four random regions and the four least
attended regions are occluded in turn with the mean color of the photo, and the same caption is scored again. With
faithful maps, the first drop is the largest. Also reports how concentrated the maps are (entropy in nats, at most
log 64 = 4.16) and how much they differ between the words of a caption (mean total variation distance).
"""

import argparse
import re
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from modeling_captioner import CaptionerForConditionalGeneration, CaptionerProcessor, explain
from train.data import captioned_dataset, photo_of, sources
from train.settings import Settings

OCCLUDED = 4  # regions
FUNCTION_WORDS = re.compile(
    "a|an|the|is|are|of|in|on|at|to|with|and|his|her|its|their|it|he|she|they|by|for|from|up|down|while|as|that|this|"
    "there|through|over|into|near|another|two|three|one|some|be|being|has|have"
)


def occlude(pixel_values, regions, side):
    """Fill these regions (row-major indices of a side x side grid) with the mean color of the photo."""
    pixel_values = pixel_values.clone()
    edges = torch.linspace(0, pixel_values.shape[-1], side + 1).round().int()
    color = pixel_values.mean((1, 2), keepdim=True)
    for region in regions:
        row, column = divmod(int(region), side)
        pixel_values[:, edges[row] : edges[row + 1], edges[column] : edges[column + 1]] = color
    return pixel_values


@torch.inference_mode()
def measure(model, processor, photo, rng):
    """Returns (drop for most, random and least attended regions, entropy) per content word, and the map distance."""
    explanation = explain(model, processor, photo)
    inputs = processor(images=photo, text=explanation.caption, return_tensors="pt")
    ids, side = inputs.decoder_input_ids, len(explanation.words[0].map)
    variants, positions = [], []
    for position, word in enumerate(explanation.words):
        if FUNCTION_WORDS.fullmatch(word.text):
            continue
        order = word.map.flatten().argsort()
        for regions in (order[-OCCLUDED:], rng.choice(side * side, OCCLUDED, replace=False), order[:OCCLUDED]):
            variants.append(occlude(inputs.pixel_values[0], regions, side))
        positions.append(position)
    if not positions:
        return np.empty((0, 4)), maps_distance(explanation)
    variants = torch.stack([inputs.pixel_values[0], *variants])
    logits = model(variants, decoder_input_ids=ids[:, :-1].expand(len(variants), -1)).logits.log_softmax(-1)
    scores = logits.gather(2, ids[:, 1:, None].expand(len(variants), -1, 1)).squeeze(-1)  # (variants, words)
    rows = []
    for number, position in enumerate(positions):
        weights = explanation.words[position].map.flatten()
        entropy = -(weights * np.log(weights + 1e-12)).sum()
        rows.append([*(scores[0, position] - scores[1 + 3 * number : 4 + 3 * number, position]).tolist(), entropy])
    return np.array(rows), maps_distance(explanation)


def maps_distance(explanation):
    """Mean total variation distance between the maps of consecutive words: 0 if equal, 1 without overlap."""
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
    settings = Settings(data_dir=[options.data_dir], max_eval_samples=options.photos)
    photos = captioned_dataset(sources(settings)[0], settings)["validation"]
    rng = np.random.default_rng(0)
    results = [measure(model, processor, photo_of(row), rng) for row in tqdm(photos, leave=False)]
    rows = np.concatenate([rows for rows, _ in results])
    errors = rows.std(0) / len(rows) ** 0.5
    print(f"{model.config.attention_type}: {len(rows)} content words of {len(photos)} photos")
    for name, column in (("most attended", 0), ("random", 1), ("least attended", 2)):
        print(
            f"  {OCCLUDED} {name:14} regions occluded: log-probability drops by"
            f" {rows[:, column].mean():.3f} +- {errors[column]:.3f}"
        )
    print(
        f"  entropy of a map: {rows[:, 3].mean():.2f} nats; distance of consecutive maps:"
        f" {np.mean([distance for _, distance in results]):.2f}"
    )


if __name__ == "__main__":
    main()
