"""Quantization to 8 bits: rounding that makes up for its errors, and matrices that are restored when a graph loads."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from publishing.onnx.quantization import (  # noqa: E402
    channel_peaks,
    clip,
    compress_matrices,
    equalize_channels,
    input_products,
    round_rows,
    share_scales,
)


def graph_of(nodes, inputs, outputs, tensors):
    """A model of these nodes; `inputs` and `outputs` are {name: shape}, `tensors` {name: array}."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model, inputs):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)


def test_rounding_makes_up_for_its_errors():
    """Two inputs that are always equal: a half rounded down in one is rounded up in the other."""
    rows = np.array([[0.5, 0.5], [3.5, -0.5], [2.0, -7.0]], np.float32)
    rounded = round_rows(rows.copy(), np.array([[4.0, 4.0], [4.0, 4.0]], np.float32))
    assert rounded.sum(axis=1) == pytest.approx([1, 3, -5])
    np.testing.assert_array_equal(rounded, np.round(rounded))
    # Inputs that have nothing in common: each value is rounded by itself.
    np.testing.assert_array_equal(round_rows(rows.copy() + 0.2, np.eye(2, dtype=np.float32)), np.round(rows + 0.2))


def test_rounding_halves_the_error_of_the_products():
    random = np.random.default_rng(0)
    inputs = (random.normal(size=(2000, 8)) @ random.normal(size=(8, 300))).astype(np.float32)
    inputs += 0.1 * random.normal(size=inputs.shape).astype(np.float32)
    rows = random.normal(size=(16, 300), scale=20).astype(np.float32)
    found, nearest = round_rows(rows.copy(), inputs.T @ inputs), np.round(rows)
    assert np.abs(found).max() <= 127
    errors = [np.linalg.norm(inputs @ (rounded - rows).T) for rounded in (found, nearest)]
    assert errors[0] < 0.5 * errors[1]


def test_equalized_channels_differ_less_and_the_result_stays():
    """By way of a pooled, a concatenated and a rectified map; what something else than a convolution reads stays."""
    random = np.random.default_rng(0)
    shapes = {"k1": (6, 3, 3, 3), "b1": (6,), "k2": (4, 6, 1, 1), "k3": (5, 10, 3, 3), "k4": (5, 1, 1, 1), "b4": (5,)}
    tensors = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    for name in ("k1", "b1"):  # channels of very different sizes, one of which is always 0
        tensors[name] *= np.array([0, 0.01, 0.1, 1, 3, 10], np.float32).reshape(-1, *[1] * (tensors[name].ndim - 1))
    nodes = [
        helper.make_node("Conv", ["pixel_values", "k1", "b1"], ["first"]),
        helper.make_node("Relu", ["first"], ["rectified"]),
        helper.make_node("MaxPool", ["rectified"], ["pooled"], kernel_shape=[1, 1]),
        helper.make_node("Conv", ["rectified", "k2"], ["second"]),
        helper.make_node("Concat", ["pooled", "second"], ["both"], axis=1),
        helper.make_node("Conv", ["both", "k3"], ["third"]),
        helper.make_node("Conv", ["third", "k4", "b4"], ["fourth"], group=5),
        helper.make_node("Add", ["third", "fourth"], ["end"]),
    ]
    photos = [random.normal(size=(1, 3, 9, 9)).astype(np.float32) for _ in range(4)]
    model = graph_of(nodes, {"pixel_values": (1, 3, 9, 9)}, {"end": (1, 5, 5, 5)}, tensors)
    expected, before = run(model, {"pixel_values": photos[0]}), channel_peaks(model, photos)
    equalize_channels(model, photos)
    np.testing.assert_allclose(run(model, {"pixel_values": photos[0]})[0], expected[0], rtol=1e-3, atol=1e-4)
    after = channel_peaks(model, photos)
    for name in ("rectified", "second", "both"):
        spread = [peaks[name].max() / peaks[name][peaks[name] > 0.1].min() for peaks in (before, after)]
        assert spread[1] < 0.8 * spread[0], name
    np.testing.assert_allclose(after["third"], before["third"], rtol=1e-3)


