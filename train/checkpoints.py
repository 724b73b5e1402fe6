"""Checkpoints: a folder of safetensors and JSON, written beside its place and renamed into it, so that it is whole or
absent. No pickle is written or read."""

import functools
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file

from captioning import saving

WHOLE = "complete"  # the file that is written last
MODEL, BEST = "model.safetensors", "best.safetensors"  # a captioner's weights in its folder, and in a checkpoint

REMEDY = "the last checkpoint is whole. Make room, then go on with --resume_from_checkpoint last."
writing = functools.partial(saving.writing, remedy=REMEDY)
save_captioner = functools.partial(saving.save_captioner, remedy=REMEDY)


def latest(folder):
    """The newest whole checkpoint in `folder`, or None."""
    return max((file.parent for file in Path(folder).glob(f"step-*/{WHOLE}")), key=step_of, default=None)


def step_of(place):
    return int(place.name.removeprefix("step-"))


def find(folder, names, wanted):
    """The checkpoint to resume from: a path, or the newest of the last stage in `folder` that has one, for "last".

    Args:
        folder: holds a folder for each stage.
        names: the stages' names, in order.

    Returns a path, or None where there is no whole checkpoint. Raises `ValueError` for a path that is not one.
    """
    if wanted == "last":
        return next(filter(None, (latest(folder / name) for name in reversed(names))), None)
    place = Path(wanted)
    if not (place / WHOLE).is_file() or place.parent.name not in names:
        raise ValueError(
            f"resume_from_checkpoint={wanted!r} is no whole checkpoint of a stage of this run;"
            " say 'last', or give a path such as OUTPUT_DIR/checkpoints/1-captions/step-500."
        )
    return place


def go_back(place, output_dir):
    """Bring a run's folder to where it was at the checkpoint `place`: its captioner, and no later checkpoint."""
    if (place / BEST).exists():
        _link(place / BEST, output_dir / "part.safetensors")
        os.replace(output_dir / "part.safetensors", output_dir / MODEL)
    number = int(place.parent.name.partition("-")[0])
    for stage in place.parent.parent.iterdir():
        if int(stage.name.partition("-")[0]) > number:
            remove(stage)
    for later in place.parent.glob("step-*"):
        if step_of(later) > step_of(place):
            remove(later)


def ingredients(folder):
    """The weights' files of the whole checkpoints in `folder`, the best validated first."""
    scores = {}
    for mark in folder.glob(f"step-*/{WHOLE}"):
        score = json.loads((mark.parent / "state.json").read_text())["progress"].get("score")
        if score is not None:
            average = mark.with_name("average.safetensors")
            scores[average if average.exists() else mark.with_name(MODEL)] = score
    return sorted(scores, key=scores.get, reverse=True)


def load_average(model, files):
    """Give a model the mean of the weights in some files; what is no floating-point number comes from the first."""
    states = [load_file(file) for file in files]
    mean = {
        name: torch.stack([state[name] for state in states]).mean(0) if value.is_floating_point() else value
        for name, value in states[0].items()
    }
    model.load_state_dict({name.removeprefix("module."): value for name, value in mean.items()}, strict=False)


def remove(folder):
    """Delete a checkpoint, or a folder of some. Marks go first: what is half deleted must not count as whole."""
    for mark in list(folder.rglob(WHOLE)):
        mark.unlink()
    shutil.rmtree(folder)


def _link(source, target):
    """A file is never written to again, so that a second name does for a copy, where the disk has such."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def save(folder, step, modules, optimizer, scheduler, progress, keep=1, best=None):
    """Write `folder`/step-N and remove older ones.

    Args:
        best: the weights of the best captioner so far, a file, which is kept as well.
        modules: {name: module}, whose state dicts are kept.
        optimizer, scheduler: PyTorch's.
        progress: whatever else JSON can hold.
        keep: how many checkpoints stay.

    Raises `OSError` where it cannot be written; the checkpoint before is whole then.
    """
    folder = Path(folder)
    part, place = folder / f"part-{step}", folder / f"step-{step}"
    with writing(place, part):
        part.mkdir(parents=True)
        if best and best.exists():
            _link(best, part / BEST)
        _write(part, modules, optimizer, {"scheduler": scheduler.state_dict(), "progress": progress})
    if place.exists():  # of a run that was stopped while it deleted it
        remove(place)
    os.replace(part, place)
    whole = sorted((file.parent for file in folder.glob(f"step-*/{WHOLE}")), key=step_of)
    for old in {*folder.glob("part-*"), *folder.glob("step-*")} - set(whole[-keep:]):
        remove(old)


def _write(part, modules, optimizer, state):
    for name, module in modules.items():
        save_file(_untied(module), part / f"{name}.safetensors")
    tensors, numbers = _split(optimizer.state_dict())
    save_file(tensors, part / "optimizer.safetensors")
    (part / "state.json").write_text(json.dumps(state | {"optimizer": numbers}))
    (part / WHOLE).touch()


def _untied(module):
    """The state dict with each tied weight under its first name only: safetensors refuses tensors that share memory."""
    first = dict(module.named_parameters()).keys() | dict(module.named_buffers()).keys()
    return {name: value.contiguous() for name, value in module.state_dict().items() if name in first}


def load(path, modules, optimizer, scheduler):
    """Bring everything back to where [`save`] found it. Returns `progress`. Raises `ValueError` for damaged files."""
    try:
        for name, module in modules.items():
            load_model(module, path / f"{name}.safetensors")
        state = json.loads((path / "state.json").read_text())
        optimizer.load_state_dict(_join(load_file(path / "optimizer.safetensors"), state["optimizer"]))
        scheduler.load_state_dict(state["scheduler"])
        return state["progress"]
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"The checkpoint {path} is damaged, or of another run; go on from another, or begin anew with"
            " --overwrite_output_dir true."
        ) from error


def _split(state_dict):
    """An optimizer's state as tensors {"parameter.name": tensor} and numbers that JSON can hold."""
    tensors, numbers = {}, {}
    for parameter, values in state_dict["state"].items():
        for name, value in values.items():
            (tensors if torch.is_tensor(value) else numbers)[f"{parameter}.{name}"] = value
    return tensors, {"numbers": numbers, "param_groups": state_dict["param_groups"]}


def _join(tensors, state):
    joined = {}
    for key, value in (tensors | state["numbers"]).items():
        parameter, name = key.split(".", 1)
        joined.setdefault(int(parameter), {})[name] = value
    return {"state": joined, "param_groups": state["param_groups"]}
