"""The page: a photo, its caption, and where the model looked for each of its words.

`python app.py` opens it at http://127.0.0.1:7860 with the captioner of this repository; `--help` lists the options.
"""

import argparse
import importlib.util
import os
import sys

from caption import SHIPPED, complain, load_captioner

# Gradio and what else is slow to import is imported where it is used, so that --help and wrong usage answer at once.


def main():
    options = parse_options()
    from huggingface_hub.errors import StrictDataclassError

    try:
        if options.mcp and not importlib.util.find_spec("mcp"):
            raise ValueError("--mcp needs the package mcp; install it with pip install 'gradio[mcp]'.")
        if options.corrections:
            os.makedirs(options.corrections, exist_ok=True)
        model, processor = load_captioner(options.model, None, "float32")
    except (ValueError, OSError, StrictDataclassError) as error:
        complain(error)
        return 1
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # asked as soon as Gradio is imported
    from demo.page import build_page

    page, look = build_page(model, processor, options.corrections)
    try:
        page.launch(
            server_name=options.host,
            server_port=options.port,
            share=options.share,
            mcp_server=options.mcp,
            max_file_size="500mb",
            **look,
        )
    except OSError as error:  # the port is taken, or the host is none of this machine's
        complain(error)
        return 1
    return 0


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
    parser.add_argument("--mcp", action="store_true", help="also serve the tool `caption` to agents, over MCP")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
