"""Everything of this package that needs PyTorch, registered with the Auto classes of transformers."""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

from .configuration_captioner import CaptionerConfig
from .explaining import explain, explain_caption, explain_photos
from .modeling_captioner import CaptionerForConditionalGeneration
from .processing_captioner import CaptionerProcessor

__all__ = [
    "CaptionerConfig",
    "CaptionerForConditionalGeneration",
    "CaptionerProcessor",
    "explain",
    "explain_caption",
    "explain_photos",
]

# Once this module is imported, the Auto classes find these classes without `trust_remote_code`.
AutoConfig.register(CaptionerConfig.model_type, CaptionerConfig, exist_ok=True)
AutoModel.register(CaptionerConfig, CaptionerForConditionalGeneration, exist_ok=True)
AutoModelForImageTextToText.register(CaptionerConfig, CaptionerForConditionalGeneration, exist_ok=True)
AutoProcessor.register(CaptionerConfig, CaptionerProcessor, exist_ok=True)
