"""The tab that captions a batch of photos: images and zip archives in, a table, CSV and JSONL out."""

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

from captioning.spreadsheets import BYTE_ORDER_MARK, csv_line
from demo.i18n import TEXTS, get_language
from demo.predict import MAX_DISPLAY_SIDE
from demo.uploads import check_upload, error_message
from modeling_captioner import PhotoError, open_photo

COLUMNS = ("file", "caption", "log_probability", "problem")
MAX_PHOTOS = 1000
MAX_PHOTO_BYTES = 50_000_000  # after decompression
MAX_ARCHIVE_FILES = 5000  # the directory is parsed again for each photo; with a million files it takes a gigabyte
NUM_WORKERS = 8
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,  # encrypted; its subclass NotImplementedError: unknown compression method
    OSError,
    ValueError,
)
# Formats numbers as the browser's language does. Sorting still uses the values.
FORMAT_TABLE = """(table) => {
    const number = new Intl.NumberFormat(navigator.language, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
    const format = (value) => (typeof value === "number" ? number.format(value) : value);
    return { ...table, metadata: { display_value: table.data.map((row) => row.map(format)) } };
}"""


def add_batch_tab(explain, translate):
    """Add the tab's inputs, table and downloads. `explain(photo)` returns an `Explanation`."""
    translate(gr.Markdown(), value="batch_intro")
    files = gr.File(file_count="multiple", file_types=["image", ".zip"], elem_id="files")
    files.preprocess = lambda payload: [check_upload(file.path) for file in payload.root] if payload else []
    start = translate(gr.Button(variant="primary", elem_id="start"), value="batch_start")
    widths = ["24%", "34%", "20%", "22%"]
    table = gr.Dataframe(column_widths=widths, interactive=False, wrap=True, elem_id="table")
    with gr.Row():
        csv_button = translate(gr.DownloadButton(interactive=False, elem_id="csv"), label="batch_csv")
        jsonl_button = translate(gr.DownloadButton(interactive=False, elem_id="jsonl"), label="batch_jsonl")
    translate(files, label="batch_files")
    translate(table, label="batch_table", value="batch_empty")

    def run(request: gr.Request, paths, progress=gr.Progress()):  # noqa: B008 - Gradio looks for it in the defaults
        language = get_language(request)
        rows = caption_files(explain, paths, language, progress)
        data = [[row[column] for column in COLUMNS] for row in rows]
        downloads = [gr.DownloadButton(value=file, interactive=True) for file in write_files(rows)]
        return TEXTS[language]["batch_empty"] | {"data": data}, *downloads

    private = {"api_visibility": "private"}
    done = start.click(run, files, [table, csv_button, jsonl_button], concurrency_limit=1, **private)
    done.then(None, table, table, js=FORMAT_TABLE, **private)


def caption_files(explain, paths, language, progress):
    """Caption all photos in order. Returns one row per photo: its caption, or the problem in the visitor's language."""

    def caption(item):
        name, path, get_source = item
        try:
            explanation = explain(open_photo(get_source(), side=MAX_DISPLAY_SIDE))
        except PhotoError as error:
            return dict(zip(COLUMNS, (name, "", None, error_message(error, path, language)), strict=True))
        return dict(zip(COLUMNS, (name, explanation.caption, explanation.log_probability, ""), strict=True))

    found = itertools.chain.from_iterable(map(list_photos, paths[:MAX_PHOTOS]))
    photos = list(itertools.islice(found, MAX_PHOTOS))
    with ThreadPoolExecutor(NUM_WORKERS) as pool:
        rows = list(progress.tqdm(pool.map(caption, photos), total=len(photos)))
    if rest := sum(1 for _ in found) + len(paths[MAX_PHOTOS:]):
        problem = TEXTS[language]["batch_rest"].format(rest)
        rows.append(dict(zip(COLUMNS, ("…", "", None, problem), strict=True)))
    return rows


def list_photos(path):
    """Yield (name, `path`, function that returns a source for `open_photo`) for the photo or each photo of the zip."""
    name = Path(path).name
    if not zipfile.is_zipfile(path):
        yield name, path, lambda: path
        return
    try:
        members = list_members(path)
    except PhotoError as error:
        yield name, path, partial(reraise, error)
        return
    for member in members:
        yield f"{name}/{member.filename}", path, partial(read_member, path, member)


def list_members(path):
    """The files of a zip archive that are to be captioned, as `zipfile.ZipInfo`s. Raises `PhotoError`."""
    name = Path(path).name
    # Count the signatures of directory entries before parsing them. The same four bytes inside a photo count as well.
    if Path(path).read_bytes().count(b"PK\x01\x02") > MAX_ARCHIVE_FILES:
        raise PhotoError(f"{name} has more than {MAX_ARCHIVE_FILES} files; put fewer files into it.")
    try:
        with zipfile.ZipFile(path) as archive:
            return [info for info in archive.infolist() if not info.is_dir() and not is_hidden(info.filename)]
    except ZIP_ERRORS as error:
        raise PhotoError(f"{name} cannot be unzipped; create the zip again, without a password.") from error


def reraise(error):
    raise error


def is_hidden(name):
    """Whether it is a file that operating systems add to zip archives, such as .DS_Store."""
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def read_member(path, member):
    """Read a photo of a zip archive into an in-memory file that has a name. Raises `PhotoError`."""
    if member.file_size > MAX_PHOTO_BYTES:
        raise PhotoError(f"{member.filename} is larger than {MAX_PHOTO_BYTES / 1e6:g} MB; make it smaller.")
    try:
        with zipfile.ZipFile(path) as archive:
            file = io.BytesIO(archive.read(member))
    except ZIP_ERRORS as error:
        raise PhotoError(f"{member.filename} cannot be unzipped; create the zip again, without a password.") from error
    file.name = member.filename
    return file


def write_files(rows):
    """Write the rows as CSV and JSONL into the upload folder, where they are deleted together with the photos."""
    folder = Path(tempfile.mkdtemp(dir=get_upload_folder()))
    table = [csv_line(*COLUMNS), *(csv_line(*(row[column] for column in COLUMNS)) for row in rows)]
    text = BYTE_ORDER_MARK + "".join(f"{line}\r\n" for line in table)
    (folder / "captions.csv").write_text(text, encoding="utf-8", newline="")
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "captions.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder / "captions.csv", folder / "captions.jsonl"
