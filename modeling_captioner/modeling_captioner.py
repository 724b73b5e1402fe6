"""The captioner, in the order of the data: regions of the photo, attention, decoder, the whole.

A photo becomes 64 regions (Inception-v3's last feature map), an RNN reads the words so far, attention scores every
region against the RNN's hidden state and mixes the regions into one vector, and a second RNN says the next word. The
attention asks with the first RNN's state and feeds nothing back into it, so a whole caption is one call in training.
After "Show, Attend and Tell" (Xu et al. 2015) and the two RNNs of "Bottom-Up and Top-Down Attention" (Anderson et al.
2018).
"""

import math

import timm
import torch
from torch import nn
from torch.nn import functional as F
from transformers import Cache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from .configuration_captioner import CaptionerConfig
from .inference import Linear, fold_batch_norms, linear, step


class CaptionerEncoder(nn.Module):
    """From a photo to its regions: a timm network without its classifier, and a projection.

    Any timm architecture that keeps the photo's layout will do: maps with channels first (Inception, ResNet, ConvNeXt)
    or last (Swin), or tokens (ViT).
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
        self.projection = nn.Linear(self.backbone.num_features, config.hidden_size)

    def forward(self, pixel_values, **kwargs):
        """`pixel_values` (batch, 3, size, size), normalised. Returns the projected regions (batch, regions, hidden)."""
        return BaseModelOutput(last_hidden_state=self.project(self.features(pixel_values)))

    def features(self, pixel_values):
        """The network's last feature map, row by row: (batch, regions, channels)."""
        # Channels last is a third faster on CPUs, and what tensor cores want.
        maps = self.backbone.forward_features(pixel_values.contiguous(memory_format=torch.channels_last))
        if maps.ndim == 3:
            return maps[:, getattr(self.backbone, "num_prefix_tokens", 0) :]
        if getattr(self.backbone, "output_fmt", "NCHW") == "NHWC":
            return maps.flatten(1, 2)
        return maps.flatten(2).transpose(1, 2)

    def project(self, features):
        """(batch, regions, channels) to (batch, regions, hidden)."""
        return self.projection(self.norm(features))

    def freeze(self, blocks, batch_norms=False):
        """Keep these blocks (names of the network's children) as they are in training.

        With `batch_norms` those of the other blocks keep their statistics too, while their scales are trained.
        """
        self.frozen_blocks, self.frozen_batch_norms = blocks, batch_norms
        self.backbone.requires_grad_(not blocks)
        for name, block in self.backbone.named_children():
            block.requires_grad_(name not in blocks)

    def train(self, mode=True):
        """Frozen blocks stay in evaluation mode, so that their batch norms' statistics do not move either."""
        super().train(mode)
        for name in self.frozen_blocks:
            getattr(self.backbone, name).eval()
        if self.frozen_batch_norms:
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


class DotAttention(nn.Module):
    """Scaled dot product of each word's state with each region (Luong et al. 2015, eq. 8; Vaswani et al. 2017, eq. 1).

    Shapes, here and below: `states` (batch, words, hidden), `regions` (batch, regions, hidden). Returns the context
    (batch, words, hidden) and the weights (batch, heads, words, regions), which sum to 1 over the regions. Each word
    asks for itself, so the words may be those of all captions of a photo.
    """

    def __init__(self, config):
        super().__init__()
        self.query = Linear(config.hidden_size, config.hidden_size)

    def forward(self, states, regions):
        scores = self.query(states) @ regions.transpose(1, 2) / math.sqrt(regions.shape[-1])  # (batch, words, regions)
        weights = scores.softmax(dim=-1)
        return weights @ regions, weights.unsqueeze(1)


class AdditiveAttention(nn.Module):
    """A small network scores each pair of state and region (Bahdanau et al. 2015, appendix A.1.2; Xu et al. 2015)."""

    def __init__(self, config):
        super().__init__()
        self.query = Linear(config.hidden_size, config.hidden_size)
        self.score = nn.Linear(config.hidden_size, 1, bias=False)

    def forward(self, states, regions):
        pairs = self.query(states).unsqueeze(2) + regions.unsqueeze(1)  # (batch, words, regions, hidden)
        weights = self.score(pairs.tanh()).squeeze(-1).softmax(dim=-1)  # (batch, words, regions)
        return weights @ regions, weights.unsqueeze(1)


