"""Short trainings on drawn photos."""

import json
import socket

from modeling_captioner import CaptionerForConditionalGeneration, CaptionerProcessor
from tests.helpers.captioners import TINY_ENCODER
from tests.helpers.paths import ROOT
from tests.helpers.programs import start_python
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


def run_in_two_processes(*options, folder):
    """Run the trainer in two processes, as `torchrun` does. Their outputs go to `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    everyone = {"ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    everyone |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    logs = [folder / f"process-{rank}.txt" for rank in range(2)]
    programs = []
    for rank, log in enumerate(logs):
        environment = everyone | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        programs.append(start_python(ROOT / "train", *options, env=environment, stdout=log, stderr=log))
    try:
        assert [program.wait(600) for program in programs] == [0, 0], "".join(log.read_text() for log in logs)
    finally:
        for program in programs:
            program.kill()


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
