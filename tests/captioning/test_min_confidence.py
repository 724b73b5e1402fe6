"""`caption.py` with a calibrated captioner: the confidence in its outputs, and `--min_confidence`."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from caption import main

NUMBERS = {"intercept": 0.0, "total": 5.0, "lowest": 1.0, "length": 0.01}


@pytest.fixture(scope="module")
def calibrated(learnt_captioner, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrated") / "model"
    shutil.copytree(learnt_captioner, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"confidence": NUMBERS}))
    return folder


@pytest.fixture
def files(tmp_path, drawn_photos):
    files = [tmp_path / "photos" / f"{number}.png" for number in range(len(drawn_photos))]
    files[0].parent.mkdir()
    for file, (photo, _) in zip(files, drawn_photos, strict=True):
        photo.save(file)
    return files


@pytest.fixture
def run(calibrated, files, capsys):
    """Caption the photos. Returns the status and the lines of standard output and standard error."""

    def run(*options, model=calibrated):
        status = main([str(files[0].parent), "--model", str(model), "--engine", "torch", *map(str, options)])
        return status, *(text.splitlines() for text in capsys.readouterr())

    return run


@pytest.fixture
def rows(run):
    """What --json prints."""
    return [json.loads(line) for line in run("--json")[1]]


@pytest.fixture
def minimum(rows):
    """A confidence that three of eight captions do not reach."""
    values = sorted(row["confidence"] for row in rows)
    assert values[2] < values[3]
    return (values[2] + values[3]) / 2


def test_outputs_have_the_confidence(rows, run, learnt_captioner, tmp_path):
    for name in ("out.jsonl", "out.csv", "out.json", "out.tsv"):
        assert run("--output", tmp_path / name)[0] == 0
    expected = [pytest.approx(row["confidence"], abs=1e-6) for row in rows]
    assert [json.loads(line)["confidence"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == expected
    assert [float(row["confidence"]) for row in table(tmp_path / "out.csv")] == expected
    assert [row["confidence"] for row in json.loads((tmp_path / "out.json").read_text())] == expected
    assert (tmp_path / "out.tsv").read_text() == "".join(f"{row['file']}\t{row['caption']}\n" for row in rows)
    assert "confidence" not in run("--json", model=learnt_captioner)[1][0]


def table(file):
    with open(file, encoding="utf-8-sig", newline="") as opened:
        return list(csv.DictReader(opened))


@pytest.mark.parametrize("name", ["out.jsonl", "out.json", "out.tsv"])
def test_less_sure_captions_go_to_a_file_for_review(rows, minimum, run, files, tmp_path, name):
    output, review = tmp_path / name, tmp_path / f"{name}.review.csv"
    status, _, errors = run("--output", output, "--min_confidence", minimum)
    assert (status, errors) == (0, [f"warning: {review} contains 3 captions that a person should check."])
    unsure = [row for row in rows if row["confidence"] < minimum]
    assert [(row["file"], row["caption"]) for row in table(review)] == [(row["file"], row["caption"]) for row in unsure]
    assert [float(row["confidence"]) for row in table(review)] == [
        pytest.approx(row["confidence"], abs=1e-6) for row in unsure
    ]
    written, reviewed = output.read_text(), review.read_bytes()
    assert not any(row["caption"] in written for row in unsure)
    assert all(row["caption"] in written for row in rows if row not in unsure)
    # Nothing is left to do, also once a photo more is there.
    assert run("--output", output, "--min_confidence", minimum, "--resume")[0] == 0
    assert (output.read_text(), review.read_bytes()) == (written, reviewed)
    shutil.copyfile(files[0], files[0].with_name("more.png"))
    run("--output", output, "--min_confidence", 0, "--resume")
    assert review.read_bytes() == reviewed
    assert len(output.read_text()) > len(written)
    assert run("--output", output, "--min_confidence", minimum)[0] == 1  # exists


def test_text_files_for_review(rows, minimum, run, files):
    assert run("--txt", "--min_confidence", minimum)[0] == 0
    for row in rows:
        ending = ".review.txt" if row["confidence"] < minimum else ".txt"
        assert Path(row["file"]).with_suffix(ending).read_text() == row["caption"] + "\n"
    assert len(list(files[0].parent.glob("*.txt"))) == len(rows)
    assert run("--txt", "--min_confidence", 1, "--resume")[0] == 0
    assert len(list(files[0].parent.glob("*.txt"))) == len(rows)


def test_lines_for_review_on_standard_error(rows, minimum, run):
    status, lines, errors = run("--min_confidence", minimum)
    assert status == 0
    assert lines == [f"{row['file']}\t{row['caption']}" for row in rows if row["confidence"] >= minimum]
    assert errors == [
        f"review: {row['file']}\t{row['caption']}\t{row['confidence']:.2f}"
        for row in rows
        if row["confidence"] < minimum
    ]


def test_mistakes(run, learnt_captioner, capsys):
    status, _, errors = run("--min_confidence", "0.5", model=learnt_captioner)
    assert status == 1
    assert "gives no confidence; calibrate it" in errors[-1]
    with pytest.raises(SystemExit):
        run("--min_confidence", "50")
    assert "'50' is not a number from 0 to 1" in capsys.readouterr().err
