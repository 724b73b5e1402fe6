"""An image captioner that is small, fast and shows where it looks: Inception-v3, attention, RNN.

The folder is a Python package and a loadable model repository at once; `config.json` maps transformers' Auto classes
to the classes here.
"""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

from .configuration_captioner import CaptionerConfig
from .explaining import Explanation, Word, explain, explain_caption, explain_photos
from .modeling_captioner import CaptionerForConditionalGeneration
from .photos import PhotoError, open_photo
from .processing_captioner import CaptionerProcessor

# Who has imported the package means these classes: no Auto class need ask whether a folder's own code may run.
AutoConfig.register(CaptionerConfig.model_type, CaptionerConfig, exist_ok=True)
AutoModel.register(CaptionerConfig, CaptionerForConditionalGeneration, exist_ok=True)
AutoModelForImageTextToText.register(CaptionerConfig, CaptionerForConditionalGeneration, exist_ok=True)
AutoProcessor.register(CaptionerConfig, CaptionerProcessor, exist_ok=True)

__all__ = [
    "CaptionerConfig",
    "CaptionerForConditionalGeneration",
    "CaptionerProcessor",
    "Explanation",
    "PhotoError",
    "Word",
    "explain",
    "explain_caption",
    "explain_photos",
    "open_photo",
]
