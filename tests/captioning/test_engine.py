"""`caption.py --engine`: which engine runs, that both say the same, and what the ONNX engine imports."""

import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from caption import main
from captioning.engine import load_engine
from captioning.torch_captioner import TorchCaptioner
from modeling_captioner import CaptionerProcessor, explain, open_photo
from modeling_captioner.photos import to_pixel_values
from tests.helpers.captioners import build_tiny
from tests.helpers.hub_server import FakeHub
from tests.helpers.paths import ROOT, SHIPPED

pytest.importorskip("onnxruntime", reason="needs onnxruntime")

from modeling_captioner.onnx_captioner import OnnxCaptioner

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
EXAMPLES = sorted(ROOT.glob("demo/examples/*.jpg"))


def run(*arguments, prefix=()):
    """Caption in a process of its own. Returns exit status, lines of standard output, lines of standard error."""
    command = [sys.executable, *prefix, ROOT / "caption.py", *arguments]
    done = subprocess.run([*map(str, command)], env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def options(model, **given):
    return SimpleNamespace(**{"model": str(model), "engine": None, "device": None, "dtype": None} | given)


@pytest.fixture(scope="module")
def float_export(tmp_path_factory):
    """A captioner with random weights, whose ONNX files are not quantized, so that both engines compute the same."""
    pytest.importorskip("onnxscript", reason="needs onnxscript")
    import torch

    from modeling_captioner.onnx_files import FILES
    from publishing.onnx.export import export_graphs

    folder = tmp_path_factory.mktemp("float")
    model, processor = build_tiny(hidden_size=64)
    with torch.no_grad():  # so that captions differ between photos
        model.decoder.output_projection.weight *= 20
        model.decoder.first_state.weight *= 20
    model.generation_config.update(max_new_tokens=8, suppress_tokens=[0, 1, 2], no_repeat_ngram_size=2, num_beams=3)
    model.config.confidence = {"intercept": 2.0, "total": 0.1, "lowest": 0.2, "length": -0.05}
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "onnx").mkdir()
    export_graphs(model, *(folder / "onnx" / name for name in FILES))
    for name in FILES:  # as the export names them
        write_fingerprint(folder, folder / "onnx" / name)
    return folder


def write_fingerprint(folder, file):
    import onnx

    from modeling_captioner.onnx_files import weights_fingerprint

    graph = onnx.load(file)
    onnx.helper.set_model_props(graph, {"weights": weights_fingerprint(folder)})
    onnx.save(graph, file)


@pytest.mark.parametrize("size", [(640, 480), (64, 64), (299, 1200), (31, 17)])
def test_both_engines_see_the_same_pixels(size):
    photo = Image.effect_noise(size, 80).convert("RGB")
    if not (SHIPPED / "processor_config.json").exists():
        pytest.skip("modeling_captioner/ contains no processor")
    settings = json.loads((SHIPPED / "processor_config.json").read_text())["image_processor"]
    expected = CaptionerProcessor.from_pretrained(SHIPPED)(images=photo, return_tensors="np").pixel_values
    found = to_pixel_values(photo, **settings)[None]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("generation", [{}, {"num_beams": 1}, {"num_beams": 5, "max_new_tokens": 4}], ids=str)
def test_equal_logits_give_equal_captions(float_export, generation):
    photos = [open_photo(file) for file in EXAMPLES]
    onnx, torch = OnnxCaptioner(float_export, **generation), TorchCaptioner(str(float_export), "cpu", **generation)
    found, expected = (engine.caption([engine.preprocess(photo) for photo in photos]) for engine in (onnx, torch))
    (captions, *numbers), (same, *expected_numbers) = zip(*found, strict=True), zip(*expected, strict=True)
    assert captions == same
    assert len(set(captions)) > 1
    for values, expected_values, tolerance in zip(numbers, expected_numbers, (1e-3, 1e-4), strict=True):
        np.testing.assert_allclose(values, expected_values, atol=tolerance)
    assert all(0.01 < confidence < 0.99 for confidence in numbers[1])


