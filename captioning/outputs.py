"""Where captions go: standard output, a file that grows by whole lines, or a text file beside each photo.

All three have `name`, by which a photo stands in the output; `begin`, which raises `ValueError` for what would go wrong
and returns the names of the photos that are done; `add`, which takes triples of photo, caption and natural
log-probability; and `finish`, which takes a function that gives a name's place in the order, and how many captions all
processes of this run have found.
"""

import csv
import glob
import io
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


def printable(text):
    """`text` on one line, without tabs or anything that a terminal would obey."""
    control = r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"  # the last are bytes that are not UTF-8
    return re.sub(control, lambda character: character[0].encode("unicode_escape").decode(), text)


@dataclass(frozen=True)
class Format:
    """How captions become lines.

    `name` gives the name by which a photo stands in its line, `line` makes the line of name, caption and
    log-probability, without its `end`, and `name_in` finds the name in a line.
    """

    line: Callable
    name_in: Callable
    name: Callable = str
    header: str = ""
    end: str = "\n"

    def lines(self, captions):
        return "".join(self.line(self.name(photo), *rest) + self.end for photo, *rest in captions)


def csv_line(*values):
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()


def image_id(photo):
    """COCO's number where the file is named by it (COCO_val2014_000000000042.jpg, 42.jpg), else the file's name."""
    number = re.fullmatch(r"(?:COCO_\w+_)?(\d+)", Path(photo).stem)
    return int(number[1]) if number else Path(photo).name


FORMATS = {
    ".tsv": Format(
        line=lambda name, caption, _: f"{name}\t{caption}",
        name_in=lambda line: line.partition("\t")[0],
        name=printable,
    ),
    ".jsonl": Format(
        line=lambda name, caption, score: json.dumps({"file": name, "caption": caption, "log_probability": score}),
        name_in=lambda line: json.loads(line)["file"],
    ),
    ".csv": Format(
        line=csv_line,
        name_in=lambda line: next(csv.reader([line]))[0],
        header="file,caption,log_probability\r\n",
        end="\r\n",  # a name may hold a line break
    ),
    ".json": Format(  # https://cocodataset.org/#format-results
        line=lambda name, caption, _: json.dumps({"image_id": name, "caption": caption}),
        name_in=lambda line: json.loads(line)["image_id"],
        name=image_id,
    ),
}


def imagefolder(file):
    """The `Format` of an imagefolder's metadata.jsonl, which names photos as they lie below it."""
    folder = file.resolve().parent

    def name(photo):
        path = Path(photo).resolve()
        if folder not in path.parents:
            raise ValueError(f"--output {file}: {photo} does not lie below it; write metadata.jsonl above the photos.")
        return path.relative_to(folder).as_posix()

    return Format(
        line=lambda name, caption, _: json.dumps({"file_name": name, "text": caption}),
        name_in=lambda line: json.loads(line)["file_name"],
        name=name,
    )


def check_names(photos, name, output):
    """Raises `ValueError` where two photos would have one name in the output."""
    first = {}
    for photo in photos:
        if first.setdefault(name(photo), photo) != photo:
            raise ValueError(f"{output}: {first[name(photo)]} and {photo} would share a name; choose another output.")


class Printed:
    """Captions as lines on standard output."""

    def __init__(self, suffix):
        self.format, self.name = FORMATS[suffix], str

    def begin(self, photos, resume):
        return set()

    def add(self, captions):
        sys.stdout.write(self.format.lines(captions))
        sys.stdout.flush()

    def finish(self, position, found):
        pass


class TextFiles:
    """Each caption in a text file of its photo's name beside it, as trainers of text-to-image models read them."""

    def name(self, photo):
        return str(Path(photo).with_suffix(".txt"))

    def begin(self, photos, resume):
        check_names(photos, self.name, "--txt")
        done = {self.name(photo) for photo in photos if os.path.exists(self.name(photo))}
        if done and not resume:
            raise ValueError(f"{min(done)} exists, {len(done)} such in all; keep them by --resume, or remove them.")
        return done

    def add(self, captions):
        for photo, caption, _ in captions:
            part = Path(f"{self.name(photo)}.part")
            part.write_text(caption + "\n", encoding="utf-8")
            part.replace(self.name(photo))

    def finish(self, position, found):
        pass


