"""`python caption.py`, run as people run it; where much is asked of it, in this process, which is quicker."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from caption import main
from modeling_captioner import CaptionerForConditionalGeneration, CaptionerProcessor
from tests.helpers.paths import ROOT, SHIPPED
from tests.helpers.programs import run_python

COMMAND = [sys.executable, str(ROOT / "caption.py")]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def with_engine(arguments):
    """The arguments as strings, and the engine of captioners without an ONNX export, which would be a note otherwise.

    test_engine.py tests the other engine and the note.
    """
    return [*map(str, arguments), *(["--engine", "torch"] if "--model" in arguments else [])]


def run(*arguments):
    """Caption in a process of its own. Returns exit status, lines of standard output, lines of standard error."""
    done = run_python(ROOT / "caption.py", *with_engine(arguments))
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


@pytest.fixture
def run_here(capsys):
    """As `run`, in this process, which has imported PyTorch already."""

    def run_here(*arguments):
        status = main(with_engine(arguments))
        lines, errors = capsys.readouterr()
        return status, lines.splitlines(), errors.splitlines()

    return run_here


@pytest.fixture
def photos(tmp_path, drawn_photos):
    """A folder with the drawn photos and their captions, {file: caption}, in the order of their names."""
    folder = tmp_path / "photos"
    folder.mkdir()
    captions = {}
    for number, (photo, caption) in enumerate(drawn_photos):
        captions[folder / f"{number}.png"] = caption
        photo.save(folder / f"{number}.png")
    return captions


def test_a_line_for_each_photo_in_the_given_order(photos, learnt_captioner, tmp_path):
    """Files as given; a folder's pictures, sorted, with its subfolders', without hidden and other files."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir()
    (folder / ".hidden").mkdir()
    (folder / "notes.txt").write_text("no picture")
    files = list(photos)
    shutil.copy(files[0], folder / "sub" / "TURNED.PNG")
    shutil.copy(files[0], folder / ".hidden" / "a.png")
    shutil.copy(files[0], folder / ".a.png")
    status, lines, errors = run(files[5], folder, files[2], "--model", learnt_captioner)
    captions = photos | {folder / "sub" / "TURNED.PNG": photos[files[0]]}
    order = [files[5], *files, folder / "sub" / "TURNED.PNG", files[2]]
    assert lines == [f"{file}\t{captions[file]}" for file in order]
    assert (status, errors) == (0, [])


def test_json_gives_the_models_own_log_probability_whatever_the_batch(photos, learnt_captioner, run_here):
    model = CaptionerForConditionalGeneration.from_pretrained(learnt_captioner)
    processor = CaptionerProcessor.from_pretrained(learnt_captioner)
    for batch_size in (3, 8):
        status, lines, _ = run_here(*photos, "--json", "--batch_size", batch_size, "--model", learnt_captioner)
        assert status == 0
        rows = [json.loads(line) for line in lines]
        assert [(row["file"], row["caption"]) for row in rows] == [(str(file), photos[file]) for file in photos]
        for row in rows:
            inputs = processor(images=Image.open(row["file"]), text=row["caption"], return_tensors="pt")
            labels = torch.cat([inputs.pop("decoder_input_ids")[:, 1:], torch.tensor([[3]])], dim=1)
            with torch.no_grad():
                loss = model(**inputs, labels=labels).loss.item()
            assert row["log_probability"] == pytest.approx(-loss * labels.shape[1], abs=1e-4)


@pytest.mark.parametrize("num_beams", [1, 5])
def test_options_of_generation(photos, drawn_photos, tiny_captioner, tmp_path, run_here, num_beams):
    """They reach `generate`: the captions are those of the model under the same options, with --attention as well."""
    model, processor = tiny_captioner()
    # Random weights say one word for ever; a penalty makes them hesitate, so that a wider search finds other captions.
    model.generation_config.update(repetition_penalty=2.0, suppress_tokens=[0, 1, 2])
    inputs = processor(images=[photo for photo, _ in drawn_photos], return_tensors="pt")
    ids = {beams: model.generate(**inputs, num_beams=beams, max_new_tokens=4) for beams in (1, 5)}
    assert not torch.equal(ids[1], ids[5])
    captions = processor.batch_decode(ids[num_beams], skip_special_tokens=True)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    options = ["--num_beams", num_beams, "--max_new_tokens", 4, "--model", tmp_path]
    expected = [f"{file}\t{caption}" for file, caption in zip(photos, captions, strict=True)]
    assert run(*photos, *options) == (0, expected, [])
    assert run_here(*photos, *options, "--attention", tmp_path / "maps.png") == (0, expected, [])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_on_the_device_asked_for(photos, learnt_captioner, run_here, dtype):
    status, lines, errors = run_here(*photos, "--dtype", dtype, "--device", "cpu", "--model", learnt_captioner)
    assert lines == [f"{file}\t{caption}" for file, caption in photos.items()]
    assert (status, errors) == (0, [])


