"""For Hugging Face Inference Endpoints: `EndpointHandler`, which they load by its path and call for each request."""

import base64
import binascii

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.dynamic_module_utils import get_class_from_dynamic_module

MAX_PHOTOS = 32
# A stranger's request must not hold the machine for minutes.
LIMITS = {"max_length": 64, "max_new_tokens": 64, "num_beams": 16, "num_return_sequences": 16}


class EndpointHandler:
    """Captions the photos of a request.

    `path` is the folder of the model repository, or a name on the Hub.
    """

    def __init__(self, path=""):
        path = str(path)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = AutoModelForImageTextToText.from_pretrained(path, trust_remote_code=True).to(device).eval()
        self.processor = AutoProcessor.from_pretrained(path, trust_remote_code=True)
        # As transformers loads the model's code: nothing here depends on Python's search path.
        self.open_photo = get_class_from_dynamic_module("photos.open_photo", path)
        self.explain_photos = get_class_from_dynamic_module("explaining.explain_photos", path)

    def __call__(self, data):
        """Caption the photos of one request.

        Args:
            data: a dict with `inputs`, a photo or a list of photos, each as bytes, `PIL.Image.Image` or base64 string,
                and maybe `parameters`: what `generate` takes, `text` that the captions begin with, and
                `return_attention`.

        Returns for each photo a dict with `generated_text`, `score` (the caption's natural log-probability), and with
        `return_attention` `words`, each with `text`, `probability`, and `map`, rows of shares that sum to 1.
        Raises `ValueError` with one sentence where the request is wrong; of several bad photos it names the first.
        """
        photos = self._photos(data)
        text, attention, generation = self._parameters(data)
        try:
            explained = self.explain_photos(
                self.model,
                self.processor,
                photos,
                text=text,
                alternatives=1,
                **{"num_return_sequences": 1} | generation,
            )
        except (TypeError, AttributeError, IndexError, RuntimeError) as error:  # of a value's type, or its size
            told = " ".join(str(error).split())
            raise ValueError(f"The parameters {generation} do not fit generate ({told}).") from error
        return [_answer(explanation, attention) for explanation in explained]

    def _photos(self, data):
        if not isinstance(data, dict) or "inputs" not in data:
            raise ValueError('The request has no photo; send {"inputs": PHOTO} with the photo in base64, or its bytes.')
        sources = data["inputs"] if isinstance(data["inputs"], list) else [data["inputs"]]
        if not 1 <= len(sources) <= MAX_PHOTOS:
            raise ValueError(f"The request has {len(sources)} photos; send 1 to {MAX_PHOTOS} at a time.")
        return [self._photo(source, number) for number, source in enumerate(sources, start=1)]

    def _photo(self, source, number):
        if isinstance(source, str):
            source = _decoded(source, number)
        if not isinstance(source, bytes | bytearray | Image.Image):
            raise ValueError(f"Photo {number} is {type(source).__name__}; send bytes, or a string in base64.")
        try:
            return self.open_photo(source)
        except ValueError as error:
            raise ValueError(f"Photo {number}: {error}") from error

    def _parameters(self, data):
        parameters = data.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise ValueError(f'parameters={parameters!r} is no object; send {{"num_beams": 3}}, for example.')
        generation = dict(parameters)
        text, attention = generation.pop("text", ""), generation.pop("return_attention", False)
        if not isinstance(text, str):
            raise ValueError(f"text={text!r} is no string; give the words that the caption begins with.")
        for name, value in generation.items():
            # The configuration's own names and no others: generate takes more, some of which load code from the Hub.
            if name.startswith("_") or name not in self.model.generation_config.to_dict():
                raise ValueError(f"The parameter {name!r} is unknown; give what a GenerationConfig has.")
            if name in LIMITS and not (type(value) is int and 1 <= value <= LIMITS[name]):
                raise ValueError(f"{name}={value!r} must be a whole number from 1 to {LIMITS[name]}.")
        return text, attention, generation


def _decoded(string, number):
    """The bytes of a base64 string, which may be a data URL."""
    try:
        return base64.b64decode(string.partition("base64,")[2] or string, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"Photo {number} is a string that is not base64; encode the picture's bytes.") from error


def _answer(explanation, attention):
    answer = {"generated_text": explanation.caption, "score": explanation.log_probability}
    if attention:
        answer["words"] = [
            {"text": word.text, "probability": word.probability, "map": word.map.tolist()} for word in explanation.words
        ]
    return answer
