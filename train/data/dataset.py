"""Any captioned set as one shape: `captioned_dataset` gives {split: Dataset} with `image` and `captions`."""

import io
import logging
import os

from accelerate import PartialState
from datasets import Dataset, Features, Image, List, Value, concatenate_datasets, load_dataset, load_dataset_builder
from tqdm.auto import tqdm

from modeling_captioner import PhotoError, open_photo

from .captions import CaptionReader
from .columns import find_image_column, image_column, photo_keys
from .download import cached_file, download, is_address
from .layouts import built_splits, load_folder

FEATURES = Features({"image": Image(decode=False), "captions": List(Value("string"))})
KARPATHY = {"train": "train", "restval": "train", "val": "validation", "test": "test"}
HELD_OUT = ("validation", "test")
TRIED = 100  # photos of which one must be there
NAMED = 20  # skipped photos that the log names
PHOTOS_PER_PROCESS = 1000  # at least, so that starting it is worth its while
logger = logging.getLogger(__name__)


def captioned_dataset(settings, wanted=("train", "validation"), photos=True):
    """Load the captioned photos that `settings` name.

    Args:
        wanted: which of "train" and "validation"; the photos of the other are not touched.
        photos: False for the captions alone, where no photo is opened.

    Returns {"train": Dataset, "validation": Dataset} with the columns `image` ({"path", "bytes"}, not yet decoded, but
    tried) and `captions` (list of strings, as people wrote them). Raises `ValueError` for a set without photos or
    captions, or with more broken photos than `settings.max_broken_fraction`.
    """
    with PartialState().main_process_first():  # the first one fills the caches
        columns = _two_columns if photos else _captions
        splits = {name: columns(split, settings) for name, split in load_splits(settings).items()}
        splits = _with_validation(_karpathy(splits), settings)
        for name in wanted:
            if not len(splits[name]):
                raise ValueError(f"The split {name!r} has no photo with a caption; look at the data set and its files.")
        return {name: _without_broken(splits[name], name, settings) if photos else splits[name] for name in wanted}


def load_splits(settings, streaming=False):
    """The set's own splits with its own columns."""
    if settings.dataset_name and settings.data_dir:
        raise ValueError("Both --dataset_name and --data_dir name a data set; give one of them.")
    if settings.dataset_name:
        builder = load_dataset_builder(settings.dataset_name, settings.dataset_config_name)
        return built_splits(builder, settings, streaming)
    if settings.data_dir:
        return load_folder(settings, streaming)
    raise ValueError("Say what to train on: --dataset_name NAME on the Hub or --data_dir FOLDER on disk.")


def _karpathy(splits):
    """Rows where the column `split` says that they belong (Karpathy & Fei-Fei 2015); "restval" counts as training."""
    parts = {}
    for name, split in splits.items():
        names = split["split"][:] if "split" in split.column_names else [name]
        if not set(names) <= KARPATHY.keys():  # a column of something else
            names = [name]
        if "split" in split.column_names:
            split = split.remove_columns("split")
        for wanted in dict.fromkeys(KARPATHY.get(one, one) for one in names):
            rows = [row for row, one in enumerate(names) if KARPATHY.get(one, one) == wanted]
            parts.setdefault(wanted, []).append(split if len(rows) == len(names) else split.select(rows))
    return {name: concatenate_datasets(some) if len(some) > 1 else some[0] for name, some in parts.items()}


def _two_columns(split, settings):
    """The columns `image` and `captions`, and `split` where there is one, of the rows that have captions."""
    image = image_column(split, settings)
    captions = _texts(split, settings)
    photos = split.select_columns([name for name in split.column_names if name in (image, "split")])
    photos = photos.rename_columns({image: "image"} if image != "image" else {})
    # Not by map, which would copy the photos.
    photos = photos.cast_column("image", FEATURES["image"]).add_column(
        "captions", captions, feature=FEATURES["captions"]
    )
    return photos if all(captions) else photos.select([row for row, texts in enumerate(captions) if texts])


def _captions(split, settings):
    """The columns `captions` and `split` alone, of the same photos in the same order."""
    captions = _texts(split, settings)
    columns = {"split": split["split"][:]} if "split" in split.column_names else {}
    rows = Dataset.from_dict(columns | {"captions": captions}).cast_column("captions", FEATURES["captions"])
    return rows.select([row for row, texts in enumerate(captions) if texts])


def _texts(split, settings):
    """The captions of each row. Where a photo has a row for each of them, they all are in its first.

    Otherwise what is learnt from and what is validated with might have photos in common.
    """
    reader = CaptionReader(split, settings)
    cells = zip(*(split[name][:] for name in reader.columns), strict=True)
    captions = [reader(dict(zip(reader.columns, row, strict=True))) for row in cells]
    if empty := captions.count([]):
        logger.warning("%d of %d rows have no caption in %s.", empty, len(captions), " or ".join(reader.columns))
    image = settings.image_column or find_image_column(split)
    if not captions or image is None or any(len(texts) > 1 for texts in captions):
        return captions
    together, first = [[] for _ in captions], {}
    for row, (key, texts) in enumerate(zip(photo_keys(split, image, _processes(len(split))), captions, strict=True)):
        together[row if key is None else first.setdefault(key, row)].extend(texts)
    return together


