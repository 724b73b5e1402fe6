"""Many photos on the command line: where they come from, where captions go, interruptions, several processes."""

import csv
import functools
import json
import os
import resource
import shutil
import subprocess
import sys

import pytest
from datasets import load_dataset
from PIL import Image, ImageChops, ImageStat

from caption import main
from captioning.command_line.outputs import CaptionFile
from modeling_captioner import open_photo
from tests.helpers.paths import ROOT
from tests.helpers.programs import run_python, start_python

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def run_here(capsys, learnt_captioner):
    """Caption in this process. Returns exit status, lines of standard output, lines of standard error."""

    def run_here(*arguments):
        status = main([*map(str, arguments), "--model", str(learnt_captioner), "--engine", "torch"])
        lines, errors = capsys.readouterr()
        return status, lines.splitlines(), errors.splitlines()

    return run_here


@pytest.fixture
def captions(files, drawn_photos):
    """{path: caption} of the drawn photos as files."""
    return {str(file): caption for file, (_, caption) in zip(files, drawn_photos, strict=True)}


def rows_in(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_every_format_is_read_by_its_readers(captions, tmp_path, run_here):
    """JSONL and CSV by Python, metadata.jsonl by `datasets`, COCO's results by its own reader."""
    for name in ("a.jsonl", "a.csv", "a.tsv", "metadata.jsonl", "a.json"):
        assert run_here(tmp_path, "--output", tmp_path / name, "--batch_size", 3) == (0, [], [])
    expected = list(captions.items())
    assert [(row["file"], row["caption"]) for row in rows_in(tmp_path / "a.jsonl")] == expected
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [(row["file"], row["caption"]) for row in rows] == expected
    assert all(-20 < float(row["log_probability"]) < 0 for row in rows)
    assert (tmp_path / "a.tsv").read_text() == "".join(f"{path}\t{caption}\n" for path, caption in expected)
    (tmp_path / "a.csv").unlink()  # an imagefolder has one file of metadata
    images = load_dataset("imagefolder", data_dir=str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    assert sorted(images["text"]) == sorted(captions.values())
    results = json.loads((tmp_path / "a.json").read_text())
    assert results == [{"image_id": number, "caption": caption} for number, caption in enumerate(captions.values())]


def test_a_text_file_beside_each_photo(captions, files, run_here):
    """With the words that a trainer wants around each caption; what somebody wrote there is kept."""
    files[2].with_suffix(".txt").write_text("by hand\n")
    status, lines, (error,) = run_here(*files, "--txt")
    assert (status, lines) == (1, [])
    assert error.startswith(f"error: {files[2].with_suffix('.txt')} exists")
    words = ("--prefix", "photo of ", "--suffix", ", drawn")
    assert run_here(*files, "--txt", "--resume", *words) == (0, [], [])
    texts = {str(file): file.with_suffix(".txt").read_text() for file in files}
    expected = {path: f"photo of {caption}, drawn\n" for path, caption in captions.items()}
    assert texts == expected | {str(files[2]): "by hand\n"}


def test_photos_by_pattern_list_and_standard_input(captions, files, tmp_path, run_here, monkeypatch):
    (tmp_path / "sub").mkdir()
    below = tmp_path / "sub" / "9.png"
    shutil.copy(files[0], below)
    lines = [f"{path}\t{caption}" for path, caption in captions.items()]
    last = f"{below}\t{captions[str(files[0])]}"
    assert run_here(tmp_path, "--recursive") == (0, [*lines, last], [])
    assert run_here(tmp_path, "--no-recursive") == (0, lines, [])
    assert run_here(tmp_path / "[12].png", tmp_path / "s*") == (0, [*lines[1:3], last], [])
    assert run_here(tmp_path / "**" / "9.png") == (0, [last], [])
    (tmp_path / "list").write_text(f"{files[3]}\n\n{files[1]}\n")
    assert run_here("--list", tmp_path / "list") == (0, [lines[3], lines[1]], [])
    status, _, (error,) = run_here("--list", tmp_path / "missing")
    assert status == 1
    assert "missing" in error
    for between, arguments in ((b"\0", ["-"]), (b"\n", ["--list", "-"])):
        (tmp_path / "list").write_bytes(between.join(map(os.fsencode, files[:2])))
        with (tmp_path / "list").open() as stdin:
            monkeypatch.setattr("sys.stdin", stdin)
            assert run_here(*arguments) == (0, lines[:2], [])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_lists_of_windows(captions, files, tmp_path, run_here, monkeypatch, encoding):
    """With a byte order mark, in UTF-16, with carriage returns, and with photos in folders of several languages."""
    below = tmp_path / "ảnh 照片" / "0.png"
    below.parent.mkdir()
    shutil.copy(files[0], below)
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "list").write_bytes(f"{mark}{files[1]}\r\n{below}\r\n\r\n{files[2]}\r\n".encode(encoding))
    first, second = (f"{path}\t{captions[str(path)]}" for path in files[1:3])
    lines = [first, f"{below}\t{captions[str(files[0])]}", second]
    assert run_here("--list", tmp_path / "list") == (0, lines, [])
    with (tmp_path / "list").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert run_here("-") == (0, lines, [])


def test_what_is_no_list_of_paths_captions_nothing(files, tmp_path, run_here, monkeypatch):
    """Split at the NULs of UTF-16 or of a picture, "." would be the whole folder and "/" the whole disk."""
    monkeypatch.chdir(tmp_path)
    for content in ("./0.png\r\n", "./1.png", "C:\\照片\\1.jpg\r\n", "./0.png\n/"):
        for encoding in ("utf-16-le", "utf-16-be"):
            (tmp_path / "list").write_bytes(content.encode(encoding))
            error = "error: list is not a list of paths in UTF-8; save it as UTF-8."
            assert run_here("--list", "list") == (1, [], [error])
    assert run_here("--list", "0.png") == (1, [], ["error: 0.png is not a list of paths in UTF-8; save it as UTF-8."])
    (tmp_path / "list").write_bytes("./0.png".encode("utf-16")[:-1])
    assert run_here("--list", "list") == (1, [], [error])
    (tmp_path / "a").mkdir()
    shutil.copy(files[0], tmp_path / "a")
    (tmp_path / "list").write_bytes(b"a\0")
    status, lines, errors = run_here("--list", "list")
    assert (status, len(lines), errors) == (0, 1, []), "a folder whose name is one letter"


def test_a_data_set(drawn_set, drawn_photos, tmp_path, run_here):
    """Streamed, with the row's number as its name; --resume skips the rows that are done."""
    expected = [(f"validation/{number}", caption) for number, (_, caption) in enumerate(drawn_photos)]
    given = ("--dataset_name", drawn_set, "--split", "validation", "--output", tmp_path / "a.jsonl")
    assert run_here(*given) == (0, [], [])
    rows = rows_in(tmp_path / "a.jsonl")
    assert [(row["file"], row["caption"]) for row in rows] == expected
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[3:]))
    assert run_here(*given, "--resume") == (0, [], [])
    assert [(row["file"], row["caption"]) for row in rows_in(tmp_path / "a.jsonl")] == expected
    status, _, (error,) = run_here(*given, "--resume", "--image_column", "picture")
    assert status == 1
    assert "has no column 'picture', only image, captions" in error


