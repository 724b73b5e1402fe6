"""Checks of what a captioner is asked for, without PyTorch: `check_generation`, `check_arguments`."""

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

WHOLE_NUMBERS = {  # and the least that makes sense
    "max_length": 1,
    "max_new_tokens": 1,
    "min_length": 0,
    "min_new_tokens": 0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "top_k": 0,
}
NUMBERS = {  # and their limits; a smaller temperature overflows in half precision
    "epsilon_cutoff": (0, 1),
    "eta_cutoff": (0, 1),
    "length_penalty": (-100, 100),
    "min_p": (0, 1),
    "repetition_penalty": (0.01, 100),
    "temperature": (0.01, 100),
    "top_p": (0, 1),
    "typical_p": (0.001, 1),
}
# What is for models with a key-value cache or a text as input, and the values that turn it off.
UNSUPPORTED = {"guidance_scale": 1, "prefill_chunk_size": None, "prompt_lookup_num_tokens": None}


def check_generation(settings: Mapping[str, Any]) -> None:
    """Raise `ValueError`, in one sentence, for a setting of `generate` that a captioner cannot follow.

    `settings` has names as in generation_config.json; None means that it is not set, and others are not looked at.
    """
    for name, least in WHOLE_NUMBERS.items():
        value = settings.get(name)
        if value is not None and not (_is(Integral, value) and value >= least):
            raise ValueError(f"{name}={value!r} must be a whole number of at least {least}.")
    for name, (lowest, most) in NUMBERS.items():
        value = settings.get(name)
        if value is not None and not (_is(Real, value) and lowest <= value <= most):
            raise ValueError(f"{name}={value!r} must be a number from {lowest} to {most}.")
    sampling, beams, captions = (settings.get(name) for name in ("do_sample", "num_beams", "num_return_sequences"))
    if sampling not in (None, True, False):
        raise ValueError(f"do_sample={sampling!r} must be true or false.")
    if not sampling and (captions or 1) > (beams or 1):
        raise ValueError(
            f"num_return_sequences={captions} asks for more captions than num_beams={beams or 1} finds; raise"
            " num_beams, or sample with do_sample."
        )
    if settings.get("early_stopping") not in (None, True, False, "never"):
        raise ValueError(f"early_stopping={settings['early_stopping']!r} must be true, false or 'never'.")
    conjunctions = settings.get("conjunction_token_ids")
    if conjunctions is not None and not (
        isinstance(conjunctions, list) and all(_is(Integral, token) for token in conjunctions)
    ):
        raise ValueError(f"conjunction_token_ids={conjunctions!r} must be a list of token ids.")
    for name, neutral in UNSUPPORTED.items():
        if (value := settings.get(name)) not in (None, neutral):
            raise ValueError(f"{name}={value!r} does not work with a captioner; leave it out.")


def _is(kind, value):
    return isinstance(value, kind) and not isinstance(value, bool)


def check_arguments(unsupported: Mapping[str, Any], decoder_input_ids: Any, labels: Any, regions: Any) -> None:
    """Raise `ValueError` for arguments of `forward` that do not fit.

    Args:
        unsupported: arguments that an RNN has no use for, which may be None, and masks that mask nothing.
        decoder_input_ids: (captions, words), a multiple of the photos of `regions`.
        labels: None, or of the same shape.
    """
    for name, value in unsupported.items():
        if value is None or (name.endswith("attention_mask") and value.all()):
            continue
        raise ValueError(
            f"{name} is not supported by a captioner, whose RNNs read every word they are given; leave it out."
        )
    if len(decoder_input_ids) % len(regions):
        raise ValueError(
            f"{len(decoder_input_ids)} captions do not divide evenly among {len(regions)} photos; pass the same number"
            " of captions for each."
        )
    if labels is not None and labels.shape != decoder_input_ids.shape:
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} do not fit decoder_input_ids of shape"
            f" {tuple(decoder_input_ids.shape)}; pass one label for each input word."
        )
