"""Quantization of ONNX graphs to 8 bits: `quantize_convolutions` and `compress_matrices`.

Convolutions run in int8, with scales from calibration photos: static quantization (Jacob et al. 2018, "Quantization
and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"). Matrices are stored in int8 and run
in float32.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession
from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, quant_pre_process
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.registry import QDQRegistry

PATCHES = 128  # of each photo and convolution
DAMPING = 0.01  # of the mean input's energy, as in the paper
TAIL = 300  # values of an activation and photo that may be clipped
UNQUANTIZED = 4  # convolutions at the beginning: the third and the fourth take 5 % longer than in int8
LOWEST, HIGHEST = -127, 127
EQUALIZATION = 0.35  # with 0.5, the error of a few photos is large, whose channels exceed those of the calibration
FAINT = 1 / 16  # of the largest peak of a convolution's channels: those below it are not amplified any further
HOMOGENEOUS = {"Relu", "MaxPool", "AveragePool"}  # f(x / factor) = f(x) / factor, channel by channel
SMALLEST = 2.0**-24  # of a positive number in half precision
LARGE = 2**15  # values of a tensor that is stored in int8; with 2**14, the third kernel too: a sixth more error
BLOCK = 64  # values of a row that share a scale, at most
WORD_BLOCK = 10  # the same for a matrix with a row for each word; with 15, 4.5 % of the captions change, with 10, 3.9 %
WORDS = 2**12  # rows of such a matrix, at least
OPERATORS = QDQRegistry.keys() - {"AveragePool"}  # which onnxruntime rounds twice


def quantize_convolutions(file, quantized, photos):
    """Quantize the graph in `file` up to its last convolution to int8 and write it to `quantized`.

    `photos`: calibration inputs, float32 arrays (1, 3, size, size). The first convolutions, which need little time,
    stay in float32.
    """
    quant_pre_process(file, quantized, skip_symbolic_shape=True)
    model = onnx.load(quantized)
    convolutions = [place for place, node in enumerate(model.graph.node) if node.op_type == "Conv"]
    if len(convolutions) <= UNQUANTIZED:  # such as the patches of a transformer
        return
    nodes = [
        node
        for place, node in enumerate(model.graph.node[: convolutions[-1] + 1])
        if place not in convolutions[:UNQUANTIZED] and node.op_type in OPERATORS
    ]
    equalize_channels(model, photos)
    ranges = activation_ranges(model, nodes, photos)
    scales = round_kernels(model, nodes, photos)
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,  # on x86 a third faster than int8
        tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
        nodes_to_quantize=[node.name for node in nodes],
        nodes_to_exclude=[],
        op_types_to_quantize=list(OPERATORS),
        extra_options={"TensorQuantOverrides": scales},
    )
    quantizer.quantize_model()
    share_scales(quantizer.model.model.graph)
    onnx.save(quantizer.model.model, quantized)


def equalize_channels(model, photos):
    """Let the channels of a map, which share a scale, differ less: divide each by its peak to the power of
    `EQUALIZATION`, and multiply the kernels that read it by the same. The result of `model` stays what it is.

    Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.1, with the
    peaks of activations, as in Xiao et al. 2023, "SmoothQuant", section 4. The error of the regions falls by a fifth.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    peaks, readers = channel_peaks(model, photos), readers_by_name(model.graph)
    factors = {}  # {name of a map: what its channels are divided by}
    for node in model.graph.node:
        result = node.output[0]
        if node.op_type == "Conv":
            if node.input[0] in factors:
                multiply(tensors[node.input[1]], factors[node.input[0]], axis=1)
            if can_be_scaled(result, readers):
                peak = peaks[readers[result][0].output[0] if readers[result][0].op_type == "Relu" else result]
                factors[result] = np.maximum(peak, max(peak.max() * FAINT, 1e-6)) ** EQUALIZATION
                for name in node.input[1:]:
                    multiply(tensors[name], 1 / factors[result], axis=0)
        elif node.op_type == "Concat" and any(name in factors for name in node.input):
            factors[result] = np.concatenate([factors.get(name, np.ones(len(peaks[name]))) for name in node.input])
        elif node.op_type in HOMOGENEOUS and node.input[0] in factors:
            factors[result] = factors[node.input[0]]


def channel_peaks(model, photos):
    """{name: the largest magnitude of each channel} of the maps that convolutions and what follows them make."""
    operators = {"Conv", "Concat", *HOMOGENEOUS}
    names = [node.output[0] for node in model.graph.node if node.op_type in operators]
    peaks = {}
    for maps in activations(model, names, photos):
        for name, values in maps.items():
            if values.ndim == 4:
                peaks[name] = np.maximum(peaks.get(name, 0), np.abs(values).max(axis=(0, 2, 3)))
    return peaks


