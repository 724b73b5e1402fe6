"""No word, or phrase, on both sides of a conjunction ("a black and black dog"), without PyTorch: `echo_of`."""

from collections.abc import Collection, Sequence


def echo_of(ids: Sequence[int], conjunctions: Collection[int]) -> list[int]:
    """The token with which `ids` would repeat after a conjunction what stands before it, or none.

    Self-critical training is paid for such echoes, because CIDEr-D counts every word. "a man and a" must not go on
    with "man", but may with "woman".

    Args:
        ids: the caption so far.
        conjunctions: the ids of words such as "and".
    """
    place = next((place for place in reversed(range(len(ids))) if ids[place] in conjunctions), 0)
    after = list(ids[place + 1 :])
    start = place - 1 - len(after)
    return [ids[place - 1]] if start >= 0 and list(ids[start : place - 1]) == after else []
