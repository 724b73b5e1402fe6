"""The trainer's command line: train an image captioner stage by stage, evaluate or publish one."""

import dataclasses
import shlex
import sys
from datetime import timedelta
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator, DataLoaderConfiguration, PartialState
from accelerate.utils import InitProcessGroupKwargs, gather_object, set_seed
from huggingface_hub.errors import StrictDataclassError
from transformers import GenerationConfig, ViTImageProcessorPil

from captioning import loading
from captioning.cores import usable_cores
from captioning.errors import print_error
from modeling_captioner import CaptionerConfig, CaptionerForConditionalGeneration, CaptionerProcessor
from publishing.hub import HubError, open_repository
from publishing.publish import publish

from . import checkpoints
from .calibration import MIN_CAPTIONS, MIN_OUTCOMES, calibrate
from .data import (
    StreamedPhotos,
    captioned_datasets,
    captions_of,
    label_texts,
    labelled_dataset,
    make_tokenizer,
    read_captions,
    sources,
    start_token,
)
from .decoders import load_decoder_weights
from .encoders import check_block, load_encoder_weights, read_encoder_weights
from .evaluation import evaluate_captioner, write_evaluation
from .history import History
from .loop import train
from .options import read_recipe, resolve
from .settings import Settings
from .stages import STAGES
from .stages.captions import Captions
from .words import describe_words

# Settings that are also options of the model's configuration.
MODEL_OPTIONS = [
    field.name for field in dataclasses.fields(Settings) if field.name in CaptionerConfig.__dataclass_fields__
]
TRAINING_OPTIONS = ["dropout", "word_dropout", "label_smoothing"]  # can be changed when loading a trained model
PROCESS_TIMEOUT = timedelta(hours=12)  # processes wait for the main one, which may be checking all photos
BF16_INSTRUCTIONS = ["avx512_bf16", "amx_bf16", "bf16"]  # of x86 and ARM, in `torch.cpu.get_capabilities`
TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}  # names of files need not be Unicode
RESULTS = ["history.jsonl", "checkpoints"]  # in the output folder, of a run that has begun
BEGINNING = """\
Train on COCO:       accelerate launch train/ --recipe coco
On your own photos:  accelerate launch train/ --recipe practice --data_dir PHOTOS_WITH_CAPTIONS
All options:         accelerate launch train/ --help; data, recipes and stages: docs/training.md"""


