"""A start that cannot succeed says so before anything slow begins, names the way, and leaves nothing behind."""

import os
import subprocess
import sys

import pytest
import timm
from safetensors.torch import load_file, save_file

from tests.helpers.hub_server import FakeHub
from tests.helpers.paths import ROOT
from tests.helpers.programs import run_python
from tests.helpers.training import arguments
from train.cli import main, resolve, run


def error_of(capsys, *options):
    """The error that the trainer prints, exiting with status 1."""
    with pytest.raises(SystemExit) as exit_:
        main(list(options))
    assert exit_.value.code == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    return error


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("stages: [{stage: caption}]", "stage='caption' is unknown; choose one of language, captions, distil"),
        ("stages: [{stage: caption}]", "did you mean 'captions'?"),
        ("lr_scheduler_type: cosin", "choose one of constant, linear, cosine; did you mean 'cosine'?"),
        ("optim: adamx", "did you mean 'adamax'?"),
        ("soup: gredy", "soup='gredy' is unknown; choose one of uniform, greedy; did you mean 'greedy'?"),
        ("rnn_type: grru", "choose one of gru, lstm; did you mean 'gru'?"),
        ("attention_type: multihead", "did you mean 'multi_head'?"),
        ("mixed_precision: bf61", "did you mean 'bf16'?"),
        ("report_to: tensorbord", "did you mean 'tensorboard'?"),
        ("encoder_name: inception_v33", "not an architecture of timm; did you mean 'inception_v3'?"),
        ("teacher_name: resnet50_", "not an architecture of timm; did you mean 'resnet50'?"),
        ("stages: {stage: captions}", "'stages' are not a list"),
        ("stages: [captions]", "'stages' are not a list"),
    ],
)
def test_a_wrong_choice_in_a_recipe_names_the_nearest(capsys, tmp_path, content, named):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(content)
    assert named in error_of(capsys, "--recipe", str(recipe), "--output_dir", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--recipe", "coko"], "choose one of coco, flickr30k, flickr8k"),
        (["--recipe", "coko"], "did you mean 'coco'?"),
        (["--lerning_rate", "0.1"], "The option '--lerning_rate' is unknown; did you mean '--learning_rate'?"),
        (["coco"], "'coco' belongs to no option; did you mean '--recipe coco'?"),
        (["--seed", "one"], "Argument --seed: invalid int value: 'one'"),
        (["--stage", "Captions"], "did you mean 'captions'?"),
    ],
)
def test_a_wrong_command_line_names_the_nearest(capsys, options, named):
    assert named in error_of(capsys, *options)


def test_alone_it_says_how_to_begin(tmp_path):
    """The command lines that it prints are right."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", str(ROOT / "train")]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=900)
    lines = process.stdout.splitlines()
    assert len(lines) == 3
    coco, own, _ = (line.partition("accelerate launch train/ ")[2].split() for line in lines)
    assert resolve(coco)[0].dataset_name
    assert resolve(own)[0].data_dir
    assert list(tmp_path.iterdir()) == []


def test_timm_weights_that_cannot_be_had_are_told_before_the_data_are_looked_at(drawn_set, tmp_path):
    """With the weights in the cache, the run needs no network."""
    weights = timm.create_model("test_resnet").state_dict()
    (tmp_path / "weights").mkdir()
    save_file(weights, tmp_path / "weights" / "model.safetensors")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("encoder_weights: timm\nmax_train_steps: 1\n")
    options = arguments(recipe=recipe, data_dir="/nowhere", output_dir=tmp_path / "run")
    process = run_python("-m", "train", *options, env={"ACCELERATE_USE_CPU": "true"})  # with an empty HF_HOME
    error = process.stderr.strip().splitlines()[-1]
    assert process.returncode == 1
    assert f"error: encoder_weights='timm', asked for by the recipe {str(recipe)!r}, " in error
    assert "give --encoder_weights modeling_captioner" in error
    assert not (tmp_path / "run").exists()

    with FakeHub(tmp_path / "hub") as hub:
        name = timm.create_model("test_resnet").pretrained_cfg["hf_hub_id"]
        hub.repository(name).create()
        hub.repository(name).add(tmp_path / "weights")
        download = f"from huggingface_hub import hf_hub_download; hf_hub_download({name!r}, 'model.safetensors')"
        environment = hub.environment(tmp_path / "home")
        subprocess.run([sys.executable, "-c", download], env=environment, check=True, timeout=900)
    options = arguments(recipe=recipe, data_dir=drawn_set, output_dir=tmp_path / "run")
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "train", *options]
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert process.returncode == 0, process.stderr
    trained = load_file(tmp_path / "run" / "model.safetensors")
    assert (trained["encoder.backbone.conv1.0.weight"] == weights["conv1.0.weight"]).all()


def test_weights_at_a_path_that_is_not_there(capsys, tmp_path):
    options = arguments(encoder_weights="timmm", data_dir="/nowhere", output_dir=tmp_path / "run")
    assert "encoder_weights='timmm' is not there" in error_of(capsys, *options)


def test_a_failed_start_is_followed_by_another(drawn_set, tmp_path, capsys):
    """Without a word about an earlier run; and a run that is to be overwritten stays until the new one begins."""
    options = arguments(data_dir=drawn_set, output_dir=tmp_path / "run", max_train_steps=1)
    assert "No word occurs 99 times" in error_of(capsys, *options, "--min_word_count", "99")
    assert not (tmp_path / "run").exists()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("stages: [{}, {encoder_trainable_from: Mixed_9}]")
    assert "encoder_trainable_from='Mixed_9' is not a block" in error_of(capsys, *options, "--recipe", str(recipe))
    assert not (tmp_path / "run").exists()
    run(resolve(options))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert "is not a folder" in error_of(capsys, *options, "--overwrite_output_dir", "true", "--data_dir", "/nowhere")
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_run_without_a_log_yet_is_not_overwritten(drawn_set, tmp_path, capsys):
    """Its checkpoints tell of it before the first row of its history does."""
    options = arguments(data_dir=drawn_set, output_dir=tmp_path, max_train_steps=1, checkpointing_steps=1)
    run(resolve(options))
    (tmp_path / "history.jsonl").unlink()
    assert "contains an earlier run" in error_of(capsys, *options)
