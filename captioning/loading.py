"""Loading a captioner for the command line, the page and the trainer: `load_captioner`."""

import json
import re
from pathlib import Path
from typing import Any

from modeling_captioner.cores import usable_cores
from modeling_captioner.photos import LFS_POINTER

from .generation import check_generation_config

# PyTorch and transformers are imported inside the functions, so that --help and usage errors respond immediately.

SHIPPED = Path(__file__).resolve().parents[1] / "modeling_captioner"


def load_captioner(name: str, device: str | None, dtype: str, **options: Any) -> tuple[Any, Any]:
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


def gives_confidence(name: str) -> bool:
    """Whether a captioner is calibrated, without loading it; False if there is none of this name."""
    try:
        file = Path(name, "config.json") if Path(name).is_dir() else _download_config(name)
        return bool(json.loads(Path(file).read_text(encoding="utf-8")).get("confidence"))
    except (OSError, ValueError, AttributeError):  # loading it says what is wrong
        return False


def _download_config(name):
    from huggingface_hub import hf_hub_download

    return hf_hub_download(name, "config.json")


def check_model(name: str) -> None:
    """Raise `ValueError` for an incomplete, mistyped or unusable folder, in one sentence and without asking the Hub."""
    folder = Path(name)
    if folder.is_dir():
        for needed in ("config.json", "model*.safetensors", "processor_config.json", "tokenizer.json"):
            if not any(folder.glob(needed)):
                raise ValueError(f"{name} contains no captioner: {needed} is missing; give a folder written by train/.")
        for file in (*folder.glob("*.json"), *folder.glob("model*.safetensors"), *folder.glob("onnx/*.onnx")):
            if is_lfs_pointer(file):
                raise ValueError(f"{file} is a pointer of Git LFS, not the file itself; run git lfs pull.")
        check_generation_config(folder)
    elif folder.exists() or folder.parent.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(f"{name} is not a folder; give a folder written by train/ or a name on the Hub.")


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is what a clone without git-lfs has in its place."""
    with path.open("rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


def weights_variant(name: str) -> str | None:
    """The variant of a folder's weights, such as "fp16" for model.fp16.safetensors; None if there are others."""
    names = sorted(file.name for file in Path(name).glob("model*.safetensors"))
    matches = [re.fullmatch(r"model\.([^.]+?)(-\d+-of-\d+)?\.safetensors", name) for name in names]
    variants = [match[1] for match in matches if match]
    return variants[0] if variants and len(variants) == len(names) else None
