"""What the trainer does before its first step, at the size of COCO: `python -m benchmarks.training --scale 120000`."""

import functools
import io
import multiprocessing
import os
import threading
import time
from pathlib import Path

import datasets
import numpy as np
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from train.data import CaptionedPhotos, Collate, cached_features, captioned_dataset, make_tokenizer, sources
from train.data.dataset import load_splits
from train.data.features import SHARD_BYTES
from train.preparation import vocabulary_texts
from train.settings import Settings

SHARDS = 12
WORDS = 10_000  # drawn with Zipf's frequencies


class Pooling(nn.Module):
    """An encoder whose features have the shape of Inception-v3's and take no time."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(3, 2048)

    def features(self, pixel_values):
        return self.backbone(F.adaptive_avg_pool2d(pixel_values, 8).flatten(2).transpose(1, 2))  # (batch, 64, 2048)


class Step:
    """Prints the seconds of a block, on the clock and of all cores, and the peak memory of all processes meanwhile.

    Memory is the proportional set size of anonymous pages: what is mapped from files takes no memory.
    """

    def __init__(self, name):
        self.name, self.peak, self.done = name, 0, threading.Event()

    def __enter__(self):
        self.watch = threading.Thread(target=self._watch)
        self.watch.start()
        self.begin, self.cpu = time.perf_counter(), cpu_seconds()

    def __exit__(self, *error):
        seconds = time.perf_counter() - self.begin
        self.done.set()
        self.watch.join()
        print(f"{self.name:28} {seconds:7.1f} s {cpu_seconds() - self.cpu:7.1f} s of CPU {self.peak:7.0f} MB")

    def _watch(self):
        while True:
            self.peak = max(self.peak, memory("self"))
            if self.done.wait(0.2):
                return


def cpu_seconds():
    return sum(os.times()[:4])  # of this process and the children that have ended


def memory(pid):
    try:
        children = Path(f"/proc/{pid}/task").glob("*/children")
        children = [child for file in children for child in file.read_text().split()]
        rows = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines())
        own = next(int(row[1]) / 1000 for row in rows if row[0] == "Pss_Anon:")
    except (OSError, StopIteration):  # it has exited
        return 0
    return own + sum(map(memory, children))


def draw_photo(number):
    """A small photo, and five captions of eleven words."""
    rng = np.random.default_rng(number)
    file = io.BytesIO()
    pixels = rng.integers(0, 255, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((160, 120)).save(file, "JPEG", quality=90)
    words = np.minimum(rng.zipf(1.2, (5, 11)), WORDS)
    captions = [" ".join(f"word{word}" for word in caption) + "." for caption in words]
    return {"image": {"bytes": file.getvalue(), "path": f"{number:012}.jpg"}, "captions": captions, "cocoid": number}


def draw_shard(shard, count, folder):
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "captions": datasets.List(datasets.Value("string")),
            "cocoid": datasets.Value("int64"),
        }
    )
    rows = [draw_photo(number) for number in range(shard, count, SHARDS)]
    datasets.Dataset.from_list(rows, features).to_parquet(folder / f"train-{shard:05}-of-{SHARDS:05}.parquet")


def measure(count, processor, folder):
    """Draw `count` photos in parquet shards, and time each step. The encoder takes no time."""
    with multiprocessing.get_context("spawn").Pool() as pool:
        pool.map(functools.partial(draw_shard, count=count, folder=folder), range(SHARDS))
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    settings = Settings(data_dir=[str(folder)], validation_fraction=5000 / 120_000)
    encoder = Pooling()
    with Step("reading the shards"):
        load_splits(settings)
    with Step("columns, captions, splits"):
        captioned_dataset(sources(settings)[0], settings, photos=False)
    with Step("vocabulary"):  # which reads the captions again
        tokenizer = make_tokenizer(vocabulary_texts(settings), min_count=5)
    with Step("checking the photos"):
        photos = captioned_dataset(sources(settings)[0], settings)["train"]
    shard = photos.select(range(min(len(photos), SHARD_BYTES // (2 * 64 * 2048))))  # float16
    with Step("first shard of features"):
        cached_features(encoder, processor, shard, folder / "features", 32)
    with Step("first batch"):
        collate = Collate(processor, settings, seed=0)
        next(iter(DataLoader(CaptionedPhotos(photos), 32, shuffle=True, collate_fn=collate)))
    print(f"{len(photos)} photos to train on, {len(shard)} in a shard, {len(tokenizer)} words")
