"""Invariants of the model, for all types of RNNs and attention."""

import itertools
import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.nn import functional as F
from transformers import TextStreamer
from transformers.modeling_outputs import BaseModelOutput

from modeling_captioner import CaptionerConfig, CaptionerForConditionalGeneration, explain, explain_caption
from modeling_captioner.modeling_captioner import CACHE_NAME

RNNS, ATTENTIONS = ("gru", "lstm"), ("dot", "additive", "multi_head")
every_kind = pytest.mark.parametrize(("rnn_type", "attention_type"), list(itertools.product(RNNS, ATTENTIONS)))


@pytest.fixture
def photos():
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def ids(tiny_captioner):
    return torch.randint(4, 14, (3, 7), generator=torch.Generator().manual_seed(2))


@every_kind
@torch.no_grad()
def test_attention_is_a_distribution_over_regions(tiny_captioner, photos, ids, rnn_type, attention_type):
    model, _ = tiny_captioner(rnn_type=rnn_type, attention_type=attention_type)
    (weights,) = model(photos, decoder_input_ids=ids, output_attentions=True).cross_attentions
    heads = 4 if attention_type == "multi_head" else 1
    regions = model.encoder.features(photos).shape[1]
    assert weights.shape == (3, heads, 7, regions)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, heads, 7))
    assert (weights[:, :, 1:] - weights[:, :, :-1]).abs().max() > 1e-6, "the map must depend on the word"


@every_kind
@torch.no_grad()
def test_cached_steps_equal_one_pass(tiny_captioner, photos, ids, rnn_type, attention_type):
    """Decoding word by word must give the logits of the teacher-forced pass."""
    model, _ = tiny_captioner(rnn_type=rnn_type, attention_type=attention_type, num_layers=2)
    regions = model.get_encoder()(photos)
    whole = model(encoder_outputs=regions, decoder_input_ids=ids).logits
    past, steps = None, []
    for word in ids.T:
        output = model(encoder_outputs=regions, decoder_input_ids=word[:, None], **{CACHE_NAME: past})
        past = output[CACHE_NAME]
        steps.append(output.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, rtol=0, atol=1e-5)
    assert past.get_seq_length() == 7


@every_kind
@torch.no_grad()
def test_wide_beam_search_finds_the_best_caption(tiny_captioner, photos, rnn_type, attention_type):
    """With one beam per possible sequence, beam search is exhaustive."""
    words, length = 6, 3  # ids 0..5, of which 3 is <end>
    model, _ = tiny_captioner(rnn_type=rnn_type, attention_type=attention_type, vocab_size=words)
    regions = BaseModelOutput(model.get_encoder()(photos[:1])[0])
    best, best_score = None, -math.inf
    for caption in itertools.product(range(words), repeat=length):
        if 3 in caption[:-1]:
            end = caption.index(3)
            if set(caption[end + 1 :]) != {0}:
                continue  # only padding follows <end>
            caption = caption[: end + 1]
        ids = torch.tensor([[2, *caption]])
        logits = model(encoder_outputs=regions, decoder_input_ids=ids[:, :-1]).logits.log_softmax(-1)
        score = logits.gather(2, ids[:, 1:, None]).sum().item()
        if score > best_score:
            best, best_score = list(caption), score
    output = model.generate(
        encoder_outputs=regions,
        num_beams=words**length // 2,
        max_new_tokens=length,
        length_penalty=0.0,
        early_stopping=False,
        return_dict_in_generate=True,
        output_scores=True,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
        decoder_start_token_id=2,
    )
    assert [word for word in output.sequences[0, 1:].tolist() if word] == [word for word in best if word]
    assert output.sequences_scores.item() == pytest.approx(best_score, abs=1e-4)


def settings_of(model):
    config = model.config
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    return {name: getattr(config, name) for name in names}


@every_kind
@torch.no_grad()
def test_beams_of_a_batch_equal_beams_alone(tiny_captioner, photos, rnn_type, attention_type):
    model, _ = tiny_captioner(rnn_type=rnn_type, attention_type=attention_type)
    options = {"num_beams": 4, "max_new_tokens": 6, "min_new_tokens": 6} | settings_of(model)
    together = model.generate(photos, **options)
    alone = torch.cat([model.generate(photo[None], **options) for photo in photos])
    assert together.tolist() == alone.tolist()


