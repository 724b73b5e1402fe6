"""Printing errors and warnings on the command line."""

import re
import sys

from .outputs import printable


def print_error(error):
    """Print an exception or message as one line on standard error."""
    _print_line("error:", error)


def print_warning(message):
    """Like `print_error`, for what does not end in a failure."""
    _print_line("warning:", message)


def _print_line(kind, message):
    print(kind, printable(re.sub(r"\s*\n\s*", " ", str(message))), file=sys.stderr, flush=True)