class MultiHeadAttention(nn.Module):
    """Several dot products, each over its own part of the regions' channels (Vaswani et al. 2017, section 3.2.2).

    The regions come projected, once per photo, so that a step of generation projects only the query.
    """

    def __init__(self, config):
        super().__init__()
        self.heads = config.num_attention_heads
        self.query = Linear(config.hidden_size, config.hidden_size)
        self.output = Linear(config.hidden_size, config.hidden_size)

    def forward(self, states, regions):
        query, parts = self._split(self.query(states)), self._split(regions)  # (batch, heads, words | regions, part)
        weights = (query @ parts.transpose(2, 3) / math.sqrt(parts.shape[-1])).softmax(dim=-1)
        return self.output((weights @ parts).transpose(1, 2).flatten(2)), weights

    def _split(self, vectors):
        return vectors.unflatten(-1, (self.heads, -1)).transpose(1, 2)


ATTENTIONS = {"dot": DotAttention, "additive": AdditiveAttention, "multi_head": MultiHeadAttention}
RNNS = {"gru": nn.GRU, "lstm": nn.LSTM}
# What `generate` calls the memory of the words before: transformers renamed it in version 5.24.
CACHE_NAME = "cache" if "cache" in Seq2SeqLMOutput.__dataclass_fields__ else "past_key_values"


