"""Quantization of ONNX graphs: `quantize_convolutions`, `refit_projection` and `pack_weights`.

Convolutions run in int8, with scales from calibration photos: static quantization (Jacob et al. 2018, "Quantization
and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"). Large weights are stored in 6 bits,
four in three bytes, and unpacked by standard ONNX operators, which onnxruntime evaluates once, when it loads the graph.
"""

import contextlib
import io

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

LARGE = 2**18  # values; in Inception-v3, the convolutions of the last blocks, which are the least sensitive
RIDGE = 1  # of the mean eigenvalue; a smaller one overfits, even to 256 photos
LOWEST, HIGHEST = -32, 31  # of 6 bits


def quantize_convolutions(file, quantized, photos):
    """Quantize the graph in `file` up to its last convolution to int8 and write it to `quantized`.

    `photos`: calibration inputs, float32 arrays (1, 3, size, size). Activations are clipped at their 99.999th
    percentile: at the 99.99th, the error of the regions is a third larger, and with minimum and maximum, a tenth.
    """
    quant_pre_process(file, quantized, skip_symbolic_shape=True)
    model = onnx.load(quantized)
    last = max((place for place, node in enumerate(model.graph.node) if node.op_type == "Conv"), default=-1)
    kernels = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    scales = {}
    for tensor in model.graph.initializer:
        weights = numpy_helper.to_array(tensor)
        if tensor.name in kernels and weights.size > LARGE:
            scale = weight_scales(weights, axis=0)
            tensor.CopyFrom(numpy_helper.from_array(rounded(weights, scale) * scale, tensor.name))
            scales[tensor.name] = [{"axis": 0, "scale": channel, "zero_point": np.int8(0)} for channel in scale.ravel()]
    onnx.save(model, quantized)
    with contextlib.redirect_stdout(io.StringIO()):  # prints its progress
        quantize_static(
            quantized,
            quantized,
            Photos(photos),
            per_channel=True,
            activation_type=QuantType.QUInt8,  # on x86 a third faster than int8
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[node.name for node in model.graph.node[last + 1 :]],
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": 99.999, "TensorQuantOverrides": scales},
        )


def refit_projection(quantized, whole, photos):
    """Refit the projection of the regions to the features of the graph `quantized`, which it replaces, so that its
    regions come close to those of `whole`, the graph in float32: ridge regression towards the projection as it is.

    `photos`: float32 arrays (1, 3, size, size). With 256, the error of the regions is 6 to 10 % smaller.
    """
    model = onnx.load(quantized)
    makers = {output: node for node in model.graph.node for output in node.output}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    addition = makers["last_hidden_state"]
    product = next(makers[name] for name in addition.input if name in makers)
    bias = next(tensors[name] for name in addition.input if name in tensors)
    weight = tensors[product.input[1]]
    inspected = onnx.ModelProto()
    inspected.CopyFrom(model)
    inspected.graph.output.append(helper.make_tensor_value_info(product.input[0], TensorProto.FLOAT, None))
    features = _run(inspected.SerializeToString(), product.input[0], photos)
    regions = _run(whole, "last_hidden_state", photos)
    before = numpy_helper.to_array(weight)  # (channels, hidden)
    centred = features - features.mean(axis=0)
    gram = centred.T @ centred
    ridge = RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram), dtype=np.float32)
    after = before + np.linalg.solve(gram + ridge, centred.T @ (regions - features @ before))
    weight.CopyFrom(numpy_helper.from_array(after, weight.name))
    bias.CopyFrom(numpy_helper.from_array((regions - features @ after).mean(axis=0), bias.name))
    onnx.save(model, quantized)


def _run(graph, output, photos):
    """An output (batch, regions, channels) for all photos, as (photos x regions, channels)."""
    session = InferenceSession(graph, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run([output], {"pixel_values": photo})[0][0] for photo in photos])


class Photos(CalibrationDataReader):
    def __init__(self, photos):
        self.photos = iter(photos)

    def get_next(self):
        pixel_values = next(self.photos, None)
        return None if pixel_values is None else {"pixel_values": pixel_values}


def weight_scales(weights, axis):
    """The scale of each output channel (`axis`) that minimises the squared error of rounding to 6 bits; it clips a few
    outliers so that all other weights get finer steps. float32, with the number of dimensions of `weights`."""
    others = tuple(other for other in range(weights.ndim) if other != axis)
    highest = np.maximum(np.abs(weights).max(axis=others, keepdims=True), 1e-12)
    candidates = [(highest * share / HIGHEST).astype(np.float32) for share in np.linspace(0.5, 1, 21)]
    errors = [
        np.square(rounded(weights, scale) * scale - weights).sum(axis=others, keepdims=True) for scale in candidates
    ]
    return np.take_along_axis(np.stack(candidates), np.argmin(errors, axis=0)[None], axis=0)[0]


