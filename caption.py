"""Caption photos on the command line: `python caption.py PHOTO ...` prints each photo's path, a tab and its caption."""

import argparse
import datetime
import functools
import itertools
import json
import os
import re
import signal
import sys
import warnings
from pathlib import Path

from captioning.outputs import CaptionFile, Printed, TextFiles, printable

# PyTorch and what needs it are imported where they are used, so that --help and wrong usage answer at once.

SHIPPED = Path(__file__).resolve().parent / "modeling_captioner"


def parse(arguments=None):
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


def main(arguments=None):
    """Caption photos. Returns the exit status: 1 where anything could not be captioned."""
    options = parse(arguments)
    warnings.simplefilter("ignore")
    try:
        return run(options)
    except (ValueError, OSError) as error:
        complain(error)
        return 1


def run(options):
    process, processes = join_processes()
    output = output_for(options, process, processes)
    photos, total, position, read = (rows_of if options.dataset_name else files_of)(options, output, process)
    model, processor = load_captioner(options.model, options.device, options.dtype)
    generation = {name: getattr(options, name) for name in ("num_beams", "max_new_tokens")}
    generation = {name: value for name, value in generation.items() if value is not None}
    mine = itertools.islice(photos, process, None, processes)
    failed, drawn = [], []
    if options.attention:
        from captioning.drawing import caption_with_maps, draw

        captions = caption_with_maps(model, processor, mine, read, generation, failed, drawn)
    else:
        import torch

        from captioning.pipeline import caption_photos

        batch_size = options.batch_size or (16 * torch.get_num_threads() if model.device.type == "cpu" else 256)
        # With no more pixels than the encoder sees, 30 of 200 photos got another caption; with twice, 4, or 15 of large
        # ones (benchmarks/throughput.py --data_dir).
        side = 2 * max(processor.image_processor.size.height, processor.image_processor.size.width)
        small = functools.partial(read, side=side)
        captions = caption_photos(model, processor, mine, small, generation, batch_size, failed)
    done = 0
    with progress(options, total and len(range(process, total, processes))) as bar:
        for batch in captions:
            output.add([(name, f"{options.prefix}{caption}{options.suffix}", score) for name, caption, score in batch])
            bar.update(len(batch))
            done += len(batch)
    if drawn:
        draw(drawn, options.attention)
    failed, done = gathered(failed, done, processes)
    if process == 0:
        output.finish(position, done)
        return report(failed, done)
    return 0


def join_processes():
    """The number of this process, and how many share the photos, as torchrun and `accelerate launch` tell them."""
    process, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if processes > 1:
        import torch

        # The quicker processes wait for the others at the end, however long that takes.
        torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(days=365))
        if torch.accelerator.is_available():
            torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))
    return process, processes


def output_for(options, process, processes):
    if options.output:
        return CaptionFile(options.output, process, processes)
    if options.txt:
        return TextFiles()
    if processes > 1:
        raise ValueError("Several processes cannot share standard output; give --output FILE or --txt.")
    return Printed(".jsonl" if options.json else ".tsv")


def files_of(options, output, process):
    """What is to be captioned: pairs (name, source), how many, each name's place in the output, what opens a source."""
    from captioning.sources import find_photos, read_file

    def find():
        paths = find_photos(options.photos, options.list, options.recursive)
        if options.attention:
            from captioning.drawing import check_drawing

            check_drawing(options.attention, len(paths))
        if options.output or options.txt:
            paths = list(dict.fromkeys(paths))
        return paths, output.begin(paths, options.resume)

    paths, done = agreed(find, process)
    remaining = [path for path in paths if output.name(path) not in done]
    places = {output.name(path): place for place, path in enumerate(paths)}
    return zip(remaining, remaining, strict=True), len(remaining), lambda name: places.get(name, len(places)), read_file


def rows_of(options, output, process):
    """As `files_of`, of a data set."""
    from captioning.sources import read_row, stream_dataset

    rows, total = stream_dataset(options.dataset_name, options.dataset_config_name, options.split, options.image_column)
    done = agreed(lambda: output.begin([], options.resume), process)
    remaining = (row for row in rows if output.name(row[0]) not in done)
    return remaining, total and total - len(done), lambda name: int(str(name).rpartition("/")[2]), read_row


