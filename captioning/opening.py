"""What the pages show before a visitor has chosen a photo: the example whose caption is right."""

import re
from typing import Any

from modeling_captioner.explanation import Explanation


def choose_opening(
    explanations: list[Explanation], shows: dict[str, list[str]]
) -> tuple[int, dict[str, Any], list[str]]:
    """The example that a page opens with: the first whose caption names what it shows.

    Args:
        explanations: an `Explanation` of each example.
        shows: for each example, in the same order, the nouns that name what it shows, a dictionary of lists.

    Returns its number; the answer for the viewer, a dictionary for JSON without the photo; and the names of the
    examples with a wrong caption. If all are wrong, it is the first.
    """
    nouns = [find_noun(each.caption, names) for each, names in zip(explanations, shows.values(), strict=True)]
    wrong = [name for name, index in zip(shows, nouns, strict=True) if index is None]
    first = next((number for number, index in enumerate(nouns) if index is not None), 0)
    return first, explanations[first].to_dict() | {"opening": True, "resting": nouns[first]}, wrong


def find_noun(caption: str, nouns: list[str]) -> int | None:
    """The index of the caption's first word that is one of the nouns, or the first word of one; None without any."""
    match = re.search(rf"(?<!\S)({'|'.join(map(re.escape, nouns))})(?!\S)", caption.lower())
    return match and len(caption[: match.start()].split())
