"""Loading a captioner, for the command line, the page and the trainer, from files alone: `load_captioner`."""

import json
import re
from pathlib import Path

# PyTorch and transformers are imported where they are used, so that --help and wrong usage answer at once.

SHIPPED = Path(__file__).resolve().parents[1] / "modeling_captioner"


def load_captioner(name, device, dtype, **options):
    """A captioner and its processor from a folder or the Hub; no code of theirs is run, and no pickle is read.

    `options`: of its configuration, in place of what it says itself. Raises `ValueError`.
    """
    import huggingface_hub
    import torch
    import transformers
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedConfig

    from modeling_captioner import CaptionerConfig

    huggingface_hub.logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    check_model(name)
    device = device or torch.accelerator.current_accelerator(check_available=True) or "cpu"
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # PyTorch built without CUDA asserts
        raise ValueError(f"device {device!r} is not to be had here; leave --device out, or give cpu.") from error
    try:
        kind = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
        if kind != CaptionerConfig.model_type:
            raise ValueError(f"its type is {kind!r}, and captioners are needed; give one that train/ wrote.")
        # For this type the Auto classes know the classes of this repository, so they need no code of the model's.
        model, loaded = AutoModelForImageTextToText.from_pretrained(
            name,
            dtype=getattr(torch, dtype),
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
        if loaded["missing_keys"]:
            raise ValueError(f"{len(loaded['missing_keys'])} weights are missing; write it anew.")
    except (OSError, RuntimeError, SafetensorError, json.JSONDecodeError) as error:
        if Path(name).is_dir():
            raise ValueError(f"{name} is damaged: its files cannot be read or do not fit; write it anew.") from error
        raise ValueError(f"{name} is no folder, and not to be had from the Hub; check name and connection.") from error
    except (ValueError, StrictDataclassError) as error:
        raise ValueError(f"{name}: {error}") from error
    return model.to(device), processor


def check_model(name):
    """What transformers would say in many words, or after asking the Hub for a folder with a typing error."""
    folder = Path(name)
    if folder.is_dir():
        for file in ("config.json", "model*.safetensors", "processor_config.json", "tokenizer.json"):
            if not any(folder.glob(file)):
                raise ValueError(f"{name} holds no captioner: {file} is missing; give a folder that train/ wrote.")
    elif folder.exists() or folder.parent.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(f"{name} is not a folder; give one that train/ wrote, or a name on the Hub.")
