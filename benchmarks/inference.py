"""Latency of one caption on a CPU or GPU, compared with the encoder alone and with other captioners.

    python -m benchmarks.inference

All models run in turns in one process, on the same photo at their own input size, and generate the same number of
words. The other captioners have random weights, see other_captioners.py. Also reports how the time scales with beams,
words, vocabulary and batch size. Times are medians in seconds.
"""

import argparse
import functools
import statistics
import time
from pathlib import Path

import timm
import torch

from benchmarks.other_captioners import OTHERS
from modeling_captioner import CaptionerConfig, CaptionerForConditionalGeneration, CaptionerProcessor, open_photo
from modeling_captioner.onnx_captioner import OnnxCaptioner

ROOT = Path(__file__).parents[1]
WORDS = 12


def medians(tasks, runs, device):
    """{name: median seconds} of functions run in turns, after one warm-up run."""
    times = {name: [] for name in tasks}
    for run in range(runs + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if device != "cpu":
                torch.accelerator.synchronize()
            if run:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def fixed_length(words=WORDS, **options):
    return {"max_new_tokens": words, "min_new_tokens": words} | options


def encoder(pixel_values):
    """timm's unmodified Inception-v3, float32, channels last."""
    network = timm.create_model("inception_v3", num_classes=0).eval().to(pixel_values.device)
    network = network.to(memory_format=torch.channels_last)
    pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
    return lambda: network.forward_features(pixel_values)


def other_tasks(photo, options):
    """{name: function} that caption the photo with the other captioners."""
    tasks = {}
    for name in options.others:
        captioner = OTHERS[name]()
        captioner.model.eval().to(options.device)
        size = sum(parameter.numel() for parameter in captioner.model.parameters()) / 1e6
        beams = f"{captioner.beams} beams" if captioner.beams > 1 else "1 beam"
        tasks[f"{name}, {size:.0f} M, {beams}"] = functools.partial(captioner, photo, WORDS)
    return tasks


def latency(model, processor, photo, options):
    """Time from one decoded photo to its caption, for the captioner and the other models."""
    pixel_values = processor(images=photo, return_tensors="pt").pixel_values.to(options.device)

    def from_photo():
        inputs = processor(images=photo, return_tensors="pt").to(options.device)
        processor.batch_decode(model.generate(**inputs, num_beams=3, **fixed_length()), skip_special_tokens=True)

    tasks = {
        "encoder, unmodified timm": encoder(pixel_values),
        "encoder, as in the captioner": lambda: model.encoder.features(pixel_values),
        "captioner, 1 beam": lambda: model.generate(pixel_values, num_beams=1, **fixed_length()),
        "captioner, 3 beams": lambda: model.generate(pixel_values, num_beams=3, **fixed_length()),
        "captioner, 3 beams, with pre- and postprocessing": from_photo,
    } | onnx_tasks(photo, options)
    tasks |= other_tasks(photo, options)
    times = medians(tasks, options.runs, options.device)
    plain, ours = times["encoder, unmodified timm"], times["captioner, 3 beams"]
    print(f"\n{WORDS} words, one photo, medians of {options.runs} interleaved runs")
    for name, seconds in times.items():
        print(f"{seconds:8.3f} s  {seconds / plain:6.2f} x the encoder  {seconds / ours:6.1f} x the captioner  {name}")


def onnx_tasks(photo, options):
    """{name: function} that caption the photo with the shipped ONNX export, if it is there."""
    if options.device != "cpu" or not (ROOT / "modeling_captioner" / "onnx").exists():
        return {}
    engine = OnnxCaptioner(ROOT / "modeling_captioner", num_beams=3, **fixed_length())
    pixel_values = engine.preprocess(photo)
    return {
        "captioner, 3 beams, onnxruntime in int8": lambda: engine.caption([pixel_values]),
        "captioner, 3 beams, onnxruntime, with pre- and postprocessing": lambda: engine.caption(
            [engine.preprocess(photo)]
        ),
    }


def scaling(options, photos):
    """Time as a function of one parameter at a time, the others at their defaults."""
    small = photos[:1]
    models = {
        words: CaptionerForConditionalGeneration(CaptionerConfig(vocab_size=words)).eval().to(options.device)
        for words in (2500, 5000, 10000, 20000)
    }
    default = models[2500]
    groups = {
        "beams": {n: lambda n=n: default.generate(small, num_beams=n, **fixed_length()) for n in (1, 3, 5, 10)},
        "words": {n: lambda n=n: default.generate(small, num_beams=3, **fixed_length(n)) for n in (4, 8, 16, 32)},
        "vocabulary": {
            n: lambda model=model: model.generate(small, num_beams=3, **fixed_length()) for n, model in models.items()
        },
        "photos": {n: lambda n=n: default.generate(photos[:n], num_beams=3, **fixed_length()) for n in (1, 4, 16, 32)},
    }
    for name, tasks in groups.items():
        times = medians(tasks, max(3, options.runs // 2), options.device)
        print(f"{name:>10}: " + "  ".join(f"{count}: {seconds:.3f} s" for count, seconds in times.items()))


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", default=str(ROOT / "demo" / "examples" / "boats.jpg"))
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--others", nargs="*", default=list(OTHERS), choices=list(OTHERS), help="Other captioners.")
    options = parser.parse_args()
    print(describe(options.device))
    model = CaptionerForConditionalGeneration.from_pretrained(ROOT / "modeling_captioner").to(options.device)
    model.optimize_for_inference()
    processor = CaptionerProcessor.from_pretrained(ROOT / "modeling_captioner")
    photo = open_photo(options.photo)
    latency(model, processor, photo, options)
    print("\nOne photo, 3 beams, 12 words, vocabulary of 2,500, except for")
    scaling(options, processor(images=[photo] * 32, return_tensors="pt").pixel_values.to(options.device))


def describe(device):
    """Describe the machine in one line."""
    if device != "cpu":
        return f"{torch.cuda.get_device_name(device)}, PyTorch {torch.__version__}"
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'CPU'}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}"


if __name__ == "__main__":
    main()