def agreed(find, process):
    """What `find()` gives in the first process, or the mistake that it finds, in all processes."""
    import torch

    if not torch.distributed.is_initialized():
        return find()
    answer = [None, None]
    if process == 0:
        try:
            answer[0] = find()
        except (ValueError, OSError) as error:
            answer[1] = error
    torch.distributed.broadcast_object_list(answer)
    found, error = answer
    if error and process == 0:
        raise error
    return sys.exit(1) if error else found


def gathered(failed, done, processes):
    """What failed, and how many photos were captioned, in all processes."""
    if processes == 1:
        return failed, done
    import torch

    answers = [None] * processes
    torch.distributed.all_gather_object(answers, (failed, done))
    torch.distributed.destroy_process_group()
    return [one for answer in answers for one in answer[0]], sum(answer[1] for answer in answers)


def progress(options, total):
    """A bar on the terminal, with photos a second and the time left, unless the captions are shown there."""
    from tqdm import tqdm

    shown = sys.stderr.isatty() and (options.output or options.txt or not sys.stdout.isatty())
    return tqdm(total=total, unit=" photos", disable=not shown)


def report(failed, done):
    """Name the photos that could not be captioned. Returns the exit status."""
    for name, error in failed:
        complain(error if name in str(error) else f"{name}: {error}")
    if failed and done + len(failed) > 1:
        complain(f"{len(failed)} of {done + len(failed)} photos could not be captioned.")
    return 1 if failed else 0


def complain(error):
    print("error:", printable(re.sub(r"\s*\n\s*", " ", str(error))), file=sys.stderr, flush=True)


def load_captioner(name, device, dtype, **options):
    """A captioner and its processor from a folder or the Hub; no code of theirs is run, and no pickle is read.

    `options`: of its configuration, in place of what it says itself. Raises `ValueError`.
    """
    import huggingface_hub
    import torch
    import transformers
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedConfig

    from modeling_captioner import CaptionerConfig

    huggingface_hub.logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    check_model(name)
    device = device or torch.accelerator.current_accelerator(check_available=True) or "cpu"
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # PyTorch built without CUDA asserts
        raise ValueError(f"device {device!r} is not to be had here; leave --device out, or give cpu.") from error
    try:
        kind = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
        if kind != CaptionerConfig.model_type:
            raise ValueError(f"its type is {kind!r}, and captioners are needed; give one that train/ wrote.")
        # For this type the Auto classes know the classes of this repository, so they need no code of the model's.
        model, loaded = AutoModelForImageTextToText.from_pretrained(
            name,
            dtype=getattr(torch, dtype),
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
        if loaded["missing_keys"]:
            raise ValueError(f"{len(loaded['missing_keys'])} weights are missing; write it anew.")
    except (OSError, RuntimeError, SafetensorError, json.JSONDecodeError) as error:
        if Path(name).is_dir():
            raise ValueError(f"{name} is damaged: its files cannot be read or do not fit; write it anew.") from error
        raise ValueError(f"{name} is no folder, and not to be had from the Hub; check name and connection.") from error
    except (ValueError, StrictDataclassError) as error:
        raise ValueError(f"{name}: {error}") from error
    return model.to(device), processor


def check_model(name):
    """What transformers would say in many words, or after asking the Hub for a folder with a typing error."""
    folder = Path(name)
    if folder.is_dir():
        for file in ("config.json", "model*.safetensors", "processor_config.json", "tokenizer.json"):
            if not any(folder.glob(file)):
                raise ValueError(f"{name} holds no captioner: {file} is missing; give a folder that train/ wrote.")
    elif folder.exists() or folder.parent.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(f"{name} is not a folder; give one that train/ wrote, or a name on the Hub.")


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head -1` ends it quietly
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.stdout.reconfigure(errors="backslashreplace")  # not every console can show every name
    sys.exit(main())
