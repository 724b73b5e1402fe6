"""Trainings that are killed and resumed, a few times; `tests/helpers/kills.py` tries any number."""

import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT


@pytest.mark.slow
def test_killed_and_resumed_training_ends_with_the_same_weights():
    command = [sys.executable, "-m", "tests.helpers.kills", "train", "--kills", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    assert "all ended with the same weights" in done.stdout
