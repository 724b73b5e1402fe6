"""Logging of a run: metrics to `history.jsonl`, `curves.csv`, `curves.png` and Accelerate's trackers, and pictures of
captioned examples with their attention."""

import csv
import importlib
import json

import matplotlib
import numpy as np
from PIL import Image

from captioning.drawing import draw

from .checkpoints import writing

matplotlib.use("Agg")  # needs no display
from matplotlib import pyplot


class History:
    """The rows {"stage", "step", metrics of a step or a validation} of a run, over all its stages."""

    def __init__(self, accelerator, folder, resume):
        self.accelerator, self.folder, self.file = accelerator, folder, folder / "history.jsonl"
        self.stage, self.sums, self.count, self.latest = None, {}, 0, {}
        self.rows = [json.loads(line) for line in self.file.read_text(encoding="utf-8").splitlines()] if resume else []

    def start_stage(self, stage):
        self.stage, self.sums, self.count, self.latest = stage, {}, 0, {}

    def truncate(self, step):
        """Remove the rows after the step of the current stage that a run resumes from."""

        def position(row):
            return int(row["stage"].partition("-")[0]), row["step"]

        last = position({"stage": self.stage, "step": step})
        self.rows = [row for row in self.rows if position(row) <= last]

    def add_means(self, means):
        """Collect a step's metrics, {name: scalar tensor}."""
        self.sums = {name: self.sums.get(name, 0) + value for name, value in means.items()}
        self.count += 1

    def log_means(self, step, learning_rate):
        """Write the means of the metrics that were collected since the last log."""
        metrics = {name: float(value) / self.count for name, value in self.sums.items()}
        self.sums, self.count = {}, 0
        self._add(step, metrics | {"learning_rate": learning_rate})

    def state(self):
        """What a checkpoint needs for the means since the last log, as JSON. `load_state` takes it."""
        return {"sums": {name: float(value) for name, value in self.sums.items()}, "count": self.count}

    def load_state(self, state):
        self.sums, self.count = dict(state["sums"]), state["count"]

    def log_validation(self, step, metrics, examples):
        """Write and print the metrics, and plot the curves and the examples.

        Args:
            examples: (name, photo, explanation) of a few photos.
        """
        self._add(step, metrics)
        text = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        self.accelerator.print(f"\n{self.stage} step {step}: {text}", flush=True)
        self._write_curves()
        with writing(self.folder / "curves.png"):
            self._plot_curves()
        if examples:
            self._plot_examples(step, examples)

    def _plot_examples(self, step, examples):
        file = self.folder / "pictures" / f"{self.stage}-step-{step}.png"
        with writing(file):
            file.parent.mkdir(exist_ok=True)
            draw(examples, file)
        name, picture = f"{self.stage}/examples", np.asarray(Image.open(file).convert("RGB"))
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.log_images({name: picture[None]}, step, dataformats="NHWC")
            elif tracker.name == "trackio":
                tracker.log({name: importlib.import_module("trackio").Image(picture)}, step)
            elif hasattr(tracker, "log_images"):
                tracker.log_images({name: [picture]}, step)

    def _add(self, step, metrics):
        self.latest |= {name: f"{value:.4g}" for name, value in metrics.items()}
        self.rows.append({"stage": self.stage, "step": step} | metrics)
        self.accelerator.log({f"{self.stage}/{name}": value for name, value in metrics.items()}, step=step)
        self._write()

    def _write(self):
        """Replace the file atomically, because a run may be killed at any time."""
        if self.accelerator.is_main_process:
            part = self.file.with_suffix(".part")
            with writing(self.file):
                part.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")
            part.replace(self.file)

    def _write_curves(self):
        """Write all rows as a table, for a spreadsheet."""
        file = self.folder / "curves.csv"
        if self.accelerator.is_main_process:
            with writing(file), open(file, "w", newline="", encoding="utf-8") as table:
                columns = dict.fromkeys(name for row in self.rows for name in row)
                writer = csv.DictWriter(table, columns)
                writer.writeheader()
                writer.writerows(self.rows)

    def _plot_curves(self):
        """Plot training and validation loss together, to reveal under- and overfitting, and the score below."""
        stages = list(dict.fromkeys(row["stage"] for row in self.rows))
        figure, axes = pyplot.subplots(2, len(stages), figsize=(5 * len(stages), 6), squeeze=False)
        for column, stage in enumerate(stages):
            rows = [row for row in self.rows if row["stage"] == stage]
            score = "CIDEr-D" if any("CIDEr-D" in row for row in rows) else "score"
            for axis, names in zip(axes[:, column], (("loss", "validation_loss"), (score,)), strict=True):
                for name in names:
                    points = [(row["step"], row[name]) for row in rows if name in row]
                    if points:
                        axis.plot(*zip(*points, strict=True), label=name.replace("_", " "))
                axis.set_xlabel("step")
                axis.legend()
            axes[0, column].set_title(stage)
        figure.tight_layout()
        figure.savefig(self.folder / "curves.png", dpi=100)
        pyplot.close(figure)
