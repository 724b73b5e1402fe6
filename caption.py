"""Caption photos on the command line: `python caption.py PHOTO ...` prints each photo's path, a tab and its caption."""

import argparse
import signal
import sys
import warnings

from captioning.errors import print_error
from captioning.loading import SHIPPED
from captioning.run import run


def main(arguments=None):
    """Caption photos. Returns the exit status: 1 where anything could not be captioned."""
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
        description="Caption photos: a line PATH<TAB>CAPTION for each, in the given order. What cannot be captioned is "
        "named on standard error at the end, the rest is captioned all the same, and the exit status is then 1. "
        "Several processes, also on several machines, share the photos: accelerate launch caption.py PHOTO ... "
        "--output FILE.",
        epilog="Control characters in a path, such as a tab or a line break, are written as \\t, \\n, \\x1b; --json "
        "and the other formats give the path as it is.",
    )
    photos = parser.add_argument_group("photos")
    photos.add_argument(
        "photos",
        nargs="*",
        metavar="PHOTO",
        help="A picture; a folder: the pictures in it and in its subfolders, sorted, hidden ones left out; a pattern "
        "in quotes, such as 'day*/**/*.jpg'; or - for a list on standard input.",
    )
    photos.add_argument(
        "--recursive",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="Whether a folder's subfolders count. Default: they do.",
    )
    photos.add_argument(
        "--list",
        action="append",
        default=[],
        metavar="FILE",
        help="A file with a path in each line, or with NUL between them; - for standard input.",
    )
    photos.add_argument("--dataset_name", metavar="NAME", help="A data set on the Hub or a folder, read as it comes.")
    photos.add_argument("--dataset_config_name", metavar="NAME", help="Its configuration, where it has several.")
    photos.add_argument("--split", default="train", help="Its split. Default: train.")
    photos.add_argument("--image_column", default="image", help="Its column of photos. Default: image.")
    captions = parser.add_argument_group("captions")
    captions.add_argument(
        "--json", action="store_true", help="Lines of JSON: file, caption, log_probability (natural)."
    )
    captions.add_argument(
        "--output",
        metavar="FILE",
        help="Write to a file instead, in the format of its name: .jsonl, .csv, .tsv, .json (COCO's results), "
        "metadata.jsonl (an imagefolder's). Each photo is in it once. Machines share its folder.",
    )
    captions.add_argument("--txt", action="store_true", help="Write each caption to a .txt beside its photo instead.")
    captions.add_argument("--prefix", default="", metavar="TEXT", help="What each caption begins with, as it stands.")
    captions.add_argument("--suffix", default="", metavar="TEXT", help="What each caption ends with, as it stands.")
    captions.add_argument("--resume", action="store_true", help="Go on with --output or --txt; what is done stays.")
    captions.add_argument(
        "--attention",
        metavar="OUT.png",
        help="Draw where each word looked (.png, .jpg, .pdf or .svg), for at most 30 photos.",
    )
    model = parser.add_argument_group("model")
    model.add_argument("--model", default=str(SHIPPED), help="A folder, or a name on the Hub. Default: %(default)s.")
    model.add_argument("--num_beams", type=positive, metavar="N", help="Captions tried at once. Default: the model's.")
    model.add_argument("--max_new_tokens", type=positive, metavar="N", help="Most words. Default: the model's.")
    model.add_argument("--device", help="cpu, cuda, cuda:1, mps, ... Default: the accelerator if there is one.")
    model.add_argument(
        "--dtype",
        choices=["float32", "float16", "bfloat16"],
        default="float32",
        help="Default: float32. Faster, at a little less quality: bfloat16 on a CPU that computes in it (AVX512-BF16, "
        "AMX; on others it is slower), float16 on a GPU.",
    )
    model.add_argument(
        "--batch_size",
        type=positive,
        metavar="N",
        help="Photos at once. Default: 16 a core on a CPU, 256 on a GPU, fewer where its memory does not suffice.",
    )
    options = parser.parse_args(arguments)
    if bool(options.photos or options.list) == bool(options.dataset_name):
        parser.error("give PHOTO ..., --list or --dataset_name")
    if options.output and options.txt:
        parser.error("give --output or --txt")
    if options.dataset_name and (options.txt or options.attention):
        parser.error("--txt and --attention need photos that are files, not --dataset_name")
    if options.resume and not (options.output or options.txt):
        parser.error("--resume goes on with --output or --txt")
    return options


def positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head -1` ends it quietly
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.stdout.reconfigure(errors="backslashreplace")  # not every console can show every name
    sys.exit(main())
