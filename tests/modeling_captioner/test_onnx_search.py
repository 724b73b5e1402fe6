"""`modeling_captioner/onnx_search.py`: the captions and log-probabilities of `generate` for the same logits."""

import numpy as np
import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from captioning.loading import load_captioner
from modeling_captioner import open_photo
from modeling_captioner.modeling_captioner import CACHE_NAME, RnnCache
from modeling_captioner.onnx_search import check_settings, search
from tests.helpers.paths import ROOT, SHIPPED
from tests.helpers.search_settings import SEARCH_SETTINGS


def step_of(model, regions):
    """What `search` takes as `step`, computed by the PyTorch model; regions (1, regions, hidden)."""
    encoder_outputs, half = BaseModelOutput(regions), 1 if model.config.rnn_type == "gru" else 2

    def step(words, states):
        cache = RnnCache()
        if states:
            states = [torch.from_numpy(state) for state in states]
            cache.states, cache.words = {"first": tuple(states[:half]), "second": tuple(states[half:])}, 1
        ids = torch.from_numpy(words)[:, None]
        with torch.no_grad():
            output = model(encoder_outputs=encoder_outputs, decoder_input_ids=ids, cache=cache)
        states = [state.numpy() for rnn in output[CACHE_NAME].states.values() for state in rnn]
        return output.logits[:, -1].numpy(), states

    return step


def captions_of_generate(model, regions, prompt, **settings):
    """[[(ids, log-probabilities of the words)]]: for each photo its captions, best first."""
    beams = settings.get("num_beams", 1)
    output = model.generate(
        encoder_outputs=BaseModelOutput(regions),
        decoder_input_ids=torch.tensor([prompt] * len(regions)),
        num_return_sequences=beams,
        return_dict_in_generate=True,
        output_logits=True,
        **settings,
    )
    scores = model.compute_transition_scores(
        output.sequences, output.logits, output.get("beam_indices"), normalize_logits=True
    )
    captions = []
    for ids, score in zip(output.sequences[:, len(prompt) :].tolist(), scores, strict=True):
        length = ids.index(3) + 1 if 3 in ids else len(ids)
        captions.append((ids[:length], score[:length].tolist()))
    return [captions[photo : photo + beams] for photo in range(0, len(captions), beams)]


def assert_same_captions(model, regions, prompt, **settings):
    expected = captions_of_generate(model, regions, prompt, **settings)
    for photo, captions in zip(regions, expected, strict=True):
        found = search(step_of(model, photo[None]), [], prompt, {"eos_token_id": 3} | settings)
        assert [ids for ids, _ in found] == [ids for ids, _ in captions]
        for (_, scores), (_, expected_scores) in zip(found, captions, strict=True):
            np.testing.assert_allclose(scores, expected_scores, atol=1e-3)
    return [captions[0][0] for captions in expected]


@pytest.mark.parametrize("rnn_type", ["gru", "lstm"])
@pytest.mark.parametrize(
    "settings",
    [*SEARCH_SETTINGS, {"num_beams": 3, "min_new_tokens": 3}],
    ids=str,
)
def test_every_setting(tiny_captioner, rnn_type, settings):
    """Random weights, scaled so that captions differ between photos and have different lengths."""
    model, _ = tiny_captioner(rnn_type=rnn_type)
    with torch.no_grad():
        model.decoder.output_projection.weight *= 30
        model.decoder.output_bias[3] = 8
        for parameter in (*model.decoder.first_rnn.parameters(), *model.decoder.second_rnn.parameters()):
            parameter *= 4
    regions = 3 * torch.randn(12, 4, model.config.hidden_size, generator=torch.Generator().manual_seed(1))
    captions = []
    for prompt in ([2], [2, 4, 7, 4]):
        captions += assert_same_captions(model, regions, prompt, max_new_tokens=10, **settings)
    assert len({tuple(ids) for ids in captions}) > 3
    if settings.get("length_penalty", 1) <= 1:  # a larger one prefers the longest captions
        assert len({len(ids) for ids in captions}) > 1


@pytest.mark.slow
def test_shipped_captioner_on_200_photos():
    """Mixtures of the regions of the example photos, with the shipped settings."""
    if not (SHIPPED / "model.safetensors").exists():
        pytest.skip("modeling_captioner/ contains no weights")
    model, processor = load_captioner(str(SHIPPED), "cpu", "float32")
    photos = [open_photo(file) for file in sorted(ROOT.glob("demo/examples/*.jpg"))]
    with torch.no_grad():
        regions = model.encoder(processor(images=photos, return_tensors="pt").pixel_values)[0]
    shares = torch.rand(200, len(photos), generator=torch.Generator().manual_seed(0)) ** 4
    mixed = torch.einsum("np,prh->nrh", shares / shares.sum(dim=1, keepdim=True), regions)
    names = (
        "num_beams",
        "max_new_tokens",
        "min_new_tokens",
        "no_repeat_ngram_size",
        "suppress_tokens",
        "conjunction_token_ids",
    )
    settings = {name: getattr(model.generation_config, name) for name in names}
    captions = assert_same_captions(model, mixed, [2], **settings)
    assert len({tuple(ids) for ids in captions}) > 20


def test_unsupported_settings_are_named():
    check_settings({"num_beams": 3, "do_sample": False, "temperature": 0.5, "transformers_version": "5.23.0"})
    with pytest.raises(ValueError, match="repetition_penalty, which only"):
        check_settings({"num_beams": 3, "repetition_penalty": 1.5})
    with pytest.raises(ValueError, match="do_sample, top_k, which only"):
        check_settings({"do_sample": True, "top_k": 5})
    with pytest.raises(ValueError, match="repetition_penalty, which only"):
        check_settings({"languages": {"en": {"num_beams": 2}, "vi": {"repetition_penalty": 1.5}}})
