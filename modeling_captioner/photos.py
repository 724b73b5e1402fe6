"""From photos to pixels: `open_photo`, which every entry point uses, and `to_pixel_values`."""

import contextlib
import importlib.util
import io
import os
import threading
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps

Source = str | os.PathLike | bytes | bytearray | memoryview | BinaryIO | Image.Image

# Common photo formats. Pillow's other formats are excluded because they run external programs (EPS), contain vector
# graphics (WMF), or are not used for photos. MPO, a JPEG with several images, is opened as JPEG.
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "TGA", "TIFF", "WEBP")
MAX_PIXELS = 50_000_000  # 200 MB when decoded, and twice that during conversion
URLS = ("http://", "https://", "data:")
MAX_DOWNLOAD = 100_000_000  # bytes
MAX_SIDE = 100_000  # Pillow allocates a pointer per row
HEIF_SUFFIXES = (".heic", ".heif", ".hif")  # read where pillow-heif is installed; phones write them
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # ISO/IEC 23008-12, annex B
LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # what a clone without git-lfs has in place of a file
# Limits (pixels, file size in bytes) at which slow decoders still finish within 5 seconds and 1 GB of memory.
SLOW_FORMATS = {
    "AVIF": (30_000_000, 30_000_000),
    "HEIF": (50_000_000, 50_000_000),
    "JPEG2000": (15_000_000, 12_000_000),
    "WEBP": (25_000_000, 100_000_000),
}
MAX_SCANS = 100  # per JPEG; usually 1, or 10 if progressive, and each scan covers all pixels
LARGE = 8_000_000  # pixels; larger images are decoded one at a time, so that concurrent requests fit in memory
STRIP = 1_000_000  # pixels converted at a time

_large_image_lock = threading.Lock()


class PhotoError(ValueError):
    """An image that cannot be captioned; the message is one sentence that names the image and the remedy."""


def open_photo(source: Source, *, max_pixels: int = MAX_PIXELS, side: int | None = None) -> Image.Image:
    """Open an image as it is displayed: first frame, EXIF orientation applied, in RGB.

    Args:
        source: path, bytes, binary file object or `PIL.Image.Image`.
        max_pixels: maximum width times height; larger images are rejected before they are decoded.
        side: side length in pixels that is sufficient. A much larger JPEG file is decoded at 1/2, 1/4 or 1/8 of its
            size, which is several times faster for 12 megapixels, and any image of more than 8 megapixels is
            downscaled; both sides stay at least this long.

    Returns a `PIL.Image.Image` in mode RGB. Raises [`PhotoError`].
    """
    name = _name(source)
    try:
        # Pillow may warn of harmless metadata; threads cannot ignore that without changing the filters of all others.
        return _decode(source, name, max_pixels, side)
    except PhotoError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # or where warnings are errors
        raise PhotoError(f"{name} has too many pixels; make it smaller.") from error
    except MemoryError as error:
        raise PhotoError(f"{name} needs more memory than is available; make it smaller.") from error
    except Exception as error:  # Pillow's decoders raise almost any built-in exception for damaged files
        raise PhotoError(f"{name} is damaged or incomplete; export it again as JPEG or PNG.") from error


def download_photo(url: str) -> bytes:
    """The file at a URL that begins with one of `URLS`. Raises [`PhotoError`]."""
    from http.client import HTTPException  # these take a while to import, and few photos need them
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=60) as response:
            return read_download(response, url)
    except PhotoError:
        raise
    except (OSError, ValueError, HTTPException) as error:
        raise PhotoError(f"{url[:100]} could not be downloaded ({error}); check the address.") from error


def read_download(file: BinaryIO, name: str) -> bytes:
    """Read a file that another computer sends. Raises [`PhotoError`] if it is larger than any photo."""
    data = file.read(MAX_DOWNLOAD + 1)
    if len(data) > MAX_DOWNLOAD:
        raise PhotoError(f"{name[:100]} is larger than {MAX_DOWNLOAD / 1e6:g} MB; make it smaller.")
    return data


def photo_suffixes() -> set[str]:
    """The suffixes of the files that `open_photo` reads, such as ".jpg"."""
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    return suffixes.union(HEIF_SUFFIXES) if importlib.util.find_spec("pillow_heif") else suffixes


def to_pixel_values(
    photo: Image.Image,
    *,
    size: dict[str, int],
    resample: int,
    rescale_factor: float,
    image_mean: list[float],
    image_std: list[float],
    **_: Any,
) -> np.ndarray:
    """Resize and normalize a photo, an RGB `PIL.Image.Image`, exactly as `CaptionerProcessor` does.

    The other arguments are those of the image processor in processor_config.json. Returns (3, height, width), float32.
    """
    pixels = np.asarray(photo.resize((size["width"], size["height"]), resample))
    pixels = (pixels * np.float64(rescale_factor)).astype(np.float32)  # (height, width, 3)
    return ((pixels - np.float32(image_mean)) / np.float32(image_std)).transpose(2, 0, 1)


