"""The training loop, one for all stages: steps, validation, checkpoints, resuming. It knows nothing of captions.

A stage has a `model`, the module to train, and

    batches(split)       -> DataLoader
    parameters(model)    -> groups for the optimizer, with their learning rates
    loss(model, batch)   -> {"loss": scalar tensor, "count": of how many things it is the mean, ...: numbers to watch}
    names(batch)         -> what is in the batch, to tell people
    judge(model, batch)  -> {photo's number: what there is to say of it}, for each photo of the batch
    score(model, judged) -> {name: number} of all photos; a higher "score" is better
    examples(model)      -> (name, photo, explanation) of a few validation photos, to be drawn
    save(model, folder)  -> writes the captioner as it stands
"""

import contextlib
import math
import time

import torch
from accelerate import PartialState, skip_first_batches
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import IterableDataset
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
SIGNAL_SECONDS = 5  # in which a system tells of a process's death, even where it is very busy


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
    training = Training(accelerator, stage, settings, folder, history, resumed)
    with readers_told():
        training.run()
    accelerator.wait_for_everyone()
    accelerator.free_memory()


@contextlib.contextmanager
def readers_told():
    """Tells in one sentence what went wrong in a process that reads photos, a [`TrainingError`].

    PyTorch raises what a reader raised where its batch is asked for, but the death of one wherever the program happens
    to be, from the handler of a signal.
    """
    try:
        try:
            yield
        except (ConnectionError, EOFError):
            # Who dies closes its connections first; the signal comes a moment later, and is then raised here.
            time.sleep(SIGNAL_SECONDS)
            raise
    except (ValueError, OSError, RuntimeError) as error:
        told = str(error).strip()
        if "DataLoader worker (pid" in told:  # killed, such as by a system that is out of memory
            raise TrainingError(
                "A process that reads photos died; where memory is short, give fewer --dataloader_num_workers."
                " A training goes on with --resume_from_checkpoint last."
            ) from error
        if told.startswith("Caught ") and isinstance(error, ValueError | OSError):
            # Its own words, which PyTorch puts at the end of a trace.
            raise TrainingError(told.splitlines()[-1].partition(": ")[2]) from error
        raise


