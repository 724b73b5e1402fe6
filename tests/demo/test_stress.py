"""A short run of `tests/helpers/stress.py`."""

import subprocess
import sys

from tests.helpers.paths import ROOT


def test_every_visitor_gets_their_own_caption_and_no_file_is_left():
    command = [
        sys.executable,
        "-m",
        "tests.helpers.stress",
        "--at_once",
        "12",
        "--in_a_row",
        "12",
        "--delete_cache",
        "5",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1_200, check=False)
    assert done.returncode == 0, done.stderr
    assert "no files left" in done.stdout
