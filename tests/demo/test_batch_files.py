"""The table of the tab "Many photos" as files."""

import csv
import json

from demo.batch_tab import COLUMNS, write_files


def test_spreadsheets_show_names_and_vietnamese_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    rows = [
        dict(zip(COLUMNS, row, strict=True))
        for row in (("=cmd|calc.jpg", "một con chó", -1.5, ""), ("@a.zip/b.jpg", "", None, "-b.jpg is no image."))
    ]
    table, lines = write_files(rows)
    assert table.read_bytes().startswith(b"\xef\xbb\xbffile,caption,log_probability,problem\r\n")
    cells = list(csv.reader(table.read_text(encoding="utf-8-sig").splitlines()[1:]))
    assert cells == [["'=cmd|calc.jpg", "một con chó", "-1.5", ""], ["'@a.zip/b.jpg", "", "", "'-b.jpg is no image."]]
    assert [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()] == rows
