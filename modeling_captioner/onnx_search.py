"""Beam search and greedy search in numpy: the captions that `generate` of transformers finds for the same logits."""

from typing import Any

import numpy as np

from .repetition import echo_of

# Settings in generation_config.json: those that `search` implements, and those that do not affect its result.
SUPPORTED = {
    "num_beams",
    "num_return_sequences",  # of which the first is the caption
    "max_new_tokens",
    "max_length",
    "min_new_tokens",
    "length_penalty",
    "early_stopping",
    "no_repeat_ngram_size",
    "conjunction_token_ids",
    "suppress_tokens",
    "eos_token_id",
}
NEUTRAL = {"bos_token_id", "pad_token_id", "decoder_start_token_id", "transformers_version", "use_cache", "languages"}
SAMPLING = {"temperature", "top_k", "top_p", "min_p", "typical_p"}  # ignored unless do_sample is true


def check_settings(settings: dict[str, Any]) -> None:
    """Raises `ValueError` if `settings`, the contents of generation_config.json, require what `search` lacks."""
    for of_language in settings.get("languages", {}).values():
        check_settings(of_language)
    known = SUPPORTED | NEUTRAL | (set() if settings.get("do_sample") else SAMPLING)
    unknown = [
        name
        for name, value in settings.items()
        if name not in known and not name.startswith("_") and value not in (None, False)
    ]
    if unknown:
        raise ValueError(f"generation_config.json sets {', '.join(unknown)}, which only --engine torch supports.")


def search(step, states, prompt, settings):
    """Find captions of one photo by beam search, or by greedy search if `num_beams` is 1.

    Follows `GenerationMixin._beam_search` of transformers.

    Args:
        step: a function of the last words (beams,), int64, and the states, which returns the logits
            (beams, vocabulary) and the new states.
        states: the initial states of the decoder, a list of arrays with a batch of 1.
        prompt: the token ids that the caption begins with, including `<start>`.
        settings: the contents of generation_config.json; see `SUPPORTED`.

    Returns a list of `num_beams` pairs (ids after the prompt, their natural log-probabilities), the best first.
    """
    beams, penalty = settings.get("num_beams") or 1, _length_penalty(settings)
    longest = settings.get("max_new_tokens") or (settings.get("max_length") or 20) - len(prompt)
    ends = np.atleast_1d(settings["eos_token_id"]).tolist()
    for word in prompt[:-1]:
        _, states = step(np.array([word]), states)
    running, finished = [(0.0, list(prompt), [])], []  # (total, ids, log-probabilities), the same after a score
    for length in range(1, longest + 1):
        logits, states = step(np.array([ids[-1] for _, ids, _ in running]), states)
        totals = log_softmax(logits)  # (beams, vocabulary)
        for row, (total, ids, _) in zip(totals, running, strict=True):
            row[forbidden_words(ids, length, ends, settings)] = -np.inf
            row += total
        # Twice the number of beams, so that enough captions continue if some of them end here.
        places = largest(totals.ravel(), 2 * beams)
        found = []  # (total, ids, log-probabilities, row)
        for row, word in zip(*(axis.tolist() for axis in np.unravel_index(places, totals.shape)), strict=True):
            before, ids, log_probabilities = running[row]
            total = totals[row, word]
            found.append((total, [*ids, word], [*log_probabilities, float(total - before)], row))
        for total, ids, log_probabilities, _ in found[:beams]:
            if ids[-1] in ends or length == longest:
                finished.append((total / length**penalty, ids, log_probabilities))
        finished = sorted(finished, key=lambda caption: -caption[0])[:beams]
        found = [caption for caption in found if caption[1][-1] not in ends][:beams]
        if len(finished) == beams and not can_improve(found[0][0], finished[-1][0], length, longest, settings):
            break
        running = [caption for *caption, _ in found]
        rows = [row for *_, row in found]
        states = [state[rows] for state in states]
    return [(ids[len(prompt) :], log_probabilities) for _, ids, log_probabilities in finished]


def largest(values, count):
    """The places of the `count` largest values (values,), the largest first, the earlier of equal ones first."""
    places = np.argpartition(-values, count)[:count] if count < len(values) else np.arange(len(values))
    return places[np.lexsort((places, -values[places]))]


def log_softmax(logits):
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def forbidden_words(ids, length, ends, settings):
    """The ids that must not follow `ids` as word number `length` of the caption."""
    words = list(settings.get("suppress_tokens") or [])
    if length <= (settings.get("min_new_tokens") or 0):
        words += ends
    if size := settings.get("no_repeat_ngram_size"):
        tail = ids[len(ids) - size + 1 :]
        words += [ids[i + size - 1] for i in range(len(ids) - size + 1) if ids[i : i + size - 1] == tail]
    return words + echo_of(ids, settings.get("conjunction_token_ids") or [])


def can_improve(best_running, worst_finished, length, longest, settings):
    """Whether an unfinished caption may still outscore a finished one, by the heuristic of `generate`."""
    if (settings.get("num_beams") or 1) == 1 or settings.get("early_stopping") is True:
        return False
    penalty = _length_penalty(settings)
    final_length = longest if settings.get("early_stopping") == "never" and penalty > 0 else length
    return best_running / final_length**penalty > worst_finished


def _length_penalty(settings):
    penalty = settings.get("length_penalty")
    return 1.0 if penalty is None else penalty
