"""An image captioner that is small, fast and shows where it looks: Inception-v3, attention, RNN.

The folder is a Python package and a loadable model repository at once; `config.json` maps transformers' Auto classes
to the classes here.
"""

from .configuration_captioner import CaptionerConfig
from .explaining import Explanation, Word, explain
from .modeling_captioner import CaptionerForConditionalGeneration
from .photos import PhotoError, open_photo
from .processing_captioner import CaptionerProcessor

__all__ = [
    "CaptionerConfig",
    "CaptionerForConditionalGeneration",
    "CaptionerProcessor",
    "Explanation",
    "PhotoError",
    "Word",
    "explain",
    "open_photo",
]
