"""Choosing what runs a captioner: onnxruntime, which starts in a second, or PyTorch, which does everything.

Both engines have the same attributes and methods: `image_size`, `languages` and `confidence`, those of the
configuration; `defaults`, the generation settings; `batch_size`, the number of photos per batch; and `preprocess`,
`caption`, `explain`, `explain_photos` and `explain_caption`, described in `OnnxCaptioner`.
"""

import ctypes.util
import importlib.util
import platform
import sys
from pathlib import Path
from typing import Any

from .errors import print_warning
from .generation import check_generation_config
from .loading import check_model

# PyTorch, transformers and onnxruntime are imported inside the functions: each takes up to seconds.
ACCELERATORS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # CUDA, CUDA in WSL, ROCm


def load_engine(options: Any, generation: dict[str, Any], verbose: bool = True) -> Any:
    """Load the captioner that the options of `caption.py` or `app.py` name.

    Args:
        options: `model`, a folder or a name on the Hub; `engine`, "onnx", "torch" or None; `device` and `dtype`, which
            are for PyTorch. Without an engine, onnxruntime is used if the captioner has an ONNX export and neither
            these options nor an accelerator speak for PyTorch.
        generation: settings that override those in generation_config.json.
        verbose: whether to say on standard error why PyTorch is used in place of onnxruntime.

    Returns an `OnnxCaptioner` or a `TorchCaptioner`. Raises `ValueError` if the captioner or the device cannot be used.
    """
    check_model(options.model)
    undecided = options.engine is None and not (options.device or options.dtype)
    if options.engine == "onnx" or (undecided and _suits_onnx()):
        try:
            return _load_onnx(options.model, generation)
        except ValueError as error:
            if options.engine == "onnx":
                raise
            if verbose:
                print_warning(f"{error} Captioning with PyTorch instead.")
    from .torch_captioner import TorchCaptioner

    return TorchCaptioner(options.model, options.device, options.dtype or "float32", **generation)


def _suits_onnx():
    """Whether this machine has onnxruntime and no accelerator, as far as can be told without importing PyTorch."""
    accelerated = any(Path(file).exists() for file in ACCELERATORS) or ctypes.util.find_library("nvcuda")  # Windows
    accelerated = accelerated or (sys.platform, platform.machine()) == ("darwin", "arm64")
    return not accelerated and importlib.util.find_spec("onnxruntime") is not None


def _load_onnx(name, generation):
    if not importlib.util.find_spec("onnxruntime"):
        raise ValueError("--engine onnx needs the package onnxruntime; install it with pip install onnxruntime.")
    from modeling_captioner.onnx_captioner import OnnxCaptioner

    folder = name if Path(name).is_dir() else download_export(name)
    check_generation_config(folder)
    return OnnxCaptioner(folder, **generation)


def download_export(name: str) -> str:
    """Download the JSON files and the ONNX export of a captioner on the Hub. Returns their folder.

    Raises `ValueError` if it cannot be downloaded.
    """
    import huggingface_hub

    huggingface_hub.logging.set_verbosity_error()
    huggingface_hub.utils.disable_progress_bars()
    try:
        return huggingface_hub.snapshot_download(name, allow_patterns=["*.json", "onnx/*"])
    except OSError as error:
        raise ValueError(f"{name} is neither a folder nor on the Hub; check the name and the connection.") from error