@pytest.mark.slow
@pytest.mark.parametrize(("name", "growing"), [("a.jsonl", "a.jsonl"), ("a.json", "a.json.part0")])
def test_killed_anywhere_and_resumed(captions, files, learnt_captioner, tmp_path, run_here, name, growing):
    """What was written is whole lines; the second run adds the rest, and each photo is there once, in order."""
    copies = [tmp_path / f"{number:03}.png" for number in range(100, 1000)]
    for number, copy in enumerate(copies):
        shutil.copy(files[number % len(files)], copy)
    options = ["--output", tmp_path / name, "--batch_size", 1, "--model", learnt_captioner]
    log = tmp_path / "log"
    process = start_python(ROOT / "caption.py", *copies, *options, stdout=log, stderr=log)
    while process.poll() is None:
        if (tmp_path / growing).exists() and (tmp_path / growing).read_bytes().count(b"\n") >= 3:
            process.kill()
            break
    process.wait()
    text = (tmp_path / growing).read_text()
    first = name == "a.json"  # whose part begins with a line that says what it is
    assert 3 - first <= len([json.loads(line) for line in text.splitlines()[first:]]) < len(copies)
    (tmp_path / growing).write_text(text[:-5])  # a power failure can leave less than a process does
    assert run_here(*copies, "--output", tmp_path / name)[0] == 1, "nothing is overwritten"
    assert run_here(*copies, "--output", tmp_path / name, "--resume") == (0, [], [])
    rows = json.loads((tmp_path / name).read_text()) if name == "a.json" else rows_in(tmp_path / name)
    expected = list(captions.values())
    assert [row["caption"] for row in rows] == [expected[number % len(files)] for number in range(len(copies))]
    assert [int(str(row.get("file", row.get("image_id")))[-7:].removesuffix(".png")) for row in rows] == list(
        range(100, 1000)
    )
    assert sorted(path.name for path in tmp_path.glob("a.json*")) == [name], "no part is left"


