"""Export a captioner to ONNX, to run it without PyTorch (in a browser, on a phone, from a command line that starts in
a second), or as a model repository.

    python -m publishing.export --onnx --model runs/captioner --photos PHOTOS

writes `runs/captioner/onnx/`, in int8; `publishing/onnx/export.py` describes the files. It is calibrated on photos like
those to be captioned, best the training photos; 128 are used, and they need no captions. Requires the packages onnx and
onnxscript.
"""

import argparse
import importlib.util
import itertools
import sys
from pathlib import Path

from captioning.errors import print_error
from captioning.loading import SHIPPED
from captioning.sources import find_photos, read_file, read_row, stream_dataset
from modeling_captioner import PhotoError

from .publish import write_repository

CALIBRATION_PHOTOS = 128


def calibration_photos(options):
    """Yields up to `CALIBRATION_PHOTOS` of the photos named by the options, spread evenly over a folder."""
    if options.dataset_name:
        rows, _ = stream_dataset(options.dataset_name, None, options.split, options.image_column)
        sources, read = (row for _, row in rows), read_row
    else:
        paths = find_photos(options.photos, [], recursive=True)
        sources, read = paths[:: max(1, len(paths) // CALIBRATION_PHOTOS)], read_file
    for source in itertools.islice(sources, CALIBRATION_PHOTOS):
        try:
            yield read(source)
        except PhotoError as error:
            print_error(error)


def main(arguments=None):
    options = parse_options(arguments)
    try:
        source = options.model
        if options.folder:
            write_repository(source, options.folder)
            source = options.folder
        if options.onnx:
            check_packages()
            from .onnx.export import export_onnx

            export_onnx(source, calibration_photos(options))
    except (ValueError, OSError) as error:
        print_error(error)
        sys.exit(1)


def parse_options(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m publishing.export",
        description="Export a captioner to ONNX in int8, to run it without PyTorch, or as a model repository.",
    )
    parser.add_argument(
        "--model", default=str(SHIPPED), help="A local folder, or a name on the Hub. Default: the shipped captioner."
    )
    parser.add_argument("--folder", metavar="DIR", help="Write a model repository to this folder.")
    parser.add_argument(
        "--onnx",
        action="store_true",
        help="Write the ONNX export to the subfolder onnx of --folder, or without it of --model.",
    )
    parser.add_argument(
        "--photos",
        nargs="+",
        default=[],
        metavar="PHOTO",
        help=f"Photos, folders or patterns for the calibration of --onnx; {CALIBRATION_PHOTOS} photos are used. Choose "
        "photos like those to be captioned, best the training photos.",
    )
    parser.add_argument(
        "--dataset_name", metavar="NAME", help="A dataset on the Hub or in a folder, instead of --photos."
    )
    parser.add_argument("--split", default="train", help="Its split. Default: train.")
    parser.add_argument("--image_column", default="image", help="Its image column. Default: image.")
    options = parser.parse_args(arguments)
    if not (options.onnx or options.folder):
        parser.error("give --onnx, --folder or both")
    if options.onnx and bool(options.photos) == bool(options.dataset_name):
        parser.error("--onnx needs photos for the calibration: give either --photos or --dataset_name")
    if options.onnx and not options.folder and not Path(options.model).is_dir():
        parser.error(f"--model {options.model} is not a folder that onnx/ can be written to; give --folder too")
    return options


def check_packages():
    for package in ("onnx", "onnxscript"):
        if not importlib.util.find_spec(package):
            raise ValueError(f"--onnx needs the package {package}; install it with pip install onnx onnxscript.")


if __name__ == "__main__":
    main()
