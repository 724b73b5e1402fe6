"""Pictures to mutate: every format that Pillow writes, heads of those that it only reads, and files made to harm."""

import io
import random
import struct
import zipfile
import zlib
from functools import cache

import numpy as np
from PIL import Image

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F")
# How a file begins in the formats that Pillow reads and does not write, and a few more that are no pictures.
HEADS = {
    "CUR": b"\0\0\2\0\1\0",
    "DCX": b"\xb1\x68\xde\x3a\x10\0\0\0",
    "FITS": b"SIMPLE  =                    T".ljust(80) + b"BITPIX  =                    8".ljust(80),
    "FLI": b"\0\1\0\0\x11\xaf\1\0\x40\1\xc8\0\x08\0\0\0",
    "FTEX": b"FTEX\0\0\0\1",
    "GBR": b"\0\0\0\x1c\0\0\0\2\0\0\0\x10\0\0\0\x10\0\0\0\4GIMP\0\0\0\1",
    "IPTC": b"\x1c\1\x5a\0\1",
    "MCIDAS": b"\0\0\0\0\0\0\0\4" + bytes(256),
    "MPEG": b"\0\0\1\xb3\x10\0\x10",
    "PCD": b"PCD_",
    "PIXAR": b"\x80\xe8\0\0" + bytes(1020),
    "PSD": b"8BPS\0\1\0\0\0\0\0\0\0\3\0\0\0\x10\0\0\0\x10\0\x08\0\3" + bytes(12),
    "SUN": b"\x59\xa6\x6a\x95\0\0\0\x10\0\0\0\x10\0\0\0\x18",
    "XPM": b'/* XPM */\nstatic char *x[] = {\n"16 16 2 1",\n"a c #000000",\n',
    "XVTHUMB": b"P7 332\n#END_OF_COMMENTS\n16 16 255\n",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script><image href="/etc/passwd"/></svg>',
    "HTML": b"<!doctype html><script>alert(1)</script><img src=/etc/passwd>",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
    "shell": b"#!/bin/sh\nrm -rf /\n",
    "pickle": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
}