@pytest.mark.parametrize("text", ["", "a red", "A  “Red,” thing"])
def test_explanations_are_equal(float_export, text):
    engine, torch = OnnxCaptioner(float_export), TorchCaptioner(str(float_export), "cpu")
    for file in EXAMPLES[:2]:
        found = engine.explain(open_photo(file), text=text, alternatives=3)
        expected = explain(torch.model, torch.processor, open_photo(file), text=text, alternatives=3)
        assert [caption for caption, _ in found.beams] == [caption for caption, _ in expected.beams]
        assert found.caption == expected.caption == found.beams[0][0]
        assert found.log_probability == pytest.approx(expected.log_probability, abs=1e-3)
        assert found.confidence == pytest.approx(expected.confidence, abs=1e-4)
        if not text:
            (_, _, confidence), *_ = engine.caption([engine.preprocess(open_photo(file))])
            assert found.confidence == pytest.approx(confidence, abs=1e-6)
        for word, same in zip(found.words, expected.words, strict=True):
            assert (word.text, [text for text, _ in word.alternatives]) == (
                same.text,
                [text for text, _ in same.alternatives],
            )
            assert word.probability == pytest.approx(same.probability, abs=1e-4)
            np.testing.assert_allclose(word.map, same.map, atol=1e-5)


def test_chosen_by_itself(exported, learnt_captioner, capsys):
    """ONNX where there is an export and nothing asks for PyTorch."""
    for given, engine in [
        ({}, "OnnxCaptioner"),
        ({"engine": "onnx"}, "OnnxCaptioner"),
        ({"engine": "torch"}, "TorchCaptioner"),
        ({"device": "cpu"}, "TorchCaptioner"),
        ({"dtype": "float32"}, "TorchCaptioner"),
    ]:
        assert type(load_engine(options(exported, **given), {})).__name__ == engine, given
    assert capsys.readouterr().err == ""
    assert type(load_engine(options(learnt_captioner), {})).__name__ == "TorchCaptioner"
    assert "has no ONNX export" in capsys.readouterr().err


def test_captions_without_pytorch(exported, drawn_photos, files):
    """The captions that it knows by heart, and no trace of what takes seconds to import."""
    status, lines, errors = run(*files, "--model", exported, prefix=["-X", "importtime"])
    assert status == 0
    assert lines == [f"{file}\t{caption}" for file, (_, caption) in zip(files, drawn_photos, strict=True)]
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in errors if line.startswith("import time:")}
    assert "onnxruntime" in imported
    unwanted = {"torch", "torchvision", "transformers", "timm", "accelerate", "datasets", "matplotlib"}
    assert imported.isdisjoint(unwanted), imported & unwanted


def test_attention_is_drawn_without_pytorch(exported, files, tmp_path):
    out = tmp_path / "maps.png"
    arguments = [*files[:2], "--attention", out, "--model", exported]
    status, lines, errors = run(*arguments, prefix=["-X", "importtime"])
    assert (status, len(lines)) == (0, 2)
    assert not [line for line in errors if re.search(r"\| +(torch|transformers)(\.|$)", line)]
    torch = tmp_path / "torch.png"
    assert run(*arguments[:2], "--attention", torch, "--model", exported, "--engine", "torch")[0] == 0
    assert Image.open(out).size == Image.open(torch).size


def test_outputs_and_resume(exported, drawn_photos, files, tmp_path):
    expected = [[str(file), caption] for file, (_, caption) in zip(files, drawn_photos, strict=True)]
    output = tmp_path / "a.jsonl"
    assert run(*files[:3], "--output", output, "--batch_size", 2, "--model", exported) == (0, [], [])
    status, lines, errors = run(*files, tmp_path / "no.png", "--output", output, "--resume", "--model", exported)
    assert (status, lines) == (1, [])
    assert errors[0] == f"error: {tmp_path / 'no.png'} does not exist; check the path."
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [[row["file"], row["caption"]] for row in rows] == expected
    assert all(-20 < row["log_probability"] < 0 for row in rows)


