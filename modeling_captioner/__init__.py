"""A small, fast image captioner that shows where it looks: Inception-v3, attention and an RNN decoder.

This folder is both a Python package and a model repository: `config.json` maps the transformers Auto classes to the
classes defined here. What needs PyTorch is imported when it is first used, so that photos can be opened without it.
"""

from .explanation import Explanation, Word
from .photos import PhotoError, open_photo

_NEED_PYTORCH = {
    "CaptionerConfig",
    "CaptionerForConditionalGeneration",
    "CaptionerProcessor",
    "explain",
    "explain_caption",
    "explain_photos",
}

__all__ = ["Explanation", "PhotoError", "Word", "open_photo", *sorted(_NEED_PYTORCH)]


def __getattr__(name):
    if name not in _NEED_PYTORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import auto_classes

    return getattr(auto_classes, name)
