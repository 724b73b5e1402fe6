"""Other captioners, built from their transformers configurations with random weights, which do not affect their speed.

Each is asked as its authors do: at its own picture size, with its own prompt length and number of beams.
"""

from dataclasses import dataclass

import torch
from transformers import (
    BartConfig,
    BlipConfig,
    BlipForConditionalGeneration,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2VisionConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedModel,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMVisionConfig,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)


@dataclass
class OtherCaptioner:
    """`tiles` pictures of `size` are encoded per photo; `prompt` are the ids that precede the caption, or None."""

    model: PreTrainedModel
    size: int
    prompt: list | None = None
    tiles: int | None = None
    beams: int = 3

    def __call__(self, photo, words):
        """Generate `words` words for an RGB `PIL.Image.Image`. Raises `RuntimeError` if there are others."""
        device = self.model.device
        pixels = torch.tensor(list(photo.resize((self.size, self.size)).tobytes()), dtype=torch.uint8, device=device)
        pixel_values = pixels.view(1, self.size, self.size, 3).permute(0, 3, 1, 2) / 127.5 - 1
        inputs = {"pixel_values": pixel_values}
        if self.tiles:
            inputs["pixel_values"] = pixel_values.repeat(self.tiles, 1, 1, 1)[None]  # (1, tiles, 3, size, size)
        if self.prompt:
            inputs["input_ids"] = torch.tensor([self.prompt], device=device)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        ids = self.model.generate(**inputs, num_beams=self.beams, max_new_tokens=words, min_new_tokens=words)
        start = len(self.prompt) if self.prompt and not self.model.config.is_encoder_decoder else 1
        if ids.shape[1] - start != words:
            raise RuntimeError(f"{ids.shape[1] - start} words were generated, not {words}.")


def vit_gpt2():
    gpt2 = GPT2Config(bos_token_id=0, eos_token_id=1, pad_token_id=1)
    pair = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        ViTConfig(), gpt2, decoder_start_token_id=0, pad_token_id=1
    )
    return OtherCaptioner(VisionEncoderDecoderModel(pair), 224)


def blip():
    config = BlipConfig()
    config.vision_config.image_size = 384
    return OtherCaptioner(BlipForConditionalGeneration(config), 384)


def florence2():
    """Florence-2-base (Xiao et al. 2024): 577 tokens of the picture and the prompt "What does the image describe?"."""
    text = BartConfig(
        **{"vocab_size": 51290, "d_model": 768},
        **{f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in BART_BASE.items()},
    )
    vision = Florence2VisionConfig(projection_dim=768)
    model = Florence2ForConditionalGeneration(Florence2Config(vision_config=vision, text_config=text))
    return OtherCaptioner(model, 768, prompt=[51289] * 577 + [100] * 8)


BART_BASE = {"layers": 6, "ffn_dim": 3072, "attention_heads": 12}


def smolvlm():
    """SmolVLM-256M (Marafioti et al. 2025): a photo of 3:2 becomes 12 tiles and an overview, 64 tokens each."""
    vision = SmolVLMVisionConfig(hidden_size=768, num_attention_heads=12, image_size=512, patch_size=16)
    text = LlamaConfig(
        vocab_size=49280,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        pad_token_id=2,
    )
    config = SmolVLMConfig(vision_config=vision, text_config=text, scale_factor=4, image_token_id=49190)
    return OtherCaptioner(
        SmolVLMForConditionalGeneration(config), 512, prompt=[49190] * 64 * 13 + [100] * 40, tiles=13, beams=1
    )


OTHERS = {"ViT-GPT2": vit_gpt2, "BLIP-base": blip, "Florence-2-base": florence2, "SmolVLM-256M": smolvlm}
