"""The stage `distil` and the word probe."""

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.training import arguments, history
from train.cli import resolve, run
from train.probe import word_probe
from train.stages.distil import load_teacher

TEACHER = "test_efficientnet"


@pytest.fixture
def teacher_file(tmp_path):
    """Weights of a teacher in timm's order, but with other names, as in ports of other frameworks."""
    torch.manual_seed(1)
    tensors = timm.create_model(TEACHER).state_dict()
    renamed = {f"{number:04}.{key.rpartition('.')[2]}": value for number, (key, value) in enumerate(tensors.items())}
    torch.save(renamed, tmp_path / "teacher.pth")
    save_file(tensors, tmp_path / "teacher.safetensors")
    return tmp_path / "teacher.pth"


def test_a_teacher_loads_by_name_or_in_order(teacher_file):
    expected = load_file(teacher_file.with_suffix(".safetensors"))
    for file in (teacher_file, teacher_file.with_suffix(".safetensors")):
        teacher = load_teacher(TEACHER, str(file)).state_dict()
        assert all(torch.equal(teacher[key], value) for key, value in expected.items())
    with pytest.raises(ValueError, match="are not weights of test_resnet"):
        load_teacher("test_resnet", str(teacher_file))


def test_distillation(drawn_set, teacher_file, tmp_path):
    """The validation loss decreases, and only the chosen blocks are trained."""
    options = {
        "stage": "distil",
        "data_dir": drawn_set,
        "photo_dirs": [drawn_set] * 3,  # 24 photos, two of them held out
        "teacher_name": TEACHER,
        "teacher_weights": teacher_file,
        "encoder_trainable_from": "layer3",
        "encoder_learning_rate": 1e-3,
        "learning_rate": 1e-2,
        "num_train_epochs": 12,
        "eval_steps": 10,
    }
    run(resolve(arguments(output_dir=tmp_path / "one", **options, max_train_steps=1)))
    run(resolve(arguments(output_dir=tmp_path / "run", **options)))
    rows = history(tmp_path / "run")
    losses = [row["validation_loss"] for row in rows if "validation_loss" in row]
    assert losses[-1] < 0.95 * losses[0]
    first, last = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "run"))
    changed = {
        name.split(".")[2] for name in first if name.startswith("encoder.") and not torch.equal(first[name], last[name])
    }
    assert {"layer3", "layer4"} <= changed
    assert not changed & {"conv1", "bn1", "layer1", "layer2"}


def test_the_word_probe_of_informative_features_and_noise():
    """The AUC is near 1 if the features encode the words, and near 0.5 for noise."""
    generator = torch.Generator().manual_seed(0)
    words = [
        "".join(letters)
        for letters in zip("abcdefghijklmnopqrstuvwxyz" * 7, "qwertyuiopasdfghjklzxcvbnm" * 7, strict=True)
    ]
    words = [f"{word}{'xyzuvwk'[number // 26]}" for number, word in enumerate(words)]
    said = torch.rand(400, len(words), generator=generator) < torch.linspace(0.9, 0.1, len(words))
    captions = [[" ".join(word for word, here in zip(words, row, strict=True) if here)] for row in said.tolist()]
    noise = torch.randn(400, 50, generator=generator)
    telling = said[:, 30:150].float() + 0.3 * torch.randn(400, 120, generator=generator)
    assert word_probe(telling, captions) > 0.9
    assert 0.45 < word_probe(noise, captions) < 0.55
