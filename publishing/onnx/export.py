"""From a captioner to two ONNX files in int8: `export_onnx`. `python -m publishing.export --onnx` calls it.

The layout follows transformers.js and Optimum:

| file | used for |
|---|---|
| `onnx/encoder_model_quantized.onnx` | one run per photo |
| `onnx/decoder_model_merged_quantized.onnx` | one run per word, including the first |
| `config.json` | `languages`, of a captioner of several |
| `generation_config.json` | first token, settings of `modeling_captioner/onnx_search.py`, what differs by `languages` |
| `processor_config.json` | `image_processor`: `size`, `resample`, `rescale_factor`, `image_mean`, `image_std` |
| `tokenizer.json` | `model.vocab`: {word: id}; a caption is its words joined by spaces |

| graph | input or output | shape | |
|---|---|---|---|
| encoder | `pixel_values` | (batch, 3, size, size) | float32, in RGB |
| → | `last_hidden_state` | (batch, regions, hidden) | float32, a square of regions, row by row |
| | `present.*` | (batch, layers, hidden) | float32, the initial RNN states |
| decoder | `input_ids` | (batch, 1) | int64, the last word of each caption |
| | `encoder_hidden_states` | (batch, regions, hidden) | the regions, repeated for each beam |
| | `past_key_values.*` | (batch, layers, hidden) | the previous `present.*` |
| → | `logits` | (batch, 1, vocabulary) | float32 |
| | `cross_attentions` | (batch, heads, 1, regions) | float32, sums to 1; a map is the mean over the heads |
| | `present.*` | (batch, layers, hidden) | float32, the RNN states after this word |

`*` stands for `first.0` and `second.0` (GRU), or `first.0`, `first.1`, `second.0` and `second.1` (LSTM). The metadata
of both graphs hold `weights`, the `weights_fingerprint` (`modeling_captioner/onnx_files.py`) of the weights they were
exported from, and `calibration_photos`, their number.
"""

import tempfile
import warnings
from pathlib import Path

import onnx
import torch
from torch import nn

from captioning.loading import load_captioner
from captioning.saving import writing
from modeling_captioner.modeling_captioner import RnnCache
from modeling_captioner.onnx_files import FILES, weights_fingerprint

from .quantization import compress_matrices, quantize_convolutions


class Encoder(nn.Module):
    """Maps `pixel_values` (batch, 3, size, size) to regions (batch, regions, hidden) and the initial RNN states."""

    def __init__(self, model):
        super().__init__()
        self.encoder, self.decoder = model.encoder, model.decoder

    def forward(self, pixel_values):
        regions = self.encoder(pixel_values).last_hidden_state
        states = self.decoder.initial_states(regions, captions_per_photo=1)
        return regions, *states["first"], *states["second"]


class DecoderStep(nn.Module):
    """Maps one word per caption (batch, 1), regions and states to logits (batch, 1, vocabulary), attention weights
    (batch, heads, 1, regions) and the new states."""

    def __init__(self, model):
        super().__init__()
        self.decoder = model.decoder

    def forward(self, input_ids, regions, states):
        cache, half = RnnCache(), len(states) // 2
        cache.states = {"first": states[:half], "second": states[half:]}
        logits, attention, _ = self.decoder(input_ids, regions, cache)
        return logits, attention, *cache.states["first"], *cache.states["second"]


def export_onnx(source, photos):
    """Export the captioner in the folder `source` to its subfolder `onnx`, quantized to int8.

    `photos`: RGB `PIL.Image.Image`s for the calibration. Raises `ValueError` if `source` is not a valid captioner or
    there are no photos, `OSError` if the files cannot be written.
    """
    model, processor = load_captioner(str(source), "cpu", "float32")
    pixel_values = [processor(images=photo, return_tensors="np").pixel_values for photo in photos]
    if not pixel_values:
        raise ValueError("No photo could be read for the calibration; give others with --photos.")
    metadata = {"weights": weights_fingerprint(source), "calibration_photos": str(len(pixel_values))}
    target = Path(source) / "onnx"
    with tempfile.TemporaryDirectory() as whole, writing(target, target / "part"):
        files = [Path(whole, name) for name in FILES]
        export_graphs(model, *files)
        quantized = Path(whole, "quantized.onnx")
        quantize_convolutions(files[0], quantized, pixel_values)
        quantized.replace(files[0])
        (target / "part").mkdir(parents=True)
        for file in files:
            graph = onnx.load(file)
            compress_matrices(graph)
            strip(graph)
            onnx.helper.set_model_props(graph, metadata)
            onnx.save(graph, target / "part" / file.name)
        for file in files:
            (target / "part" / file.name).replace(target / file.name)
        (target / "part").rmdir()


def export_graphs(model, encoder_file, decoder_file):
    """Export the captioner `model` to two ONNX files, in float32."""
    encoder, decoder = Encoder(model), DecoderStep(model)
    pixel_values = torch.zeros(2, 3, model.config.image_size, model.config.image_size)
    with torch.no_grad():
        regions, *states = encoder(pixel_values)
    states = [state.clone() for state in states]  # one tensor given twice would become one input of the graph
    names = [f"{rnn}.{part}" for rnn in ("first", "second") for part in range(len(states) // 2)]
    before, after = [f"past_key_values.{name}" for name in names], [f"present.{name}" for name in names]
    batch = {0: torch.export.Dim("batch")}
    _export(
        encoder,
        (pixel_values,),
        encoder_file,
        input_names=["pixel_values"],
        output_names=["last_hidden_state", *after],
        dynamic_shapes=(batch,),
    )
    _export(
        decoder,
        (torch.full((2, 1), model.config.decoder_start_token_id), regions, states),
        decoder_file,
        input_names=["input_ids", "encoder_hidden_states", *before],
        output_names=["logits", "cross_attentions", *after],
        dynamic_shapes=(batch, batch, [batch] * len(states)),
    )


def _export(module, inputs, file, **names):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about PyTorch internals
        torch.onnx.export(module.eval(), inputs, file, **names, dynamo=True, external_data=False, verbose=False)


def strip(model):
    """Remove the exporter's notes from an `onnx.ModelProto`: where in PyTorch each node comes from, and local paths."""
    del model.metadata_props[:], model.graph.value_info[:], model.graph.metadata_props[:]
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
