"""Loading captioners of strangers, for `caption.py` and `app.py`: one sentence, and nothing of theirs is executed."""

import pytest

from captioning.loading import load_captioner
from tests.helpers.strangers import STRANGERS


@pytest.mark.parametrize("name", STRANGERS)
def test_models_of_strangers(strangers_model, name):
    folder = strangers_model(name)
    with pytest.raises(ValueError, match=str(folder)) as refusal:
        load_captioner(str(folder), "cpu", "float32")
    assert str(refusal.value).endswith(".")
