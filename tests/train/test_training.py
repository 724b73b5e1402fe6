"""The trainer, run from the command line on drawn photos."""

import json
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image
from torch.nn.modules.module import register_module_forward_hook

from modeling_captioner import CaptionerForConditionalGeneration, CaptionerProcessor
from modeling_captioner.encoder import CaptionerEncoder
from tests.helpers.paths import ROOT
from tests.helpers.programs import run_python
from tests.helpers.training import arguments, caption_folder, history
from train import checkpoints
from train.cli import main, resolve, run
from train.encoders import trainable_from
from train.loop import OPTIMIZERS, make_optimizer


def test_overfitting_eight_photos(drawn_set, drawn_photos, tmp_path):
    """The loss approaches 0, and the captions are reproduced word for word."""
    options = {"encoder_trainable_from": "all", "encoder_learning_rate": 1e-3}
    options |= {"dropout": 0, "word_dropout": 0, "label_smoothing": 0, "num_train_epochs": 100, "eval_steps": 100}
    run(resolve(arguments(data_dir=drawn_set, output_dir=tmp_path, learning_rate=0.004, **options)))
    rows = history(tmp_path)
    assert rows[-1]["validation_loss"] < 0.05
    assert rows[-1]["CIDEr-D"] > 5
    assert json.loads((tmp_path / "config.json").read_text())["encoder_trained_from"] == "all"
    assert caption_folder(tmp_path, [photo for photo, _ in drawn_photos]) == [caption for _, caption in drawn_photos]
    assert Image.open(tmp_path / "curves.png").size[0] > 100


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_is_what_it_is_called(name):
    model = torch.nn.Linear(2, 1)
    stage = SimpleNamespace(model=model, parameter_groups=lambda model: [{"params": [*model.parameters()], "lr": 0.02}])
    optimizer = make_optimizer(stage, SimpleNamespace(optim=name, learning_rate=1.0, weight_decay=0.0))
    assert type(optimizer).__name__.lower() == {"amsgrad": "adam"}.get(name, name)
    assert optimizer.defaults.get("amsgrad", False) == (name == "amsgrad")
    losses = []
    for _ in range(20):
        losses.append(model(torch.ones(1, 2)).square().sum())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]


def test_a_recipe_with_three_stages(drawn_set, tmp_path):
    """Each stage starts from the best model of the previous one."""
    recipe = tmp_path / "recipe.yaml"
    stages = [
        {"stage": "language", "num_train_epochs": 10, "learning_rate": 0.01},
        {"stage": "captions", "num_train_epochs": 12, "learning_rate": 0.01},
        {"stage": "self_critical", "num_train_epochs": 2, "learning_rate": 1e-4, "eval_on_start": True},
    ]
    recipe.write_text(yaml.safe_dump({"stages": stages}))
    run(resolve(arguments(recipe=recipe, data_dir=drawn_set, output_dir=tmp_path / "run", eval_steps=10)))
    rows = history(tmp_path / "run")
    score = {}
    for row in rows:
        if "score" in row:
            score.setdefault(row["stage"], []).append(row["score"])
    assert list(score) == ["1-language", "2-captions", "3-self_critical"]
    assert score["1-language"][-1] > score["1-language"][0]
    assert score["2-captions"][-1] != score["2-captions"][0]
    assert score["3-self_critical"][0] == pytest.approx(max(score["2-captions"]), rel=1e-3)  # in half precision
    assert [stage["stage"] for stage in yaml.safe_load((tmp_path / "run" / "settings.yaml").read_text())] == [
        "language",
        "captions",
        "self_critical",
    ]


def test_self_critical_raises_the_reward(drawn_set, tmp_path):
    """Starting from a captioner that is sometimes right, CIDEr-D increases."""
    base = tmp_path / "base"
    options = {"num_train_epochs": 8, "eval_steps": 16, "learning_rate": 0.01}
    run(resolve(arguments(data_dir=drawn_set, output_dir=base, **options)))
    options = {"model": base, "stage": "self_critical", "learning_rate": 0.002, "lr_scheduler_type": "constant"}
    options |= {"eval_steps": 10}
    run(resolve(arguments(data_dir=drawn_set, output_dir=tmp_path / "rl", num_train_epochs=15, **options)))
    before, after = (max(row.get("CIDEr-D", 0) for row in history(folder)) for folder in (base, tmp_path / "rl"))
    assert after > before


