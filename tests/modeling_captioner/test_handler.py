"""The handler of Inference Endpoints, loaded from a published folder as the endpoint's toolkit does."""

import base64
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_captioner.handler import EndpointHandler
from publishing.publish import write_repository
from tests.helpers.paths import SHIPPED
from tests.helpers.programs import run_python

BEGINNING = """
import base64, importlib.util, json, sys
from pathlib import Path
from PIL import Image

folder, *files = sys.argv[1:]
spec = importlib.util.spec_from_file_location("handler", Path(folder) / "handler.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
handler = module.EndpointHandler(folder)
photos = [Path(file).read_bytes() for file in files]
coded = [base64.b64encode(photo).decode() for photo in photos]

def error(data):
    try:
        return handler(data)
    except ValueError as error:
        return str(error)
"""


@pytest.fixture
def asked(tmp_path, learnt_captioner, files):
    """Run the handler of a published folder in an isolated process in another directory. Returns its answers."""
    folder, elsewhere = tmp_path / "repository", tmp_path / "elsewhere"
    write_repository(learnt_captioner, folder)
    elsewhere.mkdir()

    def ask(code):
        done = run_python("-I", "-c", BEGINNING + f"print(json.dumps({code}))", folder, *files, cwd=elsewhere)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return ask


def test_photos_however_they_come(asked, drawn_photos):
    """Bytes, an image opened by the toolkit, base64, a data URL, and lists of these get the same answer."""
    captions = [caption for _, caption in drawn_photos]
    one, picture, string, url, several, beams = asked(
        """[
        handler({"inputs": photos[0]}),
        handler({"inputs": Image.open(files[0])}),
        handler({"inputs": coded[0], "parameters": None}),
        handler({"inputs": "data:image/png;base64," + coded[0], "parameters": {"num_beams": 1}}),
        handler({"inputs": [photos[0], Image.open(files[1]), *coded[2:]]}),
        handler({"inputs": photos, "parameters": {"num_beams": 3, "text": "a red", "num_return_sequences": 2}}),
    ]"""
    )
    assert [set(answer) for answer in one] == [{"generated_text", "score"}]
    assert one[0]["generated_text"] == captions[0]
    assert one[0]["score"] < 0
    assert one == picture == string == url
    assert [answer["generated_text"] for answer in several] == captions
    assert several[0]["score"] == pytest.approx(one[0]["score"], abs=1e-4)
    assert len(beams) == len(captions)
    assert all(answer["generated_text"].startswith("a red") for answer in beams)


def test_attention_is_given_when_asked_for(asked):
    (answer,) = asked('handler({"inputs": photos[0], "parameters": {"return_attention": True}})')
    assert " ".join(word["text"] for word in answer["words"]) == answer["generated_text"]
    for word in answer["words"]:
        assert 0 < word["probability"] <= 1
        assert sum(map(sum, word["map"])) == pytest.approx(1, abs=1e-4)
        assert len(word["map"]) == len(word["map"][0]) == 2


