"""Calibration of a captioner's confidence on validation photos: at the end of a run, and `--calibrate_only`."""

import dataclasses
import json
from pathlib import Path

import matplotlib
import numpy as np
from transformers.modeling_outputs import BaseModelOutput

from captioning.loading import load_captioner
from captioning.saving import writing
from captioning.torch_captioner import generate_scored
from modeling_captioner.confidence import FEATURES, INTERCEPT, caption_features

from .loop import evaluate, explain_worker_errors
from .stages.captions import Captions, group_rows
from .words import FUNCTION_WORDS, normalize, split_words

matplotlib.use("Agg")  # needs no display
from matplotlib import pyplot

MIN_CAPTIONS = 100  # of a captioner or a language, for numbers of its own
MIN_OUTCOMES = 10  # captions that are supported, and that are not
FOLDS = 5
BINS = 10
RIDGE = 1.0
NEWTON_STEPS = 25
PROBABLE = ("total", "lowest")  # features that grow with the words' probabilities
THRESHOLDS = (0.1, 0.2, 0.3, 0.5, 0.7)
SEED = 0  # of the folds


class ScoredCaptions(Captions):
    """Captions the validation photos, with the features of each caption."""

    def _caption(self, model, regions, language):
        ids, scored = generate_scored(
            model,
            encoder_outputs=BaseModelOutput(regions),
            num_beams=self.settings.num_beams,
            max_new_tokens=self.settings.max_new_tokens,
            language=language,
        )
        captions = self.processor.batch_decode(ids, skip_special_tokens=True)
        return [
            {"caption": caption, "features": caption_features(scores)}
            for caption, scores in zip(captions, scored, strict=True)
        ]


def calibrate(accelerator, model, folder, settings):
    """Fit the confidence of the captioner in the folder `model` to the validation photos, and write what it finds.

    Nothing is written if the photos are too few, or were trained on: it would be as sure as of those that it knows.

    Args:
        folder: where calibration.json and reliability.png go; the numbers go to `model`/config.json.
        settings: name the data sets; the numbers of beams and words are those of validation.

    Returns whether it was fitted, in all processes.
    """
    settings = dataclasses.replace(settings, stage="captions", calibrate_only=True)
    if settings.validation_fraction == 0 and len(settings.dataset_name) + len(settings.data_dir) == 1:
        return False
    captioner, processor = load_captioner(str(model), "cpu", "float32")
    stage = ScoredCaptions(captioner.to(accelerator.device).eval(), processor, settings, accelerator.device)
    if not settings.streaming and len(stage.datasets["validation"]) < MIN_CAPTIONS:
        return False
    with accelerator.autocast(), explain_worker_errors():
        results = evaluate(stage, captioner, accelerator.prepare(stage.dataloader("validation")))
    fitted = fit_confidence(list(results.values()))
    if fitted and accelerator.is_main_process:
        write_calibration(*fitted, model, folder)
        print(describe(fitted[1]), flush=True)
    accelerator.wait_for_everyone()
    return bool(fitted)


def fit_confidence(rows):
    """Fit the confidence to captions {"set", "language", "caption", "references", "features"}, and cross-validate it.

    Returns (numbers, report) for `CaptionerConfig.confidence` and calibration.json; None if the captions are too few.
    """
    features = np.array([[row["features"][name] for name in FEATURES] for row in rows])
    supported = np.array([is_supported(row["caption"], row["references"]) for row in rows], dtype=float)
    if not _suffice(supported):
        return None
    numbers, predicted = _fit_and_validate(features, supported)
    languages = np.array([row["language"] or "" for row in rows])
    if len(set(languages)) > 1:
        numbers["languages"] = {}
        for language in dict.fromkeys(languages.tolist()):
            own = languages == language
            if _suffice(supported[own]):
                numbers["languages"][language], predicted[own] = _fit_and_validate(features[own], supported[own])
    places = {id(row): place for place, row in enumerate(rows)}
    groups = {name: [places[id(row)] for row in own] for name, own in group_rows(rows).items()}
    report = {"all": summarize(supported, predicted)}
    if len(groups) > 1:
        report |= {name: summarize(supported[own], predicted[own]) for name, own in groups.items()}
    return numbers, report


def is_supported(caption, references):
    """Whether every content word of a caption stands in one of the references."""
    known = {word for text in references for word in split_words(normalize(text))}
    return all(word in known or word in FUNCTION_WORDS for word in split_words(normalize(caption)))


def fit_numbers(features, supported):
    """The numbers of a regression on `FEATURES` (captions, features): {name: value}.

    More probable words never lower the confidence: if a weight would be negative, it is 0.
    """
    used = list(range(len(FEATURES)))
    while True:
        intercept, *weights = logistic_regression(features[:, used], supported).tolist()
        numbers = {INTERCEPT: intercept} | dict.fromkeys(FEATURES, 0.0)
        numbers |= {FEATURES[feature]: weight for feature, weight in zip(used, weights, strict=True)}
        wrong = [feature for feature in used if FEATURES[feature] in PROBABLE and numbers[FEATURES[feature]] < 0]
        if not wrong:
            return numbers
        used.remove(min(wrong, key=lambda feature: numbers[FEATURES[feature]]))