def test_a_full_disk_is_told_and_resumed(captions, files, learnt_captioner, tmp_path, run_here):
    """Also where it takes a part of the last captions: no end without a word."""
    whole = "".join(f"{path}\t{caption}\n" for path, caption in captions.items())
    most = len(whole) - 5
    options = ["--output", tmp_path / "a.tsv", "--model", learnt_captioner, "--engine", "torch"]
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (most, most))
    done = run_python(ROOT / "caption.py", *files, *options, before=limit)
    told = f"error: {tmp_path / 'a.tsv'} could not be written (File too large); free disk space, then use --resume.\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)
    assert (tmp_path / "a.tsv").read_text() == whole[:most]
    assert run_here(*files, "--output", tmp_path / "a.tsv", "--resume") == (0, [], [])
    assert (tmp_path / "a.tsv").read_text() == whole


def test_captions_on_another_machine_are_missed(tmp_path):
    """Machines whose folders have one name and are not one."""
    here, there = (CaptionFile(tmp_path / name / "a.tsv", process, 2) for process, name in enumerate(("here", "there")))
    for process, output in enumerate((here, there)):
        output.path.parent.mkdir()
        output.begin([], resume=False)
        output.add([(f"{process}.png", [("a dog", -1.0)])])
    with pytest.raises(ValueError, match=r"here/a\.tsv lacks 1 captions, which are on other machines"):
        here.finish(str, 2)
    there.part.rename(tmp_path / "here" / there.part.name)
    here.finish(str, 2)
    assert here.path.read_text() == "0.png\ta dog\n1.png\ta dog\n"


@pytest.mark.slow
def test_processes_share_the_photos(captions, files, learnt_captioner, tmp_path):
    """Two of `torchrun`, as `accelerate launch` starts them: one file in order, and bad photos named once."""
    (tmp_path / "3a.png").write_text("no picture")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, ROOT / "caption.py", tmp_path, "--output", tmp_path / "a.jsonl", "--model", learnt_captioner]
    done = subprocess.run([*map(str, command)], env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert [(row["file"], row["caption"]) for row in rows_in(tmp_path / "a.jsonl")] == list(captions.items())
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert errors == [
        f"error: {tmp_path / '3a.png'} is not a readable image; save it as JPEG or PNG.",
        "error: 1 of 9 photos could not be captioned.",
    ]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("a.xml", "the file name must end with .tsv, .jsonl, .csv, .json."),
        ("no/a.csv", "the folder does not exist; create it first."),
        ("sub/metadata.jsonl", "is outside its folder; write metadata.jsonl to a folder above the photos."),
        ("0.json", "contains something other than captions; give another name."),
    ],
)
def test_bad_outputs(captions, files, tmp_path, run_here, output, message):
    (tmp_path / "sub").mkdir()
    (tmp_path / "0.json").write_text('{"a": 1}')
    status, lines, (error,) = run_here(*files, "--output", tmp_path / output, "--resume")
    assert (status, lines) == (1, [])
    assert message in error


