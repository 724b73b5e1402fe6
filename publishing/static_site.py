"""Build the page without a server: a folder of files that any file server or static Space can serve.

    python -m publishing.static_site SITE
    python -m http.server --directory SITE

The captioner runs in the visitor's browser, with its ONNX export and onnxruntime-web, which is fetched from npm once.
The page is `web/`; its viewer, scripts, texts and examples are those of `demo/`.
"""

import argparse
import base64
import hashlib
import html
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from captioning.engine import download_export
from captioning.errors import print_error
from captioning.loading import SHIPPED, check_model
from captioning.onnx_files import find_onnx
from captioning.search import check_settings

from . import hub

ROOT = Path(__file__).parents[1]
DEMO, WEB = ROOT / "demo", ROOT / "web"
MODEL_FILES = ("config.json", "generation_config.json", "processor_config.json", "tokenizer.json")
RUNTIME = "onnxruntime-web", "1.30.0"
RUNTIME_SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
RUNTIME_FILES = (
    *("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    *("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
)
BILINEAR = 2  # the resampling of web/resize.js, as Pillow numbers it


def build_site(folder, source=SHIPPED, gradio_page=None):
    """Write the site with the captioner `source` (a folder or a name on the Hub) to `folder`.

    `gradio_page`: the address of a page made by `app.py`, which the site links to, or None.

    Raises `ValueError` if the captioner has no ONNX export or cannot run in a browser, `OSError` if onnxruntime-web
    cannot be downloaded or a file cannot be written.
    """
    folder = Path(folder)
    runtime = fetch_runtime()
    for part in (folder, folder / "examples", folder / "onnxruntime"):
        part.mkdir(parents=True, exist_ok=True)
    copy_model(source, folder / "model")
    with tarfile.open(runtime) as package:
        for name in RUNTIME_FILES:
            (folder / "onnxruntime" / name).write_bytes(package.extractfile(f"package/dist/{name}").read())
    examples = sorted(DEMO.glob("examples/*.jpg"))
    for file in [*WEB.iterdir(), *DEMO.glob("*.js"), DEMO / "texts.json", ROOT / "LICENSE"]:
        shutil.copyfile(file, folder / file.name)
    for file in examples:
        shutil.copyfile(file, folder / "examples" / file.name)
    parts = {"viewer": read("attention_viewer.html"), "examples": example_buttons(examples), "more": link(gradio_page)}
    index = (WEB / "index.html").read_text(encoding="utf-8")
    for name, part in parts.items():
        index = index.replace(f"<!-- {name} -->", part)
    write(folder / "index.html", index)
    write(folder / "viewer.css", f"#viewer {{\n{read('attention_viewer.css')}}}\n")
    write(folder / "files.js", f"const FILES = {json.dumps(fingerprints(folder), indent=2)};\n")


def deploy_site(name, source, gradio_page=None):
    """Build the site and upload it to the static Space `name`, in one commit. Returns the URL of the commit.

    Raises `HubError`, and what `build_site` raises.
    """
    hub.check_login()
    with tempfile.TemporaryDirectory() as folder:
        build_site(folder, source, gradio_page)
        name = hub.open_repository(name, "space", space_sdk="static")
        return hub.commit(name, site_files(folder), "Page without a server", kind="space")


def copy_model(source, folder):
    """Copy what the browser needs of the captioner `source` to `folder`."""
    check_model(str(source))
    source = Path(source if Path(source).is_dir() else download_export(source))
    onnx_files = find_onnx(source)
    if not onnx_files:
        raise ValueError(f"{source} has no ONNX export; make one with python -m publishing.export --onnx.")
    check_settings(json.loads((source / "generation_config.json").read_text(encoding="utf-8")))
    images = json.loads((source / "processor_config.json").read_text(encoding="utf-8"))["image_processor"]
    if images["resample"] != BILINEAR:
        raise ValueError(f"{source} resizes photos with resample={images['resample']}; browsers only do bilinear.")
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    for name in MODEL_FILES:
        shutil.copyfile(source / name, folder / name)
    for file in onnx_files:
        shutil.copyfile(file, folder / "onnx" / file.name)


def fetch_runtime():
    """The path of the npm package onnxruntime-web, downloaded with npm unless it is in the cache.

    Raises `OSError` if it cannot be downloaded or is not the package whose hash is known.
    """
    name, version = RUNTIME
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "captioner")
    file = cache / f"{name}-{version}.tgz"
    if not file.exists():
        npm = shutil.which("npm") or shutil.which("npm", path=Path(sys.executable).parent)
        remedy = f"or put {name}-{version}.tgz from npm into {cache}."
        if not npm:
            raise OSError(f"npm, which downloads {name}, is missing; install Node.js, {remedy}")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as part:
            command = [npm, "pack", "--loglevel=error", f"{name}@{version}", "--pack-destination", part]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["unknown reason"])[0]
                raise OSError(f"{name} could not be downloaded ({reason}); try again later, {remedy}")
            Path(part, file.name).replace(file)
    if base64.b64encode(hashlib.sha512(file.read_bytes()).digest()).decode() != RUNTIME_SHA512:
        raise OSError(f"{file} is damaged or another package; delete it, and it is downloaded again.")
    return file


def example_buttons(photos):
    button = '<button type="button" aria-label="{0.stem}"><img src="examples/{0.name}" alt=""></button>'
    return "\n".join(button.format(photo) for photo in photos)


def link(address):
    return f'<a href="{html.escape(address)}" data-text="gradio_page"></a>' if address else ""


def fingerprints(folder):
    """{path: the beginning of the SHA-256 of its content} of the files that the service worker keeps."""
    files = site_files(folder)
    keep = files.keys() - {"service_worker.js", "files.js", "README.md", "LICENSE"}  # browsers look after the first two
    return {name: hashlib.sha256(files[name].read_bytes()).hexdigest()[:16] for name in sorted(keep)}


def site_files(folder):
    """{path relative to `folder`: path} of all files in it."""
    return {path.relative_to(folder).as_posix(): path for path in Path(folder).rglob("*") if path.is_file()}


def read(name):
    return (DEMO / name).read_text(encoding="utf-8")


def write(file, text):
    file.write_text(text, encoding="utf-8", newline="\n")


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m publishing.static_site", description="Build the page without a server."
    )
    parser.add_argument("folder", help="Where to; serve it with python -m http.server --directory FOLDER.")
    parser.add_argument(
        "--model", default=str(SHIPPED), help="A local folder, or a name on the Hub. Default: the shipped captioner."
    )
    parser.add_argument("--gradio_page", metavar="URL", help="The address of a page of app.py, to link to.")
    options = parser.parse_args(arguments)
    try:
        build_site(options.folder, options.model, options.gradio_page)
    except (ValueError, OSError) as error:
        print_error(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
