"""What a run begins with: processes, and a captioner that is new or loaded."""

import dataclasses
import sys
from datetime import timedelta

import torch
from accelerate import Accelerator, DataLoaderConfiguration, PartialState
from accelerate.utils import InitProcessGroupKwargs, parse_flag_from_env
from transformers import GenerationConfig, ViTImageProcessorPil

from captioning import loading
from modeling_captioner import CaptionerConfig, CaptionerForConditionalGeneration, CaptionerProcessor
from modeling_captioner.cores import usable_cores

from .data import (
    StreamedPhotos,
    captioned_datasets,
    captions_of,
    label_texts,
    labeled_dataset,
    make_tokenizer,
    read_captions,
    sources,
    start_token,
)
from .decoders import load_decoder_weights
from .encoders import load_encoder_weights, read_encoder_weights
from .options import read_recipe
from .settings import Settings
from .words import describe_words

# Settings that are also options of the model's configuration.
MODEL_OPTIONS = [
    field.name for field in dataclasses.fields(Settings) if field.name in CaptionerConfig.__dataclass_fields__
]
TRAINING_OPTIONS = ["dropout", "word_dropout", "label_smoothing"]  # can be changed when loading a trained model
CONJUNCTIONS = {"and", "et", "und", "và"}  # "and" in languages that captions are published in
PROCESS_TIMEOUT = timedelta(hours=12)  # processes wait for the main one, which may be checking all photos
SHARDING = {"FSDP": "FSDP", "DEEPSPEED": "DeepSpeed", "MEGATRON_LM": "Megatron-LM"}  # set by `accelerate launch`
BF16_INSTRUCTIONS = ["avx512_bf16", "amx_bf16", "bf16"]  # of x86 and ARM, in `torch.cpu.get_capabilities`


def make_accelerator(settings):
    """The `Accelerator` of a run. Raises `ValueError` if it is configured to shard the model."""
    check_launcher()
    accelerator = Accelerator(
        mixed_precision=settings.mixed_precision,
        # Each process reads a stream itself and keeps its own batches, because batches contain more than tensors.
        dataloader_config=DataLoaderConfiguration(
            use_seedable_sampler=True, data_seed=settings.seed, dispatch_batches=False
        ),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PROCESS_TIMEOUT)],
        step_scheduler_with_optimizer=False,
        log_with=settings.report_to,
        project_dir=settings.output_dir,
    )
    if settings.report_to:
        accelerator.init_trackers("captioner")
    if accelerator.device.type == "cpu":
        print_cpu_hints(accelerator)
    return accelerator


def check_launcher():
    """Raises `ValueError` if Accelerate is configured to shard the model: its processes would train apart."""
    for variable, name in SHARDING.items():
        if parse_flag_from_env(f"ACCELERATE_USE_{variable}"):
            raise ValueError(
                f"Accelerate is configured for {name}, which is for models that do not fit on one device; a captioner"
                f" does. Choose multi-GPU without {name} in `accelerate config`."
            )


def print_cpu_hints(accelerator):
    """Print which options would speed up training on this CPU."""
    threads, cores = torch.get_num_threads(), usable_cores() // accelerator.num_processes
    if threads < cores:
        hint = f"pass --num_cpu_threads_per_process {cores} to `accelerate launch` to use all of them"
        accelerator.print(f"Each process uses {threads} of {cores} cores; {hint}.", file=sys.stderr)
    capabilities = torch.cpu.get_capabilities()
    if accelerator.mixed_precision == "bf16" and not any(map(capabilities.get, BF16_INSTRUCTIONS)):
        hint = "pass --mixed_precision no, which is faster here"
        accelerator.print(f"This CPU has no instructions for bfloat16; {hint}.", file=sys.stderr)


def prepare_captioner(settings, source):
    """Load the captioner to train from `source`, or create a new one if that is None. Returns it and its processor."""
    if not source:
        return new_captioner(settings)
    return load_captioner(source, **{option: getattr(settings, option) for option in TRAINING_OPTIONS})


