"""The Gradio demo: upload a photo, see its caption, and where the model looked for each word.

`python app.py` serves it at http://127.0.0.1:7860 with the captioner of this repository; `--help` lists the options.
"""

import argparse
import contextlib
import importlib.util
import os
import signal
import sys
import tempfile
import warnings
from pathlib import Path

from captioning.errors import print_error
from captioning.loading import SHIPPED, check_model

TRAINER = SHIPPED.parent / "train"
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")

# Gradio and other slow modules are imported inside the functions, so that --help and usage errors respond immediately.


def main():
    """Serve the page, or deploy it. Returns the exit status."""
    options = parse_options()
    try:
        if options.deploy:
            print(f"Deployed: {deploy(options)}")
        else:
            check_options(options)
            serve(options)
    except (ValueError, OSError) as error:  # from Gradio: port in use, unknown host, invalid size
        print_error(error)
        return 1
    except ImportError as error:  # from httpx, when something is downloaded
        if "socksio" not in str(error):
            raise
        print_error("The environment names a SOCKS proxy; install the package socksio for it, or unset all_proxy.")
        return 1
    return 0


def check_options(options):
    if options.mcp and not importlib.util.find_spec("mcp"):
        raise ValueError("--mcp needs the package mcp; install it with pip install 'gradio[mcp]'.")
    if options.auth and not all(options.auth.partition(":")):
        raise ValueError("--auth is not of the form NAME:PASSWORD; give both.")
    if options.auth and options.mcp:  # Gradio 6.31 does not protect the MCP endpoint
        raise ValueError("--auth does not protect --mcp; use only one of them.")
    if options.teach and not options.corrections:
        raise ValueError("--teach needs the corrections to learn from; add --corrections DIR.")
    for model in options.model:  # all of them before the first is loaded, which takes seconds
        check_model(model)


def deploy(options):
    """Deploy the page to a Space. Returns the URL of the commit."""
    from publishing import publish, static_site

    model, *others = options.model
    if others:
        raise ValueError("--deploy publishes one captioner; give --model once.")
    if options.static:
        return static_site.deploy_site(options.deploy, model, options.gradio_page)
    return publish.deploy(options.deploy, model)


def serve(options):
    """Serve the page until the process is stopped."""
    if options.corrections:
        os.makedirs(options.corrections, exist_ok=True)
    captioners = {name: (load(model, options.engine), model) for name, model in display_names(options.model).items()}
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when Gradio is imported
    with tempfile.TemporaryDirectory(prefix="captioner-") as folder:
        # A temporary folder for uploaded files, deleted when the server stops.
        os.environ.setdefault("GRADIO_TEMP_DIR", folder)
        exit_on_signals()
        with without_proxies("*"):
            import gradio  # noqa: F401 - already then, it prepares a client for the proxies
        with make_teacher(options) as teacher:
            launch(captioners, options, teacher)


def load(model, engine):
    from captioning.engine import load_engine

    return load_engine(argparse.Namespace(model=model, engine=engine, device=None, dtype=None), {})


def exit_on_signals():
    """Let the signals that end a program, also that of a terminal being closed, delete visitors' photos first."""

    def leave(*_):
        for number in numbers:  # a second one must not interrupt the deleting
            signal.signal(number, signal.SIG_IGN)
        sys.exit(0)

    names = ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGBREAK")  # not all systems have all of them
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    for number in numbers:
        if signal.getsignal(number) != signal.SIG_IGN:  # such as SIGHUP under nohup
            signal.signal(number, leave)


def make_teacher(options):
    """What teaches a copy of the captioner (`demo.teaching.Teacher`), in a context that ends its training; None if off.

    It is on by default where only this computer can open the page.
    """
    host = options.host or os.environ.get("GRADIO_SERVER_NAME", LOCAL_HOSTS[0])
    public = options.share or options.mcp or any(os.environ.get(name) for name in ("GRADIO_SHARE", "GRADIO_ROOT_PATH"))
    local = host in LOCAL_HOSTS and not public
    if not options.corrections or not (local if options.teach is None else options.teach):
        return contextlib.nullcontext()
    from demo.teaching import Teacher

    return contextlib.closing(Teacher(options.model[0], options.corrections, training_command, bool(options.teach)))


def training_command(model, corrections, folder, steps):
    """The trainer's command line for so few photos: it learns them by heart, and validates once, on the same photos."""
    return [
        *(sys.executable, TRAINER, "--model", model, "--data_dir", corrections, "--output_dir", folder),
        *("--max_train_steps", str(steps), "--eval_steps", str(steps), "--checkpointing_steps", str(steps + 1)),
        *("--logging_steps", "1", "--validation_fraction", "0", "--learning_rate", "0.0001"),
    ]


def display_names(models):
    """Map the names that visitors see to the models: the name of a folder without its path, if there is only one."""
    names = [Path(model).resolve().name if os.path.isdir(model) else model for model in models]
    return {model if names.count(name) > 1 else name: model for name, model in zip(names, models, strict=True)}


