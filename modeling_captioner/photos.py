"""Every photo of every door comes in here: `open_photo`."""

import contextlib
import io
import os
import threading
import warnings

import numpy as np
from PIL import Image, ImageOps

# What people's pictures come in. Pillow's other formats are left out because they start programs (EPS), describe
# drawings (WMF), or are not pictures that people take. MPO, a camera's JPEG of several, is opened as JPEG.
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "TGA", "TIFF", "WEBP")
MAX_PIXELS = 50_000_000  # decoded this is 200 MB, and converting holds it twice
MAX_SIDE = 100_000  # Pillow keeps an address for each row
# Pixels and bytes of a file at which a slow or greedy decoder still ends within 5 seconds and 1 GB.
SLOW_FORMATS = {
    "AVIF": (30_000_000, 30_000_000),
    "JPEG2000": (15_000_000, 12_000_000),
    "WEBP": (25_000_000, 100_000_000),
}
MAX_SCANS = 100  # of a JPEG, which usually has 1, or 10 if it is progressive; each walks over all pixels
LARGE = 8_000_000  # pixels; larger pictures are decoded one at a time, so that visitors together do not fill the memory
STRIP = 1_000_000  # pixels that are converted at once

_one_large_picture = threading.Lock()


class PhotoError(ValueError):
    """A picture that cannot be captioned; its one sentence names the picture and the remedy."""


def open_photo(source, *, max_pixels=MAX_PIXELS, side=None):
    """Open a picture as people see it: first frame, turned as its EXIF says, in RGB.

    Args:
        source: path, bytes, binary file object or `PIL.Image.Image`.
        max_pixels: width times height above which a picture is refused before it is decoded.
        side: pixels a side that are enough. A JPEG file with many more is decoded at half, a quarter or an eighth of
            its size, which is several times faster for 12 million pixels, and any picture of more than 8 million
            pixels is made smaller; both sides stay at least this long.

    Returns a `PIL.Image.Image` in mode RGB. Raises [`PhotoError`].
    """
    name = _name(source)
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures and of garbled metadata: the one is checked here, the other harmless.
            warnings.simplefilter("ignore")
            return _decoded(source, name, max_pixels, side)
    except PhotoError:
        raise
    except Image.DecompressionBombError as error:
        raise PhotoError(f"{name} has too many pixels; make it smaller.") from error
    except MemoryError as error:
        raise PhotoError(f"{name} needs more memory than there is; make it smaller.") from error
    except Exception as error:  # Pillow's decoders raise nearly every built-in exception on damaged files
        raise PhotoError(f"{name} is damaged or incomplete; export it anew as JPEG or PNG.") from error


def _name(source):
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return str(getattr(source, "filename", None) or getattr(source, "name", None) or "The picture")


def _open(source, name):
    """The lazily opened picture: its size is known, its pixels are not yet decoded."""
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, bytes | bytearray | memoryview):
        source = io.BytesIO(source)
    elif isinstance(source, str | os.PathLike):
        if not os.path.exists(source):
            raise PhotoError(f"{name} does not exist; check the path.")
        if not os.path.isfile(source):
            raise PhotoError(f"{name} is not a file; give the path of a picture.")
        if not os.path.getsize(source):
            raise PhotoError(f"{name} is empty; export it anew as JPEG or PNG.")
        if not os.access(source, os.R_OK):
            raise PhotoError(f"{name} may not be read; check its permissions.")
    try:
        return Image.open(source, formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        raise PhotoError(f"{name} is not a picture that can be read; save it as JPEG or PNG.") from error


def _decoded(source, name, max_pixels, side):
    image = _open(source, name)
    _check_size(image, name, max_pixels)
    if side and image is not source:
        image.draft(None, (side, side))
    with _one_large_picture if image.width * image.height > LARGE else contextlib.nullcontext():
        image.load()
        image = _turned(image)  # each step's picture is let go when the next is there
        image = _rgb(image)
        if side and image.width * image.height > LARGE:
            image = image.reduce(max(1, min(image.size) // side))
    return image


def _check_size(image, name, max_pixels):
    """Raises `PhotoError` for a picture that would take too much time or memory to decode."""
    width, height = image.size
    pixels, size = SLOW_FORMATS.get(image.format, (max_pixels, None))
    pixels = min(pixels, max_pixels)
    if width * height > pixels:
        raise PhotoError(
            f"{name} has {width} x {height} pixels, more than the {pixels / 1e6:g} million allowed; make it smaller."
        )
    if max(width, height) > MAX_SIDE:
        raise PhotoError(f"{name} has {width} x {height} pixels, more than {MAX_SIDE} a side; make it smaller.")
    file = getattr(image, "fp", None)  # None once a picture is decoded
    if file and size and file.seek(0, os.SEEK_END) > size:
        raise PhotoError(f"{name} is larger than {size / 1e6:g} MB; save it as JPEG.")
    if file and image.format in ("JPEG", "MPO") and _scans(file) > MAX_SCANS:
        raise PhotoError(f"{name} has more than {MAX_SCANS} scans; export it anew as JPEG or PNG.")


def _scans(file):
    """How often a JPEG's pixels are gone over; within its compressed data the mark is always escaped."""
    file.seek(0)
    return sum(block.count(b"\xff\xda") for block in iter(lambda: file.read(2**20), b""))


def _turned(image):
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # garbled EXIF raises nearly anything, and the picture itself is whole
        return image


def _rgb(image):
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    white = 65535  # what is shown as white where pixels have more than 8 bits
    if image.mode == "F":
        white = max(max(_highest(strip) for _, strip in _strips(image)), 1e-6)
    photo = Image.new("RGB", image.size)
    for box, strip in _strips(image):
        photo.paste(_rgb_strip(strip, white), box)
    return photo


def _strips(image):
    """The picture in pieces, which together take less memory to convert than the whole: pairs of (place, piece)."""
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        yield box, image.crop(box)


def _highest(image):
    values = np.asarray(image)
    return float(np.max(values, where=np.isfinite(values), initial=0))


def _rgb_strip(image, white):
    if image.mode[0] in "IF":  # 16 and 32 bits a pixel, which Pillow would clip to 255
        pixels = np.nan_to_num(np.asarray(image, dtype=np.float32))
        image = Image.fromarray((pixels.clip(0, white) * (255 / white)).astype(np.uint8))
    if image.has_transparency_data:  # a browser shows it on white, and so will the page
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
