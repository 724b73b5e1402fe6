"""A captioner of several languages: first tokens, `generate(language=...)`, processor, pipeline, handler."""

import json

import pytest
import torch
from transformers import GenerationConfig, pipeline

from modeling_captioner import (
    CaptionerConfig,
    CaptionerForConditionalGeneration,
    CaptionerProcessor,
    explain,
    explain_caption,
)
from modeling_captioner.handler import EndpointHandler
from modeling_captioner.languages import check_language
from publishing.publish import write_repository
from tests.helpers.captioners import speak_both

UNKNOWN = "language='xx' is unknown; choose one of en, vi."


@pytest.fixture(scope="session")
def bilingual(tiny_captioner):
    return speak_both(*tiny_captioner(dropout=0.0, word_dropout=0.0))


@pytest.fixture
def photos(drawn_photos):
    return [photo for photo, _ in drawn_photos[:3]]


@pytest.fixture
def vi(bilingual):
    return bilingual[1].tokenizer.convert_tokens_to_ids("<vi>")


def test_each_language_begins_with_its_token(bilingual, photos, vi):
    model, processor = bilingual
    for language, start in ((None, 2), ("en", 2), ("vi", vi)):
        inputs = processor(images=photos, text="a red", language=language, return_tensors="pt")
        assert inputs.decoder_input_ids[:, 0].tolist() == [start] * 3
        assert (
            inputs.decoder_input_ids[:, 1:].tolist()
            == processor(images=photos, text="a red", return_tensors="pt").decoder_input_ids[:, 1:].tolist()
        )
        lists = processor(images=photos, text=["a red"] * 3, language=language)["decoder_input_ids"]
        assert [list(row) for row in lists] == inputs.decoder_input_ids.tolist()
        assert model.generate(**processor(images=photos, return_tensors="pt"), language=language)[:, 0].tolist() == (
            [start] * 3
        )
    assert processor.decode([vi, 4, 5, 3, 0, 2], skip_special_tokens=True) == processor.decode([4, 5])
    assert processor.decode([vi, 4, 5, 3], text="", skip_special_tokens=True) == processor.decode([4, 5])


@torch.no_grad()
def test_generate_uses_the_settings_of_the_language(bilingual, photos, vi):
    model, processor = bilingual
    inputs = processor(images=photos, return_tensors="pt")
    settings = {"num_beams": 3}
    english = model.generate(**inputs, **settings)
    vietnamese = model.generate(**inputs, language="vi", **settings)
    assert english.tolist() == model.generate(**inputs, language="en", **settings).tolist()
    assert english[:, 1:].tolist() != vietnamese[:, 1:].tolist()
    assert 4 not in vietnamese
    # The words of one language, spelled out.
    spelled = {"decoder_start_token_id": vi, "suppress_tokens": [0, 1, 2, vi, 4]}
    regions = model.get_encoder()(inputs.pixel_values)
    assert vietnamese.tolist() == model.generate(encoder_outputs=regions, **spelled, **settings).tolist()
    # What is passed comes before what the language sets.
    assert (
        model.generate(**inputs, language="vi", suppress_tokens=[0, 1, 2, vi], **settings).tolist()
        == model.generate(encoder_outputs=regions, **spelled | {"suppress_tokens": [0, 1, 2, vi]}, **settings).tolist()
    )
    given = GenerationConfig(num_beams=3)
    assert model.generate(**inputs, generation_config=given, language="vi").tolist() == vietnamese.tolist()
    assert given.to_dict() == GenerationConfig(num_beams=3).to_dict()


@torch.no_grad()
def test_words_that_the_decoder_begins_with_say_the_language(bilingual, photos, vi):
    """Without `language`; the photos of a batch may have different ones."""
    model, processor = bilingual
    begun = processor(images=photos, text="a red", language="vi", return_tensors="pt")
    expected = model.generate(**begun, language="vi")
    assert model.generate(**begun).tolist() == expected.tolist()
    assert expected[:, :3].tolist() == begun.decoder_input_ids.tolist()
    mixed = processor(images=photos, text="a red", return_tensors="pt")
    alone = [
        model.generate(
            **processor(images=photo, text="a red", language=language, return_tensors="pt"), suppress_tokens=[0, 1, 2]
        )
        for photo, language in zip(photos, ("en", "vi", "en"), strict=True)
    ]
    mixed["decoder_input_ids"][1, 0] = vi
    assert model.generate(**mixed, suppress_tokens=[0, 1, 2]).tolist() == torch.cat(alone).tolist()
    assert model.generate(**mixed, num_beams=2)[:, :3].tolist() == mixed["decoder_input_ids"].tolist()
    with pytest.raises(ValueError, match="decoder_input_ids are not in language='en'"):
        model.generate(**begun, language="en")
    # As inherited: words without a start get one.
    words = begun.decoder_input_ids[:, 1:]
    assert model.generate(begun.pixel_values, decoder_input_ids=words, language="vi").tolist() == expected.tolist()


