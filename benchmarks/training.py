"""Training speed:

    python -m benchmarks.training [--device cuda] [--threads 2]
    python -m benchmarks.training --scale 120000

1. Captions per second of a training step (forward, backward, clipping, Adam): our decoder, which runs a caption in one
   call, against a step-by-step decoder as in Show, Attend and Tell (Xu et al. 2015). Both have the same hidden size,
   vocabulary, batch, caption lengths and threads. As in the paper, the latter attends over the 2048-channel encoder
   features; a variant attends over features projected to the hidden size, as ours does.
2. Photos per second when training on a frozen encoder, with cached features and with encoding every photo.
3. Photos per second when fine-tuning the last blocks of the encoder, in float32 and in bfloat16.
4. Seconds from program start to the first step, with the features of 64 photos to compute, and with cached features.

--scale measures instead what comes before the first step with so many photos: seconds and peak memory of each step.

The photos are noise and the captions random words, which does not affect the speed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from benchmarks import preparation
from modeling_captioner import CaptionerConfig, CaptionerForConditionalGeneration, CaptionerProcessor
from train.data import CaptionedPhotos, Collate, cached_features, captioned_dataset, sources
from train.encoders import trainable_from
from train.settings import Settings
from train.stages.captions import model_inputs

ROOT = Path(__file__).parents[1]
SIZES = {"hidden_size": 512, "embedding_size": 300, "vocab_size": 3000}
REGIONS, CHANNELS = 64, 2048
PHOTOS, CAPTIONS_PER_PHOTO = 16, 5
LENGTHS = (8, 20)  # words of a caption


class StepByStep(nn.Module):
    """Decoder of Show, Attend and Tell: additive attention, a gate and an LSTM cell at each step.

    Captions are sorted by decreasing length, so that each step only runs the unfinished ones. The contribution of the
    regions to the scores is computed once per caption.
    """

    def __init__(self, hidden_size, embedding_size, vocab_size, projected):
        super().__init__()
        width = hidden_size if projected else CHANNELS
        self.projection = nn.Linear(CHANNELS, hidden_size) if projected else nn.Identity()
        self.embedding = nn.Embedding(vocab_size, embedding_size)
        self.key, self.query = nn.Linear(width, hidden_size), nn.Linear(hidden_size, hidden_size)
        self.score = nn.Linear(hidden_size, 1)
        self.gate = nn.Linear(hidden_size, width)
        self.first_state, self.first_cell = nn.Linear(width, hidden_size), nn.Linear(width, hidden_size)
        self.cell = nn.LSTMCell(embedding_size + width, hidden_size)
        self.output = nn.Linear(hidden_size, vocab_size)
        self.dropout = nn.Dropout(0.3)

    def forward(self, features, labels, lengths):
        """The loss for `features` (photos, regions, channels), `labels` (captions, words) and `lengths` (captions)."""
        regions = self.projection(features).repeat_interleave(len(labels) // len(features), 0)
        order = lengths.argsort(descending=True)
        regions, labels, lengths = regions[order], labels[order], lengths[order]
        words = self.embedding(labels.clamp(min=0).roll(1, dims=1))  # (captions, words, embedding)
        keys, mean = self.key(regions), regions.mean(1)
        state, cell = self.first_state(mean), self.first_cell(mean)
        losses = []
        for step, count in enumerate((lengths[None] > torch.arange(labels.shape[1])[:, None]).sum(1).tolist()):
            state, cell = state[:count], cell[:count]
            weights = self.score((keys[:count] + self.query(state)[:, None]).relu()).softmax(1)
            context = self.gate(state).sigmoid() * (weights * regions[:count]).sum(1)
            state, cell = self.cell(torch.cat([words[:count, step], context], 1), (state, cell))
            losses.append(F.cross_entropy(self.output(self.dropout(state)), labels[:count, step], reduction="sum"))
        return sum(losses) / lengths.sum()


def steps_per_second(step, seconds=6):
    """How often `step` runs per second, after one warm-up run."""
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        step()
        count += 1
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return count / (time.perf_counter() - begin)


def training_step(model, loss):
    optimizer = torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad])

    def step():
        loss().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def decoders(device):
    torch.manual_seed(0)
    features = torch.randn(PHOTOS, REGIONS, CHANNELS, device=device)
    lengths = torch.randint(*LENGTHS, (PHOTOS * CAPTIONS_PER_PHOTO,))
    labels = torch.randint(4, SIZES["vocab_size"], (len(lengths), int(lengths.max())))
    labels = labels.masked_fill(torch.arange(labels.shape[1]) >= lengths[:, None], -100).to(device)
    ours = CaptionerForConditionalGeneration(CaptionerConfig(encoder_name="test_resnet", **SIZES))
    ours.encoder.norm, ours.encoder.projection = nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, SIZES["hidden_size"])
    models = [ours, StepByStep(**SIZES, projected=False), StepByStep(**SIZES, projected=True)]
    ours, wide, narrow = (model.to(device).train() for model in models)
    steps = {
        "our decoder": training_step(ours, lambda: ours(region_features=features, labels=labels).loss),
        "step by step": training_step(wide, lambda: wide(features, labels, lengths)),
        "step by step, projected": training_step(narrow, lambda: narrow(features, labels, lengths)),
    }
    rounds = [[len(labels) * steps_per_second(step) for step in steps.values()] for _ in range(3)]
    rates = dict(zip(steps, np.median(rounds, axis=0), strict=True))
    for name, rate in rates.items():
        print(f"{name:24} {rate:7.1f} captions per second; ours is {rates['our decoder'] / rate:.1f} times as fast")


def write_photos(folder, count):
    """Write a dataset in the imagefolder layout."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        pixels = rng.integers(0, 255, (15, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((500, 375)).save(folder / f"{number}.jpg", quality=90)
        captions = [" ".join(rng.choice(list("abcdefgh"), 10)) for _ in range(CAPTIONS_PER_PHOTO)]
        rows.append(json.dumps({"file_name": f"{number}.jpg", "captions": captions}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(rows))


def caching(folder, device):
    """Train the shipped captioner on cached features and on photos."""
    model = CaptionerForConditionalGeneration.from_pretrained(ROOT / "modeling_captioner").to(device).train()
    processor = CaptionerProcessor.from_pretrained(ROOT / "modeling_captioner")
    settings = Settings(data_dir=[str(folder)], validation_fraction=0)
    photos = captioned_dataset(sources(settings)[0], settings, ["train"])["train"]
    features = cached_features(model.encoder, processor, photos, folder / "features", PHOTOS)
    model.train()
    rates = []
    for rows in (CaptionedPhotos(photos, features=features), CaptionedPhotos(photos)):
        batches = DataLoader(
            rows, PHOTOS, shuffle=True, collate_fn=Collate(processor, settings, seed=0), drop_last=True
        )
        endless = (batch for _ in iter(int, 1) for batch in batches)

        def loss(endless=endless):
            batch = next(endless)
            inputs = {name: tensor.to(device) for name, tensor in model_inputs(batch).items()}
            return model(**inputs, labels=batch["labels"].to(device)).loss

        rates.append(PHOTOS * steps_per_second(training_step(model, loss)))
    print(f"cached features: {rates[0]:7.1f} photos per second")
    print(f"encoded photos:  {rates[1]:7.1f} photos per second; cached is {rates[0] / rates[1]:.1f} times as fast")


def fine_tuning(device):
    """Train the shipped captioner with the encoder from `Mixed_7a` on."""
    model = CaptionerForConditionalGeneration.from_pretrained(ROOT / "modeling_captioner").to(device).train()
    trainable_from(model, "Mixed_7a", freeze_batch_norm=True)
    side = model.config.image_size
    pixel_values = torch.rand(PHOTOS, 3, side, side, device=device) * 2 - 1
    labels = torch.randint(4, model.config.vocab_size, (PHOTOS * CAPTIONS_PER_PHOTO, 13), device=device)

    def loss(dtype):
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            return model(pixel_values, labels=labels).loss

    dtypes = (torch.float32, torch.bfloat16)
    steps = [training_step(model, lambda dtype=dtype: loss(dtype)) for dtype in dtypes]
    rates = np.median([[PHOTOS * steps_per_second(step) for step in steps] for _ in range(3)], axis=0)
    for dtype, rate in zip(dtypes, rates, strict=True):
        print(f"fine-tuning in {dtype}: {rate:.1f} photos per second, {rate / rates[0]:.2f} times the first")


def first_step(folder):
    for features in ("to compute", "cached"):
        begin = time.perf_counter()
        run = folder / f"run {features}"
        options = ["--data_dir", folder, "--output_dir", run, "--features_dir", folder / "of first step"]
        options += ["--validation_fraction", 0, "--max_eval_samples", 2, "--min_word_count", 1]
        options += ["--max_train_samples", 64, "--max_train_steps", 1, "--logging_steps", 1]
        process = subprocess.Popen(
            [sys.executable, "-m", "train", *map(str, options)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        while not (run / "history.jsonl").exists() and process.poll() is None:
            time.sleep(0.02)
        print(f"first step, features {features}: {time.perf_counter() - begin:.1f} s")
        if process.wait():
            sys.exit(f"The trainer exited with status {process.returncode}.")


def main():
    sys.stdout.reconfigure(line_buffering=True)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--scale", type=int, metavar="PHOTOS")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.device}, {options.threads} threads, PyTorch {torch.__version__}")
    if options.scale:
        with tempfile.TemporaryDirectory() as folder:
            processor = CaptionerProcessor.from_pretrained(ROOT / "modeling_captioner")
            preparation.measure(options.scale, processor, Path(folder))
        return
    decoders(options.device)
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder), 64)
        caching(Path(folder), options.device)
        fine_tuning(options.device)
        first_step(Path(folder))


if __name__ == "__main__":
    main()
