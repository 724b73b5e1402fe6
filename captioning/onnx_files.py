"""The ONNX export beside a captioner's weights, and whether it belongs to them: `find_onnx`.

`publishing/export.py` writes it and describes its layout.
"""

import hashlib
import json
from pathlib import Path

import numpy as np

FILES = "encoder_model_quantized.onnx", "decoder_model_merged_quantized.onnx"


def find_onnx(folder):
    """The paths of the encoder and the decoder exported from the captioner in `folder`, or None if it has no export.

    Raises `ValueError` if the export is incomplete or was made from other weights. Without weights beside it, as in a
    download of the export alone, there is nothing to compare it with.
    """
    files = [Path(folder, "onnx", name) for name in FILES]
    if not files[0].parent.is_dir():
        return None
    if not all(file.exists() for file in files):
        raise ValueError(f"{files[0].parent} is incomplete; export the captioner again, or remove it.")
    if any(Path(folder).glob("model*.safetensors")):
        fingerprint = weights_fingerprint(folder).encode()
        if not all(fingerprint in file.read_bytes() for file in files):  # the metadata
            raise ValueError(
                f"{files[0].parent} was exported from other weights; export the captioner again, or remove it."
            )
    return files


def weights_fingerprint(folder):
    """Identifies a captioner's weights: the SHA-256 of all tensors in the order of their names, as a hex string.

    float32 tensors are rounded to half precision first, so that a trained captioner and its published copy, which is
    stored in half precision, have the same fingerprint.
    """
    tensors = {}
    for file in Path(folder).glob("model*.safetensors"):
        data = np.memmap(file, mode="r")  # the header's length, the header, the tensors: hf.co/docs/safetensors
        start = 8 + int.from_bytes(data[:8].tobytes(), "little")
        for name, tensor in json.loads(data[8:start].tobytes()).items():
            if name != "__metadata__":
                first, last = tensor["data_offsets"]
                tensors[name] = tensor["dtype"], data[start + first : start + last]
    digest = hashlib.sha256()
    for name, (dtype, values) in sorted(tensors.items()):
        with np.errstate(over="ignore"):
            values = values.view(np.float32).astype(np.float16) if dtype == "F32" else values
        digest.update(name.encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