def test_inputs_of_convolutions_are_those_that_meet_the_kernels():
    """A convolution is the product of its inputs and its kernels, with strides, padding and dilation."""
    random = np.random.default_rng(0)
    kernels = {
        f"kernel{number}": random.normal(size=shape) for number, shape in enumerate([(4, 3, 3, 3), (5, 4, 1, 2)])
    }
    kernels = {name: kernel.astype(np.float32) for name, kernel in kernels.items()}
    nodes = [
        helper.make_node("Conv", ["pixel_values", "kernel0"], ["map"], "first", pads=[1, 0, 1, 2], strides=[2, 1]),
        helper.make_node("Conv", ["map", "kernel1"], ["end"], "second", dilations=[1, 3]),
    ]
    model = graph_of(nodes, {"pixel_values": (1, 3, 12, 12)}, {"map": (1, 4, 6, 12), "end": (1, 5, 6, 9)}, kernels)
    photo = random.normal(size=(1, 3, 12, 12)).astype(np.float32)
    outputs = run(model, {"pixel_values": photo})
    products = input_products(model, model.graph.node, [photo] * 200)
    assert [node.name for node, _ in products] == ["first", "second"]
    for (node, product), output in zip(products, outputs, strict=True):
        kernel = kernels[node.input[1]]
        rows = kernel.reshape(len(kernel), -1)
        energy = np.einsum("od,de,oe->o", rows, product, rows) / (200 * 128)
        np.testing.assert_allclose(energy, np.square(output[0]).mean(axis=(1, 2)), rtol=0.05)


def test_matrices_are_restored_when_the_graph_loads():
    """Exactly where they have 8 bits, otherwise to half a step of their block; whatever operator reads them."""
    random = np.random.default_rng(0)
    exact = random.integers(-127, 128, (512, 64)).astype(np.float32) / 4
    exact[:, 0] = 127 / 4  # one scale per row of 64
    large = random.normal(size=(4096, 300)).astype(np.float32)
    large[3, :10] *= 100  # makes only its own block coarse
    tensors = {"exact": exact, "large": large, "small": random.normal(size=(8, 8)).astype(np.float32)}
    nodes = [
        helper.make_node("Identity", ["exact"], ["whole"]),
        helper.make_node("Gather", ["large", "ids"], ["rows"], axis=0),
        helper.make_node("MatMul", ["words", "small"], ["product"]),
    ]
    outputs = {"whole": exact.shape, "rows": large.shape, "product": (1, 8)}
    model = graph_of(nodes, {"words": (1, 8)}, outputs, tensors | {"ids": np.arange(4096)})
    values = {"words": random.normal(size=(1, 8)).astype(np.float32)}
    expected = run(model, values)
    compress_matrices(model)
    onnx.checker.check_model(model)
    found = run(model, values)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[2], expected[2])
    error = np.abs(found[1] - large).reshape(-1, 10).max(axis=1)
    steps = np.abs(large).reshape(-1, 10).max(axis=1) / 127
    assert (error <= 0.57 * steps).all()  # scales are rounded to half precision
    assert error.max() > 0.4 * steps[90], "the coarse block is rounded, too"
    assert model.ByteSize() < 1.2 * (exact.size + large.size) + 8 * 4096


def test_what_is_concatenated_has_the_scale_of_the_result():
    """Also where concatenations are nested; other inputs keep theirs."""

    def quantized(name, scale):
        parts = [("QuantizeLinear", name, f"{name}.q"), ("DequantizeLinear", f"{name}.q", f"{name}.dq")]
        return [helper.make_node(operator, [given, scale, "zero"], [output]) for operator, given, output in parts]

    nodes = [
        *(node for number in range(3) for node in quantized(f"in{number}", f"scale{number}")),
        helper.make_node("Concat", ["in0.dq", "in1.dq"], ["inner"], axis=1),
        *quantized("inner", "scale3"),
        helper.make_node("Concat", ["inner.dq", "in2.dq", "in3"], ["outer"], axis=1),
        *quantized("outer", "scale4"),
    ]
    tensors = {f"scale{number}": np.array(number + 0.5, np.float32) for number in range(5)} | {"zero": np.uint8(0)}
    inputs = {f"in{number}": (1, 1) for number in range(4)}
    model = graph_of(nodes, inputs, {"outer.dq": (1, 4)}, tensors)
    share_scales(model.graph)
    assert {node.input[1] for node in model.graph.node if len(node.input) == 3 and node.op_type != "Concat"} == {
        "scale4"
    }
    assert {tensor.name for tensor in model.graph.initializer} == {"scale4", "zero"}
    values = {name: np.full((1, 1), 13.4, np.float32) for name in inputs}
    np.testing.assert_allclose(run(model, values)[0], [[13.5] * 4])


def test_ranges_clip_what_costs_less_than_its_steps():
    """A rare outlier is clipped; large values that are not rare are not."""
    random = np.random.default_rng(0)
    common, rare = np.sort(random.uniform(0, 1, 300)), np.array([40.0])
    least = 40 / (1 + 10**6 / 255**2 / 12)  # of n (limit / 255)^2 / 12 + (40 - limit)^2
    assert clip([(10**6, np.concatenate([common[1:], rare]))]) == pytest.approx(least, abs=0.4)
    assert clip([(1000, common)] * 8) == pytest.approx(common.max(), rel=0.03)
    assert clip([(0, [])]) == 0
