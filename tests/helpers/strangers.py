"""Captioners of strangers: each is malicious or broken. If its code is executed, it creates the file EVIL."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest


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
    """An index that names a file outside the folder."""
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
    """Make the captioner of that name. Afterwards, none of its code may have been executed."""
    monkeypatch.setenv("EVIL", str(tmp_path / "evil"))

    def make(name):
        folder = Path(shutil.copytree(learnt_captioner, tmp_path / "model"))
        (folder / "evil.py").write_text("import os, pathlib\npathlib.Path(os.environ['EVIL']).touch()\n")
        STRANGERS[name](folder)
        return folder

    yield make
    assert not (tmp_path / "evil").exists()