def test_two_photos_that_would_share_a_name(files, tmp_path, run_here):
    shutil.copy(files[0], tmp_path / "0.jpg")
    for output in (["--txt"], ["--output", tmp_path / "a.json"]):
        status, _, (error,) = run_here(files[0], tmp_path / "0.jpg", *output)
        assert status == 1
        assert f"{files[0]} and {tmp_path / '0.jpg'} would share a name" in error


def test_a_photo_in_several_spellings_is_captioned_once(captions, files, tmp_path, run_here, monkeypatch):
    """Through linked folders as well; a link to a photo has a caption of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "linked").symlink_to(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.png").symlink_to(files[0])
    spellings = ["0.png", "./0.png", files[0], "linked/0.png", "sub/../0.png", "1.png", "0.png", "b.png"]
    expected = [captions[str(files[0])], captions[str(files[1])], captions[str(files[0])]]
    assert run_here(*spellings, "--txt") == (0, [], [])
    assert [(tmp_path / name).read_text().strip() for name in ("0.txt", "1.txt", "b.txt")] == expected
    assert len(list(tmp_path.glob("*.txt"))) == 3
    for name, column in (("a.jsonl", "file"), ("metadata.jsonl", "file_name")):
        assert run_here(*spellings, "--output", name) == (0, [], [])
        assert [row[column] for row in rows_in(tmp_path / name)] == ["0.png", "1.png", "b.png"]


def test_photos_in_a_linked_subfolder_belong_to_the_folder(captions, files, tmp_path, run_here):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "sub").symlink_to(tmp_path)
    output = tmp_path / "set" / "metadata.jsonl"
    assert run_here(tmp_path / "set" / "sub" / "0.png", "--output", output) == (0, [], [])
    assert rows_in(output) == [{"file_name": "sub/0.png", "text": captions[str(files[0])]}]


def test_a_linked_output_stays_a_link(captions, files, tmp_path, run_here):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("a.tsv", "a.json", "metadata.jsonl"):
        link = tmp_path / name
        link.symlink_to(elsewhere / name)
        for given in (files[2:4], files):
            assert run_here(*given, "--output", link, "--resume") == (0, [], [])
            assert link.is_symlink()
        rows = (elsewhere / name).read_text()
        assert [rows.count(caption) for caption in captions.values()] == [1] * len(captions)
    files[0].with_suffix(".txt").symlink_to(elsewhere / "0.txt")
    assert run_here(files[0], "--txt") == (0, [], [])
    assert (elsewhere / "0.txt").read_text().strip() == captions[str(files[0])]
    assert sorted(file.name for file in elsewhere.iterdir()) == ["0.txt", "a.json", "a.tsv", "metadata.jsonl"]


def test_where_nothing_may_be_written_is_told_before_the_model_is_loaded(files, tmp_path, capsys):
    """/proc refuses root as well. The model's name is wrong, which would be told next."""

    def told(*arguments):
        assert main([*map(str, arguments), "--model", "no/such/model"]) == 1
        return capsys.readouterr().err

    with files[0].open() as photo:
        below_proc = f"/proc/self/fd/{photo.fileno()}"
        for arguments, option, folder in (
            ((*files, "--output", "/proc/a.csv"), "--output /proc/a.csv", "/proc"),
            ((files[0], "--attention", "/proc/a.png"), "--attention /proc/a.png", "/proc"),
            ((*files, "--output", files[1] / "a.csv"), f"--output {files[1]}/a.csv", files[1]),
            ((*files, below_proc, "--txt"), "--txt", "/proc/self/fd"),
        ):
            assert told(*arguments).startswith(f"error: {option}: {folder} is not a writable folder (")
    (tmp_path / "linked.csv").symlink_to("/proc/a.csv")
    assert "/proc is not a writable folder (" in told(*files, "--output", tmp_path / "linked.csv")
    (tmp_path / "folder.csv").mkdir()
    assert "folder.csv is not a writable file; " in told(*files, "--output", tmp_path / "folder.csv", "--resume")
    assert "no/such/model" in told(*files, "--output", tmp_path / "a.csv")
    assert not (tmp_path / "a.csv").exists()
    if os.geteuid():
        tmp_path.chmod(0o500)
        for output in (["--txt"], ["--output", tmp_path / "a.csv"]):
            assert f"{tmp_path} is not a writable folder (Permission denied); choose another one." in told(
                *files, *output
            )


