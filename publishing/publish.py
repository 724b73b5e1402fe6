"""Publishing: a trained captioner as a model repository that works by itself, in a folder or on the Hub.

`python -m train --push_only --model runs/captioner --hub_model_id NAME` puts it on the Hub, and so does a training with
`--push_to_hub`; `python -m publishing.export --model runs/captioner --folder DIR` writes it into a folder.
"""

import shutil
import tempfile
from pathlib import Path

import torch

from captioning.loading import SHIPPED, load_captioner
from captioning.saving import save_captioner

from . import hub
from .card import EXAMPLES, ROOT, add_examples, shipped_card, trained_card

OF_TRAINING = {"settings.yaml", "curves.png"}
# What the page needs of this repository to be a Space, and nothing else.
ABOUT = ["README.md", "LICENSE", "docs/page.png"]
PAGE = [*ABOUT, "requirements.txt", "app.py", "captioning", "demo", "modeling_captioner"]


def publish(source, name, private=False, licence=None):
    """Put the captioner `source` (a folder or a name on the Hub) into a model repository on the Hub, in one commit.

    Args:
        name: "NAME" or "OWNER/NAME"; the repository is made if it is not there.
        private: nobody else may see it.
        licence: the Hub's identifier of one, for the card.

    Returns the commit's address. Raises `HubError`, and what loading the captioner raises.
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
            card = trained_card(model, source, name, licence)
            copies |= {file: Path(source, file) for file in OF_TRAINING if Path(source, file).exists()}
        add_examples(card, model, processor, name)
        card.save(Path(folder, "README.md"))
        message = f"Captioner, {model.num_parameters():,} parameters"
        return hub.commit(name, _files(folder) | copies, message, removed=[*OF_TRAINING - copies.keys()])


def deploy(name, source):
    """Put the page with the captioner `source` into a Space on the Hub, in one commit. Returns the commit's address."""
    hub.check_login()
    files = {path: file for part in PAGE for path, file in _files(ROOT, part).items()}
    with tempfile.TemporaryDirectory() as folder:
        if Path(source).resolve() != SHIPPED:
            write_repository(source, folder)
            files |= {f"modeling_captioner/{path}": file for path, file in _files(folder).items()}
        name = hub.open_repository(name, "space", space_sdk="gradio")
        return hub.commit(name, files, "The page and its captioner", kind="space")


def write_repository(source, folder, dtype=torch.float16):
    """Write the captioner `source` (a folder or a name on the Hub) as a model repository: weights, settings, code.

    Parameters are stored as `dtype`, which halves the file; the batch norms' statistics stay as they are, because
    small variances vanish in half precision. `config.json` says float32, so that the captioner is run in float32
    unless told otherwise. Where `folder` is the package itself its code stays as it is.

    Returns the model, in float32, and its processor. Raises `ValueError` where `source` is no whole captioner.
    """
    model, processor = load_captioner(str(source), "cpu", "float32")
    tensors = model.state_dict()
    tensors |= {name: _stored(parameter.data, dtype) for name, parameter in model.named_parameters()}
    save_captioner(model, processor, folder, tensors)
    if Path(folder).resolve() != SHIPPED:
        for file in [*SHIPPED.glob("*.py"), *SHIPPED.glob("requirements.txt")]:
            shutil.copyfile(file, Path(folder) / file.name)
    return model, processor


def _files(root, part="."):
    """The file `root`/`part`, or the files of that folder: {path from `root`: path}, but for what Python leaves."""
    whole = Path(root, part)
    files = [whole] if whole.is_file() else [file for file in sorted(whole.rglob("*")) if file.is_file()]
    paths = {file.relative_to(root): file for file in files}
    return {path.as_posix(): file for path, file in paths.items() if "__pycache__" not in path.parts}


def _stored(parameter, dtype):
    """The parameter as `dtype`, or as it is where that cannot hold it."""
    stored = parameter.to(dtype)
    return stored if stored.isfinite().all() else parameter