def load_captioner(source, **options):
    """Load a captioner for training. `options` override its configuration."""
    captioner, processor = loading.load_captioner(str(source), "cpu", "float32", **options)
    # Loaded tensors keep the alignment of their file, which may round sums differently from a new captioner's tensors.
    for tensor in (*captioner.parameters(), *captioner.buffers()):
        tensor.data = tensor.data.clone()
    return captioner, processor


def new_captioner(settings):
    """Create a captioner with random decoder weights, and its processor with the vocabulary of the training texts.

    What may be missing or wrong comes first: reading all texts takes a while.
    """
    config = CaptionerConfig(**{option: getattr(settings, option) for option in MODEL_OPTIONS if option != "languages"})
    config.languages = settings.languages or list(dict.fromkeys(settings.data_languages)) or None
    tensors = None
    if settings.encoder_weights:
        tensors = read_encoder_weights(config.encoder_name, settings.encoder_weights, _asked_by(settings))
    languages = config.languages or []
    tokenizer = make_tokenizer(vocabulary_texts(settings, languages), settings.min_word_count, languages)
    words = describe_words(" ".join(tokenizer.get_vocab()))
    PartialState().print(f"The vocabulary: {len(tokenizer)} {words}; captions are scored in {words}, too.")
    size = {"height": settings.image_size, "width": settings.image_size}
    images = ViTImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_convert_rgb=True)
    config.vocab_size = len(tokenizer)
    captioner = CaptionerForConditionalGeneration(config)
    starts = [start_token(tokenizer, language) for language in languages or [None]]
    captioner.generation_config = GenerationConfig(
        decoder_start_token_id=config.decoder_start_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        suppress_tokens=[config.pad_token_id, config.unk_token_id, *starts],
        num_beams=settings.num_beams,
        max_new_tokens=settings.max_new_tokens,
        min_new_tokens=settings.min_new_tokens,
        no_repeat_ngram_size=3,
        conjunction_token_ids=sorted(id for word, id in tokenizer.get_vocab().items() if word in CONJUNCTIONS),
    )
    if languages:
        captioner.generation_config.languages = {
            language: {"decoder_start_token_id": start} for language, start in zip(languages, starts, strict=True)
        }
    if tensors:
        load_encoder_weights(captioner.encoder, tensors, config.encoder_name, settings.encoder_weights)
    if settings.decoder_weights:
        known = load_decoder_weights(captioner, tokenizer, settings.decoder_weights)
        PartialState().print(f"{known} of them start from the decoder of {settings.decoder_weights}.")
    return captioner, CaptionerProcessor(images, tokenizer, config.languages)


def _asked_by(settings):
    """Whether the recipe or the command line wants the encoder weights."""
    recipe = read_recipe(settings.recipe) if settings.recipe else {}
    wanted = {options.get("encoder_weights") for options in (recipe, *(recipe.get("stages") or []))}
    return f"the recipe {settings.recipe!r}" if settings.encoder_weights in wanted else "--encoder_weights"


def vocabulary_texts(settings, languages):
    """Yield the texts of the vocabulary: training captions, further ones of `captions_file`, and labels.

    Labels and the frames of their names are repeated `min_word_count` times, so that their words enter the vocabulary.
    """
    seen = set()
    for _, text in _training_captions(settings, languages):
        seen.add(text)
        yield text
    if settings.captions_file:
        yield from (text for _, text in read_captions(settings.captions_file, languages) if text not in seen)
    if settings.labeled_photos:
        labels = sorted(set(labeled_dataset(settings.labeled_photos)["label"]))
        language = settings.labeled_language or (languages or ["en"])[0]
        yield from label_texts(labels, language) * settings.min_word_count


def _training_captions(settings, languages):
    if not settings.streaming:
        sets = captioned_datasets(settings, ["train"], photos=False, languages=languages)
        yield from (pair for splits in sets.values() for pair in captions_of(splits["train"]))
        return
    for source in sources(settings):
        for row in StreamedPhotos(source, settings, "train", languages):
            yield from zip(row["languages"], row["captions"], strict=True)
