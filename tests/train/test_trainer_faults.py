"""Runs that are interrupted: NaN losses, resuming between stages and without the cache, early stopping."""

import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.helpers.training import arguments, caption_folder, history
from train import checkpoints
from train.cli import resolve, run
from train.loop import TrainingError


def test_a_nan_loss_stops_the_run_and_names_the_photos(drawn_set, drawn_photos, tmp_path):
    options = {"data_dir": drawn_set, "output_dir": tmp_path, "checkpointing_steps": 1, "num_train_epochs": 4}
    options |= {"checkpoints_total_limit": 9, "optim": "sgd", "lr_scheduler_type": "constant"}
    with pytest.raises(
        TrainingError, match=r"became (nan|inf) in step \d+ of 1-captions, in a batch of \d.png, "
    ) as stop:
        run(resolve(arguments(**options, learning_rate=1e20, max_grad_norm=1e30)))
    assert "lower the learning rate" in str(stop.value)
    assert checkpoints.latest(tmp_path / "checkpoints" / "1-captions")
    assert caption_folder(tmp_path, [drawn_photos[0][0]]), "the captioner loads"


@pytest.mark.slow
def test_a_run_resumes_between_stages_without_its_cache(drawn_set, tmp_path):
    """Bit for bit, from the last checkpoint of the first stage, and from one in the middle of the second."""
    recipe = tmp_path / "recipe.yaml"
    stages = [{"stage": "captions"}, {"stage": "self_critical", "learning_rate": 1e-4, "ema_decay": 0.9}]
    recipe.write_text(yaml.safe_dump({"num_train_epochs": 2, "checkpointing_steps": 1, "stages": stages}))
    options = {"recipe": recipe, "data_dir": drawn_set, "output_dir": tmp_path / "run", "checkpoints_total_limit": 9}
    run(resolve(arguments(**options)))
    numbers = (tmp_path / "run" / "history.jsonl").read_text()
    last = tmp_path / "run" / "checkpoints" / "2-self_critical" / "step-4"
    weights = [load_file(file) for file in (tmp_path / "run" / "model.safetensors", last / "average.safetensors")]
    for place in ("1-captions/step-4", "2-self_critical/step-3"):
        shutil.rmtree(tmp_path / "run" / "features")
        run(resolve(arguments(**options, resume_from_checkpoint=tmp_path / "run" / "checkpoints" / place)))
        assert (tmp_path / "run" / "history.jsonl").read_text() == numbers
        again = [load_file(file) for file in (tmp_path / "run" / "model.safetensors", last / "average.safetensors")]
        for tensors, tensors_again in zip(weights, again, strict=True):
            assert all(torch.equal(tensor, tensors_again[name]) for name, tensor in tensors.items())


def test_a_resumed_run_logs_as_if_it_had_never_stopped(drawn_set, tmp_path):
    """Also the means of steps before the checkpoint and after it."""
    options = {
        "data_dir": drawn_set,
        "output_dir": tmp_path,
        "num_train_epochs": 4,
        "logging_steps": 3,
        "eval_steps": 9,
    }
    options |= {"checkpointing_steps": 1, "checkpoints_total_limit": 9}
    run(resolve(arguments(**options)))
    rows = history(tmp_path)
    assert [row["step"] for row in rows if "loss" in row] == [3, 6]
    for step in (3, 4, 5):
        place = tmp_path / "checkpoints" / "1-captions" / f"step-{step}"
        run(resolve(arguments(**options, resume_from_checkpoint=place)))
        assert history(tmp_path) == rows


def test_a_learning_rate_given_when_resuming_is_used(drawn_set, tmp_path):
    options = {"data_dir": drawn_set, "output_dir": tmp_path, "num_train_epochs": 2, "lr_scheduler_type": "constant"}
    options |= {"checkpointing_steps": 1, "checkpoints_total_limit": 9, "eval_steps": 9, "warmup_ratio": 0}
    run(resolve(arguments(**options, learning_rate=0.01)))
    place = tmp_path / "checkpoints" / "1-captions" / "step-2"
    run(resolve(arguments(**options, learning_rate=0.002, resume_from_checkpoint=place)))
    assert [row["learning_rate"] for row in history(tmp_path) if "loss" in row] == [0.01, 0.01, 0.002, 0.002]
    assert yaml.safe_load((tmp_path / "settings.yaml").read_text())[0]["learning_rate"] == 0.002


