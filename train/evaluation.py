"""Evaluation of a captioner without training: `--evaluate_only`."""

import json
from pathlib import Path

from captioning.coco import image_id

from .loop import evaluate, explain_worker_errors
from .metrics import caption_metrics, java_metrics
from .stages.captions import Captions, group_rows, mean_loss


def evaluate_captioner(accelerator, captioner, processor, settings):
    """Caption each photo of a split once, whatever the number of processes.

    Args:
        settings: name the data set and the split; `evaluate_only` must be set.

    Returns (results, scores) in the main process, None in the others. `results` is {(photo number, language): {"set",
    "language", "name", "caption", "references", "loss", "words"}}; `scores` is {"photos", "loss" (nats per word of the
    references), metrics}, or with several data sets or languages {"set/language": these scores}.
    """
    stage = Captions(captioner.to(accelerator.device).eval(), processor, settings, accelerator.device)
    with accelerator.autocast(), explain_worker_errors():
        results = evaluate(stage, captioner, accelerator.prepare(stage.dataloader("validation")))
    if not accelerator.is_main_process:
        return None
    scores = {name: _scores(rows) for name, rows in group_rows(results.values()).items()}
    return results, scores if len(scores) > 1 else next(iter(scores.values()))


def _scores(rows):
    references, captions = ([row[name] for row in rows] for name in ("references", "caption"))
    scores = {"photos": len(rows), "loss": mean_loss(rows)}
    return scores | caption_metrics(references, captions) | java_metrics(references, captions)


def write_evaluation(results, scores, folder):
    """Write `folder`/predictions.json, in the COCO results format, and `folder`/scores.json.

    An `image_id` is the number in the file name, as in COCO, otherwise the file name, otherwise the row number.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"image_id": image_id(row["name"]), "caption": row["caption"]}
        | ({"language": row["language"]} if row["language"] else {})
        for row in results.values()
    ]
    (folder / "predictions.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (folder / "scores.json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
