"""Photos that visitors bring at the same time are captioned together: `Batcher`."""

import queue
import threading
from concurrent.futures import Future

import gradio as gr
from accelerate.utils.memory import should_reduce_batch_size

from modeling_captioner import explain_photos

MOST_TOGETHER = 8  # photos in one forward pass


class Batcher:
    """Explains photos, those that wait with equal settings in one forward pass.

    Nothing waits for company: whatever has come while the model was busy goes next. What fails together is tried one
    by one, so that it fails alone.
    """

    def __init__(self, model, processor):
        self.model, self.processor = model, processor
        self.waiting = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def explain(self, photo, **settings):
        """An `Explanation` of the photo; `settings` are `explain`'s."""
        answer = Future()
        self.waiting.put((photo, settings, answer))
        return answer.result()

    def _work(self):
        while True:
            requests = [self.waiting.get()]
            while not self.waiting.empty() and len(requests) < MOST_TOGETHER:
                requests.append(self.waiting.get())
            groups = {}
            for request in requests:
                groups.setdefault(repr(sorted(request[1].items())), []).append(request)
            for group in groups.values():
                self._answer(group)

    def _answer(self, group):
        photos, settings, answers = zip(*group, strict=True)
        try:
            explanations = explain_photos(self.model, self.processor, list(photos), **settings[0])
        except Exception as error:
            if len(group) == 1:
                answers[0].set_exception(no_memory() if should_reduce_batch_size(error) else error)
            else:
                for request in group:
                    self._answer([request])
            return
        for answer, explanation in zip(answers, explanations, strict=True):
            answer.set_result(explanation)


def no_memory():
    return gr.Error("There is not enough memory for your photo just now; try again in a minute.")
