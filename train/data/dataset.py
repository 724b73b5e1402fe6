"""Loading captioned data sets: `captioned_dataset` returns {split: Dataset} with the columns `image` and `captions`."""

import io
import logging

from accelerate import PartialState
from datasets import Dataset, Features, Image, List, Value, concatenate_datasets, load_dataset_builder
from tqdm.auto import tqdm

from modeling_captioner import PhotoError, open_photo
from modeling_captioner.cores import usable_cores

from .captions import CaptionReader
from .columns import find_image_column, image_column, photo_keys
from .download import cached_file, download, is_url
from .layouts import build_splits, load_folder, load_photo_folder
from .sources import sources

FEATURES = Features(
    {"image": Image(decode=False), "captions": List(Value("string")), "languages": List(Value("string"))}
)
KARPATHY = {"train": "train", "restval": "train", "val": "validation", "test": "test"}
HELD_OUT = ("validation", "test")
MIN_DOWNLOADS = 100  # stop if the first so many downloads all fail
MAX_LOGGED = 20  # skipped photos to log individually
PHOTOS_PER_PROCESS = 1000  # the minimum for which starting a process pays off
logger = logging.getLogger(__name__)


def captioned_datasets(settings, names=("train", "validation"), photos=True, languages=None):
    """Load all data sets of a run: {name of the data set: {split: Dataset}}; see [`captioned_dataset`].

    With a `validation_fraction` of 0, a data set without a validation split is not validated on if another one has it.
    """
    all_sources = sources(settings)
    validated = [source for source in all_sources if _has_validation_split(source, settings)]
    return {
        source.name: captioned_dataset(
            source,
            settings,
            [name for name in names if name != "validation" or not validated or source in validated],
            photos,
            languages,
            own_validation=len(all_sources) > 1 and source in validated,
        )
        for source in all_sources
    }


def _has_validation_split(source, settings):
    """Whether a data set, one of several, is validated on even though nothing is to be held out."""
    if settings.validation_fraction or len(settings.dataset_name) + len(settings.data_dir) == 1:
        return True
    splits = load_splits(source, settings)
    names = {KARPATHY.get(name, name) for name in splits}
    by_column = any("split" in split.column_names for split in splits.values())
    return by_column or bool(names.intersection(HELD_OUT) and names.difference(HELD_OUT))


def captioned_dataset(
    source, settings, names=("train", "validation"), photos=True, languages=None, own_validation=False
):
    """Load the captioned photos of a data set.

    Args:
        source: a [`Source`].
        names: the splits to return, "train" and "validation"; photos of the other one are not read.
        photos: whether to load the photos; if False, only the captions are read.
        languages: languages of a captioner with several.
        own_validation: whether a `validation_fraction` of 0 means to validate on the data set's own validation split
            rather than on the training photos.

    Returns {"train": Dataset, "validation": Dataset} with the columns `image` ({"path", "bytes"}, not decoded, but
    checked), `captions` (list of strings) and `languages` (the language of each caption; None without `languages`).
    Raises `ValueError` if there are no photos or no captions, or if the fraction of broken photos exceeds
    `settings.max_broken_fraction`.
    """
    with PartialState().main_process_first():  # which fills the caches
        select_columns = _photos_and_captions if photos else _captions_only
        splits = load_splits(source, settings)
        splits = {name: select_columns(split, settings, source, languages) for name, split in splits.items()}
        splits = _train_validation_split(_karpathy_splits(splits), settings, own_validation)
        for name in names:
            if not len(splits[name]):
                raise ValueError(
                    f"The split {name!r} of {source.name} has no photos with captions; check the files of the data set."
                )
        return {name: _drop_broken(splits[name], name, settings) if photos else splits[name] for name in names}


def load_splits(source, settings, streaming=False):
    """Load a data set with its original splits and columns."""
    if source.dataset_name:
        builder = load_dataset_builder(source.dataset_name, settings.dataset_config_name)
        return build_splits(builder, settings, streaming)
    return load_folder(source.data_dir, settings, streaming)


def _karpathy_splits(splits):
    """Regroup the rows by the column `split` if there is one (Karpathy & Fei-Fei 2015); "restval" joins "train"."""
    parts = {}
    for name, split in splits.items():
        names = split["split"][:] if "split" in split.column_names else [name]
        if not set(names) <= KARPATHY.keys():  # the column has another meaning
            names = [name]
        if "split" in split.column_names:
            split = split.remove_columns("split")
        names = [KARPATHY.get(name, name) for name in names]
        for target in dict.fromkeys(names):
            rows = [row for row, name in enumerate(names) if name == target]
            parts.setdefault(target, []).append(split if len(rows) == len(names) else split.select(rows))
    return {name: concatenate_datasets(sets) if len(sets) > 1 else sets[0] for name, sets in parts.items()}


