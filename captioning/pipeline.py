"""Captioning many photos: `caption_photos` decodes photos in threads while the model generates captions."""

import collections
import itertools
import os
from concurrent.futures import ThreadPoolExecutor

import torch
from transformers.modeling_outputs import BaseModelOutput

from modeling_captioner import PhotoError

CPU_ENCODER_BATCH_SIZE = 4  # larger batches use more memory and are no faster


def caption_photos(model, processor, photos, read, generation, batch_size, failed):
    """Caption photos.

    Args:
        model, processor: the captioner.
        photos: iterable of (name, source) pairs.
        read: function that opens a source as a `PIL.Image.Image`, or raises `PhotoError`.
        generation: dict of keyword arguments for `generate`.
        batch_size: number of photos per batch; reduced automatically if the device runs out of memory.
        failed: list to which (name, error) pairs are appended.

    Yields lists of (name, caption, natural log-probability), in the order of the photos.
    """

    def decode(photo):
        name, source = photo
        try:
            return name, processor(images=read(source), return_tensors="pt").pixel_values
        except PhotoError as error:
            return name, error

    decoded = prefetch(decode, photos, 2 * batch_size)
    while batch := list(itertools.islice(decoded, batch_size)):
        failed += [(name, result) for name, result in batch if isinstance(result, PhotoError)]
        valid = [(name, result) for name, result in batch if not isinstance(result, PhotoError)]
        if valid:
            names, pixel_values = zip(*valid, strict=True)
            captions, scores = generate_per_core(model, processor, torch.cat(pixel_values), generation)
            yield list(zip(names, captions, scores, strict=True))


def prefetch(function, values, count):
    """Yield `function(value)` for each value in order, computed in threads up to `count` values ahead."""
    pending = collections.deque()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for value in values:
            pending.append(pool.submit(function, value))
            if len(pending) >= count:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def generate_per_core(model, processor, pixel_values, generation):
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


def generate_within_memory(model, processor, pixel_values, generation):
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


def concatenate(parts):
    """Concatenate the results of `generate_captions` for the parts of a batch."""
    return [list(itertools.chain.from_iterable(lists)) for lists in zip(*parts, strict=True)]


@torch.inference_mode()
def generate_captions(model, processor, pixel_values, generation):
    """Generate captions for `pixel_values` (batch, 3, size, size). Returns them and their natural log-probabilities."""
    encoder_batch_size = CPU_ENCODER_BATCH_SIZE if model.device.type == "cpu" else len(pixel_values)
    parts = pixel_values.to(model.dtype).split(encoder_batch_size)
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
