"""Faults during training and untrusted models: one sentence, and no checkpoint is lost."""

import contextlib
import multiprocessing.queues
import os
import pickle
import resource
import shutil
import threading
import time
from pathlib import Path

import datasets
import psutil
import pytest

from tests.helpers.drawn import drawn_photo
from tests.helpers.marks import slow_case
from tests.helpers.programs import start_python
from tests.helpers.strangers import STRANGERS, Evil
from tests.helpers.training import arguments, caption_folder
from train import checkpoints
from train.cli import main
from train.data import cached_features
from train.history import History
from train.stages import Captions

READ_EACH_TIME = {"encoder_trainable_from": "all", "num_train_epochs": 10_000, "eval_steps": 1_000_000}


class Trainer:
    """A training process. Its standard error goes to the file `log`."""

    def __init__(self, folder, *options):
        self.log = folder / "stderr.txt"
        environment = {"ACCELERATE_USE_CPU": "true"}
        output = folder / "stdout.txt"
        self.process = start_python("-m", "train", *options, env=environment, stdout=output, stderr=self.log)

    def wait_until(self, condition):
        deadline = time.monotonic() + 600
        while not condition():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def error(self):
        """Wait for the process to fail without a traceback. Returns its error message."""
        assert self.process.wait(timeout=600) == 1, self.log.read_text()
        assert "Traceback" not in self.log.read_text()
        return last_error(self.log.read_text())


def last_error(log):
    """The last error message, which may follow a progress bar on the same line."""
    return log.rpartition("error: ")[2].splitlines()[0]


@pytest.fixture
def refused(capsys):
    """Run the trainer in this process. Returns the error message that it exits with."""

    def run(*options):
        with pytest.raises(SystemExit) as exit_:
            main([*map(str, options)])
        assert exit_.value.code == 1
        return last_error(capsys.readouterr().err)

    return run


@pytest.fixture
def photo_set(drawn_set, tmp_path):
    """A copy of the data set that a test may damage."""
    return Path(shutil.copytree(drawn_set, tmp_path / "set"))


@pytest.fixture
def running(photo_set, tmp_path):
    """Start a training that reads the photos in each step, and wait for its first checkpoint."""
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


def test_a_deleted_data_set_is_named(running, photo_set, tmp_path):
    trainer = running(dataloader_num_workers=1)
    shutil.rmtree(photo_set)
    error = trainer.error()
    assert str(photo_set) in error
    # The latter if the photo was deleted between the check and opening it.
    assert error.endswith(("does not exist; check the path.", "export it again as JPEG or PNG."))
    assert_intact(tmp_path / "run")


def workers_of(process):
    """The dataloader workers of a trainer, which are forked from it."""
    found = []
    for child in process.children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            if child.cmdline() == process.cmdline():
                found.append(child)
    return found


def kill_workers(process):
    for worker in workers_of(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.kill()


def test_a_killed_worker_is_reported(running, tmp_path):
    """Kills workers until it is noticed: one that has finished its epoch is not missed."""
    trainer = running(dataloader_num_workers=1)
    deadline = time.monotonic() + 600
    while trainer.process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(psutil.NoSuchProcess):  # a worker or the trainer has just ended
            kill_workers(psutil.Process(trainer.process.pid))
        time.sleep(0.05)
    assert "A dataloader worker died" in trainer.error()
    assert_intact(tmp_path / "run")


# PyTorch raises the death of a worker anywhere in the program, so it may interrupt each of these: (object, name of the
# function, number of its calls in the step before).
PLACES = {
    "loss": (Captions, "loss", 0),
    "curves": (History, "_plot_curves", 0),
    "checkpoint, half written": (checkpoints, "save_file", 1),
    "checkpoint, just renamed": (checkpoints, "step_of", 0),
    "old checkpoint, half deleted": (os, "unlink", 3),
}


@pytest.fixture(scope="module")
def uninterrupted(drawn_set, tmp_path_factory):
    """(options, history) of an uninterrupted run."""
    options = READ_EACH_TIME | {"data_dir": drawn_set, "checkpointing_steps": 1, "eval_steps": 3, "num_train_epochs": 3}
    options |= {"dataloader_num_workers": 1, "resume_from_checkpoint": "last", "checkpoints_total_limit": 2}
    folder = tmp_path_factory.mktemp("uninterrupted")
    main(arguments(output_dir=folder, **options))
    return options, (folder / "history.jsonl").read_text()


@pytest.mark.parametrize("place", ["loss", *map(slow_case, list(PLACES)[1:])])
def test_a_run_resumes_wherever_a_worker_died(uninterrupted, tmp_path, refused, monkeypatch, place):
    """The worker is killed in step 3, before the last step of the epoch, while it is still running."""
    options, expected = uninterrupted
    options = arguments(output_dir=tmp_path, **options)
    folder = tmp_path / "checkpoints" / "1-captions"
    owner, name, earlier_calls = PLACES[place]
    original, trainer, calls = getattr(owner, name), psutil.Process(), []

    def killing(*args, **kwargs):
        if psutil.Process() == trainer and (folder / "step-2" / checkpoints.COMPLETE).exists() and workers_of(trainer):
            calls.append(args)
            if len(calls) == earlier_calls + 1:
                kill_workers(trainer)
                time.sleep(60)  # interrupted by the signal
                raise AssertionError("The death of the worker was not noticed.")
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killing)
        assert "A dataloader worker died" in refused(*options)
    assert checkpoints.step_of(checkpoints.latest(folder)) in (2, 3)
    for mark in folder.glob(f"step-*/{checkpoints.COMPLETE}"):
        files = {file.name for file in mark.parent.iterdir()}
        assert files == {"model.safetensors", "optimizer.safetensors", "best.safetensors", "state.json", "complete"}
    assert_intact(tmp_path)
    main(options)
    assert (tmp_path / "history.jsonl").read_text() == expected


