"""Tiny captioners: with random weights, of two languages, and one that knows the captions of the drawn photos."""

import json

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, ViTImageProcessorPil

from modeling_captioner import CaptionerConfig, CaptionerForConditionalGeneration, CaptionerProcessor
from tests.helpers.drawn import all_drawn_photos
from train.data.vocabulary import make_tokenizer

# A small convolutional network keeps tests fast; Inception-v3 is tested where it matters.
TINY_ENCODER = {"encoder_name": "test_resnet", "image_size": 64}


def build_tiny(**options):
    """(model, processor) with random weights, in evaluation mode; options are `CaptionerConfig`'s."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer([caption for _, caption in all_drawn_photos()], min_count=1)
    options = TINY_ENCODER | {"hidden_size": 32, "embedding_size": 16, "vocab_size": len(tokenizer)} | options
    size = {"height": options["image_size"], "width": options["image_size"]}
    images = ViTImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_convert_rgb=True)
    model = CaptionerForConditionalGeneration(CaptionerConfig(**options)).eval()
    return model, CaptionerProcessor(images, tokenizer)


def speak_both(model, processor):
    """The tiny captioner with `<en>` in the place of `<start>` and `<vi>` as the last word."""
    words = json.loads(processor.tokenizer.backend_tokenizer.to_str().replace("<start>", "<en>"))
    vocabulary = words["model"]["vocab"]
    vocabulary["<vi>"] = len(vocabulary)
    words["added_tokens"].append(words["added_tokens"][0] | {"id": vocabulary["<vi>"], "content": "<vi>"})
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=type(processor.tokenizer.backend_tokenizer).from_str(json.dumps(words)),
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<en>",
        eos_token="<end>",
    )
    options = model.config.to_dict() | {"languages": ["en", "vi"], "vocab_size": len(vocabulary)}
    torch.manual_seed(3)
    both = CaptionerForConditionalGeneration(CaptionerConfig.from_dict(options)).eval()
    with torch.no_grad():
        both.decoder.embedding.weight[[2, vocabulary["<vi>"]]] *= 30  # the start must change what is said
        both.decoder.output_projection.weight *= 30
    special = [0, 1, 2, vocabulary["<vi>"]]
    both.generation_config = GenerationConfig(
        **{"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0, "decoder_start_token_id": 2},
        **{"max_new_tokens": 5, "min_new_tokens": 5, "suppress_tokens": special},
        languages={
            "en": {"decoder_start_token_id": 2},
            "vi": {"decoder_start_token_id": vocabulary["<vi>"], "suppress_tokens": [*special, 4]},
        },
    )
    return both, CaptionerProcessor(processor.image_processor, tokenizer, languages=["en", "vi"])


def learn_by_heart(folder):
    """Write a tiny captioner that knows the captions of the drawn photos by heart into `folder`."""
    model, processor = build_tiny(dropout=0.0, word_dropout=0.0)
    photos, captions = zip(*all_drawn_photos(), strict=True)
    pixel_values = processor(images=list(photos), return_tensors="pt").pixel_values
    labels = torch.tensor(
        [[*ids[1:], model.config.eos_token_id] for ids in processor.tokenizer(list(captions))["input_ids"]]
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(100):
        model(pixel_values, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.generation_config.update(max_new_tokens=12, suppress_tokens=[0, 1, 2])
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