@torch.no_grad()
def test_beams_are_at_least_as_likely_as_greedy(tiny_captioner, photos):
    model, _ = tiny_captioner(hidden_size=64)
    regions = model.get_encoder()(photos)
    # Without <end>, all captions have the same length, and their log-probabilities can be compared.
    options = {"max_new_tokens": 6} | settings_of(model) | {"eos_token_id": None}

    def log_probability(ids):
        logits = model(encoder_outputs=regions, decoder_input_ids=ids[:, :-1]).logits
        return logits.log_softmax(-1).gather(2, ids[:, 1:, None]).sum((1, 2))

    greedy = log_probability(model.generate(photos, num_beams=1, **options))
    beams = log_probability(model.generate(photos, num_beams=14, **options))
    assert (beams >= greedy - 1e-5).all()


@torch.no_grad()
def test_generate_samples_streams_and_returns_attention(tiny_captioner, photos, capsys):
    model, processor = tiny_captioner()
    options = {"max_new_tokens": 5, "min_new_tokens": 5} | settings_of(model)
    sampled = model.generate(photos, do_sample=True, num_return_sequences=4, **options)
    assert sampled.shape == (12, 6)
    assert len({tuple(ids) for ids in sampled[:4].tolist()}) > 1
    repeated = model.generate(photos[:1], repetition_penalty=50.0, **options)[0, 1:].tolist()
    assert len(set(repeated)) == len(repeated)
    output = model.generate(photos, output_attentions=True, return_dict_in_generate=True, **options)
    assert len(output.cross_attentions) == 5
    assert output.cross_attentions[0][0].shape[:3] == (3, 4, 1)
    model.generate(photos[:1], streamer=TextStreamer(processor.tokenizer, skip_special_tokens=True), **options)
    assert len(capsys.readouterr().out.split()) >= 1


@pytest.mark.parametrize(
    "encoder_name", ["test_vit", "test_convnext", "test_efficientnet", "swin_tiny_patch4_window7_224"]
)
@torch.no_grad()
def test_any_spatial_encoder(tiny_captioner, encoder_name):
    """Feature maps with channels first or last, and tokens, become regions in row-major order."""
    size = 224 if encoder_name.startswith("swin") else 160
    model, _ = tiny_captioner(encoder_name=encoder_name, image_size=size)
    features = model.encoder.features(torch.rand(2, 3, size, size))
    side = math.isqrt(features.shape[1])
    assert features.shape == (2, side * side, model.encoder.backbone.num_features)


@torch.no_grad()
def test_inception_sees_eight_by_eight_regions(tiny_captioner):
    model, _ = tiny_captioner(encoder_name="inception_v3", image_size=299)
    assert model.encoder.features(torch.rand(1, 3, 299, 299)).shape == (1, 64, 2048)


def test_a_frozen_encoder_does_not_change(tiny_captioner, photos, ids):
    """Neither its weights nor its batch-norm statistics; both change if the encoder is trained."""
    for frozen in (True, False):
        model, _ = tiny_captioner()
        if not frozen:
            model.encoder.freeze([])
        model.train()
        before = {name: tensor.clone() for name, tensor in model.encoder.backbone.state_dict().items()}
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        for _ in range(2):
            model(photos, labels=ids).loss.backward()
            optimizer.step()
        after = model.encoder.backbone.state_dict()
        changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
        if frozen:
            assert not changed
        else:
            assert {"conv1.0.weight", "bn1.weight", "bn1.running_mean", "bn1.running_var"} <= changed


def test_label_smoothing_is_cross_entropy_with_smoothed_targets(tiny_captioner, photos, ids):
    model, _ = tiny_captioner(label_smoothing=0.2, dropout=0.0, word_dropout=0.0)
    model.train()
    output = model(photos, labels=ids)
    log_probabilities = output.logits.log_softmax(-1)  # (targets, vocabulary)
    said = log_probabilities.gather(1, ids.flatten()[:, None]).squeeze(-1)
    expected = -(0.8 * said + 0.2 * log_probabilities.mean(-1)).mean()
    torch.testing.assert_close(output.loss, expected)
    model.eval()
    torch.testing.assert_close(model(photos, labels=ids).loss, -said.mean(), rtol=1e-4, atol=1e-5)


