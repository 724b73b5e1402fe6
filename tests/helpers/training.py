"""Short trainings on drawn photos."""

import json
import os
import subprocess
import sys

from modeling_captioner import CaptionerForConditionalGeneration, CaptionerProcessor
from tests.helpers.captioners import TINY_ENCODER
from tests.helpers.paths import ROOT
from train.data import StreamedPhotos, captioned_dataset, sources

SMALL = {
    "encoder_name": TINY_ENCODER["encoder_name"],
    "image_size": TINY_ENCODER["image_size"],
    "hidden_size": 64,
    "embedding_size": 32,
    "min_word_count": 1,
    "captions_per_photo": 1,
    "num_beams": 1,
    "max_new_tokens": 8,
    "per_device_train_batch_size": 4,
    "logging_steps": 1,
}


def arguments(**options):
    """Command-line arguments for the options of `SMALL`, updated with `options`."""
    given = []
    for name, value in (SMALL | options).items():
        given += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return given


def launch(*options, processes=1):
    """Start the trainer: a single process with `accelerate launch`, several with `torchrun`."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu"]
    if processes > 1:  # "standalone" chooses a free port, because other tests run at the same time
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen([*command, str(ROOT / "train"), *options], env=environment, start_new_session=True)


def history(folder):
    """The rows of a run's history.jsonl."""
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def caption_folder(folder, photos, max_new_tokens=10):
    model = CaptionerForConditionalGeneration.from_pretrained(folder)
    processor = CaptionerProcessor.from_pretrained(folder)
    ids = model.generate(**processor(images=photos, return_tensors="pt"), max_new_tokens=max_new_tokens, num_beams=1)
    return processor.batch_decode(ids, skip_special_tokens=True)


def single_dataset(settings, *args, **options):
    """The splits of the only data set of these settings."""
    (source,) = sources(settings)
    return captioned_dataset(source, settings, *args, **options)


def single_stream(settings, split):
    """A stream of the only data set of these settings."""
    (source,) = sources(settings)
    return StreamedPhotos(source, settings, split)
