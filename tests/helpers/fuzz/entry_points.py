"""Mutated image files through all entry points: the page, its API, the command line and the trainer.

`python -m tests.helpers.fuzz.entry_points --files 200` passes the same files to each. Every file must yield
either a caption or an error message of one sentence that names it, never a traceback, and a valid photo must still be
captioned at the end.
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

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

from tests.helpers.captioners import TINY_ENCODER, learn_by_heart
from tests.helpers.drawn import drawn_photo
from tests.helpers.fuzz.mutations import mutated
from tests.helpers.fuzz.pictures import BOMBS
from tests.helpers.page_client import SETTINGS, PageClient
from tests.helpers.page_fixtures import running_app
from tests.helpers.paths import ROOT


def write_files(count, folder):
    """Write mutated files, a fifth of them decompression bombs, and a valid photo at the end. Returns their paths."""
    rng = random.Random(0)
    numbers = rng.sample(range(len(BOMBS)), min(count // 5, len(BOMBS)))
    numbers += rng.sample(range(len(BOMBS), 10_000), count - 1 - len(numbers))
    files = [folder / f"{number}.jpg" for number in numbers]
    for number, file in zip(numbers, files, strict=True):
        file.write_bytes(mutated(number)[1])
    drawn_photo("red", "circle")[0].save(folder / "good.png")
    return [*files, folder / "good.png"]


def run_program(command, statuses):
    """Run a program, and assert that there is no traceback. Returns standard output and standard error."""
    process = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode in statuses, process.stderr
    assert "Traceback" not in process.stderr, process.stderr
    return process.stdout, process.stderr


def try_command_line(model, files):
    """Returns the number of captioned files."""
    captions, errors = run_program([sys.executable, "caption.py", "--model", model, *files], (0, 1))
    captioned = {line.partition("\t")[0] for line in captions.splitlines()}
    for file in files:
        named = any(line.startswith(f"error: {file} ") and line.endswith(".") for line in errors.splitlines())
        assert named != (str(file) in captioned), f"{file}: {errors}"
    assert str(files[-1]) in captioned
    return len(captioned)


def try_page(model, files, folder):
    """Try the page's event and the endpoint `/caption`. Returns the number of files that each captioned."""
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
    """Returns the number of files that were trained on."""
    rows = [json.dumps({"file_name": file.name, "captions": ["a photo of a thing"]}) + "\n" for file in files]
    (files[0].parent / "metadata.jsonl").write_text("".join(rows))
    options = TINY_ENCODER | {"hidden_size": 32, "embedding_size": 16, "min_word_count": 1, "num_train_epochs": 1}
    options |= {"data_dir": files[0].parent, "output_dir": folder / "run", "max_broken_fraction": 1}
    command = [sys.executable, "-m", "train", *(f"--{name}={value}" for name, value in options.items())]
    _, errors = run_program(command, (0,))
    assert (folder / "run" / "model.safetensors").is_file()
    skipped = {line for line in errors.splitlines() if "Skipped: " in line and line.endswith(".")}
    return len(files) - len(skipped)


def try_entry_points(count, folder):
    """Returns a summary. Raises `AssertionError` if an entry point violates a guarantee."""
    model, photos = folder / "model", folder / "photos"
    learn_by_heart(model)
    photos.mkdir()
    files = write_files(count, photos)
    page, endpoint = try_page(model, files, folder)
    command_line, trainer = try_command_line(model, files), try_trainer(files, folder)
    assert page == endpoint == command_line == trainer, (page, endpoint, command_line, trainer)
    return (
        f"{count} files through each of four entry points: {page} captioned or trained on, all others reported in one"
        " sentence"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(try_entry_points(options.files, Path(folder)))


if __name__ == "__main__":
    main()
