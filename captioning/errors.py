"""Printing errors and warnings on the command line."""

import re
import sys


def printable(text: str) -> str:
    """Escape line breaks, tabs and other control characters in `text`."""
    control = r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"  # the last range are bytes that are not UTF-8
    return re.sub(control, lambda character: character[0].encode("unicode_escape").decode(), text)


def print_error(error: Exception | str) -> None:
    """Print an exception or message as one line on standard error."""
    _print_line("error:", error)


def print_warning(message: Exception | str) -> None:
    """Like `print_error`, for what does not end in a failure."""
    _print_line("warning:", message)


def _print_line(kind, message):
    print(kind, printable(re.sub(r"\s*\n\s*", " ", str(message))), file=sys.stderr, flush=True)
