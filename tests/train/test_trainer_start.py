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
from train import checkpoints
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
        ("soup: gredy", "soup='gredy' is unknown; choose one of greedy; did you mean 'greedy'?"),
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


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        *((name, 0, "of at least 1") for name in ("logging_steps", "num_beams", "num_train_epochs", "eval_steps")),
        *((name, 0, "of at least 1") for name in ("max_train_steps", "checkpoints_total_limit", "hidden_size")),
        *((name, -1, "of at least 1") for name in ("per_device_train_batch_size", "early_stopping_patience")),
        ("seed", -1, "from 0 to 4294967295"),
        ("sampled_captions", 1, "of at least 2"),
        ("dataloader_num_workers", -1, "of at least 0"),
        ("warmup_ratio", 10, "from 0 to 1."),
        ("labeled_share", 1, "from 0 to 1 (excluding 1)"),
        ("validation_fraction", 1, "from 0 to 1 (excluding 1)"),
        ("ema_decay", 1, "from 0 to 1 (excluding 1)"),
        ("learning_rate", -0.1, "of at least 0"),
        ("learning_rate", "nan", "of at least 0"),
        ("weight_decay", "inf", "of at least 0"),
        ("data_weights", -1, "of at least 0"),
        ("max_grad_norm", 0, "give a number above 0"),
        ("min_new_tokens", 30, "exceeds max_new_tokens=20"),
    ],
)
def test_a_number_out_of_range_is_told_first(capsys, tmp_path, option, value, named):
    """In a recipe and on the command line, before the data are looked at."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"stages: [{{}}, {{{option}: {value}}}]")
    for options in (["--recipe", str(recipe)], [f"--{option}={value}"]):
        error = error_of(capsys, *options, "--data_dir", "/nowhere", "--output_dir", str(tmp_path / "run"))
        assert error.startswith(f"error: {option}=")
        assert named in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", sorted(file.stem for file in (ROOT / "train" / "recipes").glob("*.yaml")))
def test_the_numbers_of_recipes_and_zeros_that_mean_something_pass(name):
    zeros = ["labeled_share", "validation_fraction", "warmup_ratio", "ema_decay", "mixup_alpha", "learning_rate"]
    zeros += ["dataloader_num_workers", "seed", "dropout", "data_weights", "min_new_tokens"]
    resolve(["--recipe", name, *(f"--{option}=0" for option in zeros)])


def test_switches_of_yaml_in_a_recipe(tmp_path):
    """`no` is also a precision, a language and the name of a folder."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "mixed_precision: no\ncaption_language: no\nphoto_dirs: [on, no]\neval_split: 2014\nreport_to: off\n"
        "stages:\n"
        "- &first {streaming: on, freeze_batch_norm: yes, eval_on_start: off, push_to_hub: no, soup: no}\n"
        "- {<<: *first, hub_private_repo: True, early_stopping_patience: off, learning_rate: 1e-3}\n"
    )
    for stage in resolve(["--recipe", str(recipe)]):
        assert (stage.mixed_precision, stage.caption_language, stage.eval_split) == ("no", "no", "2014")
        assert (stage.photo_dirs, stage.report_to, stage.soup) == (["on", "no"], None, None)
        assert (stage.streaming, stage.freeze_batch_norm) == (True, True)
        assert (stage.eval_on_start, stage.push_to_hub) == (False, False)
    assert (stage.hub_private_repo, stage.early_stopping_patience, stage.learning_rate) == (True, None, 1e-3)
    recipe.write_text("mixed_precision: off\n")
    assert resolve(["--recipe", str(recipe)])[0].mixed_precision == "no"


@pytest.mark.parametrize(("variable", "name"), [("FSDP", "FSDP"), ("DEEPSPEED", "DeepSpeed")])
def test_a_launcher_that_would_shard_the_model_is_refused(capsys, tmp_path, monkeypatch, variable, name):
    """`accelerate launch` sets these variables."""
    monkeypatch.setenv(f"ACCELERATE_USE_{variable}", "true")
    error = error_of(capsys, "--data_dir", "/nowhere", "--output_dir", str(tmp_path / "run"))
    assert f"Accelerate is configured for {name}, which is for models that do not fit on one device" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_a_run_that_is_killed_while_it_overwrites_another_leaves_no_mixture(drawn_set, tmp_path, monkeypatch):
    """Of the new configuration and the old weights."""
    options = arguments(data_dir=drawn_set, output_dir=tmp_path, max_train_steps=1)
    run(resolve(options))

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save_captioner", killed)
    with pytest.raises(KeyboardInterrupt):
        run(resolve([*options, "--overwrite_output_dir", "true", "--hidden_size", "32"]))
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not (tmp_path / "history.jsonl").exists()


def test_a_run_without_a_log_yet_is_not_overwritten(drawn_set, tmp_path, capsys):
    """Its checkpoints tell of it before the first row of its history does."""
    options = arguments(data_dir=drawn_set, output_dir=tmp_path, max_train_steps=1, checkpointing_steps=1)
    run(resolve(options))
    (tmp_path / "history.jsonl").unlink()
    assert "contains an earlier run" in error_of(capsys, *options)
