"""Runs of `caption.py` that are killed and resumed, a few times; `tests/helpers/kills.py` tries any number."""

import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT


@pytest.mark.slow
def test_killed_and_resumed_captioning_captions_each_photo_once():
    command = [sys.executable, "-m", "tests.helpers.kills", "caption", "--photos", "60", "--kills", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    assert "each captioned once" in done.stdout
