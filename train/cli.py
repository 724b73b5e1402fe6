"""Options and recipe to one resolved list of stage settings, and the run through them."""

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

RECIPES = Path(__file__).parent / "recipes"
# Settings that are fields of the model's configuration too.
MODEL_OPTIONS = [
    field.name for field in dataclasses.fields(Settings) if field.name in CaptionerConfig.__dataclass_fields__
]
TRAINING_OPTIONS = ["dropout", "word_dropout", "label_smoothing"]  # those that a trained model may change
PATIENCE = timedelta(hours=12)  # of a process for the others, which may be looking through all photos
DATA_SET_OPTIONS = ["dataset_name", "dataset_config_name", "data_dir"]
RUN_OPTIONS = ["model", "output_dir", "mixed_precision", "report_to"]  # one for all stages


def main(arguments=None):
    """Run a recipe. A person's mistake is one line on standard error and exit status 1."""
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
    """The settings of each stage: defaults, changed by the recipe, its stage, and the command line, in this order."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = HfArgumentParser(Settings, prog="accelerate launch train/", description=__doc__)
    command = parser.parse_args(arguments)
    recipe = read_recipe(command.recipe) if command.recipe else {}
    stages = recipe.pop("stages", None) or [{}]
    if command.dataset_name or command.data_dir:  # in place of the recipe's data set, not beside it
        for options in (recipe, *stages):
            for option in DATA_SET_OPTIONS:
                options.pop(option, None)
    for option in RUN_OPTIONS:
        if any(option in stage for stage in stages):
            raise ValueError(f"The recipe's option {option!r} is one of the whole run; move it out of the stages.")
    # Of an option that is given several times the last counts.
    given = [[*_as_arguments(recipe | stage), *arguments] for stage in stages]
    return [Settings(**vars(parser.parse_args(one))) for one in given]


def read_recipe(name):
    """The options of a recipe, a dictionary. Raises `ValueError` where there are none."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml")))
        raise ValueError(f"recipe={name!r} does not exist; there are {known}, or give the path of a YAML file.")
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"recipe={name!r} is not YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"recipe={name!r} holds no options; write lines such as 'learning_rate: 0.001'.")
    return recipe


def _as_arguments(options):
    """A recipe's options as a command line, which gives each its type: to YAML 1e-3 is a string."""
    names = [field.name for field in dataclasses.fields(Settings)]
    for name, value in options.items():
        if name not in names:
            nearest = difflib.get_close_matches(str(name), names, n=1, cutoff=0.0)[0]
            raise ValueError(f"The recipe's option {name!r} is unknown; did you mean {nearest!r}?")
        if isinstance(value, list):
            yield from (f"--{name}", *map(str, value))
        elif value is not None:  # which stands for the default
            yield f"--{name}={value}"


def push_only(settings):
    """Publish an existing captioner. Raises `ValueError` where none is named."""
    if not settings.model:
        raise ValueError("--push_only publishes an existing captioner; name it: --model FOLDER.")
    if PartialState().is_main_process:
        push(settings.model, settings)


def push(source, settings):
    name = settings.hub_model_id or Path(source).resolve().name
    address = publish(source, name, settings.hub_private_repo, settings.hub_license)
    print(f"Published: {address}", flush=True)


def evaluate_only(settings):
    """Judge an existing captioner. Raises `ValueError` where none is named."""
    if not settings.model:
        raise ValueError("--evaluate_only judges an existing captioner; name it: --model FOLDER.")
    accelerator = make_accelerator(settings, Path(settings.output_dir))
    evaluated = evaluate_captioner(accelerator, *load_captioner(settings.model), settings)
    if evaluated:
        judged, scores = evaluated
        write_evaluation(judged, scores, settings.output_dir)
        print("".join(f"{name:8} {value:.4g}\n" for name, value in scores.items()), end="", flush=True)
    accelerator.end_training()


