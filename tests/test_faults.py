"""What goes wrong while the trainer runs unattended, and files that strangers give: a sentence, and nothing is lost."""

import contextlib
import json
import multiprocessing.queues
import os
import pickle
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import datasets
import psutil
import pytest
from conftest import ROOT, drawn_photo
from test_training import arguments, caption_folder

from captioning.loading import load_captioner
from train import checkpoints
from train.cli import main
from train.data import cached_features
from train.history import History
from train.stages import Captions

READ_EACH_TIME = {"encoder_trainable_from": "all", "num_train_epochs": 10_000, "eval_steps": 1_000_000}


class Trainer:
    """A training in a process of its own. What it tells goes to a file: a pipe that nobody reads would stop it."""

    def __init__(self, folder, *options):
        self.told = folder / "told.txt"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        command = [sys.executable, "-m", "train", *map(str, options)]
        with self.told.open("w") as file:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=-3, stderr=file)

    def wait_until(self, found):
        deadline = time.monotonic() + 600
        while not found():
            assert self.process.poll() is None, self.told.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def error(self):
        """The one line with which it ended; a trace is none."""
        assert self.process.wait(timeout=600) == 1, self.told.read_text()
        assert "Traceback" not in self.told.read_text()
        return last_error(self.told.read_text())


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


@pytest.fixture
def photo_set(drawn_set, tmp_path):
    """A data set of one's own, to break."""
    return Path(shutil.copytree(drawn_set, tmp_path / "set"))


@pytest.fixture
def running(photo_set, tmp_path):
    """Starts a training that reads the photos at each step, and waits until it has written a checkpoint."""
    trainers = []

    def run(**options):
        options = READ_EACH_TIME | {"data_dir": photo_set, "output_dir": tmp_path / "run"} | options
        trainer = Trainer(tmp_path, *arguments(checkpointing_steps=1, **options))
        trainers.append(trainer)
        trainer.wait_until(lambda: checkpoints.latest(tmp_path / "run" / "checkpoints" / "1-captions"))
        return trainer

    yield run
    for trainer in trainers:
        trainer.process.kill()
        trainer.process.wait()