def launch(captioners, options, teacher):
    from starlette.middleware import Middleware
    from starlette.middleware.gzip import GZipMiddleware
    from starlette.routing import Mount

    from demo.i18n import TEXTS
    from demo.middleware import SecurityMiddleware
    from demo.page import build_page
    from demo.page_metadata import MetadataMiddleware
    from demo.scripts import ROUTE, Scripts
    from demo.uploads import disable_url_downloads, start_cleanup

    page, look = build_page(captioners, options.corrections, options.delete_cache, teacher)
    page.queue(max_size=options.queue_size, default_concurrency_limit=options.concurrency)
    start_cleanup(2 * options.delete_cache)
    if not options.mcp:  # MCP clients pass photos as URLs
        disable_url_downloads()
    title, description = TEXTS["en"]["heading"].removeprefix("# ").split("\n")
    middleware = [
        Middleware(GZipMiddleware, compresslevel=5),
        Middleware(MetadataMiddleware, title, description),
        Middleware(SecurityMiddleware),
    ]
    with without_proxies(*LOCAL_HOSTS if options.share else "*"):
        page.launch(
            server_name=options.host,
            server_port=options.port,
            share=options.share,
            mcp_server=options.mcp,
            max_file_size=options.max_file_size,
            auth=tuple(options.auth.split(":", 1)) if options.auth else None,
            app_kwargs={"middleware": middleware, "routes": [Mount(ROUTE, Scripts())]},
            state_session_capacity=200,  # sessions; the page keeps no session state, which would only use memory
            run_history=False,  # otherwise photos stay in the visitor's browser
            prevent_thread_lock=True,
            **look,
        )
    page.block_thread()


@contextlib.contextmanager
def without_proxies(*hosts):
    """Let requests to `hosts` ("*": all) not go through a proxy that the environment names.

    Gradio asks its own server whether it is there, which a proxy cannot reach or refuses.
    """
    before = {name: os.environ.get(name) for name in ("no_proxy", "NO_PROXY")}
    os.environ |= dict.fromkeys(before, ",".join([*filter(None, before.values()), *hosts]))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model",
        action="append",
        help="a local folder, or a name on the Hub; give it several times to compare captioners side by side "
        f"(default: {SHIPPED})",
    )
    parser.add_argument(
        "--engine",
        choices=["onnx", "torch"],
        help="torch: PyTorch; onnx: onnxruntime in int8, which starts faster and needs less memory (default: onnx if "
        "the captioner has an ONNX export and there is no accelerator)",
    )
    parser.add_argument("--host", help="address to listen on; 0.0.0.0 for all networks (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (default: the first free port from 7860)")
    parser.add_argument("--share", action="store_true", help="create a public link through Gradio's tunnel")
    parser.add_argument(
        "--corrections",
        metavar="DIR",
        help="let visitors correct captions, and save the photos and corrections to DIR (default: save nothing)",
    )
    parser.add_argument(
        "--teach",
        action=argparse.BooleanOptionalAction,
        help="let visitors teach a copy of the captioner from the corrections, and choose which of both answers;"
        " off for strangers (default: on if only this computer can open the page)",
    )
    parser.add_argument("--deploy", metavar="NAME", help="deploy the page and model to the Space NAME, then exit")
    parser.add_argument(
        "--static",
        action="store_true",
        help="with --deploy: a page without a server, which runs the model in the visitor's browser",
    )
    parser.add_argument("--gradio_page", metavar="URL", help="with --static: the address of a page to link to")
    parser.add_argument("--mcp", action="store_true", help="also serve `caption` as an MCP tool")
    limits = parser.add_argument_group("limits for a public page")
    limits.add_argument(
        "--auth",
        metavar="NAME:PASSWORD",
        default=os.environ.get("CAPTIONER_AUTH"),
        help="require this login (default: the environment variable CAPTIONER_AUTH, or no login)",
    )
    limits.add_argument(
        "--max_file_size", metavar="SIZE", default="100mb", help="maximum upload size (default: %(default)s)"
    )
    limits.add_argument(
        "--queue_size",
        type=int,
        metavar="N",
        default=500,
        help="maximum number of queued requests (default: %(default)s)",
    )
    limits.add_argument(
        "--concurrency",
        type=int,
        metavar="N",
        default=16,
        help="photos processed concurrently; the model captions them as a batch (default: %(default)s)",
    )
    limits.add_argument(
        "--delete_cache",
        type=int,
        metavar="SECONDS",
        default=3600,
        help="delete uploaded files when they are this old, at the latest at twice the age (default: %(default)s)",
    )
    options = parser.parse_args()
    if options.static and not options.deploy:
        parser.error("--static needs --deploy NAME; python -m publishing.static_site FOLDER builds the page here")
    if options.gradio_page and not options.static:
        parser.error("--gradio_page needs --static")
    options.model = options.model or [str(SHIPPED)]
    return options


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module="PIL")  # of harmless metadata of photos
    sys.exit(main())
