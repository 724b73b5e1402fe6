"""Teaching the served captioner: the trainer runs in the background on the corrections, on a copy of the captioner."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from captioning.loading import load_captioner
from demo.corrections import read_corrections
from modeling_captioner.cores import usable_cores

STEPS = 40
POLL_SECONDS = 0.3
SECONDS_TO_STOP = 5
RUNNING, LEARNT, STOPPED, FAILED = "running", "learnt", "stopped", "failed"


class TeachingError(ValueError):
    """A training cannot begin or has failed. `key` is the text that says why, `values` are its values."""

    def __init__(self, key, **values):
        super().__init__(key)
        self.key, self.values = key, values


class Training:
    """One run of the trainer and the copy that it makes.

    Args:
        owner: the session that began it; None once its page is closed.
        folder: where the copy is made. The trainer's output goes to a file beside it.
        command: the trainer's command line.
        lock: guards `state`, shared by all trainings of a `Teacher`.
    """

    def __init__(self, owner, folder, command, lock):
        self.owner, self.folder, self.lock = owner, folder, lock
        self.state, self.model, self.kept = RUNNING, None, None
        self.log = folder.with_suffix(".log")
        # Half of the cores: visitors' photos are captioned meanwhile.
        environment = os.environ | {"OMP_NUM_THREADS": str(max(1, usable_cores() // 2))}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
            )

    def losses(self):
        """The loss of each step so far."""
        return read_losses(self.folder / "history.jsonl")

    def progress(self):
        """Yield the losses of the steps so far, whenever there are more of them, until the trainer ends."""
        seen = 0
        while self.process.poll() is None:
            time.sleep(POLL_SECONDS)
            if len(losses := self.losses()) > seen:
                seen = len(losses)
                yield losses

    def finish(self):
        """Load the copy after the trainer has ended. Returns the model. Raises `TeachingError` if it failed."""
        status = self.process.wait()
        model = None
        if status == 0 and self.state == RUNNING:
            for name in ("checkpoints", "features"):
                shutil.rmtree(self.folder / name, ignore_errors=True)
            try:
                model, _ = load_captioner(str(self.folder), None, "float32")
            except (ValueError, OSError):  # its visitor has left, and the folder is gone
                if self.state == RUNNING:
                    self.state = FAILED
                    raise
        log = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        with self.lock:
            if self.state == RUNNING:
                self.state, self.model = (LEARNT, model) if model else (FAILED, None)
        if self.state != LEARNT:
            self.delete()
        if self.state == STOPPED:
            raise TeachingError("teach_stopped")
        if self.state == FAILED and (message := re.search(r"^error: (.+)$", log, re.MULTILINE)):
            raise TeachingError("teach_failed", reason=message[1])
        if self.state == FAILED:
            raise TeachingError("teach_killed", status=status)
        return self.model

    def stop(self):
        """End the trainer. One that has already ended keeps what it learned."""
        with self.lock:
            if self.state != RUNNING or self.process.poll() is not None:
                return
            self.state = STOPPED
        self.process.terminate()
        try:
            self.process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def delete(self):
        """Delete the copy and the trainer's output."""
        self.model = None
        shutil.rmtree(self.folder, ignore_errors=True)
        self.log.unlink(missing_ok=True)


class Teacher:
    """Trains copies of the served captioner, one at a time, and keeps, serves or throws away each visitor's copy.

    Copies live in a temporary folder, which `close` deletes. The captioner that the page began with is never changed.

    Args:
        source: folder or Hub name of the captioner that the page begins with.
        corrections: the folder of corrections.
        command: the trainer's command line, as a function of the source, the corrections, the output folder and the
            number of steps.
        trust_proxies: also accept requests that a proxy has forwarded, i.e. that may come from another machine.
    """

    def __init__(self, source, corrections, command, trust_proxies=False):
        self.original, self.corrections, self.command = source, Path(corrections), command
        self.trust_proxies = trust_proxies
        self.folder = Path(tempfile.mkdtemp(prefix="captioner-teaching-"))
        self.lock = threading.RLock()
        self.trainings = []  # at most one of each visitor, besides the one that answers
        self.served = None  # the training whose copy answers now; None: the captioner that the page began with
        self.count = 0

    def captions(self):
        """The corrected captions and their photos: [(path, caption)], the latest last."""
        return [(self.corrections / row["file_name"], row["captions"][0]) for row in read_corrections(self.corrections)]

    def start(self, owner):
        """Start a training for the session `owner`. Returns it.

        The owner's earlier copy is thrown away unless it is being served. Raises `TeachingError` if a training is
        running or nothing was corrected.
        """
        with self.lock:
            if any(training.state == RUNNING for training in self.trainings):
                raise TeachingError("teach_busy")
            if not self.captions():
                raise TeachingError("teach_none")
            for training in self._of(owner):
                self._throw_away(training)
            self.count += 1
            folder = self.folder / f"copy-{self.count}"
            source = self.served.folder if self.served else self.original
            command = self.command(source, self.corrections, folder, STEPS)
            self.trainings.append(Training(owner, folder, command, self.lock))
            return self.trainings[-1]

    def training(self, owner):
        """The training that the session may decide about: its latest, or the one without owner whose copy answers."""
        with self.lock:
            own = self._of(owner) + self._of(None)
            return next((training for training in own if training.state in (RUNNING, LEARNT)), None)

    def keep(self, training):
        """Save the copy beside the folder of corrections. Returns its folder. Raises `OSError` if the disk is full."""
        if training.kept is None:
            corrections = self.corrections.resolve()
            parent = corrections.with_name(f"{corrections.name}-taught")
            parent.mkdir(exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=time.strftime("%Y-%m-%d-%H%M%S-"), dir=parent))
            try:
                shutil.copytree(training.folder, folder, dirs_exist_ok=True)
            except OSError:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            training.kept = folder
        return training.kept

    def serve(self, training):
        """Return the copy's model, which the page answers with from now on."""
        with self.lock:
            before, self.served = self.served, training
            if before not in (None, training) and before.owner is None:
                self._throw_away(before)
            return training.model

    def discard(self, training):
        """Throw the copy away. Returns whether it was being served, so that the first captioner has to answer again."""
        with self.lock:
            was_served = training is self.served
            if was_served:
                self.served = None
            self._throw_away(training)
            return was_served

    def leave(self, owner):
        """End the training of a session that has closed its page, and throw its copy away unless it is served."""
        for training in self._of(owner):
            training.stop()
            with self.lock:
                training.owner = None
                self._throw_away(training)

    def close(self):
        """End the training and delete the copies that were not kept."""
        for training in self.trainings:
            training.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _of(self, owner):
        """The owner's trainings, the latest first."""
        return [training for training in reversed(self.trainings) if training.owner == owner]

    def _throw_away(self, training):
        """Delete the copy unless it is being served."""
        if training is self.served:
            return
        training.state = STOPPED
        training.delete()
        self.trainings = [other for other in self.trainings if other is not training]


def read_losses(history):
    """The losses in the trainer's history.jsonl, which may not exist yet."""
    try:
        rows = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []
    return [row["loss"] for row in rows if "loss" in row]


def unknown_words(tokenizer, captions):
    """The words of the captions that are not in the vocabulary, which the captioner cannot learn to say."""
    words = {}  # in order, each once
    for caption in captions:
        encoded = tokenizer(caption, return_offsets_mapping=True, add_special_tokens=False)
        for token, (start, end) in zip(encoded.input_ids, encoded.offset_mapping, strict=True):
            if token == tokenizer.unk_token_id:
                words[caption[start:end].lower()] = None
    return list(words)
