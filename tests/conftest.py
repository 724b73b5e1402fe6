"""Fixtures that several test files share: captioners and drawn photos; helpers/page_fixtures.py has the page's."""

import json
import os

# Before PyTorch is there: the tests run in several processes side by side, whose threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import datasets
import pytest

from tests.helpers.captioners import build_tiny, learn_by_heart
from tests.helpers.drawn import all_drawn_photos

pytest_plugins = ["tests.helpers.page_fixtures", "tests.helpers.strangers"]

# After each stream, `datasets` waits 5 s for threads of PyArrow, in case the program is about to exit.
datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0


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
def learnt_captioner(tmp_path_factory):
    """The folder of a tiny captioner that knows the captions of the drawn photos by heart."""
    folder = tmp_path_factory.mktemp("learnt")
    learn_by_heart(folder)
    return folder


@pytest.fixture(scope="session")
def drawn_set(tmp_path_factory, drawn_photos):
    """An imagefolder of the drawn photos: the same eight to train on and to validate with."""
    folder = tmp_path_factory.mktemp("drawn")
    for split in ("train", "validation"):
        (folder / split).mkdir()
        rows = []
        for number, (photo, caption) in enumerate(drawn_photos):
            photo.save(folder / split / f"{number}.png")
            rows.append({"file_name": f"{number}.png", "captions": [caption]})
        (folder / split / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def exported(learnt_captioner, drawn_set, tmp_path_factory):
    """A published copy of the learnt captioner with its ONNX export, calibrated on the drawn photos."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason=f"needs {package}")
    from publishing.export import main

    folder = tmp_path_factory.mktemp("exported")
    main(["--model", str(learnt_captioner), "--folder", str(folder), "--onnx", "--photos", str(drawn_set)])
    return folder
