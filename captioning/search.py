"""Search without PyTorch: the captions that transformers' `generate` finds on the same logits, in numpy."""

import numpy as np

# Keys of generation_config.json that `search` follows, and those that say nothing about how words are chosen.
FOLLOWED = {
    "num_beams",
    "max_new_tokens",
    "max_length",
    "min_new_tokens",
    "length_penalty",
    "early_stopping",
    "no_repeat_ngram_size",
    "suppress_tokens",
    "eos_token_id",
}
NEUTRAL = {"bos_token_id", "pad_token_id", "decoder_start_token_id", "transformers_version", "use_cache"}
OF_SAMPLING = {"temperature", "top_k", "top_p", "min_p", "typical_p"}  # without effect unless do_sample is true


def check_settings(settings):
    """Raises `ValueError` where `settings`, a generation_config.json, asks for what `search` cannot do."""
    known = FOLLOWED | NEUTRAL | (set() if settings.get("do_sample") else OF_SAMPLING)
    unknown = [
        name
        for name, value in settings.items()
        if name not in known and not name.startswith("_") and value not in (None, False)
    ]
    if unknown:
        raise ValueError(f"generation_config.json sets {', '.join(unknown)}, which only PyTorch can follow.")


def search(step, states, prompt, settings):
    """Find the captions of one photo by beam search, or by greedy search where `num_beams` is 1.

    Args:
        step: a function of words (beams,), int64, and `states` that returns logits (beams, vocabulary) and the states
            after these words.
        states: the decoder's states before any word, arrays (1, ...).
        prompt: ids that the caption begins with; `<start>` is the first.
        settings: what generation_config.json says, with the names of `GenerationConfig`; see `FOLLOWED`.

    Returns pairs (ids without the prompt, natural log-probability), best first, `num_beams` of them.
    """
    beams, penalty = settings.get("num_beams") or 1, settings.get("length_penalty", 1.0)
    most = settings.get("max_new_tokens") or (settings.get("max_length") or 20) - len(prompt)
    ends = np.atleast_1d(settings["eos_token_id"])
    for word in prompt[:-1]:
        _, states = step(np.array([word]), states)
    running, finished = [(0.0, list(prompt))], []  # (log-probability, ids); (score, log-probability, ids)
    for length in range(1, most + 1):
        logits, states = step(np.array([ids[-1] for _, ids in running]), states)
        totals = log_softmax(logits)  # (beams, vocabulary)
        for row, (log_probability, ids) in zip(totals, running, strict=True):
            row[forbidden_words(ids, length, ends, settings)] = -np.inf
            row += log_probability
        # Twice as many as there are beams, so that enough go on where some end (generation/utils.py, `_beam_search`).
        places = np.argsort(-totals, axis=None, kind="stable")[: 2 * beams]
        rows, words = np.unravel_index(places, totals.shape)
        found = [(totals[row, word], [*running[row][1], word], row) for row, word in zip(rows, words.tolist(), strict=True)]
        for log_probability, ids, _ in found[:beams]:
            if ids[-1] in ends or length == most:
                finished.append((log_probability / length**penalty, log_probability, ids))
        finished = sorted(finished, key=lambda caption: -caption[0])[:beams]
        found = [caption for caption in found if caption[1][-1] not in ends][:beams]
        if len(finished) == beams and not can_improve(found[0][0], finished[-1][0], length, most, settings):
            break
        running = [(log_probability, ids) for log_probability, ids, _ in found]
        states = [state[[row for *_, row in found]] for state in states]
    return [(ids[len(prompt) :], float(log_probability)) for _, log_probability, ids in finished]


def log_softmax(logits):
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def forbidden_words(ids, length, ends, settings):
    """The words that may not follow `ids` as word number `length` of a caption."""
    words = list(settings.get("suppress_tokens") or [])
    if length <= (settings.get("min_new_tokens") or 0):
        words += ends.tolist()
    if size := settings.get("no_repeat_ngram_size"):
        tail = ids[len(ids) - size + 1 :]
        words += [ids[i + size - 1] for i in range(len(ids) - size + 1) if ids[i : i + size - 1] == tail]
    return words


def can_improve(best_running, worst_finished, length, most, settings):
    """Whether a caption that goes on may still score better than one that has ended, by `generate`'s heuristic."""
    if (settings.get("num_beams") or 1) == 1 or settings.get("early_stopping") is True:
        return False
    penalty = settings.get("length_penalty", 1.0)
    longest = most if settings.get("early_stopping") == "never" and penalty > 0 else length
    return best_running / longest**penalty > worst_finished
