"""A new captioner that starts from another one's decoder."""

import pytest
import torch

from modeling_captioner import CaptionerForConditionalGeneration, CaptionerProcessor
from tests.helpers.captioners import build_tiny
from train.data import make_tokenizer
from train.decoders import load_decoder_weights


def test_words_of_both_vocabularies_start_from_the_other_decoder(learnt_captioner, drawn_photos):
    """With a larger vocabulary in another order, the words that it knew have the same scores after the same words."""
    other = CaptionerForConditionalGeneration.from_pretrained(learnt_captioner).eval()
    processor = CaptionerProcessor.from_pretrained(learnt_captioner)
    known = [word for word in processor.tokenizer.get_vocab() if not word.startswith("<")]
    tokenizer = make_tokenizer(["một hình tròn"] * 3 + known, 1, ["en", "vi"])
    model, _ = build_tiny(vocab_size=len(tokenizer), languages=["en", "vi"])
    assert load_decoder_weights(model, tokenizer, learnt_captioner) == len(processor.tokenizer) - 1 + 2  # <start>: both
    model.encoder.load_state_dict(other.encoder.state_dict())
    photos = processor(images=[drawn_photos[0][0]], return_tensors="pt").pixel_values
    words = ["a", "red", "circle", "on"]
    rows = {
        name: vocabulary.convert_tokens_to_ids(known)
        for name, vocabulary in (("new", tokenizer), ("old", processor.tokenizer))
    }
    with torch.inference_mode():
        expected = other(photos, decoder_input_ids=processor.tokenizer(" ".join(words), return_tensors="pt").input_ids)
        for start in ("<en>", "<vi>"):
            ids = torch.tensor([tokenizer.convert_tokens_to_ids([start, *words])])
            scores = model(photos, decoder_input_ids=ids).logits[..., rows["new"]]
            torch.testing.assert_close(scores, expected.logits[..., rows["old"]])


def test_a_decoder_of_another_size_is_refused(learnt_captioner):
    model, processor = build_tiny(hidden_size=64)
    with pytest.raises(ValueError, match=r"has a decoder of another size or kind \(.* differs\); give the options"):
        load_decoder_weights(model, processor.tokenizer, learnt_captioner)