def _with_validation(splits, settings):
    """The set's own validation split, or a share of the photos, drawn by the seed."""
    splits = {name: split for name, split in splits.items() if len(split) or name not in HELD_OUT}
    if not any(map(len, splits.values())):
        raise ValueError("The data set has no captions; look at its columns, and at its files.")
    train = splits[training_split(splits)].shuffle(seed=settings.seed)
    name = validation_split(splits, settings)
    if settings.validation_fraction == 0 and not settings.eval_split:
        train = validation = train.select(range(min(len(train), settings.max_train_samples or len(train))))
    elif name:
        validation = splits[name]
    elif round(len(train) * settings.validation_fraction) < 1:
        logger.warning("%d photos are too few to keep some for validation: it uses the training photos.", len(train))
        validation = train
    else:
        parts = train.train_test_split(test_size=settings.validation_fraction, seed=settings.seed)
        train, validation = parts["train"], parts["test"]
    return {
        "train": train.select(range(min(len(train), settings.max_train_samples or len(train)))),
        "validation": validation.select(range(min(len(validation), settings.max_eval_samples or len(validation)))),
    }


def validation_split(splits, settings):
    """The name of the split to validate on; None where a share of the training photos is to be kept for it."""
    wanted = KARPATHY.get(settings.eval_split, settings.eval_split)
    if wanted in splits:
        return wanted
    if wanted and wanted != "validation":
        raise ValueError(f"eval_split={wanted!r} is not among the set's splits {', '.join(splits)}.")
    if training_split(splits) in HELD_OUT and not settings.evaluate_only:
        return None
    return next((name for name in HELD_OUT if name in splits), None)


def training_split(splits):
    """The name of the split to train on: "train", one of another name, or in want of it one that is held out."""
    others = (name for name in splits if name not in HELD_OUT)
    return next(name for name in ("train", *others, *HELD_OUT) if name in splits)


def _without_broken(split, name, settings):
    """The photos that can be opened; those at addresses are fetched before. The others are named in the log."""
    count = len(split)
    split, reasons = _fetched(split, name, settings)
    tried = split.map(
        lambda row: {"reason": _reason(row)},
        remove_columns=split.column_names,
        num_proc=_processes(count),
        desc=f"trying the photos of {name}",
    )["reason"][:]  # cached by `datasets`
    reasons += filter(None, tried)
    _check_broken(reasons, count, name, settings)
    for reason in reasons[:NAMED]:
        logger.warning("Skipped: %s", reason)
    if reasons:
        logger.warning("%d of %d photos in the split %r are skipped.", len(reasons), count, name)
    return split.select([row for row, reason in enumerate(tried) if not reason]) if any(tried) else split


def _fetched(split, name, settings):
    """The photos with files in place of addresses, and a list of reasons why others are missing."""
    paths = paths_of(split)
    addresses = [path for path in dict.fromkeys(paths) if is_address(path)]
    if not addresses or split[paths.index(addresses[0])]["image"]["bytes"]:
        return split, []
    reasons = {}
    arriving = download(addresses, settings.download_workers)
    bar = tqdm(arriving, total=len(addresses), desc=f"fetching the photos of {name}")
    for count, (address, reason) in enumerate(bar, start=1):
        if reason:
            reasons[address] = reason
            _check_broken(list(reasons.values()), len(split), name, settings)
            if len(reasons) == count == TRIED:
                raise ValueError(f"None of the first {TRIED} photos can be fetched; the last: {reason}")
    split = split.select([row for row, path in enumerate(paths) if path not in reasons])
    # Not from the cache of `datasets`, which does not notice where the files would lie now.
    split = split.map(_file_of_address, load_from_cache_file=False, desc="files of photos")
    return split, list(reasons.values())


def _file_of_address(row):
    path = row["image"]["path"]
    return {"image": {"path": str(cached_file(path)) if is_address(path) else path, "bytes": None}}


def _check_broken(reasons, count, name, settings):
    if len(reasons) > settings.max_broken_fraction * count:
        raise ValueError(
            f"{len(reasons)} of {count} photos in the split {name!r} are broken, more than"
            f" max_broken_fraction={settings.max_broken_fraction} allows; the first: {reasons[0]}"
        )


def _processes(photos):
    """Processes that decode so many photos, one a core; None where they are too few to start any."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processes = min(cores, photos // PHOTOS_PER_PROCESS)
    return processes if processes > 1 else None


def _reason(row):
    try:
        photo_of(row)
    except PhotoError as error:
        return str(error)
    return ""


def unlabelled_photos(settings):
    """The photos of `settings.photo_dirs`, whatever their labels: a Dataset with the column `image`."""
    sets = [load_dataset(folder, split="train").select_columns("image") for folder in settings.photo_dirs]
    if not sets:
        raise ValueError("The stage distil learns from photos without captions; name folders of them: --photo_dirs.")
    return concatenate_datasets([one.cast_column("image", Image(decode=False)) for one in sets])


def photo_of(row):
    """The photo of a data set's row, by the one way that photos come in. Raises `PhotoError`."""
    image = row["image"]
    if isinstance(image, PhotoError):
        raise image
    if image is None:
        raise PhotoError("A photo of the data set is missing; its row has captions alone.")
    if image["bytes"] is None:
        if "://" in image["path"]:
            raise PhotoError(f"{image['path']} is neither a file nor a web address (http, https); download it first.")
        return open_photo(image["path"])
    file = io.BytesIO(image["bytes"])
    file.name = image["path"] or "A photo of the data set"
    return open_photo(file)


def paths_of(photos):
    """The path of each photo, or None where it has none, without reading any photo."""
    # A concatenated data set has a format that would leave the flattened columns out.
    return photos.with_format(None).select_columns("image").flatten()["image.path"][:]


def names_of(photos):
    """A name for each photo, to tell people of it: its file's, or its number in the set."""
    return [path.rpartition("/")[2] if path else str(number) for number, path in enumerate(paths_of(photos))]
