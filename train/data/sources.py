"""The data sets of a run: `sources`."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """One of the data sets of a run: on the Hub (`dataset_name`), or a folder (`data_dir`).

    `name` is what its scores are reported under, `language` is the language of its captions where the data do not say,
    and `weight` is how often each of its photos is drawn in an epoch.
    """

    name: str
    dataset_name: str | None = None
    data_dir: str | None = None
    language: str | None = None
    weight: float = 1.0


def sources(settings):
    """The data sets that the options name: first those on the Hub, then the folders.

    Raises `ValueError` if there are none, or if `data_weights` or `data_languages` do not fit them.
    """
    places = [("dataset_name", name) for name in settings.dataset_name]
    places += [("data_dir", folder) for folder in settings.data_dir]
    if not places:
        raise ValueError(
            "There is no data set to train on; give --dataset_name NAME (on the Hub) or --data_dir FOLDER."
        )
    for option, kind in (("data_weights", "weights"), ("data_languages", "languages")):
        given = getattr(settings, option)
        if given and len(given) != len(places):
            raise ValueError(
                f"--{option} gives {len(given)} {kind} for {len(places)} data sets; give one for each, first those of"
                " --dataset_name, then those of --data_dir."
            )
    if any(weight < 0 for weight in settings.data_weights) or (
        settings.data_weights and not any(settings.data_weights)
    ):
        raise ValueError("--data_weights must be at least 0, and one of them above; 1 draws each photo once an epoch.")
    names = [Path(place).resolve().name if option == "data_dir" else place for option, place in places]
    repeated = {name for name, count in Counter(names).items() if count > 1}
    names = [place if name in repeated else name for name, (_, place) in zip(names, places, strict=True)]
    weights = settings.data_weights or [1.0] * len(places)
    languages = settings.data_languages or [None] * len(places)
    return [
        Source(name, language=language, weight=weight, **{option: place})
        for name, (option, place), weight, language in zip(names, places, weights, languages, strict=True)
    ]
