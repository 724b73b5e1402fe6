"""Train an image captioner, stage by stage. Command-line options override the options of the recipe."""

import dataclasses
import difflib
import os
import shlex
import sys
from datetime import timedelta
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator, DataLoaderConfiguration, PartialState
from accelerate.utils import InitProcessGroupKwargs, gather_object, set_seed
from huggingface_hub.errors import StrictDataclassError
from transformers import GenerationConfig, HfArgumentParser, ViTImageProcessorPil

from captioning import loading
from captioning.errors import print_error
from modeling_captioner import CaptionerConfig, CaptionerForConditionalGeneration, CaptionerProcessor
from publishing.hub import HubError, open_repository
from publishing.publish import publish

from . import checkpoints
from .data import StreamedPhotos, bare_name, captioned_dataset, labelled_dataset, make_tokenizer, read_captions
from .encoders import load_encoder_weights
from .evaluation import evaluate_captioner, write_evaluation
from .history import History
from .loop import train
from .settings import Settings
from .stages import STAGES
from .words import describe_words

RECIPES = Path(__file__).parent / "recipes"
# Settings that are also options of the model's configuration.
MODEL_OPTIONS = [
    field.name for field in dataclasses.fields(Settings) if field.name in CaptionerConfig.__dataclass_fields__
]
TRAINING_OPTIONS = ["dropout", "word_dropout", "label_smoothing"]  # can be changed when loading a trained model
PROCESS_TIMEOUT = timedelta(hours=12)  # processes wait for the main one, which may be checking all photos
DATASET_OPTIONS = ["dataset_name", "dataset_config_name", "data_dir"]
TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}  # names of files need not be Unicode
RUN_OPTIONS = ["model", "output_dir", "mixed_precision", "report_to"]  # the same in all stages


def main(arguments=None):
    """Run the trainer. A user's mistake prints one line on standard error and exits with status 1."""
    try:
        stages = resolve(arguments)
        if stages[0].push_only:
            push_only(stages[0])
        elif stages[0].evaluate_only:
            evaluate_only(stages[0])
        else:
            run(stages, sys.argv[1:] if arguments is None else arguments)
    except (ValueError, OSError, StrictDataclassError) as error:
        print_error(error)
        sys.exit(1)


