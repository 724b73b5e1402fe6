"""The captioner model: the decoder and the whole; the encoder is in `encoder.py`, the attention in `attention.py`.

A photo is encoded as 64 regions (the last feature map of Inception-v3). A first RNN reads the preceding words,
attention scores every region against its hidden state and pools the regions into one context vector, and a second RNN
predicts the next word. The context is not fed back into the first RNN, so training runs a whole caption in one call.
Based on "Show, Attend and Tell" (Xu et al. 2015) and the two RNNs of "Bottom-Up and Top-Down Attention" (Anderson et
al. 2018).
"""

import copy
import re
import shutil
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import Cache, GenerationMixin, LogitsProcessorList, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.processing_utils import Unpack
from transformers.utils.generic import TransformersKwargs, can_return_tuple

from .attention import ATTENTIONS
from .checks import check_arguments, check_generation
from .configuration_captioner import CaptionerConfig
from .encoder import CaptionerEncoder
from .inference import fold_batch_norms
from .languages import language_settings
from .logits_process import EchoLogitsProcessor

RNNS = {"gru": nn.GRU, "lstm": nn.LSTM}
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
        self.first_state = nn.Linear(hidden, config.num_layers * hidden)
        self.first_rnn = rnn(config.embedding_size, hidden, config.num_layers, batch_first=True)
        self.attention = ATTENTIONS[config.attention_type](config)
        self.second_rnn = rnn(2 * hidden, hidden, batch_first=True)
        self.output_projection = nn.Linear(hidden, config.embedding_size)
        # Tied to the embedding and to output_bias: without memory of its own, and without random draws.
        self.output = nn.Linear(config.embedding_size, config.vocab_size, device="meta")
        self.output_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.dropout = nn.Dropout(config.dropout)
        self.register_load_state_dict_pre_hook(_rename_older_weights)

    def forward(self, ids, regions, cache, target_mask=None):
        """Score the word after each of `ids`.

        Args:
            ids: input words, (batch, words), int64.
            regions: (photos, regions, hidden); each photo has the same number of captions, in consecutive `ids`.
            cache: an [`RnnCache`], which is updated in place.
            target_mask: the positions to score, (batch, words), bool; by default all. Words after the last one of a row
                are not read.

        Returns logits (batch, words, vocabulary), or (targets, vocabulary); attention weights (batch, heads, words,
        regions); and the states of the first and of the second RNN, each (batch, words, hidden).
        """
        if not cache.states:
            cache.states = self.initial_states(regions, captions_per_photo=len(ids) // len(regions))
        lengths = None if target_mask is None else self._lengths(target_mask)
        words = self.dropout(self.embedding(self._drop_words(ids)))  # (batch, words, embedding)
        first = self._run(self.first_rnn, "first", words, cache, lengths)  # (batch, words, hidden)
        context, weights = self._attend(first, self.dropout(regions))
        second = self._run(self.second_rnn, "second", torch.cat([first, context], dim=-1), cache, lengths)
        cache.words += ids.shape[1]
        targets = second if target_mask is None else second[target_mask]
        # Tied to the embedding (Press & Wolf 2017); this product is much of a generation step, hence the projection.
        return self.output(self.output_projection(self.dropout(targets))), weights, (first, second)

    @staticmethod
    def _lengths(target_mask):
        """The number of words of each row to read, up to its last target: a third of a batch is padding.

        At least 1, also for a row without targets, because PyTorch packs no empty sequences. On the CPU, as it wants.
        """
        positions = torch.arange(1, target_mask.shape[1] + 1, device=target_mask.device)
        return (target_mask * positions).amax(dim=1).clamp(min=1).cpu()

    def initial_states(self, regions, captions_per_photo):
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
        dropped[:, 0] = False  # the start, which says the language
        return ids.masked_fill(dropped, self.config.unk_token_id)

    def _attend(self, states, regions):
        """Attend with all captions of a photo together, so that the regions are not copied for each caption."""
        photos, words = regions.shape[0], states.shape[1]  # not len(), which an export records as a constant
        context, weights = self.attention(states.reshape(photos, -1, states.shape[-1]), regions)
        return context.reshape(states.shape), weights.unflatten(2, (-1, words)).transpose(1, 2).flatten(0, 1)

    @staticmethod
    def _run(rnn, name, inputs, cache, lengths=None):
        """Run an RNN from its cached state. PyTorch expects the layers first, beam search the batch."""
        state = tuple(tensor.transpose(0, 1).contiguous() for tensor in cache.states[name])
        state = state if len(state) > 1 else state[0]  # a pair for an LSTM
        if lengths is None:
            outputs, state = rnn(inputs, state)
        else:
            packed = pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
            outputs, state = rnn(packed, state)
            outputs, _ = pad_packed_sequence(outputs, batch_first=True, total_length=inputs.shape[1])
        state = state if isinstance(state, tuple) else (state,)
        cache.states[name] = tuple(tensor.transpose(0, 1) for tensor in state)
        return outputs


RENAMED = {"decoder.narrow.": "decoder.output_projection."}  # weights, as older captioners name them


def _rename_older_weights(decoder, state_dict, prefix, *_):
    """Let `load_state_dict` read weights under older names, as `from_pretrained` does."""
    for old, new in RENAMED.items():
        old, new = (prefix + name.removeprefix("decoder.") for name in (old, new))
        for key in [key for key in state_dict if key.startswith(old)]:
            state_dict[new + key.removeprefix(old)] = state_dict.pop(key)


def caption_loss(logits, labels, vocab_size, num_items_in_batch=None, label_smoothing=0.0):
    """Cross-entropy per target word, in nats.

    Args:
        logits: (..., vocabulary).
        labels: (...), int64; -100 is ignored.
        num_items_in_batch: the number of target words of the whole batch, if it is processed in parts whose losses and
            gradients are added up; by default the number in `labels`.
    """
    if num_items_in_batch is None:
        num_items_in_batch = (labels != -100).sum().clamp(min=1)
    elif torch.is_tensor(num_items_in_batch):
        num_items_in_batch = num_items_in_batch.to(logits.device)
    logits, labels = logits.reshape(-1, vocab_size).float(), labels.flatten()
    return F.cross_entropy(logits, labels, reduction="sum", label_smoothing=label_smoothing) / num_items_in_batch


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
        self.loss_function = caption_loss
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.FloatTensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        region_features: torch.FloatTensor | None = None,
        cache: RnnCache | None = None,
        past_key_values: RnnCache | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Seq2SeqLMOutput:
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
            output_attentions: also return `cross_attentions`, a tuple of one tensor (batch, heads, words, regions).
            output_hidden_states: also return `decoder_hidden_states`, the states of the first and of the second RNN,
                each (batch, words, hidden).
            kwargs: `num_items_in_batch`, the number of target words that the loss is divided by; by default those in
                `labels`.

        Returns a `Seq2SeqLMOutput`: `loss` (mean cross-entropy per word, in nats, with label smoothing in training),
        `logits` (batch, words, vocabulary; in training with `labels` only those of the target words, (targets,
        vocabulary)), `encoder_last_hidden_state` (photos, regions, hidden), `cache` (or `past_key_values`), and what
        was asked for. Raises `ValueError` if photos or words are missing or do not fit, and for other arguments.
        """
        num_items_in_batch = kwargs.pop("num_items_in_batch", None)
        if encoder_outputs is None:
            if (pixel_values is None) == (region_features is None):
                raise ValueError("Pass exactly one of pixel_values, region_features and encoder_outputs.")
            features = self.encoder.features(pixel_values) if region_features is None else region_features
            encoder_outputs = BaseModelOutput(last_hidden_state=self.encoder.project(features))
        if decoder_input_ids is None:
            if labels is None:
                raise ValueError("Pass decoder_input_ids or labels; to caption a photo, use generate.")
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        regions = encoder_outputs[0]
        check_arguments(kwargs, decoder_input_ids, labels, regions)
        cache = past_key_values if cache is None else cache
        cache = RnnCache() if cache is None else cache  # not `or`: an empty cache is falsy
        target_mask = labels != -100 if labels is not None and self.training else None
        logits, weights, states = self.decoder(decoder_input_ids, regions, cache, target_mask)
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits,
                labels if target_mask is None else labels[target_mask],
                logits.shape[-1],
                num_items_in_batch=num_items_in_batch,
                label_smoothing=self.config.label_smoothing if self.training else 0.0,
            )
        asked = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        asked = {name: getattr(self.config, name) if value is None else value for name, value in asked.items()}
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            decoder_hidden_states=states if asked["output_hidden_states"] else None,
            cross_attentions=(weights,) if asked["output_attentions"] else None,
            encoder_last_hidden_state=regions,
            **{CACHE_NAME: cache if use_cache is not False else None},
        )

    def prepare_decoder_input_ids_from_labels(self, labels):
        """Shift `labels` to the right and prepend the start of the default language."""
        ids = labels.roll(1, dims=1).masked_fill(labels.roll(1, dims=1) == -100, self.config.pad_token_id)
        ids[:, 0] = self.config.decoder_start_token_id
        return ids

    def generate(self, inputs=None, generation_config=None, logits_processor=None, *args, language=None, **kwargs):
        """As inherited, in a language.

        Args:
            language: one of `config.languages`; its settings, `generation_config.languages[language]`, stand in for
                those of `generation_config` that are not passed. By default that of the `decoder_input_ids`, if they
                begin with the first token of a language, otherwise the first. A batch may mix languages by its
                `decoder_input_ids`.

        Raises `ValueError` for an unknown language and for settings that a captioner cannot follow.
        """
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        ids = kwargs.get("decoder_input_ids")
        settings = language_settings(
            language,
            self.config.languages,
            getattr(self.generation_config, "languages", {}),
            [] if ids is None else ids[:, 0].tolist(),
        )
        if generation_config is None:
            kwargs = settings | kwargs
        elif settings:
            generation_config = copy.deepcopy(generation_config)
            generation_config.update(**settings, defaults_only=True)
        given = {
            name: value
            for name, value in (vars(generation_config) if generation_config else {}).items()
            if value is not None
        }
        given = vars(self.generation_config) | given | kwargs
        check_generation(given)
        processors = LogitsProcessorList(logits_processor or [])
        if conjunctions := given.get("conjunction_token_ids"):
            processors.append(EchoLogitsProcessor(conjunctions))
        kwargs.pop("conjunction_token_ids", None)
        return super().generate(inputs, generation_config, processors, *args, **kwargs)

    def _expand_inputs_for_generation(self, expand_size=1, is_encoder_decoder=True, input_ids=None, **kwargs):
        """Expand only the words: all captions of a photo share its regions, a fifth faster for 16 photos."""
        return input_ids.repeat_interleave(expand_size, dim=0), kwargs

    def optimize_for_inference(self):
        """Switch to evaluation mode and fold the batch norms of the encoder, which is a tenth faster on a CPU.

        The weights must not change until `train()` undoes it. Returns the model.
        """
        fold_batch_norms(self.eval().encoder.backbone)
        return self

    def save_pretrained(self, save_directory, is_main_process=True, **kwargs):
        """Also write the code of this folder, and to `config.json` every Auto class and the pipeline.

        transformers writes only the Auto class that was registered last, and the code of the model alone.
        """
        from .pipeline_captioner import CaptionerPipeline

        captioner = "modeling_captioner.CaptionerForConditionalGeneration"
        self.config.auto_map = {
            "AutoModel": captioner,
            "AutoModelForImageTextToText": captioner,
            "AutoProcessor": "processing_captioner.CaptionerProcessor",
        }
        pipeline = {"impl": f"pipeline_captioner.{CaptionerPipeline.__name__}", "pt": ["AutoModelForImageTextToText"]}
        self.config.custom_pipelines = {"image-text-to-text": pipeline}
        # Not under the older names that `from_pretrained` may have found them under.
        kwargs = {"save_original_format": False} | kwargs
        super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
        here = Path(__file__).parent
        if is_main_process and (here / "handler.py").exists() and here != Path(save_directory).resolve():
            for file in (*here.glob("*.py"), here / "requirements.txt"):
                shutil.copyfile(file, Path(save_directory) / file.name)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As inherited; also reads weights under older names."""
        renamed = {f"^{re.escape(old)}": new for old, new in RENAMED.items()}
        return super().from_pretrained(pretrained_model_name_or_path, *args, **{"key_mapping": renamed} | kwargs)

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
