"""Dynamic batching: photos that visitors upload at the same time are captioned together."""

import functools
import queue
import threading
from concurrent.futures import Future

import gradio as gr

MAX_BATCH_SIZE = 8


class Batcher:
    """Explains photos, batching the waiting requests that have the same settings.

    Requests never wait for a batch to fill: whatever arrives while the model is busy is processed next. If a batch
    fails, its photos are retried one at a time, so that only the faulty one fails.

    Args:
        engine: see `captioning.engine`. What onnxruntime lacks (sampling, copies that were taught, results within the
            model), PyTorch does, which is loaded when it is first needed.
        name: the captioner's folder or name on the Hub.
    """

    def __init__(self, engine, name):
        self.engine, self.name, self.taught = engine, name, None
        self.languages = engine.languages  # None for a captioner of one
        self.requests = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    @functools.cached_property
    def torch(self):
        """The captioner in PyTorch."""
        from captioning.torch_captioner import TorchCaptioner

        return self.engine if isinstance(self.engine, TorchCaptioner) else TorchCaptioner(self.name, "cpu")

    @property
    def model(self):
        """The PyTorch model that answers: a copy that was `taught`, or the captioner's own."""
        return self.taught or self.torch.model

    @property
    def processor(self):
        return self.torch.processor

    def explain(self, photo, **settings):
        """Return the photo's `Explanation`. `settings` are those of `modeling_captioner.explain`."""
        future = Future()
        self.requests.put((photo, settings, future))
        return future.result()

    def explain_caption(self, photo, caption, **settings):
        """The `Explanation` of a given caption; see `modeling_captioner.explain_caption`."""
        if self.taught:
            from modeling_captioner import explain_caption

            return explain_caption(self.taught, self.processor, photo, caption, **settings)
        return self.engine.explain_caption(photo, caption, **settings)

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
            explanations = self._explain_photos(list(photos), settings[0])
        except Exception as error:
            from accelerate.utils.memory import should_reduce_batch_size  # imports PyTorch

            if len(batch) == 1:
                futures[0].set_exception(out_of_memory() if should_reduce_batch_size(error) else error)
            else:
                for request in batch:
                    self._process([request])
            return
        for future, explanation in zip(futures, explanations, strict=True):
            future.set_result(explanation)

    def _explain_photos(self, photos, settings):
        if not self.taught and not settings.get("do_sample"):
            return self.engine.explain_photos(photos, **settings)
        from modeling_captioner import explain_photos

        return explain_photos(self.model, self.processor, photos, **settings)


def out_of_memory():
    return gr.Error("There is not enough memory to caption your photo right now; try again in a minute.")
