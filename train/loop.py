"""The training loop shared by all stages: steps, validation, checkpointing and resuming. It is independent of the task.

A stage has a `model`, the module to train, and these methods:

    dataloader(split)               -> DataLoader of "train" or "validation"
    parameter_groups(model)         -> the optimizer's parameter groups, with their learning rates
    num_items(batch)                -> int tensor, the number of items (words, photos) that the loss is a mean over
    loss(model, batch, num_items)   -> {"loss": ..., further metrics to log}: the batch's part of the mean over
                                       `num_items` items, which are those of all batches and processes of the step
    sample_names(batch)             -> names of the samples in the batch, for error messages
    validation_step(model, batch)   -> {sample id: result} for each sample in the batch
    compute_metrics(model, results) -> {name: number} over all samples; "score" selects the best model, higher is better
    examples(model)                 -> (name, photo, explanation) of a few validation photos, for plotting
    save(model, folder)             -> None; saves the captioner
"""

import contextlib
import itertools
import math
import time

import torch
from accelerate import PartialState, skip_first_batches
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from timm.optim import create_optimizer_v2
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import IterableDataset
from tqdm.auto import tqdm
from transformers import get_scheduler

from . import checkpoints

OPTIMIZERS = ("sgd", "adadelta", "rmsprop", "adam", "adamax", "nadam", "amsgrad", "adamw")
SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
SOUPS = ("greedy",)
WORKER_SIGNAL_SECONDS = 5  # within which the signal of a worker's death arrives, even on a busy machine


class TrainingError(ValueError):
    """Training cannot continue; the message says in one sentence why and what to do."""


def train(accelerator, stage, settings, folder, history, checkpoint=None):
    """Train `stage.model` for the stage's number of steps, or until it stops improving.

    Args:
        folder: output folder of the captioner; checkpoints are saved in `folder`/checkpoints/<history.stage>.
        history: the [`train.history.History`] that logs the metrics.
        checkpoint: checkpoint to resume from.

    At the end, `folder` contains the model with the best validation score.
    """
    training = Training(accelerator, stage, settings, folder, history, checkpoint)
    with explain_worker_errors():
        training.run()
    accelerator.wait_for_everyone()
    accelerator.free_memory()


def step_size(settings, processes):
    """Number of samples in a step of all processes."""
    return settings.per_device_train_batch_size * settings.gradient_accumulation_steps * processes


