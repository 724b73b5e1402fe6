"""What a run learns from: streams, corrections, cached features, few photos; and generalization to new drawings."""

import io
import itertools
import json
import multiprocessing
import os
import pickle
import random
import subprocess
import sys

import datasets
import numpy as np
import pytest
from PIL import Image, ImageDraw

from demo.corrections import save_correction
from modeling_captioner import open_photo
from tests.helpers.drawn import COLORS, SHAPES
from tests.helpers.paths import ROOT
from tests.helpers.shards import tar
from tests.helpers.training import arguments, caption_folder, history, single_stream
from train import checkpoints
from train.cli import resolve, run
from train.data import features as features_module
from train.settings import Settings


@pytest.fixture(scope="module")
def shards(tmp_path_factory, drawn_photos):
    """Forty photos in two webdataset shards, one of them broken."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(2):
        members = {}
        for number in range(shard * 20, shard * 20 + 20):
            photo, caption = drawn_photos[number % 8]
            file = io.BytesIO()
            photo.save(file, "PNG")
            # Bytes after the end of an image are ignored, but make it a different photo.
            content = b"<html>" if number == 7 else file.getvalue() + bytes([number])
            members |= {f"{number:04}.png": content, f"{number:04}.txt": f"{caption} number {number}".encode()}
        tar(folder / f"{shard}.tar", members)
    return folder


def test_each_photo_of_a_stream_is_in_one_split(shards):
    settings = Settings(data_dir=[str(shards)], streaming=True, validation_fraction=0.3)
    train, validation = single_stream(settings, "train"), single_stream(settings, "validation")
    orders = []
    for epoch in (0, 1, 0):
        train.set_epoch(epoch)
        orders.append([row["captions"][0] for row in train])
    held_out = [row["captions"][0] for row in validation]
    assert sorted(orders[0] + held_out) == sorted(orders[1] + held_out)
    assert len(set(orders[0] + held_out)) == 40
    assert 5 < len(held_out) < 20
    assert orders[0] == orders[2] != orders[1]


def test_streaming_resumes_and_stores_nothing(shards, tmp_path, monkeypatch, caplog, capsys):
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    options = {"data_dir": shards, "streaming": True, "max_train_steps": 12, "eval_steps": 6, "checkpointing_steps": 5}
    options |= {"checkpoints_total_limit": 9, "max_broken_fraction": 0.2}
    run(resolve(arguments(output_dir=tmp_path / "run", **options)))
    assert not list(cache.rglob("*.arrow"))
    assert not (tmp_path / "run" / "features").exists()
    assert "0007.png" in caplog.text
    assert [row["step"] for row in history(tmp_path / "run") if "loss" in row] == list(range(1, 13))
    before = (tmp_path / "run" / "history.jsonl").read_text()
    place = tmp_path / "run" / "checkpoints" / "1-captions" / "step-5"
    run(resolve(arguments(output_dir=tmp_path / "run", **options, resume_from_checkpoint=place)))
    assert "skipping the first 5 batches of the epoch" in capsys.readouterr().out
    assert (tmp_path / "run" / "history.jsonl").read_text() == before


def test_a_batch_of_a_stream_whose_photos_are_all_broken_trains_nothing(shards, tmp_path, caplog):
    options = {"data_dir": shards, "streaming": True, "max_train_steps": 40, "per_device_train_batch_size": 1}
    options |= {"validation_fraction": 0, "max_broken_fraction": 0.2, "eval_steps": 40}  # all photos are trained on
    run(resolve(arguments(output_dir=tmp_path, **options)))
    assert "Skipped: 0007.png" in caplog.text
    losses = [row["loss"] for row in history(tmp_path) if "loss" in row]
    assert all(0 < loss < 100 for loss in losses)
    assert len(losses) < 40, "a step without items has no loss to log"


@pytest.mark.slow
@pytest.mark.parametrize(("method", "streaming"), [("spawn", True), ("forkserver", False)])
def test_workers_that_are_not_forked(shards, drawn_set, tmp_path, monkeypatch, method, streaming):
    """As on macOS, on Windows and in Python 3.14: a worker receives what it needs, and the losses are the same."""
    options = {"data_dir": shards if streaming else drawn_set, "streaming": streaming, "max_train_steps": 2}
    options |= {"features_dir": tmp_path / "features", "max_broken_fraction": 0.2, "dataloader_num_workers": 1}
    for name in ("fork", method):
        context = multiprocessing.get_context(name)
        monkeypatch.setattr(multiprocessing.context._default_context, "_actual_context", context)
        run(resolve(arguments(output_dir=tmp_path / name, **options)))
    assert history(tmp_path / "fork") == history(tmp_path / method)
    assert any("loss" in row for row in history(tmp_path / method))


def test_cached_features_are_sent_to_workers_as_files(tmp_path):
    """Not as copies of what may be hundreds of gigabytes."""
    numbers = np.arange(100_000, dtype=np.float16).reshape(100, 10, 100)
    np.save(tmp_path / "features.npy", numbers)
    sent = pickle.dumps(features_module.Features([tmp_path / "features.npy"]))
    assert len(sent) < 1_000
    assert np.array_equal(pickle.loads(sent)[99], numbers[99], equal_nan=True)


def test_a_stream_of_unknown_length_needs_max_train_steps(shards, tmp_path):
    with pytest.raises(ValueError, match="set --max_train_steps"):
        run(resolve(arguments(output_dir=tmp_path, data_dir=shards, streaming=True, min_word_count=1)))


def test_training_on_corrections(learnt_captioner, drawn_photos, tmp_path):
    """The trainer reads the folder in which the page saves corrections."""
    corrections = tmp_path / "corrections"
    corrections.mkdir()
    photo, _ = drawn_photos[0]
    for name in ("one", "two"):
        photo.save(tmp_path / f"{name}.png")
        save_correction(corrections, open_photo(tmp_path / f"{name}.png"), "a square on a red ground")
    options = ["--model", str(learnt_captioner), "--data_dir", str(corrections), "--output_dir", str(tmp_path / "run")]
    assert caption_folder(learnt_captioner, [photo]) == ["a red circle on a gray ground"]
    run(resolve([*options, "--num_train_epochs", "30", "--eval_steps", "15", "--learning_rate", "0.01"]))
    assert caption_folder(tmp_path / "run", [photo]) == ["a square on a red ground"]


@pytest.mark.parametrize("count", [1, 3])
def test_training_on_very_few_photos(drawn_photos, tmp_path, count):
    folder = tmp_path / "set"
    folder.mkdir()
    for number, (photo, caption) in enumerate(drawn_photos[:count]):
        photo.save(folder / f"{number}.png")
        with (folder / "metadata.jsonl").open("a") as file:
            file.write(json.dumps({"file_name": f"{number}.png", "text": caption}) + "\n")
    run(
        resolve(
            arguments(
                data_dir=folder, output_dir=tmp_path / "run", num_train_epochs=20, learning_rate=0.01, eval_steps=10
            )
        )
    )
    losses = [row["validation_loss"] for row in history(tmp_path / "run") if "validation_loss" in row]
    assert losses[-1] < losses[0]
    assert checkpoints.latest(tmp_path / "run" / "checkpoints" / "1-captions")


def test_only_shards_with_changed_photos_are_encoded_again(drawn_set, drawn_photos, tmp_path, monkeypatch):
    """With three photos per shard of the feature cache."""
    monkeypatch.setattr(features_module, "SHARD_BYTES", 3 * 4 * 96 * 2)  # regions, channels, bytes
    folder = tmp_path / "set"
    folder.mkdir()
    captions = []
    for number, (photo, caption) in enumerate(drawn_photos):
        photo.save(folder / f"{number}.jpg")
        captions.append(f"{number}.jpg,{caption}\n")
    (folder / "captions.txt").write_text("image,caption\n" + "".join(captions))
    options = {"data_dir": folder, "features_dir": tmp_path / "features", "num_train_epochs": 1}
    options |= {"validation_fraction": 0, "overwrite_output_dir": True, "output_dir": tmp_path / "run"}

    def files():
        run(resolve(arguments(**options)))
        return {file.name: file.stat().st_mtime_ns for file in (tmp_path / "features").iterdir()}

    first = files()
    assert len(first) == 3, "eight photos, three per file"
    assert files() == first
    drawn_photos[7][0].save(folder / "0.jpg")
    changed = files()
    assert first.items() < changed.items()
    assert len(changed) == 4


def draw_pair(left, right, size=96):
    """Two colored shapes next to each other, and their caption."""
    photo = Image.new("RGB", (size, size), "lightgray")
    draw = ImageDraw.Draw(photo)
    for x, (color, shape) in ((size // 12, left), (size * 7 // 12, right)):
        box = [x, size // 3, x + size // 3, size * 2 // 3]
        (draw.ellipse if shape == "circle" else draw.rectangle)(box, fill=color)
    return photo, f"a {' '.join(left)} left of a {' '.join(right)}"


@pytest.mark.slow
def test_unseen_combinations_are_captioned_correctly(tmp_path):
    """Twelve of 56 pairs of shapes are held out: each shape is known, but not these combinations."""
    pairs = list(itertools.permutations(itertools.product(COLORS, SHAPES), 2))
    random.Random(0).shuffle(pairs)
    held_out = [draw_pair(*pair) for pair in pairs[:12]]
    for split, drawn in (("train", [draw_pair(*pair) for pair in pairs[12:]]), ("validation", held_out)):
        (tmp_path / "set" / split).mkdir(parents=True)
        with (tmp_path / "set" / split / "metadata.jsonl").open("w") as file:
            for number, (photo, caption) in enumerate(drawn):
                photo.save(tmp_path / "set" / split / f"{number}.png")
                file.write(json.dumps({"file_name": f"{number}.png", "text": caption}) + "\n")
    options = {"image_size": 96, "num_train_epochs": 80, "learning_rate": 0.005, "per_device_train_batch_size": 11}
    options |= {"dropout": 0, "word_dropout": 0, "label_smoothing": 0, "eval_steps": 320}
    run(resolve(arguments(data_dir=tmp_path / "set", output_dir=tmp_path / "run", **options)))
    photos, captions = zip(*held_out, strict=True)
    assert caption_folder(tmp_path / "run", list(photos)) == list(captions)


@pytest.mark.slow
def test_file_names_and_captions_in_other_scripts(drawn_photos, tmp_path):
    """Folders, photos and captions in Cyrillic and Chinese; no file is read or written in the locale's encoding."""
    folder = tmp_path / "Фото" / "图片"
    folder.mkdir(parents=True)
    rows = []
    for number, (photo, _) in enumerate(drawn_photos):
        photo.save(folder / f"фото {number}.png")
        rows.append({"file_name": f"фото {number}.png", "text": "一只狗" if number % 2 else "рыжий кот"})
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "metadata.jsonl").write_text(content, encoding="utf-8")
    options = arguments(data_dir=folder, output_dir=tmp_path / "вывод", validation_fraction=0, max_train_steps=2)
    strict = (
        "import warnings; warnings.filterwarnings('error', category=EncodingWarning,"
        " module='(train|publishing|captioning|modeling_captioner)[.]'); import sys; from train.cli import main;"
        " main(sys.argv[1:]); main([*sys.argv[1:], '--resume_from_checkpoint', 'last'])"
    )
    command = [sys.executable, "-X", "warn_default_encoding", "-c", strict, *options]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    end = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert end.returncode == 0, end.stderr[-2000:]
    assert "characters (Han) and words" in end.stdout
    assert str(folder) in (tmp_path / "вывод" / "settings.yaml").read_text(encoding="utf-8").splitlines()[0]
