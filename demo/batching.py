"""Dynamic batching: photos that visitors upload at the same time share one forward pass."""

import queue
import threading
from concurrent.futures import Future

import gradio as gr
from accelerate.utils.memory import should_reduce_batch_size

from modeling_captioner import explain_photos

MAX_BATCH_SIZE = 8


class Batcher:
    """Explains photos, batching the waiting requests that have the same settings.

    Requests never wait for a batch to fill: whatever arrives while the model is busy is processed next. If a batch
    fails, its photos are retried one at a time, so that only the faulty one fails.
    """

    def __init__(self, model, processor):
        self.model, self.processor = model, processor
        self.languages = getattr(model.config, "languages", None)  # None for a captioner of one
        self.requests = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def explain(self, photo, **settings):
        """Return the photo's `Explanation`. `settings` are those of `modeling_captioner.explain`."""
        future = Future()
        self.requests.put((photo, settings, future))
        return future.result()

    def _run(self):
        while True:
            requests = [self.requests.get()]
            while not self.requests.empty() and len(requests) < MAX_BATCH_SIZE:
                requests.append(self.requests.get())
            batches = {}
            for request in requests:
                batches.setdefault(repr(sorted(request[1].items())), []).append(request)
            for batch in batches.values():
                self._process(batch)

    def _process(self, batch):
        photos, settings, futures = zip(*batch, strict=True)
        try:
            explanations = explain_photos(self.model, self.processor, list(photos), **settings[0])
        except Exception as error:
            if len(batch) == 1:
                futures[0].set_exception(out_of_memory() if should_reduce_batch_size(error) else error)
            else:
                for request in batch:
                    self._process([request])
            return
        for future, explanation in zip(futures, explanations, strict=True):
            future.set_result(explanation)


def out_of_memory():
    return gr.Error("There is not enough memory to caption your photo right now; try again in a minute.")
