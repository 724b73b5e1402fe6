"""Loading a captioner for the command line, the page and the trainer: `load_captioner`."""

import json
import re
from pathlib import Path

from .cores import usable_cores

# PyTorch and transformers are imported inside the functions, so that --help and usage errors respond immediately.

SHIPPED = Path(__file__).resolve().parents[1] / "modeling_captioner"


def load_captioner(name, device, dtype, **options):
    """Load a captioner and its processor from a folder or the Hub, without running its code or reading pickles.

    Args:
        name: a local folder, or a name on the Hub.
        device: a PyTorch device, or None for the accelerator if there is one.
        dtype: the name of a dtype of `torch`, such as "float32".
        options: configuration options that override those of the captioner.

    Returns the model and the processor. Raises `ValueError` if the device or the captioner cannot be used.
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
    # PyTorch knows of a process's affinity, but not of what a container may use of the machine.
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    device = device or torch.accelerator.current_accelerator(check_available=True) or "cpu"
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # PyTorch built without CUDA asserts
        raise ValueError(f"device {device!r} is not available; omit --device, or pass cpu.") from error
    try:
        kind = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
        if kind != CaptionerConfig.model_type:
            raise ValueError(
                f"the model type is {kind!r}, not {CaptionerConfig.model_type!r}; give a model written by train/."
            )
        # The Auto classes map this model type to the classes of this repository, so the model's own code is not used.
        model, loaded = AutoModelForImageTextToText.from_pretrained(
            name,
            dtype=getattr(torch, dtype),
            trust_remote_code=False,
            use_safetensors=True,
            variant=weights_variant(name),
            output_loading_info=True,
            **options,
        )
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
        if missing := loaded["missing_keys"] - model.all_tied_weights_keys.keys():
            raise ValueError(f"{len(missing)} weights are missing; save it again.")
    except (OSError, RuntimeError, SafetensorError, json.JSONDecodeError) as error:
        if Path(name).is_dir():
            raise ValueError(f"{name} is damaged: its files are unreadable or do not match; save it again.") from error
        raise ValueError(
            f"{name} is neither a folder nor a captioner with model.safetensors on the Hub; check the name and the"
            " connection."
        ) from error
    except (ValueError, StrictDataclassError) as error:
        raise ValueError(f"{name}: {error}") from error
    return model.to(device), processor


def check_model(name):
    """Raise `ValueError` for an incomplete or mistyped folder, in one sentence and without asking the Hub."""
    folder = Path(name)
    if folder.is_dir():
        for file in ("config.json", "model*.safetensors", "processor_config.json", "tokenizer.json"):
            if not any(folder.glob(file)):
                raise ValueError(f"{name} contains no captioner: {file} is missing; give a folder written by train/.")
    elif folder.exists() or folder.parent.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(f"{name} is not a folder; give a folder written by train/ or a name on the Hub.")


def weights_variant(name):
    """The variant of a folder's weights, such as "fp16" for model.fp16.safetensors; None if there are others."""
    names = sorted(file.name for file in Path(name).glob("model*.safetensors"))
    variants = [re.fullmatch(r"model\.([^.]+?)(-\d+-of-\d+)?\.safetensors", name) for name in names]
    return variants[0][1] if variants and all(variants) else None