def test_self_critical_encodes_each_photo_once_a_step(learnt_captioner, drawn_set, tmp_path):
    """For sampling and for both losses, although the encoder learns; the validation encodes once more at most."""
    encoded = []

    def count(module, inputs, output):
        if isinstance(module, CaptionerEncoder):
            encoded.append((len(output.last_hidden_state), torch.is_grad_enabled()))

    options = {"model": learnt_captioner, "stage": "self_critical", "cross_entropy_weight": 0.2, "num_train_epochs": 1}
    options |= {"encoder_trainable_from": "all", "encoder_learning_rate": 1e-5}
    hook = register_module_forward_hook(count)
    try:
        run(resolve(arguments(data_dir=drawn_set, output_dir=tmp_path, **options)))
    finally:
        hook.remove()
    assert [photos for photos, learning in encoded if learning] == [4, 4]
    assert sum(photos for photos, learning in encoded if not learning) <= 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "shiped"}, "recipe='shiped' does not exist; choose one of"),
        ({"data_dir": "/nowhere"}, "data_dir='/nowhere' is not a folder"),
        ({"optim": "adamx"}, "optim='adamx' is unknown; choose one of sgd"),
        ({"encoder_trainable_from": "Mixed_9"}, "encoder_trainable_from='Mixed_9' is not a block"),
        ({"encoder_name": "inception_v33"}, "not an architecture of timm"),
        ({"attention_type": "dott"}, "attention_type"),
        ({"min_word_count": 99}, "No word occurs 99 times"),
        (
            {"resume_from_checkpoint": "/nowhere/step-3"},
            "resume_from_checkpoint='/nowhere/step-3' is not a complete checkpoint",
        ),
    ],
)
def test_mistakes_are_one_sentence(drawn_set, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as exit_:
        main(arguments(**({"data_dir": drawn_set, "output_dir": tmp_path} | options)))
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert exit_.value.code == 1
    assert error.startswith("error: ")
    assert message in error


def test_an_existing_run_is_resumed_overwritten_or_refused(drawn_set, tmp_path):
    options = arguments(
        data_dir=drawn_set, output_dir=tmp_path, num_train_epochs=2, eval_steps=4, checkpointing_steps=1
    )
    options += ["--checkpoints_total_limit", "2"]
    begins = [*options, "--resume_from_checkpoint", "last"]
    run(resolve(begins), ["--begun", "here"])  # nothing there yet
    first = (tmp_path / "history.jsonl").read_text()
    places = sorted(place.name for place in (tmp_path / "checkpoints" / "1-captions").iterdir())
    assert places == ["step-3", "step-4"]
    with pytest.raises(
        ValueError, match="contains an earlier run; continue it with --resume_from_checkpoint last, or start over"
    ):
        run(resolve(options))
    run(resolve(begins), begins)  # done already
    assert (tmp_path / "history.jsonl").read_text() == first
    assert (tmp_path / "settings.yaml").read_text().startswith("# accelerate launch train/ --begun here\n")
    run(resolve([*options, "--resume_from_checkpoint", str(tmp_path / "checkpoints" / "1-captions" / "step-3")]))
    assert (tmp_path / "history.jsonl").read_text() == first
    run(resolve([*options, "--overwrite_output_dir", "true", "--seed", "7"]))
    assert (tmp_path / "history.jsonl").read_text() != first


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint_intact(drawn_set, tmp_path):
    """A limit on the file size makes writes fail as on a full disk."""
    options = arguments(data_dir=drawn_set, output_dir=tmp_path, num_train_epochs=1)
    run(resolve(options))
    before = checkpoints.latest(tmp_path / "checkpoints" / "1-captions")
    options += ["--num_train_epochs", "2", "--resume_from_checkpoint", "last"]
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
    limit += f"from train.cli import main; main({options!r})"
    process = run_python("-c", limit)
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert "error:" in process.stderr
    assert checkpoints.latest(tmp_path / "checkpoints" / "1-captions") == before
    assert caption_folder(tmp_path, [Image.new("RGB", (64, 64))])


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("learning_rat: 0.1", "'learning_rat' is unknown; did you mean 'learning_rate'"),
        ("stages: [{stage: captions, seeed: 1}]", "'seeed' is unknown; did you mean 'seed'"),
        ("stages: [{mixed_precision: bf16}]", "'mixed_precision' applies to the whole run; move it out of the stages"),
        ("learning_rate: [", "is not valid YAML"),
        ("", "contains no options"),
    ],
)
def test_mistakes_in_a_recipe_are_named(tmp_path, content, named):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(content)
    with pytest.raises(ValueError, match=named):
        resolve(["--recipe", str(recipe)])


