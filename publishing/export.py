"""Export a captioner to ONNX, to run it without PyTorch (on a phone, in a browser), or as a model repository.

`python -m publishing.export --onnx DIR --model runs/captioner`; `examples/caption_onnx.py` runs the exported model.
ONNX export requires the packages onnx and onnxscript.
"""

import argparse
import importlib.util
import json
import sys
import warnings
from pathlib import Path

import torch
from torch import nn

from captioning.errors import print_error
from captioning.loading import SHIPPED, load_captioner
from modeling_captioner.modeling_captioner import RnnCache

from .publish import write_repository


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
        logits, attention = self.decoder(input_ids, regions, cache)
        return logits, attention, *cache.states["first"], *cache.states["second"]


def export_onnx(source, folder):
    """Export the captioner `source` (a folder or a name on the Hub) to `folder` as ONNX, in float32.

    The layout follows transformers.js: `onnx/encoder_model.onnx` and `onnx/decoder_model_merged.onnx`, with
    config.json, generation_config.json, tokenizer.json, tokenizer_config.json and preprocessor_config.json in the
    folder above. The encoder returns the initial RNN states (`present.*`) together with the regions, so that the same
    decoder runs the first and all later steps, each of which takes the previous states (`past_key_values.*`). Raises
    `ValueError` if `source` is not a valid captioner.
    """
    model, processor = load_captioner(str(source), "cpu", "float32")
    folder = Path(folder)
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    _write_settings(model, processor, folder)
    encoder, decoder = Encoder(model), DecoderStep(model)
    pixel_values = torch.zeros(2, 3, model.config.image_size, model.config.image_size)
    with torch.no_grad():
        regions, *states = encoder(pixel_values)
    names = [f"{rnn}.{part}" for rnn in ("first", "second") for part in range(len(states) // 2)]
    past, present = [f"past_key_values.{name}" for name in names], [f"present.{name}" for name in names]
    batch = {0: torch.export.Dim("batch")}
    _export(
        encoder,
        (pixel_values,),
        folder / "onnx" / "encoder_model.onnx",
        input_names=["pixel_values"],
        output_names=["last_hidden_state", *present],
        dynamic_shapes=(batch,),
    )
    _export(
        decoder,
        (torch.full((2, 1), model.config.decoder_start_token_id), regions, states),
        folder / "onnx" / "decoder_model_merged.onnx",
        input_names=["input_ids", "encoder_hidden_states", *past],
        output_names=["logits", "cross_attentions", *present],
        dynamic_shapes=(batch, batch, [batch] * len(states)),
    )


def _export(module, inputs, file, **names):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about PyTorch internals
        torch.onnx.export(module.eval(), inputs, file, **names, dynamo=True, external_data=False, verbose=False)


def _write_settings(model, processor, folder):
    model.config.to_json_file(folder / "config.json")
    for part in (model.generation_config, processor.image_processor, processor.tokenizer):
        part.save_pretrained(folder)
    for file in folder.glob("*config.json"):
        settings = json.loads(file.read_text())
        settings.pop("auto_map", None)  # refers to Python files, which are not exported
        file.write_text(json.dumps(settings, indent=2) + "\n")


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m publishing.export", description=__doc__)
    parser.add_argument(
        "--model", default=str(SHIPPED), help="A local folder, or a name on the Hub. Default: the shipped captioner."
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--onnx", metavar="DIR", help="Folder for the ONNX export.")
    target.add_argument("--folder", metavar="DIR", help="Folder for the model repository.")
    options = parser.parse_args(arguments)
    try:
        if options.onnx:
            check_packages()
            export_onnx(options.model, options.onnx)
        else:
            write_repository(options.model, options.folder)
    except (ValueError, OSError) as error:
        print_error(error)
        sys.exit(1)


def check_packages():
    for package in ("onnx", "onnxscript"):
        if not importlib.util.find_spec(package):
            raise ValueError(f"--onnx needs the package {package}; install it with pip install onnx onnxscript.")


if __name__ == "__main__":
    main()
