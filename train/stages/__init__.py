"""The stages of a recipe, by name."""

from .distil import Distil

STAGES = {"distil": Distil}
