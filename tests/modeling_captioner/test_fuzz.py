"""A small number of mutated files; `photos.py` and `entry_points.py` in tests/helpers/fuzz/ try any number."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_captioner import PhotoError, open_photo
from tests.helpers.paths import ROOT


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options"), [("photos", ["--first", "30", "--files", "300"]), ("entry_points", ["--files", "12"])]
)
def test_mutated_files_end_in_a_picture_or_a_sentence(script, options):
    done = subprocess.run(
        [sys.executable, "-m", f"tests.helpers.fuzz.{script}", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


MAGIC = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"BM",
    b"II*\0",
    b"RIFF\0\0\0\0WEBP",
    b"\0\0\1\0",
    b"P6 ",
    b"\n\5\1\x08",
)


@given(st.sampled_from(MAGIC), st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_end_in_a_picture_or_a_sentence(beginning, rest):
    try:
        said = open_photo(beginning + rest).mode
    except PhotoError as error:
        said = str(error)
    assert said == "RGB" or (said.startswith("The photo ") and said.endswith("."))
