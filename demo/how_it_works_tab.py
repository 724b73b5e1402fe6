"""The "How it works" tab: every intermediate result of the model on the way from the visitor's photo to its caption."""

import base64
import io
import threading
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from demo.predict import photo_to_data_url
from modeling_captioner import explain

NUM_CHANNELS = 5  # per encoder stage, those that differ most between places
NUM_VALUES = 64  # of the RNN's hidden state and of the context vector
NUM_CANDIDATES = 8  # next words
PATCH_SIDE = 6  # pixels per side of the patch whose values are shown


@torch.inference_mode()
def trace(model, processor, photo, original_size, **generation_kwargs):
    """Caption the photo and return all numbers that the tab shows, as a dictionary for JSON.

    `original_size` is the (width, height) in pixels of the photo as it was uploaded.
    """
    ids = caption_ids(model, processor, photo, **generation_kwargs)
    inputs = processor(images=photo, return_tensors="pt").to(model.device, model.dtype)
    blocks = list(model.encoder.backbone.children())
    with record_outputs(model.decoder.first_rnn, model.decoder.attention, *blocks) as outputs:
        output = model(inputs.pixel_values, decoder_input_ids=ids[None, :-1], output_attentions=True)
    states, contexts = (outputs[module][0][0] for module in (model.decoder.first_rnn, model.decoder.attention))
    return {
        "pixels": {"original_size": original_size} | pixels(photo, model.config.image_size),
        "encoder": model.config.encoder_name,
        "stages": stages(outputs[block] for block in blocks if block in outputs),
        "transfer": transfer_learning(model),
        "regions": output.cross_attentions[0].shape[-1],
        "hidden_size": model.config.hidden_size,
        "vocabulary": vocabulary(processor.tokenizer),
        "steps": steps(processor.tokenizer, ids, output, states, contexts),
    }


@contextmanager
def record_outputs(*modules):
    """Record the modules' outputs in a dictionary, ignoring forward passes of other threads, i.e. other visitors."""
    outputs, thread = {}, threading.get_ident()

    def record(module, _, output):
        if threading.get_ident() == thread:
            outputs[module] = output

    hooks = [module.register_forward_hook(record) for module in modules]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def caption_ids(model, processor, photo, **generation_kwargs):
    """The caption's token ids from `<start>` to `<end>`, (words,)."""
    caption = explain(model, processor, photo, **generation_kwargs).caption
    ids = processor.tokenizer(caption, return_tensors="pt").input_ids[0]
    return torch.cat([ids, ids.new_tensor([model.config.eos_token_id])]).to(model.device)


def pixels(photo, size):
    """The photo as the encoder receives it, its channels, and the values of its central patch, (rows, columns, 3)."""
    resized = photo.resize((size, size), Image.Resampling.BILINEAR)
    start = (size - PATCH_SIDE) // 2
    patch = np.asarray(resized)[start : start + PATCH_SIDE, start : start + PATCH_SIDE]
    return {
        "size": size,
        "photo": photo_to_data_url(resized),
        "channels": [png_data_url(np.asarray(channel.resize((128, 128)))) for channel in resized.split()],
        "patch": patch.tolist(),
    }


def stages(outputs):
    """The last feature map of each resolution, with the channels that differ most between its places.

    Each map is averaged over the photo's regions first: between single pixels, a regular pattern would differ most.
    """
    last = {}
    for output in outputs:
        if isinstance(output, torch.Tensor) and output.ndim == 4:
            last[output.shape[2:]] = output[0]  # (channels, rows, columns)
    result = []
    for features in last.values():
        regions = F.adaptive_avg_pool2d(features.float(), list(last)[-1])  # (channels, rows, columns)
        variances = regions.var(dim=(1, 2), correction=0)
        chosen = variances.topk(min(NUM_CHANNELS, len(features))).indices.tolist()
        channels = [{"index": index, "image": png_data_url(channel_to_grey(features[index]))} for index in chosen]
        result.append({"shape": [*features.shape[1:], features.shape[0]], "channels": channels})
    return result


def channel_to_grey(channel):
    """Convert a channel (rows, columns) to uint8, from black to white, at most as large as it is displayed."""
    values = channel.float() - channel.min()
    values = (255 * values / values.max().clamp(min=1e-6)).cpu().numpy().astype(np.uint8)
    return np.asarray(Image.fromarray(values).resize([min(96, side) for side in values.shape[::-1]]))


def transfer_learning(model):
    """The blocks of the encoder, the classifier that was removed from it, and the new layers, with their parameters."""
    encoder = model.encoder
    classes = encoder.backbone.default_cfg["num_classes"]
    new = [*list(encoder.named_children())[1:], *model.decoder.named_children()]
    return {
        "blocks": count_parameters(encoder.backbone.named_children()),
        "classifier": {"classes": classes, "parameters": (encoder.backbone.num_features + 1) * classes},
        "layers": count_parameters(new),
        "trained_from": model.config.encoder_trained_from,
    }


def count_parameters(modules):
    """The number of parameters of each of the (name, module) that has any; a tied parameter counts once."""
    seen, counts = set(), []
    for name, module in modules:
        parameters = {parameter for parameter in module.parameters() if parameter not in seen}
        seen |= parameters
        if parameters:
            counts.append({"name": name, "parameters": sum(parameter.numel() for parameter in parameters)})
    return counts


def vocabulary(tokenizer):
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return {"size": len(words), "words": words[:24]}


def steps(tokenizer, ids, output, states, contexts):
    """The decoder's intermediate results at each step. `states` and `contexts` are (words, hidden)."""
    probabilities = output.logits[0].float().softmax(dim=-1)  # (words, vocabulary)
    weights = output.cross_attentions[0][0].float()  # (heads, words, regions)
    return [
        {
            "input": tokenizer.decode(ids[step]),
            "output": tokenizer.decode(ids[step + 1]),
            "state": round_values(states[step, :NUM_VALUES]),
            "heads": round_values(weights[:, step], 6),
            "context": round_values(contexts[step, :NUM_VALUES]),
            "candidates": top_words(tokenizer, probabilities[step]),
        }
        for step in range(len(ids) - 1)
    ]


def top_words(tokenizer, probabilities):
    values, ids = probabilities.topk(min(NUM_CANDIDATES, len(probabilities)))
    return [
        {"word": tokenizer.decode(word), "probability": value} for word, value in zip(ids, values.tolist(), strict=True)
    ]


def round_values(tensor, digits=3):
    return np.round(tensor.double().cpu().numpy(), digits).tolist()


def png_data_url(pixels):
    """Encode grey pixels (rows, columns), uint8, as a data URL."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
