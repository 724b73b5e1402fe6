"""The captioner model, in the order of the data flow: encoder, decoder with its attention (`attention.py`), full model.

A photo is encoded as 64 regions (the last feature map of Inception-v3). A first RNN reads the preceding words,
attention scores every region against its hidden state and pools the regions into one context vector, and a second RNN
predicts the next word. The context is not fed back into the first RNN, so training runs a whole caption in one call.
Based on "Show, Attend and Tell" (Xu et al. 2015) and the two RNNs of "Bottom-Up and Top-Down Attention" (Anderson et
al. 2018).
"""

import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import Cache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from .attention import ATTENTIONS
from .configuration_captioner import CaptionerConfig
from .inference import Linear, can_step, fold_batch_norms, refresh, step

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
        fold_batch_norms(self.backbone)
        blocks = [name for name, _ in self.backbone.named_children()]
        self.freeze(blocks if config.encoder_frozen else [])
        self.norm = nn.LayerNorm(self.backbone.num_features)
        self.projection = Linear(self.backbone.num_features, config.hidden_size)

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
        refresh(self)
        pixel_values = pixel_values.to(self.norm.weight.dtype)
        whole = torch.is_grad_enabled() or self.training or torch.compiler.is_compiling() or torch.jit.is_tracing()
        parts = [pixel_values] if whole or not pixel_values.is_cpu else pixel_values.split(CPU_BATCH_SIZE)
        return torch.cat([self._features(part) for part in parts])

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
        """Freeze these blocks, named as the children of the network, and unfreeze the others.

        With `batch_norms`, the batch norms of the other blocks keep their statistics too, but train their scales.
        """
        self.frozen_blocks, self.frozen_batch_norms = blocks, batch_norms
        self.backbone.requires_grad_(not blocks)
        for name, block in self.backbone.named_children():
            block.requires_grad_(name not in blocks)

    def train(self, mode=True):
        """Keep frozen blocks in evaluation mode, so that their batch norm statistics do not change either."""
        super().train(mode)
        for name in self.frozen_blocks:
            getattr(self.backbone, name).eval()
        if self.frozen_batch_norms:
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


RNNS = {"gru": nn.GRU, "lstm": nn.LSTM}
# Options of `generate` for models with a key-value cache or a text as input, and the values that turn them off.
UNSUPPORTED = {"guidance_scale": 1, "prefill_chunk_size": None, "prompt_lookup_num_tokens": None}
# The cache argument of `generate`, which transformers 5.24 renamed.
CACHE_NAME = "cache" if "cache" in Seq2SeqLMOutput.__dataclass_fields__ else "past_key_values"


class RnnCache(Cache):
    """Cache of the RNN states for `generate`; its size does not depend on the length of the caption.

    `states` maps the name of each RNN to its state tensors (one for a GRU, two for an LSTM) with the batch first:
    (batch, layers, hidden).
    """

    def __init__(self):
        super().__init__(layers=[])
        self.states, self.words = {}, 0

    def get_seq_length(self, layer_idx=0):
        return self.words

    def reorder_cache(self, beam_idx):
        self._map(lambda state: state.index_select(0, beam_idx.to(state.device)))

    def batch_repeat_interleave(self, repeats):
        self._map(lambda state: state.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices):
        self._map(lambda state: state[indices])

    def _map(self, function):
        self.states = {rnn: tuple(map(function, state)) for rnn, state in self.states.items()}


