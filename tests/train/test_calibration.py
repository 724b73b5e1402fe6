"""The confidence: calibration by the trainer, and what it says of captions."""

import json
import math
import shutil

import numpy as np
import pytest
from huggingface_hub.errors import StrictDataclassError

from modeling_captioner import CaptionerForConditionalGeneration
from modeling_captioner.confidence import FEATURES, caption_features, confidence_of
from tests.helpers.training import arguments
from train import calibration
from train.calibration import fit_confidence, fit_numbers, is_supported, logistic_regression, summarize
from train.cli import main

WEIGHTS = [-1.0, 2.0, 0.5, 0.0]


def drawn_captions(count, seed=0):
    """Random features (count, 3), and targets drawn with the probabilities of `WEIGHTS`."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(count, 3)) * [1, 2, 3] + [0, 1, -2]
    probabilities = 1 / (1 + np.exp(-(WEIGHTS[0] + features @ WEIGHTS[1:])))
    return features, (random.random(count) < probabilities).astype(float), probabilities


def test_regression_recovers_known_weights():
    features, targets, _ = drawn_captions(20_000)
    np.testing.assert_allclose(logistic_regression(features, targets), WEIGHTS, atol=0.07)


def test_more_probable_words_never_lower_the_confidence():
    """Also if chance, here captions that are wrong where their words are probable, would have it otherwise."""
    features, targets, _ = drawn_captions(2_000)
    numbers = fit_numbers(np.column_stack([-features[:, 0], -features[:, 1], features[:, 2]]), targets)
    assert numbers["total"] == numbers["lowest"] == 0
    assert fit_numbers(features, targets)["total"] > 1.5


def test_summary_of_known_predictions():
    supported = np.array([0, 0, 1, 0, 1, 1, 1, 0], dtype=float)
    predicted = np.array([0.12, 0.12, 0.12, 0.12, 0.75, 0.75, 0.75, 0.75])
    report = summarize(supported, predicted)
    assert report["captions"] == 8
    assert report["AUC"] == pytest.approx((3 * 3 + 0.5 * (1 * 3 + 3 * 1) + 0) / 16)  # ties count half
    assert report["ECE"] == pytest.approx((abs(0.12 - 0.25) * 4 + abs(0.75 - 0.75) * 4) / 8)
    assert report["bins"] == [pytest.approx([0.12, 0.25, 4]), pytest.approx([0.75, 0.75, 4])]
    assert report["thresholds"]["0.5"] == [4, 3]


def test_cross_validation_is_honest():
    """Where the features say nothing, the AUC is that of chance, and the confidence the share that is supported."""
    random = np.random.default_rng(3)
    rows = [caption_row(list(-random.random(5)), random.random() < 0.3) for _ in range(600)]
    numbers, report = fit_confidence(rows)
    assert report["all"]["AUC"] < 0.57
    assert report["all"]["ECE"] < 0.06
    assert confidence_of([-0.5] * 5, numbers) == pytest.approx(0.3, abs=0.06)


def caption_row(log_probabilities, supported, language=None):
    return {
        "set": "photos",
        "language": language,
        "caption": "a dog",
        "references": ["one dog" if supported else "a cat"],
        "features": caption_features(log_probabilities),
    }


def test_a_language_has_numbers_of_its_own_if_it_has_photos_enough():
    random = np.random.default_rng(4)
    rows = [caption_row(list(-random.random(5)), random.random() < 0.5, "en") for _ in range(300)]
    rows += [caption_row(list(-random.random(5)), random.random() < 0.1, "vi") for _ in range(300)]
    rows += [caption_row([-1.0] * 5, number % 2, "fr") for number in range(20)]
    numbers, report = fit_confidence(rows)
    assert set(numbers) == {"intercept", *FEATURES, "languages"}
    assert set(numbers["languages"]) == {"en", "vi"}
    words = [-0.5] * 5
    assert confidence_of(words, numbers, "en") == pytest.approx(0.5, abs=0.1)
    assert confidence_of(words, numbers, "vi") == pytest.approx(0.1, abs=0.06)
    assert confidence_of(words, numbers, "fr") == confidence_of(words, numbers)
    assert set(report) == {"all", "photos/en", "photos/vi", "photos/fr"}
    assert fit_confidence(rows[:50]) is None


@pytest.mark.parametrize(
    ("caption", "supported"),
    [
        ("a dog is running", True),  # words of two references
        ("Two dogs running", False),  # "dogs" is not "dog"
        ("a dog in the water", False),
        ("the", True),
    ],
)
def test_supported_by_any_of_the_references(caption, supported):
    assert is_supported(caption, ["A brown dog.", "it is running over grass"]) == supported


def test_confidence_of_known_numbers():
    numbers = {"intercept": 1.0, "total": 0.5, "lowest": 0.25, "length": -0.125}
    log_probabilities = [-1.0, -2.0, 0.0]
    assert caption_features(log_probabilities) == {"total": -3, "lowest": -2, "length": 3}
    assert confidence_of(log_probabilities, numbers) == pytest.approx(1 / (1 + math.exp(1.375)))
    assert confidence_of([-0.5, -2.0, 0.0], numbers) > confidence_of(log_probabilities, numbers)
    assert 0 <= confidence_of([-1e6], numbers) < confidence_of([-1e-6], numbers | {"intercept": 1e6}) <= 1
    assert confidence_of(log_probabilities, None) is None
    with pytest.raises(StrictDataclassError, match="confidence needs a number"):
        CaptionerForConditionalGeneration.config_class(confidence={"intercept": 1.0, "total": 0.5})


@pytest.fixture
def few(monkeypatch):
    """Five captions suffice."""
    monkeypatch.setattr(calibration, "MIN_CAPTIONS", 5)
    monkeypatch.setattr(calibration, "MIN_OUTCOMES", 1)


@pytest.fixture(scope="module")
def doubted_set(drawn_set, tmp_path_factory):
    """The drawn photos; people say other things of three of the eight to validate with."""
    folder = tmp_path_factory.mktemp("doubted") / "set"
    shutil.copytree(drawn_set, folder)
    file = folder / "validation" / "metadata.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows[:3]:
        row["captions"] = ["a cat"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_calibrate_only(doubted_set, learnt_captioner, tmp_path, few, capsys):
    model = tmp_path / "model"
    shutil.copytree(learnt_captioner, model)
    options = ["--calibrate_only", "--model", model, "--data_dir", doubted_set, "--output_dir", tmp_path / "scores"]
    main(list(map(str, options)))
    report = json.loads((tmp_path / "scores" / "calibration.json").read_text())
    assert (report["all"]["captions"], report["all"]["supported"]) == (8, 5 / 8)
    assert (tmp_path / "scores" / "reliability.png").stat().st_size > 1000
    assert "all: 62.5% of 8 captions supported; AUC " in capsys.readouterr().out
    config = CaptionerForConditionalGeneration.from_pretrained(model).config
    assert set(config.confidence) == {"intercept", *FEATURES}
    written, before = (json.loads((folder / "config.json").read_text()) for folder in (model, learnt_captioner))
    assert written == before | {"confidence": config.confidence}


def test_too_few_photos_are_told(drawn_set, learnt_captioner, tmp_path, capsys):
    options = ["--calibrate_only", "--model", learnt_captioner, "--data_dir", drawn_set, "--output_dir", tmp_path]
    with pytest.raises(SystemExit):
        main(list(map(str, options)))
    assert "Too few validation photos" in capsys.readouterr().err


@pytest.mark.parametrize(("fraction", "calibrated"), [(0.3, True), (0, False)])
def test_a_run_ends_with_calibration(doubted_set, learnt_captioner, tmp_path, few, fraction, calibrated):
    """Unless it validates on the photos that it learns from."""
    options = {"model": learnt_captioner, "data_dir": doubted_set, "output_dir": tmp_path / "run"}
    main(arguments(**options, validation_fraction=fraction, max_train_steps=1, learning_rate=0))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config.get("confidence", {}).keys() == ({"intercept", *FEATURES} if calibrated else set())
    assert (tmp_path / "run" / "reliability.png").exists() == calibrated
