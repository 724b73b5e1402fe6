"""How often a caption names what the photo's label says, on labeled photos that were held out from training.

    python -m benchmarks.naming LABELED_PHOTOS --model OLD --model NEW

The photos are those that the trainer holds out with the same `--labeled_photos` and `--seed`. A caption names a label
if it contains the label's noun or an accepted synonym (train/data/labels.yaml), in the singular or the plural.
"""

import argparse
from collections import Counter

from captioning.loading import SHIPPED
from captioning.torch_captioner import TorchCaptioner
from train.data import held_out_split, label_names, labeled_dataset, mentions, photo_of


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labeled_photos", nargs="+")
    parser.add_argument("--model", action="append", help="May be given several times. Default: the shipped captioner.")
    parser.add_argument("--seed", type=int, default=42, help="The training's seed, which decides on the photos.")
    parser.add_argument("--batch_size", type=int, default=16)
    options = parser.parse_args()
    photos = held_out_split(labeled_dataset(options.labeled_photos), options.seed)["validation"]
    names = [label_names(label) for label in photos["label"]]
    print(f"{len(photos)} photos, {len(set(photos['label']))} labels")
    for source in options.model or [str(SHIPPED)]:
        captioner, named = TorchCaptioner(source), {}
        for start in range(0, len(photos), options.batch_size):
            rows = range(start, min(start + options.batch_size, len(photos)))
            captions = captioner.caption([captioner.preprocess(photo_of(photos[row])) for row in rows])
            named |= {row: mentions(caption, names[row]) for row, (caption, *_) in zip(rows, captions, strict=True)}
        labels = Counter(names[row][0] for row, is_named in named.items() if is_named)
        print(f"{source}: names {sum(named.values()) / len(named):.1%} of the photos, {len(labels)} different things")


if __name__ == "__main__":
    main()
