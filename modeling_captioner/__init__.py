"""A small, fast image captioner that shows where it looks: Inception-v3, attention and an RNN decoder.

This folder is both a Python package and a model repository: `config.json` maps the transformers Auto classes to the
classes defined here.
"""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

from .configuration_captioner import CaptionerConfig
from .explaining import Explanation, Word, explain, explain_caption, explain_photos
from .modeling_captioner import CaptionerForConditionalGeneration
from .photos import PhotoError, open_photo
from .processing_captioner import CaptionerProcessor

# Once the package is imported, the Auto classes find its classes without `trust_remote_code`.
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