@every_kind
def test_training_skips_padding(tiny_captioner, photos, ids, rnn_type, attention_type):
    """The loss, the gradients and the logits of the words to learn are those of a pass over whole rows."""
    model, _ = tiny_captioner(
        rnn_type=rnn_type, attention_type=attention_type, num_layers=2, dropout=0.0, word_dropout=0.0
    )
    labels = ids.clone()
    labels[0, 4:] = labels[1, 2] = labels[2, :] = -100
    gradients = []
    for whole in (False, True):
        model.train(not whole)
        model.zero_grad()
        output = model(photos, labels=labels)
        loss = output.loss
        if whole:  # the label smoothing of training
            loss = F.cross_entropy(output.logits.flatten(0, 1), labels.flatten(), label_smoothing=0.1)
        loss.backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
        logits = output.logits[labels != -100] if whole else output.logits
        gradients[-1] |= {"loss": loss.detach(), "logits": logits.detach()}
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_captions_of_one_photo_share_its_regions(tiny_captioner, photos, ids):
    model, _ = tiny_captioner()
    labels = ids.repeat_interleave(2, 0).roll(1, 1)
    together = model(photos, labels=labels).logits
    apart = model(photos.repeat_interleave(2, 0), labels=labels).logits
    torch.testing.assert_close(together, apart)
    with pytest.raises(ValueError, match="4 captions do not divide evenly among 3 photos"):
        model(photos, labels=labels[:4])


def test_new_words_are_learnt_and_kept(tiny_captioner, photos, tmp_path):
    """`resize_token_embeddings` keeps the logits of the old words, and output and embedding remain tied."""
    model, processor = tiny_captioner()
    torch.nn.init.normal_(model.decoder.output_bias)
    processor.tokenizer.add_tokens(["zebra", "gnu"])
    begun = {"decoder_input_ids": torch.tensor([[2, 4]] * 3)}
    with torch.no_grad():
        before = model(photos, **begun).logits
    old, new = before.shape[-1], len(processor.tokenizer)
    model.resize_token_embeddings(new)
    after = model(photos, **begun).logits.detach()
    assert (new, model.config.vocab_size, after.shape[-1]) == (old + 2,) * 3
    torch.testing.assert_close(after[..., :old], before)
    model(photos, labels=torch.full((3, 2), old)).loss.backward()
    with torch.no_grad():
        for weight in (model.decoder.embedding.weight, model.decoder.output_bias):
            assert weight.grad[old:].any()
            weight -= weight.grad
    model.save_pretrained(tmp_path)
    loaded = CaptionerForConditionalGeneration.from_pretrained(tmp_path)
    for captioner in (model, loaded):
        decoder = captioner.decoder
        assert decoder.output.weight is decoder.embedding.weight is captioner.get_output_embeddings().weight
        assert decoder.output.bias is decoder.output_bias
    torch.testing.assert_close(loaded(photos, **begun).logits, model(photos, **begun).logits)
    model.resize_token_embeddings(old)
    assert model(photos, **begun).logits.shape[-1] == len(model.decoder.output_bias) == old


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"attention_type": "dott"}, "attention_type"),
        ({"rnn_type": "rnn"}, "rnn_type"),
        ({"hidden_size": 30}, "num_attention_heads=4 must divide hidden_size=30"),
        ({"dropout": 1.5}, "dropout=1.5"),
        ({"vocab_size": 0}, "vocab_size=0"),
        ({"encoder_name": "hf-hub:someone/something"}, "encoder_name"),
        ({"encoder_name": "/etc/passwd"}, "encoder_name"),
        ({"attention_tipe": "dot"}, "did you mean 'attention_type'"),
    ],
)
def test_wrong_options_are_refused_by_name(options, named):
    with pytest.raises((ValueError, StrictDataclassError), match=named):
        CaptionerConfig(**options)


def test_an_unknown_encoder_is_refused_by_name():
    with pytest.raises(ValueError, match="'inception_v33' is not an architecture of timm"):
        CaptionerForConditionalGeneration(CaptionerConfig(encoder_name="inception_v33"))


def test_processor_begins_a_caption(tiny_captioner, drawn_photos):
    _, processor = tiny_captioner()
    photo = drawn_photos[0][0]
    inputs = processor(images=[photo, photo], text=["a red", "a blue"], return_tensors="pt")
    assert inputs.pixel_values.shape == (2, 3, 64, 64)
    assert processor.batch_decode(inputs.decoder_input_ids) == ["<start> a red", "<start> a blue"]
    assert processor(images=photo, text="", return_tensors="pt").decoder_input_ids.tolist() == [[2]]
    with pytest.raises(ValueError, match="same number of words"):
        processor(images=[photo, photo], text=["a", "a blue"], padding=True, return_tensors="pt")