def test_the_command_line_overrides_the_recipe(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("seed: 7\nstages:\n- {stage: language, learning_rate: 0.5}\n- {stage: captions}\n")
    first, second = resolve(["--recipe", str(recipe), "--learning_rate", "0.25"])
    assert (first.stage, first.seed, first.learning_rate) == ("language", 7, 0.25)
    assert (second.stage, second.seed, second.learning_rate) == ("captions", 7, 0.25)
    # Also if the value on the command line is the default.
    assert resolve(["--recipe", str(recipe), "--seed", "42"])[0].seed == 42


def test_options_of_a_recipe_have_the_right_types(tmp_path):
    """YAML reads 1e-3 as a string; null means the default, also in a stage."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "learning_rate: 1e-3\nphoto_dirs: [a, b]\nstreaming: yes\nmax_train_samples: 5\n"
        "stages: [{warmup_ratio: 0}, {max_train_samples: null}]\n"
    )
    first, second = resolve(["--recipe", str(recipe)])
    assert (first.learning_rate, first.photo_dirs, first.streaming, first.warmup_ratio) == (1e-3, ["a", "b"], True, 0)
    assert (first.max_train_samples, second.max_train_samples) == (5, None)


@pytest.mark.slow
def test_the_recipe_overfit(tmp_path, drawn_photos):
    """As on a new data set, but without timm's weights, which tests cannot download."""
    folder = tmp_path / "set"
    folder.mkdir()
    rows = []
    for number, (photo, caption) in enumerate(drawn_photos):
        photo.resize((120, 90)).save(folder / f"{number}.jpg")
        rows.append({"file_name": f"{number}.jpg", "text": caption.capitalize() + " ."})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--recipe", "overfit", "--data_dir", str(folder), "--output_dir", str(tmp_path / "run")]
    # The features of a network with random weights are less informative and need more epochs.
    options += ["--encoder_name", "test_resnet", "--image_size", "96", "--encoder_weights", ""]
    run(resolve([*options, "--num_train_epochs", "250", "--eval_steps", "125"]))
    rows = history(tmp_path / "run")
    assert rows[-1]["validation_loss"] < 0.05
    assert rows[-1]["CIDEr-D"] > 9.9


@pytest.mark.parametrize("name", sorted(file.stem for file in (ROOT / "train" / "recipes").glob("*.yaml")))
def test_every_recipe_resolves(name):
    stages = resolve(["--recipe", name, "--data_dir", "somewhere"])
    assert stages[-1].stage in ("captions", "self_critical")
    assert all(stage.data_dir == ["somewhere"] for stage in stages)


def test_min_new_tokens_of_a_new_captioner(drawn_set, drawn_photos, tmp_path):
    options = {"min_new_tokens": 12, "max_new_tokens": 14, "max_train_steps": 1}  # the drawn captions have seven words
    run(resolve(arguments(data_dir=drawn_set, output_dir=tmp_path, **options)))
    model, processor = (
        kind.from_pretrained(tmp_path) for kind in (CaptionerForConditionalGeneration, CaptionerProcessor)
    )
    ids = model.generate(**processor(images=[photo for photo, _ in drawn_photos], return_tensors="pt"))
    assert all(len(caption.split()) >= 12 for caption in processor.batch_decode(ids, skip_special_tokens=True))


def test_the_first_trained_block_is_recorded_over_all_stages(tiny_captioner):
    """A later stage that trains less of the encoder does not hide that an earlier one trained more."""
    captioner, _ = tiny_captioner()
    for block, recorded in ((None, None), ("layer4", "layer4"), ("layer2", "layer2"), ("layer3", "layer2")):
        trainable_from(captioner, block)
        assert captioner.config.encoder_trained_from == recorded
    trainable_from(captioner, "all")
    trainable_from(captioner, None)
    assert captioner.config.encoder_trained_from == "all"
    assert not any(parameter.requires_grad for parameter in captioner.encoder.backbone.parameters())
