"""The options of a run, from the command line and a recipe: `resolve`."""

import dataclasses
import difflib
import math
import sys
from pathlib import Path
from typing import get_args

import timm
import yaml
from accelerate.utils import LoggerType, PrecisionType
from transformers import HfArgumentParser

from modeling_captioner import CaptionerConfig

from .loop import OPTIMIZERS, SCHEDULES, SOUPS
from .settings import GROUPS, Settings
from .stages import STAGES

RECIPES = Path(__file__).parent / "recipes"
DATASET_OPTIONS = ["dataset_name", "dataset_config_name", "data_dir"]
RUN_OPTIONS = ["model", "output_dir", "mixed_precision", "report_to"]  # the same in all stages
NAMES = [field.name for field in dataclasses.fields(Settings)]
CHOICES = {
    "stage": STAGES,
    "optim": OPTIMIZERS,
    "lr_scheduler_type": SCHEDULES,
    "soup": SOUPS,
    "rnn_type": get_args(CaptionerConfig.__dataclass_fields__["rnn_type"].type),
    "attention_type": get_args(CaptionerConfig.__dataclass_fields__["attention_type"].type),
    "mixed_precision": PrecisionType.list(),
    "report_to": LoggerType.list(),
}
# Limits of numbers; those of other options are 1 and no end for counts, 0 and no end for other numbers.
LIMITS = {
    "seed": (0, 2**32 - 1),
    "dataloader_num_workers": (0, math.inf),
    "min_new_tokens": (0, math.inf),
    "sampled_captions": (2, math.inf),  # each is compared with the others
    "max_broken_fraction": (0, 1),
    "warmup_ratio": (0, 1),
}
BELOW_1 = ["validation_fraction", "labeled_share", "dropout", "word_dropout", "label_smoothing", "ema_decay"]
OFF = ("no", "off", "false")


class RecipeLoader(yaml.SafeLoader):
    """Reads everything but null as strings, whose types argparse sets: `no` is not False, and 1e-3 is no string."""

    yaml_implicit_resolvers = {
        letter: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class Parser(HfArgumentParser):
    """Raises `ValueError` for a wrong command line, in place of printing the usage, which fills several screens."""

    def __init__(self):
        description = "Train an image captioner, stage by stage. The command line overrides the options of the recipe."
        super().__init__(GROUPS, prog="accelerate launch train/", description=description)

    def error(self, message):
        raise ValueError(f"{message[0].upper()}{message[1:]}; --help explains all options.")


def resolve(arguments=None):
    """Return the settings of each stage. The command line overrides the stage, the recipe and the defaults.

    Raises `ValueError` for an option, a recipe or a choice that does not exist, and names the nearest.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = Parser()
    command, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise ValueError(_unknown_argument(unknown[0]))
    recipe = read_recipe(command.recipe) if command.recipe else {}
    stages = recipe.pop("stages", None) or [{}]
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise ValueError("The recipe's 'stages' are not a list of options; begin each with a line '- stage: captions'.")
    if command.dataset_name or command.data_dir:  # replaces the data sets of the recipe
        for options in (recipe, *stages):
            for option in DATASET_OPTIONS:
                options.pop(option, None)
    for option in RUN_OPTIONS:
        if any(option in stage for stage in stages):
            raise ValueError(f"The recipe's option {option!r} applies to the whole run; move it out of the stages.")
    # If an option is given more than once, argparse uses the last value.
    command_lines = [[*_as_arguments(recipe | stage), *arguments] for stage in stages]
    settings = [Settings(**vars(parser.parse_args(command_line))) for command_line in command_lines]
    for stage in settings:
        _check_choices(stage)
        _check_numbers(stage)
    return settings


def read_recipe(name):
    """Read the options of a recipe as a dictionary. Raises `ValueError` if it does not exist or has no options."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in RECIPES.glob("*.yaml"))
        raise ValueError(
            f"recipe={name!r} does not exist; choose one of {', '.join(known)}, or give the path of a YAML"
            f" file{_nearest(Path(name).stem, known)}"
        )
    try:
        recipe = yaml.load(path.read_bytes(), RecipeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"recipe={name!r} is not valid YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"recipe={name!r} contains no options; write lines such as 'learning_rate: 0.001'.")
    return recipe


def _as_arguments(options):
    """Convert a recipe's options to arguments, so that argparse sets their types."""
    for name, value in options.items():
        if name not in NAMES:
            raise ValueError(f"The recipe's option {name!r} is unknown{_nearest(str(name), NAMES, cutoff=0.0)}")
        if isinstance(value, list):
            yield from (f"--{name}", *map(str, value))
        elif value is not None and (plain := _without_switches(name, value)):  # null: the default
            yield f"--{name}={plain}"


def _without_switches(name, value):
    """`value` without YAML's words for switches, where the option is none: `soup: off` is the default."""
    kind, word = str(Settings.__dataclass_fields__[name].type), str(value).lower()
    if "bool" in kind:
        return {"on": "true", "off": "false"}.get(word, value)
    if word in OFF and value not in CHOICES.get(name, ()) and (name in CHOICES or "int" in kind):
        return "no" if "no" in CHOICES.get(name, ()) else None
    return value


def _unknown_argument(argument):
    if argument.startswith("-"):
        name = argument.partition("=")[0]
        return f"The option {name!r} is unknown{_nearest(name, [f'--{known}' for known in NAMES], cutoff=0.0)}"
    recipes = [f"--recipe {file.stem}" for file in RECIPES.glob("*.yaml")]
    return f"{argument!r} belongs to no option{_nearest(f'--recipe {argument}', recipes)}"


def _check_choices(settings):
    """Raises `ValueError` for a value that is not among the choices of its option."""
    for name, choices in CHOICES.items():
        value = getattr(settings, name)
        if value and value not in choices:
            raise ValueError(
                f"{name}={value!r} is unknown; choose one of {', '.join(choices)}{_nearest(value, choices)}"
            )
    for name in ("encoder_name", "teacher_name"):
        if not timm.is_model(value := getattr(settings, name)):
            raise ValueError(f"{name}={value!r} is not an architecture of timm{_nearest(value, timm.list_models())}")


def _check_numbers(settings):
    """Raises `ValueError` for a number that cannot be meant, before anything slow begins."""
    for name in NAMES:
        value = getattr(settings, name)
        for number in value if isinstance(value, list) else [value]:
            if not isinstance(number, int | float) or isinstance(number, bool):
                continue
            low, high = LIMITS.get(name, (int(isinstance(number, int)), 1 if name in BELOW_1 else math.inf))
            if not low <= number <= high or (number == 1 and name in BELOW_1) or math.isinf(number):
                limit = f"from {low} to {high}" if math.isfinite(high) else f"of at least {low}"
                limit += " (excluding 1)" if name in BELOW_1 else ""
                raise ValueError(f"{name}={number} is out of range; give a number {limit}.")
    if not settings.max_grad_norm:
        raise ValueError("max_grad_norm=0 would clip all gradients to 0; give a number above 0, such as 5.")
    if (settings.min_new_tokens or 0) > settings.max_new_tokens:
        raise ValueError(f"min_new_tokens={settings.min_new_tokens} exceeds max_new_tokens={settings.max_new_tokens}.")


def _nearest(name, known, cutoff=0.6):
    """The end of a sentence about an unknown name: the nearest that there is, if any is near."""
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return f"; did you mean {nearest[0]!r}?" if nearest else "."
