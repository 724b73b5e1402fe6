"""Every intermediate result of the model on the way from a photo to its caption: `trace`, for the tour."""

import base64
import io
import threading
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from demo.predict import photo_to_data_url

NUM_CHANNELS = 5  # per encoder stage, those that differ most between places
NUM_VALUES = 64  # of the RNN's hidden state and of the context vector
NUM_WORDS = 24  # of the vocabulary
NUM_CANDIDATES = 8  # next words
PATCH_SIDE = 6  # pixels per side of the patch whose values are shown


@torch.inference_mode()
def trace(model, processor, photo, original_size, caption, **language):
    """Return all numbers on the way from the photo to the caption that the tab shows, as a dictionary for JSON.

    `original_size` is the (width, height) in pixels of the photo as it was uploaded. `language` is empty, or the
    caption's language by this name.
    """
    inputs = processor(images=photo, text=caption, return_tensors="pt", **language).to(model.device, model.dtype)
    end = inputs.decoder_input_ids.new_tensor([model.config.eos_token_id])
    ids = torch.cat([inputs.decoder_input_ids[0], end])
    blocks, decoder = list(model.encoder.backbone.children()), model.decoder
    with record_outputs(decoder.first_rnn, decoder.attention, decoder.second_rnn, *blocks) as outputs:
        # Also reads `<end>`: of a single word, an RNN calculates without calling its module.
        output = model(inputs.pixel_values, decoder_input_ids=ids[None], output_attentions=True)
    parts = (decoder.first_rnn, decoder.attention, decoder.second_rnn)
    states, contexts, second_states = (outputs[module][0][0] for module in parts)  # (words, hidden)
    regions = output.encoder_last_hidden_state[0]  # (regions, hidden)
    return {
        "pixels": {"original_size": original_size} | pixels(photo, model.config.image_size),
        "encoder": model.config.encoder_name,
        "stages": stages(outputs[block] for block in blocks if block in outputs),
        "transfer": transfer_learning(model),
        "regions": len(regions),
        "region_values": round_values(regions[:, :NUM_VALUES], 2),
        "hidden_size": model.config.hidden_size,
        "rnn": model.config.rnn_type.upper(),
        "vocabulary": vocabulary(processor.tokenizer),
        "start": processor.tokenizer.decode(ids[0]),
        "steps": steps(processor.tokenizer, ids, output, states, contexts, second_states),
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
        channels = [{"index": index, "image": png_data_url(channel_to_gray(features[index]))} for index in chosen]
        result.append({"shape": [*features.shape[1:], features.shape[0]], "channels": channels})
    return result


def channel_to_gray(channel):
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
    special = sum(word.startswith("<") for word, _ in words[:NUM_VALUES])
    return {"size": len(words), "words": words[:NUM_WORDS], "special": special, "unknown": tokenizer.unk_token_id}


def steps(tokenizer, ids, output, states, contexts, second_states):
    """The decoder's intermediate results at each step. States and contexts are (words, hidden)."""
    probabilities = output.logits[0].float().softmax(dim=-1)  # (words, vocabulary)
    weights = output.cross_attentions[0][0].float()  # (heads, words, regions)
    return [
        {
            "input": tokenizer.decode(ids[step]),
            "output": tokenizer.decode(ids[step + 1]),
            "state": round_values(states[step, :NUM_VALUES]),
            "heads": round_values(weights[:, step], 6),
            "context": round_values(contexts[step, :NUM_VALUES]),
            "second_state": round_values(second_states[step, :NUM_VALUES]),
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
    """Encode gray pixels (rows, columns), uint8, as a data URL."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
