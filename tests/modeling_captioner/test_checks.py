"""Settings of generation that are refused in one sentence."""

import math

import pytest
import torch
from transformers import GenerationConfig

from modeling_captioner.checks import check_generation

WRONG = [
    ({"max_new_tokens": 0}, "max_new_tokens=0 must be a whole number of at least 1"),
    ({"num_beams": 0}, "num_beams=0 must be a whole number of at least 1"),
    ({"num_beams": "3"}, "num_beams='3' must be a whole number"),
    ({"num_beams": 2.5}, "num_beams=2.5 must be a whole number"),
    ({"num_beams": True}, "num_beams=True must be a whole number"),
    ({"min_new_tokens": -1}, "min_new_tokens=-1 must be a whole number of at least 0"),
    ({"length_penalty": math.nan}, "length_penalty=nan must be a number"),
    ({"length_penalty": "long"}, "length_penalty='long' must be a number"),
    ({"do_sample": True, "temperature": 1e-9}, "temperature=1e-09 must be a number from 0.01"),
    ({"do_sample": True, "top_p": 1.5}, "top_p=1.5 must be a number from 0 to 1"),
    ({"num_return_sequences": 3}, "num_return_sequences=3 asks for more captions than num_beams=1"),
    ({"guidance_scale": 2.0}, "guidance_scale=2.0 does not work with a captioner"),
]


@pytest.mark.parametrize(("settings", "sentence"), WRONG)
def test_wrong_settings_are_refused(tiny_captioner, settings, sentence):
    model, _ = tiny_captioner()
    photos = torch.rand(1, 3, 64, 64)
    for refused in (lambda: model.generate(photos, **settings), lambda: check_generation(settings)):
        with pytest.raises(ValueError, match=sentence.replace(".", r"\.")):
            refused()


def test_settings_that_are_not_set_are_accepted(tiny_captioner):
    model, _ = tiny_captioner()
    photos = torch.rand(1, 3, 64, 64)
    unset = {"num_beams": None, "temperature": None, "do_sample": None, "num_return_sequences": None, "top_k": 0}
    check_generation(unset)
    assert len(model.generate(photos, max_new_tokens=2, num_beams=None, temperature=None)) == 1
    given = GenerationConfig(num_beams=3, num_return_sequences=3, max_new_tokens=2, min_new_tokens=2)
    assert model.generate(photos, generation_config=given).shape == (3, 3)
