"""The ONNX export beside a captioner's weights, and whether it belongs to them: `find_onnx`.

`publishing/onnx/export.py` writes it and describes its layout.
"""

import hashlib
import json
from pathlib import Path

import numpy as np

FILES = "encoder_model_quantized.onnx", "decoder_model_merged_quantized.onnx"
METADATA = 4096  # bytes at the end of a file, which hold the graph's metadata


def find_onnx(folder: str | Path) -> list[Path] | None:
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
        ends = [_end(file) for file in files]
        for fingerprint in (weights_fingerprint, _older_fingerprint):
            if all(fingerprint(folder).encode() in end for end in ends):
                break
        else:
            raise ValueError(
                f"{files[0].parent} was exported from other weights; export the captioner again, or remove it."
            )
    return files


def weights_fingerprint(folder: str | Path) -> str:
    """Identifies a captioner's weights, whatever their names: a SHA-256 of the sum of the bits of each tensor, in hex.

    It is computed at every start: sums take a quarter of the time of a SHA-256 of all weights, and training changes
    every one of them. float32 tensors are rounded to half precision first, so that a trained captioner and its
    published copy, which is stored in half precision, have the same fingerprint.
    """
    sums = []
    for _, values in _tensors(folder):
        whole = len(values) // 8 * 8  # summed in words of 64 bits, which is faster
        sums.append(int(values[:whole].view(np.uint64).sum()) + int(values[whole:].sum()))
    return hashlib.sha256(repr(sorted(sums)).encode()).hexdigest()


def _older_fingerprint(folder):
    """The fingerprint in exports made before December 2026: the SHA-256 of all tensors in the order of their names."""
    digest = hashlib.sha256()
    for name, values in sorted(_tensors(folder), key=lambda tensor: tensor[0]):
        digest.update(name.encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _tensors(folder):
    """Yields the name and the bytes of each tensor, float32 as half precision."""
    for file in Path(folder).glob("model*.safetensors"):
        data = np.memmap(file, mode="r")  # the header's length, the header, the tensors: hf.co/docs/safetensors
        start = 8 + int.from_bytes(data[:8].tobytes(), "little")
        tensors = json.loads(data[8:start].tobytes())
        tensors.pop("__metadata__", None)
        for name, tensor in tensors.items():
            first, last = tensor["data_offsets"]
            values = data[start + first : start + last]
            if tensor["dtype"] == "F32":
                with np.errstate(over="ignore"):
                    values = values.view(np.float32).astype(np.float16).view(np.uint8)
            yield name, values


def _end(file):
    with open(file, "rb") as opened:
        opened.seek(max(0, file.stat().st_size - METADATA))
        return opened.read()