class CaptionFile:
    """A file with each photo once, in order, whose name says its format.

    It grows by whole lines, one write for each `add`. Where it could not be read until it is whole (COCO's list), and
    where several processes write, each of them fills a file .partN beside it, and `finish` puts them together.
    """

    def __init__(self, path, process=0, processes=1):
        self.path, self.file, self.resumed = Path(path), None, False
        if self.path.name == "metadata.jsonl":
            self.format = imagefolder(self.path)
        elif self.path.suffix in FORMATS:
            self.format = FORMATS[self.path.suffix]
        else:
            raise ValueError(f"--output {path}: end the name with {', '.join(FORMATS)}.")
        self.name = self.format.name
        self.is_list = self.path.suffix == ".json"
        self.growing = Path(f"{path}.part{process}") if self.is_list or processes > 1 else self.path

    def begin(self, photos, resume):
        if not self.path.parent.is_dir():
            raise ValueError(f"--output {self.path}: the folder does not exist; make it first.")
        check_names(photos, self.name, f"--output {self.path}")
        files = self._files()
        if files and not resume:
            raise ValueError(f"{files[0]} exists; go on with it by --resume, or give another name.")
        self.resumed = bool(files)
        return set(self._lines(files))

    def add(self, captions):
        if self.file is None:
            self.file = self._opened()
        lines = memoryview(self._bytes(self.format.lines(captions)))
        try:
            while lines:  # a disk that gets full takes a part of them, and refuses the next
                lines = lines[self.file.write(lines) :]
        except OSError as error:
            raise OSError(f"{self.growing} cannot grow ({error.strerror}); make room, then --resume.") from error

    def finish(self, position, found):
        files = self._files()
        if files == [self.path] and not self.resumed:
            return
        lines = self._lines(files)
        if len(lines) < found:
            raise ValueError(
                f"{self.path} lacks {found - len(lines)} captions, which lie on other machines; bring their .part files"
                " into its folder, then --resume."
            )
        lines = [lines[name] for name in sorted(lines, key=position)]
        if self.is_list:
            text = "[\n" + ",\n".join(lines) + "\n]\n"
        else:
            text = self.format.header + "".join(line + self.format.end for line in lines)
        whole = Path(f"{self.path}.tmp")
        whole.write_bytes(self._bytes(text))
        whole.replace(self.path)
        for file in files:
            if file != self.path:
                file.unlink()

    def _files(self):
        """Those of this or an earlier run that hold captions."""
        parts = sorted(self.path.parent.glob(f"{glob.escape(self.path.name)}.part*"))
        return [file for file in (self.path, *parts) if file.exists()]

    def _lines(self, files):
        """{name: line} of the whole lines in the files."""
        lines = {}
        for file in files:
            text = file.read_bytes().decode("utf-8", "surrogateescape")
            try:
                if self.is_list and file == self.path:
                    found = [json.dumps(row) for row in json.loads(text)]
                else:
                    found = text.removeprefix(self.format.header).split(self.format.end)[:-1]
                lines |= {self.format.name_in(line): line for line in found}
            except (ValueError, KeyError, TypeError, IndexError, StopIteration) as error:
                raise ValueError(f"{file} holds something else than captions; give another name.") from error
        return lines

    def _opened(self):
        """The growing file, without what a killed run left of a line."""
        if self.growing.exists():
            head, end, _ = self.growing.read_bytes().rpartition(self.format.end.encode())
            os.truncate(self.growing, len(head + end))
        file = open(self.growing, "ab", buffering=0)  # noqa: SIM115 - open until the process ends
        if not file.tell():
            file.write(self.format.header.encode())
        return file

    @staticmethod
    def _bytes(text):
        return text.encode("utf-8", "surrogateescape")
