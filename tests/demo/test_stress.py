"""A short run of `tests/helpers/stress.py`."""

import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT


@pytest.mark.slow
def test_every_visitor_gets_their_own_caption_and_no_file_is_left():
    options = ["--at_once", "24", "--in_a_row", "650", "--delete_cache", "30"]
    command = [sys.executable, "-m", "tests.helpers.stress", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1_200, check=False)
    assert done.returncode == 0, done.stderr
    assert "no files left" in done.stdout
