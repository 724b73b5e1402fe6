"""Judging a captioner without training it: `--evaluate_only`."""

import json
from pathlib import Path

from captioning.outputs import image_id

from .loop import evaluate, readers_told
from .metrics import caption_metrics, java_metrics
from .stages.captions import Captions, mean_loss


def evaluate_captioner(accelerator, captioner, processor, settings):
    """Caption the photos of a split, each once, whatever the number of processes.

    Args:
        settings: `evaluate_only` is set; they name the data and the split.

    Returns (judged, scores) in the main process, None in the others: {photo's number: {"name", "caption", "people",
    "loss", "words"}}, and {"photos", "loss" (nats a word of people's captions), metrics}.
    """
    stage = Captions(captioner.to(accelerator.device).eval(), processor, settings, accelerator.device)
    with accelerator.autocast(), readers_told():
        judged = evaluate(stage, captioner, accelerator.prepare(stage.batches("validation")))
    if not accelerator.is_main_process:
        return None
    if not judged:
        raise ValueError("There is no photo to judge by; look at the data set and its split.")
    people, captions = ([row[name] for row in judged.values()] for name in ("people", "caption"))
    scores = {"photos": len(judged), "loss": mean_loss(judged)}
    return judged, scores | caption_metrics(people, captions) | java_metrics(people, captions)


def write_evaluation(judged, scores, folder):
    """Write `folder`/predictions.json, in COCO's result format, and `folder`/scores.json.

    An `image_id` is the number in the file's name, as COCO's photos have it, else the name, else the row's number.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"image_id": image_id(row["name"]), "caption": row["caption"]} for row in judged.values()]
    (folder / "predictions.json").write_text(json.dumps(rows, indent=1) + "\n")
    (folder / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
