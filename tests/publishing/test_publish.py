"""Publishing to the Hub, run from the command line with a test server in place of the Hub."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys

import pytest
import yaml
from datasets import load_dataset
from huggingface_hub import HfApi
from packaging.requirements import Requirement

from publishing.publish import write_repository
from tests.helpers.hub_server import FakeHub
from tests.helpers.isolated import BEGINNING, captions_here
from tests.helpers.marks import slow_case
from tests.helpers.page_fixtures import TIMEOUT, skip_unless_site_builds, wait_until_ready
from tests.helpers.paths import ROOT, SHIPPED
from tests.helpers.programs import start_python
from tests.helpers.training import arguments, history
from tests.helpers.workers import json_worker

# Runs commands {"program", "arguments", "token"} in a single process, which saves the imports, and answers each with
# [exit status, standard output, standard error]. The address of the Hub is read at the start.
WORKER = """
import contextlib, io, json, os, sys, traceback
import app
from train.cli import main

def run(program, arguments):
    if program == "train":
        return main(arguments)
    sys.argv = ["app.py", *arguments]
    sys.exit(app.main())

for line in sys.stdin:
    asked = json.loads(line)
    os.environ["HF_TOKEN"] = asked["token"]
    status, output, errors = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            run(asked["program"], asked["arguments"])
        except SystemExit as end:
            status = end.code
        except Exception:
            status = traceback.print_exc() or "a bug"
    print(json.dumps([status, output.getvalue(), errors.getvalue()]), flush=True)
"""
LOADING = """
told = []
for revision in REVISIONS:
    model, processor = load(AutoModelForImageTextToText, revision=revision), load(AutoProcessor, revision=revision)
    whole = pipeline("image-text-to-text", model=folder, revision=revision, trust_remote_code=True)
    answers = whole(images=photos, text=[""] * len(photos))
    told.append([captions(model, processor), [answer["generated_text"] for answer in answers]])
tell(told)
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with FakeHub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture(autouse=True)
def no_failures(hub):
    hub.failures.clear()
    hub.requests.clear()


@pytest.fixture(scope="module")
def command(hub, tmp_path_factory):
    """Run `python -m train` or `python app.py` with the test's Hub. Returns exit status, output, errors."""
    with json_worker(WORKER, hub.environment(tmp_path_factory.mktemp("home"))) as ask:

        def run(*arguments, program="train", token="hf_writer"):
            return ask({"program": program, "arguments": [str(argument) for argument in arguments], "token": token})

        yield run


@pytest.fixture
def push(command, learnt_captioner):
    """Publish the captioner that has memorized the drawn photos."""
    return lambda name, *options: command("--push_only", "--model", learnt_captioner, "--hub_model_id", name, *options)


