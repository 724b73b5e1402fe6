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

STEPS = 40
POLL_SECONDS = 0.3
SECONDS_TO_STOP = 5


class TeachingError(ValueError):
    """A training cannot begin or has failed. `key` is the text that says why, `values` are its values."""

    def __init__(self, key, **values):
        super().__init__(key)
        self.key, self.values = key, values


class Teacher:
    """Trains a copy of the served captioner, one training at a time, and keeps, serves or throws away the copy.

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
        self.lock = threading.Lock()
        self.served, self.served_model = source, None  # what answers now, and what the next copy is made of
        self.copy = self.model = self.kept = None  # the copy to decide about, once it has learned
        self.process = self.owner = None  # the training, and the session that started it
        self.count, self.stopped = 0, False

    @property
    def running(self):
        return self.process is not None and self.process.poll() is None

    def captions(self):
        """The corrected captions and their photos: [(path, caption)], the latest last."""
        try:
            lines = (self.corrections / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        rows = map(json.loads, lines)
        return [(self.corrections / row["file_name"], caption) for row in rows for caption in row["captions"]]

    def start(self, owner):
        """Start a training for the session `owner`. Raises `TeachingError` if one is running or nothing was corrected.

        An earlier copy is thrown away unless it is being served.
        """
        with self.lock:
            if self.running:
                raise TeachingError("teach_busy")
            if not self.captions():
                raise TeachingError("teach_none")
            self._delete_copy()
            self.count, self.stopped, self.owner = self.count + 1, False, owner
            self.copy, self.model = self.folder / f"copy-{self.count}", None
            command = self.command(self.served, self.corrections, self.copy, STEPS)
            # Half of the cores: visitors' photos are captioned meanwhile.
            environment = os.environ | {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 2))}
            with (self.folder / "log.txt").open("wb") as log:
                self.process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
                )

    def progress(self):
        """Yield the losses of the steps so far, whenever there are more of them, until the training ends."""
        losses, history = [], self.copy / "history.jsonl"
        while self.running:
            time.sleep(POLL_SECONDS)
            if len(latest := read_losses(history)) > len(losses):
                losses = latest
                yield losses

    def finish(self):
        """Load the copy after a training. Returns the model. Raises `TeachingError` if the training failed."""
        if self.process.wait() == 0 and not self.stopped:
            for name in ("checkpoints", "features"):
                shutil.rmtree(self.copy / name, ignore_errors=True)
            self.model, _ = load_captioner(str(self.copy), None, "float32")
            return self.model
        status, log = self.process.returncode, (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace")
        self._delete_copy()
        if self.stopped:
            raise TeachingError("teach_stopped")
        if message := re.search(r"^error: (.+)$", log, re.MULTILINE):
            raise TeachingError("teach_failed", reason=message[1])
        raise TeachingError("teach_killed", status=status)

    def stop(self):
        """End the training that is running, if any."""
        self.stopped = True
        if self.running:
            self.process.terminate()
            try:
                self.process.wait(SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def keep(self):
        """Save the copy beside the folder of corrections. Returns its folder. Raises `OSError` if the disk is full."""
        if self.kept is None:
            corrections = self.corrections.resolve()
            parent = corrections.with_name(f"{corrections.name}-taught")
            parent.mkdir(exist_ok=True)
            folder = parent / time.strftime("%Y-%m-%d-%H%M%S")
            folder.mkdir()
            try:
                shutil.copytree(self.copy, folder, dirs_exist_ok=True)
            except OSError:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            self.kept = folder
        return self.kept

    def serve(self):
        """Return the copy's model, which the page answers with from now on."""
        before, self.served, self.served_model = self.served, self.copy, self.model
        if before not in (self.original, self.copy):
            shutil.rmtree(before, ignore_errors=True)
        return self.model

    def discard(self):
        """Throw the copy away. Returns whether it was being served, so that the first captioner has to answer again."""
        was_served = self.copy == self.served
        if was_served:
            self.served, self.served_model = self.original, None
        self._delete_copy()
        return was_served

    def leave(self, owner):
        """End the training of a session that has closed its page, and throw its copy away unless it is served."""
        if owner == self.owner:
            self.stop()
            self._delete_copy()
            self.owner = None

    def close(self):
        """End the training and delete the copies that were not kept."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _delete_copy(self):
        """Delete the copy unless it is served; what can be decided about then is the copy that is served, if any."""
        if self.copy and self.copy != self.served:
            shutil.rmtree(self.copy, ignore_errors=True)
        is_copy = self.served != self.original
        self.copy, self.model, self.kept = (self.served, self.served_model, None) if is_copy else (None, None, None)


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
