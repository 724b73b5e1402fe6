"""Other ways to run the same weights: what each wins in speed, and what it costs in start-up, size and CIDEr-D.

    python benchmarks/runtimes.py ../shared/data/flickr8k --photos 300

Only the encoder is run in another way, because it takes most of the time; all of them in one process, in turns. int8 is
static quantisation of convolutions by onnxruntime, calibrated on 32 photos of the training split. Rows whose package is
not installed (onnxruntime, openvino) are left out.
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

sys.path.insert(0, str(Path(__file__).parents[1]))

from captioning.pipeline import captions_of
from modeling_captioner import CaptionerForConditionalGeneration, CaptionerProcessor
from train.data import captioned_dataset, photo_of
from train.metrics import caption_metrics
from train.settings import Settings

FOLDER = Path(__file__).parents[1] / "modeling_captioner"


class Runner(torch.nn.Module):
    """The encoder's network run elsewhere: `run` takes and gives arrays."""

    def __init__(self, run):
        super().__init__()
        self.run = run

    def forward_features(self, pixel_values):
        return torch.from_numpy(self.run(pixel_values.contiguous().numpy()))


class Network(torch.nn.Module):
    """What is exported: from photos to the network's last feature map."""

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


def exported(model, path):
    file = path / "encoder.onnx"
    if not file.exists():
        with contextlib.redirect_stdout(sys.stderr):
            torch.onnx.export(
                Network(copy.deepcopy(model.encoder.backbone)).eval(),
                (torch.zeros(2, 3, model.config.image_size, model.config.image_size),),
                file,
                input_names=["pixel_values"],
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                external_data=False,
                dynamo=True,
            )
    return file


def session(file):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    running = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda pixel_values: running.run(None, {"pixel_values": pixel_values})[0]


def onnx(model, path, calibration):
    file = exported(model, path)
    model.encoder.backbone = Runner(session(file))
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
        quant_pre_process(exported(model, path), path / "clean.onnx", skip_symbolic_shape=True)
        quantize_static(path / "clean.onnx", file, Photos(), quant_format=QuantFormat.QDQ, per_channel=True)
    model.encoder.backbone = Runner(session(file))
    return model, file


def openvino(model, path, calibration):
    import openvino

    file = exported(model, path)
    running = openvino.Core().compile_model(str(file), "CPU", {"INFERENCE_NUM_THREADS": torch.get_num_threads()})
    model.encoder.backbone = Runner(lambda pixel_values: running([pixel_values])[0].copy())
    return model, file


WAYS = {
    "PyTorch, float32": (eager, "torch"),
    "PyTorch, bfloat16": (bfloat16, "torch"),
    "torch.compile, float32": (compiled, "torch"),
    "onnxruntime, float32": (onnx, "onnxruntime"),
    "onnxruntime, int8": (int8, "onnxruntime"),
    "OpenVINO, its own precision": (openvino, "openvino"),
}


def tensors(processor, rows):
    return processor(images=[photo_of(row) for row in rows], return_tensors="pt").pixel_values


def started(way, path, calibration):
    """The captioner run in this way, its file, and the seconds from the files to the first caption; the export and
    the quantisation, which are done once, apart."""
    model = CaptionerForConditionalGeneration.from_pretrained(FOLDER).eval()
    way(model, path, calibration)  # writes the files
    torch.compiler.reset()
    start = time.perf_counter()
    model, file = way(CaptionerForConditionalGeneration.from_pretrained(FOLDER).eval(), path, calibration)
    model.generate(calibration[:1].to(model.dtype))
    return model, file, time.perf_counter() - start


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir")
    parser.add_argument("--photos", type=int, default=300)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), metavar="WAY")
    options = parser.parse_args()
    sets = captioned_dataset(Settings(data_dir=options.data_dir, max_train_samples=32, max_eval_samples=options.photos))
    processor = CaptionerProcessor.from_pretrained(FOLDER)
    calibration, photos = tensors(processor, sets["train"]), tensors(processor, sets["validation"])
    with tempfile.TemporaryDirectory() as folder:
        ways = {}
        for name in options.ways:
            way, package = WAYS[name]
            if importlib.util.find_spec(package):
                ways[name] = started(way, Path(folder), calibration)
        one, many, captions = ({name: [] for name in ways} for _ in range(3))
        for part in photos.split(32):
            for name, (model, _, _) in ways.items():
                start = time.perf_counter()
                captions[name] += captions_of(model, processor, part, {})[0]
                many[name].append(len(part) / (time.perf_counter() - start))
                start = time.perf_counter()
                model.generate(part[:1].to(model.dtype))
                one[name].append(time.perf_counter() - start)
        print("| way | one photo, s | photos/s | start, s | file, MB | CIDEr-D |\n|---|---|---|---|---|---|")
        for name, (_, file, start) in ways.items():
            quality = caption_metrics(sets["validation"]["captions"][:], captions[name])["CIDEr-D"]
            print(
                f"| {name} | {statistics.median(one[name]):.3f} | {statistics.median(many[name]):.1f} | {start:.1f}"
                f" | {os.path.getsize(file) / 1e6:.0f} | {quality:.3f} |"
            )


if __name__ == "__main__":
    main()
