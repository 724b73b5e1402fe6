"""Captioner processor: `CaptionerProcessor`."""

import os

from PIL import Image
from transformers import ProcessorMixin

from .languages import check_language
from .photos import URLS, download_photo, open_photo


class CaptionerProcessor(ProcessorMixin):
    """Combines an image processor and a word-level tokenizer.

    `processor(images=photo, text="a man", return_tensors="pt")` returns `pixel_values` (batch, 3, size, size), float32,
    and `decoder_input_ids` (batch, 1 + words), int64: `<start>` and the words that the caption starts with.
    All captions of a batch must start with the same number of words, because an RNN cannot mask out padding.
    In place of `<start>`, a captioner of several `languages` has a token for each, such as `<vi>`;
    `processor(..., language="vi")` begins the captions with it, by default with that of the first language.

    `images` is a photo or a list of photos: a path, URL, bytes, binary file object or `PIL.Image.Image`, opened by
    [`open_photo`], which raises [`PhotoError`]; or an array or tensor of its RGB pixels, (height, width, 3) or
    (3, height, width), from 0 to 255. Pillow resizes them, so that captioners without PyTorch see the same pixels.
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """As inherited, but the image processor resizes with Pillow unless `backend` says otherwise."""
        return super().from_pretrained(pretrained_model_name_or_path, **{"backend": "pil"} | kwargs)

    languages = None

    def __init__(self, image_processor, tokenizer, languages=None):
        super().__init__(image_processor, tokenizer)
        if languages:  # otherwise not saved
            self.languages = languages
        tokenizer.split_special_tokens = True  # "<end>" in a text is a word like any other

    def __call__(self, images=None, text=None, language=None, **kwargs):
        language = check_language(language, self.languages)
        if isinstance(images, list | tuple) and isinstance(text, str):
            text = [text] * len(images)
        if isinstance(text, list | tuple) and len({len(ids) for ids in self.tokenizer(list(text)).input_ids}) > 1:
            raise ValueError(f"text={text!r}: start all captions of a batch with the same number of words.")
        inputs = super().__call__(images=open_photos(images), text=text, **kwargs)
        if "input_ids" in inputs:
            ids = inputs.pop("input_ids")
            inputs["decoder_input_ids"] = ids if language is None else self._begin(ids, language)
            inputs.pop("attention_mask", None)
        return inputs

    def _begin(self, ids, language):
        """Put the first token of the language in the place of the default one; `ids` are a tensor or lists."""
        start = self.tokenizer.convert_tokens_to_ids(f"<{language}>")
        if isinstance(ids, list):
            return [[start, *row[1:]] for row in ids]
        ids[:, 0] = start
        return ids

    def decode(self, token_ids, text=None, **kwargs):
        """As inherited; with the `text` that the caption started with, the caption keeps it as written, including words
        that the tokenizer does not know."""
        if text is None:
            return super().decode(token_ids, **kwargs)
        generated = token_ids[len(self.tokenizer(text).input_ids) :]
        return f"{text.strip()} {super().decode(generated, **kwargs)}".strip()

    def batch_decode(self, sequences, text=None, **kwargs):
        """As inherited; `text` is one for all sequences, or a list that divides them evenly, see [`decode`]."""
        if text is None:
            return super().batch_decode(sequences, **kwargs)
        texts = [text] if isinstance(text, str) else text
        per_text = len(sequences) // len(texts)
        return [self.decode(ids, text=texts[i // per_text], **kwargs) for i, ids in enumerate(sequences)]

    @property
    def model_input_names(self):
        return [*self.image_processor.model_input_names, "decoder_input_ids"]


def open_photos(images):
    """`images` with each photo opened, and arrays of pixels as they are."""
    if isinstance(images, list | tuple):
        return [open_photos(image) for image in images]
    if isinstance(images, str) and images.startswith(URLS):
        images = download_photo(images)
    return open_photo(images) if is_photo(images) else images


def is_photo(value):
    """Whether `open_photo` can be asked to open it; if not, it is an array of pixels or no photo at all."""
    return isinstance(value, str | os.PathLike | bytes | bytearray | Image.Image) or hasattr(value, "read")


CaptionerProcessor.register_for_auto_class()
