"""Visitors' uploads: which files may be opened, what visitors see if opening fails, and when files are deleted."""

import os
import threading
import time
from pathlib import Path

import gradio as gr
from gradio import processing_utils
from gradio.utils import get_upload_folder

from demo.i18n import translate_error
from modeling_captioner import PhotoError, open_photo


def check_upload(path):
    """Return the path if it is inside the upload folder. Raises `gr.Error` for any other file on the server.

    Gradio (6.31) checks only paths that are marked as files, and an API client can omit the mark.
    """
    if not Path(path).resolve().is_relative_to(Path(get_upload_folder()).resolve()):
        raise gr.Error("Upload the photo: files on the server cannot be captioned.")
    return path


def open_upload(path, language="en", side=None):
    """Open the photo at `path` with `open_photo`. Raises `gr.Error`, which Gradio shows to the visitor."""
    try:
        return open_photo(path, side=side)
    except PhotoError as error:
        raise gr.Error(error_message(error, path, language)) from error


def error_message(error, path, language="en"):
    """The error in the visitor's language, with the file's name instead of its path on the server."""
    return translate_error(str(error).replace(str(path), Path(path).name), language)


def disable_url_downloads():
    """Make Gradio refuse URLs in place of files.

    Gradio (6.31) downloads any URL outside private networks, for any input and of any size. There is no option to turn
    this off, so the function that all its components call is replaced.
    """

    async def refuse(url, cache_dir):
        raise gr.Error("Upload the photo: this page does not download URLs.")

    processing_utils.async_ssrf_protected_download = refuse


def total_upload_bytes():
    """The disk space that all uploads take."""
    return sum(file_size(path) for path in walk(get_upload_folder()))


def walk(folder):
    """Yield all paths in the folder, files before the directories that contain them; some may no longer exist."""
    for parent, folders, files in os.walk(folder, topdown=False):  # ignores what is deleted in the meantime
        for name in files + folders:
            yield os.path.join(parent, name)


def file_size(path):
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0


def start_cleanup(max_age):
    """Start a thread that deletes uploads older than `max_age` seconds.

    It covers what Gradio's `delete_cache` misses, such as interrupted uploads. Files that already exist, i.e. the
    examples, are kept.
    """
    folder = get_upload_folder()
    existing = set(walk(folder))

    def run():
        while True:
            time.sleep(min(max_age, 60))
            for path in walk(folder):
                if path not in existing:
                    delete_if_older(path, max_age)

    threading.Thread(target=run, daemon=True).start()


def delete_if_older(path, max_age):
    try:
        if os.lstat(path).st_ctime < time.time() - max_age:
            os.rmdir(path) if os.path.isdir(path) else os.unlink(path)
    except OSError:  # already deleted, or a directory that is not empty
        pass