def _name(source):
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return str(getattr(source, "filename", None) or getattr(source, "name", None) or "The photo")


def _open(source, name):
    """Open the image lazily: its size is known, but its pixels are not decoded yet."""
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, bytes | bytearray | memoryview):
        source = io.BytesIO(source)
    elif isinstance(source, str | os.PathLike):
        if not os.path.exists(source):
            raise PhotoError(f"{name} does not exist; check the path.")
        if not os.path.isfile(source):
            raise PhotoError(f"{name} is not a file; give the path of an image.")
        if not os.path.getsize(source):
            raise PhotoError(f"{name} is empty; export it again as JPEG or PNG.")
        if not os.access(source, os.R_OK):
            raise PhotoError(f"{name} cannot be read; check its permissions.")
    try:
        return Image.open(source, formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        start = _read_start(source)
        if start[4:8] == b"ftyp" and start[8:12] in HEIF_BRANDS:
            return _open_heif(source, name)
        if start.startswith(LFS_POINTER):
            raise PhotoError(f"{name} is a pointer of Git LFS, not the photo; run git lfs pull.") from error
        raise PhotoError(f"{name} is not a readable image; save it as JPEG or PNG.") from error


def _read_start(source):
    with contextlib.nullcontext(source) if hasattr(source, "read") else open(source, "rb") as file:
        file.seek(0)
        start = file.read(len(LFS_POINTER))
        file.seek(0)
    return start


def _open_heif(source, name):
    try:
        from pillow_heif import HeifImageFile  # which takes 0.4 s, and few photos need it
    except ImportError as error:
        raise PhotoError(f"{name} is a HEIC photo; install pillow-heif to read it, or save it as JPEG.") from error
    return HeifImageFile(source)  # not by `register_heif_opener`, which changes `Image.open` for everybody


def _decode(source, name, max_pixels, side):
    image = _open(source, name)
    _check_size(image, name, max_pixels)
    if side and image is not source:
        image.draft(None, (side, side))
    with _large_image_lock if image.width * image.height > LARGE else contextlib.nullcontext():
        image.load()
        image = _apply_orientation(image)  # one name, so that the previous image is freed at each step
        image = _to_rgb(image)
        if side and image.width * image.height > LARGE:
            image = image.reduce(max(1, min(image.size) // side))
    return image


def _check_size(image, name, max_pixels):
    """Raise `PhotoError` for an image that would take too much time or memory to decode."""
    width, height = image.size
    pixels, size = SLOW_FORMATS.get(image.format, (max_pixels, None))
    pixels = min(pixels, max_pixels)
    if width * height > pixels:
        raise PhotoError(
            f"{name} has {width} x {height} pixels, more than the {pixels / 1e6:g} million allowed; make it smaller."
        )
    if max(width, height) > MAX_SIDE:
        raise PhotoError(f"{name} has {width} x {height} pixels, more than {MAX_SIDE} on a side; make it smaller.")
    file = getattr(image, "fp", None)  # None once the image is decoded
    if file and size and file.seek(0, os.SEEK_END) > size:
        raise PhotoError(f"{name} is larger than {size / 1e6:g} MB; save it as JPEG.")
    if file and image.format in ("JPEG", "MPO") and _count_scans(file) > MAX_SCANS:
        raise PhotoError(f"{name} has more than {MAX_SCANS} scans; export it again as JPEG or PNG.")


def _count_scans(file):
    """The number of scans of a JPEG file; the marker is always escaped within compressed data."""
    file.seek(0)
    return sum(block.count(b"\xff\xda") for block in iter(lambda: file.read(2**20), b""))


def _apply_orientation(image):
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # corrupt EXIF raises almost any exception, and the image itself is intact
        return image


def _to_rgb(image):
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    white = 65535  # value of white for pixels with more than 8 bits
    if image.mode == "F":
        white = max(max(_max_finite(strip) for _, strip in _strips(image)), 1e-6)
    photo = Image.new("RGB", image.size)
    for box, strip in _strips(image):
        photo.paste(_strip_to_rgb(strip, white), box)
    return photo


def _strips(image):
    """Split the image into strips, which take less memory to convert: pairs of (box, strip)."""
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        yield box, image.crop(box)


def _max_finite(image):
    values = np.asarray(image)
    return float(np.max(values, where=np.isfinite(values), initial=0))


def _strip_to_rgb(image, white):
    if image.mode[0] in "IF":  # 16 or 32 bits per pixel, which Pillow would clip to 255
        pixels = np.nan_to_num(np.asarray(image, dtype=np.float32))
        image = Image.fromarray((pixels.clip(0, white) * (255 / white)).astype(np.uint8))
    if image.has_transparency_data:  # rendered on white, as in a browser
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
