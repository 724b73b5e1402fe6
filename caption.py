"""Caption photos on the command line: `python caption.py PHOTO ...` prints each photo's path, a tab and its caption."""

import argparse
import itertools
import json
import os
import re
import signal
import sys
import warnings
from pathlib import Path

# PyTorch and what needs it are imported where they are used, so that --help and wrong usage answer at once.

SHIPPED = Path(__file__).resolve().parent / "modeling_captioner"
MOST_DRAWN = 30  # photos that --attention draws: the picture of more is too tall to open
# A map over its photo, from "not looked at", which darkens, to "looked at", which shines: red, green, blue, alpha.
HEAT = {0: (8, 10, 40, 0.62), 0.35: (90, 20, 110, 0.46), 0.65: (235, 90, 40, 0.46), 1: (255, 228, 90, 0.52)}


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        prog="caption.py",
        description="Caption photos: a line PATH<TAB>CAPTION for each, in the given order. What cannot be captioned is "
        "named on standard error, the rest is captioned all the same, and the exit status is then 1.",
        epilog="Control characters in a path, such as a tab or a line break, are written as \\t, \\n, \\x1b; --json "
        "gives the path as it is.",
    )
    parser.add_argument(
        "photos",
        nargs="+",
        metavar="PHOTO",
        help="A picture, or a folder: the pictures in it and in its subfolders, sorted; hidden ones are left out.",
    )
    parser.add_argument("--model", default=str(SHIPPED), help="A folder, or a name on the Hub. Default: %(default)s.")
    parser.add_argument("--num_beams", type=positive, metavar="N", help="Captions tried at once. Default: the model's.")
    parser.add_argument("--max_new_tokens", type=positive, metavar="N", help="Most words. Default: the model's.")
    parser.add_argument("--batch_size", type=positive, metavar="N", default=8, help="Photos at once. Default: 8.")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps, ... Default: the accelerator if there is one.")
    parser.add_argument(
        "--dtype",
        choices=["float32", "float16", "bfloat16"],
        default="float32",
        help="Default: float32; on a GPU float16 is faster.",
    )
    parser.add_argument("--json", action="store_true", help="Lines of JSON: file, caption, log_probability (natural).")
    parser.add_argument(
        "--attention",
        metavar="OUT.png",
        help=f"Draw where each word looked (.png, .jpg, .pdf or .svg), for at most {MOST_DRAWN} photos.",
    )
    return parser.parse_args(arguments)


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
    paths = [path for given in options.photos for path in find_photos(given)]
    if options.attention:
        check_drawing(options.attention, len(paths))
    model, processor = load_captioner(options.model, options.device, options.dtype)
    generation = {name: getattr(options, name) for name in ("num_beams", "max_new_tokens")}
    generation = {name: value for name, value in generation.items() if value is not None}
    failed, drawn = [], []
    photos = open_photos(paths, failed)
    if options.attention:
        captions = caption_with_maps(model, processor, photos, generation, drawn)
    else:
        captions = caption_photos(model, processor, photos, generation, options.batch_size)
    for path, caption, log_probability in captions:
        if options.json:
            line = json.dumps({"file": path, "caption": caption, "log_probability": log_probability})
        else:
            line = f"{printable(path)}\t{caption}"
        print(line, flush=True)
    if drawn:
        draw(drawn, options.attention)
    return 1 if failed else 0


def complain(error):
    print("error:", printable(re.sub(r"\s*\n\s*", " ", str(error))), file=sys.stderr, flush=True)


def printable(text):
    """`text` on one line, without tabs or anything that a terminal would obey."""
    control = r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"  # the last are bytes that are not UTF-8
    return re.sub(control, lambda character: character[0].encode("unicode_escape").decode(), text)