def test_a_disk_that_fills_up_under_text_files_is_told(files, run_here):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5, hard))
    try:
        status, _, (error,) = run_here(*files, "--txt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status == 1
    assert error.endswith("0.txt could not be written (File too large); free disk space, then use --resume.")


@pytest.mark.parametrize("installed", [True, False])
def test_what_a_folder_holds_beside_photos_is_told_in_one_line(
    captions, files, drawn_photos, tmp_path, run_here, monkeypatch, installed
):
    """Linked subfolders are captioned, each folder once; RAW, and HEIC without pillow-heif, are counted."""
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    if not installed:
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    elsewhere.mkdir()
    shutil.copy(files[0], folder / "sub" / "0.png")
    shutil.copy(files[1], elsewhere / "1.png")
    for number in (2, 3):
        heif.from_pillow(drawn_photos[number][0]).save(elsewhere / f"{number}.heic", quality=-1, chroma=444)
    for name in ("a.dng", "b.CR2", "c.svg", "notes.txt", ".hidden.nef"):
        (elsewhere / name).touch()
    for name, target in (("links", elsewhere), ("a", "sub"), ("loop", folder), ("up", tmp_path), ("x.png", "missing")):
        (folder / name).symlink_to(target)
    expected = [(folder / "links" / "1.png", 1), (folder / "sub" / "0.png", 0)]
    if installed:
        expected[1:1] = [(folder / "links" / f"{number}.heic", number) for number in (2, 3)]
    lines = [f"{path}\t{captions[str(files[number])]}" for path, number in expected]
    status, told, (warning,) = run_here(folder)
    assert (status, told) == (0, lines)
    assert warning.startswith("warning: left out of the folders: 2 ")
    for reason in (
        "2 RAW (export as JPEG)",
        "1 SVG (save as JPEG or PNG)",
        "1 link to a folder above",
        "1 broken link",
    ):
        assert reason in warning
    assert ("2 HEIC (install pillow-heif)" in warning) != installed


def test_it_imports_only_what_it_uses(files, learnt_captioner):
    command = [sys.executable, "-X", "importtime", ROOT / "caption.py", files[0], "--model", learnt_captioner]
    done = subprocess.run([*map(str, command)], env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "transformers" in imported
    unwanted = {"datasets", "gradio", "matplotlib", "pandas", "pillow_heif", "pyarrow", "train", "captioning.drawing"}
    assert imported.isdisjoint(unwanted), imported & unwanted


@pytest.mark.parametrize("orientation", [1, 6])
def test_large_jpegs_are_decoded_small(tmp_path, orientation):
    """Never smaller than asked for; turned as EXIF says; what they show is the photo's own, but for its noise."""
    photo = Image.open(ROOT / "demo" / "examples" / "boats.jpg").resize((2400, 1600))
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo.save(tmp_path / "a.jpg", exif=exif)
    whole, small = open_photo(tmp_path / "a.jpg"), open_photo(tmp_path / "a.jpg", side=299)
    assert whole.size == ((2400, 1600) if orientation == 1 else (1600, 2400))
    assert small.size == tuple(side // 4 for side in whole.size)
    whole, small = (picture.resize((299, 299), Image.Resampling.BOX) for picture in (whole, small))
    error = ImageStat.Stat(ImageChops.difference(whole, small)).mean
    assert max(error) < 3
    assert open_photo(tmp_path / "a.jpg", side=1601).size == open_photo(tmp_path / "a.jpg").size
    given = Image.open(tmp_path / "a.jpg")
    open_photo(given, side=299)
    assert given.size == (2400, 1600), "a picture that the caller has stays as it is"