def test_wrong_requests_get_one_sentence_each(asked):
    broken = base64.b64encode(b"no picture").decode()
    sentences = asked(
        f"""[error(data) for data in (
        {{}},
        [],
        {{"inputs": []}},
        {{"inputs": photos * 5}},
        {{"inputs": None}},
        {{"inputs": "é"}},
        {{"inputs": [coded[0], {broken!r}]}},
        {{"inputs": photos[0][:100]}},
        {{"inputs": coded[0], "parameters": 3}},
        {{"inputs": coded[0], "parameters": {{"text": 3}}}},
        {{"inputs": coded[0], "parameters": {{"beams": 3}}}},
        {{"inputs": coded[0], "parameters": {{"custom_generate": "someone/code"}}}},
        {{"inputs": coded[0], "parameters": {{"num_beams": 1000}}}},
        {{"inputs": coded[0], "parameters": {{"max_new_tokens": "many"}}}},
        {{"inputs": coded[0], "parameters": {{"repetition_penalty": "much"}}}},
        {{"inputs": coded[0], "parameters": {{"forced_bos_token_id": 99999}}}},
        {{"inputs": coded[0], "parameters": {{"do_sample": True, "temperature": 1e-9}}}},
        {{"inputs": coded[0], "parameters": {{"do_sample": "yes"}}}},
        {{"inputs": coded[0], "parameters": {{"num_beams": "3"}}}},
        {{"inputs": coded[0], "parameters": {{"num_beams": None}}}},
        {{"inputs": coded[0], "parameters": {{"num_return_sequences": 3, "num_beams": 1}}}},
        {{"inputs": coded[0], "parameters": {{"early_stopping": "soon"}}}},
        {{"inputs": coded[0], "parameters": {{"language": "vi"}}}},
    )]"""
    )
    expected = [
        *["The request has no photo"] * 2,
        "The request has 0 photos",
        "The request has 40 photos",
        "Photo 1 has type NoneType",
        "Photo 1 is not a valid base64 string",
        "Photo 2: The photo is not a readable image",
        "Photo 1: The photo is damaged",
        "parameters=3 is not an object",
        "text=3 is not a string",
        "The parameter 'beams' is unknown",
        "The parameter 'custom_generate' is unknown",
        "num_beams=1000 must be an integer from 1 to 16",
        "max_new_tokens='many' must be an integer from 1 to 64",
    ]
    expected += [
        "repetition_penalty='much' must be a number from 0.01 to 100",
        "The parameter 'forced_bos_token_id' is unknown",
        "temperature=1e-09 must be a number from 0.01 to 100",
        "do_sample='yes' must be true or false",
        "num_beams='3' must be an integer from 1 to 16",
        "num_beams=None must be an integer from 1 to 16",
        "num_return_sequences=3 asks for more captions than num_beams=1 finds",
        "early_stopping='soon' must be true, false or 'never'",
        "language='vi' is unknown; this captioner has only one",
    ]
    for sentence, beginning in zip(sentences, expected, strict=True):
        assert isinstance(sentence, str)
        assert sentence.startswith(beginning)
        assert "\n" not in sentence


def test_faults_of_ours_are_not_blamed_on_the_client(learnt_captioner, files, monkeypatch, tmp_path):
    """Such as a device that runs out of memory: they stay what they are, and are no `ValueError`."""
    write_repository(learnt_captioner, tmp_path)
    handler = EndpointHandler(tmp_path)
    for fault in (torch.OutOfMemoryError("CUDA out of memory"), AttributeError("a bug"), IndexError("a bug")):

        def fail(*_, fault=fault):
            raise fault

        hook = handler.model.decoder.first_rnn.register_forward_pre_hook(fail)
        with pytest.raises(type(fault), match=str(fault)):
            handler({"inputs": files[0].read_bytes()})
        hook.remove()


def test_without_a_gpu_the_export_captions(exported, drawn_photos, files, tmp_path):
    """PyTorch is loaded for what only PyTorch can do, and answers instead of an export of other weights."""
    captions = [caption for _, caption in drawn_photos]
    photos = [file.read_bytes() for file in files]
    handler = EndpointHandler(exported)
    answers = handler({"inputs": photos, "parameters": {"return_attention": True}})
    assert [answer["generated_text"] for answer in answers] == captions
    with pytest.raises(ValueError, match="early_stopping='soon' must be true, false or 'never'"):
        handler({"inputs": photos[0], "parameters": {"early_stopping": "soon"}})
    assert handler.model is None
    (sampled,) = handler({"inputs": photos[0], "parameters": {"do_sample": True, "top_k": 1, "num_beams": 1}})
    assert sampled["generated_text"] == captions[0]
    assert handler.model is not None

    stale = tmp_path / "stale"
    shutil.copytree(exported, stale)
    tensors = load_file(stale / "model.safetensors")
    save_file(tensors | {"decoder.output_bias": tensors["decoder.output_bias"] + 1e-3}, stale / "model.safetensors")
    assert EndpointHandler(stale).onnx is None


@pytest.mark.slow
def test_shipped_captioner(tmp_path):
    if not (SHIPPED / "model.safetensors").exists():
        pytest.skip("modeling_captioner/ holds no weights yet")
    photo = next(SHIPPED.parent.glob("demo/examples/*.jpg"))
    code = BEGINNING + 'print(json.dumps(handler({"inputs": photos[0]})))'
    command = [sys.executable, "-I", "-c", code, str(SHIPPED), str(photo)]
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout.splitlines()[-1])
    assert len(answer["generated_text"].split()) >= 3
