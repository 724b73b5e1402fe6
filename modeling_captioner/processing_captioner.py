"""Captioner processor: `CaptionerProcessor`."""

from transformers import ProcessorMixin


class CaptionerProcessor(ProcessorMixin):
    """Combines an image processor and a word-level tokenizer.

    `processor(images=photo, text="a man", return_tensors="pt")` returns `pixel_values` (batch, 3, size, size), float32,
    and `decoder_input_ids` (batch, 1 + words), int64: `<start>` and the words that the caption starts with.
    All captions of a batch must start with the same number of words, because an RNN cannot mask out padding.
    """

    def __init__(self, image_processor, tokenizer):
        super().__init__(image_processor, tokenizer)

    def __call__(self, images=None, text=None, **kwargs):
        inputs = super().__call__(images=images, text=text, **kwargs)
        if "input_ids" in inputs:
            inputs["decoder_input_ids"] = inputs.pop("input_ids")
            if any(0 in mask for mask in inputs.pop("attention_mask", [])):
                raise ValueError(f"text={text!r}: start all captions of a batch with the same number of words.")
        return inputs

    @property
    def model_input_names(self):
        return [*self.image_processor.model_input_names, "decoder_input_ids"]


CaptionerProcessor.register_for_auto_class()
