"""Odd values in generation_config.json, and files that are pointers of Git LFS: one sentence, whatever the engine."""

import json
import shutil
from types import SimpleNamespace

import pytest

from captioning.engine import load_engine

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def load(folder, engine):
    return load_engine(SimpleNamespace(model=str(folder), engine=engine, device=None, dtype=None), {})


def refusal(folder, engine):
    with pytest.raises(ValueError, match=r"\.$") as raised:
        load(folder, engine)
    return str(raised.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be a whole number of at least 1."),
        ({"num_beams": 0}, "num_beams=0 must be a whole number of at least 1."),
        ({"num_beams": "3"}, "num_beams='3' must be a whole number of at least 1."),
        ({"num_beams": 2.0}, "num_beams=2.0 must be a whole number of at least 1."),
        ({"num_beams": True}, "num_beams=True must be a whole number of at least 1."),
        ({"min_new_tokens": -1}, "min_new_tokens=-1 must be a whole number of at least 0."),
        ({"no_repeat_ngram_size": [3]}, "no_repeat_ngram_size=[3] must be a whole number of at least 0."),
        ({"temperature": 1e-9, "do_sample": True}, "temperature=1e-09 must be a number from 0.01 to 100."),
        ({"length_penalty": "long"}, "length_penalty='long' must be a number from -100 to 100."),
        (
            {"num_return_sequences": 3},
            "num_return_sequences=3 asks for more captions than num_beams=1 finds; raise num_beams, or sample with"
            " do_sample.",
        ),
        ({"languages": {"vi": {"num_beams": 0}}}, "num_beams=0 must be a whole number of at least 1."),
    ],
)
@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_odd_settings_of_generation(exported, tmp_path, engine, settings, message):
    folder = shutil.copytree(exported, tmp_path / "model")
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    assert refusal(folder, engine) == f"{file}: {message}"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"languages": []}', '{"languages": {"vi": 3}}'])
@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_a_damaged_generation_config(exported, tmp_path, engine, text):
    folder = shutil.copytree(exported, tmp_path / "model")
    (folder / "generation_config.json").write_text(text)
    assert refusal(folder, engine).startswith(f"{folder / 'generation_config.json'} is damaged (")


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_values_that_change_nothing(exported, tmp_path, drawn_photos, engine):
    """None is the default; of several captions to return, the best is the caption."""
    folder = shutil.copytree(exported, tmp_path / "model")
    file = folder / "generation_config.json"
    settings = {"num_beams": 3, "num_return_sequences": 3, "length_penalty": None, "no_repeat_ngram_size": None}
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    captioner = load(folder, engine)
    photos = [captioner.preprocess(photo) for photo, _ in drawn_photos[:2]]
    assert [caption for caption, *_ in captioner.caption(photos)] == [caption for _, caption in drawn_photos[:2]]


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "onnx/encoder_model_quantized.onnx"]
)
@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_a_clone_without_git_lfs(exported, tmp_path, engine, name):
    folder = shutil.copytree(exported, tmp_path / "model")
    (folder / name).write_text(POINTER)
    assert refusal(folder, engine) == f"{folder / name} is a pointer of Git LFS, not the file itself; run git lfs pull."
