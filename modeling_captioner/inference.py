"""What inference does otherwise than training, with the same results to 1e-4: fewer passes, and weights laid out anew.

Without gradients a batch norm is folded into the convolution before it, and on a CPU weights are laid out once as
oneDNN wants them, which makes a product with a few rows, such as a step of beam search, up to five times faster, and
one photo's way through the encoder by a quarter. The modules keep their own weights; what is made from them is made
anew when they have changed.
"""

import torch
from timm.layers import BatchNormAct2d, ConvNormAct
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils.weak import WeakTensorKeyDictionary

# Not on the modules, which are copied, moved and saved:
# {weight: {kind of what was made: (state of all weights it came from, what was made)}}.
_made = WeakTensorKeyDictionary()
# The products that PyTorch's own compiler calls; no promise of it, so plain ones stand in where they are absent.
_packed_dtypes = set()
if torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_convolution_pointwise")
):
    _packed_dtypes.add(torch.float32)
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        _packed_dtypes.add(torch.bfloat16)


def fold_batch_norms(network):
    """Have the blocks of a timm network fold their batch norms in inference; its weights and their names stay."""
    for block in network.modules():
        if type(block) is ConvNormAct and block.aa is None and _can_be_folded(block.conv, block.bn):
            block.__class__ = FoldingConvNormAct


def _can_be_folded(conv, norm):
    """Some networks pad in a way of their own, or norm by groups of channels."""
    return type(conv) is nn.Conv2d and type(norm) is BatchNormAct2d


class FoldingConvNormAct(ConvNormAct):
    """timm's convolution, batch norm and activation; in inference one convolution and the activation."""

    def forward(self, x):
        conv, norm = self.conv, self.bn
        if norm.training or not _is_inference(x, conv.weight, conv.bias, norm.weight, norm.bias):
            return super().forward(x)
        # A pass of training changes the running statistics unseen by PyTorch's versions, but counts itself.
        sources = [conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.num_batches_tracked]
        if not (x.is_cpu and x.dtype in _packed_dtypes):
            weight, bias = _made_from(sources, lambda: _folded(conv, norm))
            return norm.act(F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups))
        fused = "relu" if isinstance(norm.act, nn.ReLU) else "none"
        way = conv.padding, conv.stride, conv.dilation, conv.groups
        # What suits one photo makes several together slow, and the other way round; results are the same.
        alone = len(x) == 1
        weight, bias = _made_from(sources, lambda: _packed(*_folded(conv, norm), way, x.shape), alone)
        x = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *way, fused, [], "")
        return x if fused == "relu" else norm.act(x)


def _packed(weight, bias, way, shape):
    return torch.ops.mkldnn._reorder_convolution_weight(weight, *way, list(shape)), bias


def _folded(conv, norm):
    """Weight and bias of a convolution that does the batch norm's work as well; in float32, then as stored."""
    tensors = [conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias]
    weight, bias, mean, variance, scale, shift = (None if tensor is None else tensor.float() for tensor in tensors)
    weight, bias = fuse_conv_bn_weights(weight, bias, mean, variance, norm.eps, scale, shift)
    weight = weight.detach().to(conv.weight, memory_format=torch.channels_last)
    return weight, bias.detach().to(conv.weight)


class Linear(nn.Linear):
    """As `nn.Linear`, quicker in inference on a CPU."""

    def forward(self, inputs):
        return linear(inputs, self.weight, self.bias)


def linear(inputs, weight, bias):
    """As `torch.nn.functional.linear`, quicker in inference on a CPU."""
    if not (inputs.is_cpu and weight.dtype in _packed_dtypes and _is_inference(inputs, weight, bias)):
        return F.linear(inputs, weight, bias)
    packed = _made_from([weight], lambda: torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None))
    return torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")


def step(rnn, inputs, state):
    """Read one word.

    Args:
        rnn: an `nn.GRU` or `nn.LSTM`.
        inputs: (batch, features).
        state: its tensors, one of a GRU, two of an LSTM, (layers, batch, hidden).

    Returns the outputs (batch, hidden) and the new state, as `rnn` itself does to 1e-5.
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
    """Nothing is learnt (as in a frozen block), compiled, exported, cast on the way, or offloaded: the weights are used
    as they are."""
    learnt = any(tensor is not None and tensor.requires_grad for tensor in (inputs, weight, *others))
    return not (
        (learnt and torch.is_grad_enabled())
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch.is_autocast_enabled(inputs.device.type)
        or inputs.device != weight.device
        or inputs.dtype != weight.dtype
        or weight.is_inference()  # such a tensor does not say when it changes
    )


def _made_from(sources, make, kind=None):
    """What `make()` gives, kept until one of the tensors `sources` changes; one of each kind."""
    state = [(tensor.data_ptr(), tensor._version) for tensor in sources]
    kept = _made.setdefault(sources[0], {})
    if kind not in kept or kept[kind][0] != state:
        kept[kind] = (state, make())
    return kept[kind][1]
