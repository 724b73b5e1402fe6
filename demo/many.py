"""Many photos at once: pictures and zips in, a table out, to take away as CSV and JSONL."""

import csv
import io
import itertools
import json
import lzma
import tempfile
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from demo.answers import SHOWN_SIDE, friendly, uploaded
from demo.language import TEXTS, language_of
from modeling_captioner import PhotoError, open_photo

COLUMNS = ("file", "caption", "log_probability", "problem")
MOST_PHOTOS = 1000
MOST_BYTES = 50_000_000  # of one unpacked photo
MOST_FILES = 5000  # in a zip, whose list is read anew for each photo; that of a million files takes a gigabyte
TOGETHER = 8
BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,  # a password; and, as NotImplementedError, an unknown way of packing
    OSError,
    ValueError,
)


def add_many(explain, translated):
    """The tab's inputs, table and downloads. `explain(photo)` gives explanations."""
    translated(gr.Markdown(), value="many_intro")
    files = gr.File(file_count="multiple", file_types=["image", ".zip"], elem_id="files")
    files.preprocess = lambda payload: [uploaded(file.path) for file in payload.root] if payload else []
    start = translated(gr.Button(variant="primary", elem_id="start"), value="many_start")
    widths = ["24%", "34%", "20%", "22%"]
    table = gr.Dataframe(column_widths=widths, interactive=False, wrap=True, elem_id="table")
    with gr.Row():
        as_csv = translated(gr.DownloadButton(interactive=False, elem_id="csv"), label="many_csv")
        as_jsonl = translated(gr.DownloadButton(interactive=False, elem_id="jsonl"), label="many_jsonl")
    translated(files, label="many_files")
    translated(table, label="many_table", headers="many_columns")

    def caption_all(request: gr.Request, paths, progress=gr.Progress()):  # noqa: B008 - Gradio finds it in the defaults
        language = language_of(request)
        rows = caption_files(explain, paths, language, progress)
        csv_file, jsonl_file = write(rows)
        values = [[shortened(row[column]) for column in COLUMNS] for row in rows]
        table = {"headers": TEXTS[language]["many_columns"], "data": values}
        return table, *(gr.DownloadButton(value=file, interactive=True) for file in (csv_file, jsonl_file))

    start.click(caption_all, files, [table, as_csv, as_jsonl], api_visibility="private", concurrency_limit=1)


def shortened(value):
    return round(value, 2) if isinstance(value, float) else value


def caption_files(explain, paths, language, progress):
    """A row for each photo, in order: what it shows, or why that cannot be said, in the visitor's language."""

    def row(named):
        name, path, source = named
        try:
            explanation = explain(open_photo(source(), side=SHOWN_SIDE))
        except PhotoError as error:
            return dict(zip(COLUMNS, (name, "", None, friendly(error, path, language)), strict=True))
        return dict(zip(COLUMNS, (name, explanation.caption, explanation.log_probability, ""), strict=True))

    unpacked = itertools.chain.from_iterable(map(unpack, paths[:MOST_PHOTOS]))
    photos = list(itertools.islice(unpacked, MOST_PHOTOS))
    with ThreadPoolExecutor(TOGETHER) as pool:
        return list(progress.tqdm(pool.map(row, photos), total=len(photos)))


def unpack(path):
    """Yields a name, `path`, and a function that opens the file: for the photo there, or for each photo of the zip."""
    name = Path(path).name
    if not zipfile.is_zipfile(path):
        yield name, path, lambda: path
        return
    try:
        members = members_of(path)
    except PhotoError as error:
        yield name, path, partial(refuse, error)
        return
    for member in members:
        yield f"{name}/{member.filename}", path, partial(photo_of, path, member)


def members_of(path):
    """What is to be captioned of a zip, as `zipfile.ZipInfo`s. Raises `PhotoError`."""
    name = Path(path).name
    # Each file of a zip's list begins with these four bytes; a photo that holds them by chance counts as one, too.
    if Path(path).read_bytes().count(b"PK\x01\x02") > MOST_FILES:
        raise PhotoError(f"{name} has more than {MOST_FILES} files; pack fewer.")
    try:
        with zipfile.ZipFile(path) as archive:
            return [member for member in archive.infolist() if not member.is_dir() and not hidden(member.filename)]
    except BROKEN_ZIP as error:
        raise PhotoError(f"{name} cannot be unpacked; pack it anew, without a password.") from error


def refuse(error):
    raise error


def hidden(name):
    """What computers put into zips unasked."""
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def photo_of(path, member):
    """A photo of a zip, as a file in memory that knows its name. Raises `PhotoError`."""
    if member.file_size > MOST_BYTES:
        raise PhotoError(f"{member.filename} is larger than {MOST_BYTES / 1e6:g} MB; make it smaller.")
    try:
        with zipfile.ZipFile(path) as archive:
            file = io.BytesIO(archive.read(member))
    except BROKEN_ZIP as error:
        raise PhotoError(f"{member.filename} cannot be unpacked; pack it anew, without a password.") from error
    file.name = member.filename
    return file


def write(rows):
    """The rows as CSV and as JSONL, in new files; Gradio deletes them with the visitor's photos."""
    folder = Path(tempfile.mkdtemp(dir=get_upload_folder()))
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "captions.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder / "captions.csv", folder / "captions.jsonl"
