"""Caption outputs: standard output, one file, or text files next to each photo.

Every output has four methods: `name` returns the name of a photo in the output; `begin` raises `ValueError` if the
output cannot be written, and returns the names of the photos that are already done; `add` takes pairs of a photo and
its captions; `finish` takes a function that returns the position of a name in the order, and the number of photos
captioned by all processes of this run.

The captions of a photo are [`Caption`]s, one for each of `languages`.
"""

import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from captioning.coco import image_id
from captioning.errors import printable
from captioning.saving import write_file, writing
from captioning.spreadsheets import BYTE_ORDER_MARK, csv_line, parse_csv_line

REMEDY = "free disk space, then use --resume."


class Caption(NamedTuple):
    """A caption, its natural log-probability and its confidence from 0 to 1, None if the captioner gives none."""

    text: str
    log_probability: float
    confidence: float | None = None


Captions = list[Caption]


@dataclass(frozen=True)
class Format:
    """A line-based output format, with fields for each language.

    `name` returns the name of a photo in its line; `line` formats a name and its captions as a line without its `end`;
    `parse_name` returns the name in a line, and raises an error if its fields are not those of `line`.
    """

    line: Callable[[str, Captions], str]
    parse_name: Callable[[str], str]
    name: Callable = str
    header: str = ""
    end: str = "\n"

    def lines(self, captions: Iterable[tuple[str, Captions]]) -> str:
        named = ((self.name(photo), [Caption(*caption) for caption in found]) for photo, found in captions)
        return "".join(self.line(name, found) + self.end for name, found in named)


def make_format(suffix: str, languages: Sequence[str], calibrated: bool = False) -> Format:
    """The `Format` of files with this suffix. Raises `KeyError` for an unknown suffix.

    `calibrated`: whether the captioner gives a confidence, which is a column of CSV.
    """
    return {
        ".tsv": lambda: _tsv(len(languages) or 1),
        ".jsonl": lambda: _json_lines("file", "caption", languages, ("log_probability", "confidence")),
        ".csv": lambda: _csv(languages, calibrated),
        # cocodataset.org/#format-results
        ".json": lambda: _json_lines("image_id", "caption", languages, ("confidence",), name=image_id),
    }[suffix]()


SUFFIXES = (".tsv", ".jsonl", ".csv", ".json")


def fields(name: str, languages: Sequence[str]) -> list[str]:
    """The fields of a value that there is for each language: `caption`, or `caption_en` and `caption_vi`."""
    return [f"{name}_{language}" for language in languages] if len(languages) > 1 else [name]


def _tsv(captions: int) -> Format:
    def parse_name(line: str) -> str:
        name, *texts = line.split("\t")
        if len(texts) < captions:
            raise ValueError("a caption is missing")
        return name

    return Format(lambda name, found: "\t".join([name, *(text for text, *_ in found)]), parse_name, name=printable)


def _csv(languages: Sequence[str], calibrated: bool) -> Format:
    names = Caption._fields[1:] if calibrated else ["log_probability"]
    columns = zip(*(fields(name, languages) for name in ("caption", *names)), strict=True)
    header = csv_line("file", *(column for group in columns for column in group))
    return Format(
        line=lambda name, found: csv_line(name, *(value for caption in found for value in caption[: 1 + len(names)])),
        parse_name=lambda line: parse_csv_line(line)[0],
        header=f"{BYTE_ORDER_MARK}{header}\r\n",
        end="\r\n",  # a name may contain a line break
    )


def _json_lines(
    key: str, text: str, languages: Sequence[str], numbers: tuple[str, ...] = (), name: Callable = str
) -> Format:
    texts = fields(text, languages)

    def line(name, found):
        row = {key: name} | dict(zip(texts, (caption.text for caption in found), strict=True))
        for number in numbers:
            values = [getattr(caption, number) for caption in found]
            pairs = zip(fields(number, languages), values, strict=True)
            row |= {field: value for field, value in pairs if value is not None}
        return json.dumps(row)

    def parse_name(line: str) -> str:
        row = json.loads(line)
        for field in texts:
            row[field]  # raises an error if it is missing
        return row[key]

    return Format(line, parse_name, name)


def imagefolder(file: Path, languages: Sequence[str]) -> Format:
    """The `Format` of an imagefolder's metadata.jsonl, which names photos relative to its folder."""
    folder = file.parent

    def name(photo):
        # As it is spelled, a photo may be in a subfolder that is a link.
        for path, root in ((location(photo), os.path.realpath(folder)), map(os.path.abspath, (photo, folder))):
            if Path(root) in Path(path).parents:
                return Path(path).relative_to(root).as_posix()
        raise ValueError(
            f"--output {file}: {photo} is outside its folder; write metadata.jsonl to a folder above the photos."
        )

    return _json_lines("file_name", "text", languages, name=name)


