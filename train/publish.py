"""Publishing: a trained captioner as a model repository that works by itself.

`python -m train.publish --model runs/captioner --folder DIR` writes it into a folder.
"""

import argparse
import shutil
import sys
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError

from modeling_captioner import CaptionerForConditionalGeneration, CaptionerProcessor

from .checkpoints import save_captioner

PACKAGE = Path(__file__).parents[1] / "modeling_captioner"


def write_repository(source, folder, dtype=torch.float16):
    """Write the captioner `source` (a folder or a name on the Hub) as a model repository: weights, settings, code.

    Parameters are stored as `dtype`, which halves the file; the batch norms' statistics stay as they are, because
    small variances vanish in half precision. `config.json` says float32, so that the captioner is run in float32
    unless told otherwise. Where `folder` is the package itself its code stays as it is.
    """
    model = CaptionerForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
    processor = CaptionerProcessor.from_pretrained(source)
    tensors = model.state_dict()
    tensors |= {name: _stored(parameter.data, dtype) for name, parameter in model.named_parameters()}
    save_captioner(model, processor, folder, tensors)
    if Path(folder).resolve() != PACKAGE:
        for file in [*PACKAGE.glob("*.py"), *PACKAGE.glob("requirements.txt")]:
            shutil.copyfile(file, Path(folder) / file.name)


def _stored(parameter, dtype):
    """The parameter as `dtype`, or as it is where that cannot hold it."""
    stored = parameter.to(dtype)
    return stored if stored.isfinite().all() else parameter


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m train.publish", description=__doc__)
    parser.add_argument("--model", required=True, help="Trained captioner: a folder or a name on the Hub.")
    parser.add_argument("--folder", required=True, help="Folder for the model repository.")
    options = parser.parse_args(arguments)
    try:
        write_repository(options.model, options.folder)
    except (ValueError, OSError, StrictDataclassError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