def saved(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def drawn(mode, size):
    """A picture with something in it, in any of Pillow's modes."""
    width, height = size
    across = np.tile(np.arange(width) % 251, (height, 1)).astype(np.uint8)
    picture = Image.fromarray(np.stack([across, across[::-1], across ^ 85], axis=-1))
    if mode in ("I;16", "I"):
        return Image.fromarray(across.astype(np.uint16) * 257 if mode == "I;16" else across.astype(np.int32) * 99)
    if mode in ("LA", "RGBA"):
        picture = picture.convert(mode)
        picture.putalpha(Image.fromarray(across))
        return picture
    return picture.convert(mode)


@cache
def pictures():
    """Whole pictures, [(name, content)]: formats x modes, sizes, frames, EXIF, transparency."""
    Image.init()
    found = []
    for kind in sorted(Image.SAVE):
        for mode in MODES:
            try:
                found.append((f"{kind} {mode}", saved(drawn(mode, (48, 32)), kind)))
            except (OSError, ValueError, KeyError, SystemError):  # a mode that the format does not know
                continue
    for kind in ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP", "PPM", "TGA", "JPEG2000"):
        for size in ((1, 1), (1, 65_000), (65_000, 1), (700, 500)):
            try:
                found.append((f"{kind} {size[0]} x {size[1]}", saved(drawn("RGB", size), kind)))
            except (OSError, ValueError, RuntimeError):  # longer than the format allows
                continue
    return found + animated() + oriented() + transparent() + compressed()


def animated():
    found = []
    for kind in ("AVIF", "GIF", "MPO", "PNG", "TIFF", "WEBP"):
        first, *frames = [drawn("RGB", (40, 30)).rotate(90 * turn) for turn in range(5)]
        found.append((f"{kind} animated", saved(first, kind, save_all=True, append_images=frames)))
    return found


def oriented():
    found = []
    for orientation in (*range(10), 65_535):
        exif = Image.Exif()
        exif[0x0112] = orientation
        exif[0x010E] = "<script>alert(1)</script>"
        found += [
            (f"{kind} turned {orientation}", saved(drawn("RGB", (48, 32)), kind, exif=exif))
            for kind in ("JPEG", "PNG", "TIFF", "WEBP", "AVIF")
        ]
    garbage = b"Exif\0\0MM\0\x2a\0\0\0\x08\xff\xff" + bytes(range(256)) * 8
    return found + [(f"{k} garbled EXIF", saved(drawn("RGB", (48, 32)), k, exif=garbage)) for k in ("JPEG", "PNG")]


def transparent():
    palette = drawn("RGB", (48, 32)).quantize(16)
    return [
        ("PNG palette, one transparent", saved(palette, "PNG", transparency=3)),
        ("PNG palette with alpha", saved(palette, "PNG", transparency=bytes(range(0, 256, 16)))),
        ("GIF palette, one transparent", saved(palette, "GIF", transparency=3)),
        ("PNG one color transparent", saved(drawn("RGB", (48, 32)), "PNG", transparency=(0, 0, 85))),
    ]


def compressed():
    """TIFF's ways of compression, and progressive JPEG."""
    kinds = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "lzma", "zstd")
    found = [(f"TIFF {kind}", saved(drawn("RGB", (48, 32)), "TIFF", compression=kind)) for kind in kinds]
    found.append(("TIFF group4", saved(drawn("1", (48, 32)), "TIFF", compression="group4")))
    return [*found, ("JPEG progressive", saved(drawn("RGB", (64, 48)), "JPEG", progressive=True))]


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, *chunks, depth=8, color=2, pixels=None):
    """A PNG of the claimed size with the chunks in it; what is not given of its pixels is missing."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(b"\0" if pixels is None else pixels, 1))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + data + png_chunk(b"IEND", b"")


@cache
def zeros(megabytes):
    """So many MB of zeros, compressed: a thousandth of them."""
    return zlib.compress(bytes(megabytes * 1_000_000), 9)


def text_bomb(kind, megabytes=60, count=1):
    content = {
        b"iTXt": b"Comment\0\1\0\0\0" + zeros(megabytes),
        b"zTXt": b"Comment\0\0" + zeros(megabytes),
        b"iCCP": b"profile\0\0" + zeros(megabytes),
    }[kind]
    return png(16, 16, *[png_chunk(kind, content)] * count, pixels=bytes(16 * 49))


def many_scans(side=7_000, scans=2_000):
    """A progressive JPEG whose every scan walks over all of its blocks and says nothing: hours of work in few bytes."""
    whole = saved(drawn("L", (64, 64)), "JPEG", progressive=True)
    frame = whole.index(b"\xff\xc2")
    whole = whole[: frame + 5] + struct.pack(">HH", side, side) + whole[frame + 9 :]
    scan = whole.rindex(b"\xff\xda")
    return whole[:scan] + whole[scan:-2] * scans + b"\xff\xd9"


def nested_zip():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../evil.jpg", bytes(10_000_000))
    return file.getvalue()


def one_color(kind, mode, size, **options):
    """The most pixels for the fewest bytes that a format can hold."""
    return saved(Image.new(mode, size), kind, **options)


def noise(kind, size, **options):
    """What compresses worst."""
    return saved(Image.frombytes("RGB", size, random.Random(0).randbytes(3 * size[0] * size[1])), kind, **options)


# Files made to harm, {name: makes the content}: each is a whole file by itself, and some are slow to make.
BOMBS = {
    "PNG of 10000 x 5001, empty": lambda: png(10_000, 5_001),
    "PNG of 10000 x 5000, empty": lambda: png(10_000, 5_000),
    "PNG of 2^31 pixels a side": lambda: png(2**31 - 1, 2**31 - 1),
    "PNG of 0 x 0": lambda: png(0, 0),
    "PNG of 50 million pixels": lambda: one_color("PNG", "RGB", (10_000, 5_000)),
    "PNG of 50 million pixels with alpha": lambda: one_color("PNG", "RGBA", (10_000, 5_000)),
    "PNG of 50 million palette pixels with alpha": lambda: one_color("PNG", "P", (10_000, 5_000), transparency=b"\x80"),
    "PNG of 50 million black and white pixels": lambda: one_color("PNG", "1", (10_000, 5_000)),
    "PNG of 50 million 16-bit pixels": lambda: one_color("PNG", "I;16", (10_000, 5_000)),
    "PNG of 1 x 50 million": lambda: png(1, 50_000_000, color=0, pixels=bytes(100_000_000)),
    "TIFF of 50 million floating-point pixels": lambda: one_color("TIFF", "F", (10_000, 5_000), compression="zstd"),
    "TIFF of 50 million 32-bit pixels": lambda: one_color("TIFF", "I", (10_000, 5_000), compression="zstd"),
    "TIFF of 50 million CMYK pixels": lambda: one_color("TIFF", "CMYK", (10_000, 5_000), compression="zstd"),
    "JPEG of 50 million pixels": lambda: one_color("JPEG", "RGB", (10_000, 5_000)),
    "JPEG of 50 million pixels, progressive": lambda: one_color("JPEG", "RGB", (10_000, 5_000), progressive=True),
    "JPEG of 50 million CMYK pixels, turned": lambda: one_color("JPEG", "CMYK", (10_000, 5_000), exif=turned()),
    "JPEG of 50 million pixels, turned": lambda: one_color("JPEG", "RGB", (10_000, 5_000), exif=turned()),
    "JPEG of 2,000 scans": many_scans,
    "JPEG of 90 scans": lambda: many_scans(scans=80),
    "WebP of 50 million pixels": lambda: one_color("WEBP", "RGBA", (16_000, 3_125), lossless=True, method=0),
    "GIF of 50 million pixels": lambda: one_color("GIF", "P", (10_000, 5_000)),
    "GIF of 65535 x 65535": lambda: b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",\0\0\0\0\1\0\1\0\0\2\2L\1\0;",
    "JPEG 2000 of 50 million pixels": lambda: one_color("JPEG2000", "RGB", (10_000, 5_000)),
    "AVIF of 50 million pixels": lambda: one_color("AVIF", "RGB", (10_000, 5_000), speed=10),
    "AVIF of 30 million pixels": lambda: one_color("AVIF", "RGBA", (10_000, 3_000), speed=10),
    "JPEG 2000 of 15 million pixels": lambda: one_color("JPEG2000", "RGBA", (10_000, 1_500)),
    "JPEG 2000 of noise": lambda: noise("JPEG2000", (2_500, 1_400)),
    "AVIF of noise": lambda: noise("AVIF", (2_500, 1_400), speed=10, quality=100),
    "JPEG of noise, progressive": lambda: noise("JPEG", (5_000, 4_000), quality=100, progressive=True),
    "WebP of 25 million pixels": lambda: one_color("WEBP", "RGBA", (16_000, 1_560), lossless=True, method=0),
    "BMP of 40 million pixels, a run": lambda: bmp_run(10_000, 4_000),
    "TGA of 50 million pixels, runs": lambda: one_color("TGA", "RGBA", (10_000, 5_000), compression="tga_rle"),
    "PNG with 60 MB of iTXt": lambda: text_bomb(b"iTXt"),
    "PNG with 60 MB of zTXt": lambda: text_bomb(b"zTXt"),
    "PNG with 60 MB of iCCP": lambda: text_bomb(b"iCCP"),
    "PNG with 200 chunks of 1 MB of zTXt": lambda: text_bomb(b"zTXt", 1, 200),
    "PNG with 100,000 empty chunks": lambda: png(16, 16, *[png_chunk(b"tEXt", b"a\0b")] * 100_000, pixels=bytes(784)),
    "TIFF that points at itself": lambda: b"II*\0\x08\0\0\0\1\0\0\1\3\0\1\0\0\0\x10\0\0\0\x08\0\0\0",
    "TIFF with four billion entries": lambda: b"II*\0\x08\0\0\0\1\0\x11\1\4\0\xff\xff\xff\xff\x08\0\0\0\0\0\0\0",
    "zip": nested_zip,
    "nothing": bytes,
    "one byte": lambda: b"\xff",
    "a MB of zeros": lambda: bytes(1_000_000),
}


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def bmp_run(width, height):
    """A BMP of one run a row, as RLE8 writes them."""
    rows = (b"\xff\x07" * (width // 255) + b"\0\0") * height
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(rows), 0, 0, 256, 0)
    palette = bytes(1024)
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + header + palette + rows + b"\0\1"
