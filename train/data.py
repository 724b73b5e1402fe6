"""Any captioned set as one shape: `captioned_dataset` gives {split: Dataset} with `image` and `captions`."""

import io
import json
from pathlib import Path

from datasets import Dataset, DatasetDict, Features, Image, List, Value, concatenate_datasets, load_dataset

from modeling_captioner import PhotoError, open_photo

FEATURES = Features({"image": Image(decode=False), "captions": List(Value("string"))})


def captioned_dataset(settings):
    """Load the captioned photos that `settings` name.

    Returns {"train": Dataset, "validation": Dataset} with the columns `image` ({"path", "bytes"}, not yet decoded) and
    `captions` (list of strings, as people wrote them). Raises `ValueError` for a set without photos or captions.
    """
    if settings.dataset_name:
        splits = load_dataset(settings.dataset_name, settings.dataset_config_name)
    elif settings.data_dir:
        splits = _from_disk(Path(settings.data_dir))
    else:
        raise ValueError("Say what to train on: --dataset_name NAME on the Hub or --data_dir FOLDER on disk.")
    splits = DatasetDict({name: _two_columns(split, settings) for name, split in splits.items()})
    return _with_validation(splits, settings)


def _from_disk(folder):
    if not folder.is_dir():
        raise ValueError(f"data_dir={folder} is not a folder.")
    coco = sorted(folder.glob("annotations/captions_*.json"))
    return _coco(folder, coco) if coco else load_dataset(str(folder))


def _coco(folder, files):
    """COCO's own layout: annotations/captions_train2017.json beside train2017/ (2014 likewise)."""
    splits = DatasetDict()
    for file in files:
        year_split = file.stem.removeprefix("captions_")  # train2017
        annotations = json.loads(file.read_text())
        captions = {}
        for annotation in annotations["annotations"]:
            captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
        rows = [
            {"image": str(folder / year_split / image["file_name"]), "captions": captions.get(image["id"], [])}
            for image in annotations["images"]
        ]
        name = "train" if year_split.startswith("train") else "validation"
        splits[name] = Dataset.from_list(rows)
    return splits


def _two_columns(split, settings):
    image = settings.image_column or _first(split, ("image",), "photos", "--image_column")
    caption = settings.caption_column or _first(split, ("captions", "caption", "text"), "captions", "--caption_column")
    split = split.select_columns([image, caption]).rename_columns({image: "image", caption: "captions"})
    if not isinstance(split.features["captions"], List):
        split = split.map(lambda row: {"captions": [row["captions"]]})
    return split.cast(FEATURES)


def _first(split, names, what, option):
    found = [name for name in names if name in split.column_names]
    if not found:
        raise ValueError(
            f"No column of {what} among {', '.join(split.column_names)}; known are {', '.join(names)}. Name it: {option}."
        )
    return found[0]


def _with_validation(splits, settings):
    """The set's own validation split, or a share of the photos, drawn by the seed."""
    train = splits["train"].shuffle(seed=settings.seed)
    validation = splits.get("validation", splits.get("test"))
    if validation is None:
        parts = train.train_test_split(test_size=settings.validation_fraction, seed=settings.seed)
        train, validation = parts["train"], parts["test"]
    return {
        "train": train.select(range(min(len(train), settings.max_train_samples or len(train)))),
        "validation": validation.select(range(min(len(validation), settings.max_eval_samples or len(validation)))),
    }


def unlabelled_photos(settings):
    """The photos of `settings.photo_dirs`, whatever their labels: a Dataset with the column `image`."""
    sets = [load_dataset(folder, split="train").select_columns("image") for folder in settings.photo_dirs]
    if not sets:
        raise ValueError("The stage distil learns from photos without captions; name folders of them: --photo_dirs.")
    return concatenate_datasets([one.cast(Features({"image": Image(decode=False)})) for one in sets])


def photo_of(row):
    """The photo of a data set's row, by the one way that photos come in. Raises `PhotoError`."""
    image = row["image"]
    if image["bytes"] is None:
        return open_photo(image["path"])
    file = io.BytesIO(image["bytes"])
    file.name = image["path"] or "A photo of the data set"
    return open_photo(file)


__all__ = ["PhotoError", "captioned_dataset", "photo_of", "unlabelled_photos"]
