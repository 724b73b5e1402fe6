"""Faster inference: batch norms as part of the convolutions before them."""

import torch
from timm.layers import BatchNormAct2d, ConvNormAct
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights


class FoldedConvNormAct(nn.Module):
    """A `ConvNormAct` of timm in evaluation mode, computed by one convolution.

    It keeps the block's convolution and norm under their names, so that the network has the parameters and the state
    dict that it had. Changes of these weights have no effect until `unfold_batch_norms`.
    """

    def __init__(self, block: ConvNormAct):
        super().__init__()
        self.block = (block,)  # a tuple, because it is not a part of this module
        self.conv, self.bn = block.conv, block.bn
        weight, bias = _fold(block.conv, block.bn)
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.train(block.training)

    def forward(self, x):
        if type(self.conv) is not nn.Conv2d:  # an adapter has replaced it
            return self.bn(self.conv(x))
        conv = self.conv
        x = F.conv2d(x, self.weight, self.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        return self.bn.act(x)


def fold_batch_norms(network: nn.Module) -> None:
    """Replace each `ConvNormAct` of a timm network that allows it by a [`FoldedConvNormAct`]."""
    for name, block in list(network.named_modules()):
        if type(block) is ConvNormAct and _can_fold(block):
            network.set_submodule(name, FoldedConvNormAct(block))


def unfold_batch_norms(network: nn.Module) -> None:
    """Undo `fold_batch_norms`."""
    for name, module in list(network.named_modules()):
        if isinstance(module, FoldedConvNormAct):
            network.set_submodule(name, module.block[0].train(module.training))


def _can_fold(block):
    """False for custom padding, other norms such as group norm, adapters, and weights that are left on disk."""
    conv = block.conv
    return (
        type(conv) is nn.Conv2d
        and type(block.bn) is BatchNormAct2d
        and block.aa is None
        and conv.padding_mode == "zeros"
        and not conv.weight.is_meta
    )


def _fold(conv, norm):
    """Weight and bias of the convolution with the batch norm folded in, computed in float32."""
    tensors = [conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias]
    weight, bias, mean, variance, scale, shift = (None if t is None else t.detach().float() for t in tensors)
    weight, bias = fuse_conv_bn_weights(weight, bias, mean, variance, norm.eps, scale, shift)
    dtype = conv.weight.dtype
    return weight.detach().to(dtype, memory_format=torch.channels_last), bias.detach().to(dtype)
