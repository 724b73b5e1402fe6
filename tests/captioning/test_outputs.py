"""`captioning/command_line/outputs.py`: what is written, in one language or several, and what is never touched."""

import csv
import json

import pytest

from captioning.command_line.outputs import CaptionFile, StandardOutput, TextFiles
from captioning.spreadsheets import csv_line, parse_csv_line

DOG = [("a dog", -1.5), ("một con chó", -2.5)]  # in English and Vietnamese
CAT = [("a cat", -1.25), ("một con mèo", -2.25)]
BOTH = ["en", "vi"]


def write(path, rows, languages=(), resume=False, **processes):
    output = CaptionFile(path, languages=languages, **processes)
    done = output.begin([name for name, _ in rows], resume)
    output.add([row for row in rows if output.name(row[0]) not in done])
    order = {output.name(name): position for position, (name, _) in enumerate(rows)}
    output.finish(lambda name: order.get(name, len(order)), len(rows) - len(done & order.keys()))
    return done


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl", "a.json", "metadata.jsonl"])
def test_each_language_has_its_own_fields(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write(name, [("1.png", DOG), ("2.png", CAT)], BOTH)
    text = (tmp_path / name).read_text(encoding="utf-8-sig")
    if name == "a.tsv":
        assert text == "1.png\ta dog\tmột con chó\n2.png\ta cat\tmột con mèo\n"
        return
    if name == "a.csv":
        rows = list(csv.DictReader(text.splitlines()))
    else:
        rows = json.loads(text) if name == "a.json" else [json.loads(line) for line in text.splitlines()]
    key, caption = {"a.json": ("image_id", "caption"), "metadata.jsonl": ("file_name", "text")}.get(
        name, ("file", "caption")
    )
    expected = {key: 2 if name == "a.json" else "2.png", f"{caption}_en": "a cat", f"{caption}_vi": "một con mèo"}
    if caption == "caption" and name != "a.json":
        expected |= {"log_probability_en": -1.25, "log_probability_vi": -2.25}
    kinds = {field: type(value) for field, value in expected.items()}
    assert {field: kinds[field](value) for field, value in rows[1].items()} == expected
    done = {1, 2} if name == "a.json" else {"1.png", "2.png"}
    assert write(name, [("1.png", DOG), ("3.png", CAT)], BOTH, resume=True) == done
    with pytest.raises(ValueError, match=f"{name} contains something other than captions in en and vi and fr and de;"):
        write(name, [("1.png", DOG * 2)], ["en", "vi", "fr", "de"], resume=True)
    if name != "a.tsv":
        with pytest.raises(ValueError, match="other than captions in fr;"):
            write(name, [("1.png", DOG[:1])], ["fr"], resume=True)


def test_standard_output_has_a_column_or_field_for_each_language(capsys):
    for suffix in (".tsv", ".jsonl"):
        StandardOutput(suffix, BOTH).add([("1.png", DOG)])
    first, second = capsys.readouterr().out.splitlines()
    assert first == "1.png\ta dog\tmột con chó"
    assert json.loads(second) == {"file": "1.png", "caption_en": "a dog", "log_probability_en": -1.5} | {
        "caption_vi": "một con chó",
        "log_probability_vi": -2.5,
    }


def test_text_files_of_several_languages_and_what_somebody_wrote(tmp_path):
    photo, by_hand = str(tmp_path / "1.png"), tmp_path / "1.en.txt"
    TextFiles(BOTH).add([(photo, DOG)])
    assert [(tmp_path / f"1.{name}.txt").read_text() for name in BOTH] == ["a dog\n", "một con chó\n"]
    assert TextFiles(BOTH).begin([photo], resume=True) == {str(tmp_path / "1.vi.txt")}
    (tmp_path / "1.vi.txt").unlink()
    by_hand.write_text("by hand\n")
    with pytest.raises(ValueError, match=r"1\.en\.txt exists \(1 such files"):
        TextFiles(BOTH).begin([photo], resume=False)
    assert TextFiles(BOTH).begin([photo], resume=True) == set()
    TextFiles(BOTH).add([(photo, DOG)])
    assert [(tmp_path / f"1.{name}.txt").read_text() for name in BOTH] == ["by hand\n", "một con chó\n"]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.json"])
def test_files_of_others_are_neither_merged_nor_deleted(tmp_path, name):
    """Whatever their names: backups, parts by name only, and what temporary files were once called."""
    others = [f"{name}.partial_backup", f"{name}.part", f"{name}.part7.bak", f"{name}.part7", f"{name}.tmp"]
    for other in [*others, "1.txt.part"]:
        (tmp_path / other).write_text("mine.png\tmine\n")
    (tmp_path / f"{name}.part8").mkdir()
    (tmp_path / f"{name}.part9").symlink_to("missing")
    write(tmp_path / name, [("1.png", DOG[:1])])
    write(tmp_path / name, [("1.png", DOG[:1]), ("2.png", CAT[:1])], resume=True)
    TextFiles().add([(str(tmp_path / "1.png"), DOG[:1])])
    assert "mine" not in (tmp_path / name).read_text()
    assert all((tmp_path / other).read_text() == "mine.png\tmine\n" for other in [*others, "1.txt.part"])
    assert len(list(tmp_path.iterdir())) == len(others) + 1 + 2 + 2, "nothing else is left"


def test_a_part_that_somebody_else_wrote_is_not_written_to(tmp_path):
    (tmp_path / "a.tsv.part1").write_text("mine.png\tmine\n")
    with pytest.raises(ValueError, match=r"a\.tsv\.part1 was not written by caption\.py; move it away"):
        CaptionFile(tmp_path / "a.tsv", 0, 2).begin([], resume=True)
    assert (tmp_path / "a.tsv.part1").read_text() == "mine.png\tmine\n"


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl", "metadata.jsonl"])
def test_parts_of_a_killed_run_are_merged(tmp_path, monkeypatch, name):
    """Also an empty one, of a process that was killed at its first caption, and one whose last line is not whole."""
    monkeypatch.chdir(tmp_path)
    for process, row in enumerate((("2.png", CAT), ("1.png", DOG))):
        CaptionFile(name, process, 2, BOTH).add([row])
    with (tmp_path / f"{name}.part0").open("a") as file:
        file.write("3.pn")
    (tmp_path / f"{name}.part2").touch()
    names = ["1.png", "2.png", "3.png"]
    output = CaptionFile(name, languages=BOTH)
    assert output.begin(names, resume=True) == {"1.png", "2.png"}
    output.add([("3.png", DOG)])
    output.finish(names.index, 1)
    assert [line for line in (tmp_path / name).read_text().splitlines() if "written by" in line] == []
    assert output.begin(names, resume=True) == set(names)
    assert list(tmp_path.glob("*.part*")) == []


def test_text_that_is_no_table_of_captions_is_refused(tmp_path):
    (tmp_path / "notes.tsv").write_text("buy milk\n")
    with pytest.raises(ValueError, match=r"notes\.tsv contains something other than captions;"):
        CaptionFile(tmp_path / "notes.tsv").begin([], resume=True)


FORMULAS = ["=1+1.png", "@a.png", "+1.png", "-1.png", "\ta.png", "'=1.png", "''@a", "'a.png", "a=1.png", "ảnh.png", ""]


def test_spreadsheets_show_names_and_vietnamese_as_they_are(tmp_path):
    """No name is a formula, the file has a byte order mark, and --resume knows all names again."""
    rows = [(name, [(f"{name} ảnh", -0.5)]) for name in FORMULAS]
    write(tmp_path / "a.csv", rows)
    data = (tmp_path / "a.csv").read_bytes()
    assert data.startswith(b"\xef\xbb\xbffile,caption,log_probability\r\n")
    cells = [cell for row in csv.reader(data.decode("utf-8-sig").splitlines()[1:]) for cell in row[:2]]
    assert not [cell for cell in cells if cell[:1] in ("=", "@", "+", "-", "\t", "\r")]
    assert "'=1+1.png" in cells
    assert "-0.5" in data.decode(), "numbers stay numbers"
    assert write(tmp_path / "a.csv", rows, resume=True) == set(FORMULAS)


def test_csv_of_an_earlier_version_is_continued(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"file,caption,log_probability\r\n1.png,a dog,-1.5\r\n")
    assert write(tmp_path / "a.csv", [("1.png", DOG[:1]), ("2.png", CAT[:1])], resume=True) == {"1.png"}
    rows = list(csv.reader((tmp_path / "a.csv").read_text(encoding="utf-8-sig").splitlines()))
    assert rows == [["file", "caption", "log_probability"], ["1.png", "a dog", "-1.5"], ["2.png", "a cat", "-1.25"]]


@pytest.mark.parametrize("name", FORMULAS)
def test_csv_cells_are_read_as_written(name):
    assert parse_csv_line(csv_line(name, "caption", -1.5)) == [name, "caption", "-1.5"]
