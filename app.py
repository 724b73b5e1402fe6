"""The page: a photo, its caption, and where the model looked for each of its words.

`python app.py` opens it at http://127.0.0.1:7860 with the captioner of this repository; `--help` lists the options.
"""

import argparse
import importlib.util
import os
import signal
import sys
import tempfile

from captioning.errors import print_error
from captioning.loading import SHIPPED, load_captioner

# Gradio and what else is slow to import is imported where it is used, so that --help and wrong usage answer at once.


def main():
    """Open the page, or deploy it. Returns the exit status."""
    options = parse_options()
    try:
        if options.deploy:
            from publishing.publish import deploy

            print(f"Deployed: {deploy(options.deploy, options.model)}")
        else:
            check_options(options)
            serve(options)
    except (ValueError, OSError) as error:  # also: the port is taken, the host is none of this machine's, no such size
        print_error(error)
        return 1
    return 0


def check_options(options):
    if options.mcp and not importlib.util.find_spec("mcp"):
        raise ValueError("--mcp needs the package mcp; install it with pip install 'gradio[mcp]'.")
    if options.auth and not all(options.auth.partition(":")):
        raise ValueError("--auth needs a name and a password: NAME:PASSWORD.")
    if options.auth and options.mcp:  # Gradio (6.31) asks nobody there
        raise ValueError("Agents bring no password: leave out --mcp or --auth.")


def serve(options):
    """Open the page, and stay until it is stopped."""
    if options.corrections:
        os.makedirs(options.corrections, exist_ok=True)
    model, processor = load_captioner(options.model, None, "float32")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # asked as soon as Gradio is imported
    with tempfile.TemporaryDirectory(prefix="captioner-") as folder:
        # A folder of the page's own for visitors' files, gone when the page ends.
        os.environ.setdefault("GRADIO_TEMP_DIR", folder)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        launch(model, processor, options)


def launch(model, processor, options):
    from demo.guard import fetch_nothing, guards, sweep
    from demo.page import build_page

    page, look = build_page(model, processor, options.corrections, options.delete_cache)
    page.queue(max_size=options.queue_size, default_concurrency_limit=options.concurrency)
    sweep(2 * options.delete_cache)
    if not options.mcp:  # agents name photos by their addresses
        fetch_nothing()
    page.launch(
        server_name=options.host,
        server_port=options.port,
        share=options.share,
        mcp_server=options.mcp,
        max_file_size=options.max_file_size,
        auth=tuple(options.auth.split(":", 1)) if options.auth else None,
        app_kwargs={"middleware": guards()},
        state_session_capacity=200,  # of visitors; memory grew with each, and this page needs none of it
        run_history=False,  # or a visitor's photos would stay in the browser
        **look,
    )


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(SHIPPED), help="a folder, or a name on the Hub (default: %(default)s)")
    parser.add_argument("--host", help="address to listen on; 0.0.0.0 for every network (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (default: the first free one from 7860)")
    parser.add_argument("--share", action="store_true", help="also open a public address through Gradio's tunnel")
    parser.add_argument(
        "--corrections",
        metavar="DIR",
        help="let visitors correct captions, and keep their photos and words in DIR (default: nothing is kept)",
    )
    parser.add_argument("--deploy", metavar="NAME", help="put page and model into the Space NAME on the Hub, and end")
    parser.add_argument("--mcp", action="store_true", help="also serve the tool `caption` to agents, over MCP")
    limits = parser.add_argument_group("limits of a public page")
    limits.add_argument(
        "--auth",
        metavar="NAME:PASSWORD",
        default=os.environ.get("CAPTIONER_AUTH"),
        help="let in only who knows these (default: the environment's CAPTIONER_AUTH, or everyone)",
    )
    limits.add_argument(
        "--max_file_size", metavar="SIZE", default="100mb", help="of a photo or zip (default: %(default)s)"
    )
    limits.add_argument(
        "--queue_size", type=int, metavar="N", default=500, help="requests that may wait (default: %(default)s)"
    )
    limits.add_argument(
        "--concurrency",
        type=int,
        metavar="N",
        default=16,
        help="photos that are read at once; the model takes them together (default: %(default)s)",
    )
    limits.add_argument(
        "--delete_cache",
        type=int,
        metavar="SECONDS",
        default=3600,
        help="visitors' files are deleted after so long, at most twice as long (default: %(default)s)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
