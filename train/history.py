"""The numbers of a run: kept in `history.jsonl`, drawn in `curves.png`, sent to Accelerate's trackers."""

import json

import matplotlib

matplotlib.use("Agg")  # no screen is needed to write a file
from matplotlib import pyplot


class History:
    """The rows {"stage", "step", "loss" | validation's numbers} of a run, over all its stages."""

    def __init__(self, accelerator, folder, resumed):
        self.accelerator, self.folder, self.file = accelerator, folder, folder / "history.jsonl"
        self.rows = []
        if resumed:
            self.rows = [json.loads(line) for line in self.file.read_text().splitlines()]
        self.stage, self.losses, self.latest = None, [], {}

    def begin(self, stage):
        self.stage, self.losses, self.latest = stage, [], {}

    def cut(self, step):
        """Forget what came after the checkpoint that a run resumes from."""
        self.rows = [row for row in self.rows if row["stage"] != self.stage or row["step"] <= step]

    def step(self, step, loss, learning_rate, log):
        """Add a step's loss; with `log`, write the mean since the last time."""
        self.losses.append(loss.detach())
        if log:
            mean = sum(self.losses).item() / len(self.losses)
            self.losses = []
            self._add(step, {"loss": mean, "learning_rate": learning_rate})

    def validation(self, step, numbers):
        self._add(step, numbers)
        if self.accelerator.is_main_process:
            shown = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
            self.accelerator.print(f"\n{self.stage} step {step}: {shown}", flush=True)
            self._draw()

    def _add(self, step, numbers):
        self.latest |= {name: f"{value:.4g}" for name, value in numbers.items()}
        self.rows.append({"stage": self.stage, "step": step} | numbers)
        self.accelerator.log({f"{self.stage}/{name}": value for name, value in numbers.items()}, step=step)
        if self.accelerator.is_main_process:
            self.file.write_text("".join(json.dumps(row) + "\n" for row in self.rows))

    def _draw(self):
        """Loss and validation loss side by side show under- and overfitting; the score is drawn below."""
        stages = list(dict.fromkeys(row["stage"] for row in self.rows))
        figure, axes = pyplot.subplots(2, len(stages), figsize=(5 * len(stages), 6), squeeze=False)
        for column, stage in enumerate(stages):
            rows = [row for row in self.rows if row["stage"] == stage]
            for axis, names in zip(axes[:, column], (("loss", "validation_loss"), ("score",)), strict=True):
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