def logistic_regression(features, targets, ridge=RIDGE):
    """Fit P(target) = 1 / (1 + exp(-(intercept + features @ weights))) by Newton's method.

    Args:
        features: (captions, features), float64; standardized inside.
        targets: (captions,), 0 or 1.
        ridge: penalty of the squares of the standardized weights.

    Returns the intercept and the weights, (1 + features,).
    """
    mean, deviation = features.mean(axis=0), features.std(axis=0).clip(min=1e-9)
    inputs = np.column_stack([np.ones(len(features)), (features - mean) / deviation])
    penalty = ridge * np.diag([0.0, *np.ones(features.shape[1])])
    weights = np.zeros(inputs.shape[1])
    for _ in range(NEWTON_STEPS):
        predicted = _sigmoid(inputs @ weights)
        gradient = inputs.T @ (predicted - targets) + penalty @ weights
        hessian = (inputs.T * (predicted * (1 - predicted))) @ inputs + penalty
        weights -= np.linalg.solve(hessian, gradient)
    scaled = weights[1:] / deviation
    return np.array([weights[0] - scaled @ mean, *scaled])


def summarize(supported, predicted):
    """How well predicted probabilities of support (captions,) fit what was supported (captions,), 0 or 1.

    Returns the number of captions, the share that is supported, "AUC", "ECE" (expected calibration error, ten bins of
    equal width), "bins": [[mean confidence, share supported, captions]], and "thresholds": {threshold: [captions with
    that confidence or more, of them supported]}.
    """
    bins = []
    places = np.minimum((predicted * BINS).astype(int), BINS - 1)
    for place in range(BINS):
        if (own := places == place).any():
            bins.append([predicted[own].mean(), supported[own].mean(), int(own.sum())])
    thresholds = {
        str(threshold): [int((sure := predicted >= threshold).sum()), int(supported[sure].sum())]
        for threshold in THRESHOLDS
    }
    return {
        "captions": len(supported),
        "supported": supported.mean(),
        "AUC": area_under_curve(supported, predicted),
        "ECE": sum(abs(sure - right) * count for sure, right, count in bins) / len(supported),
        "bins": bins,
        "thresholds": thresholds,
    }


def area_under_curve(targets, predicted):
    """The probability that a caption that is supported is predicted to be so more than one that is not."""
    positive, negative = predicted[targets == 1], predicted[targets == 0]
    if not len(positive) or not len(negative):
        return float("nan")
    higher = positive[:, None] - negative
    return float(((higher > 0) + 0.5 * (higher == 0)).mean())


def write_calibration(numbers, report, model, folder):
    """Write the numbers to `model`/config.json, and calibration.json and reliability.png to `folder`."""
    file, folder = Path(model, "config.json"), Path(folder)
    config = json.loads(file.read_text(encoding="utf-8")) | {"confidence": numbers}
    _write_json(file, config, indent=2, sort_keys=True)  # as transformers writes it
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "calibration.json", report, indent=1)
    with writing(folder / "reliability.png"):
        plot_reliability(report, folder / "reliability.png")


def describe(report):
    """The report as lines of text."""
    lines = []
    for name, scores in report.items():
        lines.append(
            f"{name}: {scores['supported']:.1%} of {scores['captions']} captions supported;"
            f" AUC {scores['AUC']:.3f}, ECE {scores['ECE']:.3f}"
        )
    sure, right = report["all"]["thresholds"]["0.5"]
    return "\n".join([*lines, f"confidence of 0.5 or more: {sure} captions, {right} of them supported"])


def plot_reliability(report, file):
    """Plot the share of supported captions over the confidence, and how many captions there are of each."""
    figure, axes = pyplot.subplots(1, len(report), figsize=(4 * len(report), 4), squeeze=False, sharey=True)
    for axis, (name, scores) in zip(axes[0], report.items(), strict=True):
        confidence, share, count = zip(*scores["bins"], strict=True)
        axis.plot([0, 1], [0, 1], color="gray", linewidth=1)
        axis.plot(confidence, share)
        axis.scatter(confidence, share, [10 + 400 * captions / scores["captions"] for captions in count])
        axis.set(xlim=(0, 1), ylim=(0, 1), title=f"{name}: {scores['captions']} captions", xlabel="confidence")
    axes[0, 0].set_ylabel("share supported by references")
    figure.tight_layout()
    figure.savefig(file, dpi=100)
    pyplot.close(figure)


def _fit_and_validate(features, supported):
    """The numbers of a regression, and each caption's probability by one that was fitted to the other folds."""
    predicted = np.empty(len(supported))
    folds = np.random.default_rng(SEED).permutation(len(supported)) % FOLDS
    for fold in range(FOLDS):
        own = folds == fold
        intercept, *weights = fit_numbers(features[~own], supported[~own]).values()
        predicted[own] = _sigmoid(intercept + features[own] @ weights)
    return fit_numbers(features, supported), predicted


def _suffice(supported):
    return len(supported) >= MIN_CAPTIONS and MIN_OUTCOMES <= supported.sum() <= len(supported) - MIN_OUTCOMES


def _sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def _write_json(file, values, **options):
    part = file.with_suffix(".part")
    with writing(file):
        part.write_text(json.dumps(values, **options) + "\n", encoding="utf-8")
        part.replace(file)
