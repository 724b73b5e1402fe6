"""Alternative runtimes for the same weights: speed, startup time, file size and CIDEr-D.

    python -m benchmarks.runtimes FLICKR8K --photos 300

Only the encoder, which takes most of the time, runs in the alternative runtime; all runtimes run in one process, in
turns. int8 is static quantization by onnxruntime, calibrated on 32 photos of the training split. Runtimes whose package
is not installed (onnxruntime, openvino) are skipped.
"""

import argparse
import contextlib
import copy
import importlib.util
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from captioning.torch_captioner import generate_captions
from modeling_captioner import CaptionerForConditionalGeneration, CaptionerProcessor
from train.data import captioned_dataset, photo_of, sources
from train.metrics import caption_metrics
from train.settings import Settings

FOLDER = Path(__file__).parents[1] / "modeling_captioner"


class Runner(torch.nn.Module):
    """Replaces the encoder's backbone by a function `run` from array to array."""

    def __init__(self, run):
        super().__init__()
        self.run = run

    def forward_features(self, pixel_values):
        return torch.from_numpy(self.run(pixel_values.contiguous().numpy()))


class FeatureExtractor(torch.nn.Module):
    """The exported module: photos to the last feature map of the backbone."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, pixel_values):
        return self.backbone.forward_features(pixel_values)


def eager(model, path, calibration):
    return model, FOLDER / "model.safetensors"


def bfloat16(model, path, calibration):
    return model.to(torch.bfloat16), FOLDER / "model.safetensors"


def compiled(model, path, calibration):
    model.encoder.backbone.forward_features = torch.compile(model.encoder.backbone.forward_features, dynamic=False)
    return model, FOLDER / "model.safetensors"


def export_encoder(model, path):
    file = path / "encoder.onnx"
    if not file.exists():
        with contextlib.redirect_stdout(sys.stderr):
            torch.onnx.export(
                FeatureExtractor(copy.deepcopy(model.encoder.backbone)).eval(),
                (torch.zeros(2, 3, model.config.image_size, model.config.image_size),),
                file,
                input_names=["pixel_values"],
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                external_data=False,
                dynamo=True,
            )
    return file


def load_session(file):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda pixel_values: session.run(None, {"pixel_values": pixel_values})[0]


def onnx(model, path, calibration):
    file = export_encoder(model, path)
    model.encoder.backbone = Runner(load_session(file))
    return model, file


def int8(model, path, calibration):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Photos(CalibrationDataReader):
        rows = iter([{"pixel_values": part.numpy()} for part in calibration.split(4)])

        def get_next(self):
            return next(self.rows, None)

    file = path / "int8.onnx"
    if not file.exists():
        quant_pre_process(export_encoder(model, path), path / "clean.onnx", skip_symbolic_shape=True)
        quantize_static(path / "clean.onnx", file, Photos(), quant_format=QuantFormat.QDQ, per_channel=True)
    model.encoder.backbone = Runner(load_session(file))
    return model, file


def openvino(model, path, calibration):
    import openvino

    file = export_encoder(model, path)
    compiled_model = openvino.Core().compile_model(str(file), "CPU", {"INFERENCE_NUM_THREADS": torch.get_num_threads()})
    model.encoder.backbone = Runner(lambda pixel_values: compiled_model([pixel_values])[0].copy())
    return model, file


RUNTIMES = {
    "PyTorch, float32": (eager, "torch"),
    "PyTorch, bfloat16": (bfloat16, "torch"),
    "torch.compile, float32": (compiled, "torch"),
    "onnxruntime, float32": (onnx, "onnxruntime"),
    "onnxruntime, int8": (int8, "onnxruntime"),
    "OpenVINO, its own precision": (openvino, "openvino"),
}


def preprocess(processor, rows):
    return processor(images=[photo_of(row) for row in rows], return_tensors="pt").pixel_values


def start_runtime(setup, path, calibration):
    """Returns the captioner in this runtime, its weight file, and the seconds from loading the files to the first
    caption, without the one-time export and quantization."""
    model = CaptionerForConditionalGeneration.from_pretrained(FOLDER).eval()
    setup(model, path, calibration)  # writes the files
    torch.compiler.reset()
    start = time.perf_counter()
    model, file = setup(CaptionerForConditionalGeneration.from_pretrained(FOLDER).eval(), path, calibration)
    model.generate(calibration[:1].to(model.dtype))
    return model, file, time.perf_counter() - start


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir")
    parser.add_argument("--photos", type=int, default=300)
    parser.add_argument("--runtimes", nargs="+", default=list(RUNTIMES), choices=list(RUNTIMES), metavar="RUNTIME")
    options = parser.parse_args()
    settings = Settings(data_dir=[options.data_dir], max_train_samples=32, max_eval_samples=options.photos)
    sets = captioned_dataset(sources(settings)[0], settings)
    processor = CaptionerProcessor.from_pretrained(FOLDER)
    calibration, photos = preprocess(processor, sets["train"]), preprocess(processor, sets["validation"])
    with tempfile.TemporaryDirectory() as folder:
        loaded = {}
        for name in options.runtimes:
            setup, package = RUNTIMES[name]
            if importlib.util.find_spec(package):
                loaded[name] = start_runtime(setup, Path(folder), calibration)
        one, many, captions = ({name: [] for name in loaded} for _ in range(3))
        for part in photos.split(32):
            for name, (model, _, _) in loaded.items():
                start = time.perf_counter()
                captions[name] += generate_captions(model, processor, part, {})[0]
                many[name].append(len(part) / (time.perf_counter() - start))
                start = time.perf_counter()
                model.generate(part[:1].to(model.dtype))
                one[name].append(time.perf_counter() - start)
        print("| runtime | one photo, s | photos/s | startup, s | file, MB | CIDEr-D |\n|---|---|---|---|---|---|")
        for name, (_, file, start) in loaded.items():
            quality = caption_metrics(sets["validation"]["captions"][:], captions[name])["CIDEr-D"]
            print(
                f"| {name} | {statistics.median(one[name]):.3f} | {statistics.median(many[name]):.1f} | {start:.1f}"
                f" | {os.path.getsize(file) / 1e6:.0f} | {quality:.3f} |"
            )


if __name__ == "__main__":
    main()
