"""Captioning with PyTorch, on any device: `TorchCaptioner`."""

import itertools
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from PIL import Image

from modeling_captioner import Explanation, explain, explain_caption, explain_photos
from modeling_captioner.confidence import confidence_of
from modeling_captioner.languages import check_language

from .loading import load_captioner

MAX_BATCH_SIZE = 256  # photos; two batches of pixels are held in memory
Captions = tuple[list, ...]  # captions, and as many numbers for each; see `generate_captions`


class TorchCaptioner:
    """A captioner in PyTorch. It has the methods of `OnnxCaptioner`.

    Args:
        name: a local folder, or a name on the Hub.
        device: a PyTorch device, or None for the accelerator if there is one.
        dtype: the name of a dtype of `torch`.
        generation: keyword arguments for `generate`.

    Raises `ValueError` if the device or the captioner cannot be used.
    """

    def __init__(self, name: str, device: str | None = None, dtype: str = "float32", **generation: Any) -> None:
        self.model, self.processor = load_captioner(name, device, dtype)
        self.model.optimize_for_inference()
        self.generation = generation
        self.languages, self.confidence = self.model.config.languages, self.model.config.confidence
        self.image_size = self.model.config.image_size
        on_cpu = self.model.device.type == "cpu"
        self.batch_size = min(16 * torch.get_num_threads(), MAX_BATCH_SIZE) if on_cpu else MAX_BATCH_SIZE

    def preprocess(self, photo: Image.Image) -> torch.Tensor:
        return self.processor(images=photo, return_tensors="pt").pixel_values

    @property
    def defaults(self) -> dict[str, Any]:
        return self.model.generation_config.to_dict() | self.generation

    def caption(self, photos: list[torch.Tensor], *, language: str | None = None) -> list[tuple]:
        language = check_language(language, self.languages)
        generation = self.generation | {"language": language, "num_return_sequences": 1}
        return list(zip(*generate_per_core(self.model, self.processor, torch.cat(photos), generation), strict=True))

    def explain(self, photo: Image.Image, **settings: Any) -> Explanation:
        return explain(self.model, self.processor, photo, **{"num_return_sequences": 1} | self.generation | settings)

    def explain_photos(self, photos: list[Image.Image], **settings: Any) -> list[Explanation]:
        return explain_photos(self.model, self.processor, photos, **self.generation | settings)

    def explain_caption(self, photo: Image.Image, caption: str, **settings: Any) -> Explanation:
        return explain_caption(self.model, self.processor, photo, caption, **settings)


def generate_per_core(model: Any, processor: Any, pixel_values: torch.Tensor, generation: dict[str, Any]) -> Captions:
    """Like `generate_captions`; on a CPU each core captions its own photos, so that none waits for decoding threads."""
    cores = torch.get_num_threads()
    if model.device.type != "cpu" or len(pixel_values) < cores:
        return generate_within_memory(model, processor, pixel_values, generation)

    def caption(part):
        torch.set_num_threads(1)  # for this thread, and the default for new threads
        try:
            return generate_within_memory(model, processor, part, generation)
        finally:
            torch.set_num_threads(cores)

    with ThreadPoolExecutor(cores) as pool:
        return concatenate(pool.map(caption, pixel_values.tensor_split(cores)))


def generate_within_memory(
    model: Any, processor: Any, pixel_values: torch.Tensor, generation: dict[str, Any]
) -> Captions:
    """Like `generate_captions`; halves the batch as long as the device runs out of memory."""
    try:
        return generate_captions(model, processor, pixel_values, generation)
    except RuntimeError as error:
        from accelerate.utils.memory import should_reduce_batch_size  # knows the errors of all devices

        if not should_reduce_batch_size(error):
            raise
        if len(pixel_values) == 1:
            raise OSError("Not enough memory to caption one photo; close other programs.") from error
    return concatenate(generate_within_memory(model, processor, half, generation) for half in pixel_values.chunk(2))


def concatenate(parts: Iterable[Captions]) -> Captions:
    """Concatenate the results of `generate_captions` for the parts of a batch."""
    return tuple(list(itertools.chain.from_iterable(lists)) for lists in zip(*parts, strict=True))


@torch.inference_mode()
def generate_captions(model: Any, processor: Any, pixel_values: torch.Tensor, generation: dict[str, Any]) -> Captions:
    """Generate captions for `pixel_values` (batch, 3, size, size).

    Returns them, their natural log-probabilities, and the confidence in each, None for a captioner without.
    """
    sequences, scored = generate_scored(model, inputs=pixel_values.to(model.device), **generation)
    language = check_language(generation.get("language"), model.config.languages)
    confidences = [confidence_of(scores, model.config.confidence, language) for scores in scored]
    return processor.batch_decode(sequences, skip_special_tokens=True), list(map(sum, scored)), confidences


def generate_scored(model, **settings):
    """Call `generate`. Returns the ids (captions, words), and for each caption the natural log-probabilities of its
    words and its end as a list."""
    output = model.generate(**settings, return_dict_in_generate=True, output_logits=True)
    log_probabilities = model.compute_transition_scores(
        output.sequences, output.logits, output.get("beam_indices"), normalize_logits=True
    )  # (captions, words)
    generated = output.sequences[:, -log_probabilities.shape[1] :]
    lengths = (generated != model.config.pad_token_id).sum(dim=1).tolist()
    return output.sequences, [
        scores[:length] for scores, length in zip(log_probabilities.tolist(), lengths, strict=True)
    ]
