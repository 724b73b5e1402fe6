"""The photos in a folder, and what is left out of them: `list_photos`."""

import collections
import mimetypes
import os

from modeling_captioner.photos import HEIF_SUFFIXES, photo_suffixes

RAW_SUFFIXES = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw", ".x3f")


def list_photos(
    folder: str | os.PathLike, recursive: bool = True, follow_links: bool = True
) -> tuple[list[str], collections.Counter]:
    """List the photos in a folder and its subfolders, sorted, without hidden ones.

    Linked subfolders are included, but no folder is listed twice, and none that contains `folder` itself.

    Returns the paths, and a `collections.Counter` of what is left out, by reason.
    """
    photos: list[str] = []
    left_out: collections.Counter = collections.Counter()
    suffixes = photo_suffixes()
    root, listed = os.path.realpath(folder), set()
    folders = [os.fspath(folder)]
    links: collections.deque = collections.deque()
    while folders or links:  # links last, so that photos are listed where they are
        place = folders.pop() if folders else links.popleft()
        real = os.path.realpath(place)
        if real in listed:
            continue
        if root != real and os.path.commonpath([root, real]) == real:
            left_out["link to a folder above"] += 1
            continue
        listed.add(real)
        try:
            entries = [entry for entry in os.scandir(place) if not entry.name.startswith(".")]
        except OSError:
            left_out["folder that cannot be read"] += 1
            continue
        for entry in entries:
            if not entry.is_dir():
                if reason := _why_left_out(entry, suffixes):
                    left_out[reason] += 1
                elif os.path.splitext(entry.name)[1].lower() in suffixes:
                    photos.append(entry.path)
            elif recursive and not entry.is_symlink():
                folders.append(entry.path)
            elif recursive and follow_links:
                links.append(entry.path)
            elif recursive:
                left_out["linked folder (move it here)"] += 1
    return sorted(photos, key=lambda path: path.split(os.sep)), left_out


def _why_left_out(file, suffixes):
    """Why a picture is left out; None for photos, and for what is no picture."""
    suffix = os.path.splitext(file.name)[1].lower()
    if suffix in suffixes:
        return None if file.is_file() else "broken link" if file.is_symlink() else "not a regular file"
    if suffix in HEIF_SUFFIXES:
        return "HEIC (install pillow-heif)"
    if suffix in RAW_SUFFIXES:
        return "RAW (export as JPEG)"
    if (mimetypes.guess_type(file.name)[0] or "").startswith("image/"):
        return f"{suffix[1:].upper()} (save as JPEG or PNG)"
    return None


def describe(left_out: collections.Counter) -> str:
    """The `collections.Counter` of `list_photos` as text, such as "3 RAW (export as JPEG), 1 broken link"."""
    return ", ".join(f"{count} {reason}" for reason, count in left_out.most_common())