def find_photos(given):
    """The path itself, or the pictures of a folder; the folder itself where it has none."""
    from PIL import Image

    from modeling_captioner.photos import FORMATS

    if not os.path.isdir(given):
        return [given]
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    files = (path for path in Path(given).rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    shown = [path for path in files if not any(part.startswith(".") for part in path.relative_to(given).parts)]
    return [str(path) for path in sorted(shown)] or [given]


def open_photos(paths, failed):
    """Yields each path with its photo, as late as possible; complains of what is none, and puts it into `failed`."""
    from modeling_captioner import PhotoError, open_photo

    for path in paths:
        try:
            if os.path.isdir(path):
                raise PhotoError(f"{path} is a folder without pictures; give one that holds JPEG or PNG files.")
            photo = open_photo(path)
        except PhotoError as error:
            complain(error)
            failed.append(path)
        else:
            yield path, photo


def load_captioner(name, device, dtype):
    """A captioner and its processor from a folder or the Hub; no code of theirs is run. Raises `ValueError`."""
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
            name, dtype=getattr(torch, dtype), trust_remote_code=False, output_loading_info=True
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


def caption_photos(model, processor, photos, generation, batch_size):
    """Yields each path with its photo's caption and natural log-probability."""
    import torch

    pixels = ((path, processor(images=photo, return_tensors="pt").pixel_values) for path, photo in photos)
    while batch := list(itertools.islice(pixels, batch_size)):
        paths, pixel_values = zip(*batch, strict=True)
        output = model.generate(
            pixel_values=torch.cat(pixel_values).to(model.device, model.dtype),
            return_dict_in_generate=True,
            output_logits=True,
            **generation,
        )
        log_probabilities = model.compute_transition_scores(
            output.sequences, output.logits, output.get("beam_indices"), normalize_logits=True
        )  # (batch, words)
        padding = output.sequences[:, 1:] == model.config.pad_token_id
        totals = log_probabilities.masked_fill(padding, 0).sum(dim=1).tolist()
        yield from zip(paths, processor.batch_decode(output.sequences, skip_special_tokens=True), totals, strict=True)


def caption_with_maps(model, processor, photos, generation, drawn):
    """As `caption_photos`, and puts each path, a small photo and its explanation into `drawn`."""
    from modeling_captioner import explain

    for path, photo in photos:
        explanation = explain(model, processor, photo, num_return_sequences=1, **generation)
        photo.thumbnail((512, 512))
        drawn.append((path, photo, explanation))
        yield path, explanation.caption, explanation.log_probability


def check_drawing(path, photos):
    """What would otherwise come out after the last photo."""
    if Path(path).suffix.lower() not in (".png", ".jpg", ".pdf", ".svg"):
        raise ValueError(f"--attention {path}: end the name with .png, .jpg, .pdf or .svg.")
    if not Path(path).parent.is_dir():
        raise ValueError(f"--attention {path}: the folder does not exist; make it first.")
    if photos > MOST_DRAWN:
        raise ValueError(f"--attention draws at most {MOST_DRAWN} photos, not {photos}; give fewer.")


def draw(drawn, path):
    """A picture of (path, photo, explanation) below each other: the photo, and for each word where it looked."""
    from matplotlib.figure import Figure

    columns, tile, gap, heading = 6, 1.9, 0.12, 0.65  # lengths in inches
    label = 0.25  # above each tile
    rows = [-(-(1 + len(explanation.words)) // columns) for _, _, explanation in drawn]
    heights = [tile * min(photo.height / photo.width, 1.5) for _, photo, _ in drawn]
    width = columns * (tile + gap) + gap
    height = sum(heading + count * (label + each + gap) for count, each in zip(rows, heights, strict=True)) + gap
    figure = Figure(figsize=(width, height), dpi=120)
    top = height
    for (name, photo, explanation), count, tall in zip(drawn, rows, heights, strict=True):
        title = {"x": gap / width, "parse_math": False, "va": "top"}
        figure.text(y=(top - 0.15) / height, s=explanation.caption, size=13, weight="bold", **title)
        figure.text(y=(top - 0.45) / height, s=printable(name), size=8, color="grey", **title)
        top -= heading
        tiles = [(photo, "")]
        tiles += [(heated(photo, word.map), f"{word.text}  {word.probability:.0%}") for word in explanation.words]
        for number, (picture, text) in enumerate(tiles):
            row, column = divmod(number, columns)
            left, bottom = gap + column * (tile + gap), top - (row + 1) * (label + tall + gap) + gap
            axes = figure.add_axes((left / width, bottom / height, tile / width, tall / height))
            axes.imshow(picture)
            axes.set_title(text, size=9, pad=3, parse_math=False)
            axes.axis("off")
        top -= count * (label + tall + gap)
    figure.savefig(path, bbox_inches="tight", pad_inches=gap)  # a long caption may stand out on the right


def heated(photo, attention):
    """The photo, lit where a word looked; a glance at everything stays dim."""
    import numpy as np
    from PIL import Image

    smooth = np.asarray(Image.fromarray(attention).resize(photo.size, Image.Resampling.BICUBIC))
    strength = smooth / max(smooth.max(), 2.4 / attention.size)
    heat = np.stack([np.interp(strength, list(HEAT), channel) for channel in zip(*HEAT.values(), strict=True)], axis=-1)
    colour, alpha = heat[..., :3], heat[..., 3:]
    return (np.asarray(photo) * (1 - alpha) + colour * alpha).astype(np.uint8)


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head -1` ends it quietly
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.stdout.reconfigure(errors="backslashreplace")  # not every console can show every name
    sys.exit(main())