def location(path: str | Path) -> str:
    """The same for all spellings of a path; a link to a photo has its own."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder or "."), name)


def without_repetitions(photos: list[str]) -> list[str]:
    """The paths without later ones of the same photo, whatever their spelling."""
    first: dict[str, str] = {}
    for photo in photos:
        first.setdefault(os.path.normcase(location(photo)), photo)
    return list(first.values())


def check_folder(folder: str | Path, option: str) -> None:
    """Raise `ValueError` if no file can be created in `folder`, before the captions are there to be lost."""
    if not os.path.exists(folder):
        raise ValueError(f"{option}: the folder does not exist; create it first.")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(
            f"{option}: {folder} is not a writable folder ({error.strerror}); choose another one."
        ) from error


def check_unique_names(photos: list[str], name: Callable, output: str) -> None:
    """Raise `ValueError` if two photos would have the same name in the output."""
    first: dict[str, str] = {}
    for photo in photos:
        if first.setdefault(name(photo), photo) != photo:
            raise ValueError(f"{output}: {first[name(photo)]} and {photo} would share a name; choose another output.")


class StandardOutput:
    """Prints captions as lines on standard output."""

    def __init__(self, suffix: str, languages: Sequence[str] = ()):
        self.format, self.name = make_format(suffix, languages), str

    def begin(self, photos: list[str], resume: bool) -> set[str]:
        return set()

    def add(self, captions: Iterable[tuple[str, Captions]]) -> None:
        sys.stdout.write(self.format.lines(captions))
        sys.stdout.flush()

    def finish(self, position: Callable, found: int) -> int | None:
        return None


class TextFiles:
    """Writes each caption to a .txt file next to its photo, as text-to-image trainers expect.

    Of several languages, each has files of its own: .en.txt, .vi.txt.
    """

    def __init__(self, languages: Sequence[str] = (), end: str = ".txt"):
        self.suffixes = [f".{language}{end}" for language in languages] if len(languages) > 1 else [end]

    def name(self, photo: str) -> str:
        return str(Path(photo).with_suffix(self.suffixes[-1]))  # which is written last

    def begin(self, photos: list[str], resume: bool) -> set[str]:
        check_unique_names(photos, lambda photo: location(self.name(photo)), "--txt")
        for folder in dict.fromkeys(os.path.dirname(photo) or "." for photo in photos if os.path.exists(photo)):
            check_folder(folder, "--txt")
        files = [Path(photo).with_suffix(suffix) for photo in photos for suffix in self.suffixes]
        existing = [str(file) for file in files if file.exists()]
        if existing and not resume:
            raise ValueError(
                f"{min(existing)} exists ({len(existing)} such files in total);"
                " keep them with --resume, or delete them."
            )
        return {self.name(photo) for photo in photos if os.path.exists(self.name(photo))}

    def add(self, captions: Iterable[tuple[str, Captions]]) -> None:
        for photo, found in captions:
            for suffix, (caption, *_) in zip(self.suffixes, found, strict=True):
                file = os.path.realpath(Path(photo).with_suffix(suffix))
                if not os.path.exists(file):  # of one of several languages
                    with writing(file, remedy=REMEDY):
                        write_file(file, f"{caption}\n".encode())

    def finish(self, position: Callable, found: int) -> int | None:
        return None


class CaptionFile:
    """Writes each photo once, in order, to a file whose suffix selects the format.

    Each `add` appends whole lines in one write. The COCO list, which is unreadable until complete, and runs with
    several processes write to .partN files next to the output, one per process, which `finish` merges. Their first line
    says what they are, so that no other files are merged and deleted.
    """

    def __init__(
        self,
        path: str | Path,
        process: int = 0,
        processes: int = 1,
        languages: Sequence[str] = (),
        calibrated: bool = False,
    ):
        self.path, self.resumed, self.processes = Path(path), False, processes
        self.file: BinaryIO | None = None
        if self.path.name == "metadata.jsonl":
            self.format = imagefolder(self.path, languages)
        elif self.path.suffix in SUFFIXES:
            self.format = make_format(self.path.suffix, languages, calibrated)
        else:
            raise ValueError(f"--output {path}: the file name must end with {', '.join(SUFFIXES)}.")
        self.name = self.format.name
        self.kind = f" in {' and '.join(languages)}" if languages else ""
        self.is_list = self.path.suffix == ".json"
        self.mark = f"A part of {self.path.name}, written by caption.py{self.format.end}"
        self.has_parts = self.is_list or processes > 1
        self.part = self._part(process) if self.has_parts else self.path

    def begin(self, photos: list[str], resume: bool) -> set[str]:
        for file in (self.path, self.path.resolve()):  # the merged file is written beside what a link points to
            check_folder(file.parent, f"--output {self.path}")
        check_unique_names(photos, self.name, f"--output {self.path}")
        files = self._files()
        if files and not resume:
            raise ValueError(f"{files[0]} exists; continue it with --resume, or give another name.")
        for file in files:
            if not file.is_file() or not os.access(file, os.W_OK):
                raise ValueError(f"{file} is not a writable file; change its permissions, or give another name.")
        for part in map(self._part, range(self.processes if self.has_parts else 0)):
            if part.exists() and part not in files:
                raise ValueError(f"{part} was not written by caption.py; move it away, or give another name.")
        self.resumed = bool(files)
        return set(self._lines(files))

    def add(self, captions: Iterable[tuple[str, Captions]]) -> None:
        lines = memoryview(self._encode(self.format.lines(captions)))
        with writing(self.part, remedy=REMEDY):
            if self.file is None:
                self.file = self._open()
            while lines:  # a disk that fills up accepts part of the data, then fails the next write
                lines = lines[self.file.write(lines) :]

    def finish(self, position: Callable, found: int) -> int | None:
        files = self._files()
        if files == [self.path] and not self.resumed:
            return None
        lines = self._lines(files)
        if len(lines) < found:
            raise ValueError(
                f"{self.path} lacks {found - len(lines)} captions, which are on other machines; copy their .part files"
                " to its folder, then use --resume."
            )
        ordered = [lines[name] for name in sorted(lines, key=position)]
        if self.is_list:
            text = "[\n" + ",\n".join(ordered) + "\n]\n"
        else:
            text = self.format.header + "".join(line + self.format.end for line in ordered)
        with writing(self.path.resolve(), remedy=REMEDY):
            write_file(self.path.resolve(), self._encode(text))
        for file in files:
            if file != self.path:
                file.unlink()
        return None

    def _part(self, process: int) -> Path:
        return Path(f"{self.path}.part{process}")

    def _files(self) -> list[Path]:
        """The existing files with captions, of this or an earlier run."""
        name = re.compile(re.escape(self.path.name) + r"\.part\d+")
        parts = sorted(file for file in self.path.parent.iterdir() if name.fullmatch(file.name) and self._is_part(file))
        return [*([self.path] if self.path.exists() else []), *parts]

    def _is_part(self, file: Path) -> bool:
        """Whether this program wrote the file; an empty one is left by a process killed at its first caption."""
        try:
            with file.open("rb") as opened:
                return opened.read(len(self._encode(self.mark))) in (b"", self._encode(self.mark))
        except OSError:
            return False

    def _lines(self, files: list[Path]) -> dict[str, str]:
        """Map names to the complete lines in the files."""
        lines: dict[str, str] = {}
        for file in files:
            text = file.read_bytes().decode("utf-8", "surrogateescape").removeprefix(self.mark)
            try:
                if self.is_list and file == self.path:
                    found = [json.dumps(row) for row in json.loads(text)]
                else:
                    found = self._without_header(text).split(self.format.end)[:-1]
                lines |= {self.format.parse_name(line): line for line in found}
            except (ValueError, KeyError, TypeError, IndexError, StopIteration) as error:
                raise ValueError(
                    f"{file} contains something other than captions{self.kind}; give another name."
                ) from error
        return lines

    def _without_header(self, text: str) -> str:
        header = self.format.header.removeprefix(BYTE_ORDER_MARK)
        rest = text.removeprefix(BYTE_ORDER_MARK)  # which earlier versions did not write
        if self.format.end in rest and not rest.startswith(header):
            raise ValueError("another header")
        return rest.removeprefix(header)

    def _open(self):
        """Open the file for appending, after removing the incomplete last line of a killed run."""
        if self.part.exists():
            head, end, _ = self.part.read_bytes().rpartition(self.format.end.encode())
            os.truncate(self.part, len(head + end))
        file = open(self.part, "ab", buffering=0)  # noqa: SIM115 - open until the process ends
        if not file.tell():
            file.write(self._encode((self.mark if self.has_parts else "") + self.format.header))
        return file

    @staticmethod
    def _encode(text: str) -> bytes:
        return text.encode("utf-8", "surrogateescape")