@torch.no_grad()
def test_unknown_languages_are_refused(bilingual, tiny_captioner, photos):
    model, processor = bilingual
    single, single_processor = tiny_captioner()
    pixels = processor(images=photos, return_tensors="pt").pixel_values
    for refused in (
        lambda: model.generate(pixels, language="xx"),
        lambda: processor(images=photos, text="", language="xx"),
        lambda: explain(model, processor, photos[0], language="xx"),
        lambda: explain_caption(model, processor, photos[0], "a red", language="xx"),
        lambda: check_language("xx", ["en", "vi"]),
    ):
        with pytest.raises(ValueError, match=UNKNOWN):
            refused()
    for refused in (
        lambda: single.generate(pixels, language="vi"),
        lambda: single_processor(images=photos, text="", language="vi"),
        lambda: explain(single, single_processor, photos[0], language="vi"),
    ):
        with pytest.raises(ValueError, match="language='vi' is unknown; this captioner has only one; leave it out"):
            refused()
    assert check_language(None, None) is None


def test_missing_settings_of_a_language_are_named(bilingual, photos):
    model, processor = bilingual
    broken = CaptionerForConditionalGeneration(model.config)
    with pytest.raises(ValueError, match=r"generation_config\.json has no first token for the language 'vi'"):
        broken.generate(**processor(images=photos, return_tensors="pt"), language="vi")


@pytest.mark.parametrize("languages", [[], ["en", "en"], ["en", ""], "en", [1]])
def test_wrong_lists_of_languages_are_refused(languages):
    with pytest.raises(Exception, match="languages"):
        CaptionerConfig(languages=languages)


def test_explanations_say_their_language(bilingual, tiny_captioner, photos):
    model, processor = bilingual
    captions = {language: explain(model, processor, photos[0], language=language) for language in ("en", "vi")}
    assert captions["en"].caption != captions["vi"].caption
    for language, explanation in captions.items():
        assert explanation.language == language
        again = explain_caption(model, processor, photos[0], explanation.caption, language=language)
        assert again.language == language
        assert [w.probability for w in again.words] == pytest.approx([w.probability for w in explanation.words])
    assert explain(model, processor, photos[0]).language == "en"
    assert explain(*tiny_captioner(), photos[0], max_new_tokens=3).language is None


def test_languages_survive_saving(bilingual, tiny_captioner, photos, tmp_path):
    model, processor = bilingual
    for folder in ("once", "twice"):
        model.save_pretrained(tmp_path / folder)
        processor.save_pretrained(tmp_path / folder)
        model = CaptionerForConditionalGeneration.from_pretrained(tmp_path / folder)
        processor = CaptionerProcessor.from_pretrained(tmp_path / folder)
    expected = explain(*bilingual, photos[0], language="vi").caption
    assert explain(model, processor, photos[0], language="vi").caption == expected
    written = json.loads((tmp_path / "twice" / "generation_config.json").read_text())
    assert written["languages"] == bilingual[0].generation_config.languages
    single, single_processor = tiny_captioner()
    single.save_pretrained(tmp_path / "single")
    single_processor.save_pretrained(tmp_path / "single")
    for file in ("config.json", "generation_config.json", "processor_config.json"):
        assert "languages" not in json.loads((tmp_path / "single" / file).read_text())
        assert "languages" in (tmp_path / "twice" / file).read_text()


@pytest.fixture(scope="session")
def repository(bilingual, tmp_path_factory):
    saved, folder = tmp_path_factory.mktemp("bilingual"), tmp_path_factory.mktemp("repository")
    for part in bilingual:
        part.save_pretrained(saved)
    write_repository(saved, folder, torch.float32)
    return folder


def test_pipeline_and_handler_caption_in_a_language(bilingual, repository, drawn_photos, files):
    photo = drawn_photos[0][0]
    expected = {language: explain(*bilingual, photo, language=language).caption for language in ("en", "vi")}
    captioner = pipeline("image-text-to-text", model=str(repository), trust_remote_code=True)
    handler = EndpointHandler(repository)
    for language, caption in expected.items():
        said = captioner(photo, language=language, return_full_text=False)
        assert [answer["generated_text"] for answer in said] == [caption]
        said = captioner(photo, language=language, max_new_tokens=5, generate_kwargs={"num_beams": 1})
        assert [answer["generated_text"] for answer in said] == [caption]
        (answer,) = handler({"inputs": files[0].read_bytes(), "parameters": {"language": language}})
        assert answer["generated_text"] == caption
    for asked in (
        lambda: captioner(photo, language="xx"),
        lambda: handler({"inputs": files[0].read_bytes(), "parameters": {"language": "xx"}}),
    ):
        with pytest.raises(ValueError, match=UNKNOWN):
            asked()
