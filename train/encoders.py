"""Freezing the encoder and loading its pretrained weights."""

from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file


def trainable_from(captioner, block, freeze_batch_norm=False):
    """Freeze the backbone of the captioner's encoder up to `block`, and train it from `block` on.

    The configuration's `encoder_trained_from` records the first block that any stage has trained.

    Args:
        captioner: a `CaptionerForConditionalGeneration`.
        block: name of a child of the timm model, such as "Mixed_7a"; "all"; or None for a frozen encoder.
        freeze_batch_norm: also freeze the batch-norm statistics of the trained blocks.

    Raises `ValueError` for an unknown block.
    """
    encoder, config = captioner.encoder, captioner.config
    check_block(encoder, block)
    blocks = _blocks(encoder)
    first = {None: len(blocks), "all": 0}.get(block)
    encoder.freeze(blocks[: blocks.index(block) if first is None else first], freeze_batch_norm)
    config.encoder_trained_from = min(block, config.encoder_trained_from, key=["all", *blocks, None].index)


def check_block(encoder, block):
    """Raises `ValueError` unless `block` is one of the encoder's blocks, "all" or None."""
    blocks = _blocks(encoder)
    if block not in (None, "all", *blocks):
        raise ValueError(
            f"encoder_trainable_from={block!r} is not a block of the encoder; choose one of {', '.join(blocks)}."
        )


def _blocks(encoder):
    return [name for name, _ in encoder.backbone.named_children()]


def read_encoder_weights(name, source, asked_by="--encoder_weights"):
    """Read the tensors of a backbone from a safetensors file or a captioner's folder, or timm's if `source` is "timm".

    Args:
        name: timm architecture of the backbone.
        asked_by: who wants these weights, for the message that they cannot be had.

    Returns {name: tensor}. Raises `ValueError` if there are no such weights.
    """
    if source == "timm":
        return _timm_weights(name, asked_by)
    try:
        tensors = load_file(Path(source) / "model.safetensors" if Path(source).is_dir() else source)
    except SafetensorError as error:
        raise ValueError(
            f"encoder_weights={source!r} is not a safetensors file, or is corrupted; download it again."
        ) from error
    except OSError as error:
        raise ValueError(
            f"encoder_weights={source!r} is not there; give a safetensors file, a captioner's folder, or 'timm'."
        ) from error
    prefix = "encoder.backbone."  # of a captioner
    if any(key.startswith(prefix) for key in tensors):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


def _timm_weights(name, asked_by):
    try:
        with torch.random.fork_rng(devices=[]):  # timm first draws random weights, on which ours must not depend
            return timm.create_model(name, pretrained=True, num_classes=0).state_dict()
    except (OSError, RuntimeError) as error:  # it is not in the cache and the Hub is out of reach, or there is none
        raise ValueError(
            f"encoder_weights='timm', asked for by {asked_by}, means timm's weights of {name}, which cannot be"
            " downloaded. In their place, give --encoder_weights modeling_captioner (the shipped captioner's"
            f" inception_v3) or a safetensors file. The reason: {error}"
        ) from error


def load_encoder_weights(encoder, tensors, name, source):
    """Load the backbone's tensors that [`read_encoder_weights`] read. Raises `ValueError` if they do not fit."""
    missing, unexpected = encoder.backbone.load_state_dict(tensors, strict=False)
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(
            f"encoder_weights={source!r} are not weights of {name} ({[*missing, *unexpected][0]} differs);"
            " give a file that fits it, or change --encoder_name."
        )
