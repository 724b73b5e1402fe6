"""`forward` as transformers' models have it: losses, outputs, arguments, names of the weights."""

import json

import pytest
import torch
from safetensors.torch import load_file, load_model, save_file
from transformers import AutoModel, Trainer, TrainingArguments

from modeling_captioner import CaptionerConfig, CaptionerForConditionalGeneration


@pytest.fixture
def photos():
    return torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def labels():
    """Captions of different lengths, of which the last is missing."""
    labels = torch.randint(4, 14, (4, 7), generator=torch.Generator().manual_seed(2))
    labels[0, 2:] = labels[1, 5:] = labels[3, :] = -100
    return labels


def build(tiny_captioner, **options):
    return tiny_captioner(dropout=0.0, word_dropout=0.0, **options)[0]


class Steps(Trainer):
    """Records the gradient of each step."""

    gradients = ()

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self.last_gradient = self.model.decoder.embedding.weight.grad.clone()
        return loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_accumulated_steps_equal_one_large_batch(tiny_captioner, photos, labels, tmp_path, dtype):
    """In `Trainer`, though the parts have different numbers of words."""
    labels[3, 0] = 5  # Trainer's parts of one row each must not be empty
    rows = [{"pixel_values": photo, "labels": row} for photo, row in zip(photos, labels, strict=True)]
    found = []
    for parts in (1, 2, 4):
        torch.manual_seed(0)
        model = build(tiny_captioner)
        arguments = TrainingArguments(
            tmp_path,
            per_device_train_batch_size=4 // parts,
            gradient_accumulation_steps=parts,
            max_steps=1,
            logging_steps=1,
            report_to="none",
            use_cpu=True,
            bf16=dtype == torch.bfloat16,
            remove_unused_columns=False,
            disable_tqdm=True,
        )
        trainer = Steps(model, arguments, train_dataset=rows)
        trainer.train()
        found.append((torch.tensor(trainer.state.log_history[0]["loss"]), trainer.last_gradient))
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for parts in found[1:]:
        torch.testing.assert_close(parts, found[0], rtol=tolerance, atol=tolerance)


def test_losses_of_parts_add_up(tiny_captioner, photos, labels):
    model = build(tiny_captioner).train()
    words = (labels != -100).sum()
    whole = model(photos, labels=labels).loss
    for count in (words, int(words)):
        parts = [
            model(photo[None], labels=row[None], num_items_in_batch=count).loss
            for photo, row in zip(photos, labels, strict=True)
        ]
        torch.testing.assert_close(sum(parts), whole, rtol=0, atol=1e-5)
    assert parts[3] == 0, "a row without targets"


def test_logits_in_training_are_those_of_the_targets(tiny_captioner, photos, labels):
    model = build(tiny_captioner).eval()
    whole = model(photos, labels=labels).logits
    assert whole.shape == (4, 7, model.config.vocab_size)
    targets = model.train()(photos, labels=labels).logits
    torch.testing.assert_close(targets, whole[labels != -100])
    words = model.prepare_decoder_input_ids_from_labels(labels)
    assert model(photos, decoder_input_ids=words).logits.shape == whole.shape, "without labels, all are scored"


def test_input_words_may_be_passed_with_labels(tiny_captioner, photos, labels):
    """Such as those of another language, whose first token differs."""
    model = build(tiny_captioner).train()
    words = model.prepare_decoder_input_ids_from_labels(labels)
    expected = model(photos, labels=labels).loss
    torch.testing.assert_close(model(photos, decoder_input_ids=words, labels=labels).loss, expected)
    words[:, 0] = 4
    assert model(photos, decoder_input_ids=words, labels=labels).loss != expected
    with pytest.raises(ValueError, match=r"labels of shape \(4, 7\) do not fit decoder_input_ids of shape \(4, 6\)"):
        model(photos, decoder_input_ids=words[:, 1:], labels=labels)


def test_word_dropout_keeps_every_first_token(tiny_captioner, photos):
    model, _ = tiny_captioner(word_dropout=0.99)
    model.train()
    ids = torch.tensor([[2, 5, 2, 6], [4, 5, 2, 6]] * 50)
    dropped = model.decoder._drop_words(ids)
    assert dropped[:, 0].tolist() == [2, 4] * 50
    assert (dropped[:, 1:] == model.config.unk_token_id).float().mean() > 0.9
    assert model.eval().decoder._drop_words(ids).equal(ids)