def test_good_photos_are_captioned_beside_bad_ones(photos, learnt_captioner, tmp_path):
    first, second, *_ = photos
    text, empty, truncated, missing = (tmp_path / f"{name}.jpg" for name in ("text", "empty", "truncated", "missing"))
    text.write_text("no picture")
    empty.touch()
    Image.effect_noise((200, 200), 50).save(truncated)
    truncated.write_bytes(truncated.read_bytes()[:3000])
    (tmp_path / "nothing").mkdir()
    given = [text, first, empty, truncated, missing, tmp_path / "nothing", second]
    status, lines, errors = run(*given, "--model", learnt_captioner)
    assert lines == [f"{file}\t{photos[file]}" for file in (first, second)]
    assert status == 1
    assert errors == [
        f"error: {text} is not a readable image; save it as JPEG or PNG.",
        f"error: {empty} is empty; export it again as JPEG or PNG.",
        f"error: {truncated} is damaged or incomplete; export it again as JPEG or PNG.",
        f"error: {missing} does not exist; check the path.",
        f"error: {tmp_path / 'nothing'} is a folder without images; give one that contains JPEG or PNG files.",
        "error: 5 of 7 photos could not be captioned.",
    ]


def test_attention_draws_photos_and_maps(photos, learnt_captioner, tmp_path, run_here):
    """The first tile is the photo as it is, the others the photo under maps, and each photo adds to the height."""
    heights = []
    for files in (list(photos)[:1], list(photos)[:3]):
        out = tmp_path / f"{len(files)}.png"
        assert run_here(*files, tmp_path / "missing.png", "--attention", out, "--model", learnt_captioner)[0] == 1
        picture = np.asarray(Image.open(out).convert("RGB"))
        heights.append(picture.shape[0])
    assert heights[1] > 2.5 * heights[0]
    red = (picture == (255, 0, 0)).all(axis=-1)
    top, left = np.argwhere(red).min(axis=0)
    assert top < heights[0] / 2, "the photo is in the first row"
    assert left < picture.shape[1] / 6, "the photo is in the first column"
    assert red.any(axis=0).nonzero()[0].max() < picture.shape[1] / 6, "in the other columns it is under a map"


def test_names_with_tabs_line_breaks_and_stray_bytes(photos, learnt_captioner, tmp_path, run_here):
    """They break no line, and --json gives them as they are."""
    photo, caption = next(iter(photos.items()))
    names = ["a\tb\nc.png", "\x1b[31mred.png", "naïve ảnh.png", os.fsdecode(b"\xff.png")]
    files = [os.path.join(tmp_path, name) for name in names]
    for file in files:
        shutil.copy(photo, file)
    _, lines, errors = run(*files, "--model", learnt_captioner)
    shown = [r"a\tb\nc.png", r"\x1b[31mred.png", "naïve ảnh.png", r"\udcff.png"]
    assert lines == [f"{tmp_path}/{name}\t{caption}" for name in shown]
    assert errors == []
    _, lines, _ = run_here(*files, "--json", "--model", learnt_captioner)
    assert [json.loads(line)["file"] for line in lines] == files


def test_a_closed_pipe_ends_it_quietly(photos, learnt_captioner):
    """`caption.py photos/ | head -1`"""
    command = [*COMMAND, *with_engine([*photos, "--model", learnt_captioner])]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == -signal.SIGPIPE


def test_help_answers_at_once():
    """Without importing PyTorch, which takes seconds."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "caption.py"), "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "--attention" in done.stdout
    assert "argparse" in done.stderr
    assert "torch" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "PHOTO"),
        (["a.png", "--dataset_name", "b"], "PHOTO"),
        (["a.png", "--resume"], "--resume"),
        (["a.png", "--txt", "--output", "a.csv"], "--txt"),
        (["a.png", "--num_beams", "0"], "--num_beams: '0'"),
        (["a.png", "--batch_size", "x"], "--batch_size: 'x'"),
        (["a.png", "--dtype", "int8"], "'int8'"),
        (["a.png", "--color"], "--color"),
    ],
)
def test_wrong_usage(arguments, named):
    status, lines, errors = run(*arguments)
    assert (status, lines) == (2, [])
    assert named in errors[-1]


def without(*names):
    """A change of a captioner's folder: these files are gone."""
    return lambda folder: [(folder / name).unlink() for name in names]


def truncated(name):
    return lambda folder: os.truncate(folder / name, 100)


def configured(**options):
    """A change of a captioner's folder: `config.json` says otherwise."""

    def change(folder):
        config = json.loads((folder / "config.json").read_text()) | options
        (folder / "config.json").write_text(json.dumps(config))

    return change


