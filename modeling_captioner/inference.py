"""Optimizations for inference, equal to the training pass to 1e-4: folded batch norms and prepacked weights.

Without gradients, each batch norm is folded into the preceding convolution, and on a CPU weights are reordered once
into the oneDNN layout. This makes a product with few rows, such as a step of beam search, up to five times faster, and
encoding one photo a quarter faster. The modules keep their own weights; derived weights are recomputed when those
change, which `refresh` finds out at the start of every batch of photos and of every caption.
"""

from weakref import WeakKeyDictionary

import torch
from timm.layers import BatchNormAct2d, ConvNormAct
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils.weak import WeakTensorKeyDictionary

# {weight: {key: (versions of the source tensors, derived weights)}}; not stored on the modules, which are copied, moved
# and saved.
_cache = WeakTensorKeyDictionary()
_fingerprints = WeakKeyDictionary()  # {network: fingerprint of its weights when derived weights were last computed}
SMALL = 8192  # elements
# Operators that torch.compile uses; they are not public API, so `F.linear` and `F.conv2d` replace them if missing.
_packed_dtypes = set()
if torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_convolution_pointwise")
):
    _packed_dtypes.add(torch.float32)
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        _packed_dtypes.add(torch.bfloat16)


def fold_batch_norms(network):
    """Make a timm network fold its batch norms in inference; its weights and their names stay the same."""
    for block in network.modules():
        if type(block) is ConvNormAct and block.aa is None and _can_fold(block.conv, block.bn):
            block.__class__ = FoldingConvNormAct


def _can_fold(conv, norm):
    """False for custom padding and other norms, such as group norm."""
    return type(conv) is nn.Conv2d and type(norm) is BatchNormAct2d


class FoldingConvNormAct(ConvNormAct):
    """`ConvNormAct` that runs the batch norm as part of the convolution in inference."""

    def forward(self, x):
        conv, norm = self.conv, self.bn
        if norm.training or not _can_fold(conv, norm):  # an adapter may have replaced the convolution
            return super().forward(x)
        if not _is_inference(x, conv.weight, conv.bias, norm.weight, norm.bias):
            return super().forward(x)
        # A training pass updates the running statistics without changing their versions, but increments the counter.
        sources = [conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.num_batches_tracked]
        if not (x.is_cpu and x.dtype in _packed_dtypes):
            weight, bias = _cached(sources, lambda: _fold(conv, norm))
            return norm.act(F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups))
        fused = "relu" if isinstance(norm.act, nn.ReLU) else "none"
        geometry = conv.padding, conv.stride, conv.dilation, conv.groups
        # The fastest layout for one photo is slow for a batch, and vice versa; the results are the same.
        single = len(x) == 1
        weight, bias = _cached(sources, lambda: _pack(*_fold(conv, norm), geometry, x.shape), single)
        x = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *geometry, fused, [], "")
        return x if fused == "relu" else norm.act(x)


def _pack(weight, bias, geometry, shape):
    return torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, list(shape)), bias


def _fold(conv, norm):
    """Weight and bias of the convolution with the batch norm folded in, computed in float32."""
    tensors = [conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias]
    weight, bias, mean, variance, scale, shift = (None if tensor is None else tensor.float() for tensor in tensors)
    weight, bias = fuse_conv_bn_weights(weight, bias, mean, variance, norm.eps, scale, shift)
    weight = weight.detach().to(conv.weight, memory_format=torch.channels_last)
    return weight, bias.detach().to(conv.weight)


class Linear(nn.Linear):
    """`nn.Linear` that is faster in inference on a CPU."""

    def forward(self, inputs):
        return linear(inputs, self.weight, self.bias)


def linear(inputs, weight, bias):
    """`torch.nn.functional.linear` that is faster in inference on a CPU."""
    if not (inputs.is_cpu and weight.dtype in _packed_dtypes and _is_inference(inputs, weight, bias)):
        return F.linear(inputs, weight, bias)
    packed = _cached([weight], lambda: torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None))
    return torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")


def can_step(rnn, inputs):
    """Whether `step` is equal to `rnn` and faster: in inference, and not for what quantization puts in its place."""
    return type(rnn) in (nn.GRU, nn.LSTM) and _is_inference(inputs, *rnn.parameters())


def step(rnn, inputs, state):
    """Run an RNN for one word.

    Args:
        rnn: an `nn.GRU` or `nn.LSTM`.
        inputs: (batch, features).
        state: tuple of state tensors, one for a GRU, two for an LSTM, (layers, batch, hidden).

    Returns the outputs (batch, hidden) and the new state, equal to those of `rnn` to 1e-5.
    """
    after = []
    for layer, (input_weight, state_weight, input_bias, state_bias) in enumerate(rnn.all_weights):
        before = [tensor[layer] for tensor in state]
        from_input, from_state = linear(inputs, input_weight, input_bias), linear(before[0], state_weight, state_bias)
        after.append(CELLS[rnn.mode](from_input, from_state, *before))
        inputs = after[-1][0]
    return inputs, tuple(torch.stack(tensors) for tensors in zip(*after, strict=True))


