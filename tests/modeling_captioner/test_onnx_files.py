"""`modeling_captioner/onnx_files.py`: which weights an export belongs to."""

import hashlib

import numpy as np
import pytest
from safetensors.numpy import save_file

from modeling_captioner.onnx_files import FILES, find_onnx, weights_fingerprint

RANDOM = np.random.default_rng(0)
TENSORS = {name: RANDOM.normal(size=shape).astype(np.float32) for name, shape in {"b": (300, 7), "a": (3,)}.items()}


@pytest.fixture
def saved(tmp_path):
    def save(tensors):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        save_file(tensors, folder / "model.safetensors")
        return folder

    return save


def test_names_and_half_precision_do_not_matter(saved):
    fingerprint = weights_fingerprint(saved(TENSORS))
    assert weights_fingerprint(saved({f"older.{name}": value for name, value in TENSORS.items()})) == fingerprint
    assert weights_fingerprint(saved({"z": TENSORS["a"], "b": TENSORS["b"].astype(np.float16)})) == fingerprint


@pytest.mark.parametrize(("name", "place"), [("a", 2), ("b", 0), ("b", -1)])
def test_every_value_matters(saved, name, place):
    changed = {name: value.copy() for name, value in TENSORS.items()}
    changed[name].flat[place] += 0.01
    assert weights_fingerprint(saved(changed)) != weights_fingerprint(saved(TENSORS))
    assert weights_fingerprint(saved(TENSORS | {"c": np.zeros(1, np.float32)})) != weights_fingerprint(saved(TENSORS))


def test_exports_that_name_the_weights_as_before(saved):
    folder = saved(TENSORS)
    halves = [name.encode() + TENSORS[name].astype(np.float16).tobytes() for name in ("a", "b")]
    before = hashlib.sha256(b"".join(halves)).hexdigest().encode()
    (folder / "onnx").mkdir()
    for number, file in enumerate(FILES):
        (folder / "onnx" / file).write_bytes(bytes(10_000 * number) + b"weights" + before + b"!")
    assert [file.name for file in find_onnx(folder)] == list(FILES)
    (folder / "onnx" / FILES[1]).write_bytes(b"weights" + before[::-1])
    with pytest.raises(ValueError, match="was exported from other weights"):
        find_onnx(folder)