def changed(folder):
    """Change a captioner's weights."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["decoder.output_bias"][-1] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def without_export(folder):
    shutil.rmtree(folder / "onnx")


def incomplete(folder):
    (folder / "onnx" / "encoder_model_quantized.onnx").unlink()


def truncated(folder):
    """Damage the encoder, but keep its metadata, which are at the end."""
    file = folder / "onnx" / "encoder_model_quantized.onnx"
    data = file.read_bytes()
    file.write_bytes(data[1000:])


def sampling(folder):
    settings = json.loads((folder / "generation_config.json").read_text()) | {"repetition_penalty": 1.5}
    (folder / "generation_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_export, "has no ONNX export"),
        (incomplete, "is incomplete"),
        (changed, "was exported from other weights"),
        (truncated, "is damaged"),
        (sampling, "generation_config.json sets repetition_penalty"),
    ],
)
def test_an_export_that_cannot_be_used(exported, files, drawn_photos, tmp_path, capsys, change, message):
    """One sentence, then PyTorch; but an error if the engine was asked for."""
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    change(folder)
    arguments = [*map(str, files), "--model", str(folder)]
    assert main(arguments) == 0
    lines, errors = capsys.readouterr()
    if change is not sampling:
        captions = [caption for _, caption in drawn_photos]
        assert [line.split("\t")[1] for line in lines.splitlines()] == captions
    (warning,) = errors.splitlines()
    assert warning.startswith("warning: ")
    assert message in warning
    assert warning.endswith("Captioning with PyTorch instead.")
    assert main([*arguments, "--engine", "onnx"]) == 1
    lines, errors = capsys.readouterr()
    (error,) = errors.splitlines()
    assert lines == ""
    assert error.startswith("error: ")
    assert message in error


def test_wrong_usage():
    for wrong in (["--device", "cpu"], ["--dtype", "float16"]):
        status, lines, errors = run("a.png", "--engine", "onnx", *wrong)
        assert (status, lines) == (2, [])
        assert "--engine onnx takes neither --device nor --dtype" in errors[-1]


def test_the_hubs_export_without_the_weights(exported, files, drawn_photos, tmp_path):
    with FakeHub(tmp_path / "hub") as hub:
        repository = hub.repository("tester/captioner")
        repository.create()
        repository.add(exported)
        done = subprocess.run(
            [sys.executable, str(ROOT / "caption.py"), *map(str, files), "--model", "tester/captioner"],
            env=ENVIRONMENT | hub.environment(tmp_path / "home"),
            capture_output=True,
            text=True,
            timeout=300,
        )
        paths = [str(request) for request in hub.requests]
    captions = [line.split("\t")[1] for line in done.stdout.splitlines()]
    assert (captions, done.stderr) == ([caption for _, caption in drawn_photos], "")
    assert any("encoder_model_quantized.onnx" in path for path in paths)
    assert not any("safetensors" in path for path in paths)


# A child's peak memory is never reported as less than that of its parent, so a small process starts it.
LAUNCHER = """
import os, sys
process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(process, 0)
print(status, usage.ru_maxrss / 1000)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted differently")
def test_one_photo_takes_less_than_350_mb():
    if not (SHIPPED / "onnx").exists():
        pytest.skip("modeling_captioner/ contains no ONNX export")
    command = [sys.executable, str(ROOT / "caption.py"), str(EXAMPLES[0]), "--engine", "onnx"]
    done = subprocess.run([sys.executable, "-c", LAUNCHER, *command], capture_output=True, text=True, timeout=300)
    status, megabytes = done.stdout.splitlines()[-1].split()
    assert status == "0"
    assert float(megabytes) < 350
