"""Caption photos without PyTorch: `python examples/caption_onnx.py FOLDER PHOTO ...`, where FOLDER was written by
`python -m publishing.export --onnx FOLDER`."""

import json
import sys
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from PIL import Image, ImageOps
from tokenizers import Tokenizer


class Captioner:
    def __init__(self, folder):
        self.preprocessor = json.loads(Path(folder, "preprocessor_config.json").read_text())
        self.settings = json.loads(Path(folder, "generation_config.json").read_text())
        self.tokenizer = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
        self.encoder = InferenceSession(Path(folder, "onnx", "encoder_model.onnx"))
        self.decoder = InferenceSession(Path(folder, "onnx", "decoder_model_merged.onnx"))

    def pixels(self, photo):
        size = (self.preprocessor["size"]["width"], self.preprocessor["size"]["height"])
        photo = ImageOps.exif_transpose(photo).convert("RGB").resize(size, self.preprocessor["resample"])
        pixels = (
            np.asarray(photo) * self.preprocessor["rescale_factor"] - self.preprocessor["image_mean"]
        )  # (height, width, 3)
        return (
            (pixels / self.preprocessor["image_std"]).astype(np.float32).transpose(2, 0, 1)[None]
        )  # (1, 3, height, width)

    def caption(self, photo, beams=None):
        """Caption a `PIL.Image.Image` by beam search as in transformers; one beam is greedy search."""
        settings, end, max_length = (
            self.settings,
            self.settings["eos_token_id"],
            self.settings.get("max_new_tokens") or 20,
        )
        beams, ngram = beams or settings.get("num_beams") or 1, settings.get("no_repeat_ngram_size") or sys.maxsize
        names = [value.name for value in self.decoder.get_inputs()]
        regions, *states = self.encoder.run(None, {"pixel_values": self.pixels(photo)})
        running, finished = [(0.0, [settings["decoder_start_token_id"]])], []  # (log-probability, ids)
        for length in range(1, max_length + 1):
            inputs = [np.array([ids[-1:] for _, ids in running]), regions.repeat(len(running), axis=0), *states]
            logits, _, *states = self.decoder.run(None, dict(zip(names, inputs, strict=True)))
            totals = logits[:, 0] - np.log(np.exp(logits[:, 0]).sum(axis=1, keepdims=True))  # (beams, vocabulary)
            totals[:, settings.get("suppress_tokens") or []] = -np.inf
            for beam, (score, ids) in enumerate(running):
                tail, ngrams = ids[len(ids) - ngram + 1 :], range(len(ids) - ngram + 1)
                totals[beam, [ids[i + ngram - 1] for i in ngrams if ids[i : i + ngram - 1] == tail]] = -np.inf
                totals[beam] += score
            places = [divmod(place, totals.shape[1]) for place in totals.ravel().argsort()[::-1][: 2 * beams]]
            best = [(totals[beam, word], [*running[beam][1], int(word)], beam) for beam, word in places]
            penalty = length ** settings.get("length_penalty", 1.0)
            ended = [(score / penalty, ids) for score, ids, _ in best[:beams] if ids[-1] == end or length == max_length]
            finished = sorted(finished + ended, reverse=True)[:beams]
            best = [(score, ids, beam) for score, ids, beam in best if ids[-1] != end][:beams]
            if len(finished) == beams and (beams == 1 or best[0][0] / penalty <= finished[-1][0]):
                break
            running = [(score, ids) for score, ids, _ in best]
            states = [state[[beam for *_, beam in best]] for state in states]
        return self.tokenizer.decode(finished[0][1])


if __name__ == "__main__":
    captioner = Captioner(sys.argv[1])
    for file in sys.argv[2:]:
        print(f"{file}\t{captioner.caption(Image.open(file))}")
