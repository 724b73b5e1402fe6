"""The encoder: a timm network without its classifier, and a projection."""

import timm
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from .inference import unfold_batch_norms

CPU_BATCH_SIZE = 4  # photos at once in inference; on CPUs, larger batches use more memory and are no faster


class CaptionerEncoder(nn.Module):
    """Encodes a photo as regions: a timm network without its classifier, followed by a projection.

    Supports every timm architecture that keeps the spatial layout: feature maps with channels first (Inception, ResNet,
    ConvNeXt) or last (Swin), or tokens (ViT).
    """

    main_input_name = "pixel_values"

    def __init__(self, config):
        super().__init__()
        if not timm.is_model(config.encoder_name):
            raise ValueError(
                f"encoder_name={config.encoder_name!r} is not an architecture of timm {timm.__version__};"
                " timm.list_models() lists them."
            )
        self.backbone = timm.create_model(config.encoder_name, pretrained=False, num_classes=0)
        self.freeze([name for name, _ in self.backbone.named_children()])
        self.norm = nn.LayerNorm(self.backbone.num_features)
        self.projection = nn.Linear(self.backbone.num_features, config.hidden_size)

    def forward(self, pixel_values, **kwargs):
        """Encode normalized `pixel_values` (batch, 3, size, size) as projected regions (batch, regions, hidden)."""
        return BaseModelOutput(last_hidden_state=self.project(self.features(pixel_values)))

    def features(self, pixel_values):
        """The last feature map of the network, flattened row by row: (batch, regions, channels).

        `pixel_values` (batch, 3, size, size) are cast to the model's dtype. Raises `ValueError` if they are not photos.
        """
        if pixel_values.ndim != 4 or pixel_values.shape[1] != 3 or not pixel_values.is_floating_point():
            raise ValueError(
                "Pass the photos as the pixel_values that the processor returns, (batch, 3, size, size), not as"
                f" {tuple(pixel_values.shape)} of {pixel_values.dtype}."
            )
        pixel_values = pixel_values.to(self.norm.weight.dtype)
        whole = torch.is_grad_enabled() or self.training or torch.compiler.is_compiling() or torch.jit.is_tracing()
        if whole or not pixel_values.is_cpu:
            return self._features(pixel_values)
        return torch.cat([self._features(part) for part in pixel_values.split(CPU_BATCH_SIZE)])

    def _features(self, pixel_values):
        # Channels last is a third faster on CPUs, and preferred by tensor cores.
        maps = self.backbone.forward_features(pixel_values.contiguous(memory_format=torch.channels_last))
        if maps.ndim == 3:
            return maps[:, getattr(self.backbone, "num_prefix_tokens", 0) :]
        if getattr(self.backbone, "output_fmt", "NCHW") == "NHWC":
            return maps.flatten(1, 2)
        return maps.flatten(2).transpose(1, 2)

    def project(self, features):
        """Project features (batch, regions, channels) to (batch, regions, hidden)."""
        return self.projection(self.norm(features))

    def freeze(self, blocks, batch_norms=False):
        """Freeze these blocks, named as the children of the network, and unfreeze the others; at first all are frozen.

        With `batch_norms`, the batch norms of the other blocks keep their statistics too, but train their scales.
        """
        self.frozen_blocks, self.frozen_batch_norms = blocks, batch_norms
        self.backbone.requires_grad_(not blocks)
        for name, block in self.backbone.named_children():
            block.requires_grad_(name not in blocks)

    def train(self, mode=True):
        """Keep frozen blocks in evaluation mode, so that their batch norm statistics do not change either."""
        if mode:
            unfold_batch_norms(self.backbone)
        super().train(mode)
        for name in self.frozen_blocks:
            getattr(self.backbone, name).eval()
        if self.frozen_batch_norms:
            for module in self.backbone.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self
