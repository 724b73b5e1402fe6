"""Optimised inference (folded batch norms, other weight layouts) computes the same as the forward pass of training."""

import copy
import itertools
import pickle

import numpy as np
import pytest
import timm
import torch

from modeling_captioner import inference


@pytest.fixture
def inception(tiny_captioner):
    return with_batch_norms(tiny_captioner, "inception_v3")


@pytest.fixture
def small_network(tiny_captioner):
    """A network whose few blocks are folded as those of Inception-v3."""
    return with_batch_norms(tiny_captioner, "test_byobnet")


def with_batch_norms(tiny_captioner, encoder_name):
    """A captioner with non-trivial batch norms, and photos."""
    model, _ = tiny_captioner(encoder_name=encoder_name, image_size=128)
    model.encoder.freeze([])
    generator = torch.Generator().manual_seed(3)
    for module in model.encoder.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.running_var.fill_(1), module.weight.data, module.bias.data, module.running_mean):
                tensor.add_(torch.rand(tensor.shape, generator=generator) * 0.2)
    return model, torch.rand(2, 3, 128, 128, generator=generator) * 2 - 1


def same_as_with_gradients(model, photos):
    """Whether inference, with folded batch norms and other weight layouts, computes the same as training."""
    with torch.inference_mode():
        quick = model(photos, decoder_input_ids=torch.tensor([[2], [2]])).logits
    logits = model(photos, decoder_input_ids=torch.tensor([[2], [2]])).logits
    assert logits.grad_fn is not None
    torch.testing.assert_close(quick, logits, rtol=1e-4, atol=1e-4)
    return logits.detach()