@pytest.mark.parametrize("rnn_type", ["gru", "lstm"])
@torch.no_grad()
def test_hidden_states_are_those_of_both_rnns(tiny_captioner, photos, rnn_type):
    model = build(tiny_captioner, rnn_type=rnn_type, num_layers=2)
    ids = torch.tensor([[2, 5, 6]] * 4)
    output = model(photos, decoder_input_ids=ids, output_hidden_states=True, output_attentions=True)
    first, second = output.decoder_hidden_states
    contexts, weights = model.decoder.attention(first, output.encoder_last_hidden_state)
    torch.testing.assert_close(weights, output.cross_attentions[0])
    assert first.shape == second.shape == contexts.shape == (4, 3, model.config.hidden_size)
    torch.testing.assert_close(model.decoder.output(model.decoder.output_projection(second)), output.logits)
    assert model(photos, decoder_input_ids=ids).decoder_hidden_states is None
    generated = model.generate(
        photos, output_hidden_states=True, return_dict_in_generate=True, max_new_tokens=3, min_new_tokens=3
    )
    assert [states[0].shape for states in generated.decoder_hidden_states] == [(4, 1, model.config.hidden_size)] * 3


def test_tuples_are_returned_on_request(tiny_captioner, photos, labels):
    model = build(tiny_captioner)
    output = model(photos, labels=labels)
    loss, logits = model(photos, labels=labels, return_dict=False)[:2]
    torch.testing.assert_close((loss, logits), (output.loss, output.logits))
    model.config.return_dict = False
    assert isinstance(model(photos, labels=labels), tuple)


@pytest.mark.parametrize(
    "unsupported",
    [
        {"decoder_attention_mask": torch.tensor([[1, 1, 0]])},
        {"attention_mask": torch.zeros(1, 64)},
        {"output_attention": True},
        {"position_ids": torch.arange(3)[None]},
        {"output_router_logits": True},
    ],
)
@torch.no_grad()
def test_arguments_that_would_change_nothing_are_refused(tiny_captioner, photos, unsupported):
    model, ids = build(tiny_captioner), torch.tensor([[2, 5, 6]])
    (name,) = unsupported
    with pytest.raises(ValueError, match=f"{name} is not supported by a captioner"):
        model(photos[:1], decoder_input_ids=ids, **unsupported)
    neutral = {"decoder_attention_mask": torch.ones(1, 3), "position_ids": None}
    torch.testing.assert_close(
        model(photos[:1], decoder_input_ids=ids, **neutral).logits, model(photos[:1], decoder_input_ids=ids).logits
    )


def write_as_the_release_before(model, folder):
    """As 0.5 wrote it: `decoder.narrow`, and two fields for what was trained."""
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    names = {name: name.replace("decoder.output_projection", "decoder.narrow") for name in tensors}
    assert names != dict.fromkeys(names)
    save_file({names[name]: tensor for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"encoder_frozen": True, "encoder_trained_from": "all"}))


@torch.no_grad()
def test_weights_of_the_release_before_load(tiny_captioner, photos, tmp_path):
    """By `from_pretrained`, by the Auto classes and from a checkpoint; they are saved under the new names."""
    torch.manual_seed(5)
    model = build(tiny_captioner)
    ids = torch.tensor([[2, 5, 6]] * 4)
    expected = model(photos, decoder_input_ids=ids).logits
    write_as_the_release_before(model, tmp_path)
    assert "decoder.narrow.weight" in load_file(tmp_path / "model.safetensors")
    torch.manual_seed(6)
    resumed = build(tiny_captioner)
    load_model(resumed, tmp_path / "model.safetensors", strict=False)
    for loaded in (
        CaptionerForConditionalGeneration.from_pretrained(tmp_path),
        AutoModel.from_pretrained(tmp_path),
        resumed,
    ):
        torch.testing.assert_close(loaded.eval()(photos, decoder_input_ids=ids).logits, expected)
        loaded.save_pretrained(tmp_path / "again")
        names = load_file(tmp_path / "again" / "model.safetensors").keys()
        assert {"decoder.output_projection.weight", "decoder.output_projection.bias"} <= names
        assert not any("narrow" in name for name in names)
        again, loading = CaptionerForConditionalGeneration.from_pretrained(tmp_path / "again", output_loading_info=True)
        assert not loading["unexpected_keys"]
        torch.testing.assert_close(again(photos, decoder_input_ids=ids).logits, expected)
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    assert "encoder_frozen" not in written
    assert CaptionerConfig.from_pretrained(tmp_path).encoder_trained_from == "all"


def test_older_configurations_say_twice_what_was_trained():
    assert CaptionerConfig(encoder_frozen=False).encoder_trained_from == "all"
    assert CaptionerConfig(encoder_frozen=False, encoder_trained_from="Mixed_7a").encoder_trained_from == "Mixed_7a"
    assert CaptionerConfig(encoder_frozen=True).encoder_trained_from is None