class Training:
    """A stage on its way. `progress` is all that a checkpoint keeps beside weights, optimizer and schedule."""

    def __init__(self, accelerator, stage, settings, folder, history, resumed):
        self.accelerator, self.stage, self.settings = accelerator, stage, settings
        self.folder, self.history = folder, history
        accelerator.gradient_accumulation_steps = settings.gradient_accumulation_steps  # a stage's own
        self.model, self.optimizer, self.loader, self.validation = accelerator.prepare(
            stage.model, make_optimizer(stage, settings), stage.batches("train"), stage.batches("validation")
        )
        self.total = settings.max_train_steps or settings.num_train_epochs * self._steps_per_epoch()
        warmup = int(settings.warmup_ratio * self.total)
        name = SCHEDULES[settings.lr_scheduler_type]
        self.scheduler = get_scheduler(name, self.optimizer.optimizer, warmup, self.total)
        self.modules = {"model": stage.model}
        if settings.ema_decay:
            average = get_ema_multi_avg_fn(settings.ema_decay)
            self.modules["average"] = AveragedModel(stage.model, multi_avg_fn=average)
        # `batch` counts the batches of the epoch that are done, `worse` the validations since the best one.
        self.progress = {"step": 0, "epoch": 0, "batch": 0, "best": -math.inf, "worse": 0}
        if resumed:
            self.progress |= checkpoints.load(resumed, self.modules, self.optimizer.optimizer, self.scheduler)
            history.cut(self.progress["step"])

    def _steps_per_epoch(self):
        try:
            return math.ceil(len(self.loader) / self.settings.gradient_accumulation_steps)
        except TypeError as error:  # Python's own for what has no length
            raise TrainingError("How many photos the stream holds is not known; give --max_train_steps.") from error

    def run(self):
        progress, shown = self.progress, self.accelerator.is_local_main_process
        self.bar = tqdm(total=self.total, initial=progress["step"], desc=self.history.stage, disable=not shown)
        if self.settings.eval_on_start and progress["step"] == 0:
            self._validate()
            self._checkpoint()
        while not self._done():
            self.loader.set_epoch(progress["epoch"])
            self.model.train()
            sums = {}
            for batch in self._rest_of_epoch():
                sums = self._backward(batch, sums)
                progress["batch"] += 1
                if self.accelerator.sync_gradients:
                    self._after_step(sums)
                    sums = {}
                    if self._done():
                        break
            else:
                progress["epoch"], progress["batch"] = progress["epoch"] + 1, 0
        if self.settings.soup:
            self._cook()
        self.bar.close()

    def _done(self):
        patience = self.settings.early_stopping_patience or math.inf
        return self.progress["step"] >= self.total or self.progress["worse"] >= patience

    def _rest_of_epoch(self):
        done = self.progress["batch"]
        if done and isinstance(self.loader.dataset, IterableDataset):
            self.accelerator.print(f"A stream begins at its beginning: passing over the epoch's first {done} batches.")
        batches = skip_first_batches(self.loader, done) if done else self.loader
        yield from batches
        if not done and self.progress["batch"] == 0:
            raise TrainingError("There is no photo to train on; look at the data set and its split.")

    def _backward(self, batch, sums):
        """Add a batch's gradients, and step with the last batch of a step. Returns the sums of the step's numbers."""
        accelerator, accumulated = self.accelerator, self.settings.gradient_accumulation_steps
        # Everything random in a step follows from its number, so that a resumed run repeats it.
        number = accumulated * self.progress["step"] + self.progress["batch"] % accumulated
        set_seed((self.settings.seed + 1000 * number) % 2**32, device_specific=True)
        with accelerator.accumulate(self.model):
            with accelerator.autocast():
                found = self.stage.loss(self.model, batch)
            if not found["loss"].isfinite():
                raise self._failure("loss", found["loss"], batch)
            # Towards the sum over all that counts; the whole sum would be too large for fp16.
            unit = self.settings.per_device_train_batch_size
            accelerator.backward(found["loss"] * found["count"] / unit)
            weights = {name: found["count"] for name in found} | {"count": 1}
            sums = {name: sums.get(name, 0) + value.detach() * weights[name] for name, value in found.items()}
            if accelerator.sync_gradients:
                sums = self._summed_over_processes(sums)
                # Accelerate divides by batches and processes; a mean over all that counts is wanted.
                for parameter in self.model.parameters():
                    if parameter.grad is not None:
                        parameter.grad *= accumulated * accelerator.num_processes * unit / sums["count"]
                norm = accelerator.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
                if not norm.isfinite() and accelerator.scaler is None:  # fp16's scaler leaves such a step out
                    raise self._failure("gradient", norm, batch)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return sums

    def _summed_over_processes(self, sums):
        totals = self.accelerator.reduce(torch.stack([value.float() for value in sums.values()]))
        return dict(zip(sums, totals, strict=True))

    def _failure(self, what, value, batch):
        return TrainingError(
            f"The {what} became {value.item()} in step {self.progress['step'] + 1} of {self.history.stage}, in a batch"
            f" of {', '.join(self.stage.names(batch))}; look at these, or lower the learning rate."
            " The last checkpoint is whole."
        )

    def _after_step(self, sums):
        settings, progress = self.settings, self.progress
        ended = self.accelerator.gradient_state.end_of_dataloader
        self.scheduler.step()
        if "average" in self.modules:
            self.modules["average"].update_parameters(self.stage.model)
        progress["step"] += 1
        step = progress["step"]
        means = {name: value / sums["count"] for name, value in sums.items() if name != "count"}
        self.history.step(step, means, self.scheduler.get_last_lr()[0], step % settings.logging_steps == 0)
        self.bar.update()
        self.bar.set_postfix(self.history.latest, refresh=False)
        validated = step == self.total or (step % settings.eval_steps == 0 if settings.eval_steps else ended)
        if validated:
            self._validate()
        if validated or step % settings.checkpointing_steps == 0:
            self._checkpoint()

    def _checkpoint(self):
        if self.accelerator.is_main_process:
            checkpoints.save(
                self.folder / "checkpoints" / self.history.stage,
                self.progress["step"],
                self.modules,
                self.optimizer.optimizer,
                self.scheduler,
                self.progress,
                keep=self.settings.checkpoints_total_limit,
                best=self.folder / checkpoints.MODEL,
            )

    def _validate(self):
        """Keep the model if it is the best so far."""
        progress = self.progress
        progress["score"] = self._score(self._kept_model())
        progress["worse"] = 0 if progress["score"] == progress["best"] else progress["worse"] + 1
        self.model.train()

    def _kept_model(self):
        return self.modules["average"].module if "average" in self.modules else self.stage.model

    def _score(self, model):
        """Validate a model, and write it into the folder if its score is the best so far. Returns the score."""
        progress, stage = self.progress, self.stage
        model.eval()
        judged = evaluate(stage, model, self.validation)
        score = None
        if self.accelerator.is_main_process:
            numbers = stage.score(model, judged)
            self.history.validation(progress["step"], numbers, stage.examples(model))
            score = numbers["score"]
            if score > progress["best"]:
                stage.save(model, self.folder)
        (score,) = broadcast_object_list([score])
        progress["best"] = max(progress["best"], score)
        return score

    def _cook(self):
        """Average the kept checkpoints' weights, and keep the average if it validates better ("Model soups", Wortsman
        et al. 2022): all of them, or greedily each that makes the average better, from the best one on."""
        self.accelerator.wait_for_everyone()
        model, best = self._kept_model(), self.progress["best"]
        pot = []
        for ingredient in checkpoints.ingredients(self.folder / "checkpoints" / self.history.stage):
            pot.append(ingredient)
            if self.settings.soup == "uniform" or len(pot) == 1:
                continue
            checkpoints.load_average(model, pot)
            score = self._score(model)
            if score > best:
                best = score
            else:
                pot.pop()
        if self.settings.soup == "uniform":
            checkpoints.load_average(model, pot)
            self._score(model)


@torch.inference_mode()
def evaluate(stage, model, loader):
    """What the stage says of each photo of the loader, {number: what}, whichever process looked at it."""
    judged = {}
    for batch in tqdm(loader, desc="validation", leave=False, disable=not PartialState().is_local_main_process):
        judged |= stage.judge(model, batch)
    # Each photo once, though the last batch may repeat some to be full.
    everyone = {number: what for rows in gather_object([judged]) for number, what in rows.items()}
    return dict(sorted(everyone.items()))


def make_optimizer(stage, settings):
    if settings.optim not in OPTIMIZERS:
        raise TrainingError(f"optim={settings.optim!r} is unknown; choose one of {', '.join(OPTIMIZERS)}.")
    optimizer, options = OPTIMIZERS[settings.optim]
    groups = stage.parameters(stage.model)
    return optimizer(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, **options)
