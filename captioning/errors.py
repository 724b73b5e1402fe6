"""Printing errors on the command line."""

import re
import sys

from .outputs import printable


def print_error(error):
    """Print an exception or message as one line on standard error."""
    print("error:", printable(re.sub(r"\s*\n\s*", " ", str(error))), file=sys.stderr, flush=True)
