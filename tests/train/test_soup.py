"""Averaging the checkpoints of a stage (`--soup`), and validating before the first step (`--eval_on_start`)."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.training import arguments, history
from train import checkpoints
from train.cli import main, resolve, run


def test_the_mean_of_weights(tmp_path):
    model = torch.nn.BatchNorm1d(2)
    for number, value in enumerate((1.0, 3.0)):
        state = model.state_dict() | {"weight": torch.full((2,), value), "num_batches_tracked": torch.tensor(7)}
        save_file(state, tmp_path / f"{number}.safetensors")
    checkpoints.load_average(model, [tmp_path / "0.safetensors", tmp_path / "1.safetensors"])
    assert model.weight.tolist() == [2, 2]
    assert model.num_batches_tracked == 7


def test_the_better_of_the_best_checkpoint_and_the_mean_is_kept(drawn_set, tmp_path):
    options = {"soup": "greedy", "checkpoints_total_limit": 2, "eval_steps": 2, "num_train_epochs": 4}
    run(resolve(arguments(data_dir=drawn_set, output_dir=tmp_path, learning_rate=0.01, **options)))
    scores = [row["score"] for row in history(tmp_path) if "score" in row]
    assert len(scores) == 4 + 1  # eight steps of two each, and the soup
    files = checkpoints.weights_by_score(tmp_path / "checkpoints" / "1-captions")
    assert len(files) == 2
    biases = torch.stack([load_file(file)["decoder.output_bias"] for file in files])  # the best first
    is_better = scores[-1] > max(scores[:-1])
    expected = biases.mean(0) if is_better else biases[0]
    torch.testing.assert_close(load_file(tmp_path / "model.safetensors")["decoder.output_bias"], expected)


@pytest.mark.slow
def test_a_greedy_soup_is_no_worse_than_its_best_ingredient(drawn_set, tmp_path):
    options = {"soup": "greedy", "checkpoints_total_limit": 3, "eval_steps": 8, "num_train_epochs": 12}
    run(resolve(arguments(data_dir=drawn_set, output_dir=tmp_path / "run", learning_rate=0.01, **options)))
    best = max(row["score"] for row in history(tmp_path / "run") if "score" in row)
    options = {"evaluate_only": "true", "model": tmp_path / "run", "data_dir": drawn_set}
    main(arguments(output_dir=tmp_path / "scores", **options))
    assert json.loads((tmp_path / "scores" / "scores.json").read_text())["CIDEr-D"] == best


@pytest.mark.slow
def test_a_stage_that_begins_with_a_validation_ends_no_worse(drawn_set, tmp_path):
    options = {"learning_rate": 0.01, "num_train_epochs": 20, "eval_steps": 40}
    run(resolve(arguments(data_dir=drawn_set, output_dir=tmp_path / "good", **options)))
    options = {"model": tmp_path / "good", "eval_on_start": "true", "learning_rate": 10, "num_train_epochs": 1}
    run(resolve(arguments(data_dir=drawn_set, output_dir=tmp_path / "bad", **options)))
    scores = [row["score"] for row in history(tmp_path / "bad") if "score" in row]
    assert scores[0] > scores[1]
    good, bad = (load_file(tmp_path / name / "model.safetensors") for name in ("good", "bad"))
    assert all(torch.equal(good[name], bad[name]) for name in good)
