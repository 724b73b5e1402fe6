"""Throughput and memory of `python caption.py FOLDER`, compared with the throughput of the encoder alone.

    python -m benchmarks.throughput
    python -m benchmarks.throughput --small 10000 --large 0
    python -m benchmarks.throughput --small 0 --large 0 --data_dir FLICKR8K

Runs the command on generated JPEG photos with sensor noise, 640 x 480 and 4000 x 3000 pixels. Rates are measured from
the first captions to the last and exclude startup. The encoder rate is that of timm's unmodified Inception-v3, float32,
channels last, on batches of 8 in memory, measured before and after each run. "model alone" is the rate of the captioner
on photos in memory; the difference is time spent waiting for photos. --data_dir also compares the captions of a
dataset's photos, enlarged, when decoded at reduced scale, at full scale, and with imperceptible noise.
"""

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import timm
import torch
from PIL import Image

from benchmarks.inference import describe
from captioning.torch_captioner import generate_per_core
from modeling_captioner import CaptionerForConditionalGeneration, CaptionerProcessor, open_photo
from train.data import captioned_dataset, photo_of, sources
from train.metrics import caption_metrics
from train.settings import Settings

ROOT = Path(__file__).parents[1]
DISTINCT = 12  # photos; further ones are links to them


def make_photos(folder, size, count):
    """Write `count` JPEG files from the examples, with noise, which makes up most of a camera file."""
    examples = sorted((ROOT / "demo" / "examples").glob("*.jpg"))
    noise = Image.effect_noise(size, 25).convert("RGB")
    for number in range(min(DISTINCT, count)):
        photo = Image.open(examples[number % len(examples)]).convert("RGB").resize(size, Image.Resampling.LANCZOS)
        if number >= len(examples):
            photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        Image.blend(photo, noise, 0.06).save(folder / f"{number:06}.jpg", quality=90)
    for number in range(DISTINCT, count):
        os.link(folder / f"{number % DISTINCT:06}.jpg", folder / f"{number:06}.jpg")


class Rates:
    """Photos per second of the encoder and of the captioner, on photos in memory."""

    def __init__(self, device, dtype):
        photos = [open_photo(path) for path in sorted((ROOT / "demo" / "examples").glob("*.jpg"))]
        folder = ROOT / "modeling_captioner"
        self.model = CaptionerForConditionalGeneration.from_pretrained(folder, dtype=getattr(torch, dtype)).to(device)
        self.processor = CaptionerProcessor.from_pretrained(folder)
        pixel_values = self.processor(images=(photos * 6)[:32], return_tensors="pt").pixel_values
        self.pixel_values = pixel_values.to(device)
        self.network = timm.create_model("inception_v3", num_classes=0).eval().to(device)
        self.network = self.network.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def encoder(self):
        parts = [part.contiguous(memory_format=torch.channels_last) for part in self.pixel_values.split(8)]
        return self._rate(lambda: [self.network.forward_features(part) for part in parts])

    def captioner(self):
        return self._rate(lambda: generate_per_core(self.model, self.processor, self.pixel_values, {}))

    def _rate(self, task):
        task()
        start = time.perf_counter()
        for _ in range(2):
            task()
            if self.pixel_values.is_cuda:
                torch.cuda.synchronize()
        return 2 * len(self.pixel_values) / (time.perf_counter() - start)


