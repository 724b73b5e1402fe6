"""Data sets given by name, with the schemas, splits and encodings of COCO data sets on the Hub, on a test server.

Streamed or not, each photo gets its own captions, and no photo is in two splits.
"""

import io
import json
import subprocess
import sys

import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PillowImage
from safetensors.torch import save_file

from modeling_captioner import CaptionerForConditionalGeneration
from tests.helpers.hub_server import FakeHub
from tests.helpers.marks import slow_case
from tests.helpers.paths import ROOT, SHIPPED
from tests.helpers.photo_server import PhotoServer
from tests.helpers.shards import tar
from tests.helpers.training import history
from tests.helpers.workers import json_worker
from train.cli import resolve

# Reads settings as JSON lines, and prints the splits of each: {split: [[number encoded in the photo, captions]]}.
WORKER = """
import json, pickle, sys
from multiprocessing.reduction import ForkingPickler
from tests.helpers.training import single_dataset, single_stream
from train.data import photo_of
from train.settings import Settings

def streamed(settings, split):  # as a worker reads it that is spawned
    return pickle.loads(ForkingPickler.dumps(single_stream(settings, split)))

def photos(settings, split):
    rows = streamed(settings, split) if settings.streaming else single_dataset(settings, [split])[split]
    return sorted([photo_of(row).getpixel((0, 0))[0] // 8, row["captions"]] for row in rows)

for line in sys.stdin:
    settings = Settings(**json.loads(line))
    try:
        answer = {split: photos(settings, split) for split in ("train", "validation")}
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    print(json.dumps(answer), file=sys.__stdout__, flush=True)
"""
KARPATHY = {"train": range(6), "restval": range(6, 9), "val": range(9, 12), "test": range(12, 14)}
ALL = {"train": KARPATHY["train"], "validation": KARPATHY["val"], "test": KARPATHY["test"]}


def picture(number):
    """A JPEG whose color encodes its number, with enough distance between numbers to survive compression."""
    file = io.BytesIO()
    PillowImage.new("RGB", (48, 32), (number * 8 + 4, 100, 100)).save(file, "JPEG", quality=95)
    return file.getvalue()


def captions(number):
    return [f"caption {k} of photo {number}" for k in range(5)]


def name(number):
    return f"COCO_train2014_{number:012}.jpg"


@pytest.fixture(scope="module")
def web():
    with PhotoServer({f"train2014/{name(number)}": picture(number) for number in range(14)}) as server:
        yield server


@pytest.fixture(scope="module")
def hub(tmp_path_factory, web):
    with FakeHub(tmp_path_factory.mktemp("hub")) as hub:
        for schema in SCHEMAS:
            folder = tmp_path_factory.mktemp("data")
            schema(folder, f"{web.address}/train2014/")
            publish(hub, f"coco/{schema.__name__}", folder, "datasets")
        yield hub


def publish(hub, name, folder, kind):
    repository = hub.repository(name, kind)
    repository.create()
    repository.add(folder)


@pytest.fixture(scope="module")
def ask(hub, tmp_path_factory):
    with json_worker(WORKER, hub.environment(tmp_path_factory.mktemp("home"))) as ask:
        yield lambda **settings: ask(settings)


def parquet(folder, split, rows, features=None):
    Dataset.from_list(rows, features).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")


def karpathy_row(number, split):
    """A row with the columns of Karpathy's JSON file."""
    return {
        "filepath": "train2014",
        "sentids": [5 * number + k for k in range(5)],
        "filename": name(number),
        "imgid": number,
        "split": split,
        "sentences": captions(number),
        "cocoid": 1000 + number,
    }


def karpathy_urls(folder, base):
    """yerevann/coco-karpathy, the data set of the recipes."""
    for split, numbers in KARPATHY.items():
        rows = [karpathy_row(number, split) | {"url": base + name(number)} for number in numbers]
        parquet(folder, "validation" if split == "val" else split, rows)


def karpathy_in_one_file(folder, base):
    rows = [karpathy_row(number, split) for split, numbers in KARPATHY.items() for number in numbers]
    parquet(folder, "train", [row | {"url": base + name(row["imgid"])} for row in rows])


def karpathy_photos(folder, base):
    """laicsiifes/coco-captions-pt-br: the photo and, in another column, its URL."""
    features = Features(
        {
            "image": Image(),
            "url": Value("string"),
            "caption": List(Value("string")),
            "split": Value("string"),
            "cocoid": Value("int64"),
        }
    )
    for split, numbers in KARPATHY.items():
        rows = [
            {
                "image": {"bytes": picture(n), "path": None},
                "url": base + "missing",
                "caption": captions(n),
                "split": split,
                "cocoid": n,
            }
            for n in numbers
        ]
        parquet(folder, "validation" if split == "val" else split, rows, features)


