"""What becomes of a picture on a bad day: `mutated(number)` gives the file of that number, always the same."""

import random
import zlib

from tests.helpers.fuzz.pictures import BOMBS, HEADS, pictures

EXTREMES = [value.to_bytes(width, order) for width in (1, 2, 4) for order in ("big", "little")
            for value in (0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), 2 ** (8 * width - 1) - 1)] + [
    65_000 .to_bytes(2, "big"), 65_000 .to_bytes(2, "little"), 65_000 .to_bytes(4, "big"), 65_000 .to_bytes(4, "little")
]  # fmt: skip
HEADER_BYTES = 96


def mutated(number):
    """The name and the content of file `number`: first every bomb, then every whole picture, then mutations."""
    fixed = [*BOMBS.items(), *pictures()]
    if number < len(fixed):
        name, content = fixed[number]
        return name, content() if callable(content) else content
    chance = random.Random(number)
    if chance.random() < 0.05:
        name, head = chance.choice(list(HEADS.items()))
        return f"{name} and noise", head + chance.randbytes(chance.randrange(2_000))
    name, content = chance.choice(pictures())
    mutations = chance.choices(MUTATIONS, k=chance.choice((1, 1, 2, 3)))
    for mutate in mutations:
        content = mutate(content, chance)
    return f"{name}: {', '.join(mutate.__name__ for mutate in mutations)}", content


def truncated(content, chance):
    return content[: chance.randrange(len(content) + 1)]


def bits_flipped(content, chance):
    content = bytearray(content)
    for _ in range(chance.choice((1, 2, 8, 64)) if content else 0):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return bytes(content)


def spliced(content, chance):
    """Its beginning, and the end of another picture."""
    _, other = chance.choice(pictures())
    return content[: chance.randrange(len(content) + 1)] + other[chance.randrange(len(other)) :]


def lying(content, chance):
    """A number near the beginning is as large or small as it can be, and a PNG's checksums agree."""
    value = chance.choice(EXTREMES)
    place = chance.randrange(HEADER_BYTES)
    return checksummed(content[:place] + value + content[place + len(value) :])


def noisy(content, chance):
    """A piece in the middle is noise."""
    place = chance.randrange(len(content) + 1)
    noise = chance.randbytes(chance.randrange(1, 200))
    return content[:place] + noise + content[place + len(noise) :]


def repeated(content, chance):
    """A piece comes many times."""
    start = chance.randrange(len(content) + 1)
    piece = content[start : start + chance.randrange(1, 400)]
    return content[:start] + piece * chance.choice((2, 10, 1_000)) + content[start + len(piece) :]


def cut(content, chance):
    """A piece is missing."""
    start = chance.randrange(len(content) + 1)
    return content[:start] + content[start + chance.randrange(1, 100) :]


MUTATIONS = (truncated, bits_flipped, spliced, lying, noisy, repeated, cut)


def checksummed(content):
    """A PNG with right checksums, for a lie in its header to be believed."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return content
    content, place = bytearray(content), 8
    while place + 12 <= len(content):
        end = place + 8 + int.from_bytes(content[place : place + 4], "big")
        if end + 4 > len(content):
            break
        content[end : end + 4] = zlib.crc32(content[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(content)
