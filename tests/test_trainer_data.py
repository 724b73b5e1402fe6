"""What a run learns from: streams, corrections, the cache of features, drawings that it has not seen."""

import io
import itertools
import json
import os
import random
import subprocess
import sys
import tarfile

import datasets
import pytest
from conftest import COLOURS, ROOT, SHAPES
from PIL import Image, ImageDraw
from test_training import arguments, caption_folder

from demo.corrections import save_correction
from modeling_captioner import open_photo
from train import checkpoints
from train.cli import resolve, run
from train.data import StreamedPhotos
from train.data import features as features_module
from train.settings import Settings


def history(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def shards(tmp_path_factory, drawn_photos):
    """Forty photos in two webdataset shards, and one that is broken."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(2):
        with tarfile.open(folder / f"{shard}.tar", "w") as file:
            for number in range(shard * 20, shard * 20 + 20):
                picture = io.BytesIO()
                photo, caption = drawn_photos[number % 8]
                photo.save(picture, "PNG")
                # What follows a picture's end is ignored, and makes each a photo of its own.
                content = b"<html>" if number == 7 else picture.getvalue() + bytes([number])
                for name, data in (("png", content), ("txt", f"{caption} number {number}".encode())):
                    member = tarfile.TarInfo(f"{number:04}.{name}")
                    member.size = len(data)
                    file.addfile(member, io.BytesIO(data))
    return folder


def test_a_stream_gives_each_photo_once_to_training_or_validation(shards):
    settings = Settings(data_dir=str(shards), streaming=True, validation_fraction=0.3)
    train, validation = StreamedPhotos(settings, "train"), StreamedPhotos(settings, "validation")
    orders = []
    for epoch in (0, 1, 0):
        train.set_epoch(epoch)
        orders.append([row["captions"][0] for row in train])
    held_out = [row["captions"][0] for row in validation]
    assert sorted(orders[0] + held_out) == sorted(orders[1] + held_out)
    assert len(set(orders[0] + held_out)) == 40
    assert 5 < len(held_out) < 20
    assert orders[0] == orders[2] != orders[1]


def test_streaming_trains_and_resumes_and_keeps_no_shard(shards, tmp_path, monkeypatch, caplog, capsys):
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


def test_a_stream_of_unknown_length_asks_for_the_steps(shards, tmp_path):
    with pytest.raises(ValueError, match="set --max_train_steps"):
        run(resolve(arguments(output_dir=tmp_path, data_dir=shards, streaming=True, min_word_count=1)))


def test_corrections_teach_the_captioner(learnt_captioner, drawn_photos, tmp_path):
    """One command, from a captioner and a folder as the page keeps it: try, be wrong, be corrected."""
    corrections = tmp_path / "corrections"
    corrections.mkdir()
    photo, _ = drawn_photos[0]
    for name in ("one", "two"):
        photo.save(tmp_path / f"{name}.png")
        save_correction(corrections, open_photo(tmp_path / f"{name}.png"), "a square on a red ground")
    options = ["--model", str(learnt_captioner), "--data_dir", str(corrections), "--output_dir", str(tmp_path / "run")]
    assert caption_folder(learnt_captioner, [photo]) == ["a red circle on a grey ground"]
    run(resolve([*options, "--num_train_epochs", "30", "--eval_steps", "15", "--learning_rate", "0.01"]))
    assert caption_folder(tmp_path / "run", [photo]) == ["a square on a red ground"]


@pytest.mark.parametrize("count", [1, 3])
def test_few_photos_are_enough(drawn_photos, tmp_path, count):
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


def test_features_lie_in_shards_and_notice_a_changed_photo(drawn_set, drawn_photos, tmp_path, monkeypatch):
    """With shards of three photos: a run finds them again, and looks anew at the shard of a photo that has changed."""
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
    assert len(first) == 3, "eight photos, three in a file"
    assert files() == first
    drawn_photos[7][0].save(folder / "0.jpg")
    changed = files()
    assert first.items() < changed.items()
    assert len(changed) == 4


def two_things(one, other, size=96):
    """Two coloured shapes beside each other, with the caption that a person would give them."""
    photo = Image.new("RGB", (size, size), "lightgrey")
    draw = ImageDraw.Draw(photo)
    for left, (colour, shape) in ((size // 12, one), (size * 7 // 12, other)):
        box = [left, size // 3, left + size // 3, size * 2 // 3]
        (draw.ellipse if shape == "circle" else draw.rectangle)(box, fill=colour)
    return photo, f"a {' '.join(one)} left of a {' '.join(other)}"


def test_drawings_never_seen_are_captioned_right(tmp_path):
    """Of the 56 pairs of things, twelve are held out: their captions can only be made from what the others taught."""
    pairs = list(itertools.permutations(itertools.product(COLOURS, SHAPES), 2))
    random.Random(0).shuffle(pairs)
    held_out = [two_things(*pair) for pair in pairs[:12]]
    for split, drawn in (("train", [two_things(*pair) for pair in pairs[12:]]), ("validation", held_out)):
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


def test_names_and_captions_in_other_scripts_under_another_code_page(drawn_photos, tmp_path):
    """As on Windows: folders, photos and captions in Cyrillic and Chinese; no file in the locale's encoding."""
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
        " module='(train|publishing|captioning|modeling_captioner)[.]'); from train.cli import main; main()"
    )
    command = [sys.executable, "-X", "warn_default_encoding", "-c", strict, *options]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    for resume in ([], ["--resume_from_checkpoint", "last"]):
        end = subprocess.run([*command, *resume], env=environment, capture_output=True, text=True, cwd=ROOT)
        assert end.returncode == 0, end.stderr[-2000:]
        assert resume or "characters (Han) and words" in end.stdout
    assert str(folder) in (tmp_path / "вывод" / "settings.yaml").read_text(encoding="utf-8").splitlines()[0]
