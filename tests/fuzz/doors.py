"""Mutated pictures through the four doors: the page, its API, the command line and the trainer.

`python tests/fuzz/doors.py --files 200` brings the same files to each: every one ends in a caption or in a sentence
that names it, no door shows a trace, and each is open to a good photo afterwards.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

sys.path[:0] = [str(Path(__file__).parents[number]) for number in (2, 1, 0)]
os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

from conftest import ROOT, TINY_ENCODER, drawn_photo, learn_by_heart  # noqa: E402
from mutations import mutated  # noqa: E402
from page_client import SETTINGS, PageClient  # noqa: E402
from page_fixtures import running_app  # noqa: E402
from pictures import BOMBS  # noqa: E402


def write_files(count, folder):
    """A fifth of the files are made to harm; the last one is good. Returns their paths."""
    chance = random.Random(0)
    numbers = chance.sample(range(len(BOMBS)), min(count // 5, len(BOMBS)))
    numbers += chance.sample(range(len(BOMBS), 10_000), count - 1 - len(numbers))
    files = [folder / f"{number}.jpg" for number in numbers]
    for number, file in zip(numbers, files, strict=True):
        file.write_bytes(mutated(number)[1])
    drawn_photo("red", "circle")[0].save(folder / "good.png")
    return [*files, folder / "good.png"]


def told_by(command, statuses):
    """What a program writes to standard output and standard error. Raises `AssertionError` for a trace."""
    process = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode in statuses, process.stderr
    assert "Traceback" not in process.stderr, process.stderr
    return process.stdout, process.stderr


def try_command_line(model, files):
    """Returns how many were captioned."""
    captions, errors = told_by([sys.executable, "caption.py", "--model", model, *files], (0, 1))
    captioned = {line.partition("\t")[0] for line in captions.splitlines()}
    for file in files:
        named = any(line.startswith(f"error: {file} ") and line.endswith(".") for line in errors.splitlines())
        assert named != (str(file) in captioned), f"{file}: {errors}"
    assert str(files[-1]) in captioned
    return len(captioned)


def try_page(model, files, folder):
    """Through the page's own event and the endpoint `/caption`. Returns how many each captioned."""
    counts = [0, 0]
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
    with running_app(SimpleNamespace(folder=model), folder) as address:
        client = PageClient(address)
        for file in files:
            content = file.read_bytes()
            (shown,) = client.trigger("photo", "change", client.upload_photo(file.name, content), *SETTINGS)
            event, said = client.caption(client.upload_photo(file.name, content))
            counts[0] += "caption" in shown
            counts[1] += event == "complete"
            assert "caption" in shown or shown["message"].endswith("."), f"{file}: {shown}"
            assert event == "complete" or said["error"].endswith("."), f"{file}: {said}"
        assert event == "complete"
    log = (folder / "app.log").read_text()
    assert "MemoryError" not in log
    return counts


def try_trainer(files, folder):
    """Returns how many were learnt from."""
    rows = [json.dumps({"file_name": file.name, "captions": ["a photo of a thing"]}) + "\n" for file in files]
    (files[0].parent / "metadata.jsonl").write_text("".join(rows))
    options = TINY_ENCODER | {"hidden_size": 32, "embedding_size": 16, "min_word_count": 1, "num_train_epochs": 1}
    options |= {"data_dir": files[0].parent, "output_dir": folder / "run", "max_broken_fraction": 1}
    del options["encoder_frozen"]
    command = [sys.executable, "-m", "train", *(f"--{name}={value}" for name, value in options.items())]
    _, told = told_by(command, (0,))
    assert (folder / "run" / "model.safetensors").is_file()
    skipped = {line for line in told.splitlines() if "Skipped: " in line and line.endswith(".")}
    return len(files) - len(skipped)


def try_doors(count, folder):
    """Returns what is to be told. Raises `AssertionError` where a door breaks its promise."""
    model, photos = folder / "model", folder / "photos"
    learn_by_heart(model)
    photos.mkdir()
    files = write_files(count, photos)
    page, endpoint = try_page(model, files, folder)
    command_line, trainer = try_command_line(model, files), try_trainer(files, folder)
    assert page == endpoint == command_line == trainer, (page, endpoint, command_line, trainer)
    return (
        f"{count} files through each of four doors: {page} captioned or learnt from, each other one named in a sentence"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(try_doors(options.files, Path(folder)))


if __name__ == "__main__":
    main()
