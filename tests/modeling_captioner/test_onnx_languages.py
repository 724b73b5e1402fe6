"""The ONNX export of a captioner of several languages says what PyTorch says, in each of them."""

import pytest

pytest.importorskip("onnxruntime", reason="needs onnxruntime")
pytest.importorskip("onnxscript", reason="needs onnxscript")

from modeling_captioner import explain, explain_caption
from modeling_captioner.onnx_captioner import OnnxCaptioner
from modeling_captioner.onnx_files import FILES
from publishing.onnx.export import export_graphs
from tests.helpers.captioners import build_tiny, speak_both


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A captioner of English and Vietnamese, in PyTorch and as `OnnxCaptioner` in float32."""
    folder = tmp_path_factory.mktemp("both")
    model, processor = speak_both(*build_tiny(dropout=0.0, word_dropout=0.0))
    model.generation_config.languages["vi"]["min_new_tokens"] = 2
    model.generation_config.languages["vi"]["max_new_tokens"] = 3
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "onnx").mkdir()
    export_graphs(model, *(folder / "onnx" / name for name in FILES))
    (folder / "model.safetensors").unlink()  # a download of the export alone
    return model, processor, OnnxCaptioner(folder)


def test_captions_in_each_language(both, drawn_photos):
    model, processor, engine = both
    photos = [photo for photo, _ in drawn_photos[:4]]
    pixel_values = [engine.preprocess(photo) for photo in photos]
    captions = {}
    for language in (None, "en", "vi"):
        inputs = processor(images=photos, return_tensors="pt")
        expected = processor.batch_decode(model.generate(**inputs, language=language), skip_special_tokens=True)
        captions[language] = [caption for caption, *_ in engine.caption(pixel_values, language=language)]
        assert captions[language] == expected
    assert captions[None] == captions["en"] != captions["vi"]
    assert {len(caption.split()) for caption in captions["vi"]} <= {2, 3}


@pytest.mark.parametrize("language", [None, "en", "vi"])
@pytest.mark.parametrize("text", ["", "a red"])
def test_explanations_in_each_language(both, drawn_photos, language, text):
    model, processor, engine = both
    photo = drawn_photos[0][0]
    found = engine.explain(photo, text=text, language=language).to_dict()
    expected = explain(model, processor, photo, text=text, language=language).to_dict()
    assert found["language"] == expected["language"] == (language or "en")
    assert [word["text"] for word in found["words"]] == [word["text"] for word in expected["words"]]
    assert found["log_probability"] == pytest.approx(expected["log_probability"], abs=1e-3)


@pytest.mark.parametrize("language", [None, "vi"])
def test_a_given_caption_in_each_language(both, drawn_photos, language):
    model, processor, engine = both
    photo, caption = drawn_photos[1]
    found = engine.explain_caption(photo, caption, language=language)
    expected = explain_caption(model, processor, photo, caption, language=language)
    assert (found.caption, found.language) == (expected.caption, expected.language)
    assert [word.probability for word in found.words] == pytest.approx([word.probability for word in expected.words])


def test_unknown_languages_are_refused_by_name(both, drawn_photos, exported):
    photo = drawn_photos[0][0]
    for language, captioner, named in (
        ("xx", both[2], "language='xx' is unknown; choose one of en, vi."),
        ("en", OnnxCaptioner(exported), "language='en' is unknown; this captioner has only one; leave it out."),
    ):
        for method, value in ((captioner.explain, photo), (captioner.caption, [captioner.preprocess(photo)])):
            with pytest.raises(ValueError, match="is unknown") as error:
                method(value, language=language)
            assert str(error.value) == named
