"""The languages of a captioner, without PyTorch: `check_language`."""


def check_language(language, languages):
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
