"""The pipeline that `pipeline("image-text-to-text", model=..., trust_remote_code=True)` uses: `CaptionerPipeline`."""

from transformers import ImageTextToTextPipeline

from .processing_captioner import is_photo, open_photos


class CaptionerPipeline(ImageTextToTextPipeline):
    """As inherited, but photos need no text, one text serves all photos, and photos are opened by `open_photo`.

    A captioner of several languages takes `language="vi"`.
    """

    def _sanitize_parameters(self, language=None, **kwargs):
        preprocessing, generation, postprocessing = super()._sanitize_parameters(**kwargs)
        if language is not None:  # `generate` learns it from the first token
            preprocessing["language"] = language
        return preprocessing, generation, postprocessing

    def __call__(self, images=None, text=None, **kwargs):
        photos = images if isinstance(images, list | tuple) else [images]
        if all(map(is_photo, photos)):
            return super().__call__({"images": images, "text": text}, **kwargs)
        return super().__call__(images, text, **kwargs)

    def preprocess(self, inputs=None, **kwargs):
        if isinstance(inputs, dict):
            images, text = open_photos(inputs["images"]), inputs.get("text") or ""
            if isinstance(images, list) and isinstance(text, str):
                text = [text] * len(images)
            inputs = {"images": images, "text": text}
        return super().preprocess(inputs, **kwargs)