def _gru_cell(from_input, from_state, hidden):
    """Cho et al. 2014, in the form of `torch.nn.GRUCell`."""
    width = 2 * hidden.shape[-1]
    reset, update = (from_input[:, :width] + from_state[:, :width]).sigmoid_().chunk(2, dim=-1)
    new = torch.addcmul(from_input[:, width:], reset, from_state[:, width:]).tanh_()
    return (torch.lerp(new, hidden, update),)


def _lstm_cell(from_input, from_state, hidden, memory):
    """Hochreiter & Schmidhuber 1997, in the form of `torch.nn.LSTMCell`."""
    enter, forget, new, leave = (from_input + from_state).chunk(4, dim=-1)
    memory = forget.sigmoid() * memory + enter.sigmoid() * new.tanh()
    return leave.sigmoid() * memory.tanh(), memory


CELLS = {"GRU": _gru_cell, "LSTM": _lstm_cell}


def _is_inference(inputs, weight, *others):
    """Whether the weights are used as they are: no gradients, compilation, export, autocast, offloading, subclasses."""
    tensors = [tensor for tensor in (weight, *others) if tensor is not None]
    needs_grad = any(tensor.requires_grad for tensor in (inputs, *tensors))
    return not (
        (needs_grad and torch.is_grad_enabled())
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch.is_autocast_enabled(inputs.device.type)
        or not all(_is_plain(tensor, inputs) for tensor in tensors)
        or inputs.dtype != weight.dtype
        or weight.is_inference()  # inference tensors have no version counter
    )


def _is_plain(weight, inputs):
    """Whether `weight` is an ordinary parameter on the device of `inputs`, not quantized, computed or offloaded."""
    return type(weight) is nn.Parameter and weight.device == inputs.device


def _cached(sources, compute, key=None):
    """The result of `compute()`, cached per `key` until one of the `sources` tensors changes, as far as their addresses
    and versions show it."""
    versions = [(tensor.data_ptr(), tensor._version) for tensor in sources]
    entries = _cache.setdefault(sources[0], {})
    if key not in entries or entries[key][0] != versions:
        entries[key] = (versions, compute())
    return entries[key][1]


def refresh(network):
    """Drop the derived weights of `network` if any of its weights has changed since they were computed.

    A write through `.data`, as by PEFT's `merge_and_unload`, changes neither the address nor the version of a tensor,
    so this compares contents. It takes about 5 % of the time to caption one photo, and 1 % of a batch of 16.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return
    weights, buffers = _weights_and_buffers(network, trained=not torch.is_grad_enabled())
    if not weights:  # training derives nothing
        return
    with torch.no_grad():
        before, now = _fingerprints.get(network), _fingerprint(weights + buffers)
    if not _equal(before, now):
        for weight in weights:
            _cache.pop(weight, None)
        _fingerprints[network] = now


def _weights_and_buffers(network, trained=True):
    """Like `parameters()` and `buffers()`, which take several times as long because they compose names.

    Without `trained`, only those that training leaves alone: frozen weights and buffers of modules in evaluation mode.
    """
    modules, weights, buffers = [network], [], []
    while modules:
        module = modules.pop()
        if module is not None:
            parameters = [tensor for tensor in module._parameters.values() if tensor is not None]
            weights += [tensor for tensor in parameters if trained or not tensor.requires_grad]
            if trained or not module.training:
                buffers += module._buffers.values()
            modules += module._modules.values()
    return [
        list({id(tensor): tensor for tensor in tensors if tensor is not None}.values())
        for tensors in (weights, buffers)
    ]


def _fingerprint(tensors):
    """Small tensors, and the sums of the bits and samples of the values of large ones.

    Any single write changes a sum, and any permutation a sample. Empty if the tensors are not on one device, as when
    some are offloaded.
    """
    tensors = [t for t in tensors if type(t) in (nn.Parameter, torch.Tensor) and t.is_floating_point()]
    if len({tensor.device for tensor in tensors}) != 1:
        return []
    small = [tensor.flatten() for tensor in tensors if tensor.numel() <= SMALL]
    large = [_bits(tensor) for tensor in tensors if tensor.numel() > SMALL]
    parts = small, [bits.sum(dim=0, keepdim=True) for bits in large], [bits[::251] for bits in large]
    return [torch.cat(part) for part in parts if part]


def _bits(tensor):
    flat = tensor.flatten()
    aligned = (flat.nbytes | flat.storage_offset() * flat.itemsize) % 8 == 0
    return flat.view(torch.int64 if aligned else torch.uint8)


def _equal(before, now):
    if not before or len(before) != len(now) or before[0].device != now[0].device:
        return False
    return all(map(torch.equal, before, now))
