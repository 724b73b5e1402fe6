"""Captioner configuration: `CaptionerConfig`."""

import difflib
import re
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import GenerationConfig, PreTrainedConfig
from transformers.utils import logging

from .confidence import FEATURES, INTERCEPT

# Keys that transformers and the Hub write to `config.json` and that are neither fields of `PreTrainedConfig` nor
# generation parameters.
LIBRARY_KEYS = {
    "attn_implementation",
    "auto_map",
    "custom_pipelines",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "quantization_config",
    "torch_dtype",
    "transformers.js_config",
}
OPTIONAL = {"languages", "confidence"}  # written only if the captioner has them
OLDER_OPTIONS = {"encoder_frozen"}

logger = logging.get_logger(__name__)


@strict
class CaptionerConfig(PreTrainedConfig):
    """The configuration of [`CaptionerForConditionalGeneration`].

    Args:
        encoder_name: name of a timm architecture that returns a spatial feature map; never a path or a URL.
        encoder_trained_from: the first block of the encoder that was trained together with the captioner, `"all"`, or
            None if it was frozen. A record: a new or loaded encoder is frozen until `model.encoder.freeze` says
            otherwise.
        image_size: side length of the square input image, in pixels.
        rnn_type: `"gru"` (Cho et al. 2014) or `"lstm"` (Hochreiter & Schmidhuber 1997).
        num_layers: number of layers of the first RNN, which reads the preceding words.
        hidden_size: size of the RNN states, the projected regions and the attention.
        embedding_size: size of the word embeddings, which are tied to the output layer.
        attention_type: `"dot"`, `"additive"` or `"multi_head"`.
        num_attention_heads: number of heads for `"multi_head"`; must divide `hidden_size`.
        dropout: dropout probability for the embedded words, the regions and the second RNN's state.
        word_dropout: probability of replacing an input word with `<unk>` during training (Bowman et al. 2016).
        label_smoothing: amount of label smoothing during training (Szegedy et al. 2016, section 7).
        vocab_size: number of words in the tokenizer, including special tokens.
        languages: the languages of the captions, such as `["en", "vi"]`, the first of which is the default; None for a
            captioner of one language. Each has a first token of its own, and generation settings of its own in
            `generation_config.languages`.
        confidence: the numbers of `confidence.confidence_of`, which the trainer fits to the validation photos: the
            intercept, the weight of each feature, and optionally `languages` with those of a language. None gives
            captions no confidence.

    Raises `huggingface_hub.errors.StrictDataclassError` for an invalid value and `ValueError` for an unknown option.
    """

    model_type = "captioner"
    attribute_map = {"num_hidden_layers": "num_layers"}

    encoder_name: str = "inception_v3"
    encoder_trained_from: str | None = None
    image_size: int = 299
    rnn_type: Literal["gru", "lstm"] = "gru"
    num_layers: int = 1
    hidden_size: int = 512
    embedding_size: int = 300
    attention_type: Literal["dot", "additive", "multi_head"] = "multi_head"
    num_attention_heads: int = 4
    dropout: float = 0.3
    word_dropout: float = 0.1
    label_smoothing: float = 0.1
    vocab_size: int = 5000
    languages: list[str] | None = None
    confidence: dict | None = None
    pad_token_id: int = 0
    unk_token_id: int = 1
    bos_token_id: int = 2
    eos_token_id: int = 3
    decoder_start_token_id: int = 2
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        # Older configurations said twice what was trained.
        if kwargs.pop("encoder_frozen", None) is False and self.encoder_trained_from is None:
            self.encoder_trained_from = "all"
        for key, nearest in _unknown_options(kwargs).items():
            if nearest:
                raise ValueError(f"CaptionerConfig has no option {key!r}; did you mean {nearest!r}?")
            logger.warning(f"CaptionerConfig has no option {key!r}; it changes nothing.")
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """As inherited, but a file may have any keys: other programs and later transformers write their own."""
        misspelt = {key: nearest for key, nearest in _unknown_options(config_dict).items() if nearest}
        for key, nearest in misspelt.items():
            logger.warning(f"config.json sets {key!r}, which is left out; if it means {nearest!r}, correct it.")
        return super().from_dict({k: v for k, v in config_dict.items() if k not in misspelt}, **kwargs)

    def validate_encoder_name(self):
        """Accept only a bare architecture name: timm would also load untrusted files by `hf-hub:` and `local-dir:`."""
        if not re.fullmatch(r"\w+(\.\w+)?", self.encoder_name):
            raise ValueError(
                f"encoder_name={self.encoder_name!r} is not a timm architecture; timm.list_models() lists them."
            )

    def validate_sizes(self):
        for name in ("image_size", "num_layers", "hidden_size", "embedding_size", "num_attention_heads", "vocab_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} must divide hidden_size={self.hidden_size}."
            )

    def validate_probabilities(self):
        for name in ("dropout", "word_dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0 and less than 1.")

    def validate_languages(self):
        languages = self.languages
        if languages is not None and not (languages and all(languages) and len(set(languages)) == len(languages)):
            raise ValueError(f"languages={languages} must be different names, such as ['en', 'vi'], or None for one.")

    def validate_confidence(self):
        if self.confidence is None:
            return
        for numbers in (self.confidence, *self.confidence.get("languages", {}).values()):
            if missing := [name for name in (INTERCEPT, *FEATURES) if not isinstance(numbers.get(name), int | float)]:
                raise ValueError(f"confidence needs a number {missing[0]!r}; calibrate the captioner again.")

    def to_dict(self):
        """As inherited; without `languages` if there is only one, and without `confidence` if there is none."""
        values = super().to_dict()
        return {name: value for name, value in values.items() if name not in OPTIONAL or value is not None}


def _unknown_options(keys):
    """Those of `keys` that are unknown, each with the option that it may be a misspelling of, or None."""
    options = CaptionerConfig.__dataclass_fields__
    known = LIBRARY_KEYS | OLDER_OPTIONS | options.keys() | GenerationConfig().to_dict().keys()
    unknown = [key for key in keys if key not in known and not key.startswith("_")]
    return {key: next(iter(difflib.get_close_matches(key, options, n=1, cutoff=0.75)), None) for key in unknown}


CaptionerConfig.register_for_auto_class()