def test_resuming_with_steps_of_another_size_names_the_remedy(drawn_set, tmp_path):
    """Which then continues: the photos of a step may be divided into batches differently."""
    options = {"data_dir": drawn_set, "output_dir": tmp_path, "num_train_epochs": 2, "checkpointing_steps": 1}
    run(resolve(arguments(**options, max_train_steps=1)))
    resumed = options | {"resume_from_checkpoint": "last", "per_device_train_batch_size": 2}
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(TrainingError) as stop:
        run(resolve(arguments(**resumed)))
    assert "begun with 4 samples a step, and would continue with 2" in str(stop.value)
    assert str(stop.value).endswith("give --per_device_train_batch_size 2 --gradient_accumulation_steps 2.")
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    run(resolve(arguments(**resumed, gradient_accumulation_steps=2)))
    assert [row["step"] for row in history(tmp_path) if "loss" in row] == [1, 2, 3, 4]


def test_what_a_resumed_run_cannot_change_is_refused(drawn_set, tmp_path):
    options = {"data_dir": drawn_set, "output_dir": tmp_path, "max_train_steps": 1}
    run(resolve(arguments(**options)))
    for name, before, value in (("seed", 42, 7), ("hidden_size", 64, 32), ("optim", "adamw", "sgd")):
        with pytest.raises(ValueError, match=f"{name}={value!r} cannot be changed when resuming; .*{name}={before!r}"):
            run(resolve(arguments(**options | {name: value}, resume_from_checkpoint="last")))


def test_early_stopping(drawn_set, tmp_path):
    """With a learning rate of 0, the score does not improve. Resuming the finished run changes nothing."""
    options = {"data_dir": drawn_set, "output_dir": tmp_path, "num_train_epochs": 9, "learning_rate": 0}
    options |= {"early_stopping_patience": 2}
    run(resolve(arguments(**options)))
    rows = history(tmp_path)
    assert [row["step"] for row in rows if "score" in row] == [2, 4, 6]
    run(resolve(arguments(**options, resume_from_checkpoint="last")))
    assert history(tmp_path) == rows


def test_last_skips_incomplete_checkpoints_or_starts_over(drawn_set, tmp_path):
    options = {"data_dir": drawn_set, "output_dir": tmp_path, "num_train_epochs": 2, "checkpointing_steps": 1}
    options |= {"checkpoints_total_limit": 9, "eval_steps": 9, "resume_from_checkpoint": "last"}
    run(resolve(arguments(**options)))
    rows = history(tmp_path)
    place = tmp_path / "checkpoints" / "1-captions"
    (place / "step-4" / checkpoints.COMPLETE).unlink()
    (place / "step-3" / checkpoints.COMPLETE).unlink()
    assert checkpoints.latest(place).name == "step-2"
    run(resolve(arguments(**options)))
    assert history(tmp_path) == rows
    for file in place.glob(f"*/{checkpoints.COMPLETE}"):
        file.unlink()
    run(resolve(arguments(**options)))
    assert history(tmp_path) == rows


def test_going_back_to_a_checkpoint_leaves_files_of_others(tmp_path):
    """Whatever they are called."""
    checkpoint = tmp_path / "checkpoints" / "1-captions" / "step-1"
    checkpoint.mkdir(parents=True)
    save_file({"weight": torch.ones(1)}, checkpoint / checkpoints.BEST)
    (tmp_path / "part.safetensors").write_text("mine")
    for _ in range(2):  # the second time, the captioner is that file already
        checkpoints.restore(checkpoint, tmp_path)
        assert load_file(tmp_path / checkpoints.MODEL)["weight"].tolist() == [1]
    assert (tmp_path / "part.safetensors").read_text() == "mine"
    assert [file.name for file in checkpoint.iterdir()] == [checkpoints.BEST]