def resolve(arguments=None):
    """Return the settings of each stage. The command line overrides the stage, the recipe and the defaults."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = HfArgumentParser(Settings, prog="accelerate launch train/", description=__doc__)
    command = parser.parse_args(arguments)
    recipe = read_recipe(command.recipe) if command.recipe else {}
    stages = recipe.pop("stages", None) or [{}]
    if command.dataset_name or command.data_dir:  # replaces the data set of the recipe
        for options in (recipe, *stages):
            for option in DATASET_OPTIONS:
                options.pop(option, None)
    for option in RUN_OPTIONS:
        if any(option in stage for stage in stages):
            raise ValueError(f"The recipe's option {option!r} applies to the whole run; move it out of the stages.")
    # If an option is given more than once, argparse uses the last value.
    command_lines = [[*_as_arguments(recipe | stage), *arguments] for stage in stages]
    return [Settings(**vars(parser.parse_args(command_line))) for command_line in command_lines]


def read_recipe(name):
    """Read the options of a recipe as a dictionary. Raises `ValueError` if it does not exist or has no options."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml")))
        raise ValueError(f"recipe={name!r} does not exist; choose one of {known}, or give the path of a YAML file.")
    try:
        recipe = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        raise ValueError(f"recipe={name!r} is not valid YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"recipe={name!r} contains no options; write lines such as 'learning_rate: 0.001'.")
    return recipe


def _as_arguments(options):
    """Convert a recipe's options to arguments, so that argparse sets their types: YAML reads 1e-3 as a string."""
    names = [field.name for field in dataclasses.fields(Settings)]
    for name, value in options.items():
        if name not in names:
            nearest = difflib.get_close_matches(str(name), names, n=1, cutoff=0.0)[0]
            raise ValueError(f"The recipe's option {name!r} is unknown; did you mean {nearest!r}?")
        if isinstance(value, list):
            yield from (f"--{name}", *map(str, value))
        elif value is not None:  # null: the default
            yield f"--{name}={value}"


def push_only(settings):
    """Publish an existing captioner. Raises `ValueError` if `settings.model` is not set."""
    if not settings.model:
        raise ValueError("--push_only publishes an existing captioner; name it: --model FOLDER.")
    if PartialState().is_main_process:
        push(settings.model, settings)


def push(source, settings):
    name = settings.hub_model_id or Path(source).resolve().name
    address = publish(source, name, settings.hub_private_repo, settings.hub_license)
    print(f"Published: {address}", flush=True)


def evaluate_only(settings):
    """Evaluate an existing captioner. Raises `ValueError` if `settings.model` is not set."""
    if not settings.model:
        raise ValueError("--evaluate_only evaluates an existing captioner; name it: --model FOLDER.")
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
    elif (folder / "history.jsonl").exists() and not first.overwrite_output_dir:
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
        elif (folder / "checkpoints").exists():
            checkpoints.remove(folder / "checkpoints")
        folder.mkdir(parents=True, exist_ok=True)
        settings_file = folder / "settings.yaml"
        command = f"# {shlex.join(['accelerate', 'launch', 'train/', *map(str, arguments)])}"
        if checkpoint and settings_file.exists():  # keep the command that started the run: it reproduces it
            command = settings_file.read_text(**TEXT).partition("\n")[0]
        options = yaml.safe_dump([dataclasses.asdict(stage) for stage in stages])
        settings_file.write_text(f"{command}\n{options}", **TEXT)
    accelerator.wait_for_everyone()
    set_seed(first.seed)  # for the initial weights of a new captioner
    history = History(accelerator, folder, resume=bool(checkpoint))
    start = names.index(checkpoint.parent.name) if checkpoint else 0
    for number in range(start, len(stages)):
        settings = stages[number]
        source = folder if number or checkpoint else settings.model
        options = {option: getattr(settings, option) for option in TRAINING_OPTIONS}
        captioner, processor = load_captioner(source, **options) if source else new_captioner(settings)
        if source != folder and accelerator.is_main_process:
            # A run that is killed before its first validation resumes from here.
            checkpoints.save_captioner(captioner, processor, folder)
        stage = STAGES[settings.stage](captioner, processor, settings, accelerator.device)
        history.start_stage(names[number])
        train(accelerator, stage, settings, folder, history, checkpoint if number == start else None)
        accelerator.wait_for_everyone()
    accelerator.end_training()
    if first.push_to_hub and accelerator.is_main_process:
        try:
            push(folder, first)
        except OSError as error:
            raise HubError(f"{error} To publish {folder} later, use --push_only --model {folder}.") from error


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
    threads, cores = torch.get_num_threads(), os.cpu_count() // accelerator.num_processes
    if accelerator.device.type == "cpu" and threads < cores:
        hint = f"pass --num_cpu_threads_per_process {cores} to `accelerate launch` to use all of them"
        accelerator.print(f"Each process uses {threads} of {cores} cores; {hint}.", file=sys.stderr)
    return accelerator


def load_captioner(source, **options):
    """Load a captioner for training. `options` override its configuration."""
    captioner, processor = loading.load_captioner(str(source), "cpu", "float32", **options)
    # Loaded tensors keep the alignment of their file, which may round sums differently from a new captioner's tensors.
    for tensor in (*captioner.parameters(), *captioner.buffers()):
        tensor.data = tensor.data.clone()
    return captioner, processor


def vocabulary_texts(settings):
    """Yield the texts of the vocabulary: training captions, further ones of `captions_file`, and labels.

    Each label is repeated `min_word_count` times, so that its words enter the vocabulary.
    """
    if settings.streaming:
        captions = (row["captions"] for row in StreamedPhotos(settings, "train"))
    else:
        captions = captioned_dataset(settings, ["train"], photos=False)["train"]["captions"]
    seen = set()
    for texts in captions:
        seen.update(texts)
        yield from texts
    if settings.captions_file:
        yield from (text for text in read_captions(settings.captions_file) if text not in seen)
    if settings.labelled_photos:
        labels = set(labelled_dataset(settings.labelled_photos)["label"])
        yield from [bare_name(label) for label in sorted(labels)] * settings.min_word_count


def new_captioner(settings):
    """Create a captioner with random decoder weights, and its processor with the vocabulary of the training texts."""
    tokenizer = make_tokenizer(vocabulary_texts(settings), settings.min_word_count)
    words = describe_words(" ".join(tokenizer.get_vocab()))
    PartialState().print(f"The vocabulary: {len(tokenizer)} {words}; captions are scored in {words}, too.")
    size = {"height": settings.image_size, "width": settings.image_size}
    images = ViTImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_convert_rgb=True)
    config = CaptionerConfig(
        vocab_size=len(tokenizer), **{option: getattr(settings, option) for option in MODEL_OPTIONS}
    )
    captioner = CaptionerForConditionalGeneration(config)
    captioner.generation_config = GenerationConfig(
        decoder_start_token_id=config.decoder_start_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        suppress_tokens=[config.pad_token_id, config.unk_token_id, config.bos_token_id],
        num_beams=settings.num_beams,
        max_new_tokens=settings.max_new_tokens,
        min_new_tokens=settings.min_new_tokens,
        no_repeat_ngram_size=3,
    )
    if settings.encoder_weights:
        load_encoder_weights(captioner.encoder, config.encoder_name, settings.encoder_weights)
    return captioner, CaptionerProcessor(images, tokenizer)
