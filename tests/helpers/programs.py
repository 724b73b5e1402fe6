"""Programs in processes of their own that are forked from one which has imported PyTorch, so that they start at once.

Importing PyTorch, transformers and Gradio takes 5 to 10 s of a core; dozens of tests start programs. What Python does
in isolation (-I) is done here as well: a forked process knows nothing of this repository but where it is.
"""

import functools
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

# By libraries only: code of this repository is imported by each program itself.
IMPORTED = [
    "accelerate",
    "datasets",
    "gradio",
    "matplotlib.pyplot",
    "safetensors.torch",
    "timm",
    "torchvision.transforms.v2",
    "transformers.generation.utils",
    "transformers.hf_argparser",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.processing_auto",
    "transformers.models.vit.image_processing_pil_vit",
    "transformers.pipelines",
    "transformers.processing_utils",
    "transformers.tokenization_utils_tokenizers",
]
# What the libraries read when they are imported, besides HF_HOME. A program that needs other values needs a Python of
# its own.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(IMPORTED)


class Program(_context.Process):
    """A running program, with the methods of `subprocess.Popen` that tests use."""

    def poll(self):
        return self.exitcode

    def wait(self, timeout=None):
        """Returns the exit status. Raises `subprocess.TimeoutExpired`."""
        self.join(timeout)
        if self.exitcode is None:
            raise subprocess.TimeoutExpired(self.name, timeout)
        return self.exitcode


def start_python(*arguments, stdout, stderr, cwd=ROOT, env=None, before=None):
    """Run `python *arguments`, which may be a script, `-m module` or `-c code`, each after `-I` or not.

    Args:
        stdout, stderr: files to which the output is appended.
        cwd: the directory in which it runs.
        env: environment variables besides this process's.
        before: a function that the process calls first.

    Returns the `Program`.
    """
    fixed = ENVIRONMENT | {"HF_HOME": _empty_home().name}
    environment = {**os.environ, **fixed, **(env or {})}
    arguments = list(map(str, arguments))
    program = Program(target=_run, args=(arguments, str(stdout), str(stderr), str(cwd), environment, before))
    with pytest.MonkeyPatch.context() as patch:  # the first one also starts the process from which all are forked
        for name, value in fixed.items():
            patch.setenv(name, value)
        program.start()
    return program


@functools.cache
def _empty_home():
    return tempfile.TemporaryDirectory()


def run_python(*arguments, timeout=600, **options):
    """As `start_python`, to its end. Returns a `subprocess.CompletedProcess` with the text of both outputs."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder, "stdout"), Path(folder, "stderr")
        program = start_python(*arguments, stdout=outputs[0], stderr=outputs[1], **options)
        try:
            status = program.wait(timeout)
        finally:
            program.kill()
        return subprocess.CompletedProcess(arguments, status, *(output.read_text() for output in outputs))


def _run(arguments, stdout, stderr, cwd, environment, before):
    for number, path in enumerate((stdout, stderr), start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # TMPDIR counts again
    multiprocessing.set_start_method(None, force=True)  # the platform's, not that with which this process was started
    # Neither this repository nor the modules that transformers has loaded from captioners' folders in this process.
    sys.path[:] = [path for path in sys.path if path.startswith((sys.prefix, sys.base_prefix))]
    if before:
        before()
    isolated = arguments[0] == "-I"
    first, *rest = arguments[isolated:]
    if first in ("-c", "-m") and not isolated:
        sys.path.insert(0, cwd)
    if first == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, os.path.dirname(os.path.abspath(first)))
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")