def main(arguments=None):
    """Run the trainer. A user's mistake prints one line on standard error and exits with status 1."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        PartialState().print(BEGINNING)
        return
    try:
        stages = resolve(arguments)
        if stages[0].push_only:
            push_only(stages[0])
        elif stages[0].evaluate_only:
            evaluate_only(stages[0])
        elif stages[0].calibrate_only:
            calibrate_only(stages[0])
        else:
            run(stages, arguments)
    except (ValueError, OSError, StrictDataclassError) as error:
        print_error(error)
        sys.exit(1)


def push_only(settings):
    """Publish an existing captioner. Raises `ValueError` if `settings.model` is not set."""
    if not settings.model:
        raise ValueError("--push_only publishes an existing captioner; give --model FOLDER.")
    if PartialState().is_main_process:
        push(settings.model, settings)


def push(source, settings):
    name = settings.hub_model_id or Path(source).resolve().name
    address = publish(source, name, settings.hub_private_repo, settings.hub_license)
    print(f"Published: {address}", flush=True)


def evaluate_only(settings):
    """Evaluate an existing captioner. Raises `ValueError` if `settings.model` is not set."""
    if not settings.model:
        raise ValueError("--evaluate_only evaluates an existing captioner; give --model FOLDER.")
    accelerator = make_accelerator(settings, Path(settings.output_dir))
    evaluated = evaluate_captioner(accelerator, *load_captioner(settings.model), settings)
    if evaluated:
        results, scores = evaluated
        write_evaluation(results, scores, settings.output_dir)
        words = describe_words(" ".join(text for row in results.values() for text in row["references"]))
        print(
            "".join(f"{name:8} {value:.4g}\n" for name, value in scores.items()),
            f"scored in {words}",
            sep="",
            flush=True,
        )
    accelerator.end_training()


def calibrate_only(settings):
    """Calibrate an existing captioner. Raises `ValueError` if `settings.model` is no folder, or has too few photos."""
    if not settings.model or not Path(settings.model).is_dir():
        raise ValueError("--calibrate_only calibrates an existing captioner; give --model FOLDER.")
    accelerator = make_accelerator(settings, Path(settings.output_dir))
    settings = dataclasses.replace(settings, evaluate_only=True)  # also if there is no other split
    if not calibrate(accelerator, settings.model, settings.output_dir, settings):
        raise ValueError(
            f"Too few validation photos to calibrate on: {MIN_CAPTIONS} are needed, of which {MIN_OUTCOMES} captions"
            f" are supported by the references and {MIN_OUTCOMES} are not; give more."
        )
    accelerator.end_training()


def run(stages, arguments=()):
    """Train a captioner through all stages, and save it in `output_dir`.

    Args:
        stages: settings of each stage.
        arguments: command-line arguments that the settings come from, saved in settings.yaml.

    Raises `ValueError` if `output_dir` contains an earlier run that is neither resumed nor overwritten.
    """
    first = stages[0]
    if any(settings.streaming and settings.stage != "captions" for settings in stages):
        raise ValueError("--streaming supports only the stage captions; use a recipe without stages, or omit it.")
    folder = Path(first.output_dir)
    names = [f"{number}-{settings.stage}" for number, settings in enumerate(stages, start=1)]
    checkpoint = None
    if first.resume_from_checkpoint:
        checkpoint = checkpoints.find(folder / "checkpoints", names, first.resume_from_checkpoint)
    elif any((folder / name).exists() for name in RESULTS) and not first.overwrite_output_dir:
        raise ValueError(
            f"output_dir={first.output_dir!r} contains an earlier run; continue it with --resume_from_checkpoint last,"
            " or start over with --overwrite_output_dir true."
        )
    accelerator = make_accelerator(first, folder)
    if len(set(gather_object([str(checkpoint)]))) > 1:
        raise ValueError(f"output_dir={first.output_dir!r} is not shared by all machines; give a shared folder.")
    if accelerator.is_main_process:
        if first.push_to_hub:  # fail before the training rather than after it
            open_repository(first.hub_model_id or folder.resolve().name, private=first.hub_private_repo)
        if checkpoint:
            checkpoints.restore(checkpoint, folder)
    accelerator.wait_for_everyone()
    set_seed(first.seed)  # for the initial weights of a new captioner
    start = names.index(checkpoint.parent.name) if checkpoint else 0
    for number in range(start, len(stages)):
        settings = stages[number]
        source = folder if number or checkpoint else settings.model
        options = {option: getattr(settings, option) for option in TRAINING_OPTIONS}
        captioner, processor = load_captioner(source, **options) if source else new_captioner(settings)
        for later in stages[number:]:
            check_block(captioner.encoder, later.encoder_trainable_from)
        stage = STAGES[settings.stage](captioner, processor, settings, accelerator.device)
        if number == start:  # only now, so that a start that fails leaves the folder as it was
            begin(folder, stages, arguments, accelerator, checkpoint)
            history = History(accelerator, folder, resume=bool(checkpoint))
        if source != folder and accelerator.is_main_process:
            # A run that is killed before its first validation resumes from here.
            checkpoints.save_captioner(captioner, processor, folder)
        history.start_stage(names[number])
        train(accelerator, stage, settings, folder, history, checkpoint if number == start else None)
        accelerator.wait_for_everyone()
    if issubclass(STAGES[stages[-1].stage], Captions):  # the others say nothing
        calibrate(accelerator, folder, folder, stages[-1])
    accelerator.end_training()
    if first.push_to_hub and accelerator.is_main_process:
        try:
            push(folder, first)
        except OSError as error:
            raise HubError(f"{error} To publish {folder} later, use --push_only --model {folder}.") from error


def begin(folder, stages, arguments, accelerator, checkpoint=None):
    """Make the output folder this run's: remove what an earlier one left, and write settings.yaml."""
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        if not checkpoint:
            (folder / "history.jsonl").unlink(missing_ok=True)
            if (folder / "checkpoints").exists():
                checkpoints.remove(folder / "checkpoints")
        settings_file = folder / "settings.yaml"
        command = f"# {shlex.join(['accelerate', 'launch', 'train/', *map(str, arguments)])}"
        if checkpoint and settings_file.exists():  # keep the command that started the run: it reproduces it
            command = settings_file.read_text(**TEXT).partition("\n")[0]
        options = yaml.safe_dump([dataclasses.asdict(stage) for stage in stages])
        settings_file.write_text(f"{command}\n{options}", **TEXT)
    accelerator.wait_for_everyone()


def make_accelerator(settings, folder):
    accelerator = Accelerator(
        mixed_precision=settings.mixed_precision,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        # Each process reads a stream itself and keeps its own batches, because batches contain more than tensors.
        dataloader_config=DataLoaderConfiguration(
            use_seedable_sampler=True, data_seed=settings.seed, dispatch_batches=False
        ),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PROCESS_TIMEOUT)],
        step_scheduler_with_optimizer=False,
        log_with=settings.report_to,
        project_dir=folder,
    )
    if settings.report_to:
        accelerator.init_trackers("captioner")
    if accelerator.device.type == "cpu":
        print_cpu_hints(accelerator)
    return accelerator


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


def load_captioner(source, **options):
    """Load a captioner for training. `options` override its configuration."""
    captioner, processor = loading.load_captioner(str(source), "cpu", "float32", **options)
    # Loaded tensors keep the alignment of their file, which may round sums differently from a new captioner's tensors.
    for tensor in (*captioner.parameters(), *captioner.buffers()):
        tensor.data = tensor.data.clone()
    return captioner, processor


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
    if settings.labelled_photos:
        labels = sorted(set(labelled_dataset(settings.labelled_photos)["label"]))
        language = settings.labelled_language or (languages or ["en"])[0]
        yield from label_texts(labels, language) * settings.min_word_count


def _training_captions(settings, languages):
    if not settings.streaming:
        sets = captioned_datasets(settings, ["train"], photos=False, languages=languages)
        yield from (pair for splits in sets.values() for pair in captions_of(splits["train"]))
        return
    for source in sources(settings):
        for row in StreamedPhotos(source, settings, "train", languages):
            yield from zip(row["languages"], row["captions"], strict=True)


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