def rounded(weights, scale):
    return np.clip(np.round(weights / scale), LOWEST, HIGHEST)


def pack_weights(model):
    """Store the large weights of `model`, an `onnx.ModelProto`, in 6 bits.

    The loaded graph holds convolution weights in int8, which [`quantize_convolutions`] has already rounded to 6 bits,
    and matrices, which are rounded here, in float32.
    """
    graph, nodes = model.graph, []
    of_products = {node.input[1] for node in graph.node if node.op_type == "MatMul"}  # (inputs, outputs)
    for tensor in list(graph.initializer):
        weights, scale = numpy_helper.to_array(tensor), None
        if weights.dtype == np.float32 and weights.ndim == 2 and weights.size > LARGE // 16:
            scale = weight_scales(weights, axis=1 if tensor.name in of_products else 0)
            weights = rounded(weights, scale)
        elif weights.dtype != np.int8 or weights.size <= LARGE:
            continue
        if weights.size % 4:
            continue  # does not fill its bytes
        graph.initializer.remove(tensor)
        nodes += unpacking(graph, tensor.name, weights, scale)
    nodes += graph.node  # in the order in which they are computed
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in CONSTANTS.items())


def packed(values):
    """6-bit values as bytes (3, values / 4). The lower bits of each byte hold a value of one of the first three
    quarters, in two's complement, and its upper bits 2 bits of a value of the last quarter."""
    first, second, third, last = values.astype(np.int8).reshape(4, -1).view(np.uint8) & 63
    return np.stack([first | (last & 3) << 6, second | (last >> 2 & 3) << 6, third | last >> 4 << 6])


CONSTANTS = {
    "packed.mask": np.uint8(63),
    "packed.shifts": np.array([[6], [4], [2]], np.uint8),
    "packed.parts": np.array([[3], [12], [48]], np.uint8),
    "packed.sign": np.uint8(32),
    "packed.one": np.uint8(1),
}


def unpacking(graph, name, values, scale):
    """Add `values` to the graph in packed form. Returns the nodes that unpack them into the tensor `name`, in int8, or
    in float32 and multiplied by `scale`.

    Most steps are in bytes, because onnxruntime keeps the results of all of them until the graph is loaded.
    """
    constants = {"packed": packed(values), "shape": np.array(values.shape)}
    if scale is not None:
        constants["scale"] = scale
    graph.initializer.extend(numpy_helper.from_array(value, f"{name}.{part}") for part, value in constants.items())
    steps = [
        (".low", "BitwiseAnd", [".packed", "packed.mask"], {}),  # (3, values / 4)
        (".shifted", "BitShift", [".packed", "packed.shifts"], {"direction": "RIGHT"}),
        (".parts", "BitwiseAnd", [".shifted", "packed.parts"], {}),
        (".part0 .part1 .part2", "Split", [".parts"], {"axis": 0, "num_outputs": 3}),  # (1, values / 4)
        (".part01", "BitwiseOr", [".part0", ".part1"], {}),
        (".last", "BitwiseOr", [".part01", ".part2"], {}),
        (".all", "Concat", [".low", ".last"], {"axis": 0}),  # (4, values / 4)
        (".sign", "BitwiseAnd", [".all", "packed.sign"], {}),  # is repeated in the two upper bits
        (".sign1", "BitShift", [".sign", "packed.one"], {"direction": "LEFT"}),
        (".sign2", "BitShift", [".sign1", "packed.one"], {"direction": "LEFT"}),
        (".extended1", "BitwiseOr", [".all", ".sign1"], {}),
        (".extended2", "BitwiseOr", [".extended1", ".sign2"], {}),
        (".shaped", "Reshape", [".extended2", ".shape"], {}),
        (".int8" if scale is not None else "", "Cast", [".shaped"], {"to": TensorProto.INT8}),
    ]
    if scale is not None:
        steps.append((".float", "Cast", [".int8"], {"to": TensorProto.FLOAT}))
        steps.append(("", "Mul", [".float", ".scale"], {}))
    return [
        helper.make_node(
            operator,
            [name + given if given.startswith(".") else given for given in inputs],
            [name + output for output in outputs.split(" ")],
            **attributes,
        )
        for outputs, operator, inputs, attributes in steps
    ]
