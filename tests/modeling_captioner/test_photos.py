"""Opening images of all formats with `open_photo`."""

import base64
import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from transformers import AutoProcessor

from captioning.sources import read_row
from modeling_captioner import CaptionerProcessor, PhotoError, open_photo
from tests.helpers.paths import ROOT
from tests.helpers.photo_server import EndlessServer
from train.data.download import fetch, make_client

RED, GREEN, BLUE, WHITE, BLACK, GRAY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255,) * 3, (0,) * 3, (128,) * 3
SQUARE = 16  # pixels, the size of a JPEG block with chroma subsampling
UPRIGHT = np.array([[RED, GREEN, BLUE], [WHITE, BLACK, GRAY]], dtype=np.uint8)
# How a rotated camera stores the image (EXIF 2.3, section 4.6.4 A, tag 274).
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2),
    6: np.rot90(UPRIGHT, 1),
    7: UPRIGHT[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(UPRIGHT, -1),
}


def squares(colors):
    """An image of squares, each of a single color."""
    return Image.fromarray(np.kron(colors, np.ones((SQUARE, SQUARE, 1), dtype=np.uint8)))


def colors(photo):
    """The colors at the centers of the squares."""
    return np.asarray(photo)[SQUARE // 2 :: SQUARE, SQUARE // 2 :: SQUARE].astype(int)


def assert_upright(photo, tolerance=0):
    assert photo.mode == "RGB"
    np.testing.assert_allclose(colors(photo), UPRIGHT, atol=tolerance)


def saved(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_photos_are_turned_as_their_exif_says(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"subsampling": 0, "quality": 95}, "WEBP": {"lossless": True}}.get(kind, {})
    photo = open_photo(saved(squares(STORED[orientation]), kind, exif=exif, **options))
    assert_upright(photo, tolerance=8 if kind == "JPEG" else 0)
    assert_upright(open_photo(photo), tolerance=8)  # opening it again does not rotate it again


def test_a_picture_with_garbled_exif_is_shown_as_it_is():
    assert_upright(open_photo(saved(squares(UPRIGHT), "PNG", exif=b"Exif\0\0MM\0\x2a\0\0\0\x08\xff\xff nonsense")))


def test_sources(tmp_path):
    """Paths, bytes, file objects and images give the same photo; a file object is left open."""
    path = tmp_path / "photo.png"
    squares(UPRIGHT).save(path)
    content = path.read_bytes()
    with open(path, "rb") as file, Image.open(path) as picture:
        for source in (path, str(path), content, bytearray(content), memoryview(content), io.BytesIO(content), file):
            assert_upright(open_photo(source))
        assert_upright(open_photo(picture))
        assert not file.closed


@pytest.mark.parametrize(
    "kind", ["AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "TGA", "TIFF", "WEBP"]
)
def test_formats(kind):
    options = {"sizes": [(48, 32)]} if kind == "ICO" else {}
    assert_upright(open_photo(saved(squares(UPRIGHT), kind, **options)), tolerance=40)


def test_a_cameras_file_of_several_photos():
    """MPO: a JPEG followed by others, which phones write for depth maps and stereo photos."""
    second = squares(UPRIGHT[::-1])
    photo = saved(squares(UPRIGHT), "MPO", save_all=True, append_images=[second], quality=95, subsampling=0)
    assert_upright(open_photo(photo), tolerance=8)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_picture_of_several(kind):
    frames = [squares(np.roll(UPRIGHT, shift, axis=1)) for shift in (1, 2)]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = saved(squares(UPRIGHT), kind, save_all=True, append_images=frames, **options)
    assert Image.open(io.BytesIO(content)).n_frames == 3
    assert_upright(open_photo(content), tolerance=1)


def grays(values):
    return np.repeat(np.array(values)[..., None], 3, axis=-1)


def test_palette():
    assert_upright(open_photo(saved(squares(UPRIGHT).quantize(8), "PNG")), tolerance=1)


def test_what_is_transparent_is_white():
    """As in a browser, whether transparency is a channel, in the palette, or a color."""
    channel = squares(UPRIGHT).convert("RGBA")
    channel.putalpha(Image.fromarray(np.full((32, 48), 255, dtype=np.uint8)))
    channel.paste((255, 0, 0, 0), (0, 0, 16, 16))
    channel.paste((0, 0, 255, 128), (32, 0, 48, 16))
    seen = colors(open_photo(saved(channel, "PNG")))
    assert seen[0].tolist() == [[255, 255, 255], [0, 255, 0], [127, 127, 255]]
    palette = squares(UPRIGHT).quantize(8)
    seen = colors(open_photo(saved(palette, "PNG", transparency=palette.getpixel((0, 0)))))
    np.testing.assert_allclose(seen[0], [WHITE, GREEN, BLUE], atol=1)
    seen = colors(open_photo(saved(squares(UPRIGHT), "PNG", transparency=RED)))
    assert seen[0].tolist() == [list(WHITE), list(GREEN), list(BLUE)]
    gray = Image.merge("LA", [Image.new("L", (16, 16), 0), Image.new("L", (16, 16), 0)])
    assert colors(open_photo(saved(gray, "PNG"))).tolist() == [[[255, 255, 255]]]


def test_gray_and_black_and_white():
    values = np.array([[0, 100, 255]], dtype=np.uint8)
    gray = Image.fromarray(np.kron(values, np.ones((SQUARE, SQUARE), dtype=np.uint8)))
    np.testing.assert_array_equal(colors(open_photo(saved(gray, "PNG"))), grays(values))
    two = gray.point(lambda value: 255 * (value > 50)).convert("1")
    for kind in ("PNG", "TIFF", "BMP"):
        np.testing.assert_array_equal(colors(open_photo(saved(two, kind))), grays([[0, 255, 255]]))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_keep_their_brightness(kind):
    """Pillow's own conversion would make everything above 255 of 65535 white."""
    values = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    deep = Image.fromarray(np.kron(values, np.ones((SQUARE, SQUARE), dtype=np.uint16)))
    seen = colors(open_photo(saved(deep, kind)))
    np.testing.assert_allclose(seen, grays([[0, 1, 128, 255]]), atol=1)


def test_floating_point():
    values = np.array([[0.0, 0.5, 1.0, np.nan]], dtype=np.float32)
    deep = Image.fromarray(np.kron(values, np.ones((SQUARE, SQUARE), dtype=np.float32)))
    np.testing.assert_allclose(colors(open_photo(saved(deep, "TIFF"))), grays([[0, 127, 255, 0]]), atol=1)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind):
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    assert_upright(open_photo(saved(squares(UPRIGHT).convert("CMYK"), kind, **options)), tolerance=10)


def assert_refused(source, message):
    with pytest.raises(PhotoError) as refusal:
        open_photo(source)
    assert str(refusal.value) == message


def test_what_is_no_picture_is_refused_by_name(tmp_path):
    missing, empty, text, page = (tmp_path / name for name in ("missing.jpg", "empty.jpg", "text.jpg", "page.eps"))
    empty.touch()
    text.write_text("no picture")
    squares(UPRIGHT).save(page)  # EPS is a program, which Pillow would give to Ghostscript
    assert_refused(missing, f"{missing} does not exist; check the path.")
    assert_refused(str(missing), f"{missing} does not exist; check the path.")
    assert_refused("", " does not exist; check the path.")
    assert_refused(tmp_path, f"{tmp_path} is not a file; give the path of an image.")
    assert_refused(empty, f"{empty} is empty; export it again as JPEG or PNG.")
    assert_refused(text, f"{text} is not a readable image; save it as JPEG or PNG.")
    assert_refused(page, f"{page} is not a readable image; save it as JPEG or PNG.")
    assert_refused(b"", "The photo is not a readable image; save it as JPEG or PNG.")
    with open(text, "rb") as file:
        assert_refused(file, f"{text} is not a readable image; save it as JPEG or PNG.")


@pytest.mark.parametrize("kind", ["AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_pictures_are_refused(kind, share, tmp_path):
    path = tmp_path / "photo"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = saved(Image.fromarray(noise), kind)
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        PhotoError, match=r"photo is (damaged or incomplete|not a readable image); .* as JPEG or PNG\.$"
    ):
        open_photo(path)


@pytest.fixture
def heic():
    """A function that encodes a picture as HEIC, as phones do."""
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")

    def encode(picture, **options):
        file = io.BytesIO()
        heif.from_pillow(picture).save(file, quality=-1, chroma=444, **options)
        return file.getvalue()

    return encode


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_heic(heic, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = heic(squares(STORED[orientation]), exif=exif.tobytes())
    (tmp_path / "photo.HEIC").write_bytes(content)
    for source in (tmp_path / "photo.HEIC", content, io.BytesIO(content)):
        assert_upright(open_photo(source), tolerance=10)


def test_a_damaged_heic_is_refused(heic, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = heic(Image.fromarray(noise))
    for share in (0.01, 0.1, 0.5, 0.9):
        (tmp_path / "photo").write_bytes(content[: int(share * len(content))])
        with pytest.raises(PhotoError, match=r"photo is (damaged or incomplete|not a readable image); .* JPEG or PNG"):
            open_photo(tmp_path / "photo")


def test_without_pillow_heif_the_remedy_is_named(heic, tmp_path, monkeypatch):
    (tmp_path / "photo.heic").write_bytes(heic(squares(UPRIGHT)))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    message = f"{tmp_path / 'photo.heic'} is a HEIC photo; install pillow-heif to read it, or save it as JPEG."
    assert_refused(tmp_path / "photo.heic", message)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert_refused(tmp_path / "pipe.png", f"{tmp_path / 'pipe.png'} is not a file; give the path of an image.")


def bomb(width, height):
    """A PNG that claims a size and contains almost nothing: decoding it would fill the memory, or find it damaged."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(10_000, 5_001))
    message = "has 10000 x 5001 pixels, more than the 50 million allowed; make it smaller."
    assert_refused(path, f"{path} {message}")
    assert_refused(path.read_bytes(), f"The photo {message}")
    path.write_bytes(bomb(60_000, 60_000))
    assert_refused(path, f"{path} has too many pixels; make it smaller.")
    path.write_bytes(bomb(10_000, 5_000))
    assert_refused(path, f"{path} is damaged or incomplete; export it again as JPEG or PNG.")
    squares(UPRIGHT).save(path)
    assert_upright(open_photo(path, max_pixels=48 * 32))
    with pytest.raises(PhotoError, match="48 x 32 pixels"):
        open_photo(path, max_pixels=48 * 32 - 1)


def phones_picture():
    """A photo stored sideways, as by a phone, whose upright pixels are `UPRIGHT`."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(squares(STORED[6]), "PNG", exif=exif)


def deep_picture():
    values = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    return saved(Image.fromarray(np.kron(values, np.ones((SQUARE, SQUARE), dtype=np.uint16))), "PNG")


def transparent_picture():
    picture = squares(UPRIGHT).convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, SQUARE, SQUARE))
    return saved(picture, "PNG")


@pytest.mark.parametrize("picture", [phones_picture, deep_picture, transparent_picture])
def test_the_processor_sees_what_open_photo_gives(tiny_captioner, tmp_path, picture):
    """For all types of input, and bit for bit as resized by Pillow."""
    _, processor = tiny_captioner()
    content, path = picture(), tmp_path / "photo.png"
    path.write_bytes(content)
    small = np.asarray(open_photo(content).resize((64, 64), Image.Resampling.BILINEAR))
    expected = ((small / 255 - 0.5) / 0.5).transpose(2, 0, 1)
    url = "data:image/png;base64," + base64.b64encode(content).decode()
    with open(path, "rb") as file:
        for source in (str(path), path, url, content, io.BytesIO(content), file, Image.open(path), [path], (path,)):
            pixel_values = processor(images=source, return_tensors="np").pixel_values
            np.testing.assert_allclose(pixel_values, expected[None], atol=1e-6)
    several = processor(images=[path, Image.open(path), open_photo(path), np.asarray(open_photo(path))])
    assert len(several["pixel_values"]) == 4
    for pixel_values in several["pixel_values"]:
        np.testing.assert_allclose(pixel_values, expected, atol=1e-6)


def test_a_loaded_processor_resizes_with_pillow(learnt_captioner):
    """Also if loaded by the Auto class. By default, transformers uses torchvision, where some values differ by 1."""
    photo = Image.effect_noise((640, 480), 80).convert("RGB")
    expected = np.asarray(photo.resize((64, 64), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    for kind in (CaptionerProcessor, AutoProcessor):
        pixel_values = kind.from_pretrained(learnt_captioner)(images=photo, return_tensors="np").pixel_values[0]
        np.testing.assert_array_equal(np.round((pixel_values + 1) * 127.5), expected)


def test_the_processor_names_a_photo_that_cannot_be_opened(tiny_captioner, tmp_path):
    _, processor = tiny_captioner()
    with pytest.raises(PhotoError, match=r"missing\.jpg does not exist; check the path"):
        processor(images=str(tmp_path / "missing.jpg"))
    with pytest.raises(PhotoError, match=r"http://127\.0\.0\.1:9/photo\.jpg could not be downloaded"):
        processor(images="http://127.0.0.1:9/photo.jpg")


def test_threads_leave_the_warnings_of_their_program_alone():
    """A picture whose EXIF Pillow warns about, opened in many threads at once."""
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0"
    picture = io.BytesIO()
    Image.new("RGB", (64, 64)).save(picture, "JPEG", exif=exif)
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        assert {photo.size for photo in pool.map(open_photo, [picture.getvalue()] * 200)} == {(64, 64)}
    assert warnings.filters == before
    with pytest.warns(UserWarning, match="still heard"):
        warnings.warn("still heard", stacklevel=1)


@pytest.mark.parametrize("side", [9_600, 14_000])
def test_too_many_pixels_are_told_where_warnings_are_errors(side):
    """Pillow warns of them above 89 million, and refuses twice as many."""
    picture = io.BytesIO()
    Image.new("1", (side, side)).save(picture, "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PhotoError, match="pixels"):
            open_photo(picture.getvalue())


def test_opening_heic_does_not_change_what_pillow_opens(heic, tmp_path):
    """In a process of its own, because other tests register the format."""
    (tmp_path / "photo.heic").write_bytes(heic(Image.new("RGB", (8, 8), "red")))
    code = (
        "import sys; from PIL import Image; from modeling_captioner import open_photo\n"
        "print(open_photo(sys.argv[1]).size)\n"
        "Image.init(); print('HEIF' in Image.OPEN)"
    )
    command = [sys.executable, "-c", code, tmp_path / "photo.heic"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split("\n") == ["(8, 8)", "False", ""]


def test_a_pointer_of_git_lfs_is_told(tmp_path):
    file = tmp_path / "photo.jpg"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    for source in (file, file.read_bytes()):
        with pytest.raises(PhotoError, match=r"is a pointer of Git LFS, not the photo; run git lfs pull\.$"):
            open_photo(source)


def test_endless_downloads_end(tiny_captioner):
    """A server that never stops sending: everywhere that photos are downloaded, after the size of no photo."""
    _, processor = tiny_captioner()
    with EndlessServer() as server:
        url = f"{server.address}/photo.jpg"
        for download in (
            lambda: processor(images=url, return_tensors="pt"),
            lambda: read_row({"path": url, "bytes": None}),
            lambda: fetch(make_client(1), url),
        ):
            with pytest.raises(PhotoError, match=rf"^{url} is larger than 100 MB; make it smaller\.$"):
                download()
    assert server.sent < 1_000_000_000