def forgetful(folder):
    """A change of a captioner's folder: a tensor is missing."""
    tensors = load_file(folder / "model.safetensors")
    del tensors["decoder.output_bias"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def foreign(folder):
    """A change of a captioner's folder: a stranger's model, whose code leaves a file behind."""
    code = f"open({str(folder / 'was-run')!r}, 'w')\n"
    for file in folder.glob("*.py"):
        file.write_text(code + file.read_text())
    configured(model_type="stranger")(folder)


def test_a_model_runs_no_code_of_its_own(photos, learnt_captioner, tmp_path, run_here):
    """Its folder names classes and brings their code, and the classes of this repository are used."""
    folder = tmp_path / "model"
    shutil.copytree(learnt_captioner, folder)
    foreign(folder)
    configured(model_type="captioner")(folder)
    lines = [f"{file}\t{caption}" for file, caption in photos.items()]
    assert run_here(*photos, "--model", folder) == (0, lines, [])
    assert not (folder / "was-run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            without("model.safetensors"),
            "contains no captioner: model*.safetensors is missing; give a folder written by train/.",
        ),
        (without("config.json"), "contains no captioner: config.json is missing; give a folder written by train/."),
        (
            without("tokenizer.json"),
            "contains no captioner: tokenizer.json is missing; give a folder written by train/.",
        ),
        (truncated("model.safetensors"), "is damaged: its files are unreadable or do not match; save it again."),
        (truncated("config.json"), "is damaged: its files are unreadable or do not match; save it again."),
        (truncated("tokenizer.json"), "is damaged: its files are unreadable or do not match; save it again."),
        (configured(hidden_size=64), "is damaged: its files are unreadable or do not match; save it again."),
        (configured(rnn_type="rnn"), "Field 'rnn_type' expected one of ('gru', 'lstm'), got rnn"),
        (forgetful, "1 weights are missing; save it again."),
        (foreign, "the model type is 'stranger', not 'captioner'; give a model written by train/."),
        (shutil.rmtree, "is not a folder; give a folder written by train/ or a name on the Hub."),
    ],
)
def test_bad_models(photos, learnt_captioner, tmp_path, run_here, change, message):
    folder = tmp_path / "model"
    shutil.copytree(learnt_captioner, folder)
    change(folder)
    status, lines, (error,) = run_here(*photos, "--model", folder)
    assert (status, lines) == (1, [])
    assert error.startswith(f"error: {folder}")
    assert message in error
    assert not (folder / "was-run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "toaster"], "device 'toaster' is not available; omit --device, or pass cpu."),
        (["--device", "meta"], "device 'meta' is not available; omit --device, or pass cpu."),
        (["--attention", "maps.xyz"], "--attention maps.xyz: the file name must end with .png, .jpg, .pdf or .svg."),
        (["--attention", "no/maps.png"], "--attention no/maps.png: the folder does not exist; create it first."),
        (
            ["a.png"] * 33 + ["--attention", "a.png"],
            "--attention draws at most 30 photos, but 41 were given; pass fewer.",
        ),
    ],
)
def test_bad_options(photos, learnt_captioner, run_here, options, message):
    assert run_here(*photos, *options, "--model", learnt_captioner) == (1, [], [f"error: {message}"])


@pytest.mark.parametrize("shard_size", ["1GB", "100KB"])
def test_weights_of_a_variant_alone(photos, learnt_captioner, tmp_path, run_here, shard_size):
    """As published beside the full ones: model.fp16.safetensors, in one file or several."""
    model = CaptionerForConditionalGeneration.from_pretrained(learnt_captioner)
    model.save_pretrained(tmp_path / "model", variant="fp16", max_shard_size=shard_size)
    CaptionerProcessor.from_pretrained(learnt_captioner).save_pretrained(tmp_path / "model")
    assert (len(list((tmp_path / "model").glob("model.fp16*.safetensors"))) > 1) == (shard_size == "100KB")
    lines = [f"{file}\t{caption}" for file, caption in photos.items()]
    assert run_here(*photos, "--model", tmp_path / "model") == (0, lines, [])
    loaded = CaptionerForConditionalGeneration.from_pretrained(tmp_path / "model", variant="fp16")
    assert all(map(torch.equal, loaded.parameters(), model.parameters()))


def test_the_shipped_captioner_is_the_default(photos):
    """A sentence for each photo, from any directory."""
    if not (SHIPPED / "model.safetensors").exists():
        pytest.skip("modeling_captioner/ holds no weights yet")
    status, lines, errors = run(*photos)
    assert (status, errors) == (0, [])
    assert all(len(line.split("\t")[1].split()) >= 3 for line in lines)
