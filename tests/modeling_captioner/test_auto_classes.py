"""Loading a captioner without this repository: only its folder, transformers, timm and PyTorch."""

import json

import pytest
import torch
from safetensors.torch import load_file

from publishing.publish import write_repository
from tests.helpers.isolated import BEGINNING, captions_here
from tests.helpers.marks import slow_case
from tests.helpers.paths import SHIPPED
from tests.helpers.programs import run_python


@pytest.fixture
def fresh(tmp_path):
    """Run code after `BEGINNING` in another directory, isolated (-I) from this one. Returns the printed JSON."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def run(code, folder, files=()):
        done = run_python("-I", "-c", BEGINNING + code, folder, *files, cwd=elsewhere)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(params=["tiny", slow_case("shipped")])
def repository(request, tmp_path):
    """The folder of a published captioner: a tiny one that has memorized the drawn photos, and the shipped one."""
    if request.param == "tiny":
        write_repository(request.getfixturevalue("learnt_captioner"), tmp_path / "repository")
        return tmp_path / "repository"
    if not (SHIPPED / "model.safetensors").exists():
        pytest.skip("modeling_captioner/ holds no weights yet")
    return SHIPPED


def test_auto_classes_load_from_anywhere(fresh, repository, files, drawn_photos):
    """The captions are the same as in this process, may begin with given words, and the model runs in float32."""
    told = fresh(
        """
model, same, processor = load(AutoModelForImageTextToText), load(AutoModel), load(AutoProcessor)
tell({
    "classes": [type(thing).__name__ for thing in (load(AutoConfig), model, same, processor)],
    "strange": [name for name in sys.modules if name.split(".")[0] in ("modeling_captioner", "train")],
    "dtypes": sorted({str(tensor.dtype) for tensor in model.state_dict().values() if tensor.is_floating_point()}),
    "captions": captions(model, processor),
    "same": captions(same, processor),
    "begun": captions(model, processor, text=["a red"] * len(photos)),
})
""",
        repository,
        files,
    )
    model = "CaptionerForConditionalGeneration"
    assert told["classes"] == ["CaptionerConfig", model, model, "CaptionerProcessor"]
    assert told["strange"] == [], "the folder's own code must be used, not this repository's"
    assert told["dtypes"] == ["torch.float32"]
    assert told["captions"] == told["same"] == captions_here(repository, files)
    assert all(caption.startswith("a red") for caption in told["begun"])
    if repository != SHIPPED:
        assert told["captions"] == [caption for _, caption in drawn_photos]


@pytest.mark.parametrize("repository", ["tiny"], indirect=True)
def test_pipeline(fresh, repository, files):
    """For one and several photos, with and without a text that starts the caption."""
    told = fresh(
        """
captioner = pipeline("image-text-to-text", model=folder, trust_remote_code=True)
answers = [captioner(images=photos[0], text=""), captioner(images=photos[0], text="a red")]
several = captioner(images=photos, text=[""] * len(photos))
bare = captioner(photos[0]) + captioner(images={"images": photos[0]}) + captioner(photos) + captioner(photos, "a red")
tell([answer["generated_text"] for answer in sum(answers, []) + several + bare])
""",
        repository,
        files,
    )
    captions = captions_here(repository, files)
    assert told[0] == captions[0]
    assert told[1].startswith("a red")
    several, bare = told[2 : 2 + len(files)], told[2 + len(files) :]
    assert several == captions
    assert bare[: 2 + len(files)] == [captions[0], captions[0], *captions]
    assert bare[2 + len(files)] == told[1]
    assert len(bare) == 2 + 2 * len(files)


def test_half_precision_is_stored_and_run_if_asked_for(fresh, repository, files):
    """Batch-norm statistics are stored in float32, because small variances underflow in half precision."""
    files = files[:3]  # most CPUs compute slowly in float16
    stored = load_file(repository / "model.safetensors")
    kinds = {torch.float32 if "running" in name else torch.float16 for name in stored}
    assert kinds == {torch.float32, torch.float16}
    for name, tensor in stored.items():
        if tensor.is_floating_point():
            assert tensor.dtype == (torch.float32 if "running" in name else torch.float16), name
    told = fresh(
        """
processor = load(AutoProcessor)
models = {dtype: load(AutoModel, dtype=dtype) for dtype in ("auto", torch.float16, torch.bfloat16)}
tell({
    str(dtype): [sorted({str(parameter.dtype) for parameter in model.parameters()}), captions(model, processor)]
    for dtype, model in models.items()
})
""",
        repository,
        files,
    )
    captions = captions_here(repository, files)
    assert told["auto"] == [["torch.float32"], captions]
    for dtype in ("torch.float16", "torch.bfloat16"):
        dtypes, half = told[dtype]
        assert dtypes == [dtype]
        assert len(half) == len(files)
        if repository != SHIPPED:  # the tiny captioner is so certain that rounding changes no word
            assert half == captions


@pytest.mark.parametrize("repository", ["tiny"], indirect=True)
def test_saved_again_elsewhere(fresh, repository, files, tmp_path):
    """A loaded captioner saves a complete captioner folder again."""
    saved = tmp_path / "saved"
    fresh(
        f"""
load(AutoModel).save_pretrained({str(saved)!r})
load(AutoProcessor).save_pretrained({str(saved)!r})
tell(None)
""",
        repository,
    )
    told = fresh(
        """
models = load(AutoModel), load(AutoModelForImageTextToText)
tell([captions(model, load(AutoProcessor)) for model in models])
""",
        saved,
        files,
    )
    assert told[0] == told[1] == captions_here(repository, files)


@pytest.mark.parametrize("repository", ["shipped"], indirect=True)
def test_code_is_not_run_unasked(fresh, repository):
    told = fresh(
        """
answers = []
for auto_class in (AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor):
    for options in ({}, {"trust_remote_code": False}):
        try:
            auto_class.from_pretrained(folder, **options)
        except ValueError as error:
            answers.append(str(error))
tell([answers, [name for name in sys.modules if "captioner" in name]])
""",
        repository,
    )
    answers, imported = told
    assert len(answers) == 8
    assert all("Please pass the argument `trust_remote_code=True`" in answer for answer in answers)
    assert imported == []
