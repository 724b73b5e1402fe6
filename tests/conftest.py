"""Fixtures that several test files share: captioners and drawn photos; helpers/page_fixtures.py has the page's."""

import json
import os
import shutil

# Before PyTorch is there: the tests run in several processes side by side, whose threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import datasets
import pytest
from accelerate.state import AcceleratorState
from filelock import FileLock

from tests.helpers.captioners import build_tiny, learn_by_heart
from tests.helpers.drawn import all_drawn_photos

pytest_plugins = ["tests.helpers.page_fixtures", "tests.helpers.strangers"]

# After each stream, `datasets` waits 5 s for threads of PyArrow, in case the program is about to exit.
datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Each test's first `Accelerator` decides its precision, as in a program of its own."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def drawn_photos():
    """Eight photos and their captions, all different."""
    return all_drawn_photos()


@pytest.fixture
def files(tmp_path, drawn_photos):
    """The drawn photos as files."""
    files = [tmp_path / f"{number}.png" for number in range(len(drawn_photos))]
    for file, (photo, _) in zip(files, drawn_photos, strict=True):
        photo.save(file)
    return files


@pytest.fixture(scope="session")
def tiny_captioner():
    return build_tiny


@pytest.fixture(scope="session")
def made_once(tmp_path_factory, request):
    """`made_once(name, make)` is a folder that `make(folder)` has filled, once for all of pytest's processes."""
    root = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):  # one of several processes
        root = root.parent

    def get(name, make):
        folder, unfinished = root / name, root / f"{name}-unfinished"
        with FileLock(root / f"{name}.lock"):
            if not folder.exists():
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                make(unfinished)
                unfinished.rename(folder)
        return folder

    return get


@pytest.fixture(scope="session")
def learnt_captioner(made_once):
    """The folder of a tiny captioner that knows the captions of the drawn photos by heart."""
    return made_once("learnt", learn_by_heart)


@pytest.fixture(scope="session")
def drawn_set(made_once):
    """An imagefolder of the drawn photos: the same eight to train on and to validate with."""
    return made_once("drawn", save_drawn_set)


def save_drawn_set(folder):
    for split in ("train", "validation"):
        (folder / split).mkdir()
        rows = []
        for number, (photo, caption) in enumerate(all_drawn_photos()):
            photo.save(folder / split / f"{number}.png")
            rows.append({"file_name": f"{number}.png", "captions": [caption]})
        (folder / split / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="session")
def exported(learnt_captioner, drawn_set, made_once):
    """A published copy of the learnt captioner with its ONNX export, calibrated on the drawn photos."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason=f"needs {package}")
    from publishing.export import main

    given = ["--model", str(learnt_captioner), "--onnx", "--photos", str(drawn_set)]
    return made_once("exported", lambda folder: main([*given, "--folder", str(folder)]))
