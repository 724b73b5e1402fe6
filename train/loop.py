"""The training loop, one for all stages: steps, validation, checkpoints, resuming. It knows nothing of captions.

A stage has a `model`, the module to train, and

    batches(split)       -> DataLoader
    loss(model, batch)   -> scalar tensor
    parameters(model)    -> groups for the optimizer, with their learning rates
    evaluate(model)      -> {name: number}; a higher "score" is better
    save(model, folder)  -> writes the captioner as it stands
"""

import math

import torch
from accelerate import skip_first_batches
from accelerate.utils import broadcast_object_list, set_seed
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm
from transformers import get_scheduler

from . import checkpoints

OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"momentum": 0.9}),
    "adadelta": (torch.optim.Adadelta, {}),
    "rmsprop": (torch.optim.RMSprop, {}),
    "adam": (torch.optim.Adam, {}),
    "adamax": (torch.optim.Adamax, {}),
    "nadam": (torch.optim.NAdam, {}),
    "amsgrad": (torch.optim.Adam, {"amsgrad": True}),
    "adamw": (torch.optim.AdamW, {}),
}
SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}


class TrainingError(ValueError):
    """Training cannot go on; its one sentence says why and what to do."""


def train(accelerator, stage, settings, folder, history, resumed=None):
    """Train `stage.model` until its steps are done or it stops getting better.

    Args:
        folder: where the captioner goes; checkpoints go to `folder`/checkpoints/<history.stage>.
        history: a [`train.history.History`], which keeps and shows the numbers.
        resumed: the checkpoint to go on from.

    The best model by the validation's "score" is what `folder` holds in the end.
    """
    model, optimizer, loader = accelerator.prepare(stage.model, make_optimizer(stage, settings), stage.batches("train"))
    steps_per_epoch = math.ceil(len(loader) / settings.gradient_accumulation_steps)
    total = settings.max_train_steps or settings.num_train_epochs * steps_per_epoch
    scheduler = get_scheduler(
        SCHEDULES[settings.lr_scheduler_type], optimizer.optimizer, int(settings.warmup_ratio * total), total
    )
    modules = {"model": accelerator.unwrap_model(model)}
    if settings.ema_decay:
        modules["average"] = AveragedModel(modules["model"], multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay))
    progress = {"step": 0, "best": -math.inf, "worse": 0}
    if resumed:
        progress = checkpoints.load(resumed, modules, optimizer.optimizer, scheduler)
        history.cut(progress["step"])

    def validate():
        """Keep the model if it is the best so far."""
        evaluated = modules["average"].module if "average" in modules else modules["model"]
        if accelerator.is_main_process:
            evaluated.eval()
            numbers = stage.evaluate(evaluated)
            evaluated.train()
            history.validation(progress["step"], numbers)
            better = numbers["score"] > progress["best"]
            progress["worse"] = 0 if better else progress["worse"] + 1
            if better:
                progress["best"] = numbers["score"]
                stage.save(evaluated, folder)
        (progress["worse"],) = broadcast_object_list([progress["worse"]])

    bar = tqdm(total=total, initial=progress["step"], desc=history.stage, disable=not accelerator.is_local_main_process)
    patience = settings.early_stopping_patience or math.inf
    while progress["step"] < total and progress["worse"] < patience:
        epoch, done = divmod(progress["step"], steps_per_epoch)
        done *= settings.gradient_accumulation_steps
        loader.set_epoch(epoch)
        model.train()
        for number, batch in enumerate(skip_first_batches(loader, done) if done else loader, start=done):
            # Everything random in a step follows from its number, so that a resumed run repeats it.
            set_seed((settings.seed + 1000 * (epoch * len(loader) + number)) % 2**32, device_specific=True)
            with accelerator.accumulate(model):
                loss = stage.loss(model, batch)
                if not loss.isfinite():
                    raise TrainingError(
                        f"The loss became {loss.item()} in step {progress['step'] + 1} of"
                        f" {history.stage}; lower the learning rate. The last checkpoint is whole."
                    )
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
            if not accelerator.sync_gradients:
                continue
            scheduler.step()
            if "average" in modules:
                modules["average"].update_parameters(modules["model"])
            progress["step"] += 1
            step = progress["step"]
            history.step(step, loss, scheduler.get_last_lr()[0], step % settings.logging_steps == 0)
            bar.update()
            bar.set_postfix(history.latest, refresh=False)
            validated = step == total or step % (settings.eval_steps or steps_per_epoch) == 0
            if validated:
                validate()
            if (validated or step % settings.checkpointing_steps == 0) and accelerator.is_main_process:
                place = folder / "checkpoints" / history.stage
                kept = settings.checkpoints_total_limit
                checkpoints.save(place, step, modules, optimizer.optimizer, scheduler, progress, kept)
            if step == total or progress["worse"] >= patience:
                break
    bar.close()
    accelerator.wait_for_everyone()
    accelerator.free_memory()


def make_optimizer(stage, settings):
    if settings.optim not in OPTIMIZERS:
        raise TrainingError(f"optim={settings.optim!r} is unknown; choose one of {', '.join(OPTIMIZERS)}.")
    optimizer, options = OPTIMIZERS[settings.optim]
    groups = stage.parameters(stage.model)
    return optimizer(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, **options)
