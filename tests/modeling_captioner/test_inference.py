"""Prepared inference (folded batch norms) computes the same as the forward pass of training, and is undone by it."""

import copy
import pickle

import pytest
import timm
import torch

from modeling_captioner import explain
from modeling_captioner.inference import FoldedConvNormAct, fold_batch_norms, unfold_batch_norms


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


def folded(model):
    return sum(isinstance(module, FoldedConvNormAct) for module in model.modules())


@torch.no_grad()
def regions_of(model, photos):
    return model.encoder(photos)[0]


def test_prepared_inference_sees_the_same(inception):
    model, photos = inception
    expected = regions_of(model.eval(), photos)
    assert model.optimize_for_inference() is model
    assert folded(model) == 94, "all convolutions of Inception-v3"
    assert not model.training
    seen = regions_of(model, photos)
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-4)
    assert not torch.equal(seen, expected), "it was computed in another way"
    for same in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.optimize_for_inference()):
        torch.testing.assert_close(regions_of(same, photos), expected, rtol=1e-4, atol=1e-4)
    double = regions_of(model.double(), photos.double())
    torch.testing.assert_close(double.float(), expected, rtol=1e-4, atol=1e-4)


def test_training_undoes_it(small_network, tmp_path):
    """The network is what it was: its modules, parameters, state and gradients."""
    model, photos = small_network
    ids = torch.tensor([[4, 5, 3], [5, 4, 3]])
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    states = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def gradients():
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d | torch.nn.Dropout):
                module.eval()  # batch statistics of only two photos would amplify small differences
        model.zero_grad()
        torch.manual_seed(0)
        model(photos, labels=ids).loss.backward()
        return {name: weight.grad.clone() for name, weight in parameters.items()}

    expected = gradients()
    model.eval().optimize_for_inference()
    assert model.state_dict().keys() == states.keys()
    assert dict(model.named_parameters()).keys() == parameters.keys()
    assert all(one is parameters[name] for name, one in model.named_parameters())
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(type(model).from_pretrained(tmp_path).state_dict(), states)
    found = gradients()
    assert folded(model) == 0
    assert all(module is modules[name] for name, module in model.named_modules())
    torch.testing.assert_close(found, expected)
    model.eval()
    assert folded(model) == 0, "only when asked for"


def test_weights_that_changed_count_after_it_is_undone(small_network):
    model, photos = small_network
    model.optimize_for_inference()
    before = regions_of(model, photos)
    with torch.no_grad():
        model.encoder.backbone.stages[0][0].conv1_kxk.bn.bias.add_(1)
    changed = regions_of(model.train().eval(), photos)
    assert (changed - before).abs().max() > 1e-3
    torch.testing.assert_close(regions_of(model.optimize_for_inference(), photos), changed, rtol=1e-4, atol=1e-4)


