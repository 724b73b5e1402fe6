"""Captioned photos on disk, in the layouts that people have them in: `load_folder`."""

import csv
import json
from pathlib import Path

from datasets import Dataset, DatasetDict, load_dataset


def load_folder(folder, streaming=False):
    """The splits of the data set in `folder`.

    Recognised are COCO's own layout (annotations/captions_*.json beside train2017/, val2017/; 2014 likewise),
    Flickr8k's and Flickr30k's (Images/ with captions.txt, or *.token.txt with lists of the splits' photos), webdataset
    shards (*.tar), and what `load_dataset` knows: parquet files, and pictures with metadata.jsonl or metadata.csv.

    Returns a `DatasetDict`; with `streaming` an `IterableDatasetDict` where the photos lie in shards. Raises
    `ValueError` for a folder that does not exist or holds nothing of these.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"data_dir={str(folder)!r} is not a folder; give one that holds photos and their captions.")
    if list(folder.glob("annotations/captions_*.json")):
        return _coco(folder)
    if list(folder.rglob("*.token.txt")) or (folder / "captions.txt").is_file():
        return _flickr(folder)
    if shards := sorted(map(str, folder.rglob("*.tar"))):
        return load_dataset("webdataset", data_files=shards, streaming=streaming)
    if not any(folder.rglob("*.parquet")) and not any(folder.rglob("metadata.*")):
        raise ValueError(
            f"data_dir={str(folder)!r} holds no captions; known are parquet files, pictures with metadata.jsonl or"
            " metadata.csv, webdataset shards (*.tar), and the layouts of COCO, Flickr8k and Flickr30k."
        )
    return load_dataset(str(folder), streaming=streaming)


def _coco(folder):
    splits = {}
    for file in sorted(folder.glob("annotations/captions_*.json")):
        photos = folder / file.stem.removeprefix("captions_")  # train2017
        annotations = json.loads(file.read_text(encoding="utf-8"))
        captions = {}
        for annotation in annotations["annotations"]:
            captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
        names = {image["id"]: image["file_name"] for image in annotations["images"]}
        split = "train" if photos.name.startswith("train") else "validation"
        splits[split] = _photos({str(photos / name): captions.get(number, []) for number, name in names.items()})
    return DatasetDict(splits)


def _flickr(folder):
    """Lines "photo.jpg#0<TAB>caption", or CSV "photo.jpg,caption" as on Kaggle, and lists of the splits' photos."""
    captions = {}
    token_files = sorted(folder.rglob("*.token.txt"))
    if token_files:
        for line in token_files[0].read_text(encoding="utf-8").splitlines():
            name, _, caption = line.partition("\t")
            captions.setdefault(name.partition("#")[0], []).append(caption)
    else:
        with open(folder / "captions.txt", encoding="utf-8", newline="") as file:
            for name, caption in list(csv.reader(file))[1:]:
                captions.setdefault(name, []).append(caption)
    found = {file.name: str(file) for file in sorted(folder.rglob("*.jpg"))}
    # Flickr8k's list names a few photos that the archive lacks.
    captions = {name: texts for name, texts in captions.items() if name in found}
    splits = {}
    for split, word in (("train", "train"), ("validation", "dev"), ("test", "test")):
        for file in folder.rglob(f"*{word}Images.txt"):  # Flickr_8k.trainImages.txt
            names = [name for name in file.read_text().split() if name in captions]
            splits[split] = _photos({found[name]: captions[name] for name in names})
    return DatasetDict(splits or {"train": _photos({found[name]: texts for name, texts in captions.items()})})


def _photos(captions):
    """{path: captions} as a data set."""
    return Dataset.from_list([{"image": path, "captions": texts} for path, texts in captions.items()])
