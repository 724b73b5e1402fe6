"""Evaluation of a captioner without training: `--evaluate_only`."""

import json
from pathlib import Path

from captioning.coco import image_id
from captioning.saving import writing

from .loop import evaluate, explain_worker_errors
from .metrics import caption_metrics, java_metrics
from .stages.captions import Captions, group_rows, mean_loss


def evaluate_captioner(accelerator, captioner, processor, settings):
    """Caption each photo of a split once, whatever the number of processes.

    Args:
        settings: name the data set and the split; `evaluate_only` must be set.

    Returns the results in the main process, None in the others: {(photo number, language): {"set", "language", "name",
    "caption", "references", "loss", "words"}}.
    """
    stage = Captions(captioner.to(accelerator.device).eval(), processor, settings, accelerator.device)
    with accelerator.autocast(), explain_worker_errors():
        results = evaluate(stage, captioner, accelerator.prepare(stage.dataloader("validation")))
    return results if accelerator.is_main_process else None


def write_evaluation(results, folder):
    """Write `folder`/predictions.json, in the COCO results format, and `folder`/scores.json.

    An `image_id` is the number in the file name, as in COCO, otherwise the file name, otherwise the row number. Metrics
    that need Java come last, because they take minutes and may fail.

    Returns {"set/language": {"photos", "loss" (nats per word of the references), metrics}}. If there is only one data
    set and language, scores.json contains its scores alone.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    predictions = [
        {"image_id": image_id(row["name"]), "caption": row["caption"]}
        | ({"language": row["language"]} if row["language"] else {})
        for row in results.values()
    ]
    _write_json(predictions, folder / "predictions.json")
    groups = group_rows(results.values())
    scores = {name: {"photos": len(rows), "loss": mean_loss(rows)} for name, rows in groups.items()}
    for metrics in (caption_metrics, java_metrics):
        for name, rows in groups.items():
            scores[name] |= metrics(*([row[column] for row in rows] for column in ("references", "caption")))
        _write_json(scores if len(scores) > 1 else next(iter(scores.values())), folder / "scores.json")
    return scores


def _write_json(content, file):
    with writing(file):
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
