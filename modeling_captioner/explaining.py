"""What a caption rests on, word by word: `explain`."""

from dataclasses import dataclass, field

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutput


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


def explain(model, processor, photo, **settings):
    """Caption a photo and keep what the caption rests on: `explain_photos` of one photo, which see."""
    return explain_photos(model, processor, [photo], **settings)[0]


@torch.inference_mode()
def explain_photos(model, processor, photos, *, text="", alternatives=5, **generation):
    """Caption photos together and keep what each caption rests on.

    Args:
        model, processor: a captioner.
        photos: RGB `PIL.Image.Image`s, as `open_photo` gives them.
        text: the words that the captions begin with.
        alternatives: how many of the likeliest words to keep for each place.
        generation: whatever `generate` takes.

    Returns an [`Explanation`] for each photo. Its maps and probabilities come from one pass over the finished caption,
    which are those of generation, whatever strategy chose the words.
    """
    inputs = processor(images=photos, text=[text] * len(photos), return_tensors="pt").to(model.device, model.dtype)
    regions = model.get_encoder()(inputs.pixel_values)[0]  # (photos, regions, hidden)
    beams = generation.get("num_beams", model.generation_config.num_beams) or 1
    settings = {"num_return_sequences": beams} | generation
    encoder_outputs = BaseModelOutput(regions)
    sequences = model.generate(encoder_outputs=encoder_outputs, decoder_input_ids=inputs.decoder_input_ids, **settings)
    return [
        _explanation(model, processor, alternatives, regions[[number]], [_until_end(model, ids) for ids in captions])
        for number, captions in enumerate(sequences.split(len(sequences) // len(photos)))
    ]


@torch.inference_mode()
def explain_caption(model, processor, photo, caption, *, alternatives=5):
    """What the model would have thought, word by word, had it said this caption of this photo.

    Args:
        model, processor, photo, alternatives: as `explain` takes them.
        caption: whole, in words; those that the model does not know become `<unk>`.

    Returns an [`Explanation`] whose `caption` is the given one as the model reads it, and whose `beams` are empty.
    """
    inputs = processor(images=photo, text=caption, return_tensors="pt").to(model.device, model.dtype)
    end = inputs.decoder_input_ids.new_tensor([model.config.eos_token_id])
    ids = torch.cat([inputs.decoder_input_ids[0], end])
    _, log_probabilities, maps = _score(model, model.get_encoder()(inputs.pixel_values)[0], ids)
    words = _words(model, processor, alternatives, ids, log_probabilities, maps)
    return Explanation(" ".join(word.text for word in words), _total(ids, log_probabilities), words)


def _until_end(model, ids):
    """The ids up to the first `<end>`: beam search fills the rest of a shorter caption with more of them."""
    ends = (ids == model.config.eos_token_id).nonzero()
    return ids[: ends[0, 0] + 1] if len(ends) else ids


def _explanation(model, processor, alternatives, regions, captions):
    """Explains the first of a photo's captions, which are ids, best first."""
    scored = [_score(model, regions, ids) for ids in captions]
    beams = [(processor.decode(ids, skip_special_tokens=True), _total(ids, scores)) for ids, scores, _ in scored]
    return Explanation(*beams[0], _words(model, processor, alternatives, *scored[0]), beams)


def _score(model, regions, ids):
    """A caption's ids, log-probabilities (words, vocabulary) and maps (words, rows, columns), in one pass."""
    output = model(encoder_outputs=[regions], decoder_input_ids=ids[None, :-1], output_attentions=True)
    maps = output.cross_attentions[0][0].mean(dim=0).float()  # (words, regions)
    side = round(maps.shape[-1] ** 0.5)  # the encoder sees a square
    return ids, output.logits[0].float().log_softmax(dim=-1), maps.unflatten(-1, (side, side)).cpu().numpy()


def _words(model, processor, alternatives, ids, log_probabilities, maps):
    return [
        Word(
            processor.tokenizer.decode(ids[place + 1]),
            log_probabilities[place, ids[place + 1]].exp().item(),
            maps[place],
            _likeliest(processor.tokenizer, log_probabilities[place], alternatives),
        )
        for place in range(len(ids) - 1)
        if ids[place + 1] != model.config.eos_token_id
    ]


def _total(ids, log_probabilities):
    return log_probabilities.gather(1, ids[1:, None]).sum().item()


def _likeliest(tokenizer, log_probabilities, count):
    values, ids = log_probabilities.topk(min(count, len(log_probabilities)))
    return [(tokenizer.decode(word), value) for word, value in zip(ids, values.exp().tolist(), strict=True)]
