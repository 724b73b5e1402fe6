"""Several processes, or several batches per step, are equivalent to larger batches; options of `accelerate launch`."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.helpers.training import SMALL, arguments, history, run_in_two_processes
from train.cli import resolve, run
from train.preparation import make_accelerator

EXACT = {"dropout": 0, "word_dropout": 0, "label_smoothing": 0, "optim": "sgd", "learning_rate": 0.1}


@pytest.fixture(scope="module")
def uneven_set(tmp_path_factory, drawn_photos):
    """Twelve training photos, whose captions differ in length and number, and seven validation photos."""
    folder = tmp_path_factory.mktemp("uneven")
    for split, count in (("train", 12), ("validation", 7)):
        (folder / split).mkdir()
        rows = []
        for number in range(count):
            photo, caption = drawn_photos[number % 8]
            photo.save(folder / split / f"{number}.png")
            texts = [caption + " in a picture of shapes" * (number % 4), caption][: 1 + number % 2]
            rows.append({"file_name": f"{number}.png", "captions": texts})
        (folder / split / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def assert_equal_runs(one, other):
    """Assert that the metrics of every step and the weights are equal up to rounding."""
    for row, row_other in zip(history(one), history(other), strict=True):
        assert row.keys() == row_other.keys()
        for name, value in row.items():
            assert row_other[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-4, abs=1e-5))
    tensors, tensors_other = (load_file(folder / "model.safetensors") for folder in (one, other))
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensors_other[name], tensor, rtol=1e-4, atol=1e-5)


def test_two_processes_or_batches_equal_one_batch_of_twice_the_size(uneven_set, tmp_path):
    """The loss is the mean over all words, although one process has more words than the other."""
    options = EXACT | {"data_dir": uneven_set, "num_train_epochs": 3, "captions_per_photo": 2}
    options |= {"per_device_eval_batch_size": 2, "eval_steps": 9}
    run(resolve(arguments(output_dir=tmp_path / "one", **options, per_device_train_batch_size=4)))
    halves = options | {"per_device_train_batch_size": 2}
    run(resolve(arguments(output_dir=tmp_path / "accumulated", **halves, gradient_accumulation_steps=2)))
    run_in_two_processes(*arguments(output_dir=tmp_path / "two", **halves), folder=tmp_path)
    assert [row["step"] for row in history(tmp_path / "one") if "loss" in row] == list(range(1, 10))
    assert_equal_runs(tmp_path / "one", tmp_path / "accumulated")
    assert_equal_runs(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_a_run_of_two_processes_is_resumed_with_one(uneven_set, tmp_path):
    """In the middle of an epoch: each photo is seen once in it, cropped as in a run with one process from the start."""
    options = EXACT | {"data_dir": uneven_set, "num_train_epochs": 3, "captions_per_photo": 2, "eval_steps": 9}
    options |= {"encoder_trainable_from": "all", "encoder_learning_rate": 0.01, "freeze_batch_norm": True}
    options |= {"checkpointing_steps": 1, "checkpoints_total_limit": 9, "per_device_eval_batch_size": 2}
    run(resolve(arguments(output_dir=tmp_path / "one", **options, per_device_train_batch_size=4)))
    two = arguments(output_dir=tmp_path / "two", **options, per_device_train_batch_size=2)
    run_in_two_processes(*two, folder=tmp_path)
    assert_equal_runs(tmp_path / "one", tmp_path / "two")
    place = tmp_path / "two" / "checkpoints" / "1-captions" / "step-4"
    options |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "resume_from_checkpoint": place}
    run(resolve(arguments(output_dir=tmp_path / "two", **options)))
    assert [row["step"] for row in history(tmp_path / "two") if "loss" in row] == list(range(1, 10))
    assert_equal_runs(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_a_stage_has_its_own_accumulation(uneven_set, tmp_path):
    """The second stage accumulates two batches per step, or has batches of twice the size."""
    options = EXACT | {"data_dir": uneven_set, "num_train_epochs": 2, "captions_per_photo": 2}
    for name, second in (
        ("accumulated", "per_device_train_batch_size: 2, gradient_accumulation_steps: 2"),
        ("large", "per_device_train_batch_size: 4"),
    ):
        recipe = tmp_path / f"{name}.yaml"
        recipe.write_text(f"stages: [{{per_device_train_batch_size: 6}}, {{{second}}}]\n")
        given = {key: value for key, value in (SMALL | options).items() if key != "per_device_train_batch_size"}
        given |= {"recipe": recipe, "output_dir": tmp_path / name}
        run(resolve([f"--{key}={value}" for key, value in given.items()]))
    assert [row["step"] for row in history(tmp_path / "large") if "loss" in row] == [1, 2, 3, 4, *range(1, 7)]
    assert_equal_runs(tmp_path / "large", tmp_path / "accumulated")


@pytest.mark.parametrize(("options", "expected"), [([], "bf16"), (["--mixed_precision", "no"], "no")])
def test_the_default_precision_is_that_of_accelerate_launch(tmp_path, monkeypatch, options, expected):
    """`accelerate launch --mixed_precision bf16` sets this variable."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert make_accelerator(resolve([*options, "--output_dir", str(tmp_path)])[0]).mixed_precision == expected


@pytest.mark.parametrize(("instructions", "hinted"), [({"avx2": True}, True), ({"amx_bf16": True}, False)])
def test_a_cpu_without_bfloat16_is_told(tmp_path, monkeypatch, capsys, instructions, hinted):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    make_accelerator(resolve(["--recipe", "flickr8k", "--output_dir", str(tmp_path)])[0])
    assert ("pass --mixed_precision no" in capsys.readouterr().err) == hinted


@pytest.mark.slow
def test_every_stage_runs_in_two_processes(drawn_set, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("num_train_epochs: 1\nstages: [{stage: language}, {stage: captions}, {stage: self_critical}]\n")
    options = arguments(recipe=recipe, data_dir=drawn_set, output_dir=tmp_path / "run", per_device_train_batch_size=2)
    run_in_two_processes(*options, folder=tmp_path)
    rows = history(tmp_path / "run")
    assert [row["stage"] for row in rows if "score" in row] == ["1-language", "2-captions", "3-self_critical"]
    last = [row for row in rows if row["stage"] == "3-self_critical" and "loss" in row][-1]
    assert 0 <= last["reward"] <= 10
    assert 0 < last["entropy"] < np.log(30)


@pytest.mark.slow
def test_compiling_does_not_change_training(drawn_set, tmp_path, monkeypatch):
    """`accelerate launch --dynamo_backend NAME` sets this variable. Weights and checkpoints keep their names."""
    options = EXACT | {"data_dir": drawn_set, "num_train_epochs": 1}
    run(resolve(arguments(output_dir=tmp_path / "plain", **options)))
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "AOT_EAGER")
    run(resolve(arguments(output_dir=tmp_path / "compiled", **options)))
    assert_equal_runs(tmp_path / "plain", tmp_path / "compiled")
    run(resolve(arguments(output_dir=tmp_path / "compiled", **options, resume_from_checkpoint="last")))


def test_example_captions_are_plotted(drawn_set, tmp_path):
    run(resolve(arguments(data_dir=drawn_set, output_dir=tmp_path, num_train_epochs=2)))
    files = sorted((tmp_path / "pictures").iterdir())
    assert [file.name for file in files] == ["1-captions-step-2.png", "1-captions-step-4.png"]
    width, height = Image.open(files[0]).size
    assert width > 500
    assert height > 500, "several photos, one below the other"
