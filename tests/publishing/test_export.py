"""The ONNX export: the outputs of the graphs, the metadata of the files, and the command line."""

import shutil

import numpy as np
import pytest
import torch

from captioning.loading import load_captioner
from modeling_captioner.onnx_files import FILES, find_onnx, weights_fingerprint
from publishing.export import main
from publishing.publish import write_repository
from tests.helpers.captioners import build_tiny
from tests.helpers.marks import slow_case
from tests.helpers.paths import SHIPPED

onnx = pytest.importorskip("onnx", reason="needs onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
pytest.importorskip("onnxscript", reason="needs onnxscript")

from publishing.onnx.export import export_graphs  # noqa: E402


def run(file, *inputs):
    session = onnxruntime.InferenceSession(str(file))
    names = [given.name for given in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))


def steps_of(encoder_file, decoder_file, pixel_values, ids):
    """Logits (batch, words, vocabulary) and attention (batch, heads, words, regions), word by word."""
    regions, *states = run(encoder_file, pixel_values)
    outputs = []
    for word in ids.T:
        logits, attention, *states = run(decoder_file, word[:, None], regions, *states)
        outputs.append((logits, attention))
    logits, attention = zip(*outputs, strict=True)
    return np.concatenate(logits, axis=1), np.concatenate(attention, axis=2)


def teacher_forced(model, pixel_values, ids):
    with torch.no_grad():
        output = model(torch.from_numpy(pixel_values), torch.from_numpy(ids), output_attentions=True)
    return output.logits.numpy(), output.cross_attentions[0].numpy()


PIXEL_VALUES = np.random.default_rng(0).uniform(-1, 1, (3, 3, 64, 64)).astype(np.float32)
IDS = np.array([[2, 5, 6, 7], [2, 8, 4, 4], [2, 9, 10, 5]])


@pytest.mark.parametrize(
    "options",
    [{}, slow_case({"rnn_type": "lstm", "num_layers": 2, "attention_type": "additive"})],
    ids=str,
)
def test_graphs_compute_logits_and_attention_of_the_model(options, tmp_path):
    model, _ = build_tiny(**options)
    files = tmp_path / "encoder.onnx", tmp_path / "decoder.onnx"
    export_graphs(model, *files)
    for found, expected in zip(
        steps_of(*files, PIXEL_VALUES, IDS), teacher_forced(model, PIXEL_VALUES, IDS), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_int8_export_is_close_to_the_model_and_names_its_weights(exported, learnt_captioner, drawn_photos):
    model, processor = load_captioner(str(exported), "cpu", "float32")
    pixel_values = processor(images=[photo for photo, _ in drawn_photos], return_tensors="np").pixel_values
    ids = np.array([processor.tokenizer(caption)["input_ids"] for _, caption in drawn_photos])
    files = find_onnx(exported)
    logits, attention = steps_of(*files, pixel_values, ids)
    expected, _ = teacher_forced(model, pixel_values, ids)
    assert (logits.argmax(axis=-1) == expected.argmax(axis=-1)).mean() > 0.95
    np.testing.assert_allclose(attention.sum(axis=-1), 1, atol=1e-5)
    assert {file.name for file in (exported / "onnx").iterdir()} == set(FILES)
    operators = [node.op_type for node in onnx.load(files[0]).graph.node]
    assert operators.count("QuantizeLinear") > operators.count("Conv") / 2, "the convolutions are quantized"
    for file in files:
        metadata = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
        # Training saves weights in float32, publishing in half precision.
        assert metadata["weights"] == weights_fingerprint(exported) == weights_fingerprint(learnt_captioner)
        assert metadata["calibration_photos"] == "16"
        assert str(exported).encode() not in file.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "give --onnx, --folder or both"),
        (["--onnx"], "--photos"),
        (["--onnx", "--photos", "a", "--dataset_name", "b"], "--photos"),
        (["--onnx", "--photos", "a", "--model", "some/name"], "some/name is not a folder"),
    ],
)
def test_wrong_usage(arguments, named, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert named in capsys.readouterr().err


def test_mistakes_are_one_sentence(learnt_captioner, tmp_path, capsys):
    (tmp_path / "text.jpg").write_text("no picture")
    for model, named in ((tmp_path, str(tmp_path)), (learnt_captioner, "No photo could be read")):
        with pytest.raises(SystemExit) as exit_:
            main(["--onnx", "--model", str(model), "--photos", str(tmp_path / "text.jpg")])
        assert exit_.value.code == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ")
        assert named in error
    assert not (learnt_captioner / "onnx").exists()


def test_shipped_export_is_small_and_of_the_shipped_weights():
    if not (SHIPPED / "onnx").exists():
        pytest.skip("modeling_captioner/ contains no ONNX export")
    assert sum(file.stat().st_size for file in find_onnx(SHIPPED)) <= 34_000_000


def test_a_published_copy_contains_the_export_unless_it_is_stale(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "source")
    write_repository(tmp_path / "source", tmp_path / "copy")
    assert {file.name for file in (tmp_path / "copy" / "onnx").iterdir()} == set(FILES)
    assert find_onnx(tmp_path / "copy")
    model, _ = load_captioner(str(exported), "cpu", "float32")
    with torch.no_grad():
        model.decoder.output_bias[-1] += 0.01
    model.save_pretrained(tmp_path / "source")
    with pytest.raises(ValueError, match="was exported from other weights"):
        write_repository(tmp_path / "source", tmp_path / "changed")
    (tmp_path / "source" / "model.safetensors").unlink()
    assert find_onnx(tmp_path / "source"), "nothing to compare it with"
    (tmp_path / "source" / "onnx" / FILES[0]).unlink()
    with pytest.raises(ValueError, match="is incomplete"):
        find_onnx(tmp_path / "source")
    assert find_onnx(tmp_path / "missing") is None
