"""The output folder of a run: what an earlier run left in it, and what this one begins with."""

import dataclasses
import shlex
from pathlib import Path

import yaml
from accelerate.utils import gather_object

from . import checkpoints
from .loop import check_step_size
from .preparation import MODEL_OPTIONS, TRAINING_OPTIONS

TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}  # names of files need not be Unicode
RESULTS = ["history.jsonl", "checkpoints"]  # in the output folder, of a run that has begun
# Options that decide what was trained before a checkpoint, and cannot be changed after it.
FIXED_OPTIONS = ["stage", "seed", "optim", "ema_decay", "model", "encoder_weights", "decoder_weights", "min_word_count"]
FIXED_OPTIONS += [name for name in MODEL_OPTIONS if name not in TRAINING_OPTIONS]


def stage_names(stages):
    """The names of a run's stages, such as "1-captions"."""
    return [f"{number}-{settings.stage}" for number, settings in enumerate(stages, start=1)]


def find_checkpoint(stages):
    """The checkpoint that a run resumes from; None if it begins.

    Raises `ValueError` if the output folder contains an earlier run that is neither resumed nor overwritten.
    """
    first, folder = stages[0], Path(stages[0].output_dir)
    if first.resume_from_checkpoint:
        return checkpoints.find(folder / "checkpoints", stage_names(stages), first.resume_from_checkpoint)
    if any((folder / name).exists() for name in RESULTS) and not first.overwrite_output_dir:
        raise ValueError(
            f"output_dir={first.output_dir!r} contains an earlier run; continue it with --resume_from_checkpoint last,"
            " or start over with --overwrite_output_dir true."
        )
    return None


def first_stage(stages, checkpoint, accelerator):
    """The number of the stage to begin with, from 0: that of the checkpoint.

    Raises `ValueError` if the run cannot go on from there with these settings and processes.
    """
    folder = Path(stages[0].output_dir)
    if len(set(gather_object([str(checkpoint)]))) > 1:
        raise ValueError(f"output_dir={str(folder)!r} is not shared by all machines; give a shared folder.")
    if not checkpoint:
        return 0
    number = stage_names(stages).index(checkpoint.parent.name)
    check_step_size(checkpoint, stages[number], accelerator.num_processes)
    check_same_run(folder, stages)
    return number


def check_same_run(folder, stages):
    """Raises `ValueError` for an option that a run cannot change when it is resumed: settings.yaml would be wrong."""
    settings_file = folder / "settings.yaml"
    before = yaml.safe_load(settings_file.read_text(**TEXT)) if settings_file.exists() else []
    for old, stage in zip(before, stages, strict=False):
        for name in FIXED_OPTIONS:
            if name in old and old[name] != getattr(stage, name):
                raise ValueError(
                    f"{name}={getattr(stage, name)!r} cannot be changed when resuming; the run in {folder} began with"
                    f" {name}={old[name]!r}. Give that, or start over with --overwrite_output_dir true."
                )


def begin(stages, arguments, checkpoint, accelerator):
    """Make the output folder this run's: remove what an earlier one left, and write settings.yaml."""
    folder = Path(stages[0].output_dir)
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        if not checkpoint:
            # First the weights: a run that is killed here must not leave them with its own configuration.
            for name in ("model.safetensors", "history.jsonl", "curves.csv", "curves.png"):
                (folder / name).unlink(missing_ok=True)
            for name in ("checkpoints", "pictures"):
                if (folder / name).exists():
                    checkpoints.remove(folder / name)
        settings_file = folder / "settings.yaml"
        command = f"# {shlex.join(['accelerate', 'launch', 'train/', *map(str, arguments)])}"
        if checkpoint and settings_file.exists():  # keep the command that started the run: it reproduces it
            command = settings_file.read_text(**TEXT).partition("\n")[0]
        options = yaml.safe_dump([dataclasses.asdict(stage) for stage in stages])
        part = settings_file.with_suffix(".part")
        with checkpoints.writing(settings_file):
            part.write_text(f"{command}\n{options}", **TEXT)
            part.replace(settings_file)
    accelerator.wait_for_everyone()
