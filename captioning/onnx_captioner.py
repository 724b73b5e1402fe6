"""Captioning with onnxruntime on the CPU, without PyTorch: `OnnxCaptioner`."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import tokenizers

from modeling_captioner.explanation import Explanation, Word, split_at
from modeling_captioner.photos import to_pixel_values

from .cores import thread_count
from .onnx_files import find_onnx
from .search import check_settings, largest, log_softmax, search

MAX_BATCH_SIZE = 256  # photos; two batches of pixels are held in memory


class OnnxCaptioner:
    """A captioner's ONNX export. It has the methods of `TorchCaptioner`.

    Args:
        folder: the captioner's folder, or a download of its JSON files and its subfolder `onnx`.
        generation: settings that override those in generation_config.json; see `captioning.search.SUPPORTED`.

    Raises `ValueError` if there is no export of the captioner's weights, or if it does not load.
    """

    def __init__(self, folder, **generation):
        files = find_onnx(folder)
        if files is None:
            raise ValueError(
                f"{folder} has no ONNX export; to make one, run python -m publishing.export --onnx --model {folder}"
                " --photos PHOTOS."
            )
        try:
            self.settings = _read_json(folder, "generation_config.json") | generation
            self.image_settings = _read_json(folder, "processor_config.json")["image_processor"]
            self.image_size = _read_json(folder, "config.json")["image_size"]
            self.tokenizer = tokenizers.Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
            self.encoder, self.decoder = map(_load_session, files)
        except Exception as error:  # tokenizers and onnxruntime raise classes of their own
            raise ValueError(f"{folder} is damaged ({error}); export it again.") from error
        check_settings(self.settings)
        if not self.image_settings["image_processor_type"].startswith("ViTImageProcessor"):
            raise ValueError(f"{folder} has an image processor of another kind, which only --engine torch supports.")
        self.ends = np.atleast_1d(self.settings["eos_token_id"]).tolist()
        self.threads = thread_count()
        self.tokenizer.no_truncation()
        self.tokenizer.encode_special_tokens = True  # "<end>" in a text is a word like any other
        self.state_names = [given.name for given in self.decoder.get_inputs()[2:]]
        self.batch_size = min(16 * self.threads, MAX_BATCH_SIZE)

    def preprocess(self, photo):
        """The pixel values of an RGB `PIL.Image.Image`, (1, 3, size, size), float32."""
        return to_pixel_values(photo, **self.image_settings)[None]

    def caption(self, photos):
        """Caption photos, given as a list of pixel values. Returns pairs of caption and natural log-probability."""
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(self._caption_photo, photos))

    def _caption_photo(self, pixel_values):
        regions, states = self._encode(pixel_values)
        (ids, log_probability), *_ = self._search(regions, states, self._prompt(""))
        return self._decode(ids), log_probability

    def explain(self, photo, *, text="", alternatives=5):
        """Caption a photo and explain the caption.

        Args:
            photo: an RGB `PIL.Image.Image`.
            text: the words that the caption starts with, which stay as written.
            alternatives: number of most likely words to return for each position.

        Returns an [`Explanation`] with all beams.
        """
        regions, states = self._encode(self.preprocess(photo))
        prompt = self._prompt(text)
        found = self._search(regions, states, prompt)
        scored = [self._score(regions, states, [*prompt, *ids]) for ids, _ in found]
        beams = [
            (f"{text.strip()} {self._decode(ids)}".strip(), _total(scores, [*prompt, *ids]))
            for (ids, _), (scores, _) in zip(found, scored, strict=True)
        ]
        ids, (log_probabilities, maps) = [*prompt, *found[0][0]], scored[0]
        words = split_at(text, self.tokenizer.encode(text, add_special_tokens=False).offsets)
        words += [self._word(word) for word in ids[1 + len(words) :]]
        explained = [
            Word(words[place], float(np.exp(scores[word])), maps[place], self._most_likely(scores, alternatives))
            for place, (scores, word) in enumerate(zip(log_probabilities, ids[1:], strict=True))
            if word not in self.ends
        ]
        return Explanation(*beams[0], explained, beams)

    def _encode(self, pixel_values):
        """The regions (1, regions, hidden) and the initial states of the RNNs."""
        regions, *states = self.encoder.run(None, {"pixel_values": pixel_values})
        return regions, states

    def _prompt(self, text):
        return self.tokenizer.encode(text).ids  # with <start>

    def _decode(self, ids):
        return self.tokenizer.decode(ids)

    def _word(self, word):
        return self.tokenizer.decode([word], skip_special_tokens=False)

    def _step(self, regions, words, states):
        """Logits (beams, 1, vocabulary), attention (beams, heads, 1, regions) and new states after one word each."""
        regions = np.broadcast_to(regions, (len(words), *regions.shape[1:]))
        inputs = {"input_ids": words[:, None], "encoder_hidden_states": regions}
        logits, attention, *states = self.decoder.run(None, inputs | dict(zip(self.state_names, states, strict=True)))
        return logits, attention, states

    def _search(self, regions, states, prompt):
        def step(words, states):
            logits, _, states = self._step(regions, words, states)
            return logits[:, 0], states

        return search(step, states, prompt, self.settings)

    def _score(self, regions, states, ids):
        """The log-probabilities (words, vocabulary) and maps (words, rows, columns) of a caption with `<start>`."""
        logits, attentions = [], []
        for word in ids[:-1]:
            scores, attention, states = self._step(regions, np.array([word]), states)
            logits.append(scores[0, 0])
            attentions.append(attention[0, :, 0].mean(axis=0))
        side = round(len(attentions[0]) ** 0.5)  # the input is square
        return log_softmax(np.array(logits)), np.array(attentions).reshape(-1, side, side)

    def _most_likely(self, log_probabilities, count):
        best = largest(log_probabilities, count).tolist()
        return [(self._word(word), float(np.exp(log_probabilities[word]))) for word in best]


def _total(log_probabilities, ids):
    return float(log_probabilities[np.arange(len(ids) - 1), ids[1:]].sum())


def _load_session(file):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # photos side by side take half of the time of each photo on all cores
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _read_json(folder, name):
    return json.loads(Path(folder, name).read_text(encoding="utf-8"))
