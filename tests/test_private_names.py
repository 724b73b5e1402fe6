"""The private names of libraries in the table of CONTRIBUTING.md exist in the installed versions."""

import pkgutil
import re

import pytest

from tests.helpers.paths import ROOT

TABLE = re.findall(r"^\| `([\w.]+)`[^|]*\| `([^`]+)` \| ", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M)
NAMES = [row for row in TABLE if row[0].split(".")[0] in ("transformers", "gradio", "datasets")]


def test_the_table_was_read():
    assert len(NAMES) >= 6


@pytest.mark.parametrize(("name", "file"), NAMES)
def test_private_name_exists(name, file):
    pytest.importorskip(name.split(".")[0])
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        pytest.fail(f"{name} is gone from the installed version, and {file} needs it; see the table in CONTRIBUTING.md")
    last = name.split(".")[-1]
    assert last in (ROOT / file).read_text(encoding="utf-8"), f"{file} no longer uses {name}: delete its row"
