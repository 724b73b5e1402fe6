"""What a saved captioner consists of, and which configurations load."""

import json

import pytest
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, pipeline

from modeling_captioner import CaptionerConfig, CaptionerForConditionalGeneration, explain
from tests.helpers.paths import SHIPPED


def test_the_pipeline_works_on_every_saved_copy(learnt_captioner, drawn_photos, tmp_path):
    """Also on a copy that was saved by a model whose code came from a saved copy."""
    photo, caption = drawn_photos[0]
    own = pipeline("image-text-to-text", model=str(learnt_captioner), trust_remote_code=True)
    assert own(photo)[0]["generated_text"] == caption
    for auto in (AutoModelForImageTextToText, AutoProcessor):
        loaded = auto.from_pretrained(learnt_captioner, trust_remote_code=True)
        loaded.save_pretrained(tmp_path)
    assert type(loaded).__module__.startswith("transformers_modules.") or (tmp_path / "handler.py").exists()
    copied = pipeline("image-text-to-text", model=str(tmp_path), trust_remote_code=True)
    assert copied(photo)[0]["generated_text"] == caption


def test_the_code_is_saved_with_the_weights(learnt_captioner):
    """All that the endpoint and the pipeline need."""
    for file in (*SHIPPED.glob("*.py"), SHIPPED / "requirements.txt"):
        assert (learnt_captioner / file.name).read_bytes() == file.read_bytes()


@pytest.fixture
def rewritten(learnt_captioner, tmp_path):
    """Write the learnt captioner's config.json with other keys."""

    def write(**keys):
        config = json.loads((learnt_captioner / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | keys))
        for file in learnt_captioner.iterdir():
            if file.name != "config.json" and file.is_file():
                (tmp_path / file.name).write_bytes(file.read_bytes())
        return tmp_path

    return write


@pytest.mark.parametrize(
    "key", ["transformers.js_config", "tokenizer_class", "loss_type", "from_a_later_version", "layer_types_of_tomorrow"]
)
def test_unknown_keys_of_a_file_do_not_matter(rewritten, drawn_photos, key):
    folder = rewritten(**{key: {"kv_cache_dtype": "float16"}})
    model = CaptionerForConditionalGeneration.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    assert explain(model, processor, drawn_photos[0][0]).caption == drawn_photos[0][1]
    assert AutoConfig.from_pretrained(folder).hidden_size == model.config.hidden_size


def test_near_misses_are_left_out_of_a_file_and_refused_from_a_person(rewritten):
    folder = rewritten(attention_tipe="dot", label_smothing=0.5)
    config = CaptionerConfig.from_pretrained(folder)
    assert config.attention_type == "multi_head"
    assert not hasattr(config, "attention_tipe")
    for typed in ({"attention_tipe": "dot"}, {"label_smothing": 0.5}, {"hidden_dim": 3}, {"vocabulary_size": 3}):
        with pytest.raises(ValueError, match="did you mean"):
            CaptionerConfig(**typed)
    CaptionerConfig(beams_of_light=3)  # no near miss: only a warning
