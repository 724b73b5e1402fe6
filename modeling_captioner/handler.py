"""Custom handler for Hugging Face Inference Endpoints, which load `EndpointHandler` from this file."""

import base64
import binascii
import logging
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.dynamic_module_utils import get_class_from_dynamic_module

MAX_PHOTOS = 32
# Upper bounds, so that one request cannot occupy the endpoint for minutes.
LIMITS = {"max_length": 64, "max_new_tokens": 64, "num_beams": 16, "num_return_sequences": 16}
# The other parameters of `generate` that a request may set.
PARAMETERS = {
    *("do_sample", "early_stopping", "length_penalty", "min_length", "min_new_tokens", "min_p", "no_repeat_ngram_size"),
    *("repetition_penalty", "temperature", "top_k", "top_p", "typical_p"),
}
logger = logging.getLogger(__name__)


class EndpointHandler:
    """Captions the photos of a request: on a GPU with PyTorch, else with onnxruntime if the repository has an export.

    Args:
        path: the model repository, as a local folder or a name on the Hub.
    """

    def __init__(self, path=""):
        self.folder = str(path) if Path(path).is_dir() else snapshot_download(path)
        self.open_photo = self._import("photos.open_photo")
        self.check_language = self._import("languages.check_language")
        self.explain_photos = self._import("explaining.explain_photos")
        self.supported = self._import("onnx_search.SUPPORTED") | {"text", "language"}
        self.model, self.onnx = None, None if torch.cuda.is_available() else self._load_onnx()
        if self.onnx is None:
            self._load_model()
        self.languages = self.onnx.languages if self.onnx else self.model.config.languages

    def _import(self, name):
        """Import as transformers imports the model's code, so that nothing here depends on `sys.path`."""
        return get_class_from_dynamic_module(name, self.folder)

    def _load_onnx(self):
        """The ONNX export, or None without one."""
        try:
            return self._import("onnx_captioner.OnnxCaptioner")(self.folder)
        except (ImportError, ValueError) as error:
            logger.warning("%s Captioning with PyTorch instead.", error)
            return None

    def _load_model(self):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = AutoModelForImageTextToText.from_pretrained(self.folder, trust_remote_code=True).to(device)
        self.model.optimize_for_inference()
        self.processor = AutoProcessor.from_pretrained(self.folder, trust_remote_code=True)

    def __call__(self, data):
        """Caption the photos of one request.

        Args:
            data: a dict with `inputs`, one photo or a list of photos, each as bytes, `PIL.Image.Image` or base64
                string, and optional `parameters`: generation parameters, `text` that the captions start with,
                `language`, and `return_attention`.

        Returns one dict per photo with `generated_text`, `score` (the caption's natural log-probability) and, from a
        calibrated captioner, `confidence` (the probability that its content words are right). With `return_attention`
        it also has the `words` of `Explanation.to_dict`: each with `text`, `probability`, `map` (rows that sum to 1)
        and `alternatives`. Raises `ValueError` with one sentence for an invalid request; of several invalid photos it
        names the first. Other errors are not the client's.
        """
        photos = self._photos(data)
        text, language, attention, generation = self._parameters(data)
        settings = {"text": text, "language": language, "num_return_sequences": 1} | generation
        return [_format_answer(explanation, attention) for explanation in self._explain(photos, settings)]

    def _explain(self, photos, settings):
        if self.onnx and settings.keys() <= self.supported:
            return self.onnx.explain_photos(photos, **settings)
        if self.model is None:
            self._load_model()
        return self.explain_photos(self.model, self.processor, photos, **settings)

    def _photos(self, data):
        if not isinstance(data, dict) or "inputs" not in data:
            raise ValueError('The request has no photo; send {"inputs": PHOTO} as a base64 string, or send its bytes.')
        sources = data["inputs"] if isinstance(data["inputs"], list) else [data["inputs"]]
        if not 1 <= len(sources) <= MAX_PHOTOS:
            raise ValueError(f"The request has {len(sources)} photos; send 1 to {MAX_PHOTOS} at a time.")
        return [self._photo(source, number) for number, source in enumerate(sources, start=1)]

    def _photo(self, source, number):
        if isinstance(source, str):
            source = _decode_base64(source, number)
        if not isinstance(source, bytes | bytearray | Image.Image):
            raise ValueError(f"Photo {number} has type {type(source).__name__}; send bytes or a base64 string.")
        try:
            return self.open_photo(source)
        except ValueError as error:
            raise ValueError(f"Photo {number}: {error}") from error

    def _parameters(self, data):
        parameters = data.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise ValueError(f'parameters={parameters!r} is not an object; send {{"num_beams": 3}}, for example.')
        generation = dict(parameters)
        text, attention = generation.pop("text", ""), generation.pop("return_attention", False)
        language = self.check_language(generation.pop("language", None), self.languages)
        if not isinstance(text, str):
            raise ValueError(f"text={text!r} is not a string; give the words that the caption starts with.")
        for name, value in generation.items():
            if name not in PARAMETERS | LIMITS.keys():  # some arguments of `generate` load code from the Hub
                names = ", ".join(sorted(PARAMETERS | LIMITS.keys() | {"language", "return_attention", "text"}))
                raise ValueError(f"The parameter {name!r} is unknown; use some of {names}.")
            if name in LIMITS and not (type(value) is int and 1 <= value <= LIMITS[name]):
                raise ValueError(f"{name}={value!r} must be an integer from 1 to {LIMITS[name]}.")
        return text, language, attention, generation


def _decode_base64(string, number):
    """Decode a base64 string, which may be a data URL."""
    try:
        return base64.b64decode(string.partition("base64,")[2] or string, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"Photo {number} is not a valid base64 string; encode the bytes of the image file.") from error


def _format_answer(explanation, attention):
    explained = explanation.to_dict()
    answer = {"generated_text": explained["caption"], "score": explained["log_probability"]}
    answer |= {name: explained[name] for name in ("confidence",) if name in explained}
    return answer | {"words": explained["words"]} if attention else answer
