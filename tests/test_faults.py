"""What goes wrong while the trainer runs unattended, and files that strangers give: a sentence, and nothing is lost."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, drawn_photo
from test_training import arguments, caption_folder

from caption import load_captioner
from train import checkpoints
from train.cli import main

READ_EACH_TIME = {"encoder_trainable_from": "all", "num_train_epochs": 10_000, "eval_steps": 1_000_000}


def start(*options):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "train", *map(str, options)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=-3, stderr=subprocess.PIPE, text=True)


def error_of(process):
    """The one line with which the trainer ended; a trace is none."""
    _, told = process.communicate(timeout=180)
    assert process.returncode == 1, told
    assert "Traceback" not in told
    return last_error(told)


def last_error(told):
    """Behind a bar of progress that stands on the same line."""
    return told.rpartition("error: ")[2].splitlines()[0]


@pytest.fixture
def refused(capsys):
    """What the trainer, run here, ends with."""

    def run(*options):
        with pytest.raises(SystemExit) as exit_:
            main([*map(str, options)])
        assert exit_.value.code == 1
        return last_error(capsys.readouterr().err)

    return run


def wait_until(found, process):
    deadline = time.monotonic() + 120
    while not (answer := found()):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return answer


@pytest.fixture
def photo_set(drawn_set, tmp_path):
    """A data set of one's own, to break."""
    return Path(shutil.copytree(drawn_set, tmp_path / "set"))


@pytest.fixture
def running(photo_set, tmp_path):
    """Starts a training that reads the photos at each step, and waits until it has written a checkpoint."""
    processes = []

    def run(**options):
        options = READ_EACH_TIME | {"data_dir": photo_set, "output_dir": tmp_path / "run"} | options
        process = start(*arguments(checkpointing_steps=1, **options))
        processes.append(process)
        wait_until(lambda: checkpoints.latest(tmp_path / "run" / "checkpoints" / "1-captions"), process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.wait()


def test_killed_at_random_moments_it_ends_with_the_same_weights():
    command = [sys.executable, ROOT / "tests" / "kills.py", "--kills", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "all ended with the same weights" in done.stdout


def test_a_data_set_that_vanishes_is_named(running, photo_set, tmp_path):
    process = running(dataloader_num_workers=1)
    shutil.rmtree(photo_set)
    error = error_of(process)
    assert str(photo_set) in error
    assert "does not exist; check the path." in error
    assert_still_whole(tmp_path / "run")


def test_a_worker_that_dies_is_told(running, tmp_path):
    process = running(dataloader_num_workers=1)

    def worker():
        for child in psutil.Process(process.pid).children():
            try:
                if child.cmdline() == psutil.Process(process.pid).cmdline():  # forked, as PyTorch's workers are
                    return child
            except psutil.ZombieProcess:
                continue
        return None

    wait_until(worker, process).send_signal(signal.SIGKILL)
    assert "A process that reads photos died" in error_of(process)
    assert_still_whole(tmp_path / "run")


def assert_still_whole(folder):
    photo, _ = drawn_photo("red", "circle")
    assert isinstance(caption_folder(folder, [photo])[0], str)
    assert checkpoints.latest(folder / "checkpoints" / "1-captions")


def test_a_loss_that_is_no_number_stops_with_the_photos_named(drawn_set, tmp_path, refused):
    options = arguments(data_dir=drawn_set, output_dir=tmp_path, learning_rate=1e30, max_grad_norm=1e30)
    error = refused(*options, "--num_train_epochs", 50, "--checkpointing_steps", 1)
    assert "became nan" in error or "became inf" in error
    assert ".png" in error
    assert caption_folder(tmp_path, [drawn_photo("red", "circle")[0]])


def test_a_photo_that_changes_is_looked_at_again(photo_set, tmp_path):
    options = arguments(data_dir=photo_set, features_dir=tmp_path / "features", num_train_epochs=1)
    seen = []
    for run in ("first", "same", "changed"):
        if run == "changed":
            drawn_photo("white", "square")[0].save(photo_set / "train" / "0.png")
        main([*options, "--output_dir", str(tmp_path / run)])
        seen.append({file.name for file in (tmp_path / "features").glob("*.npy")})
    assert seen[0] == seen[1]
    assert seen[2] > seen[1]


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path(os.environ["EVIL"]),))


def only_pickle(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))


def pickle_as_safetensors(folder):
    (folder / "model.safetensors").write_bytes(pickle.dumps(Evil()))


def truncated(folder):
    os.truncate(folder / "model.safetensors", 5_000)


def huge_header(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[:8] = (2**62).to_bytes(8, "little")
    (folder / "model.safetensors").write_bytes(content)


def configured(**changes):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


def weights_elsewhere(folder):
    """An index that names another folder's file."""
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": {"decoder.embedding.weight": "../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


STRANGERS = {
    "only pickle": only_pickle,
    "pickle as safetensors": pickle_as_safetensors,
    "truncated": truncated,
    "huge header": huge_header,
    "encoder from a path": configured(encoder_name="local-dir:/etc"),
    "encoder from a URL": configured(encoder_name="hf-hub:evil/model"),
    "encoder that would not fit": configured(hidden_size=2**40),
    "another type": configured(model_type="bert"),
    "code of its own": configured(model_type="evil", auto_map={"AutoConfig": "evil.Evil"}),
    "weights elsewhere": weights_elsewhere,
}


@pytest.fixture
def strangers_model(learnt_captioner, tmp_path, monkeypatch):
    """Makes a captioner that does harm, or is broken; what is run of it would create the file EVIL."""
    monkeypatch.setenv("EVIL", str(tmp_path / "evil"))

    def make(name):
        folder = Path(shutil.copytree(learnt_captioner, tmp_path / "model"))
        (folder / "evil.py").write_text("import os, pathlib\npathlib.Path(os.environ['EVIL']).touch()\n")
        STRANGERS[name](folder)
        return folder

    yield make
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("name", STRANGERS)
@pytest.mark.parametrize("door", ["command line and page", "trainer"])
def test_models_of_strangers(strangers_model, drawn_set, tmp_path, refused, name, door):
    """`caption.py` and `app.py` load models by one function."""
    folder = strangers_model(name)
    if door == "trainer":
        told = refused(*arguments(data_dir=drawn_set, output_dir=tmp_path / "run", model=folder))
    else:
        with pytest.raises(ValueError, match=str(folder)) as refusal:
            load_captioner(str(folder), "cpu", "float32")
        told = str(refusal.value)
    assert str(folder) in told
    assert told.endswith(".")


def test_a_damaged_checkpoint_is_named(drawn_set, tmp_path, refused):
    options = arguments(data_dir=drawn_set, output_dir=tmp_path, num_train_epochs=1)
    main(options)
    place = checkpoints.latest(tmp_path / "checkpoints" / "1-captions")
    assert {file.suffix for file in place.iterdir()} == {".safetensors", ".json", ""}  # no pickle is written
    for damage in (pickle.dumps(Evil), (place / "model.safetensors").read_bytes()[:1_000]):
        (place / "model.safetensors").write_bytes(damage)
        assert str(place) in refused(*options, "--resume_from_checkpoint", "last", "--num_train_epochs", 2)


def test_captioning_killed_at_random_moments_captions_each_photo_once():
    command = [sys.executable, ROOT / "tests" / "caption_kills.py", "--photos", "60", "--kills", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "each captioned once" in done.stdout
