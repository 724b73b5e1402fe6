"""Captioning with onnxruntime on the CPU, without PyTorch: `OnnxCaptioner`."""

import functools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import tokenizers
from PIL import Image

from .checks import check_generation
from .confidence import confidence_of
from .cores import thread_count
from .explanation import Explanation, Word, split_at
from .languages import check_language
from .onnx_files import find_onnx
from .onnx_search import check_settings, largest, log_softmax, search
from .photos import to_pixel_values

MAX_BATCH_SIZE = 256  # photos; two batches of pixels are held in memory


class OnnxCaptioner:
    """A captioner's ONNX export, which captions photos and explains the captions.

    Args:
        folder: the captioner's folder, or a download of its JSON files and its subfolder `onnx`.
        generation: settings that override those in generation_config.json, of `onnx_search.SUPPORTED`.

    Raises `ValueError` if there is no export of the captioner's weights, or if it does not load.
    """

    def __init__(self, folder: str | Path, **generation: Any) -> None:
        files = find_onnx(folder)
        if files is None:
            raise ValueError(
                f"{folder} has no ONNX export; to make one, run python -m publishing.export --onnx --model {folder}"
                " --photos PHOTOS."
            )
        try:
            config = _read_json(folder, "config.json")
            self.image_size, self.languages = config["image_size"], config.get("languages")
            self.confidence = config.get("confidence")
            defaults = {name: config.get(name) for name in ("decoder_start_token_id", "eos_token_id")}
            settings = defaults | _read_json(folder, "generation_config.json")
            self.settings = _settings(settings, self.languages, generation)
            self.image_settings = _read_json(folder, "processor_config.json")["image_processor"]
            self.tokenizer = tokenizers.Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
            self.threads = thread_count()
            self.encoder, self.decoder = _load_session(files[0], self.threads), _load_session(files[1], 1)
        except Exception as error:  # tokenizers and onnxruntime raise classes of their own
            raise ValueError(f"{folder} is damaged ({error}); export it again.") from error
        for settings in self.settings.values():
            check_settings(settings)
        if not self.image_settings["image_processor_type"].startswith("ViTImageProcessor"):
            raise ValueError(f"{folder} has an image processor of another kind, which only --engine torch supports.")
        self.tokenizer.no_truncation()
        self.tokenizer.encode_special_tokens = True  # "<end>" in a text is a word like any other
        self.state_names = [given.name for given in self.decoder.get_inputs()[2:]]
        self.batch_size = min(16 * self.threads, MAX_BATCH_SIZE)

    def preprocess(self, photo: Image.Image) -> np.ndarray:
        """The pixel values of an RGB `PIL.Image.Image`, (1, 3, size, size), float32."""
        return to_pixel_values(photo, **self.image_settings)[None]

    def caption(
        self, photos: list[np.ndarray], *, language: str | None = None
    ) -> list[tuple[str, float, float | None]]:
        """Caption photos, given as a list of pixel values.

        Returns triples of caption, natural log-probability and confidence (see `confidence_of`; None if the captioner
        is not calibrated). `language`: one of `languages`; by default the first. Raises `ValueError` for any other.
        """
        language = check_language(language, self.languages)
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(functools.partial(self._caption_photo, language), photos))

    def _caption_photo(self, language, pixel_values):
        regions, states = self._encode(pixel_values)
        settings = self.settings[language]
        (ids, scores), *_ = self._search(regions, states, self._prompt("", settings), settings)
        return self._decode(ids), sum(scores), confidence_of(scores, self.confidence, language)

    def explain(
        self,
        photo: Image.Image,
        *,
        text: str = "",
        language: str | None = None,
        alternatives: int = 5,
        **generation: Any,
    ) -> Explanation:
        """Caption a photo and explain the caption.

        Args:
            photo: an RGB `PIL.Image.Image`.
            text: the words that the caption starts with, which stay as written.
            language: one of `languages`; by default the first.
            alternatives: number of most likely words to return for each position.
            generation: settings that override the captioner's.

        Returns an [`Explanation`] with all beams. Raises `ValueError` for an unknown language, or for settings that
        make no sense or that `search` lacks.
        """
        language = check_language(language, self.languages)
        settings = self.settings[language] | generation
        check_generation(settings)
        check_settings(settings)
        regions, states = self._encode(self.preprocess(photo))
        prompt = self._prompt(text, settings)
        found = self._search(regions, states, prompt, settings)
        scored = [self._score(regions, states, [*prompt, *ids]) for ids, _ in found]
        beams = [
            (f"{text.strip()} {self._decode(ids)}".strip(), sum(_of_words(scores, [*prompt, *ids])))
            for (ids, _), (scores, _) in zip(found, scored, strict=True)
        ]
        ids = [*prompt, *found[0][0]]
        log_probabilities, maps = scored[0]
        return self._explain(ids, log_probabilities, maps, text, language, alternatives, beams)

    def explain_photos(self, photos: list[Image.Image], **settings: Any) -> list[Explanation]:
        """Caption and explain photos side by side; see `explain`."""
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(functools.partial(self.explain, **settings), photos))

    @property
    def defaults(self) -> dict[str, Any]:
        """The generation settings of the default language."""
        return next(iter(self.settings.values()))

    def explain_caption(
        self, photo: Image.Image, caption: str, *, language: str | None = None, alternatives: int = 5
    ) -> Explanation:
        """Explain a given caption as if the model had generated it; see `modeling_captioner.explain_caption`."""
        language = check_language(language, self.languages)
        settings = self.settings[language]
        ids = [*self._prompt(caption, settings), *_ends(settings)[:1]]
        regions, states = self._encode(self.preprocess(photo))
        log_probabilities, maps = self._score(regions, states, ids)
        return self._explain(ids, log_probabilities, maps, caption, language, alternatives, [])

    def _explain(self, ids, log_probabilities, maps, text, language, alternatives, beams):
        """Explain a caption, `ids` with its first token, that starts with `text`; without beams, it is that text."""
        words = self._words(ids, log_probabilities, maps, text, self.settings[language], alternatives)
        caption = beams[0][0] if beams else " ".join(word.text for word in words)
        scores = _of_words(log_probabilities, ids)
        return Explanation(
            caption, sum(scores), words, beams, language, confidence_of(scores, self.confidence, language)
        )

    def _words(self, ids, log_probabilities, maps, text, settings, alternatives):
        """The words of a caption that starts with `text`."""
        words = split_at(text, self.tokenizer.encode(text, add_special_tokens=False).offsets)
        words += [self._word(word) for word in ids[1 + len(words) :]]
        return [
            Word(words[place], float(np.exp(scores[word])), maps[place], self._most_likely(scores, alternatives))
            for place, (scores, word) in enumerate(zip(log_probabilities, ids[1:], strict=True))
            if word not in _ends(settings)
        ]

    def _encode(self, pixel_values):
        """The regions (1, regions, hidden) and the initial states of the RNNs."""
        regions, *states = self.encoder.run(None, {"pixel_values": pixel_values})
        return regions, states

    def _prompt(self, text, settings):
        """The ids that a caption begins with: the first token, which says the language, and the words of `text`."""
        return [settings["decoder_start_token_id"], *self.tokenizer.encode(text, add_special_tokens=False).ids]

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

    def _search(self, regions, states, prompt, settings):
        def step(words, states):
            logits, _, states = self._step(regions, words, states)
            return logits[:, 0], states

        return search(step, states, prompt, settings)

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


def _of_words(log_probabilities, ids):
    """The log-probability of each word of `ids`, and of its end."""
    return log_probabilities[np.arange(len(ids) - 1), ids[1:]].tolist()


def _settings(settings, languages, generation):
    """{language: settings}, with the key None for a captioner of one language."""
    of_languages = settings.pop("languages", {})
    return {language: settings | of_languages.get(language, {}) | generation for language in languages or [None]}


def _ends(settings):
    return np.atleast_1d(settings["eos_token_id"]).tolist()


def _load_session(file, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _read_json(folder, name):
    return json.loads(Path(folder, name).read_text(encoding="utf-8"))
