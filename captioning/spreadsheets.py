"""Tables in CSV that spreadsheet programs open as they are meant: `csv_line`, `BYTE_ORDER_MARK`."""

import csv
import io
import re

BYTE_ORDER_MARK = "\ufeff"  # without it, Excel takes UTF-8 for another encoding
FORMULA = r"'*[=+\-@\t\r]"  # how cells begin that are formulas, or escaped ones


def csv_line(*values: str | float | None) -> str:
    """The values as a line of CSV without its end.

    A text that a spreadsheet would run as a formula, such as "=1+1.png", gets an apostrophe before it.
    """
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([_escape(value) for value in values])
    return line.getvalue()


def parse_csv_line(line: str) -> list[str]:
    """The values of a line that `csv_line` wrote, as strings."""
    return [value[1:] if re.match(f"'{FORMULA}", value) else value for value in next(csv.reader([line]))]


def _escape(value: str | float | None) -> str | float | None:
    return f"'{value}" if isinstance(value, str) and re.match(FORMULA, value) else value