def can_be_scaled(name, readers):
    """Whether nothing but convolutions reads the channels of this map, directly or by way of what keeps their scale."""
    return bool(readers.get(name)) and all(
        can_be_scaled(node.output[0], readers)
        if node.op_type in {"Concat", *HOMOGENEOUS}
        else node.op_type == "Conv" and attribute(node, "group", 1) == 1
        for node in readers[name]
    )


def readers_by_name(graph):
    readers = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def multiply(tensor, factors, axis):
    """Multiply the values of a tensor in place, by a factor for each place on this axis."""
    values = numpy_helper.to_array(tensor)
    factors = np.expand_dims(factors, [other for other in range(values.ndim) if other != axis])
    tensor.CopyFrom(numpy_helper.from_array((values * factors).astype(values.dtype), tensor.name))


def activation_ranges(model, nodes, photos):
    """{name: (lowest, highest)} of the inputs and outputs of the nodes, see `clip`.

    One photo at a time, because the activations of 64 take 8 GB, which onnxruntime's own calibration holds at once.
    """
    floats = {value.name for value in model.graph.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    floats -= {tensor.name for tensor in model.graph.initializer}
    names = sorted({name for node in nodes for name in (*node.input, *node.output)} & floats)
    sides = {name: ([], []) for name in names}
    for maps in activations(model, names, photos):
        for name, values in maps.items():
            for side, magnitudes in zip(sides[name], (-values[values < 0], values[values > 0]), strict=True):
                count = min(TAIL, magnitudes.size)
                side.append(
                    (magnitudes.size, np.partition(magnitudes, magnitudes.size - count)[-count:] if count else [])
                )
    return {name: (-clip(negative), clip(positive)) for name, (negative, positive) in sides.items()}


def clip(tails):
    """Where to clip the values of a sign, float32: where the squared errors of clipping and rounding add up to least.

    `tails`: for each photo, the number of values and the magnitudes of the largest. With the maximum, the median error
    of the regions is an eighth larger.
    """
    sizes, largest = zip(*tails, strict=True)
    largest = np.concatenate(largest)
    candidates = largest.max(initial=0) * np.linspace(0.3, 1, 36)
    errors = [
        sum(sizes) * (limit / 255) ** 2 / 12 + np.square(np.maximum(largest - limit, 0)).sum() for limit in candidates
    ]
    return np.float32(candidates[np.argmin(errors)])


def activations(model, names, photos):
    """Yields {name: array} of these results, which may be intermediate ones, for each photo."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {output.name for output in model.graph.output}
    copy.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in known
    )
    session = InferenceSession(copy.SerializeToString(), providers=["CPUExecutionProvider"])
    for photo in photos:
        yield dict(zip(names, session.run(names, {"pixel_values": photo}), strict=True))


def round_kernels(model, nodes, photos):
    """Round the kernels of the convolutions among `nodes` of `model`, an `onnx.ModelProto`, to 8 bits so that the error
    of their outputs is small, not that of the kernels.

    Returns their scales as `TensorQuantOverrides` of onnxruntime.
    """
    kernels = {tensor.name: tensor for tensor in model.graph.initializer}
    scales = {}
    for node, products in input_products(model, nodes, photos):
        tensor = kernels[node.input[1]]
        kernel = numpy_helper.to_array(tensor)
        rows = kernel.reshape(len(kernel), -1)
        scale = (np.maximum(np.abs(rows).max(axis=1), 1e-12) / HIGHEST).astype(np.float32)
        rounded = round_rows(rows / scale[:, None], products) * scale[:, None]
        tensor.CopyFrom(numpy_helper.from_array(rounded.reshape(kernel.shape), tensor.name))
        scales[tensor.name] = [{"axis": 0, "scale": channel, "zero_point": np.int8(0)} for channel in scale]
    return scales


def input_products(model, nodes, photos):
    """Pairs of a convolution without groups, one of `nodes`, and X^T X of its inputs X (patches, values) at random."""
    convolutions = [node for node in nodes if node.op_type == "Conv" and attribute(node, "group", 1) == 1]
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    outputs = sorted({node.input[0] for node in convolutions} - {"pixel_values"})
    random, products = np.random.default_rng(0), {}
    for photo, maps in zip(photos, activations(model, outputs, photos), strict=True):
        maps["pixel_values"] = photo
        for node in convolutions:
            values = random_patches(node, maps[node.input[0]][0], shapes[node.input[1]], random)
            products[node.name] = products.get(node.name, 0) + values.T @ values
    return [(node, products[node.name]) for node in convolutions]


def random_patches(node, maps, kernel_shape, random):
    """What a convolution multiplies by its kernels at `PATCHES` random places: (patches, channels * rows * columns)."""
    top, left, bottom, right = attribute(node, "pads", [0] * 4)
    maps = np.pad(maps, ((0, 0), (top, bottom), (left, right)))
    dilations, strides = attribute(node, "dilations", [1, 1]), attribute(node, "strides", [1, 1])
    spans = [(size - 1) * dilation + 1 for size, dilation in zip(kernel_shape[2:], dilations, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(maps, spans, axis=(1, 2))
    windows = windows[:, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    rows, columns = (random.integers(size, size=PATCHES) for size in windows.shape[1:3])
    return windows[:, rows, columns].swapaxes(0, 1).reshape(PATCHES, -1)


def round_rows(rows, products, block=128):
    """Round each of `rows` to integers of 8 bits so that its products with the inputs change little.

    The error of each rounded value is made up for by those that are not rounded yet: Frantar et al. 2023, "GPTQ:
    Accurate Post-Training Quantization for Generative Pre-trained Transformers", algorithm 1.

    Args:
        rows: (outputs, values), float32.
        products: X^T X of the inputs X (..., values), (values, values).

    Returns the rounded rows, float32.
    """
    order = np.argsort(-np.diag(products))  # the values with the largest inputs first
    rows, products = rows[:, order], products[order][:, order].astype(np.float64)
    products[np.diag_indices_from(products)] += DAMPING * np.diag(products).mean() + 1e-12
    factor = np.linalg.cholesky(np.linalg.inv(products)).T.astype(np.float32)
    rounded = np.empty_like(rows)
    for start in range(0, len(factor), block):
        end = min(start + block, len(factor))
        errors = np.empty_like(rows[:, start:end])
        for place in range(start, end):
            rounded[:, place] = np.clip(np.round(rows[:, place]), LOWEST, HIGHEST)
            error = (rows[:, place] - rounded[:, place]) / factor[place, place]
            rows[:, place:end] -= np.outer(error, factor[place, place:end])
            errors[:, place - start] = error
        rows[:, end:] -= errors @ factor[start:end, end:]
    return rounded[:, np.argsort(order)]


def share_scales(graph):
    """Give what is concatenated the scale of the result, so that it is rounded once, and then only copied."""
    makers = {output: node for node in graph.node for output in node.output}
    readers = readers_by_name(graph)
    for concatenation in reversed([node for node in graph.node if node.op_type == "Concat"]):  # some are nested
        reading = readers.get(concatenation.output[0], [])
        if [node.op_type for node in reading] != ["QuantizeLinear"]:
            continue
        for name in concatenation.input:
            if name in makers and makers[name].op_type == "DequantizeLinear":
                for node in (makers[name], makers[makers[name].input[0]]):
                    node.input[1:] = reading[0].input[1:]
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)  # otherwise onnxruntime warns about it


def compress_matrices(model):
    """Store the large float32 matrices of `model`, an `onnx.ModelProto`, in int8, with a scale in half precision for
    every few values.

    Four operators restore each; onnxruntime evaluates them once, when it loads the graph.
    """
    graph, nodes = model.graph, []
    for tensor in list(graph.initializer):
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.ndim < 2 or values.size < LARGE:
            continue
        name, row = tensor.name, values[0].size
        longest = WORD_BLOCK if len(values) >= WORDS else BLOCK
        block = max(size for size in range(1, longest + 1) if row % size == 0)
        blocks = values.reshape(-1, block)
        scales = np.maximum(np.abs(blocks).max(axis=1, keepdims=True) / HIGHEST, SMALLEST).astype(np.float16)
        rounded = np.clip(np.round(blocks / scales.astype(np.float32)), LOWEST, HIGHEST).astype(np.int8)
        parts = {"int8": rounded, "half": scales, "shape": np.array(values.shape)}
        graph.initializer.remove(tensor)
        graph.initializer.extend(numpy_helper.from_array(part, f"{name}.{key}") for key, part in parts.items())
        nodes += [
            helper.make_node("Cast", [f"{name}.int8"], [f"{name}.float"], to=TensorProto.FLOAT),
            helper.make_node("Cast", [f"{name}.half"], [f"{name}.scale"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}.float", f"{name}.scale"], [f"{name}.blocks"]),
            helper.make_node("Reshape", [f"{name}.blocks", f"{name}.shape"], [name]),
        ]
    nodes += graph.node  # in the order in which they are computed
    del graph.node[:]
    graph.node.extend(nodes)


def attribute(node, name, default):
    return next((helper.get_attribute_value(given) for given in node.attribute if given.name == name), default)