def test_killed_at_random_moments_it_ends_with_the_same_weights():
    command = [sys.executable, ROOT / "tests" / "kills.py", "train", "--kills", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    assert "all ended with the same weights" in done.stdout


def test_a_data_set_that_vanishes_is_named(running, photo_set, tmp_path):
    trainer = running(dataloader_num_workers=1)
    shutil.rmtree(photo_set)
    error = trainer.error()
    assert str(photo_set) in error
    # The latter where the photo went between the look for it and its opening.
    assert error.endswith(("does not exist; check the path.", "export it again as JPEG or PNG."))
    assert_still_whole(tmp_path / "run")


def readers_of(process):
    """The processes that read photos for a trainer, which are forked from it."""
    found = []
    for child in process.children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just done its work
            if child.cmdline() == process.cmdline():
                found.append(child)
    return found


def kill_readers(process):
    for reader in readers_of(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            reader.kill()


def test_a_worker_that_dies_is_told(running, tmp_path):
    """One that has just done its epoch's work dies unnoticed; the next epoch's is then killed."""
    trainer = running(dataloader_num_workers=1)
    deadline = time.monotonic() + 600
    with contextlib.suppress(psutil.NoSuchProcess):  # the trainer has ended
        while trainer.process.poll() is None and time.monotonic() < deadline:
            kill_readers(psutil.Process(trainer.process.pid))
            time.sleep(0.05)
    assert "A dataloader worker died" in trainer.error()
    assert_still_whole(tmp_path / "run")


# PyTorch raises a reader's death wherever the program is, so that each of these may be cut short by it: (what is
# called, how often it has been called by then in the step).
PLACES = {
    "loss": (Captions, "loss", 0),
    "curves": (History, "_plot_curves", 0),
    "checkpoint, half written": (checkpoints, "save_file", 1),
    "checkpoint, just renamed": (checkpoints, "step_of", 0),
    "old checkpoint, half deleted": (os, "unlink", 3),
}


@pytest.fixture(scope="module")
def undisturbed(drawn_set, tmp_path_factory):
    """(options, history) of a run that ends by itself."""
    options = READ_EACH_TIME | {"data_dir": drawn_set, "checkpointing_steps": 1, "eval_steps": 3, "num_train_epochs": 3}
    options |= {"dataloader_num_workers": 1, "resume_from_checkpoint": "last", "checkpoints_total_limit": 2}
    folder = tmp_path_factory.mktemp("undisturbed")
    main(arguments(output_dir=folder, **options))
    return options, (folder / "history.jsonl").read_text()


@pytest.mark.parametrize("place", PLACES)
def test_wherever_a_reader_dies_the_run_goes_on(undisturbed, tmp_path, refused, monkeypatch, place):
    """It is killed in step 3, in which it still waits for work, as the epoch's last step is to come."""
    options, expected = undisturbed
    options = arguments(output_dir=tmp_path, **options)
    folder = tmp_path / "checkpoints" / "1-captions"
    holder, name, spared = PLACES[place]
    original, trainer, calls = getattr(holder, name), psutil.Process(), []

    def killing(*given, **named):
        if psutil.Process() == trainer and (folder / "step-2" / checkpoints.COMPLETE).exists() and readers_of(trainer):
            calls.append(given)
            if len(calls) == spared + 1:
                kill_readers(trainer)
                time.sleep(60)  # which the signal of its death ends at once
                raise AssertionError("Nobody noticed that the reader died.")
        return original(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(holder, name, killing)
        assert "A dataloader worker died" in refused(*options)
    assert checkpoints.step_of(checkpoints.latest(folder)) in (2, 3)
    for mark in folder.glob(f"step-*/{checkpoints.COMPLETE}"):
        files = {file.name for file in mark.parent.iterdir()}
        assert files == {"model.safetensors", "optimizer.safetensors", "best.safetensors", "state.json", "complete"}
    assert_still_whole(tmp_path)
    main(options)
    assert (tmp_path / "history.jsonl").read_text() == expected


def test_a_readers_connection_may_break_before_its_death_is_known(undisturbed, tmp_path, refused, monkeypatch):
    trainer, original = psutil.Process(), multiprocessing.queues.Queue.get

    def get(queue, *given, **named):
        if psutil.Process() != trainer:  # the reader, which asks what to read
            return original(queue, *given, **named)
        threading.Timer(0.1, kill_readers, [trainer]).start()
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(multiprocessing.queues.Queue, "get", get)
    options = undisturbed[0] | {"output_dir": tmp_path}
    assert "A dataloader worker died" in refused(*arguments(**options))


def test_a_reader_that_dies_in_an_evaluation_is_told(drawn_set, learnt_captioner, tmp_path, refused, monkeypatch):
    def validation_step(*_):
        kill_readers(psutil.Process())
        time.sleep(60)

    monkeypatch.setattr(Captions, "validation_step", validation_step)
    options = ["--evaluate_only", "--model", learnt_captioner, "--data_dir", drawn_set, "--output_dir", tmp_path]
    told = refused(*options, "--dataloader_num_workers", 1, "--per_device_eval_batch_size", 2)
    assert "A dataloader worker died" in told


@pytest.mark.usefixtures("capsys")  # otherwise pytest keeps what is told in a file
def test_a_full_disk_is_named_with_what_could_not_be_written(tiny_captioner, drawn_set, tmp_path):
    """A limit on the size of files fails a write as a full disk does."""
    model, processor = tiny_captioner()
    photos = datasets.Dataset.from_dict({"image": [str(drawn_set / "train" / f"{n}.png") for n in range(8)]})
    photos = photos.cast_column("image", datasets.Image(decode=False))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for name, write in (
        ("model.safetensors", lambda: checkpoints.save_captioner(model, processor, tmp_path)),
        (".npy", lambda: cached_features(model.encoder, processor, photos, tmp_path / "features", 4)),
    ):
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, hard))
        try:
            with pytest.raises(OSError, match=rf"{name} could not be written \(.*Free disk space"):
                write()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert not [file for file in tmp_path.rglob("*") if file.is_file()], "nothing half written takes room"


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
    command = [sys.executable, ROOT / "tests" / "kills.py", "caption", "--photos", "60", "--kills", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    assert "each captioned once" in done.stdout
