"""`--evaluate_only`: predictions in COCO's format, and scores."""

import json
import os
import shutil

import pytest
import torch
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from modeling_captioner.cores import usable_cores
from tests.helpers.scored_captions import MODEL, PEOPLE
from tests.helpers.training import run_in_two_processes
from train import metrics
from train.cli import main
from train.evaluation import write_evaluation
from train.metrics import caption_metrics, java_metrics


@pytest.fixture(scope="module")
def coco_set(tmp_path_factory, drawn_photos):
    """A data set in COCO's layout, with three training and five validation photos."""
    folder = tmp_path_factory.mktemp("coco")
    (folder / "annotations").mkdir()
    for split, numbers in (("train2014", range(3)), ("val2014", range(3, 8))):
        (folder / split).mkdir()
        names = {number + 100: f"COCO_{split}_{number + 100:012}.jpg" for number in numbers}
        for number, name in names.items():
            drawn_photos[number - 100][0].save(folder / split / name, quality=95)
        captions = [{"image_id": number, "caption": drawn_photos[number - 100][1]} for number in names]
        images = [{"id": number, "file_name": name} for number, name in names.items()]
        content = {"images": images, "annotations": captions}
        (folder / "annotations" / f"captions_{split}.json").write_text(json.dumps(content))
    return folder


def evaluated(folder):
    return [json.loads((folder / f"{name}.json").read_text()) for name in ("predictions", "scores")]


@pytest.mark.slow
def test_one_or_two_processes_evaluate_each_photo_once(coco_set, learnt_captioner, drawn_photos, tmp_path, capsys):
    options = ["--evaluate_only", "--model", str(learnt_captioner), "--data_dir", str(coco_set)]
    options += ["--per_device_eval_batch_size", "2", "--num_beams", "1"]
    main([*options, "--output_dir", str(tmp_path / "one")])
    predictions, scores = evaluated(tmp_path / "one")
    assert [row["image_id"] for row in predictions] == [103, 104, 105, 106, 107]
    assert [row["caption"] for row in predictions] == [caption for _, caption in drawn_photos[3:8]]
    assert scores["photos"] == 5
    assert scores["BLEU-4"] == pytest.approx(1)
    printed = capsys.readouterr()
    assert "BLEU-4   1" in printed.out
    idle = torch.get_num_threads() < usable_cores()
    assert (f"--num_cpu_threads_per_process {usable_cores()}" in printed.err) == idle
    run_in_two_processes(*options, "--output_dir", str(tmp_path / "two"), folder=tmp_path)
    assert evaluated(tmp_path / "two")[0] == predictions
    assert evaluated(tmp_path / "two")[1] == pytest.approx(scores, rel=1e-5)


@pytest.mark.slow
def test_a_chosen_split_can_be_streamed(coco_set, learnt_captioner, drawn_photos, tmp_path):
    options = ["--evaluate_only", "--model", str(learnt_captioner), "--data_dir", str(coco_set), "--num_beams", "1"]
    main([*options, "--output_dir", str(tmp_path / "train"), "--eval_split", "train", "--streaming"])
    assert sorted(row["image_id"] for row in evaluated(tmp_path / "train")[0]) == [100, 101, 102]


def test_mistakes_are_one_sentence(coco_set, learnt_captioner, capsys):
    for options, named in (
        (["--data_dir", str(coco_set)], "give --model FOLDER"),
        (["--data_dir", str(coco_set), "--model", str(learnt_captioner), "--eval_split", "tset"], "eval_split='tset'"),
    ):
        with pytest.raises(SystemExit):
            main(["--evaluate_only", *options])
        assert named in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo Unable to locate a Java Runtime. >&2; exit 1", "Unable to locate a Java Runtime."),  # macOS's
        ('[ "$1" = -version ] || { echo too little memory; exit 1; }', "too little memory"),
        ('[ "$1" = -version ]', "returned non-zero exit status 1"),
        ("sleep 60", "timed out after 0.5 seconds"),
        ("", "index out of range"),  # says nothing
    ],
)
def test_a_java_that_fails_costs_only_its_metrics(tmp_path, monkeypatch, caplog, script, reason):
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\n{script}\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(metrics, "JAVA_START_SECONDS", 0.5 if "sleep" in script else 60)
    rows = zip(MODEL, PEOPLE, strict=True)
    same = {"set": None, "language": None, "loss": 12.0, "words": 6}
    results = {
        (photo, None): same | {"name": f"{photo}.jpg", "caption": caption, "references": references}
        for photo, (caption, references) in enumerate(rows)
    }
    scores = {"photos": len(MODEL), "loss": 2.0} | caption_metrics(PEOPLE, MODEL)
    assert write_evaluation(results, tmp_path / "scores") == {"": scores}
    assert [row["caption"] for row in evaluated(tmp_path / "scores")[0]] == MODEL
    assert evaluated(tmp_path / "scores")[1] == scores
    assert caplog.messages[0].startswith("METEOR left out, because Java failed: ")
    assert reason in caplog.messages[0]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("java"), reason="COCO's evaluation needs Java")
def test_scores_equal_those_of_the_coco_evaluation():
    """To four decimals, including the tokenizer."""
    tokenizer = PTBTokenizer()
    people = tokenizer.tokenize({n: [{"caption": text} for text in texts] for n, texts in enumerate(PEOPLE)})
    model = tokenizer.tokenize({n: [{"caption": text}] for n, text in enumerate(MODEL)})
    expected = dict(
        zip([f"BLEU-{n}" for n in range(1, 5)], Bleu(4).compute_score(people, model, verbose=0)[0], strict=True)
    )
    for name, scorer in (("CIDEr-D", Cider()), ("ROUGE-L", Rouge()), ("METEOR", Meteor())):
        expected[name] = scorer.compute_score(people, model)[0]
    ours = caption_metrics(PEOPLE, MODEL) | java_metrics(PEOPLE, MODEL)
    assert {name: round(float(ours[name]), 4) for name in expected} == {
        name: round(float(value), 4) for name, value in expected.items()
    }
