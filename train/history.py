"""The numbers of a run: kept in `history.jsonl`, drawn in `curves.png`, sent to Accelerate's trackers; and pictures of
what the captioner says and where it looks."""

import importlib
import json

import matplotlib
import numpy as np
from PIL import Image

from captioning.drawing import draw

from .checkpoints import writing

matplotlib.use("Agg")  # no screen is needed to write a file
from matplotlib import pyplot


class History:
    """The rows {"stage", "step", "loss" | validation's numbers} of a run, over all its stages."""

    def __init__(self, accelerator, folder, resumed):
        self.accelerator, self.folder, self.file = accelerator, folder, folder / "history.jsonl"
        self.stage, self.means, self.latest = None, [], {}
        self.rows = [json.loads(line) for line in self.file.read_text().splitlines()] if resumed else []
        self._write()

    def start_stage(self, stage):
        self.stage, self.means, self.latest = stage, [], {}

    def truncate(self, step):
        """Forget what came after the checkpoint that a run resumes from."""

        def when(row):
            return int(row["stage"].partition("-")[0]), row["step"]

        last = when({"stage": self.stage, "step": step})
        self.rows = [row for row in self.rows if when(row) <= last]

    def log_step(self, step, means, learning_rate, log):
        """Add a step's numbers, {name: scalar tensor}; with `log`, write their means since the last time."""
        self.means.append(means)
        if log:
            numbers = {name: sum(row[name] for row in self.means).item() / len(self.means) for name in means}
            self.means = []
            self._add(step, numbers | {"learning_rate": learning_rate})

    def log_validation(self, step, numbers, examples):
        """`examples`: (name, photo, explanation) of a few photos."""
        self._add(step, numbers)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        self.accelerator.print(f"\n{self.stage} step {step}: {shown}", flush=True)
        with writing(self.folder / "curves.png"):
            self._draw()
        if examples:
            self._show(step, examples)

    def _show(self, step, examples):
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

    def _add(self, step, numbers):
        self.latest |= {name: f"{value:.4g}" for name, value in numbers.items()}
        self.rows.append({"stage": self.stage, "step": step} | numbers)
        self.accelerator.log({f"{self.stage}/{name}": value for name, value in numbers.items()}, step=step)
        self._write()

    def _write(self):
        """Whole or not at all: a run may be killed at any moment."""
        if self.accelerator.is_main_process:
            part = self.file.with_suffix(".part")
            with writing(self.file):
                part.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
            part.replace(self.file)

    def _draw(self):
        """Loss and validation loss side by side show under- and overfitting; the score is drawn below."""
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
