"""Checking generation_config.json before anything is captioned: `check_generation_config`."""

import json
from pathlib import Path

from modeling_captioner.checks import check_generation


def check_generation_config(folder: str | Path) -> None:
    """Check generation_config.json in a captioner's folder, so that all engines refuse the same values.

    Raises `ValueError` with one sentence for the first value that cannot be used.
    """
    file = Path(folder, "generation_config.json")
    if not file.exists():
        return
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        languages = settings.get("languages")
        merged = [settings | own for own in ([{}] if languages is None else languages.values())]
    except (UnicodeError, json.JSONDecodeError, AttributeError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}); save the captioner again.") from error
    for each in merged:
        try:
            check_generation(each)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