def row_per_caption(folder, base, splits=ALL):
    """jxie/coco_captions: the photo is repeated in each row, not always encoded to the same bytes."""
    features = Features(
        {"image": Image(), "filename": Value("string"), "cocoid": Value("int32"), "caption": Value("string")}
    )
    for split, numbers in splits.items():
        rows = [
            {
                "image": {"bytes": picture(n) + bytes([k]), "path": name(n)},
                "filename": name(n),
                "cocoid": n,
                "caption": captions(n)[k],
            }
            for k in range(5)
            for n in numbers
        ]
        parquet(folder, split, rows, features)


def row_per_caption_without_splits(folder, base):
    row_per_caption(folder, base, {"train": range(12)})


def webdataset_json(folder, base):
    """undefined443/coco-karpathy-wds."""
    for split, numbers in ALL.items():
        for shard in range(2):
            members = {}
            for number in numbers[shard::2]:
                content = {"captions": captions(number), "cocoid": number, "split": split}
                members |= {f"{number:09}.jpg": picture(number), f"{number:09}.json": json.dumps(content).encode()}
            tar(folder / ("val" if split == "validation" else split) / f"{shard:05}.tar", members)


def webdataset_lines(folder, base):
    """clip-benchmark/wds_mscoco_captions: only a test split."""
    members = {}
    for number in range(14):
        members |= {f"s{number:07}.jpg": picture(number), f"s{number:07}.txt": "\n".join(captions(number)).encode()}
    tar(folder / "test" / "0.tar", members)
    (folder / "test" / "nshards.txt").write_text("1")


def answers(folder, base):
    """lmms-lab/COCO-Caption: no training split, and a test split without captions."""
    features = Features(
        {
            "question_id": Value("string"),
            "image": Image(),
            "question": Value("string"),
            "answer": List(Value("string")),
            "id": Value("int64"),
            "file_name": Value("string"),
            "coco_url": Value("string"),
        }
    )
    for split, numbers in (("val", range(12)), ("test", range(12, 14))):
        rows = [
            {
                "question_id": name(n),
                "image": {"bytes": picture(n), "path": name(n)},
                "question": "Please carefully observe the image and come up with a caption for the image.",
                "answer": captions(n) if split == "val" else [],
                "id": n,
                "file_name": name(n),
                "coco_url": base + "missing",
            }
            for n in numbers
        ]
        parquet(folder, split, rows, features)


def coco_url(folder, base):
    for split, numbers in ALL.items():
        parquet(folder, split, [{"coco_url": base + name(n), "captions": captions(n)} for n in numbers])


def unknown(folder, base):
    parquet(folder, "train", [{"picture": picture(n), "title": "a dog"} for n in range(5)])


SCHEMAS = [
    karpathy_urls,
    karpathy_in_one_file,
    karpathy_photos,
    row_per_caption,
    row_per_caption_without_splits,
    webdataset_json,
    webdataset_lines,
    answers,
    coco_url,
    unknown,
]
RESTVAL = (karpathy_urls, karpathy_in_one_file, karpathy_photos)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "schema",
    [RESTVAL[0], *map(slow_case, RESTVAL[1:]), row_per_caption, webdataset_json, slow_case(coco_url)],
    ids=lambda schema: schema.__name__,
)
def test_original_splits(ask, schema, streaming):
    splits = ask(dataset_name=[f"coco/{schema.__name__}"], streaming=streaming)
    train = [*KARPATHY["train"], *(KARPATHY["restval"] if schema in RESTVAL else ())]
    expected = {"train": [[n, captions(n)] for n in train], "validation": [[n, captions(n)] for n in KARPATHY["val"]]}
    if streaming and schema is row_per_caption:  # streamed rows are not merged
        expected = {split: [[n, [text]] for n, texts in rows for text in texts] for split, rows in expected.items()}
    assert splits == expected


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("schema", [karpathy_urls, slow_case(karpathy_in_one_file)], ids=lambda schema: schema.__name__)
def test_another_split_to_validate_on(ask, schema, streaming):
    splits = ask(dataset_name=[f"coco/{schema.__name__}"], streaming=streaming, eval_split="test")
    assert splits["validation"] == [[n, captions(n)] for n in KARPATHY["test"]]
    assert len(splits["train"]) == 9


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("schema", [webdataset_lines, answers], ids=lambda schema: schema.__name__)
def test_photos_are_held_out_if_there_is_no_training_split(ask, schema, streaming):
    splits = ask(dataset_name=[f"coco/{schema.__name__}"], streaming=streaming, validation_fraction=0.3)
    count = 14 if schema is webdataset_lines else 12
    assert sorted(splits["train"] + splits["validation"]) == [[n, captions(n)] for n in range(count)]
    assert 0 < len(splits["validation"]) < len(splits["train"])


