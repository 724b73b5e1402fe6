"""No word, or phrase, on both sides of a conjunction ("a black and black dog"), without PyTorch: `echo_of`."""

from collections.abc import Collection, Sequence


def echo_of(ids: Sequence[int], conjunctions: Collection[int]) -> list[int]:
    """The token with which `ids` would repeat after a conjunction what stands before it, or none.

    Self-critical training is paid for such echoes, because CIDEr-D counts every word. "a man and a" and "a tall man and
    a" must not go on with "man", but may with "woman"; "a man and another" may go on with "man".

    Args:
        ids: the caption so far.
        conjunctions: the ids of words such as "and".
    """
    place = next((place for place in reversed(range(len(ids))) if ids[place] in conjunctions), 0)
    before, after = list(ids[:place]), list(ids[place + 1 :])
    same_phrase = len(after) < place and before[place - 1 - len(after) : -1] == after
    same_word = len(after) < 2 and set(after) <= set(before)  # a word such as an article may stand between
    return before[-1:] if same_phrase or same_word else []