def run_command(folder, options, processes):
    """Caption a folder. Returns the total seconds, the photos per second after startup, and samples of the resident
    memory of all processes in MB."""
    output = folder / "captions.jsonl"
    parts = [Path(f"{output}.part{process}") for process in range(processes)] if processes > 1 else [output]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] * (processes > 1)
    command = [sys.executable, *launch, ROOT / "caption.py", folder, "--output", output, "--engine", options.engine]
    if options.engine == "torch":
        command += ["--dtype", options.dtype, "--device", options.device]
    threads = str(max(1, torch.get_num_threads() // processes))
    start, counts, memory = time.perf_counter(), [], []
    with subprocess.Popen([*map(str, command)], env=os.environ | {"OMP_NUM_THREADS": threads}) as process:
        while process.poll() is None:
            lines = sum(map(count_lines, parts))
            if lines and (not counts or lines > counts[-1][1]):
                counts.append((time.perf_counter(), lines))
            if used := resident(process.pid):  # 0 while it exits
                memory.append(used)
            time.sleep(0.05)
    seconds = time.perf_counter() - start
    output.unlink()
    (first, before), (last, after) = counts[0], counts[-1]
    return seconds, (after - before) / (last - first) if after > before else None, memory


def count_lines(file):
    try:
        return file.read_bytes().count(b"\n")
    except FileNotFoundError:  # not started yet, or already merged
        return 0


def resident(pid):
    """Resident memory of a process and its children, in MB."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return int(fields.get("VmRSS", "0 kB").split()[0]) / 1000 + sum(map(resident, children))
    except (OSError, ValueError):  # the process has exited
        return 0


def compare_decoding(model, processor, data_dir, count=200):
    """Print how many photos, enlarged to 4,000 pixels, get the same caption as with full decoding, and the CIDEr-D."""
    settings = Settings(data_dir=[data_dir], max_eval_samples=count)
    rows = captioned_dataset(sources(settings)[0], settings, ["validation"])["validation"]
    full, reduced = [], []
    for row in rows:
        photo, file = photo_of(row), io.BytesIO()
        scale = 4000 / max(photo.size)
        photo.resize([round(length * scale) for length in photo.size]).save(file, "JPEG", quality=90)
        for side, photos in ((None, full), (2 * model.config.image_size, reduced)):
            photos.append(processor(images=open_photo(file.getvalue(), side=side), return_tensors="pt").pixel_values)
    full, reduced = torch.cat(full), torch.cat(reduced)
    noise = torch.rand(full.shape, generator=torch.Generator().manual_seed(0))
    step = 2 / 255  # pixels are normalized from [0, 255] to [-1, 1]
    variants = {
        "full decoding": full,
        "reduced decoding": reduced,
        "full decoding, 3% of the values increased by 1/255": full + step * (noise < 0.03),
    }
    captions = {variant: generate_per_core(model, processor, photos, {})[0] for variant, photos in variants.items()}
    for variant, found in captions.items():
        same = sum(map(str.__eq__, found, captions["full decoding"]))
        quality = caption_metrics(rows["captions"][:], found)["CIDEr-D"]
        difference = (variants[variant] - full).abs().mean() / step
        print(
            f"{variant}: {same} of {len(found)} captions equal, CIDEr-D {quality:.3f}, pixels off by {difference:.2f}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=320, help="Number of photos of 640 x 480.")
    parser.add_argument("--large", type=int, default=256, help="Number of photos of 4000 x 3000.")
    parser.add_argument("--data_dir", help="A dataset on which to test how often reduced decoding changes the caption.")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--engine", default="torch", choices=["onnx", "torch"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    print(describe(options.device))
    rates = Rates(options.device, options.dtype)
    if options.data_dir:
        compare_decoding(rates.model, rates.processor, options.data_dir)
    with tempfile.TemporaryDirectory() as folder:
        single = Path(folder, "single")
        single.mkdir()
        make_photos(single, (640, 480), 1)
        seconds, _, memory = run_command(single, options, 1)
        print(f"one photo: {seconds:.1f} s in total, peak memory {max(memory):.0f} MB")
        for name, size, count in (("640 x 480", (640, 480), options.small), ("12 MP", (4000, 3000), options.large)):
            photos = Path(folder, name)
            photos.mkdir()
            make_photos(photos, size, count)
            for processes in options.processes if count else []:
                encoder, alone = rates.encoder(), rates.captioner()
                _, rate, memory = run_command(photos, options, processes)
                encoder, alone = (encoder + rates.encoder()) / 2, (alone + rates.captioner()) / 2
                quarters = [memory[len(memory) * quarter // 4 - 1] for quarter in (2, 3, 4)]
                print(
                    f"{count} photos of {name}, {processes} process(es): {rate:.1f} photos/s; encoder {encoder:.1f}"
                    f" ({rate / encoder:.0%}); model alone {alone:.1f} (waits {max(0, 1 - rate / alone):.0%});"
                    f" memory {' '.join(f'{value:.0f}' for value in quarters)}, peak {max(memory):.0f} MB"
                )


if __name__ == "__main__":
    main()