def captions_elsewhere(hub, tmp_path, files, name, revisions):
    """Run `LOADING` in a process that has only its packages, an empty cache and the Hub. Returns what it prints."""
    (tmp_path / "empty").mkdir()
    code = BEGINNING + f"REVISIONS = {revisions!r}" + LOADING
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, name, *map(str, files)],
        cwd=tmp_path / "empty",
        env=hub.environment(tmp_path / "cache"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_train_push_update_load(hub, command, push, tmp_path, files, drawn_photos, drawn_set):
    """Train on a data set on the Hub, publish in one commit, update, and load both revisions in a new process."""
    photos = hub.repository("tester/photos", "datasets")
    photos.create()
    photos.add(drawn_set)
    output = tmp_path / "trained"
    options = {"dataset_name": "tester/photos", "output_dir": output, "max_train_steps": 2}
    status, said, errors = command(*arguments(**options), "--push_to_hub", "--hub_license", "cc0-1.0")
    assert status == 0, errors
    repository = hub.repository("tester/trained")
    assert len(repository.commits) == 2, "the Hub's own and one of ours"
    first = repository.resolve("main")
    assert said.splitlines()[-1] == f"Published: {hub.address}/tester/trained/commit/{first}"
    assert repository.files().keys() >= {
        *("README.md", "config.json", "generation_config.json", "model.safetensors", "processor_config.json"),
        *("tokenizer.json", "tokenizer_config.json", "modeling_captioner.py", "handler.py", "requirements.txt"),
        *("curves.png", "settings.yaml"),
    }
    assert repository.read("curves.png") == (output / "curves.png").read_bytes()
    assert yaml.safe_load(repository.read("settings.yaml"))[0]["dataset_name"] == ["tester/photos"]

    assert push("tester/trained")[0] == 0
    assert repository.commits[-2] == first
    assert repository.files()["modeling_captioner.py"] == repository.files(first)["modeling_captioner.py"]
    assert not repository.files().keys() & {"curves.png", "settings.yaml"}, "those of another training"

    write_repository(output, tmp_path / "here")
    told = captions_elsewhere(hub, tmp_path, files, "tester/trained", [first, "main"])
    assert told == [[captions_here(tmp_path / "here", files)] * 2, [[caption for _, caption in drawn_photos]] * 2]


@pytest.mark.slow
def test_a_data_set_on_the_hub_is_streamed(hub, command, tmp_path, drawn_set):
    """Parquet on the Hub, read during the training."""
    for split, photos in load_dataset("imagefolder", data_dir=str(drawn_set)).items():
        photos.to_parquet(tmp_path / "set" / f"{split}-00000-of-00001.parquet")
    photos = hub.repository("tester/stream", "datasets")
    photos.create()
    photos.add(tmp_path / "set")
    options = {
        "dataset_name": "tester/stream",
        "output_dir": tmp_path / "trained",
        "max_train_steps": 2,
        "eval_steps": 2,
    }
    status, _, errors = command(*arguments(**options), "--streaming")
    assert status == 0, errors
    assert hub.count("GET", "/datasets/tester/stream/resolve/.*parquet") > 0
    rows = history(tmp_path / "trained")
    assert "CIDEr-D" in rows[-1]


@pytest.mark.slow
def test_card_tells_of_its_own_training(hub, command, tmp_path, drawn_photos, drawn_set):
    """Its own data, command and scores, as read by the Hub's API, and none of the shipped captioner's.

    Here the Hub refuses the commit after the training, which can then be published by itself.
    """
    output = tmp_path / "trained"
    options = {"data_dir": drawn_set, "output_dir": output, "num_train_epochs": 12, "eval_steps": 8}
    options |= {"learning_rate": 0.01, "hub_model_id": "tester/told"}
    hub.fail("POST", "/commit/", 403)
    status, _, errors = command(*arguments(**options), "--push_to_hub")
    assert status == 1
    assert errors.strip().endswith(f"To publish {output} later, use --push_only --model {output}.")
    assert command("--push_only", "--model", output, "--hub_model_id", "tester/told")[0] == 0
    rows = history(output)
    best = max((row for row in rows if "score" in row), key=lambda row: row["score"])
    info = HfApi(endpoint=hub.address).model_info("tester/told")
    assert (info.library_name, info.pipeline_tag) == ("transformers", "image-text-to-text")
    assert {result.metric_name: result.metric_value for result in info.card_data.eval_results} == {
        name: pytest.approx(best[name], abs=1e-4) for name in ("CIDEr-D", "BLEU-4", "ROUGE-L")
    }
    assert info.card_data.eval_results[0].dataset_name == drawn_set.name
    assert info.card_data.license == "unknown", "nobody has said"
    assert info.card_data.datasets is None, "the data set is not on the Hub"
    repository, words = hub.repository("tester/told"), set(" ".join(caption for _, caption in drawn_photos).split())
    for example in info.card_data.to_dict()["widget"]:
        assert example["src"].removeprefix(f"{hub.address}/tester/told/resolve/main/") in repository.files()
        assert set(example["output"]["text"].split()) <= words, "its own"
    text = repository.read("README.md").decode()
    assert "accelerate launch train/ --encoder_name test_resnet --image_size 64 --hidden_size 64" in text
    assert f"--data_dir {drawn_set} --output_dir {output}" in text
    assert 'name = "tester/told"' in text
    assert f"| {best['CIDEr-D']:.3f} | {best['BLEU-4']:.3f} | {best['ROUGE-L']:.3f} |" in text
    assert "Flickr8k" not in text


@pytest.mark.slow
def test_shipped_captioner_has_its_own_card(hub, command):
    if not (SHIPPED / "model.safetensors").exists():
        pytest.skip("modeling_captioner/ holds no weights yet")
    assert command("--push_only", "--model", SHIPPED, "--hub_model_id", "shipped")[0] == 0
    repository = hub.repository("tester/shipped")
    card = repository.read("README.md").decode()
    assert 'from_pretrained("tester/shipped", trust_remote_code=True)' in card
    assert "pin what you read with `revision=" in card
    assert repository.read("model.safetensors") == (SHIPPED / "model.safetensors").read_bytes()
    results = HfApi(endpoint=hub.address).model_info("tester/shipped").card_data.eval_results
    assert len(results) == 6
    for result in results:
        row = next(line for line in card.splitlines() if line.lower().startswith(f"| {result.dataset_type}"))
        assert f"{result.metric_value:.3f}" in row, "the figures that the Hub shows are those of the table"
    for example in HfApi(endpoint=hub.address).model_info("tester/shipped").card_data.to_dict()["widget"]:
        assert f"| {example['output']['text']} |" in card, "and so are the captions"


@pytest.mark.parametrize(
    ("token", "name", "named"),
    [
        ("", "tester/x", "Publishing needs a login: run `hf auth login`"),
        ("hf_unknown", "tester/x", "The Hub rejected the token; log in with `hf auth login`"),
        ("hf_reader", "tester/x", "The token has no write access to tester/x"),
        ("hf_writer", "other/x", "The token has no write access to other/x"),
        ("hf_writer", "other/theirs", "The token has no write access to other/theirs"),
        ("hf_writer", "a b", "Repo id must"),
    ],
)
def test_who_may_not_publish_hears_it_before_the_training(hub, command, tmp_path, token, name, named):
    """Before the data set is loaded, which does not exist here. Read access to a repository is not enough."""
    if name == "other/theirs":
        hub.repository(name).create()
    options = ["--data_dir", "/nowhere", "--output_dir", tmp_path / "run", "--push_to_hub", "--hub_model_id", name]
    status, _, errors = command(*options, token=token)
    assert status == 1
    assert errors.strip().splitlines()[-1].startswith(f"error: {named}")
    assert not (tmp_path / "run").exists()
    assert not hub.repository("tester/x").exists


@pytest.mark.parametrize(
    ("method", "path", "how", "headers", "said"),
    [
        ("PUT", "/lfs/", "drop", {}, ""),  # retried by huggingface_hub itself
        ("POST", "/commit/", "drop", {}, "could not be reached"),
        slow_case("POST", "/commit/", "lose", {}, "could not be reached"),
        slow_case("POST", "/commit/", 500, {}, "The Hub returned 500 (failed on purpose)"),
        ("POST", "/commit/", 429, {"Retry-After": "1"}, "The Hub's rate limit is exceeded"),
        slow_case("POST", "/validate-yaml", 502, {}, "returned an invalid response"),
        ("POST", "/repos/create", 502, {}, "The Hub returned 502"),
    ],
)
def test_what_passes_is_tried_again(hub, push, tmp_path, method, path, how, headers, said):
    """The result is a single commit, also if the Hub created it and the answer was lost."""
    hub.fail(method, path, how, **headers)
    name = f"tester/{tmp_path.name}"
    status, _, errors = push(name)
    assert status == 0, errors
    assert not hub.failures
    assert said in errors
    assert bool(said) == ("; retrying in 1 s." in errors)
    assert len(hub.repository(name).commits) == 2
    assert "model.safetensors" in hub.repository(name).files()


@pytest.mark.parametrize(
    ("method", "path", "how", "headers", "named"),
    [
        ("POST", "/commit/", 500, {}, "The Hub returned 500 (failed on purpose), and NAME was not changed"),
        slow_case("POST", "/commit/", 403, {}, "The token has no write access to NAME"),
        ("POST", "/commit/", 429, {"Retry-After": "3600"}, "The Hub's rate limit is exceeded, and"),
        slow_case("POST", "/preupload/", 413, {}, "NAME could not be published (The Hub returned 413"),
        ("PUT", "/lfs/", 403, {}, "The token has no write access to NAME"),
    ],
)
def test_what_does_not_pass_is_a_sentence_and_changes_nothing(
    hub, push, command, tiny_captioner, tmp_path, method, path, how, headers, named
):
    """Publishing again does not upload the files that had arrived."""
    name = f"tester/{tmp_path.name}"
    assert push(name)[0] == 0
    before = hub.repository(name).files()
    for part in tiny_captioner(hidden_size=16):
        part.save_pretrained(tmp_path / "new")
    new = ["--push_only", "--model", tmp_path / "new", "--hub_model_id", name]
    hub.fail(method, path, how, times=99, **headers)
    status, _, errors = command(*new)
    assert status == 1
    assert f"error: {named.replace('NAME', name)}" in errors.strip().splitlines()[-1]
    assert "Traceback" not in errors
    assert hub.repository(name).files() == before
    hub.failures.clear()
    hub.requests.clear()
    assert command(*new)[0] == 0
    assert hub.count("PUT", "/lfs/") == (path != "/commit/")
    assert hub.repository(name).files()["model.safetensors"] != before["model.safetensors"]


def test_private_or_not_at_all(hub, push):
    assert push("tester/private", "--hub_private_repo")[0] == 0
    assert hub.repository("tester/private").info["private"]
    assert push("tester/private", "--hub_private_repo")[0] == 0
    assert push("tester/public")[0] == 0
    status, _, errors = push("tester/public", "--hub_private_repo", "--hub_license", "mit")
    assert status == 1
    assert "error: tester/public is already public" in errors
    assert len(hub.repository("tester/public").commits) == 2


def test_a_damaged_captioner_is_not_published(hub, command, learnt_captioner, tmp_path):
    shutil.copytree(learnt_captioner, tmp_path / "damaged")
    os.truncate(tmp_path / "damaged" / "model.safetensors", 1000)
    for program, options in (("train", ["--push_only", "--hub_model_id"]), ("app", ["--deploy"])):
        status, _, errors = command(*options, "tester/damaged", "--model", tmp_path / "damaged", program=program)
        assert status == 1
        assert f"{tmp_path / 'damaged'} is damaged" in errors
        assert "Traceback" not in errors
    assert not hub.repository("tester/damaged").exists
    assert not hub.repository("tester/damaged", "spaces").exists


def test_who_may_not_deploy_hears_it(hub, command, learnt_captioner):
    for token, name, told in (("", "tester/x", "needs a login"), ("hf_writer", "other/x", "no write access to")):
        status, _, errors = command("--deploy", name, "--model", learnt_captioner, program="app", token=token)
        assert status == 1
        assert told in errors
        assert "Traceback" not in errors
        assert not hub.repository(name, "spaces").exists


def test_space_has_what_it_needs_and_nothing_else(hub, command, push, learnt_captioner, tmp_path):
    """One commit; the page starts from the files of the Space alone, with the given captioner from the Hub."""
    assert push("tester/served")[0] == 0
    status, _, errors = command("--deploy", "tester/page", "--model", "tester/served", program="app")
    assert status == 0, errors
    space = hub.repository("tester/page", "spaces")
    assert space.info["sdk"] == "gradio"
    assert len(space.commits) == 2
    assert {path.split("/")[0] for path in space.files()} == {
        *(".gitattributes", "README.md", "LICENSE", "docs", "requirements.txt"),
        *("app.py", "captioning", "demo", "modeling_captioner"),
    }
    assert not [path for path in space.files() if "__pycache__" in path]
    header = yaml.safe_load(space.read("README.md").decode().split("---")[1])
    assert header["app_file"] in space.files()
    assert len(header["short_description"]) <= 60, "the Hub refuses longer ones"
    for path in space.files():
        (tmp_path / "space" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "space" / path).write_bytes(space.read(path))
    tokenizer = (learnt_captioner / "tokenizer.json").read_bytes()
    assert (tmp_path / "space" / "modeling_captioner" / "tokenizer.json").read_bytes() == tokenizer
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": str(port)}  # as in a Space
    log = tmp_path / "app.log"
    app = start_python("app.py", cwd=tmp_path / "space", env=environment, stdout=log, stderr=log)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/", app, log)
    finally:
        app.terminate()
        app.wait(TIMEOUT / 1000)


@pytest.mark.slow
def test_static_space_is_the_page_without_a_server(hub, command):
    skip_unless_site_builds()
    options = ["--static", "--gradio_page", "https://example.org/?a=1&b=2"]
    status, _, errors = command("--deploy", "tester/static", *options, program="app")
    assert status == 0, errors
    space = hub.repository("tester/static", "spaces")
    assert space.info["sdk"] == yaml.safe_load(space.read("README.md").decode().split("---")[1])["sdk"] == "static"
    kept = json.loads(space.read("files.js").decode().removeprefix("const FILES = ").rstrip(";\n"))
    assert space.files().keys() - kept.keys() == {
        *(".gitattributes", "README.md", "LICENSE", "files.js", "preview.jpg", "service_worker.js")
    }
    assert kept.keys() < space.files().keys()
    assert b'href="https://example.org/?a=1&amp;b=2"' in space.read("index.html")
    status, _, errors = command("--static", program="app")
    assert status == 2
    assert "--static needs --deploy NAME" in errors


def test_the_image_installs_what_the_requirements_ask_for():
    """The lock file, with PyTorch in the Dockerfile, contains a permitted version of each requirement."""
    pinned = (ROOT / "requirements.lock").read_text() + (ROOT / "Dockerfile").read_text()
    pinned = {name.lower(): version for name, version in re.findall(r"([\w.-]+)==([\w.]+)", pinned)}
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if not line.startswith("#"):
            wanted = Requirement(line)
            assert wanted.specifier.contains(pinned[wanted.name.lower()]), line
