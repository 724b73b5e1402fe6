"""No captions such as "a black and black dog": `conjunction_token_ids`."""

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from modeling_captioner.repetition import echo_of


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a black and", "black"),
        ("a man and a", "man"),
        ("a blue shirt and blue", "shirt"),
        ("cats and dogs and", "dogs"),
        ("a man and a woman and a", "woman"),
        ("a yellow banana and a", "banana"),
        ("a man and another", None),
        ("a red car and a blue", None),
        ("a black and white", None),
        ("black dogs", None),
        ("and", None),
        ("", None),
    ],
)
def test_echoes(caption, expected):
    words = caption.split()
    assert echo_of(words, {"and", "or"}) == ([expected] if expected else [])


def test_generate_says_no_echo(tiny_captioner):
    """With weights that make a captioner say "4 5 4 5 ..." otherwise, in greedy search, beam search and sampling."""
    model, _ = tiny_captioner()
    regions = torch.randn(2, 4, model.config.hidden_size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.decoder.output_bias.fill_(-50)
        model.decoder.output_bias[4:7] = torch.tensor([50.0, 49.0, 40.0])
        model.decoder.output_projection.weight.zero_()

    def captions(**settings):
        inputs = {"encoder_outputs": BaseModelOutput(regions), "max_new_tokens": 8, "no_repeat_ngram_size": 0}
        return model.generate(**inputs, **settings)[:, 1:].tolist()

    assert captions(num_beams=1) == [[4] * 8] * 2
    for settings in ({"num_beams": 1}, {"num_beams": 3}, {"num_beams": 1, "do_sample": True, "top_k": 0}):
        for ids in captions(**settings, conjunction_token_ids=[4]):
            assert any(ids[i] == 4 for i in range(8))
            assert not any(ids[i] != 4 and ids[i] == ids[i + 2] and ids[i + 1] == 4 for i in range(6))


def test_what_is_no_list_of_ids_is_refused(tiny_captioner):
    model, _ = tiny_captioner()
    with pytest.raises(ValueError, match="conjunction_token_ids='and' must be a list of token ids"):
        model.generate(torch.zeros(1, 3, 75, 75), conjunction_token_ids="and")
