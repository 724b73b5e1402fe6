"""ONNX: the captions of `examples/caption_onnx.py`, which knows nothing of PyTorch, are those of PyTorch."""

import subprocess
import sys

import pytest
import torch
from conftest import ROOT, SHARED, SHIPPED
from datasets import load_dataset
from PIL import Image

from modeling_captioner import CaptionerForConditionalGeneration, CaptionerProcessor, open_photo
from publishing.export import export_onnx, main

onnx = pytest.importorskip("onnx", reason="needs onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
pytest.importorskip("onnxscript", reason="needs onnxscript")
EXAMPLE = ROOT / "examples" / "caption_onnx.py"
sys.path.insert(0, str(EXAMPLE.parent))

from caption_onnx import Captioner  # noqa: E402


def captions_of_torch(folder, photos, **generation):
    model = CaptionerForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = CaptionerProcessor.from_pretrained(folder)
    ids = model.generate(**processor(images=photos, return_tensors="pt"), **generation)
    return processor.batch_decode(ids, skip_special_tokens=True)


def test_another_kind_of_decoder(tiny_captioner, drawn_photos, tmp_path):
    """Random weights, whose captions wander through the vocabulary: greedy, and beams with all that generation does."""
    model, processor = tiny_captioner(rnn_type="lstm", num_layers=2, attention_type="additive")
    with torch.no_grad():
        model.encoder.projection.weight *= 10
        model.decoder.narrow.weight *= 30
        model.decoder.output_bias[model.config.eos_token_id] = -2
    model.generation_config.update(
        num_beams=3, max_new_tokens=12, suppress_tokens=[0, 1], no_repeat_ngram_size=2, length_penalty=0.7
    )
    model.save_pretrained(tmp_path / "captioner")
    processor.save_pretrained(tmp_path / "captioner")
    export_onnx(tmp_path / "captioner", tmp_path / "onnx")
    captioner, photos = Captioner(tmp_path / "onnx"), [photo for photo, _ in drawn_photos]
    for beams in (1, 3, 5):
        captions = [captioner.caption(photo, beams) for photo in photos]
        assert captions == captions_of_torch(tmp_path / "captioner", photos, num_beams=beams)
        assert len(set(captions)) > 1


def test_shipped_captioner_says_the_same_of_twenty_photos(tmp_path):
    """Of photos where they lie beside the repository, else of the page's, turned. Beams are searched in a process where
    importing PyTorch, transformers or this repository fails."""
    if not (SHIPPED / "model.safetensors").exists():
        pytest.skip("modeling_captioner/ holds no weights yet")
    if SHARED.exists():
        rows = load_dataset("parquet", data_files=f"{SHARED}/data/flickr8k/validation-*.parquet", split="train[:20]")
        photos = [row["image"].convert("RGB") for row in rows]
    else:
        # As large as the encoder wants them: where Pillow and torchvision resize, one value in a thousand differs by 1
        # on some machines, which can tip a beam search.
        shown = [open_photo(file).resize((299, 299)) for file in sorted(ROOT.glob("demo/examples/*.jpg"))]
        photos = [photo.transpose(way) for photo in shown for way in Image.Transpose][:20]
    files = [tmp_path / f"{number}.png" for number in range(len(photos))]
    for file, photo in zip(files, photos, strict=True):
        photo.save(file)
    folder = tmp_path / "onnx"
    export_onnx(SHIPPED, folder)
    code = "import runpy, sys; sys.modules |= dict.fromkeys(['torch', 'transformers', 'modeling_captioner'])\n"
    code += "runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code, EXAMPLE, folder, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = zip(files, captions_of_torch(SHIPPED, photos), strict=True)
    assert done.stdout.splitlines() == [f"{file}\t{caption}" for file, caption in lines]
    assert not any("auto_map" in file.read_text() for file in folder.glob("*.json")), "there is no code to map to"


def test_a_wrong_model_is_one_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--onnx", str(tmp_path / "onnx"), "--model", str(tmp_path)])
    assert exit_.value.code == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert str(tmp_path) in error
