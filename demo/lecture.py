"""The lecture, live: what happens inside the model on the way from the visitor's photo to its caption."""

import base64
import io
import threading
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image

from demo.answers import shown
from modeling_captioner import explain

SHOWN_CHANNELS = 5  # of each stage, the strongest
SHOWN_NUMBERS = 64  # of the RNN's state and of the context
SHOWN_WORDS = 8
WINDOW = 6  # points a side of the numbers shown from the middle of the photo


@torch.inference_mode()
def lecture(model, processor, photo, original, **generation):
    """Every number that the lecture shows of a photo, `original` points wide and high, as a dictionary for JSON."""
    ids = sentence(model, processor, photo, **generation)
    inputs = processor(images=photo, return_tensors="pt").to(model.device, model.dtype)
    blocks = list(model.encoder.backbone.children())
    with overhearing(model.decoder.first_rnn, model.decoder.attention, *blocks) as heard:
        output = model(inputs.pixel_values, decoder_input_ids=ids[None, :-1], output_attentions=True)
    states, contexts = (heard[part][0][0] for part in (model.decoder.first_rnn, model.decoder.attention))
    return {
        "pixels": {"original": original} | pixels(photo, model.config.image_size),
        "encoder": model.config.encoder_name,
        "stages": stages(heard[block] for block in blocks if block in heard),
        "regions": [output.cross_attentions[0].shape[-1], model.config.hidden_size],
        "vocabulary": vocabulary(processor.tokenizer),
        "steps": steps(processor.tokenizer, ids, output, states, contexts),
    }


@contextmanager
def overhearing(*parts):
    """A dictionary of what these parts of the model give, while this thread, and no other visitor's, runs it."""
    heard, thread = {}, threading.get_ident()

    def hear(part, _, output):
        if threading.get_ident() == thread:
            heard[part] = output

    hooks = [part.register_forward_hook(hear) for part in parts]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def sentence(model, processor, photo, **generation):
    """The caption's ids, from `<start>` to `<end>`, (words,)."""
    caption = explain(model, processor, photo, **generation).caption
    ids = processor.tokenizer(caption, return_tensors="pt").input_ids[0]
    return torch.cat([ids, ids.new_tensor([model.config.eos_token_id])]).to(model.device)


def pixels(photo, size):
    """The photo as the encoder gets it, its three channels, and the numbers in its middle, (WINDOW, WINDOW, 3)."""
    small = photo.resize((size, size), Image.Resampling.BILINEAR)
    start = (size - WINDOW) // 2
    window = np.asarray(small)[start : start + WINDOW, start : start + WINDOW]
    return {
        "size": size,
        "photo": shown(small),
        "channels": [png(np.asarray(channel.resize((128, 128)))) for channel in small.split()],
        "window": window.tolist(),
    }


def stages(outputs):
    """The last output of each shape that the picture has on its way, with its strongest channels."""
    last = {}
    for output in outputs:
        if isinstance(output, torch.Tensor) and output.ndim == 4:
            last[output.shape[2:]] = output[0]  # (channels, rows, columns)
    shown_stages = []
    for maps in last.values():
        strongest = maps.mean(dim=(1, 2)).topk(min(SHOWN_CHANNELS, len(maps))).indices
        channels = [{"number": number, "picture": png(bright(maps[number]))} for number in strongest.tolist()]
        shown_stages.append({"shape": [*maps.shape[1:], maps.shape[0]], "channels": channels})
    return shown_stages


def bright(channel):
    """A channel (rows, columns) as grey from 0 to 255, no larger than it is shown."""
    values = channel.float().relu()
    values = (255 * values / values.max().clamp(min=1e-6)).cpu().numpy().astype(np.uint8)
    return np.asarray(Image.fromarray(values).resize([min(96, side) for side in values.shape[::-1]]))


def vocabulary(tokenizer):
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return {"size": len(words), "words": words[:24]}


def steps(tokenizer, ids, output, states, contexts):
    """What happens before each word is said; `states` and `contexts` are (words, hidden)."""
    probabilities = output.logits[0].float().softmax(dim=-1)  # (words, vocabulary)
    weights = output.cross_attentions[0][0].float()  # (heads, words, regions)
    return [
        {
            "read": tokenizer.decode(ids[place]),
            "said": tokenizer.decode(ids[place + 1]),
            "id": ids[place + 1].item(),
            "state": rounded(states[place, :SHOWN_NUMBERS]),
            "heads": rounded(weights[:, place], 6),
            "context": rounded(contexts[place, :SHOWN_NUMBERS]),
            "next": likeliest(tokenizer, probabilities[place]),
        }
        for place in range(len(ids) - 1)
    ]


def likeliest(tokenizer, probabilities):
    values, ids = probabilities.topk(min(SHOWN_WORDS, len(probabilities)))
    return [
        {"word": tokenizer.decode(word), "probability": value} for word, value in zip(ids, values.tolist(), strict=True)
    ]


def rounded(tensor, digits=3):
    return np.round(tensor.double().cpu().numpy(), digits).tolist()


def png(pixels):
    """Grey pixels (rows, columns), uint8, as a data URL."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