@pytest.mark.parametrize("within", [torch.no_grad, torch.inference_mode])
def test_inference_follows_every_change_of_the_weights(inception, within):
    """After a training step in evaluation mode (as in self-critical training), loading, scaling, moving and copying."""
    model, photos = inception
    seen = [same_as_with_gradients(model, photos)]

    def step(optimizer):
        model(photos, labels=torch.tensor([[4, 5, 3], [5, 4, 3]])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for optimizer in (torch.optim.SGD(model.parameters(), lr=0.05), torch.optim.AdamW(model.parameters(), lr=0.01)):
        step(optimizer)
        seen.append(same_as_with_gradients(model, photos))
    with within():
        model.encoder.backbone.Conv2d_1a_3x3.bn.running_mean.add_(1)
        model.decoder.embedding.weight.mul_(2)
    seen.append(same_as_with_gradients(model, photos))
    assert all(not torch.equal(one, other) for one, other in itertools.pairwise(seen))
    model.load_state_dict(before)
    torch.testing.assert_close(same_as_with_gradients(model, photos), seen[0])
    same_as_with_gradients(copy.deepcopy(model), photos)
    same_as_with_gradients(pickle.loads(pickle.dumps(model)), photos)
    double = same_as_with_gradients(model.double(), photos.double())
    torch.testing.assert_close(double.float(), seen[0], rtol=1e-4, atol=1e-4)
    assert model.state_dict().keys() == before.keys()


def mirror(weight):
    """Permute the values, which keeps their sum."""
    weight.data.copy_(weight.data.flip(-1))


WRITES = {
    "scale": lambda weight: weight.data.mul_(1.5),
    "one value": lambda weight: weight.data.view(-1)[7].add_(30),
    "permute": mirror,
    "NumPy": lambda weight: np.copyto(weight.detach().numpy(), 2 * weight.detach().numpy()),
    "another tensor": lambda weight: setattr(weight, "data", weight.data * 1.5),
}
WEIGHTS = (
    "encoder.backbone.stages.0.0.conv1_kxk.conv.weight",
    "decoder.second_rnn.weight_ih_l0",
    "decoder.embedding.weight",
)


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_inference_follows_writes_that_no_version_counts(small_network, write, name):
    """PEFT's `merge_and_unload` and code that averages weights write to `.data`."""
    model, photos = small_network
    generation = {"max_new_tokens": 3, "min_new_tokens": 3, "output_logits": True, "return_dict_in_generate": True}
    settings = generation | {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0, "decoder_start_token_id": 2}
    before = model.generate(photos, **settings)
    write(model.get_parameter(name))
    after = model.generate(photos, **settings)
    assert not torch.equal(torch.stack(before.logits), torch.stack(after.logits))
    expected = copy.deepcopy(model).generate(photos, **settings)  # a new model, whose weights are prepared from scratch
    torch.testing.assert_close(torch.stack(after.logits), torch.stack(expected.logits))


def test_adapters_on_convolutions_are_not_passed_by(inception):
    """PEFT replaces a convolution by a module with an adapter, whose `weight` is that of the original."""

    class Adapted(torch.nn.Module):
        def __init__(self, conv):
            super().__init__()
            self.conv, self.weight, self.bias = conv, conv.weight, conv.bias

        def forward(self, inputs):
            return self.conv(inputs) + 1

    model, photos = inception
    block = model.encoder.backbone.Conv2d_2a_3x3
    with torch.no_grad():
        before = model.encoder(photos)[0]
        block.conv = Adapted(block.conv)
        assert not torch.equal(model.encoder(photos)[0], before)
    same_as_with_gradients(model, photos)


class Quantized(torch.Tensor):
    """A tensor subclass like torchao's: without storage of its own, and dequantized in each function."""

    @staticmethod
    def __new__(cls, integers, scale):
        return torch.Tensor._make_wrapper_subclass(cls, integers.shape, dtype=torch.float32)

    def __init__(self, integers, scale):
        self.integers, self.scale = integers, scale

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.nn.functional.linear:
            inputs, weight, bias = args
            return function(inputs, weight.integers * weight.scale, bias)
        return super().__torch_function__(function, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return cls(args[0].integers, args[0].scale)
        raise NotImplementedError(f"{function} of a quantized weight")


def test_weights_of_a_quantizing_subclass(inception):
    model, photos = inception
    expected = model.generate(photos, max_new_tokens=4, min_new_tokens=4)
    for layer in [module for module in model.modules() if isinstance(module, torch.nn.Linear)]:
        scale = layer.weight.detach().abs().amax() / 127
        quantized = Quantized((layer.weight.detach() / scale).round().to(torch.int8), scale)
        layer.weight = torch.nn.Parameter(quantized, requires_grad=False)
    assert model.generate(photos, max_new_tokens=4, min_new_tokens=4).tolist() == expected.tolist()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("rnn_type", ["gru", "lstm"])
def test_dynamically_quantized_rnns(tiny_captioner, rnn_type):
    model, _ = tiny_captioner(rnn_type=rnn_type)
    photos = torch.rand(2, 3, 64, 64)
    quantized = torch.ao.quantization.quantize_dynamic(model, {torch.nn.GRU, torch.nn.LSTM}, dtype=torch.qint8)
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "num_beams": 3}
    assert quantized.generate(photos, **settings).tolist() == model.generate(photos, **settings).tolist()


@pytest.mark.parametrize("on_disk", ["encoder", "decoder"])
def test_weights_on_disk(inception, tmp_path, on_disk):
    model, photos = inception
    model.save_pretrained(tmp_path / "model")
    devices = {"encoder": "cpu", "decoder": "cpu"} | {on_disk: "disk"}
    offloaded = type(model).from_pretrained(tmp_path / "model", device_map=devices, offload_folder=tmp_path / "offload")
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "num_beams": 3}
    assert offloaded.generate(photos, **settings).tolist() == model.generate(photos, **settings).tolist()
    with torch.no_grad():
        logits, expected = (m(photos, decoder_input_ids=torch.tensor([[2], [2]])).logits for m in (offloaded, model))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_training_mode_moves_the_batch_norms(inception):
    """Also without gradients: nothing is folded in training mode."""
    model, photos = inception
    same_as_with_gradients(model, photos)
    model.train()
    norm = model.encoder.backbone.Conv2d_1a_3x3.bn
    before = norm.running_mean.clone()
    with torch.no_grad():
        model.encoder(photos)
    assert not torch.equal(norm.running_mean, before)
    same_as_with_gradients(model.eval(), photos)


@pytest.mark.parametrize("seen_before", [False, True])
def test_frozen_blocks_are_folded_in_training(inception, monkeypatch, seen_before):
    """The trained blocks get the same gradients as without folding, also after a validation in inference mode."""
    model, photos = inception
    blocks = [name for name, _ in model.encoder.backbone.named_children()]
    model.encoder.freeze(blocks[: blocks.index("Mixed_7c")])
    model.train()
    encoder = model.encoder
    for norm in norms_of(encoder.backbone.Mixed_7c):
        norm.eval()  # batch statistics of only two photos would amplify small differences
    weights = torch.randn(2, 4, model.config.hidden_size, generator=torch.Generator().manual_seed(4))
    if seen_before:
        with torch.inference_mode():
            encoder(photos)

    def gradients():
        encoder.zero_grad()
        (weights * encoder(photos)[0]).sum().backward()
        return {name: weight.grad.clone() for name, weight in encoder.named_parameters() if weight.grad is not None}

    norms = []
    hooks = [module.register_forward_hook(lambda norm, *_: norms.append(norm)) for module in norms_of(encoder)]
    folded = gradients()
    for hook in hooks:
        hook.remove()
    assert norms == norms_of(encoder.backbone.Mixed_7c), "the others' were folded"
    monkeypatch.setattr(inference, "_is_inference", lambda *tensors: False)
    plain = gradients()
    assert folded.keys() == plain.keys() == {n for n, weight in encoder.named_parameters() if weight.requires_grad}
    for name, gradient in plain.items():
        assert (folded[name] - gradient).norm() <= 1e-3 * gradient.norm(), name
    assert plain["projection.weight"].any()


