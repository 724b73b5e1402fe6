"""The stages of a recipe, by name."""

from .captions import Captions
from .distil import Distil
from .language import Language
from .self_critical import SelfCritical

STAGES = {"language": Language, "captions": Captions, "distil": Distil, "self_critical": SelfCritical}