class CaptionerDecoder(nn.Module):
    """Reads the preceding words, attends to the regions, and scores every word of the vocabulary as the next one."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        hidden, rnn = config.hidden_size, RNNS[config.rnn_type]
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size)
        self.first_state = Linear(hidden, config.num_layers * hidden)
        self.first_rnn = rnn(config.embedding_size, hidden, config.num_layers, batch_first=True)
        self.attention = ATTENTIONS[config.attention_type](config)
        self.second_rnn = rnn(2 * hidden, hidden, batch_first=True)
        self.narrow = Linear(hidden, config.embedding_size)
        # Tied to the embedding and to output_bias: without memory of its own, and without random draws.
        self.output = Linear(config.embedding_size, config.vocab_size, device="meta")
        self.output_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids, regions, cache, scored=None):
        """Score the word after each of `ids`.

        Args:
            ids: input words, (batch, words), int64.
            regions: (photos, regions, hidden); each photo has the same number of captions, in consecutive `ids`.
            cache: an [`RnnCache`], which is updated in place.
            scored: the positions to score, (batch, words), bool; by default all. Words after the last one are not read.

        Returns logits (batch, words, vocabulary), or (scored, vocabulary), and attention weights (batch, heads, words,
        regions).
        """
        if not cache.states:
            refresh(self)
            cache.states = self._initial_states(regions, captions_per_photo=len(ids) // len(regions))
        lengths = (
            None if scored is None else (scored * torch.arange(1, ids.shape[1] + 1, device=ids.device)).amax(dim=1)
        )
        words = self.dropout(self.embedding(self._drop_words(ids)))  # (batch, words, embedding)
        states = self._run(self.first_rnn, "first", words, cache, lengths)  # (batch, words, hidden)
        context, weights = self._attend(states, self.dropout(regions))
        states = self._run(self.second_rnn, "second", torch.cat([states, context], dim=-1), cache, lengths)
        cache.words += ids.shape[1]
        states = states if scored is None else states[scored]
        # Tied to the embedding (Press & Wolf 2017); this product is much of a generation step, hence the narrow input.
        return self.output(self.narrow(self.dropout(states))), weights

    def _initial_states(self, regions, captions_per_photo):
        """Initialize the first RNN from the mean region (Xu et al. 2015, section 3.1.2), the rest with zeros."""
        first = self.first_state(regions.mean(dim=1)).tanh().unflatten(1, (self.config.num_layers, -1))
        first = first.repeat_interleave(captions_per_photo, dim=0)  # (batch, layers, hidden)
        second = torch.zeros_like(first[:, :1])
        if self.config.rnn_type == "gru":
            return {"first": (first,), "second": (second,)}
        return {"first": (first, torch.zeros_like(first)), "second": (second, second)}

    def _drop_words(self, ids):
        if not self.training or not self.config.word_dropout:
            return ids
        dropped = torch.rand(ids.shape, device=ids.device) < self.config.word_dropout
        return ids.masked_fill(dropped & (ids != self.config.bos_token_id), self.config.unk_token_id)

    def _attend(self, states, regions):
        """Attend with all captions of a photo together, so that the regions are not copied for each caption."""
        photos, words = regions.shape[0], states.shape[1]  # not len(), which an export records as a constant
        context, weights = self.attention(states.reshape(photos, -1, states.shape[-1]), regions)
        return context.reshape(states.shape), weights.unflatten(2, (-1, words)).transpose(1, 2).flatten(0, 1)

    @staticmethod
    def _run(rnn, name, inputs, cache, lengths=None):
        """Run an RNN from its cached state. PyTorch expects the layers first, beam search the batch."""
        state = tuple(tensor.transpose(0, 1).contiguous() for tensor in cache.states[name])
        if inputs.shape[1] == 1 and can_step(rnn, inputs):
            outputs, state = step(rnn, inputs.squeeze(1), state)
            outputs = outputs.unsqueeze(1)
        else:
            state = state if len(state) > 1 else state[0]  # a pair for an LSTM
            if lengths is None:
                outputs, state = rnn(inputs, state)
            else:  # a third of a batch is padding
                packed = pack_padded_sequence(
                    inputs, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
                )
                outputs, state = rnn(packed, state)
                outputs, _ = pad_packed_sequence(outputs, batch_first=True, total_length=inputs.shape[1])
            state = state if isinstance(state, tuple) else (state,)
        cache.states[name] = tuple(tensor.transpose(0, 1) for tensor in state)
        return outputs


class CaptionerForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """Image captioning model: [`CaptionerEncoder`], [`CaptionerDecoder`] and the inherited `generate`."""

    config_class = CaptionerConfig
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    _is_stateful = True  # an RNN cannot go back to a prefix, as assisted generation would
    _tied_weights_keys = {
        "decoder.output.weight": "decoder.embedding.weight",
        r"decoder.output\.bias": "decoder.output_bias",  # keys are patterns: a plain dot would match output_bias itself
    }
    _no_split_modules = ["CaptionerEncoder", "CaptionerDecoder"]

    def __init__(self, config):
        super().__init__(config)
        self.encoder = CaptionerEncoder(config)
        self.decoder = CaptionerDecoder(config)
        self.post_init()

    def forward(
        self,
        pixel_values=None,
        decoder_input_ids=None,
        labels=None,
        encoder_outputs=None,
        region_features=None,
        cache=None,
        past_key_values=None,
        use_cache=None,
        output_attentions=None,
        return_dict=None,
        **kwargs,
    ):
        """Compute the logits of captions, and their loss if `labels` are given.

        Args:
            pixel_values: photos, (batch, 3, size, size), float, normalized by the processor.
            decoder_input_ids: input words, (batch, words), int64; by default derived from `labels`.
            labels: target words, (batch, words), int64; -100 is ignored. If there are more captions than photos, each
                photo has the same number of captions, in consecutive rows.
            encoder_outputs: projected regions as returned by the encoder, instead of `pixel_values`.
            region_features: encoder features before the projection, (batch, regions, channels), instead of
                `pixel_values`; used to train on cached features of a frozen encoder.
            cache: the [`RnnCache`] of the preceding words; named `past_key_values` before transformers 5.24.

        Returns a `Seq2SeqLMOutput`: `loss` (mean cross-entropy per word, in nats, with label smoothing), `logits`
        (batch, words, vocabulary; in training 0 where `labels` are -100), `cache` (or `past_key_values`), and with
        `output_attentions=True` `cross_attentions`, a tuple of one tensor (batch, heads, words, regions). Raises
        `ValueError` if photos or words are missing.
        """
        if encoder_outputs is None:
            if (pixel_values is None) == (region_features is None):
                raise ValueError("Pass exactly one of pixel_values, region_features and encoder_outputs.")
            features = self.encoder.features(pixel_values) if region_features is None else region_features
            encoder_outputs = BaseModelOutput(last_hidden_state=self.encoder.project(features))
        if decoder_input_ids is None:
            if labels is None:
                raise ValueError("Pass decoder_input_ids or labels; to caption a photo, use generate.")
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        cache = past_key_values if cache is None else cache
        cache = RnnCache() if cache is None else cache  # not `or`: an empty cache is falsy
        regions = encoder_outputs[0]
        if len(decoder_input_ids) % len(regions):
            raise ValueError(
                f"{len(decoder_input_ids)} captions do not divide evenly among {len(regions)} photos; pass the same"
                " number of captions for each."
            )
        scored = labels != -100 if labels is not None and self.training else None
        logits, weights = self.decoder(decoder_input_ids, regions, cache, scored)
        loss = None if labels is None else self._loss(logits, labels if scored is None else labels[scored])
        if scored is not None:
            logits = logits.new_zeros(*labels.shape, logits.shape[-1]).masked_scatter(scored.unsqueeze(-1), logits)
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        output = Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            cross_attentions=(weights,) if output_attentions else None,
            encoder_last_hidden_state=regions,
            **{CACHE_NAME: cache if use_cache is not False else None},
        )
        return output if return_dict is not False else output.to_tuple()

    def _loss(self, logits, labels):
        smoothing = self.config.label_smoothing if self.training else 0.0
        return F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), label_smoothing=smoothing)

    def prepare_decoder_input_ids_from_labels(self, labels):
        """Shift `labels` to the right and prepend `<start>`."""
        ids = labels.roll(1, dims=1).masked_fill(labels.roll(1, dims=1) == -100, self.config.pad_token_id)
        ids[:, 0] = self.config.decoder_start_token_id
        return ids

    def _validate_generation_mode(self, generation_mode, generation_config, generation_mode_kwargs):
        """Also refuse what an RNN over a photo cannot do, in one sentence."""
        for option, neutral in UNSUPPORTED.items():
            if (value := getattr(generation_config, option, None)) not in (None, neutral):
                raise ValueError(f"{option}={value!r} does not work with a captioner; leave it out.")
        super()._validate_generation_mode(generation_mode, generation_config, generation_mode_kwargs)

    def _expand_inputs_for_generation(self, expand_size=1, input_ids=None, **kwargs):
        """Expand only the words: all captions of a photo share its regions."""
        return input_ids.repeat_interleave(expand_size, dim=0), kwargs

    def save_pretrained(self, save_directory, **kwargs):
        """Also write every Auto class to `config.json`; transformers writes only the last one registered."""
        captioner = "modeling_captioner.CaptionerForConditionalGeneration"
        self.config.auto_map = {
            "AutoModel": captioner,
            "AutoModelForImageTextToText": captioner,
            "AutoProcessor": "processing_captioner.CaptionerProcessor",
        }
        super().save_pretrained(save_directory, **kwargs)

    def get_encoder(self, modality=None):
        return self.encoder

    def get_input_embeddings(self):
        return self.decoder.embedding

    def set_input_embeddings(self, value):
        self.decoder.embedding = value

    def get_output_embeddings(self):
        return self.decoder.output

    def set_output_embeddings(self, new_embeddings):
        self.decoder.output, self.decoder.output_bias = new_embeddings, new_embeddings.bias

    @classmethod
    def _supports_default_dynamic_cache(cls):
        """`generate` must not create a key-value cache; `forward` creates an [`RnnCache`]."""
        return False

    def _init_weights(self, module):
        """PyTorch's default initialization, but smaller for the embedding, which is also the output weight."""
        tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        if all(tensor.is_meta or getattr(tensor, "_is_hf_initialized", False) for tensor in tensors):
            return  # loaded, or left on disk; a batch norm would reset the statistics of an offloaded encoder
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.embedding_size**-0.5)
        elif hasattr(module, "reset_parameters"):
            module.reset_parameters()
        elif isinstance(module, CaptionerDecoder):
            nn.init.zeros_(module.output_bias)


CaptionerForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")