def check_step_size(checkpoint, settings, processes):
    """Raises `TrainingError` if a step has another number of samples than before the checkpoint.

    How they are divided among processes and batches may differ: a run of four processes continues with one that
    accumulates four batches.
    """
    now = step_size(settings, processes)
    before = checkpoints.progress_of(checkpoint).get("step_size", now)  # older versions did not record it
    if before != now:
        remedy = "start over with --overwrite_output_dir true"
        if before % processes == 0:
            batch = math.gcd(before // processes, settings.per_device_train_batch_size)
            remedy = f"give --per_device_train_batch_size {batch}"
            remedy += f" --gradient_accumulation_steps {before // processes // batch}"
        raise TrainingError(
            f"{checkpoint.parent.name} was begun with {before} samples a step, and would continue with {now}"
            f" (processes: {processes}, per_device_train_batch_size={settings.per_device_train_batch_size},"
            f" gradient_accumulation_steps={settings.gradient_accumulation_steps}); {remedy}."
        )


@contextlib.contextmanager
def explain_worker_errors():
    """Turn errors of DataLoader workers into a [`TrainingError`] of one sentence.

    PyTorch re-raises a worker's exception when its batch is requested, but raises the death of a worker from a signal
    handler, at any point of the program.
    """
    try:
        try:
            yield
        except (ConnectionError, EOFError):
            # A dying worker closes its connections first; the signal arrives shortly after and raises during the sleep.
            time.sleep(WORKER_SIGNAL_SECONDS)
            raise
    except (ValueError, OSError, RuntimeError) as error:
        message = str(error).strip()
        if "DataLoader worker (pid" in message:  # killed, for example because the system is out of memory
            raise TrainingError(
                "A dataloader worker died; if memory is short, lower --dataloader_num_workers. To continue training,"
                " use --resume_from_checkpoint last."
            ) from error
        if message.startswith("Caught ") and isinstance(error, ValueError | OSError):
            # PyTorch puts the worker's own message at the end of a traceback.
            raise TrainingError(message.splitlines()[-1].partition(": ")[2]) from error
        raise


class Training:
    """The training of one stage. `progress` is the state that a checkpoint adds to model, optimizer and scheduler."""

    def __init__(self, accelerator, stage, settings, folder, history, checkpoint):
        self.accelerator, self.stage, self.settings = accelerator, stage, settings
        self.folder, self.history = folder, history
        accelerator.gradient_accumulation_steps = 1  # `_training_step` adds up the parts of a step's loss itself
        dataloader = stage.dataloader("train")
        self.sampler = dataloader.sampler
        self.model, self.optimizer, self.train_dataloader, self.eval_dataloader = accelerator.prepare(
            stage.model, make_optimizer(stage, settings), dataloader, stage.dataloader("validation")
        )
        self.batch_size = settings.per_device_train_batch_size * accelerator.num_processes  # of all processes
        self.total_steps = settings.max_train_steps or settings.num_train_epochs * self._steps_per_epoch()
        warmup_steps = int(settings.warmup_ratio * self.total_steps)
        name = SCHEDULES[settings.lr_scheduler_type]
        self.scheduler = get_scheduler(name, self.optimizer.optimizer, warmup_steps, self.total_steps)
        self.modules = {"model": stage.model}
        if settings.ema_decay:
            average = get_ema_multi_avg_fn(settings.ema_decay)
            self.modules["average"] = AveragedModel(stage.model, multi_avg_fn=average)
        # `samples`: samples of this epoch already processed; `worse`: validations since the best one.
        self.progress = {"step": 0, "epoch": 0, "samples": 0, "best": -math.inf, "worse": 0}
        if checkpoint:
            self._resume(checkpoint)
        self.progress["step_size"] = step_size(settings, accelerator.num_processes)

    def _resume(self, checkpoint):
        """Continue from a checkpoint, with the learning rates of the settings."""
        self.progress |= checkpoints.load(checkpoint, self.modules, self.optimizer.optimizer, self.scheduler)
        self.history.truncate(self.progress["step"])
        if logged := self.progress.pop("logged", None):  # checkpoints of older versions lack this and the next ones
            self.history.load_state(logged)
        self.progress["samples"] = self.progress.pop("batch", 0) * self.batch_size or self.progress["samples"]

    def _steps_per_epoch(self):
        try:
            return math.ceil(len(self.train_dataloader) / self.settings.gradient_accumulation_steps)
        except TypeError as error:  # the data set has no length
            raise TrainingError("The number of photos in the stream is unknown; set --max_train_steps.") from error

    def run(self):
        progress, is_main = self.progress, self.accelerator.is_local_main_process
        self.progress_bar = tqdm(
            total=self.total_steps, initial=progress["step"], desc=self.history.stage, disable=not is_main
        )
        if self.settings.eval_on_start and progress["step"] == 0:
            self._validate()
            self._save_checkpoint()
        while not self._is_done():
            self._set_epoch(progress["epoch"])
            self.model.train()
            batches = iter(self._remaining_batches())
            while accumulated := list(itertools.islice(batches, self.settings.gradient_accumulation_steps)):
                self._on_step_end(*self._training_step(accumulated))
                if self._is_done():
                    break
            else:
                progress["epoch"], progress["samples"] = progress["epoch"] + 1, 0
        if self.settings.soup:
            self._average_checkpoints()
        self.progress_bar.close()

    def _is_done(self):
        patience = self.settings.early_stopping_patience or math.inf
        return self.progress["step"] >= self.total_steps or self.progress["worse"] >= patience

    def _set_epoch(self, epoch):
        self.train_dataloader.set_epoch(epoch)
        dataset = self.train_dataloader.dataset
        if hasattr(dataset, "set_epoch"):  # of several processes, accelerate's dataloader sets only the sampler's
            dataset.set_epoch(epoch)

    def _remaining_batches(self):
        """The batches of the epoch that are still to be processed: all of them unless the run was resumed."""
        seen = self.progress["samples"]
        if isinstance(self.train_dataloader.dataset, IterableDataset):
            skipped = seen // self.batch_size
            if skipped:
                self.accelerator.print(f"A stream cannot be seeked: skipping the first {skipped} batches of the epoch.")
            yield from skip_first_batches(self.train_dataloader, skipped) if skipped else self.train_dataloader
        else:
            self.sampler.start, self.sampler.multiple = (
                seen,
                self.batch_size if self.accelerator.num_processes > 1 else 1,
            )
            yield from self.train_dataloader
        if self.progress["samples"] == 0:
            raise TrainingError("There are no photos to train on; check the data set and its split.")

    def _training_step(self, batches):
        """Update the weights once, by the mean gradient over the items of all batches and processes.

        Returns the means of the step's metrics, {name: scalar tensor}, and the number of items, a scalar tensor.
        """
        accelerator = self.accelerator
        num_items = accelerator.reduce(sum(self.stage.num_items(batch) for batch in batches))
        sums = {}
        first = self.settings.gradient_accumulation_steps * self.progress["step"]
        for number, batch in enumerate(batches, start=first):
            # All randomness derives from the seed and the step, so that a resumed run reproduces an uninterrupted one.
            set_seed((self.settings.seed + 1000 * number) % 2**32, device_specific=True)
            last = batch is batches[-1]
            with contextlib.nullcontext() if last else accelerator.no_sync(self.model):
                with accelerator.autocast():
                    outputs = self.stage.loss(self.model, batch, num_items.clamp(min=1))
                if not outputs["loss"].isfinite():
                    raise self._non_finite_error("loss", outputs["loss"], batch)
                accelerator.backward(outputs["loss"] * accelerator.num_processes)  # whose gradients are averaged
            sums = {name: sums.get(name, 0) + value.detach() for name, value in outputs.items()}
        norm = accelerator.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        if not norm.isfinite() and accelerator.scaler is None:  # the fp16 scaler skips such a step
            raise self._non_finite_error("gradient", norm, batches[-1])
        self.optimizer.step()
        self.optimizer.zero_grad()
        means = accelerator.reduce(torch.stack([value.float() for value in sums.values()]))
        self.progress["samples"] += len(batches) * self.batch_size
        return dict(zip(sums, means, strict=True)), num_items

    def _non_finite_error(self, what, value, batch):
        return TrainingError(
            f"The {what} became {value.item()} in step {self.progress['step'] + 1} of {self.history.stage}, in a batch"
            f" of {', '.join(self.stage.sample_names(batch))}; check these, or lower the learning rate."
            " The last checkpoint is intact."
        )

    def _on_step_end(self, means, num_items):
        settings, progress = self.settings, self.progress
        end_of_epoch = self.accelerator.gradient_state.end_of_dataloader
        self.scheduler.step()
        if "average" in self.modules:
            self.modules["average"].update_parameters(self.stage.model)
        progress["step"] += 1
        step = progress["step"]
        if num_items:  # none if all photos of a stream's batch are broken
            self.history.add_means(means)
        if step % settings.logging_steps == 0:
            self.history.log_means(step, self.scheduler.get_last_lr()[0])
        self.progress_bar.update()
        self.progress_bar.set_postfix(self.history.latest, refresh=False)
        should_validate = step == self.total_steps or (
            step % settings.eval_steps == 0 if settings.eval_steps else end_of_epoch
        )
        if should_validate:
            self._validate()
        if should_validate or step % settings.checkpointing_steps == 0:
            self._save_checkpoint()

    def _save_checkpoint(self):
        if self.accelerator.is_main_process:
            checkpoints.save(
                self.folder / "checkpoints" / self.history.stage,
                self.progress["step"],
                self.modules,
                self.optimizer.optimizer,
                self.scheduler,
                self.progress | {"logged": self.history.state()},
                keep=self.settings.checkpoints_total_limit,
                best=self.folder / checkpoints.MODEL,
            )

    def _validate(self):
        """Validate, save the model if it is the best so far, and update the early-stopping counter."""
        progress, best = self.progress, self.progress["best"]
        progress["score"] = self._evaluate(self._eval_model())
        progress["worse"] = 0 if progress["score"] > best else progress["worse"] + 1
        self.model.train()

    def _eval_model(self):
        """The model that is evaluated and saved: the moving average if there is one."""
        return self.modules["average"].module if "average" in self.modules else self.stage.model

    def _evaluate(self, model):
        """Evaluate a model, and save it if its score is the best so far. Returns the score."""
        progress, stage = self.progress, self.stage
        model.eval()
        results = evaluate(stage, model, self.eval_dataloader)
        score = None
        if self.accelerator.is_main_process:
            metrics = stage.compute_metrics(model, results)
            self.history.log_validation(progress["step"], metrics, stage.examples(model))
            score = metrics["score"]
            if score > progress["best"]:
                stage.save(model, self.folder)
        (score,) = broadcast_object_list([score])
        progress["best"] = max(progress["best"], score)
        return score

    def _average_checkpoints(self):
        """Average the weights of the saved checkpoints, and keep the average if it has a better validation score.

        The greedy soup starts with the best and adds each that improves the average ("Model soups", Wortsman et al.
        2022, algorithm 1).
        """
        self.accelerator.wait_for_everyone()
        model, best = self._eval_model(), self.progress["best"]
        selected = []
        for file in checkpoints.weights_by_score(self.folder / "checkpoints" / self.history.stage):
            selected.append(file)
            if len(selected) == 1:
                continue
            checkpoints.load_average(model, selected)
            score = self._evaluate(model)
            if score > best:
                best = score
            else:
                selected.pop()


@torch.inference_mode()
def evaluate(stage, model, dataloader):
    """The stage's result for each sample, {sample id: result}, gathered from all processes."""
    results = {}
    for batch in tqdm(dataloader, desc="validation", leave=False, disable=not PartialState().is_local_main_process):
        results |= stage.validation_step(model, batch)
    # Keyed by sample id, because samples may be repeated to fill the last batch.
    gathered = {sample: result for rows in gather_object([results]) for sample, result in rows.items()}
    if not gathered:
        raise TrainingError("There is nothing to validate on; check the data set and its split.")
    return dict(sorted(gathered.items()))


def make_optimizer(stage, settings):
    """One of timm's optimizers; AMSGrad (Reddi et al. 2018) is an option of Adam there."""
    name, options = ("adam", {"amsgrad": True}) if settings.optim == "amsgrad" else (settings.optim, {})
    groups = stage.parameter_groups(stage.model)
    return create_optimizer_v2(groups, name, settings.learning_rate, settings.weight_decay, **options)