def test_training_folds_frozen_blocks_once(inception, monkeypatch):
    model, photos = inception
    blocks = [name for name, _ in model.encoder.backbone.named_children()]
    model.encoder.freeze(blocks[: blocks.index("Mixed_7c")])
    model.train()
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=1e-3)
    folds, fold = [], inference._fold
    monkeypatch.setattr(inference, "_fold", lambda *args: folds.append(args) or fold(*args))
    counts = []
    for _ in range(3):
        model.encoder(photos)[0].sum().backward()
        optimizer.step()
        counts.append(len(folds))
    assert counts[0] == counts[2] > 0
    with torch.no_grad():
        model.encoder.backbone.Conv2d_1a_3x3.conv.weight.data.mul_(2)  # no version counts this
    model.encoder(photos)
    assert len(folds) > counts[0]


def norms_of(network):
    return [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]


def test_a_bias_alone_can_be_learnt():
    """If the weights are frozen, the optimised path must not bypass the bias."""
    layer = inference.Linear(4, 3)
    layer.weight.requires_grad_(False)
    layer(torch.ones(2, 4)).sum().backward()
    assert layer.bias.grad.tolist() == [2, 2, 2]
    block = timm.layers.ConvNormAct(3, 4, act_layer=None)
    inference.fold_batch_norms(block)
    block.eval().requires_grad_(False)
    block.bn.bias.requires_grad_(True)
    block(torch.ones(1, 3, 5, 5)).sum().backward()
    assert block.bn.bias.grad.tolist() == [25] * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "stride": 2},
        {"groups": 4},
        {"dilation": 2},
        {"act_layer": torch.nn.SiLU},
        {"apply_act": False},
    ],
)
@torch.no_grad()
def test_folded_blocks_see_what_they_saw(options, dtype):
    """For all kinds of convolutions and activations, and for batches of changing sizes."""
    generator = torch.Generator().manual_seed(6)
    block = timm.layers.ConvNormAct(8, 16, **{"kernel_size": 3} | options).eval().to(dtype)
    for tensor in (block.bn.running_mean, block.bn.running_var.zero_(), block.bn.weight, block.bn.bias):
        tensor.add_(torch.rand(tensor.shape, generator=generator) + 0.5)
    folding = copy.deepcopy(block)
    inference.fold_batch_norms(folding)
    norms = []
    folding.bn.register_forward_hook(lambda norm, *_: norms.append(norm))
    for count, size in ((1, 17), (3, 17), (0, 17), (1, 30), (2, 9)):
        photos = torch.randn(count, 8, size, size, generator=generator).to(dtype)
        error = 0.05 if dtype == torch.bfloat16 else 1e-4
        torch.testing.assert_close(folding(photos), block(photos), rtol=error, atol=error)
    assert not norms


@torch.no_grad()
def test_networks_with_other_norms_are_left_as_they_are():
    """For example timm's regnety_040_sgn, and architectures with "evos" in their names."""
    block = timm.layers.ConvNormAct(32, 32, norm_layer=timm.layers.GroupNormAct).eval()
    photos = torch.rand(1, 32, 5, 5)
    expected = block(photos)
    inference.fold_batch_norms(block)
    assert torch.equal(block(photos), expected)


@torch.no_grad()
def test_compiled_exported_and_cast_models_see_the_same(inception):
    model, photos = inception
    regions = model.encoder(photos)[0]
    compiled = torch.compile(model.encoder, backend="eager")(photos)[0]
    exported = torch.export.export(model.encoder, (photos,), strict=False).module()(photos)[0]
    torch.testing.assert_close(compiled, regions, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(exported, regions, rtol=1e-4, atol=1e-4)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            torch.testing.assert_close(model.encoder(photos)[0].float(), regions, rtol=0.1, atol=0.1)
    half = model.to(torch.bfloat16).encoder(photos.bfloat16())[0]
    torch.testing.assert_close(half.float(), regions, rtol=0.1, atol=0.1)
