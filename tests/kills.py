"""What is killed at random moments with SIGKILL, and started again each time, ends as if nothing had happened.

`python tests/kills.py train --kills 50` kills a small run of the trainer, which resumes, and begins another run when
one has come to its end. All must have the weights of an uninterrupted run, and the output folder must always load. All
processes have one thread: sums over another number of threads round otherwise.

`python tests/kills.py caption --kills 20` kills `caption.py --resume` over many photos. In the end no photo may be
missing or there twice, each line must be whole, and each caption the one that the captioner knows by heart.
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
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import datasets  # noqa: E402
import torch  # noqa: E402
from conftest import COLOURS, ROOT, SHAPES, drawn_photo, learn_by_heart  # noqa: E402
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


def draw_photos(count, folder):
    """Small photos as files, {path: caption}."""
    folder.mkdir(parents=True)
    captions = {}
    for number in range(count):
        photo, caption = drawn_photo(COLOURS[number % 4], SHAPES[number // 4 % 2])
        photo.save(folder / f"{number}.png")
        captions[str(folder / f"{number}.png")] = caption
    return captions


def start(function, *arguments):
    """Call the function in a process forked from this one, which has imported everything already."""
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


def kill_when(process, reached):
    """Whether the process was killed when `reached()`; False where it had ended by then. Fails where it failed."""
    while not reached():
        if process.exitcode is not None:
            assert process.exitcode == 0, f"It ended with {process.exitcode}; see its log."
            return False
        time.sleep(0.001)
    process.kill()
    process.join()
    return True


def run_trainer(data, output):
    log = os.open(f"{output}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    datasets.config.HF_DATASETS_CACHE = f"{output}.cache"  # the preparation of the data may be killed as well
    train([f"--{name}={value}" for name, value in (OPTIONS | {"data_dir": data, "output_dir": output}).items()])


def passed(seconds):
    """A function that tells whether so much time has passed since now."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


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


def kill_training(options, folder):
    chance = random.Random(options.seed)
    data, whole = folder / "data", folder / "whole"
    captions = draw_photos(8, data / "train")
    rows = [json.dumps({"file_name": Path(path).name, "captions": [caption]}) for path, caption in captions.items()]
    (data / "train" / "metadata.jsonl").write_text("\n".join(rows))
    begun = time.monotonic()
    kill_when(start(run_trainer, data, whole), passed(float("inf")))
    duration = time.monotonic() - begun
    killed, runs, loads = 0, 0, 0
    while killed < options.kills:
        runs, loaded = runs + 1, False
        cut = folder / f"cut-{runs}"
        # When enough are killed, the last run ends undisturbed.
        while kill_when(
            start(run_trainer, data, cut),
            passed(chance.uniform(0, duration / 2) if killed < options.kills else float("inf")),
        ):
            killed += 1
            loaded = check_loads(cut, loaded)
            loads += loaded
        assert_equal_runs(whole, cut)
    print(f"{killed} kills in {runs} runs: all ended with the same weights; the folder loaded {loads} times")


def lines_written(output, count):
    """A function that tells whether so many more whole lines are written since now."""

    def lines():
        return output.read_bytes().count(b"\n") if output.exists() else 0

    wanted = lines() + count
    return lambda: lines() >= wanted


def kill_captioning(options, folder):
    chance = random.Random(options.seed)
    learn_by_heart(folder / "model")
    captions = draw_photos(options.photos, folder / "photos")
    output, killed = folder / "captions.jsonl", 0
    # Few photos at once, so that it may be killed between many lines.
    command = [sys.executable, ROOT / "caption.py", folder / "photos", "--model", folder / "model"]
    command = [*map(str, command), "--output", str(output), "--resume", "--batch_size", "4"]
    most = max(1, 2 * options.photos // options.kills - 4)  # which needs about `kills` of them for all photos
    while kill_when(start(os.execv, sys.executable, command), lines_written(output, chance.randint(1, most))):
        killed += 1
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert output.read_bytes().endswith(b"\n")
    assert len(rows) == options.photos
    assert {row["file"]: row["caption"] for row in rows} == captions
    print(f"{options.photos} photos, {killed} kills: each captioned once, no half line, no wrong caption")


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