def run(stages, arguments=()):
    """Train a captioner through its stages; the finished one is in `output_dir`.

    Args:
        stages: the settings of each.
        arguments: the command line that they came from, which is kept with them.

    Raises `ValueError` where `output_dir` holds an earlier run that is neither resumed nor to be overwritten.
    """
    first = stages[0]
    if any(settings.streaming and settings.stage != "captions" for settings in stages):
        raise ValueError("--streaming is for the stage captions alone; give a recipe without stages, or leave it out.")
    folder = Path(first.output_dir)
    names = [f"{number}-{settings.stage}" for number, settings in enumerate(stages, start=1)]
    resumed = None
    if first.resume_from_checkpoint:
        resumed = checkpoints.find(folder / "checkpoints", names, first.resume_from_checkpoint)
    elif (folder / "history.jsonl").exists() and not first.overwrite_output_dir:
        raise ValueError(
            f"output_dir={first.output_dir!r} holds an earlier run; go on with --resume_from_checkpoint last,"
            " or begin anew with --overwrite_output_dir true."
        )
    accelerator = make_accelerator(first, folder)
    if len(set(gather_object([str(resumed)]))) > 1:
        raise ValueError(f"output_dir={first.output_dir!r} is not shared by all machines; give a folder that is.")
    if accelerator.is_main_process:
        if first.push_to_hub:  # what would be refused after the training is refused before it
            open_repository(first.hub_model_id or folder.resolve().name, private=first.hub_private_repo)
        if resumed:
            checkpoints.go_back(resumed, folder)
        elif (folder / "checkpoints").exists():
            checkpoints.remove(folder / "checkpoints")
        folder.mkdir(parents=True, exist_ok=True)
        described = folder / "settings.yaml"
        command = f"# {shlex.join(['accelerate', 'launch', 'train/', *map(str, arguments)])}"
        if resumed and described.exists():  # the command that it began with, by which others can repeat it
            command = described.read_text().partition("\n")[0]
        described.write_text(f"{command}\n{yaml.safe_dump([dataclasses.asdict(stage) for stage in stages])}")
    accelerator.wait_for_everyone()
    set_seed(first.seed)  # of a new model's weights
    history = History(accelerator, folder, resumed)
    start = names.index(resumed.parent.name) if resumed else 0
    for number in range(start, len(stages)):
        settings = stages[number]
        source = folder if number or resumed else settings.model
        training = {option: getattr(settings, option) for option in TRAINING_OPTIONS}
        captioner, processor = load_captioner(source, **training) if source else new_captioner(settings)
        if source != folder and accelerator.is_main_process:
            # A run that is killed before its first validation resumes from here.
            checkpoints.save_captioner(captioner, processor, folder)
        stage = STAGES[settings.stage](captioner, processor, settings, accelerator.device)
        history.start_stage(names[number])
        train(accelerator, stage, settings, folder, history, resumed if number == start else None)
        accelerator.wait_for_everyone()
    accelerator.end_training()
    if first.push_to_hub and accelerator.is_main_process:
        try:
            push(folder, first)
        except OSError as error:
            raise HubError(f"{error} To publish what is in {folder} later: --push_only --model {folder}.") from error


def make_accelerator(settings, folder):
    accelerator = Accelerator(
        mixed_precision=settings.mixed_precision,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        # A stream is read by every process, which takes its share: batches hold more than tensors.
        dataloader_config=DataLoaderConfiguration(
            use_seedable_sampler=True, data_seed=settings.seed, dispatch_batches=False
        ),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        step_scheduler_with_optimizer=False,
        log_with=settings.report_to,
        project_dir=folder,
    )
    if settings.report_to:
        accelerator.init_trackers("captioner")
    threads, cores = torch.get_num_threads(), os.cpu_count() // accelerator.num_processes
    if accelerator.device.type == "cpu" and threads < cores:
        hint = f"give `accelerate launch` --num_cpu_threads_per_process {cores} to use all"
        accelerator.print(f"Each process computes on {threads} of {cores} cores; {hint}.", file=sys.stderr)
    return accelerator


def load_captioner(source, **options):
    """`options`: of its configuration, in place of what `source` says."""
    captioner, processor = loading.load_captioner(str(source), "cpu", "float32", **options)
    # They lie as in their file, where sums over them may be rounded otherwise than over a new captioner's.
    for tensor in (*captioner.parameters(), *captioner.buffers()):
        tensor.data = tensor.data.clone()
    return captioner, processor


def vocabulary_texts(settings):
    """The training captions, those of `captions_file` that are not among them, and each label often enough to count."""
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
    """A captioner with fresh weights, and its processor with the vocabulary of what it is to learn from."""
    tokenizer = make_tokenizer(vocabulary_texts(settings), settings.min_word_count)
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
        no_repeat_ngram_size=3,
    )
    if settings.encoder_weights:
        load_encoder_weights(captioner.encoder, config.encoder_name, settings.encoder_weights)
    return captioner, CaptionerProcessor(images, tokenizer)
