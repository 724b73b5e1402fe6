"""Caption photos on the command line: `python caption.py PHOTO ...` prints the path and caption of each photo."""

import argparse
import re
import signal
import sys
import warnings

from captioning.command_line.run import run
from captioning.errors import print_error
from captioning.loading import SHIPPED


def main(arguments=None):
    """Caption photos. Returns the exit status: 1 if any photo could not be captioned."""
    options = parse_options(arguments)
    warnings.simplefilter("ignore")
    try:
        return run(options)
    except (ValueError, OSError) as error:
        print_error(error)
        return 1


def parse_options(arguments=None):
    parser = argparse.ArgumentParser(
        prog="caption.py",
        description="Caption photos. Prints one line PATH<TAB>CAPTION per photo, in the given order. Photos that "
        "cannot be captioned are skipped and listed on standard error at the end; the exit status is then 1. For "
        "several processes or machines: accelerate launch caption.py PHOTO ... --output FILE.",
        epilog="Control characters in paths, such as tabs and line breaks, are escaped as \\t, \\n, \\x1b; --json and "
        "the other formats keep the path unchanged.",
    )
    photos = parser.add_argument_group("photos")
    photos.add_argument(
        "photos",
        nargs="*",
        metavar="PHOTO",
        help="An image file; a folder, for all images in it and its subfolders, sorted, except hidden ones; a quoted "
        "glob pattern such as 'day*/**/*.jpg'; or - to read paths from standard input.",
    )
    photos.add_argument(
        "--recursive",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="Whether to include the subfolders of folders. Default: true.",
    )
    photos.add_argument(
        "--list",
        action="append",
        default=[],
        metavar="FILE",
        help="A file with one path per line, or NUL-separated paths; - for standard input.",
    )
    photos.add_argument("--dataset_name", metavar="NAME", help="A dataset on the Hub or in a folder, streamed.")
    photos.add_argument(
        "--dataset_config_name", metavar="NAME", help="The configuration of the dataset, if it has several."
    )
    photos.add_argument("--split", default="train", help="The split of the dataset. Default: train.")
    photos.add_argument("--image_column", default="image", help="The image column of the dataset. Default: image.")
    captions = parser.add_argument_group("captions")
    captions.add_argument(
        "--json",
        action="store_true",
        help="Print JSON lines: file, caption, natural log_probability, and confidence from a calibrated model.",
    )
    captions.add_argument(
        "--output",
        metavar="FILE",
        help="Write to a file instead, in the format given by its name: .jsonl, .csv, .tsv, .json (COCO results), "
        "metadata.jsonl (imagefolder). Each photo is written once. Several machines must share the folder.",
    )
    captions.add_argument(
        "--txt", action="store_true", help="Write each caption to a .txt file next to its photo instead."
    )
    captions.add_argument("--prefix", default="", metavar="TEXT", help="Text to put before each caption, verbatim.")
    captions.add_argument("--suffix", default="", metavar="TEXT", help="Text to put after each caption, verbatim.")
    captions.add_argument(
        "--min_confidence",
        type=share,
        metavar="SHARE",
        help="Set captions with less confidence, from 0 to 1, aside for a person: they go to FILE.review.csv, with "
        "--txt to PHOTO.review.txt, otherwise to standard error, and --resume does not make them again.",
    )
    captions.add_argument("--resume", action="store_true", help="Continue an interrupted run with --output or --txt.")
    captions.add_argument(
        "--attention",
        metavar="OUT.png",
        help="Draw the attention map of each word (.png, .jpg, .pdf or .svg), for at most 30 photos.",
    )
    model = parser.add_argument_group("model")
    model.add_argument("--model", default=str(SHIPPED), help="A folder, or a name on the Hub. Default: %(default)s.")
    model.add_argument(
        "--language",
        nargs="+",
        action="extend",
        type=language_name,
        default=[],
        metavar="NAME",
        help="The language of the captions, of a captioner that has several, such as vi. Of several languages, such as "
        "--language en vi, each has its own column or field, and its own files with --txt. Default: the model's first.",
    )
    model.add_argument("--num_beams", type=positive_int, metavar="N", help="Number of beams. Default: the model's.")
    model.add_argument(
        "--max_new_tokens", type=positive_int, metavar="N", help="Maximum number of words. Default: the model's."
    )
    model.add_argument(
        "--engine",
        choices=["onnx", "torch"],
        help="torch: PyTorch; onnx: onnxruntime in int8, which starts faster and needs less memory. Default: onnx if "
        "the model has an ONNX export, there is no accelerator, and neither --device nor --dtype is given.",
    )
    model.add_argument("--device", help="cpu, cuda, cuda:1, mps, ... Default: the accelerator, if available.")
    model.add_argument(
        "--dtype",
        choices=["float32", "float16", "bfloat16"],
        help="The precision of PyTorch. Default: float32. Faster at slightly lower quality: float16 on a GPU; bfloat16 "
        "on a CPU with AVX512-BF16 or AMX (slower on other CPUs).",
    )
    model.add_argument(
        "--batch_size",
        type=positive_int,
        metavar="N",
        help="Photos per batch. Default: 16 per CPU core, at most 256; 256 on a GPU; reduced if memory runs out.",
    )
    options = parser.parse_args(arguments)
    options.language = list(dict.fromkeys(options.language))
    if bool(options.photos or options.list) == bool(options.dataset_name):
        parser.error("pass either PHOTO ... and --list, or --dataset_name")
    if options.output and options.txt:
        parser.error("pass only one of --output and --txt")
    if options.dataset_name and (options.txt or options.attention):
        parser.error("--txt and --attention need image files, not --dataset_name")
    if options.engine == "onnx" and (options.device or options.dtype):
        parser.error("--engine onnx takes neither --device nor --dtype: it runs on the CPU in int8")
    if options.resume and not (options.output or options.txt):
        parser.error("--resume needs --output or --txt")
    return options


def language_name(text):
    if not re.fullmatch(r"[\w-]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a language, such as en")
    return text


def share(text):
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def positive_int(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly in `| head -1`
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.stdout.reconfigure(errors="backslashreplace")  # consoles may not support all characters
    sys.exit(main())
