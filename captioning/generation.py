"""Checking the settings of generation before anything is captioned: `check_generation`."""

import json
from pathlib import Path
from typing import Any

# The least value of each setting, a whole number.
WHOLE_NUMBERS = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "max_new_tokens": 1,
    "max_length": 1,
    "min_new_tokens": 0,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "top_k": 0,
}
NUMBERS = {"temperature": 0.01, "top_p": 0.01, "length_penalty": -100, "repetition_penalty": 0.01}


def check_generation(folder: str | Path) -> None:
    """Check generation_config.json in a captioner's folder, so that all engines refuse the same values.

    Raises `ValueError` with one sentence for the first value that cannot be used. `None` stands for the default.
    """
    file = Path(folder, "generation_config.json")
    if not file.exists():
        return
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        languages = settings.get("languages")
        for own in [{}] if languages is None else languages.values():
            _check(settings | own, file)
    except (UnicodeError, json.JSONDecodeError, AttributeError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}); save the captioner again.") from error


def _check(settings: dict[str, Any], file: Path) -> None:
    for kinds, kind, minima in ((int, "whole number", WHOLE_NUMBERS), (int | float, "number", NUMBERS)):
        for name, least in minima.items():
            value = settings.get(name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, kinds) or not value >= least):
                raise ValueError(f"{file} sets {name} to {value!r}; it must be a {kind} of at least {least}.")
    beams, captions = settings.get("num_beams") or 1, settings.get("num_return_sequences") or 1
    if captions > beams and not settings.get("do_sample"):
        raise ValueError(f"{file} sets num_return_sequences to {captions}, more than num_beams, {beams}; lower it.")
