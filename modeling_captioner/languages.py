"""The languages of a captioner, without PyTorch: `check_language`, `language_settings`."""

from collections.abc import Mapping, Sequence
from typing import Any


def check_language(language: str | None, languages: Sequence[str] | None) -> str | None:
    """The language to caption in: `language`, or by default the first of `languages`.

    Args:
        languages: those of the captioner, or None if it has one, whose captions are in no named language.

    Returns one of `languages`, or None if there are none. Raises `ValueError` for any other language.
    """
    if language is None:
        return languages[0] if languages else None
    if language in (languages or ()):
        return language
    remedy = f"choose one of {', '.join(languages)}" if languages else "this captioner has only one; leave it out"
    raise ValueError(f"language={language!r} is unknown; {remedy}.")


def language_settings(
    language: str | None, languages: Sequence[str] | None, settings: Mapping[str, dict], starts: Sequence[int] = ()
) -> dict[str, Any]:
    """The generation settings of a language that differ from those of the captioner.

    Args:
        language, languages: see `check_language`.
        settings: those of every language, `generation_config.languages`.
        starts: the first token of each caption of the batch, if the captions are begun. They say the language if
            `language` does not, and captions of several languages have only their first tokens as settings.

    Raises `ValueError` if the language is unknown or is not that of the begun captions, or if `settings` lack it.
    """
    default = check_language(language, languages)
    if default is None or languages is None:
        return {}
    if missing := [name for name in languages if "decoder_start_token_id" not in settings.get(name, ())]:
        raise ValueError(
            f"generation_config.json has no first token for the language {missing[-1]!r}; add"
            ' {"languages": {"' + missing[-1] + '": {"decoder_start_token_id": ...}}}.'
        )
    named = {settings[name]["decoder_start_token_id"]: name for name in languages}
    begun = {named.get(start) for start in starts}  # None: words without a first token, which is then added
    if language is not None and begun - {language, None}:
        raise ValueError(f"decoder_input_ids are not in language={language!r}; pass it to the processor, too.")
    if len(begun) > 1 and None not in begun:
        return {"decoder_start_token_id": list(starts)}
    said = [name for name in begun if name is not None]
    return settings[said[0] if said else default]
