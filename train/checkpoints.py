"""Checkpoints: folders of safetensors and JSON files, without pickle.

A checkpoint is written to a temporary folder and then renamed, so it is always complete or absent.
"""

import functools
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file

from captioning import saving

COMPLETE = "complete"  # marker file that is written last
MODEL, BEST = "model.safetensors", "best.safetensors"  # the best captioner in the output folder, and in a checkpoint

REMEDY = "the last checkpoint is intact. Free disk space, then continue with --resume_from_checkpoint last."
writing = functools.partial(saving.writing, remedy=REMEDY)
save_captioner = functools.partial(saving.save_captioner, remedy=REMEDY)


def latest(folder):
    """The latest complete checkpoint in `folder`, or None."""
    return max((file.parent for file in Path(folder).glob(f"step-*/{COMPLETE}")), key=step_of, default=None)


def step_of(checkpoint):
    return int(checkpoint.name.removeprefix("step-"))


def find(folder, names, path):
    """The checkpoint to resume from.

    Args:
        folder: contains a folder for each stage.
        names: names of the stages, in order.
        path: path of a checkpoint, or "last" for the latest one of the last stage that has any.

    Returns a path, or None if there is no complete checkpoint. Raises `ValueError` if `path` is not a checkpoint.
    """
    if path == "last":
        return next(filter(None, (latest(folder / name) for name in reversed(names))), None)
    checkpoint = Path(path)
    if not (checkpoint / COMPLETE).is_file() or checkpoint.parent.name not in names:
        raise ValueError(
            f"resume_from_checkpoint={path!r} is not a complete checkpoint of a stage of this run;"
            " use 'last', or give a path such as OUTPUT_DIR/checkpoints/1-captions/step-500."
        )
    return checkpoint


def restore(checkpoint, output_dir):
    """Restore the output folder to its state at `checkpoint`: the best captioner so far, and no later checkpoints."""
    if (checkpoint / BEST).exists():
        with writing(output_dir / MODEL):
            _link(checkpoint / BEST, checkpoint / "part.safetensors")  # not beside files of others
            os.replace(checkpoint / "part.safetensors", output_dir / MODEL)
            (checkpoint / "part.safetensors").unlink(missing_ok=True)  # replacing a file by itself leaves both
    number = int(checkpoint.parent.name.partition("-")[0])
    for stage in checkpoint.parent.parent.iterdir():
        if int(stage.name.partition("-")[0]) > number:
            remove(stage)
    for other in checkpoint.parent.glob("step-*"):
        if step_of(other) > step_of(checkpoint):
            remove(other)


def progress_of(checkpoint):
    """The `progress` that a checkpoint was saved with."""
    return json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))["progress"]


def weights_by_score(folder):
    """The weight files of the complete checkpoints in `folder`, sorted by validation score, best first."""
    scores = {}
    for marker in folder.glob(f"step-*/{COMPLETE}"):
        score = progress_of(marker.parent).get("score")
        if score is not None:
            average = marker.with_name("average.safetensors")
            scores[average if average.exists() else marker.with_name(MODEL)] = score
    return sorted(scores, key=scores.get, reverse=True)


def load_average(model, files):
    """Load the mean of the weights in `files` into a model; integer tensors are taken from the first file."""
    states = [load_file(file) for file in files]
    mean = {
        name: torch.stack([state[name] for state in states]).mean(0) if value.is_floating_point() else value
        for name, value in states[0].items()
    }
    model.load_state_dict({name.removeprefix("module."): value for name, value in mean.items()}, strict=False)


def remove(folder):
    """Delete a checkpoint, or a folder of checkpoints.

    Marker files are deleted first, so that a partly deleted checkpoint does not count as complete.
    """
    for marker in list(folder.rglob(COMPLETE)):
        marker.unlink()
    shutil.rmtree(folder)


def _link(source, target):
    """Hard-link a file, or copy it if the file system does not support that. Files are never modified in place."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def save(folder, step, modules, optimizer, scheduler, progress, keep=1, best=None):
    """Save a checkpoint in `folder`/step-N and remove older ones.

    Args:
        modules: {name: module} whose state dicts are saved.
        optimizer, scheduler: PyTorch optimizer and learning-rate scheduler.
        progress: further state, serialisable as JSON.
        keep: number of checkpoints to keep.
        best: weight file of the best captioner so far, which the checkpoint includes.

    Raises `OSError` if it cannot be written; the previous checkpoint is then still intact.
    """
    folder = Path(folder)
    part, checkpoint = folder / f"part-{step}", folder / f"step-{step}"
    with writing(checkpoint, part):
        part.mkdir(parents=True)
        if best and best.exists():
            _link(best, part / BEST)
        _write(part, modules, optimizer, {"scheduler": scheduler.state_dict(), "progress": progress})
    if checkpoint.exists():  # left by a run that was stopped while deleting it
        remove(checkpoint)
    os.replace(part, checkpoint)
    complete = sorted((file.parent for file in folder.glob(f"step-*/{COMPLETE}")), key=step_of)
    for old in {*folder.glob("part-*"), *folder.glob("step-*")} - set(complete[-keep:]):
        remove(old)


def _write(part, modules, optimizer, state):
    for name, module in modules.items():
        save_file(_untied(module), part / f"{name}.safetensors")
    tensors, numbers = _split(optimizer.state_dict())
    save_file(tensors, part / "optimizer.safetensors")
    (part / "state.json").write_text(json.dumps(state | {"optimizer": numbers}), encoding="utf-8")
    (part / COMPLETE).touch()


def _untied(module):
    """The state dict with each tied weight under its first name only: safetensors refuses tensors that share memory."""
    first = dict(module.named_parameters()).keys() | dict(module.named_buffers()).keys()
    return {name: value.contiguous() for name, value in module.state_dict().items() if name in first}


def load(path, modules, optimizer, scheduler):
    """Load the state that [`save`] saved, but for the learning rates and other numbers of the optimizer's options.

    Returns `progress`. Raises `ValueError` if files are corrupted.
    """
    try:
        for name, module in modules.items():
            load_model(module, path / f"{name}.safetensors")
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        groups = [
            {name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups
        ]
        optimizer.load_state_dict(_join(load_file(path / "optimizer.safetensors"), state["optimizer"]))
        scheduler.load_state_dict(state["scheduler"] | {"base_lrs": scheduler.base_lrs})
        factors = [factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
        rates = [rate * factor for rate, factor in zip(scheduler.base_lrs, factors, strict=True)]
        for group, given, rate in zip(optimizer.param_groups, groups, rates, strict=True):
            group |= given | {"lr": rate}
        return state["progress"]
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"The checkpoint {path} is corrupted or belongs to a different run; resume from another one, or start over"
            " with --overwrite_output_dir true."
        ) from error


def _split(state_dict):
    """Split an optimizer's state dict into tensors {"parameter.name": tensor} and a dictionary for JSON."""
    tensors, numbers = {}, {}
    for parameter, values in state_dict["state"].items():
        for name, value in values.items():
            (tensors if torch.is_tensor(value) else numbers)[f"{parameter}.{name}"] = value
    return tensors, {"numbers": numbers, "param_groups": state_dict["param_groups"]}


def _join(tensors, state):
    state_dict = {}
    for key, value in (tensors | state["numbers"]).items():
        parameter, name = key.split(".", 1)
        state_dict.setdefault(int(parameter), {})[name] = value
    return {"state": state_dict, "param_groups": state["param_groups"]}
