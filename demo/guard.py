"""What stands between a public page and the world: headers, the size of what comes in, and what stays on the disk."""

import os
import threading
import time

import gradio as gr
from gradio import processing_utils
from gradio.utils import get_upload_folder
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse

MOST_REQUEST_BYTES = 2_000_000  # of whatever is not an upload
MOST_STORED_BYTES = 5_000_000_000  # of visitors' files together
UPLOADS = "/upload"
# Gradio's own recorder and its relay of addresses on other servers, which this page does not use.
CLOSED = ("/process_recording", "/proxy=", "/file=http:", "/file=https:", "/stream/")
HEADERS = {
    "X-Content-Type-Options": "nosniff",  # what is said to be text is not run
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "geolocation=(), microphone=(), payment=(), usb=()",
}


class Guard:
    """ASGI middleware: closes what the page does not use, limits requests, adds headers."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = scope["path"].lower().replace("/gradio_api", "", 1)
        if path.startswith(CLOSED):
            return await PlainTextResponse("This page does not offer that.", 404)(scope, receive, send)
        allowed = MOST_REQUEST_BYTES
        if path.startswith(UPLOADS):
            allowed = MOST_STORED_BYTES - stored_bytes()
            if allowed <= 0:
                full = PlainTextResponse("The page holds too many photos; try again in an hour.", 503)
                return await full(scope, receive, send)

        async def limited():
            nonlocal allowed
            message = await receive()
            allowed -= len(message.get("body", b""))
            if allowed < 0:
                raise HTTPException(413, "The request is too large; send less at once.")
            return message

        async def with_headers(message):
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, limited, with_headers)
        except HTTPException as error:
            await PlainTextResponse(error.detail, error.status_code)(scope, receive, send)


def guards():
    return [Middleware(Guard)]


def fetch_nothing():
    """From now on no address that a visitor names in place of a photo is fetched.

    Gradio (6.31) would, for any input of the page, from any server but those of inner networks, and whatever the size.
    Its own function is replaced because all its components fetch by it, and there is no option.
    """

    async def refuse(url, cache_dir):
        raise gr.Error("Send the photo itself: this page fetches no addresses.")

    processing_utils.async_ssrf_protected_download = refuse


def stored_bytes():
    """What visitors' files take on the disk."""
    return sum(size_of(path) for path in stored(get_upload_folder()))


def stored(folder):
    """The paths of what is in the folder, files before the folders that hold them; some may be gone by now."""
    for parent, folders, files in os.walk(folder, topdown=False):  # which passes over what vanishes meanwhile
        for name in files + folders:
            yield os.path.join(parent, name)


def size_of(path):
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0


def sweep(seconds):
    """From now on delete visitors' files that Gradio's `delete_cache` does not know of, such as uploads that were
    broken off, when they are older than `seconds`. What lies there now, the examples, stays."""
    folder = get_upload_folder()
    kept = set(stored(folder))

    def work():
        while True:
            time.sleep(min(seconds, 60))
            for path in stored(folder):
                if path not in kept:
                    delete_if_older(path, seconds)

    threading.Thread(target=work, daemon=True).start()


def delete_if_older(path, seconds):
    try:
        if os.lstat(path).st_ctime < time.time() - seconds:
            os.rmdir(path) if os.path.isdir(path) else os.unlink(path)
    except OSError:  # gone meanwhile, or a folder that is not empty
        pass
