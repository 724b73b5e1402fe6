"""Which part of the encoder learns, and where its weights come from."""

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file


def trainable_from(encoder, block, freeze_batch_norm=False):
    """Let the encoder's network learn from `block` on.

    Args:
        encoder: a `CaptionerEncoder`.
        block: name of a child of the timm network, such as "Mixed_7a"; "all"; or None for a frozen encoder.
        freeze_batch_norm: batch norms of the trained blocks keep their statistics, as those of frozen blocks do.

    Raises `ValueError` for an unknown block.
    """
    blocks = [name for name, _ in encoder.backbone.named_children()]
    if block not in (None, "all", *blocks):
        raise ValueError(f"encoder_trainable_from={block!r} is no block of the encoder: {', '.join(blocks)}.")
    first = {None: len(blocks), "all": 0}.get(block)
    encoder.freeze(blocks[: blocks.index(block) if first is None else first], freeze_batch_norm)


def load_encoder_weights(encoder, name, source):
    """Start the encoder's network from a safetensors file, or with source="timm" from timm's weights on the Hub."""
    if source == "timm":
        tensors = timm.create_model(name, pretrained=True, num_classes=0).state_dict()
    else:
        try:
            tensors = load_file(source)
        except SafetensorError as error:
            raise ValueError(f"encoder_weights={source!r} is damaged, or no safetensors file.") from error
    tensors = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    missing, unexpected = encoder.backbone.load_state_dict(tensors, strict=False)
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(f"encoder_weights={source!r} are not weights of {name}: {[*missing, *unexpected][0]} differs.")