def _photos_and_captions(split, settings, source, languages):
    """Keep the columns `image`, `captions`, `languages` and, if there is one, `split`, and the rows that have
    captions."""
    image = image_column(split, settings)
    captions = _read_captions(split, settings, source, languages)
    photos = split.select_columns([name for name in split.column_names if name in (image, "split")])
    photos = photos.rename_columns({image: "image"} if image != "image" else {})
    # `map` would copy the photos.
    photos = photos.cast_column("image", FEATURES["image"])
    for name, values in _caption_columns(captions).items():
        photos = photos.add_column(name, values, feature=FEATURES[name])
    return photos if all(captions) else photos.select([row for row, texts in enumerate(captions) if texts])


def _captions_only(split, settings, source, languages):
    """Like [`_photos_and_captions`], without the column `image`."""
    captions = _read_captions(split, settings, source, languages)
    columns = {"split": split["split"][:]} if "split" in split.column_names else {}
    rows = Dataset.from_dict(columns | _caption_columns(captions))
    for name in ("captions", "languages"):
        rows = rows.cast_column(name, FEATURES[name])
    return rows.select([row for row, texts in enumerate(captions) if texts])


def _caption_columns(captions):
    """The columns `captions` and `languages` of lists of (language, caption)."""
    return {
        "captions": [[text for _, text in pairs] for pairs in captions],
        "languages": [[language for language, _ in pairs] for pairs in captions],
    }


def _read_captions(split, settings, source, languages):
    """Read the captions of each row, a list of (language, caption).

    If a photo has one row per caption, all its captions go to its first row, because otherwise the training and
    validation splits might share photos.
    """
    reader = CaptionReader(split, settings, source, languages)
    cells = zip(*(split[name][:] for name in reader.columns), strict=True)
    captions = [reader(dict(zip(reader.columns, row, strict=True))) for row in cells]
    if empty := captions.count([]):
        logger.warning("%d of %d rows have no caption in %s.", empty, len(captions), " or ".join(reader.columns))
    image = settings.image_column or find_image_column(split)
    if not captions or image is None or any(len(texts) > 1 for texts in captions):
        return captions
    merged, first_rows = [[] for _ in captions], {}
    for row, (key, texts) in enumerate(zip(photo_keys(split, image, _num_proc(len(split))), captions, strict=True)):
        merged[row if key is None else first_rows.setdefault(key, row)].extend(texts)
    return merged


def _train_validation_split(splits, settings, own_validation):
    """Select the training and validation splits; without a validation split, hold out a random part of the photos."""
    splits = {name: split for name, split in splits.items() if len(split) or name not in HELD_OUT}
    if not any(map(len, splits.values())):
        raise ValueError("The data set has no captions; check its columns and files.")
    train = splits[training_split(splits)].shuffle(seed=settings.seed)
    name = validation_split(splits, settings)
    if settings.validation_fraction == 0 and not settings.eval_split and not (own_validation and name):
        train = validation = train.select(range(min(len(train), settings.max_train_samples or len(train))))
    elif name:
        validation = splits[name]
    elif round(len(train) * settings.validation_fraction) < 1:
        logger.warning("%d photos are too few to hold some out; validating on the training photos.", len(train))
        validation = train
    else:
        parts = train.train_test_split(test_size=settings.validation_fraction, seed=settings.seed)
        train, validation = parts["train"], parts["test"]
    return {
        "train": train.select(range(min(len(train), settings.max_train_samples or len(train)))),
        "validation": validation.select(range(min(len(validation), settings.max_eval_samples or len(validation)))),
    }


def validation_split(splits, settings):
    """Name of the split to validate on; None if part of the training photos should be held out instead."""
    requested = KARPATHY.get(settings.eval_split, settings.eval_split)
    if requested in splits:
        return requested
    if requested and requested != "validation":
        raise ValueError(f"eval_split={requested!r} is not a split of the data set; choose one of {', '.join(splits)}.")
    if training_split(splits) in HELD_OUT and not settings.evaluate_only:
        return None
    return next((name for name in HELD_OUT if name in splits), None)


def training_split(splits):
    """Name of the split to train on: "train", otherwise a split with another name, otherwise a held-out split."""
    others = (name for name in splits if name not in HELD_OUT)
    return next(name for name in ("train", *others, *HELD_OUT) if name in splits)


