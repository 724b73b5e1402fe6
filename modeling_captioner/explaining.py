"""What a caption rests on, word by word: `explain`."""

from dataclasses import dataclass, field

import numpy as np
import torch


@dataclass
class Word:
    """A word of a caption.

    `probability` is the model's own, given the words before it; `map` (rows, columns), float32, is where it looked,
    heads averaged, and sums to 1; `alternatives` are the likeliest words at this place, with their probabilities.
    """

    text: str
    probability: float
    map: np.ndarray
    alternatives: list[tuple[str, float]]


@dataclass
class Explanation:
    """A caption, its words, and the captions beside it, best first, each with its natural log-probability."""

    caption: str
    log_probability: float
    words: list[Word]
    beams: list[tuple[str, float]] = field(default_factory=list)


@torch.inference_mode()
def explain(model, processor, photo, *, text="", alternatives=5, **generation):
    """Caption a photo and keep what the caption rests on.

    Args:
        model, processor: a captioner.
        photo: an RGB `PIL.Image.Image`, as `open_photo` gives it.
        text: the words that the caption begins with.
        alternatives: how many of the likeliest words to keep for each place.
        generation: whatever `generate` takes.

    Returns an [`Explanation`]. Its maps and probabilities come from one pass over the finished caption, which are
    those of generation, whatever strategy chose the words.
    """
    inputs = processor(images=photo, text=text, return_tensors="pt").to(model.device, model.dtype)
    regions = model.get_encoder()(inputs.pixel_values)
    beams = generation.get("num_beams", model.generation_config.num_beams) or 1
    settings = {"num_return_sequences": beams} | generation
    sequences = model.generate(encoder_outputs=regions, decoder_input_ids=inputs.decoder_input_ids, **settings)
    captions = [_score(model, regions, ids[ids != model.config.pad_token_id]) for ids in sequences]
    ids, log_probabilities, maps = captions[0]
    words = [
        Word(
            processor.tokenizer.decode(ids[place + 1]),
            log_probabilities[place, ids[place + 1]].exp().item(),
            maps[place],
            _likeliest(processor.tokenizer, log_probabilities[place], alternatives),
        )
        for place in range(len(ids) - 1)
        if ids[place + 1] != model.config.eos_token_id
    ]
    beams = [(processor.decode(ids, skip_special_tokens=True), _total(ids, scores)) for ids, scores, _ in captions]
    return Explanation(*beams[0], words, beams)


def _score(model, regions, ids):
    """One pass over a caption: its ids, each place's log-probabilities (words, vocabulary), maps (words, rows, columns)."""
    output = model(encoder_outputs=regions, decoder_input_ids=ids[None, :-1], output_attentions=True)
    maps = output.cross_attentions[0][0].mean(dim=0).float()  # (words, regions)
    side = round(maps.shape[-1] ** 0.5)  # the encoder sees a square
    return ids, output.logits[0].float().log_softmax(dim=-1), maps.unflatten(-1, (side, side)).cpu().numpy()


def _total(ids, log_probabilities):
    return log_probabilities.gather(1, ids[1:, None]).sum().item()


def _likeliest(tokenizer, log_probabilities, count):
    values, ids = log_probabilities.topk(min(count, len(log_probabilities)))
    return [(tokenizer.decode(word), value) for word, value in zip(ids, values.exp().tolist(), strict=True)]
