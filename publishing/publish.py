"""Publishing a captioner as a self-contained model repository, on the Hub or in a folder.

`python -m train --push_only --model runs/captioner --hub_model_id NAME` uploads it to the Hub, as does training with
`--push_to_hub`; `python -m publishing.export --model runs/captioner --folder DIR` writes it to a folder.
"""

import shutil
import tempfile
from pathlib import Path

import torch

from captioning.loading import SHIPPED, load_captioner
from captioning.saving import save_captioner
from modeling_captioner.onnx_files import find_onnx

from . import hub
from .card import EXAMPLES, ROOT, add_examples, shipped_card, trained_card

TRAINING_FILES = {"settings.yaml", "curves.png", "reliability.png"}
# The files of this repository that a Space needs.
ABOUT_FILES = ["README.md", "LICENSE", "docs/page.png"]
SPACE_FILES = [*ABOUT_FILES, "requirements.txt", "app.py", "captioning", "demo", "modeling_captioner"]


def publish(source, name, private=False, license=None):
    """Upload the captioner `source` (a folder or a name on the Hub) to a model repository, in one commit.

    Args:
        name: "NAME" or "OWNER/NAME"; the repository is created if it does not exist.
        private: whether the repository must be private.
        license: a license identifier of the Hub, for the model card.

    Returns the URL of the commit. Raises `HubError`, and `ValueError` if `source` is not a valid captioner.
    """
    hub.check_login()
    with tempfile.TemporaryDirectory() as folder:
        model, processor = write_repository(source, folder)
        name = hub.open_repository(name, private=private)
        copies = {f"examples/{file.name}": file for file in EXAMPLES}
        if Path(source).resolve() == SHIPPED:
            card = shipped_card(name)
            copies["settings.yaml"] = ROOT / "train" / "recipes" / "shipped.yaml"
        else:
            card = trained_card(model, source, name, license)
            copies |= {file: Path(source, file) for file in TRAINING_FILES if Path(source, file).exists()}
        add_examples(card, model, processor, name)
        card.save(Path(folder, "README.md"))
        message = f"Captioner, {model.num_parameters():,} parameters"
        return hub.commit(name, _files(folder) | copies, message, removed=[*TRAINING_FILES - copies.keys()])


def deploy(name, source):
    """Deploy the page with the captioner `source` to a Space, in one commit. Returns the URL of the commit."""
    hub.check_login()
    files = {path: file for part in SPACE_FILES for path, file in _files(ROOT, part).items()}
    with tempfile.TemporaryDirectory() as folder:
        if Path(source).resolve() != SHIPPED:
            write_repository(source, folder)
            files |= {f"modeling_captioner/{path}": file for path, file in _files(folder).items()}
        name = hub.open_repository(name, "space", space_sdk="gradio")
        return hub.commit(name, files, "Demo and captioner", kind="space")


def write_repository(source, folder, dtype=torch.float16):
    """Write the captioner `source` (a folder or a name on the Hub) as a model repository: weights, settings, code, and
    the ONNX export in the subfolder onnx, if there is one.

    Parameters are stored as `dtype`, which halves the file size; batch norm statistics are not converted, because small
    variances underflow in half precision. `config.json` says float32, so that the captioner runs in float32 by default.
    If `folder` is the package itself, its code is not touched.

    Returns the model in float32 and its processor. Raises `ValueError` if `source` is not a valid captioner, or if its
    ONNX export was made from other weights.
    """
    model, processor = load_captioner(str(source), "cpu", "float32")
    onnx_files = find_onnx(source) or []
    tensors = {name: value for name, value in model.state_dict().items() if name not in model.all_tied_weights_keys}
    tensors |= {name: _convert(parameter.data, dtype) for name, parameter in model.named_parameters()}
    save_captioner(model, processor, folder, tensors)
    if onnx_files and Path(folder).resolve() != Path(source).resolve():
        shutil.copytree(onnx_files[0].parent, Path(folder) / "onnx", dirs_exist_ok=True)
    return model, processor


def _files(root, part="."):
    """The file `root`/`part`, or all files in that folder, as {path relative to `root`: path}; skips `__pycache__`."""
    path = Path(root, part)
    files = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]
    paths = {file.relative_to(root): file for file in files}
    return {path.as_posix(): file for path, file in paths.items() if "__pycache__" not in path.parts}


def _convert(parameter, dtype):
    """Convert a parameter to `dtype`, or leave it unchanged if its values overflow."""
    converted = parameter.to(dtype)
    return converted if converted.isfinite().all() else parameter
