"""Tests, in folders like those of the code; `tests/helpers/` is what they share."""
