"""A Python process that answers requests, so that its imports are paid only once for many tests."""

import contextlib
import json
import subprocess
import sys

from tests.helpers.paths import ROOT


@contextlib.contextmanager
def json_worker(code, environment):
    """Run Python code that answers each line of JSON on standard input with one on standard output.

    Yields a function that sends a request and returns the answer.
    """
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    worker = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, **pipes)

    def ask(request):
        worker.stdin.write(json.dumps(request) + "\n")
        worker.stdin.flush()
        return json.loads(worker.stdout.readline())

    yield ask
    worker.stdin.close()
    worker.wait(60)
