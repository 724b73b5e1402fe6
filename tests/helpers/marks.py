"""Marks of tests: `slow_case`."""

import pytest


def slow_case(*values):
    """Parameters with which a test shows again what it shows with others: in another window, say."""
    return pytest.param(*values, marks=pytest.mark.slow)