def _drop_broken(split, name, settings):
    """Download the photos given by URL, and drop and log those that cannot be downloaded or opened."""
    count = len(split)
    split, errors = _download_photos(split, name, settings)
    check_results = split.select_columns("image").map(  # without the captions, which are slow to convert
        lambda row: {"error": _photo_error(row)},
        remove_columns="image",
        num_proc=_num_proc(count),
        desc=f"checking the photos of {name}",
    )["error"][:]  # cached by `datasets`
    errors += filter(None, check_results)
    _limit_broken(errors, count, name, settings)
    for error in errors[:MAX_LOGGED]:
        logger.warning("Skipped: %s", error)
    if errors:
        logger.warning("%d of %d photos in the split %r are skipped.", len(errors), count, name)
    if not any(check_results):
        return split
    return split.select([row for row, error in enumerate(check_results) if not error])


def _download_photos(split, name, settings):
    """Replace the URLs by paths of downloaded files. Returns the split and a list of error messages."""
    paths = paths_of(split)
    urls = [path for path in dict.fromkeys(paths) if is_url(path)]
    if not urls or split[paths.index(urls[0])]["image"]["bytes"]:
        return split, []
    errors = {}
    completed = download(urls, settings.download_workers)
    progress_bar = tqdm(completed, total=len(urls), desc=f"downloading the photos of {name}")
    for count, (url, error) in enumerate(progress_bar, start=1):
        if error:
            errors[url] = error
            _limit_broken(list(errors.values()), len(split), name, settings)
            if len(errors) == count == MIN_DOWNLOADS:
                raise ValueError(f"None of the first {MIN_DOWNLOADS} photos could be downloaded; the last: {error}")
    split = split.select([row for row, path in enumerate(paths) if path not in errors])
    # Not from the cache of `datasets`, which does not notice that the folder of the downloads has changed.
    split = split.map(_replace_url, load_from_cache_file=False, desc="paths of photos")
    return split, list(errors.values())


def _replace_url(row):
    path = row["image"]["path"]
    return {"image": {"path": str(cached_file(path)) if is_url(path) else path, "bytes": None}}


def _limit_broken(errors, count, name, settings):
    """Raise `ValueError` if more than `max_broken_fraction` of the photos are broken."""
    if len(errors) > settings.max_broken_fraction * count:
        raise ValueError(
            f"{len(errors)} of {count} photos in the split {name!r} are broken, more than"
            f" max_broken_fraction={settings.max_broken_fraction} allows; the first: {errors[0]}"
        )


def _num_proc(photos):
    """Number of processes to decode this many photos, at most one per core; None if no process should be started."""
    processes = min(usable_cores(), photos // PHOTOS_PER_PROCESS)
    return processes if processes > 1 else None


def _photo_error(row):
    """Why a photo cannot be opened; "" if it can."""
    try:
        photo_of(row, side=1)  # which is faster, and finds the same faults
    except PhotoError as error:
        return str(error)
    return ""


def unlabeled_photos(settings):
    """Load the photos in `settings.photo_dirs` without their labels: a `Dataset` with the column `image`."""
    sets = [load_photo_folder(folder).select_columns("image") for folder in settings.photo_dirs]
    if not sets:
        raise ValueError("The stage distil learns from photos without captions; give their folders with --photo_dirs.")
    return concatenate_datasets([photos.cast_column("image", Image(decode=False)) for photos in sets])


def photo_of(row, side=None):
    """Open the photo in a row of a data set with [`open_photo`], at a size of at least `side`. Raises `PhotoError`."""
    image = row["image"]
    if isinstance(image, PhotoError):
        raise image
    if image is None:
        raise PhotoError("A photo of the data set is missing: its row contains only captions.")
    if image["bytes"] is None:
        if "://" in image["path"]:
            raise PhotoError(f"{image['path']} is neither a file nor an http(s) URL; download it first.")
        return open_photo(image["path"], side=side)
    file = io.BytesIO(image["bytes"])
    file.name = image["path"] or "A photo of the data set"
    return open_photo(file, side=side)


def pixel_values(processor, rows):
    """The pixel values of the photos in rows, (photos, 3, height, width)."""
    photos = [photo_of(row, side_of(processor)) for row in rows]
    return processor(images=photos, return_tensors="pt").pixel_values


def side_of(processor):
    """The side length in pixels that a processor resizes photos to."""
    size = processor.image_processor.size
    return max(size["height"], size["width"])


def captions_of(photos):
    """All captions of a split, a list of (language, caption)."""
    rows = zip(photos["languages"], photos["captions"], strict=True)
    return [pair for languages, texts in rows for pair in zip(languages, texts, strict=True)]


def paths_of(photos):
    """Path of each photo, or None if it has none. Does not read the photos."""
    # The format of a concatenated data set would leave out the flattened columns.
    return photos.with_format(None).select_columns("image").flatten()["image.path"][:]


def names_of(photos):
    """A name of each photo for messages: its file name, or its number in the data set."""
    return [path.rpartition("/")[2] if path else str(number) for number, path in enumerate(paths_of(photos))]
