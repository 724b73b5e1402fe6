"""Export a captioner to ONNX, to run it without PyTorch (in a browser, on a phone, from a command line that starts in
a second), or as a model repository.

    python -m publishing.export --onnx --model runs/captioner --photos PHOTOS

writes `runs/captioner/onnx/`, in int8. It is calibrated on photos like those to be captioned, best the training photos;
256 are used, and they need no captions. Requires the packages onnx and onnxscript.

The layout follows transformers.js and Optimum:

| file | used for |
|---|---|
| `onnx/encoder_model_quantized.onnx` | one run per photo |
| `onnx/decoder_model_merged_quantized.onnx` | one run per word, including the first |
| `config.json` | `decoder_start_token_id`, `eos_token_id` |
| `generation_config.json` | the settings of `captioning/search.py`: beams, lengths, suppressed tokens |
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
of both graphs hold `weights`, the `captioning.onnx_files.weights_fingerprint` of the weights they were exported from,
and `calibration_photos`, their number.
"""

import argparse
import importlib.util
import itertools
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from torch import nn

from captioning.errors import print_error
from captioning.loading import SHIPPED, load_captioner
from captioning.onnx_files import FILES, weights_fingerprint
from captioning.saving import writing
from captioning.sources import find_photos, read_file, read_row, stream_dataset
from modeling_captioner import PhotoError
from modeling_captioner.modeling_captioner import RnnCache

from .publish import write_repository

CALIBRATION_PHOTOS = 256
SCALE_PHOTOS = 64  # of these are for the scales of the activations; onnxruntime keeps all activations in memory


class Encoder(nn.Module):
    """Maps `pixel_values` (batch, 3, size, size) to regions (batch, regions, hidden) and the initial RNN states."""

    def __init__(self, model):
        super().__init__()
        self.config, self.encoder, self.decoder = model.config, model.encoder, model.decoder

    def forward(self, pixel_values):
        regions = self.encoder(pixel_values).last_hidden_state
        # The decoder's initial state: the first RNN starts from the mean region, the rest from zeros.
        first = self.decoder.first_state(regions.mean(dim=1)).tanh().unflatten(1, (self.config.num_layers, -1))
        second = torch.zeros_like(first[:, :1])
        if self.config.rnn_type == "gru":
            return regions, first, second
        return regions, first, torch.zeros_like(first), second, second.clone()


class DecoderStep(nn.Module):
    """Maps one word per caption (batch, 1), regions and states to logits (batch, 1, vocabulary), attention weights
    (batch, heads, 1, regions) and the new states."""

    def __init__(self, model):
        super().__init__()
        self.decoder = model.decoder

    def forward(self, input_ids, regions, states):
        cache, half = RnnCache(), len(states) // 2
        cache.states = {"first": states[:half], "second": states[half:]}
        cache.words = 1  # steps of generation consist of matrix products, which can be packed; RNN operators cannot
        logits, attention, _ = self.decoder(input_ids, regions, cache)
        return logits, attention, *cache.states["first"], *cache.states["second"]


def export_onnx(source, photos):
    """Export the captioner in the folder `source` to its subfolder `onnx`, quantized to int8.

    `photos`: RGB `PIL.Image.Image`s for the calibration. Raises `ValueError` if `source` is not a valid captioner or
    there are no photos, `OSError` if the files cannot be written.
    """
    import onnx

    from .quantization import pack_weights, quantize_convolutions, refit_projection

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
        quantize_convolutions(files[0], quantized, pixel_values[:: max(1, len(pixel_values) // SCALE_PHOTOS)])
        refit_projection(quantized, files[0], pixel_values)
        quantized.replace(files[0])
        (target / "part").mkdir(parents=True)
        for file in files:
            graph = onnx.load(file)
            pack_weights(graph)
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


def calibration_photos(options):
    """Yields up to `CALIBRATION_PHOTOS` of the photos named by the options, spread evenly over a folder."""
    if options.dataset_name:
        rows, _ = stream_dataset(options.dataset_name, None, options.split, options.image_column)
        sources, read = (row for _, row in rows), read_row
    else:
        paths = find_photos(options.photos, [], recursive=True)
        sources, read = paths[:: max(1, len(paths) // CALIBRATION_PHOTOS)], read_file
    for source in itertools.islice(sources, CALIBRATION_PHOTOS):
        try:
            yield read(source)
        except PhotoError as error:
            print_error(error)


def main(arguments=None):
    options = parse_options(arguments)
    try:
        source = options.model
        if options.folder:
            write_repository(source, options.folder)
            source = options.folder
        if options.onnx:
            check_packages()
            export_onnx(source, calibration_photos(options))
    except (ValueError, OSError) as error:
        print_error(error)
        sys.exit(1)


def parse_options(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m publishing.export",
        description="Export a captioner to ONNX in int8, to run it without PyTorch, or as a model repository.",
    )
    parser.add_argument(
        "--model", default=str(SHIPPED), help="A local folder, or a name on the Hub. Default: the shipped captioner."
    )
    parser.add_argument("--folder", metavar="DIR", help="Write a model repository to this folder.")
    parser.add_argument(
        "--onnx",
        action="store_true",
        help="Write the ONNX export to the subfolder onnx of --folder, or without it of --model.",
    )
    parser.add_argument(
        "--photos",
        nargs="+",
        default=[],
        metavar="PHOTO",
        help=f"Photos, folders or patterns for the calibration of --onnx; {CALIBRATION_PHOTOS} photos are used. Choose "
        "photos like those to be captioned, best the training photos.",
    )
    parser.add_argument(
        "--dataset_name", metavar="NAME", help="A dataset on the Hub or in a folder, instead of --photos."
    )
    parser.add_argument("--split", default="train", help="Its split. Default: train.")
    parser.add_argument("--image_column", default="image", help="Its image column. Default: image.")
    options = parser.parse_args(arguments)
    if not (options.onnx or options.folder):
        parser.error("give --onnx, --folder or both")
    if options.onnx and bool(options.photos) == bool(options.dataset_name):
        parser.error("--onnx needs photos for the calibration: give either --photos or --dataset_name")
    if options.onnx and not options.folder and not Path(options.model).is_dir():
        parser.error(f"--model {options.model} is not a folder that onnx/ can be written to; give --folder too")
    return options


def check_packages():
    for package in ("onnx", "onnxscript"):
        if not importlib.util.find_spec(package):
            raise ValueError(f"--onnx needs the package {package}; install it with pip install onnx onnxscript.")


if __name__ == "__main__":
    main()
