"""Model cards: `model_card.md` for the shipped captioner, and one generated from the training run for all others."""

import json
from pathlib import Path

import timm
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.constants import ENDPOINT

from modeling_captioner import explain, open_photo

ROOT = Path(__file__).parents[1]
EXAMPLES = [ROOT / "demo" / "examples" / f"{name}.jpg" for name in ("astronaut", "chelsea", "coffee")]  # public domain
METRICS = {"CIDEr-D": "cider", "BLEU-4": "bleu", "ROUGE-L": "rouge"}  # our names -> the Hub's
TASK = "image-text-to-text"


def shipped_card(name):
    """The model card of the shipped captioner, for the repository `name`."""
    card = ModelCard.load(ROOT / "model_card.md")
    card.text = card.text.replace('"modeling_captioner"', f'"{name}"')
    return card


def trained_card(model, source, name, license):
    """The model card of a trained captioner.

    Args:
        model: the captioner.
        source: its folder; the card includes the training results in it (history.jsonl, settings.yaml, curves.png,
            calibration.json, reliability.png).
        name: the name of its repository.
        license: a license identifier of the Hub, such as "mit", or None if unknown.
    """
    source = Path(source)
    stages, command = _stages(source / "settings.yaml")
    last = stages[-1] if stages else {}
    results = _best(source / "history.jsonl")
    origin, base_model = _origin(stages[0]) if stages else ("weights of unknown origin", None)
    places = [last.get(option) or [] for option in ("dataset_name", "data_dir", "captions_file")]
    hub, *folders = ([place] if isinstance(place, str) else place for place in places)  # older runs had one
    data = ", ".join([*hub, *(Path(folder).resolve().name for folder in next(filter(None, folders), []))]) or "unknown"
    split = "train" if last.get("validation_fraction") == 0 else "validation"
    title = name.split("/")[-1]
    card_data = ModelCardData(
        model_name=title if results else None,
        license=license or "unknown",
        library_name="transformers",
        pipeline_tag=TASK,
        tags=["image-captioning", "image-to-text", "attention"],
        language=model.config.languages,
        datasets=hub or None,
        base_model=base_model,
        metrics=list(dict.fromkeys(METRICS[metric] for scores in results.values() for metric in scores)) or None,
        eval_results=[
            EvalResult(
                task_type=TASK,
                task_name="Image captioning",
                dataset_type=name or data,
                dataset_name=name or data,
                dataset_config=last.get("dataset_config_name"),
                dataset_split=split,
                metric_type=METRICS[metric],
                metric_name=metric,
                metric_value=round(value, 4),
            )
            for name, scores in results.items()
            for metric, value in scores.items()
        ]
        or None,
    )
    return ModelCard.from_template(
        card_data,
        template_path=Path(__file__).with_name("card.md"),
        title=title,
        name=name,
        config=model.config,
        parameters=model.num_parameters(),
        begins=origin,
        results=results,
        seen=split == "train",
        beams=last.get("num_beams"),
        words=last.get("max_new_tokens"),
        command=command,
        data=data,
        recipe=bool(stages),
        curves=(source / "curves.png").exists(),
        calibration=_calibration(source / "calibration.json") if model.config.confidence else {},
    )


def add_examples(card, model, processor, name):
    """Add the widget examples to a card: photos of the repository `name`, with the model's captions."""
    card.data["widget"] = [
        {
            "src": f"{ENDPOINT}/{name}/resolve/main/examples/{file.name}",
            "example_title": file.stem,
            "output": {"text": explain(model, processor, open_photo(file)).caption},
        }
        for file in EXAMPLES
    ]


def _stages(file):
    """The settings of all training stages, and the command line of the run."""
    if not file.exists():
        return [], ""
    text = file.read_text(encoding="utf-8", errors="surrogateescape")
    return yaml.safe_load(text), text.splitlines()[0].removeprefix("# ") if text.startswith("# ") else ""


def _best(file):
    """The metrics of the saved weights, which scored best in the last stage, {data set and language: {metric: value}}.

    The name is "" if there is only one data set and language. Returns {} if there are no metrics.
    """
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    rows = [row for row in rows if "score" in row and row["stage"] == rows[-1]["stage"]]
    best = max(rows, key=lambda row: row["score"], default={})
    results = {}
    for key, value in best.items():
        metric, _, name = key.partition("/")
        if metric in METRICS:
            results.setdefault(name, {})[metric] = value
    return {name: scores for name, scores in results.items() if name or len(results) == 1}


def _calibration(file):
    """How well the confidence fits, {data set and language, or "all": scores}, as `train/` writes it."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _origin(first):
    """A description of the initial weights, and their name if they are on the Hub."""
    if model := first["model"]:
        local = Path(model).is_dir()
        return f"the captioner `{Path(model).name if local else model}`", None if local else model
    if first["encoder_weights"] == "timm":
        name = timm.get_pretrained_cfg(first["encoder_name"]).hf_hub_id
        return f"timm's pretrained encoder `{name}` and a new decoder", name
    if first["encoder_weights"]:
        return f"the encoder's weights in `{Path(first['encoder_weights']).name}` and a new decoder", None
    return "random weights", None
