"""Cold start and peak memory of `python caption.py PHOTO` with both engines, as whole processes in turns.

    python -m benchmarks.startup
    python -m benchmarks.startup --others Florence-2-base SmolVLM-256M

Each number is the median over `--runs` fresh processes: seconds from start to exit, seconds of CPU time, which other
programs on the machine affect less, and the peak resident memory. The files are in the disk cache after a first run,
which is not counted. The other captioners load random weights that were saved before, and caption one photo.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
# This process stays small: a child's peak memory is never reported as less than its parent's.
SAVE = """
import sys
from benchmarks.other_captioners import OTHERS
OTHERS[sys.argv[1]]().model.half().save_pretrained(sys.argv[2])
"""
CAPTION = """
import sys
import torch
import transformers
from PIL import Image
from benchmarks.other_captioners import OTHERS
name, folder, photo = sys.argv[1:]
with torch.device("meta"):
    captioner = OTHERS[name]()
captioner.model = type(captioner.model).from_pretrained(folder, dtype=torch.float32)
captioner(Image.open(photo).convert("RGB"), 12)
"""


def measure(command):
    """Run a command in a process. Returns its wall time and CPU time in seconds and its peak memory in MB."""
    start = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    silent = [(os.POSIX_SPAWN_OPEN, descriptor, os.devnull, os.O_WRONLY, 0) for descriptor in (1, 2)]
    pid = os.posix_spawn(command[0], [*map(str, command)], environment, file_actions=silent)
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise RuntimeError(f"{command} failed.")
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes elsewhere
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / unit


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", default=str(ROOT / "demo" / "examples" / "boats.jpg"))
    parser.add_argument("--model", default=str(ROOT / "modeling_captioner"))
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--others", nargs="*", default=[], help="Other captioners of other_captioners.py.")
    options = parser.parse_args()
    caption = [sys.executable, ROOT / "caption.py", options.photo, "--model", options.model, "--engine"]
    commands = {f"Captioner, {engine}": [*caption, engine] for engine in ("onnx", "torch")}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.others:
            save = [sys.executable, "-c", SAVE, name, f"{folder}/{name}"]
            subprocess.run(save, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
            commands[name] = [sys.executable, "-c", CAPTION, name, f"{folder}/{name}", options.photo]
        results = {name: [] for name in commands}
        for run in range(options.runs + 1):
            for name, command in commands.items():
                result = measure(command)
                if run:
                    results[name].append(result)
    print("| | seconds | CPU seconds | peak memory, MB |\n|---|---|---|---|")
    for name, result in results.items():
        wall, cpu, memory = map(statistics.median, zip(*result, strict=True))
        print(f"| {name} | {wall:.2f} | {cpu:.2f} | {memory:.0f} |")


if __name__ == "__main__":
    main()
