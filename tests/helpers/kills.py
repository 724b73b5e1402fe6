"""Kills the trainer or `caption.py` at random moments with SIGKILL, resumes it, and compares the final result.

`python -m tests.helpers.kills train --kills 50` kills and resumes small runs of the trainer, one after another.
Each must end with the weights of an uninterrupted run, and its output folder must be loadable at any moment. All
processes use one thread, because the number of threads affects rounding.

`python -m tests.helpers.kills caption --kills 20` kills and resumes `caption.py --resume` on many photos. In the
end, each photo must have exactly one complete line with the caption that the captioner has memorized.
"""

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"}

import datasets
import torch
from safetensors.torch import load_file

from captioning.loading import load_captioner
from tests.helpers.captioners import learn_by_heart
from tests.helpers.drawn import COLORS, SHAPES, drawn_photo
from tests.helpers.paths import ROOT
from train import checkpoints
from train.cli import main as train

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


CHECKPOINT_FILES = ("model", "average", "optimizer")


def draw_photos(count, folder):
    """Write small photos. Returns {path: caption}."""
    folder.mkdir(parents=True)
    captions = {}
    for number in range(count):
        photo, caption = drawn_photo(COLORS[number % 4], SHAPES[number // 4 % 2])
        photo.save(folder / f"{number}.png")
        captions[str(folder / f"{number}.png")] = caption
    return captions


def start(function, *arguments):
    """Call a function in a process forked from this one, which saves the imports."""
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


def kill_when(process, condition):
    """Kill a process as soon as `condition()` is true. Returns whether it was still running; asserts its success."""
    while not condition():
        if process.exitcode is not None:
            assert process.exitcode == 0, f"exit status {process.exitcode}; see the log"
            return False
        time.sleep(0.001)
    process.kill()
    process.join()
    return True


def run_trainer(data, output):
    log = os.open(f"{output}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    datasets.config.HF_DATASETS_CACHE = f"{output}.cache"  # the data may be prepared when the process is killed
    train([f"--{name}={value}" for name, value in (OPTIONS | {"data_dir": data, "output_dir": output}).items()])


def time_passed(seconds):
    """A function that returns whether this time has passed since the call."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def check_loads(output, loaded):
    """Load the captioner of a run. Returns False if there is none yet, which fails if `loaded` says there was one."""
    if not loaded and not (output / "model.safetensors").exists():
        return False
    load_captioner(str(output), "cpu", "float32")
    return True


def assert_equal_runs(uninterrupted, killed):
    """Assert that weights, optimizer and history are equal bit for bit."""
    last, last_killed = (checkpoints.latest(run / "checkpoints" / "1-captions") for run in (uninterrupted, killed))
    assert last.name == last_killed.name
    pairs = [(last / f"{name}.safetensors", last_killed / f"{name}.safetensors") for name in CHECKPOINT_FILES]
    for expected_file, file in (*pairs, (uninterrupted / "model.safetensors", killed / "model.safetensors")):
        expected, tensors = load_file(expected_file), load_file(file)
        assert expected.keys() == tensors.keys()
        for name, tensor in expected.items():
            assert torch.equal(tensor, tensors[name]), f"{file}: {name} differs"
    assert (uninterrupted / "history.jsonl").read_text() == (killed / "history.jsonl").read_text()


def kill_training(options, folder):
    rng = random.Random(options.seed)
    data, uninterrupted = folder / "data", folder / "uninterrupted"
    captions = draw_photos(8, data / "train")
    rows = [json.dumps({"file_name": Path(path).name, "captions": [caption]}) for path, caption in captions.items()]
    (data / "train" / "metadata.jsonl").write_text("\n".join(rows))
    start_time = time.monotonic()
    kill_when(start(run_trainer, data, uninterrupted), time_passed(float("inf")))
    duration = time.monotonic() - start_time
    kills, runs, loads = 0, 0, 0
    while kills < options.kills:
        runs, loaded = runs + 1, False
        killed = folder / f"killed-{runs}"
        # After the last kill, the run continues to its end.
        while kill_when(
            start(run_trainer, data, killed),
            time_passed(rng.uniform(0, duration / 2) if kills < options.kills else float("inf")),
        ):
            kills += 1
            loaded = check_loads(killed, loaded)
            loads += loaded
        assert_equal_runs(uninterrupted, killed)
    print(f"{kills} kills in {runs} runs: all ended with the same weights; the folder loaded {loads} times")


def lines_written(output, count):
    """A function that returns whether this many complete lines were written since the call."""

    def lines():
        return output.read_bytes().count(b"\n") if output.exists() else 0

    target = lines() + count
    return lambda: lines() >= target


def kill_captioning(options, folder):
    rng = random.Random(options.seed)
    learn_by_heart(folder / "model")
    captions = draw_photos(options.photos, folder / "photos")
    output, kills = folder / "captions.jsonl", 0
    # Small batches, so that it can be killed between most lines.
    command = [sys.executable, ROOT / "caption.py", folder / "photos", "--model", folder / "model"]
    command = [*map(str, command), "--output", str(output), "--resume", "--batch_size", "4"]
    max_lines = max(1, 2 * options.photos // options.kills - 4)  # takes about `kills` kills for all photos
    while kill_when(start(os.execv, sys.executable, command), lines_written(output, rng.randint(1, max_lines))):
        kills += 1
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert output.read_bytes().endswith(b"\n")
    assert len(rows) == options.photos
    assert {row["file"]: row["caption"] for row in rows} == captions
    print(f"{options.photos} photos, {kills} kills: each captioned once, no partial lines, no wrong captions")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", choices=["train", "caption"])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--photos", type=int, default=500, help="for caption")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        {"train": kill_training, "caption": kill_captioning}[options.program](options, Path(folder))


if __name__ == "__main__":
    main()
