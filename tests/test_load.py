"""A little of what `load.py` beside this file tries at length."""

import subprocess
import sys

from conftest import ROOT


def test_each_visitor_gets_the_own_answer_and_leaves_nothing():
    command = [sys.executable, ROOT / "tests" / "load.py", "--at_once", "12", "--in_a_row", "12", "--delete_cache", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1_200, check=False)
    assert done.returncode == 0, done.stderr
    assert "no file left" in done.stdout
