"""Photos are decoded in threads ahead of the model, so that neither waits for the other: `caption_photos`."""

import collections
import itertools
import os
from concurrent.futures import ThreadPoolExecutor

import torch
from transformers.modeling_outputs import BaseModelOutput

from modeling_captioner import PhotoError

SEEN_TOGETHER = 4  # photos that a CPU's encoder takes at once; more use more memory and are no faster


def caption_photos(model, processor, photos, read, generation, batch_size, failed):
    """Caption photos.

    Args:
        model, processor: a captioner.
        photos: pairs of a name and what `read` opens.
        read: a function that gives a `PIL.Image.Image`, or raises `PhotoError`.
        generation: what `generate` takes.
        batch_size: photos whose captions are found at once; fewer where the device's memory does not suffice.
        failed: a list to which pairs of a name and an error are added.

    Yields lists of (name, caption, natural log-probability), in the order of the photos.
    """

    def decode(photo):
        name, source = photo
        try:
            return name, processor(images=read(source), return_tensors="pt").pixel_values
        except PhotoError as error:
            return name, error

    decoded = ahead(decode, photos, 2 * batch_size)
    while batch := list(itertools.islice(decoded, batch_size)):
        failed += [(name, found) for name, found in batch if isinstance(found, PhotoError)]
        fine = [(name, found) for name, found in batch if not isinstance(found, PhotoError)]
        if fine:
            names, pixel_values = zip(*fine, strict=True)
            captions, scores = captions_by_core(model, processor, torch.cat(pixel_values), generation)
            yield list(zip(names, captions, scores, strict=True))


def ahead(function, values, count):
    """Yields `function` of each value, in order, worked out in threads up to `count` values ahead."""
    waiting = collections.deque()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for value in values:
            waiting.append(pool.submit(function, value))
            if len(waiting) >= count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def captions_by_core(model, processor, pixel_values, generation):
    """As `captions_of`; on a CPU every core captions photos of its own, so that none waits for one that is decoding."""
    cores = torch.get_num_threads()
    if model.device.type != "cpu" or len(pixel_values) < cores:
        return captions_that_fit(model, processor, pixel_values, generation)

    def caption(part):
        torch.set_num_threads(1)  # of this thread, and what threads begin with that come after
        try:
            return captions_that_fit(model, processor, part, generation)
        finally:
            torch.set_num_threads(cores)

    with ThreadPoolExecutor(cores) as pool:
        return joined(pool.map(caption, pixel_values.tensor_split(cores)))


def captions_that_fit(model, processor, pixel_values, generation):
    """As `captions_of`, in halves where the device's memory does not suffice for all together."""
    try:
        return captions_of(model, processor, pixel_values, generation)
    except RuntimeError as error:
        from accelerate.utils.memory import should_reduce_batch_size  # knows every device's way to say it

        if not should_reduce_batch_size(error):
            raise
        if len(pixel_values) == 1:
            raise OSError("There is not enough memory to caption one photo; close other programs.") from error
    return joined(captions_that_fit(model, processor, half, generation) for half in pixel_values.chunk(2))


def joined(answers):
    """What `captions_of` gives of several parts, as one."""
    return [list(itertools.chain.from_iterable(part)) for part in zip(*answers, strict=True)]


@torch.inference_mode()
def captions_of(model, processor, pixel_values, generation):
    """The captions of photos (batch, 3, size, size), and their natural log-probabilities."""
    together = SEEN_TOGETHER if model.device.type == "cpu" else len(pixel_values)
    parts = pixel_values.to(model.dtype).split(together)
    regions = torch.cat([model.get_encoder()(part.to(model.device))[0] for part in parts])
    output = model.generate(
        encoder_outputs=BaseModelOutput(regions), return_dict_in_generate=True, output_logits=True, **generation
    )
    log_probabilities = model.compute_transition_scores(
        output.sequences, output.logits, output.get("beam_indices"), normalize_logits=True
    )  # (batch, words)
    padding = output.sequences[:, 1:] == model.config.pad_token_id
    totals = log_probabilities.masked_fill(padding, 0).sum(dim=1).tolist()
    return processor.batch_decode(output.sequences, skip_special_tokens=True), totals
