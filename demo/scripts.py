"""The page's scripts: ES modules, which the browser loads as they are from `ROUTE`, beside their texts."""

import json
from pathlib import Path

from starlette.staticfiles import StaticFiles

FOLDER = Path(__file__).parent
ROUTE = "/scripts"
FILES = {path.name for path in [*FOLDER.glob("*.js"), FOLDER / "texts.json"]}
# So that the browser does not wait for one module before it knows of the next.
PRELOADS = "".join(
    f'<link rel="modulepreload" href=".{ROUTE}/{name}">' for name in sorted(FILES) if name.endswith(".js")
)


class Scripts(StaticFiles):
    """Serves the scripts and texts, and no other file of this folder."""

    def __init__(self):
        super().__init__(directory=FOLDER)

    def lookup_path(self, path):
        return super().lookup_path(path) if path in FILES else ("", None)

    def file_response(self, *arguments, **options):
        response = super().file_response(*arguments, **options)
        response.headers["Cache-Control"] = "no-cache"  # ask whether it has changed: a new version may need new texts
        return response


def mount(file, function, events=()):
    """The script of a Gradio component that calls a function of a module with what Gradio gives to scripts.

    `events` are those that the function triggers; Gradio offers the events whose names it finds in the script.
    """
    context = "{ element, props, trigger, server, upload, watch }"
    return f"{load(file)}.then((module) => module.{function}({context})); // {json.dumps(events)}"


def call(file, function, *arguments):
    """The JavaScript of an event that calls a function of a module with these arguments."""
    return f"async () => (await {load(file)}).{function}(...{json.dumps(arguments)})"


def load(file):
    # Relative to the page, which may lie below a root path; an import in a script without a file has no address.
    return f'import(new URL(".{ROUTE}/{file}", document.baseURI))'