@pytest.mark.parametrize("streaming", [False, True])
def test_all_captions_of_a_photo_are_in_one_split(ask, streaming):
    """Rows of the same photo are recognized by `cocoid`, because their bytes differ."""
    splits = ask(dataset_name=["coco/row_per_caption_without_splits"], streaming=streaming)
    assert {number for number, _ in splits["train"] + splits["validation"]} == set(range(12))
    assert not {number for number, _ in splits["train"]} & {number for number, _ in splits["validation"]}


def test_an_unknown_schema_lists_its_columns(ask):
    for streaming in (False, True):
        error = ask(dataset_name=["coco/unknown"], streaming=streaming)
        assert error.startswith("ValueError: ")
        assert "No column with photos was recognized among picture, title; choose one with --image_column" in error


# The recipes


def test_the_command_line_overrides_the_data_set_of_a_recipe():
    for name in ("coco", "practice"):
        assert all(stage.dataset_name == ["yerevann/coco-karpathy"] for stage in resolve(["--recipe", name]))
        for other in ({"data_dir": "photos"}, {"dataset_name": "someone/photos"}):
            ((option, value),) = other.items()
            for stage in resolve(["--recipe", name, f"--{option}", value]):
                named = {one: getattr(stage, one) for one in ("dataset_name", "data_dir") if getattr(stage, one)}
                assert named == {option: [value]}


def test_practice_downloads_only_the_photos_it_uses(hub, ask, tmp_path):
    (practice,) = resolve(["--recipe", "practice"])
    assert practice.max_train_samples + practice.max_eval_samples == 5000
    with PhotoServer({name(number): picture(number) for number in range(14)}) as web:
        karpathy_urls(tmp_path, f"{web.address}/")
        publish(hub, "coco/practice", tmp_path, "datasets")
        splits = ask(dataset_name=["coco/practice"], max_train_samples=4, max_eval_samples=1)
        assert sum(web.requests.values()) == 5
    assert (len(splits["train"]), len(splits["validation"])) == (4, 1)


@pytest.mark.slow
def test_the_recipe_coco_needs_no_other_options(hub, web, tmp_path, tmp_path_factory):
    """Data set and encoder come from the Hub, and all three stages run. Other options only make the test faster."""
    karpathy_urls(tmp_path / "data", f"{web.address}/train2014/")
    publish(hub, "yerevann/coco-karpathy", tmp_path / "data", "datasets")
    encoder = CaptionerForConditionalGeneration.from_pretrained(SHIPPED).encoder.backbone.state_dict()
    (tmp_path / "encoder").mkdir()
    save_file(encoder, tmp_path / "encoder" / "model.safetensors")
    publish(hub, "timm/inception_v3.tv_in1k", tmp_path / "encoder", "models")
    before = web.requests.copy()
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "train/", "--recipe", "coco"]
    command += ["--max_train_steps", "20", "--eval_steps", "20", "--logging_steps", "1"]
    command += ["--image_size", "80", "--hidden_size", "64", "--embedding_size", "32", "--num_beams", "1"]
    command += ["--per_device_train_batch_size", "3", "--dataloader_num_workers", "0", "--max_new_tokens", "8"]
    command += ["--output_dir", str(tmp_path / "run")]
    end = subprocess.run(command, cwd=ROOT, env=hub.environment(tmp_path / "home"), capture_output=True, text=True)
    assert end.returncode == 0, end.stderr[-3000:]
    rows = history(tmp_path / "run")
    for stage in ("1-captions", "2-captions", "3-self_critical"):
        assert [row["step"] for row in rows if row["stage"] == stage and "loss" in row] == list(range(1, 21))
        assert any("CIDEr-D" in row for row in rows if row["stage"] == stage)
    model = CaptionerForConditionalGeneration.from_pretrained(tmp_path / "run")
    frozen, trained = "Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch_pool.conv.weight"
    weights = model.encoder.backbone.state_dict()
    torch.testing.assert_close(weights[frozen], encoder[frozen])
    assert not torch.equal(weights[trained], encoder[trained])
    fetched = web.requests - before
    assert sorted(fetched) == [f"train2014/{name(n)}" for n in range(12)], "no photos of the test split"
    assert set(fetched.values()) == {1}, "each once, although three stages use them"
