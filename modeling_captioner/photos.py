"""Every photo of every door comes in here: `open_photo`."""

import io
import os
import warnings

import numpy as np
from PIL import Image, ImageOps

# What people's pictures come in. Pillow's other formats are left out because they start programs (EPS), describe
# drawings (WMF), or are not pictures that people take. MPO, a camera's JPEG of several, is opened as JPEG.
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "TGA", "TIFF", "WEBP")
MAX_PIXELS = 50_000_000  # decoded to 8-bit RGB this is 150 MB; converting takes three to four times as much


class PhotoError(ValueError):
    """A picture that cannot be captioned; its one sentence names the picture and the remedy."""


def open_photo(source, *, max_pixels=MAX_PIXELS):
    """Open a picture as people see it: first frame, turned as its EXIF says, in RGB.

    Args:
        source: path, bytes, binary file object or `PIL.Image.Image`.
        max_pixels: width times height above which a picture is refused before it is decoded.

    Returns a `PIL.Image.Image` in mode RGB. Raises [`PhotoError`].
    """
    name = _name(source)
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures and of garbled metadata: the one is checked here, the other harmless.
            warnings.simplefilter("ignore")
            image = _open(source, name)
            width, height = image.size
            if width * height > max_pixels:
                raise PhotoError(
                    f"{name} has {width} x {height} pixels, more than the {max_pixels / 1e6:g} million allowed;"
                    " make it smaller."
                )
            image.load()
            return _rgb(_turned(image))
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


def _turned(image):
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # garbled EXIF raises nearly anything, and the picture itself is whole
        return image


def _rgb(image):
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode[0] in "IF":  # 16 and 32 bits a pixel, which Pillow would clip to 255
        pixels = np.nan_to_num(np.asarray(image, dtype=np.float32))
        white = max(float(pixels.max(initial=0)), 1e-6) if image.mode == "F" else 65535
        image = Image.fromarray((pixels.clip(0, white) * (255 / white)).astype(np.uint8))
    if image.has_transparency_data:  # a browser shows it on white, and so will the page
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