def test_a_connection_that_breaks_before_the_death_of_its_worker_is_known(
    uninterrupted, tmp_path, refused, monkeypatch
):
    trainer, original = psutil.Process(), multiprocessing.queues.Queue.get

    def get(queue, *args, **kwargs):
        if psutil.Process() != trainer:  # the worker, asking for indices
            return original(queue, *args, **kwargs)
        threading.Timer(0.1, kill_workers, [trainer]).start()
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(multiprocessing.queues.Queue, "get", get)
    options = uninterrupted[0] | {"output_dir": tmp_path}
    assert "A dataloader worker died" in refused(*arguments(**options))


def test_a_killed_worker_is_reported_in_an_evaluation(drawn_set, learnt_captioner, tmp_path, refused, monkeypatch):
    def validation_step(*_):
        kill_workers(psutil.Process())
        time.sleep(60)

    monkeypatch.setattr(Captions, "validation_step", validation_step)
    options = ["--evaluate_only", "--model", learnt_captioner, "--data_dir", drawn_set, "--output_dir", tmp_path]
    error = refused(*options, "--dataloader_num_workers", 1, "--per_device_eval_batch_size", 2)
    assert "A dataloader worker died" in error


@pytest.mark.usefixtures("capsys")  # otherwise pytest captures the output in a file
def test_a_full_disk_is_reported_with_the_file(tiny_captioner, drawn_set, tmp_path):
    """A limit on the file size makes writes fail as on a full disk."""
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
        assert not [file for file in tmp_path.rglob("*") if file.is_file()], "no partial files"


def assert_intact(folder):
    photo, _ = drawn_photo("red", "circle")
    assert isinstance(caption_folder(folder, [photo])[0], str)
    assert checkpoints.latest(folder / "checkpoints" / "1-captions")


@pytest.mark.parametrize("name", STRANGERS)
def test_models_of_strangers(strangers_model, drawn_set, tmp_path, refused, name):
    folder = strangers_model(name)
    error = refused(*arguments(data_dir=drawn_set, output_dir=tmp_path / "run", model=folder))
    assert str(folder) in error
    assert error.endswith(".")


def test_a_damaged_checkpoint_is_named(drawn_set, tmp_path, refused):
    options = arguments(data_dir=drawn_set, output_dir=tmp_path, num_train_epochs=1)
    main(options)
    place = checkpoints.latest(tmp_path / "checkpoints" / "1-captions")
    assert {file.suffix for file in place.iterdir()} == {".safetensors", ".json", ""}  # no pickle is written
    for damage in (pickle.dumps(Evil), (place / "model.safetensors").read_bytes()[:1_000]):
        (place / "model.safetensors").write_bytes(damage)
        assert str(place) in refused(*options, "--resume_from_checkpoint", "last", "--num_train_epochs", 2)
