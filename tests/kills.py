"""A training that is killed at random moments, and resumed each time, ends with the weights of an uninterrupted one.

`python tests/kills.py --kills 50` kills a small run of the trainer with SIGKILL, looks each time whether the output
folder still loads, and begins another run when one has come to its end. All processes have one thread: sums over
another number of threads round otherwise.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"}
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import datasets  # noqa: E402
import torch  # noqa: E402
from conftest import COLOURS, SHAPES, drawn_photo  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from captioning.loading import load_captioner  # noqa: E402
from train import checkpoints  # noqa: E402
from train.cli import main as train  # noqa: E402

OPTIONS = {
    "encoder_name": "test_resnet",
    "image_size": 64,
    "hidden_size": 64,
    "embedding_size": 32,
    "min_word_count": 1,
    "per_device_train_batch_size": 4,
    "captions_per_photo": 1,
    "num_beams": 1,
    "max_new_tokens": 8,
    "num_train_epochs": 20,
    "checkpointing_steps": 1,
    "eval_steps": 7,
    "logging_steps": 1,
    "ema_decay": 0.9,
    "resume_from_checkpoint": "last",
}


def draw_set(folder):
    """An imagefolder of eight drawn photos."""
    (folder / "train").mkdir(parents=True)
    rows = []
    for number, (colour, shape) in enumerate((colour, shape) for colour in COLOURS for shape in SHAPES):
        photo, caption = drawn_photo(colour, shape)
        photo.save(folder / "train" / f"{number}.png")
        rows.append(json.dumps({"file_name": f"{number}.png", "captions": [caption]}) + "\n")
    (folder / "train" / "metadata.jsonl").write_text("".join(rows))


def start(data, output):
    """The trainer in a process of its own, forked from this one, which has imported everything. Returns its number."""
    arguments = [f"--{name}={value}" for name, value in (OPTIONS | {"data_dir": data, "output_dir": output}).items()]
    process = os.fork()
    if not process:
        log = os.open(f"{output}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        datasets.config.HF_DATASETS_CACHE = f"{output}.cache"  # the preparation of the data may be killed as well
        status = 1
        try:
            train(arguments)
            status = 0
        finally:
            os._exit(status)
    return process


def kill_after(process, seconds):
    """Whether the process was killed; False where it had ended by then. Raises `RuntimeError` where it failed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            if status:
                raise RuntimeError(f"The trainer ended with {status}; see its log.")
            return False
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return True


def check_loads(output, loaded):
    """Whether the folder holds a captioner, which it must once it did (`loaded`). Raises where it is in between."""
    if not loaded and not (output / "model.safetensors").exists():
        return False
    load_captioner(str(output), "cpu", "float32")
    return True


def assert_equal_runs(whole, cut):
    """The same weights, optimizer and history, bit for bit. Raises `AssertionError`."""
    places = [checkpoints.latest(folder / "checkpoints" / "1-captions") for folder in (whole, cut)]
    assert places[0].name == places[1].name, f"{places[0].name} is not {places[1].name}"
    files = [(place / name) for name in ("model", "average", "optimizer") for place in places]
    files = [file.with_suffix(".safetensors") for file in files] + [
        folder / "model.safetensors" for folder in (whole, cut)
    ]
    for first, second in zip(files[::2], files[1::2], strict=True):
        expected, found = load_file(first), load_file(second)
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            assert torch.equal(tensor, found[name]), f"{second}: {name} differs"
    assert (whole / "history.jsonl").read_text() == (cut / "history.jsonl").read_text()


def try_kills(kills, folder, seed=0):
    """Kill training `kills` times. Returns in how many runs, and how many times the output folder was loaded."""
    chance = random.Random(seed)
    data, whole = folder / "data", folder / "whole"
    draw_set(data)
    begun = time.monotonic()
    kill_after(start(data, whole), float("inf"))
    duration = time.monotonic() - begun
    killed, runs, loads = 0, 0, 0
    while killed < kills:
        runs, loaded = runs + 1, False
        cut = folder / f"cut-{runs}"
        # When enough are killed, the last run ends undisturbed.
        while kill_after(start(data, cut), chance.uniform(0, duration / 2) if killed < kills else float("inf")):
            killed += 1
            loaded = check_loads(cut, loaded)
            loads += loaded
        assert_equal_runs(whole, cut)
    return runs, loads


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs, loads = try_kills(options.kills, Path(folder), options.seed)
    print(f"{options.kills} kills in {runs} runs: all ended with the same weights; the folder loaded {loads} times")


if __name__ == "__main__":
    main()