@pytest.mark.parametrize("text", ["a photo of Rachel", "A red, big Rachel:", "say <end> or <start>", "", "!"])
def test_a_begun_caption_keeps_the_words_as_written(tiny_captioner, drawn_photos, text):
    """Unknown words, capital letters, punctuation, and text that looks like a special token."""
    model, processor = tiny_captioner()
    photos = [photo for photo, _ in drawn_photos[:2]]
    settings = settings_of(model) | {"max_new_tokens": 3, "min_new_tokens": 3}
    settings |= {"num_beams": 2, "num_return_sequences": 2}
    inputs = processor(images=photos, text=[text] * 2, return_tensors="pt")
    assert 3 not in inputs.decoder_input_ids
    sequences = model.generate(**inputs, **settings)
    begun = inputs.decoder_input_ids.shape[1]
    expected = [f"{text} {processor.decode(ids[begun:], skip_special_tokens=True)}".strip() for ids in sequences]
    for texts in (text, [text] * 2):
        assert processor.batch_decode(sequences, text=texts, skip_special_tokens=True) == expected
    explanation = explain(model, processor, photos[0], text=text, **settings)
    assert [caption for caption, _ in explanation.beams] == expected[:2]
    assert explanation.caption == expected[0]
    if text != "!":  # punctuation is not a word
        assert " ".join(word.text for word in explanation.words) == explanation.caption
        assert len(explanation.words) == begun - 1 + 3
    again = explain_caption(model, processor, photos[0], explanation.caption)
    assert " ".join(word.text for word in again.words) == explanation.caption
    assert [word.probability for word in again.words] == pytest.approx([w.probability for w in explanation.words])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision_takes_the_processors_pixels(tiny_captioner, drawn_photos, dtype):
    model, processor = tiny_captioner()
    model.to(dtype)
    inputs = processor(images=[photo for photo, _ in drawn_photos], return_tensors="pt")
    assert inputs.pixel_values.dtype == torch.float32
    settings = settings_of(model) | {"max_new_tokens": 3}
    halves = model.generate(**inputs.to(dtype), **settings)
    assert model.generate(**inputs, **settings).tolist() == halves.tolist()
    assert model(inputs.pixel_values, labels=torch.full((8, 2), 4)).logits.dtype == dtype


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"guidance_scale": 2.0}, "guidance_scale=2.0 does not work with a captioner"),
        ({"prompt_lookup_num_tokens": 2}, "prompt_lookup_num_tokens=2 does not work"),
        ({"prefill_chunk_size": 2}, "prefill_chunk_size=2 does not work"),
    ],
)
def test_generation_that_needs_more_than_an_rnn_is_refused_by_name(tiny_captioner, photos, options, named):
    model, _ = tiny_captioner()
    with pytest.raises(ValueError, match=named):
        model.generate(photos, **options, **settings_of(model))
    with pytest.raises(ValueError, match="assisted generation is not supported"):
        model.generate(photos, assistant_model=model, **settings_of(model))


@pytest.mark.parametrize(
    "wrong", [lambda photos: photos[0], lambda photos: photos[:, :1], lambda photos: photos.byte()]
)
def test_pixels_that_are_not_the_processors_are_refused(tiny_captioner, photos, wrong):
    model, _ = tiny_captioner()
    with pytest.raises(ValueError, match="the pixel_values that the processor returns"):
        model.generate(wrong(photos), **settings_of(model))
    with pytest.raises(ValueError, match="the pixel_values that the processor returns"):
        model.generate(decoder_input_ids=torch.tensor([[2]]), **settings_of(model))  # without a photo


def test_one_text_serves_all_photos(tiny_captioner, drawn_photos):
    _, processor = tiny_captioner()
    inputs = processor(images=[photo for photo, _ in drawn_photos[:3]], text="a red", return_tensors="pt")
    assert processor.batch_decode(inputs.decoder_input_ids) == ["<start> a red"] * 3
    with pytest.raises(ValueError, match="same number of words"):
        processor(images=[photo for photo, _ in drawn_photos[:2]], text=["a", "a red"], return_tensors="pt")
