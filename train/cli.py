"""The trainer's command line: train an image captioner stage by stage, evaluate or publish one."""

import dataclasses
import sys
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import set_seed
from huggingface_hub.errors import StrictDataclassError

from captioning.errors import print_error
from publishing.hub import HubError, open_repository
from publishing.publish import publish

from . import checkpoints
from .calibration import MIN_CAPTIONS, MIN_OUTCOMES, calibrate
from .encoders import check_block
from .evaluation import evaluate_captioner, write_evaluation
from .history import History
from .loop import train
from .options import resolve
from .output import begin, find_checkpoint, first_stage, stage_names
from .preparation import load_captioner, make_accelerator, prepare_captioner
from .stages import STAGES
from .stages.captions import Captions
from .words import describe_words

BEGINNING = """\
Train on COCO:       accelerate launch train/ --recipe coco
On your own photos:  accelerate launch train/ --recipe practice --data_dir PHOTOS_WITH_CAPTIONS
All options:         accelerate launch train/ --help; data, recipes and stages: docs/training.md"""


def main(arguments=None):
    """Run the trainer. A user's mistake prints one line on standard error and exits with status 1."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        PartialState().print(BEGINNING)
        return
    try:
        stages = resolve(arguments)
        if stages[0].push_only:
            push_only(stages[0])
        elif stages[0].evaluate_only:
            evaluate_only(stages[0])
        elif stages[0].calibrate_only:
            calibrate_only(stages[0])
        else:
            run(stages, arguments)
    except (ValueError, OSError, StrictDataclassError) as error:
        print_error(error)
        sys.exit(1)


def run(stages, arguments=()):
    """Train a captioner through all stages, and save it in `output_dir`.

    Args:
        stages: settings of each stage.
        arguments: command-line arguments that the settings come from, saved in settings.yaml.

    Raises `ValueError` if `output_dir` contains an earlier run that is neither resumed nor overwritten.
    """
    first, folder = stages[0], Path(stages[0].output_dir)
    if any(settings.streaming and settings.stage != "captions" for settings in stages):
        raise ValueError("--streaming supports only the stage captions; use a recipe without stages, or omit it.")
    checkpoint = find_checkpoint(stages)
    accelerator = make_accelerator(first)
    start = first_stage(stages, checkpoint, accelerator)
    if accelerator.is_main_process:
        if first.push_to_hub:  # fail before the training rather than after it
            open_repository(first.hub_model_id or folder.resolve().name, private=first.hub_private_repo)
        if checkpoint:
            checkpoints.restore(checkpoint, folder)
    accelerator.wait_for_everyone()
    set_seed(first.seed)  # for the initial weights of a new captioner
    history = None
    for number, settings in list(enumerate(stages))[start:]:
        source = folder if number or checkpoint else settings.model
        captioner, processor = prepare_captioner(settings, source)
        for later in stages[number:]:
            check_block(captioner.encoder, later.encoder_trainable_from)
        stage = STAGES[settings.stage](captioner, processor, settings, accelerator.device)
        if not history:  # only now, so that a start that fails leaves the folder as it was
            begin(stages, arguments, checkpoint, accelerator)
            history = History(accelerator, folder, resume=bool(checkpoint))
        if source != folder and accelerator.is_main_process:
            # A run that is killed before its first validation resumes from here.
            checkpoints.save_captioner(captioner, processor, folder)
        history.start_stage(stage_names(stages)[number])
        train(accelerator, stage, settings, folder, history, checkpoint if number == start else None)
        accelerator.wait_for_everyone()
    if issubclass(STAGES[stages[-1].stage], Captions):  # the others say nothing
        calibrate(accelerator, folder, folder, stages[-1])
    accelerator.end_training()
    if first.push_to_hub and accelerator.is_main_process:
        push_trained(folder, first)


def evaluate_only(settings):
    """Evaluate an existing captioner. Raises `ValueError` if `settings.model` is not set."""
    if not settings.model:
        raise ValueError("--evaluate_only evaluates an existing captioner; give --model FOLDER.")
    accelerator = make_accelerator(settings)
    results = evaluate_captioner(accelerator, *load_captioner(settings.model), settings)
    if results:
        for name, scores in write_evaluation(results, settings.output_dir).items():
            print(*filter(None, [name]), *(f"{metric:8} {value:.4g}" for metric, value in scores.items()), sep="\n")
        words = describe_words(" ".join(text for row in results.values() for text in row["references"]))
        print(f"scored in {words}", flush=True)
    accelerator.end_training()


def calibrate_only(settings):
    """Calibrate an existing captioner. Raises `ValueError` if `settings.model` is no folder, or has too few photos."""
    if not settings.model or not Path(settings.model).is_dir():
        raise ValueError("--calibrate_only calibrates an existing captioner; give --model FOLDER.")
    accelerator = make_accelerator(settings)
    settings = dataclasses.replace(settings, evaluate_only=True)  # also if there is no other split
    if not calibrate(accelerator, settings.model, settings.output_dir, settings):
        raise ValueError(
            f"Too few validation photos to calibrate on: {MIN_CAPTIONS} are needed, of which {MIN_OUTCOMES} captions"
            f" are supported by the references and {MIN_OUTCOMES} are not; give more."
        )
    accelerator.end_training()


def push_only(settings):
    """Publish an existing captioner. Raises `ValueError` if `settings.model` is not set."""
    if not settings.model:
        raise ValueError("--push_only publishes an existing captioner; give --model FOLDER.")
    if PartialState().is_main_process:
        push(settings.model, settings)


def push_trained(folder, settings):
    try:
        push(folder, settings)
    except OSError as error:
        raise HubError(f"{error} To publish {folder} later, use --push_only --model {folder}.") from error


def push(source, settings):
    name = settings.hub_model_id or Path(source).resolve().name
    address = publish(source, name, settings.hub_private_repo, settings.hub_license)
    print(f"Published: {address}", flush=True)
