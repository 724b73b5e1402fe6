"""The implementation of `caption.py`, from options to captions: `run`."""

import functools
import itertools
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

from captioning.engine import load_engine
from captioning.errors import print_error
from captioning.loading import gives_confidence
from modeling_captioner.languages import check_language

from .outputs import Caption, CaptionFile, StandardOutput, TextFiles, without_repetitions
from .pipeline import caption_photos
from .processes import broadcast_from_main, gather_results, init_processes
from .review import Review, ReviewFile, ReviewLines, ReviewTexts

# Modules that need PyTorch, datasets or Matplotlib are imported inside the functions: each takes a second or more.

Output = CaptionFile | StandardOutput | TextFiles | Review
# (name, source) of the photos; their number, if known; the position of a name in the output; what opens a source
Listed = tuple[Iterator[tuple[str, Any]], int | None, Callable, Callable]


def run(options: Namespace) -> int:
    """Caption the photos named by the options of `caption.py`. Returns the exit status: 1 if any of them fails."""
    process, processes = init_processes()
    output = create_output(options, process, processes)
    photos, total, position, read = (list_rows if options.dataset_name else list_files)(
        options, output, process, processes
    )
    generation = {name: getattr(options, name) for name in ("num_beams", "max_new_tokens")}
    generation = {name: value for name, value in generation.items() if value is not None}
    captioner = load_engine(options, generation, verbose=process == 0)
    if options.min_confidence is not None and captioner.confidence is None:
        raise ValueError(
            f"{options.model} gives no confidence; calibrate it (python -m train --calibrate_only --model"
            f" {options.model} --data_dir PHOTOS_WITH_CAPTIONS), or leave out --min_confidence."
        )
    languages = [check_language(language, captioner.languages) for language in options.language or [None]]
    own = itertools.islice(photos, process, None, processes)
    failed: list[tuple] = []
    drawn: list[tuple] = []
    if options.attention:
        from captioning.drawing import draw

        from .attention import caption_with_maps

        captions = caption_with_maps(captioner, own, read, failed, drawn, languages)
    else:
        # Decoding at the encoder's input size changed 30 of 200 captions; at twice the size 4, or 15 for large photos
        # (benchmarks/throughput.py --data_dir).
        small = functools.partial(read, side=2 * captioner.image_size)
        batch_size = options.batch_size or captioner.batch_size
        captions = caption_photos(captioner, own, small, batch_size, failed, languages)
    done = 0
    with progress_bar(options, total and len(range(process, total, processes))) as bar:
        for batch in captions:
            output.add([(name, [_decorated(options, *caption) for caption in found]) for name, found in batch])
            bar.update(len(batch))
            done += len(batch)
    if drawn:
        draw(drawn, options.attention)
    failed, done = gather_results(failed, done, processes)
    if process == 0:
        output.finish(position, done)
        return report_failures(failed, done)
    return 0


def _decorated(options, text, *numbers):
    return Caption(f"{options.prefix}{text}{options.suffix}", *numbers)


def create_output(options: Namespace, process: int, processes: int) -> Output:
    languages = options.language
    output: Any
    aside: Any
    if options.output:
        output = CaptionFile(options.output, process, processes, languages, gives_confidence(options.model))
        aside = ReviewFile(f"{options.output}.review.csv", process, processes, languages, calibrated=True)
    elif options.txt:
        output, aside = TextFiles(languages), ReviewTexts(languages)
    elif processes > 1:
        raise ValueError("Several processes cannot share standard output; use --output FILE or --txt.")
    else:
        output, aside = StandardOutput(".jsonl" if options.json else ".tsv", languages), ReviewLines()
    return output if options.min_confidence is None else Review(output, aside, options.min_confidence)


def list_files(options: Namespace, output: Output, process: int, processes: int) -> Listed:
    """List the files to caption.

    Returns pairs of a name and a source, their number, a function from a name to its position in the output, and the
    function that opens a source.
    """
    from captioning.sources import find_photos, read_file

    def find():
        paths = find_photos(options.photos, options.list, options.recursive)
        if options.attention:
            from .attention import check_drawing

            check_drawing(options.attention, len(paths))
        if options.output or options.txt:
            paths = without_repetitions(paths)
        return paths, output.begin(paths, options.resume)

    paths, done = broadcast_from_main(find, process, processes)
    remaining = [path for path in paths if output.name(path) not in done]
    order = {output.name(path): position for position, path in enumerate(paths)}
    return zip(remaining, remaining, strict=True), len(remaining), lambda name: order.get(name, len(order)), read_file


def list_rows(options: Namespace, output: Output, process: int, processes: int) -> Listed:
    """Like `list_files`, for the rows of a dataset."""
    from captioning.sources import read_row, stream_dataset

    rows, total = stream_dataset(options.dataset_name, options.dataset_config_name, options.split, options.image_column)
    done = broadcast_from_main(lambda: output.begin([], options.resume), process, processes)
    remaining = (row for row in rows if output.name(row[0]) not in done)
    return remaining, total and total - len(done), lambda name: int(str(name).rpartition("/")[2]), read_row


def progress_bar(options: Namespace, total: int | None) -> Any:
    """A progress bar on the terminal, unless the captions are printed there."""
    from tqdm import tqdm

    shown = sys.stderr.isatty() and (options.output or options.txt or not sys.stdout.isatty())
    return tqdm(total=total, unit=" photos", disable=not shown)


def report_failures(failed: list[tuple[str, Exception]], done: int) -> int:
    """Print the photos that could not be captioned. Returns the exit status."""
    for name, error in failed:
        print_error(error if name in str(error) else f"{name}: {error}")
    if failed and done + len(failed) > 1:
        print_error(f"{len(failed)} of {done + len(failed)} photos could not be captioned.")
    return 1 if failed else 0
