"""Build the page without a server: a folder of files that any file server or static Space can serve.

    python -m publishing.static_site SITE
    python -m http.server --directory SITE

The captioner runs in the visitor's browser, with its ONNX export and onnxruntime-web, which is fetched from npm once.
The page is `web/`; its viewer, scripts, texts and examples are those of `demo/`.
"""

import argparse
import base64
import gzip
import hashlib
import html
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import timm
from PIL import Image, ImageDraw, ImageOps
from safetensors import safe_open

from captioning.engine import download_export
from captioning.errors import print_error
from captioning.loading import SHIPPED, check_model
from captioning.opening import choose_opening
from modeling_captioner import open_photo
from modeling_captioner.onnx_captioner import OnnxCaptioner
from modeling_captioner.onnx_files import find_onnx
from modeling_captioner.onnx_search import check_settings

from . import hub

ROOT = Path(__file__).parents[1]
DEMO, WEB = ROOT / "demo", ROOT / "web"
MODEL_FILES = ("config.json", "generation_config.json", "processor_config.json")
RUNTIME = "onnxruntime-web", "1.30.0"
RUNTIME_SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
# Modules are stored as .js: some servers do not know .mjs. The second build, for GPUs, is loaded for many photos.
RUNTIME_FILES = (
    *("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    *("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
)
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
PACKED = ".gzip"  # not .gz, which some servers announce as compressed text, so that browsers unpack it
IMPORT = re.compile(r'^import .* from "\./(\w+\.js)";$', re.MULTILINE)
BILINEAR = 2  # the resampling of web/resize.js, as Pillow numbers it


def build_site(folder, source=SHIPPED, gradio_page=None, address=""):
    """Write the site with the captioner `source` (a folder or a name on the Hub) to `folder`.

    `gradio_page`: the address of a page made by `app.py`, which the site links to, or None. `address`: where the site
    will be, for those who show a preview of a link to it.

    Raises `ValueError` if the captioner has no ONNX export or cannot run in a browser, `OSError` if onnxruntime-web
    cannot be downloaded or a file cannot be written.
    """
    folder = Path(folder)
    runtime = fetch_runtime()
    for part in (folder, folder / "examples", folder / "onnxruntime"):
        part.mkdir(parents=True, exist_ok=True)
    source = find_model(source)
    large = copy_model(source, folder) | copy_runtime(runtime, folder)
    write(folder / "large_files.json", json.dumps(large))
    examples = sorted(DEMO.glob("examples/*.jpg"))
    for file in [*WEB.iterdir(), *DEMO.glob("*.js"), DEMO / "texts.json", ROOT / "LICENSE"]:
        shutil.copyfile(file, folder / file.name)
    for file in examples:
        shutil.copyfile(file, folder / "examples" / file.name)
    write(folder / "opening.json", json.dumps(caption_opening(source)))
    write(folder / "network.json", json.dumps(describe_network(source)))
    draw_pictures(folder)
    parts = {
        "viewer": read("attention_viewer.html"),
        "lecture": read("how_it_works.html"),
        "examples": example_buttons(examples),
        "more": link(gradio_page),
        "address": html.escape(address and address.rstrip("/") + "/"),
        "preloads": preloads(folder),
    }
    index = (WEB / "index.html").read_text(encoding="utf-8")
    for name, part in parts.items():
        index = index.replace(f"<!-- {name} -->", part)
    write(folder / "index.html", index)
    styles = {".attention-viewer": read("attention_viewer.css"), "#how_tab": read("how_it_works.css")}
    write(folder / "viewer.css", "".join(f"{part} {{\n{style}}}\n" for part, style in styles.items()))
    write(folder / "files.js", f"const FILES = {json.dumps(fingerprints(folder), indent=2)};\n")


def deploy_site(name, source, gradio_page=None):
    """Build the site and upload it to the static Space `name`, in one commit. Returns the URL of the commit.

    Raises `HubError`, and what `build_site` raises.
    """
    hub.check_login()
    with tempfile.TemporaryDirectory() as folder:
        build_site(folder, source, gradio_page, space_address(name))
        name = hub.open_repository(name, "space", space_sdk="static")
        return hub.commit(name, site_files(folder), "Page without a server", kind="space")


def space_address(name):
    """Where a static Space will be; "" if `name` does not say whose it is."""
    return f"https://{re.sub('[^a-z0-9]+', '-', name.lower())}.static.hf.space" if "/" in name else ""


def find_model(source):
    """The folder of the captioner `source`, downloaded from the Hub if it is no folder."""
    check_model(str(source))
    return Path(source if Path(source).is_dir() else download_export(source))


def copy_model(source, site):
    """Copy what the browser needs of the captioner in the folder `source`. Returns the sizes of the large files."""
    onnx_files = find_onnx(source)
    if not onnx_files:
        raise ValueError(f"{source} has no ONNX export; make one with python -m publishing.export --onnx.")
    check_settings(json.loads((source / "generation_config.json").read_text(encoding="utf-8")))
    images = json.loads((source / "processor_config.json").read_text(encoding="utf-8"))["image_processor"]
    if images["resample"] != BILINEAR:
        raise ValueError(f"{source} resizes photos with resample={images['resample']}; browsers only do bilinear.")
    (site / "model" / "onnx").mkdir(parents=True, exist_ok=True)
    for name in MODEL_FILES:
        shutil.copyfile(source / name, site / "model" / name)
    sizes = dict(pack(file.read_bytes(), site, f"model/onnx/{file.name}") for file in onnx_files)
    return sizes | dict([pack((source / "tokenizer.json").read_bytes(), site, "model/tokenizer.json")])


def copy_runtime(package, site):
    """Copy what the browser needs of the npm package onnxruntime-web. Returns the sizes of the large files."""
    sizes = {}
    with tarfile.open(package) as archive:
        for name in RUNTIME_FILES:
            content = archive.extractfile(f"package/dist/{name}").read()
            if name.endswith(".wasm"):
                sizes |= [pack(content, site, f"onnxruntime/{name}")]
            else:
                (site / "onnxruntime" / name.replace(".mjs", ".js")).write_bytes(content)
    return sizes


def pack(content, site, path):
    """Write `content` compressed. Returns its path in the site, and its sizes in bytes: compressed and not."""
    packed = gzip.compress(content, mtime=0)
    (site / (path + PACKED)).write_bytes(packed)
    return path + PACKED, (len(packed), len(content))


def caption_opening(source):
    """The captioner's languages, and the answers with which the page opens: one for each, or "only" one."""
    shows = json.loads(read("examples/shows.json"))
    photos = [open_photo(DEMO / "examples" / f"{name}.jpg") for name in shows]
    captioner = OnnxCaptioner(source)
    languages = json.loads((source / "config.json").read_text(encoding="utf-8")).get("languages") or []
    answers = {}
    for language in languages or ["only"]:
        options = {"language": language} if languages else {}
        first, answer, _ = choose_opening([captioner.explain(photo, **options) for photo in photos], shows)
        answers[language] = answer | {"photo": f"examples/{list(shows)[first]}.jpg"}
    return {"languages": languages, "answers": answers}


def describe_network(source):
    """For the lecture: the parameters of the encoder's blocks, of the classifier that was taken off, of the new layers.

    None if there are no weights to count, as in a download of the export alone.
    """
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    counts = {}
    for file in sorted(source.glob("model*.safetensors")):
        with safe_open(file, "numpy") as weights:
            for name in weights.keys():  # noqa: SIM118 - it is no dictionary
                if not name.endswith(BUFFERS):
                    part = name.split(".")[: 3 if name.startswith("encoder.backbone.") else 2]
                    key = ".".join(part)
                    counts[key] = counts.get(key, 0) + math.prod(weights.get_slice(name).get_shape())
    if not counts:
        return None
    backbone = timm.create_model(config["encoder_name"], features_only=False)
    blocks = [(name, f"encoder.backbone.{name}") for name, _ in backbone.named_children()]
    new = sorted((not key.startswith("encoder."), key) for key in counts if not key.startswith("encoder.backbone."))
    classes = backbone.default_cfg["num_classes"]
    return {
        "blocks": [{"name": name, "parameters": counts[key]} for name, key in blocks if key in counts],
        "classifier": {"classes": classes, "parameters": (backbone.num_features + 1) * classes},
        "layers": [{"name": key.split(".")[1], "parameters": counts[key]} for _, key in new],
        "trained_from": config.get("encoder_trained_from"),
    }


def draw_pictures(folder):
    """Draw the pictures that others show of the site: its icon, and the preview of a link to it."""
    icon = Image.new("RGB", (512, 512), "#4f46e5")
    draw = ImageDraw.Draw(icon)
    for center, start in ((400, 211), (112, 31)):  # the lids, two arcs
        draw.chord((256 - 244, center - 244, 256 + 244, center + 244), start, start + 118, fill="white")
    draw.circle((256, 256), 96, fill="#1e1b4b")
    draw.circle((288, 224), 32, fill="#ffd84d")
    icon.save(folder / "icon.png")
    preview = Image.new("RGB", (1200, 630), "#f8fafc")
    for number, file in enumerate(sorted(DEMO.glob("examples/*.jpg"))):
        photo = ImageOps.fit(open_photo(file), (400, 315))
        preview.paste(photo, (400 * (number % 3), 315 * (number // 3)))
    preview.paste(icon.resize((240, 240)), (480, 195))
    preview.save(folder / "preview.jpg", quality=85)


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


def preloads(folder):
    """Links to the page's modules, so that the browser does not wait for one before it knows of the next."""
    names = ["page.js"]
    for name in names:  # grows
        imports = IMPORT.findall((folder / name).read_text(encoding="utf-8"))
        names += [other for other in imports if other not in names]
    return "\n  ".join(f'<link rel="modulepreload" href="{name}">' for name in names)


def example_buttons(photos):
    button = '<button type="button" aria-label="{0}" data-example="{0}"><img src="examples/{0}.jpg" alt=""></button>'
    return "\n".join(button.format(photo.stem) for photo in photos)


def link(address):
    more = f'<a href="{html.escape(address)}" data-text="gradio_page"></a>' if address else ""
    return more or '<p data-text="server_only"></p>'


def fingerprints(folder):
    """{path: the beginning of the SHA-256 of its content} of the files that the service worker keeps."""
    files = site_files(folder)
    # Browsers look after the first two, and visitors do not see the others.
    keep = files.keys() - {"service_worker.js", "files.js", "README.md", "LICENSE", "preview.jpg"}
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
    parser.add_argument("--address", default="", metavar="URL", help="Where the site will be, for previews of links.")
    parser.add_argument("--gradio_page", metavar="URL", help="The address of a page of app.py, to link to.")
    options = parser.parse_args(arguments)
    try:
        build_site(options.folder, options.model, options.gradio_page, options.address)
    except (ValueError, OSError) as error:
        print_error(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