def test_training_mode_moves_the_batch_norms(small_network):
    """Also without gradients, and also of what was prepared for inference; a frozen block keeps its statistics."""
    model, photos = small_network
    model.optimize_for_inference()
    model.encoder.freeze(["stem"])
    model.train()
    trained, frozen = (
        [module for module in part.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        for part in (model.encoder.backbone.stages, model.encoder.backbone.stem)
    )
    before = [norm.running_mean.clone() for norm in (*trained, *frozen)]
    regions_of(model, photos)
    moved = [not torch.equal(mean, norm.running_mean) for mean, norm in zip(before, (*trained, *frozen), strict=True)]
    assert moved == [True] * len(trained) + [False] * len(frozen)
    assert trained
    assert frozen


class Adapted(torch.nn.Module):
    """What PEFT puts in the place of a convolution, with the `weight` of the original."""

    def __init__(self, conv):
        super().__init__()
        self.conv, self.weight, self.bias = conv, conv.weight, conv.bias

    def forward(self, inputs):
        return self.conv(inputs) + 1


@pytest.mark.parametrize("first", ["adapter", "preparation"])
def test_adapters_on_convolutions_are_not_passed_by(small_network, first):
    model, photos = small_network
    before = regions_of(model.eval(), photos)
    if first == "preparation":
        model.optimize_for_inference()
    block = model.encoder.backbone.stages[0][0].conv1_kxk
    block.conv = Adapted(block.conv)
    adapted = regions_of(model, photos)
    assert (adapted - before).abs().max() > 1e-3
    torch.testing.assert_close(regions_of(model.optimize_for_inference(), photos), adapted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rnn_type", ["gru", "lstm"])
def test_hooks_on_the_rnns_fire_in_generate(tiny_captioner, rnn_type):
    """As in training: once for each word that is said, and what they return is used."""
    model, _ = tiny_captioner(rnn_type=rnn_type)
    model.optimize_for_inference()
    photos, settings = torch.rand(2, 3, 64, 64), {"max_new_tokens": 4, "min_new_tokens": 4, "num_beams": 3}
    before = model.generate(photos, **settings, output_logits=True, return_dict_in_generate=True)
    calls = []

    def louder(rnn, _, output):
        calls.append(rnn)
        return 2 * output[0], output[1]

    for rnn in (model.decoder.first_rnn, model.decoder.second_rnn):
        rnn.register_forward_hook(louder)
    after = model.generate(photos, **settings, output_logits=True, return_dict_in_generate=True)
    assert calls == [model.decoder.first_rnn, model.decoder.second_rnn] * 4
    assert not torch.allclose(before.logits[0], after.logits[0])


@pytest.mark.parametrize("rnn_type", ["gru", "lstm"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_adapters_on_the_decoder_take_effect_in_generate(tiny_captioner, drawn_photos, rnn_type):
    """LoRA on the weights of the RNNs, and on linear layers."""
    peft = pytest.importorskip("peft", reason="needs peft, which the project does not")
    model, processor = tiny_captioner(rnn_type=rnn_type)
    model.optimize_for_inference()
    photo, settings = drawn_photos[0][0], {"max_new_tokens": 4, "min_new_tokens": 4}
    plain = explain(model, processor, photo, **settings)
    rnns = [f"{rnn}.weight_{side}_l0" for rnn in ("first_rnn", "second_rnn") for side in ("ih", "hh")]
    for config in (
        peft.LoraConfig(target_modules=["query", "output_projection"], init_lora_weights=False),
        peft.LoraConfig(target_modules=[], target_parameters=rnns, init_lora_weights=False),
    ):
        adapted = peft.get_peft_model(copy.deepcopy(model), config).eval()
        said = explain(adapted, processor, photo, **settings)
        assert said.words[-1].probability != pytest.approx(plain.words[-1].probability, rel=1e-3)
        merged = explain(adapted.merge_and_unload(), processor, photo, **settings)
        assert [w.text for w in merged.words] == [w.text for w in said.words]
        assert [w.probability for w in merged.words] == pytest.approx([w.probability for w in said.words], rel=1e-3)


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


def test_weights_of_a_quantizing_subclass(small_network):
    model, photos = small_network
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
def test_weights_on_disk(small_network, tmp_path, on_disk):
    model, photos = small_network
    model.save_pretrained(tmp_path / "model")
    devices = {"encoder": "cpu", "decoder": "cpu"} | {on_disk: "disk"}
    offloaded = type(model).from_pretrained(tmp_path / "model", device_map=devices, offload_folder=tmp_path / "offload")
    offloaded.optimize_for_inference()
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "num_beams": 3}
    assert offloaded.generate(photos, **settings).tolist() == model.generate(photos, **settings).tolist()
    with torch.no_grad():
        logits, expected = (m(photos, decoder_input_ids=torch.tensor([[2], [2]])).logits for m in (offloaded, model))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


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
    network = torch.nn.Sequential(copy.deepcopy(block))
    fold_batch_norms(network)
    assert folded(network) == 1
    norms = []
    network[0].bn.register_forward_hook(lambda norm, *_: norms.append(norm))
    for count, size in ((1, 17), (3, 17), (0, 17), (1, 30), (2, 9)):
        photos = torch.randn(count, 8, size, size, generator=generator).to(dtype)
        error = 0.05 if dtype == torch.bfloat16 else 1e-4
        torch.testing.assert_close(network(photos), block(photos), rtol=error, atol=error)
    assert not norms
    unfold_batch_norms(network)
    assert torch.equal(network(photos), block(photos))


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [{"norm_layer": timm.layers.GroupNormAct}, {"padding": "same"}, {"aa_layer": "blur", "stride": 2}],
    ids=["norm", "padding", "blur"],
)
def test_other_blocks_are_left_as_they_are(options):
    """For example timm's regnety_040_sgn, and architectures with "evos" in their names."""
    network = torch.nn.Sequential(timm.layers.ConvNormAct(32, 32, 3, **{"stride": 2} | options).eval())
    fold_batch_norms(network)
    assert folded(network) == 0


@torch.no_grad()
def test_compiled_exported_and_cast_models_see_the_same(small_network):
    model, photos = small_network
    model.optimize_for_inference()
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