class RnnCache(Cache):
    """The RNNs' states after the words so far, for `generate`: an RNN's memory has one size however long the caption.

    `states` holds, for each RNN, its tensors (one of a GRU, two of an LSTM) with the batch first: (batch, layers,
    hidden).
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
    """Reads the words so far, looks at the regions, and scores every word of the vocabulary as the next one."""

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
        self.output_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids, regions, cache):
        """Score the word after each of `ids`.

        Args:
            ids: the words that are read, (batch, words), int64.
            regions: (photos, regions, hidden); the photos' captions in `ids` lie one after the other, as many of each.
            cache: an [`RnnCache`], which is read and brought up to date.

        Returns logits (batch, words, vocabulary) and attention weights (batch, heads, words, regions).
        """
        if not cache.states:
            cache.states["first"] = self._start(regions, captions_per_photo=len(ids) // len(regions))
        words = self.dropout(self.embedding(self._drop_words(ids)))  # (batch, words, embedding)
        states = self._run(self.first_rnn, "first", words, cache)  # (batch, words, hidden)
        context, weights = self._attend(states, self.dropout(regions))
        states = self._run(self.second_rnn, "second", torch.cat([states, context], dim=-1), cache)
        cache.words += ids.shape[1]
        # The output's weights are the embedding's (Press & Wolf 2017): a narrow product is much of a step's time.
        logits = linear(self.narrow(self.dropout(states)), self.embedding.weight, self.output_bias)
        return logits, weights

    def _start(self, regions, captions_per_photo):
        """The first RNN begins from the mean region: a glance at the whole photo (Xu et al. 2015, section 3.1.2)."""
        state = self.first_state(regions.mean(dim=1)).tanh().unflatten(1, (self.config.num_layers, -1))
        state = state.repeat_interleave(captions_per_photo, dim=0)  # (batch, layers, hidden)
        return (state,) if self.config.rnn_type == "gru" else (state, torch.zeros_like(state))

    def _drop_words(self, ids):
        if not self.training or not self.config.word_dropout:
            return ids
        dropped = torch.rand(ids.shape, device=ids.device) < self.config.word_dropout
        return ids.masked_fill(dropped & (ids != self.config.bos_token_id), self.config.unk_token_id)

    def _attend(self, states, regions):
        """The words of all captions of a photo ask together, so that no caption needs a copy of the regions."""
        photos, words = regions.shape[0], states.shape[1]  # not len(), which an export would take for a constant
        context, weights = self.attention(states.reshape(photos, -1, states.shape[-1]), regions)
        return context.reshape(states.shape), weights.unflatten(2, (-1, words)).transpose(1, 2).flatten(0, 1)

    @staticmethod
    def _run(rnn, name, inputs, cache):
        """Run an RNN on from the cached state. PyTorch wants the layers first, beam search the batch."""
        state = tuple(tensor.transpose(0, 1).contiguous() for tensor in cache.states.get(name, ()))
        if cache.words and inputs.shape[1] == 1:  # a step of generation
            outputs, state = step(rnn, inputs.squeeze(1), state)
            outputs = outputs.unsqueeze(1)
        else:
            # A GRU's state is a tensor, an LSTM's a pair, a missing one zeros.
            outputs, state = rnn(inputs, state if len(state) > 1 else state[0] if state else None)
            state = state if isinstance(state, tuple) else (state,)
        cache.states[name] = tuple(tensor.transpose(0, 1) for tensor in state)
        return outputs


class CaptionerForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """The whole captioner: [`CaptionerEncoder`], [`CaptionerDecoder`], and the inherited `generate`."""

    config_class = CaptionerConfig
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
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
        """Score captions of photos.

        Args:
            pixel_values: photos, (batch, 3, size, size), float, normalised as the processor does.
            decoder_input_ids: the words that are read, (batch, words), int64; from `labels` if absent.
            labels: the words that should be said, (batch, words), int64; -100 is not counted. Where there are more
                captions than photos, each photo has the same number of them, one after the other.
            encoder_outputs: projected regions in place of photos, as the encoder gives them.
            region_features: the encoder network's features in place of photos, (batch, regions, channels): what
                training keeps of a frozen encoder.
            cache: the [`RnnCache`] of the words before; `past_key_values` to transformers before 5.24.

        Returns a `Seq2SeqLMOutput`: `loss` (mean cross-entropy a word, in nats, with label smoothing), `logits`
        (batch, words, vocabulary), `cache` (or `past_key_values`), and with `output_attentions` `cross_attentions`, a
        tuple of one tensor (batch, heads, words, regions). Raises `ValueError` without a photo or without words.
        """
        if encoder_outputs is None:
            if (pixel_values is None) == (region_features is None):
                raise ValueError("Give the captioner exactly one of pixel_values, region_features, encoder_outputs.")
            features = self.encoder.features(pixel_values) if region_features is None else region_features
            encoder_outputs = BaseModelOutput(last_hidden_state=self.encoder.project(features))
        if decoder_input_ids is None:
            if labels is None:
                raise ValueError("Give the captioner decoder_input_ids or labels; to caption a photo, use generate.")
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        given = past_key_values if cache is None else cache
        cache = RnnCache() if given is None else given  # an empty cache counts as false
        regions = encoder_outputs[0]
        if len(decoder_input_ids) % len(regions):
            raise ValueError(f"{len(decoder_input_ids)} captions for {len(regions)} photos: not a multiple.")
        logits, weights = self.decoder(decoder_input_ids, regions, cache)
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        output = Seq2SeqLMOutput(
            loss=None if labels is None else self._loss(logits, labels),
            logits=logits,
            cross_attentions=(weights,) if output_attentions else None,
            encoder_last_hidden_state=regions,
            **{CACHE_NAME: cache if use_cache is not False else None},
        )
        return output if return_dict is not False else output.to_tuple()

    def _loss(self, logits, labels):
        smoothing = self.config.label_smoothing if self.training else 0.0
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), label_smoothing=smoothing)

    def prepare_decoder_input_ids_from_labels(self, labels):
        """`<start>` and all labels but the last: each word is predicted from those before it."""
        ids = labels.roll(1, dims=1).masked_fill(labels.roll(1, dims=1) == -100, self.config.pad_token_id)
        ids[:, 0] = self.config.decoder_start_token_id
        return ids

    def _expand_inputs_for_generation(self, expand_size=1, input_ids=None, **kwargs):
        """Beams repeat the words alone: a photo's regions serve all its captions."""
        return input_ids.repeat_interleave(expand_size, dim=0), kwargs

    def save_pretrained(self, save_directory, **kwargs):
        """As inherited, but `config.json` names every Auto class: transformers writes only the last one registered."""
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

    @classmethod
    def _supports_default_dynamic_cache(cls):
        """`generate` must not make a cache of keys and values: `forward` makes one of RNN states."""
        return False

    def _init_weights(self, module):
        """PyTorch's own initialisation; the embedding narrower, because it is the output's weight as well."""
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.embedding_size**-0.5)
        elif hasattr(module, "reset_parameters"):
            module.reset_parameters()
        elif isinstance(module, CaptionerDecoder):
            nn.init.zeros_(module.output_bias)


CaptionerForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")
