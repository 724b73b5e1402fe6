"""Explaining a caption word by word: `explain`."""

import torch
from transformers.modeling_outputs import BaseModelOutput

from .confidence import confidence_of
from .explanation import Explanation, Word, split_at
from .languages import check_language


def explain(model, processor, photo, **settings):
    """Caption one photo and explain the caption; takes the arguments of [`explain_photos`]."""
    return explain_photos(model, processor, [photo], **settings)[0]


@torch.inference_mode()
def explain_photos(model, processor, photos, *, text="", language=None, alternatives=5, **generation):
    """Caption a batch of photos and explain each caption.

    Args:
        model, processor: the captioner.
        photos: a list of photos, see `CaptionerProcessor`.
        text: the words that the captions start with, which stay as written.
        language: one of those of the captioner; by default the first.
        alternatives: number of most likely words to return for each position.
        generation: keyword arguments for `generate`.

    Returns one [`Explanation`] per photo. The maps and probabilities are computed in a single pass over the finished
    caption and equal those of generation, whatever the decoding strategy.
    """
    language = check_language(language, model.config.languages)
    inputs = processor(images=photos, text=[text] * len(photos), language=language, return_tensors="pt")
    inputs = inputs.to(model.device, model.dtype)
    regions = model.get_encoder()(inputs.pixel_values)[0]  # (photos, regions, hidden)
    beams = generation.get("num_beams", model.generation_config.num_beams) or 1
    settings = {"num_return_sequences": beams, "language": language} | generation
    encoder_outputs = BaseModelOutput(regions)
    sequences = model.generate(encoder_outputs=encoder_outputs, decoder_input_ids=inputs.decoder_input_ids, **settings)
    explanations = []
    for number, captions in enumerate(sequences.split(len(sequences) // len(photos))):
        scored = [_score(model, regions[[number]], _truncate_at_end(model, ids)) for ids in captions]
        beams = [
            (processor.decode(ids, text=text, skip_special_tokens=True), _log_probability(ids, scores))
            for ids, scores, _ in scored
        ]
        explanations.append(_explain(model, processor, alternatives, *scored[0], text, beams, language))
    return explanations


@torch.inference_mode()
def explain_caption(model, processor, photo, caption, *, language=None, alternatives=5):
    """Explain a given caption as if the model had generated it.

    Args:
        model, processor, photo, language, alternatives: see `explain`.
        caption: the complete caption; the model reads words outside its vocabulary as `<unk>`.

    Returns an [`Explanation`] of the words as written, whose `beams` are empty.
    """
    language = check_language(language, model.config.languages)
    inputs = processor(images=photo, text=caption, language=language, return_tensors="pt")
    inputs = inputs.to(model.device, model.dtype)
    end = inputs.decoder_input_ids.new_tensor([model.config.eos_token_id])
    ids = torch.cat([inputs.decoder_input_ids[0], end])
    scored = _score(model, model.get_encoder()(inputs.pixel_values)[0], ids)
    return _explain(model, processor, alternatives, *scored, caption, [], language)


def _truncate_at_end(model, ids):
    """The ids up to and including the first `<end>`; beam search fills shorter captions with further ones."""
    ends = (ids == model.config.eos_token_id).nonzero()
    return ids[: ends[0, 0] + 1] if len(ends) else ids


def _explain(model, processor, alternatives, ids, log_probabilities, maps, text, beams, language):
    """Explain a caption, given as token ids, that starts with `text`; without beams, it is `text` as a whole."""
    words = _words(model, processor, alternatives, ids, log_probabilities, maps, text)
    caption = beams[0][0] if beams else " ".join(word.text for word in words)
    confidence = confidence_of(_of_words(ids, log_probabilities).tolist(), model.config.confidence, language)
    return Explanation(caption, _log_probability(ids, log_probabilities), words, beams, language, confidence)


def _score(model, regions, ids):
    """Score a caption in one pass: its ids, log-probabilities (words, vocabulary), maps (words, rows, columns)."""
    output = model(encoder_outputs=[regions], decoder_input_ids=ids[None, :-1], output_attentions=True)
    maps = output.cross_attentions[0][0].mean(dim=0).float()  # (words, regions)
    side = round(maps.shape[-1] ** 0.5)  # the input is square
    return ids, output.logits[0].float().log_softmax(dim=-1), maps.unflatten(-1, (side, side)).cpu().numpy()


def _words(model, processor, alternatives, ids, log_probabilities, maps, text):
    """The words of a caption that starts with `text`."""
    offsets = processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    words = split_at(text, offsets)
    words += map(processor.tokenizer.decode, ids[1 + len(words) :])
    return [
        Word(
            word,
            log_probabilities[position, ids[position + 1]].exp().item(),
            maps[position],
            _most_likely(processor.tokenizer, log_probabilities[position], alternatives),
        )
        for position, word in enumerate(words)
        if ids[position + 1] != model.config.eos_token_id
    ]


def _of_words(ids, log_probabilities):
    """The log-probability of each word and the end, (words,)."""
    return log_probabilities.gather(1, ids[1:, None])[:, 0]


def _log_probability(ids, log_probabilities):
    return _of_words(ids, log_probabilities).sum().item()


def _most_likely(tokenizer, log_probabilities, count):
    values, ids = log_probabilities.topk(min(count, len(log_probabilities)))
    return [(tokenizer.decode(word), value) for word, value in zip(ids, values.exp().tolist(), strict=True)]
