"""Captions of other scripts are learned and said again as people write them: in NFC, with all marks, joined rightly."""

import json
import unicodedata

import pytest

from tests.helpers.drawn import drawn_photo
from tests.helpers.marks import slow_case
from tests.helpers.training import arguments, caption_folder
from train.cli import resolve, run

SHAPES = [("red", "circle"), ("blue", "square"), ("yellow", "circle"), ("green", "square")]
CAPTIONS = {
    "Vietnamese": [
        "một hình tròn màu đỏ ở giữa nền xám",
        "hình vuông lớn màu xanh dương phủ gần kín nền",
        "quả bóng vàng nhỏ nằm trên sân",
        "thảm cỏ xanh hình chữ nhật nhìn từ trên cao",
    ],
    "Chinese": ["灰色背景上有一个红色的圆", "一个很大的蓝色方块", "草地上的黄色小球", "从高处看的绿色球场"],
    "Hindi": [
        "धूसर पृष्ठभूमि पर एक लाल गोला",
        "एक बड़ा नीला वर्ग",  # its dotted letter stays two code points in NFC
        "मैदान में छोटी पीली गेंद",
        "ऊपर से दिखता हरा मैदान",
    ],
    "Arabic": [
        "دَائِرَةٌ حمراء على خلفية رمادية",
        "مربع أزرق كبير جدا",
        "كرة صفراء صغيرة في الملعب",
        "ملعب أخضر كما يُرى من الأعلى",
    ],
}


@pytest.mark.filterwarnings("ignore:Glyph")  # the font of the training's pictures has not all scripts
@pytest.mark.parametrize("language", [name if name == "Vietnamese" else slow_case(name) for name in CAPTIONS])
def test_captions_of_every_script_are_learned_by_heart(language, tmp_path):
    """They are stored in NFD, as files from a Mac may be, and come back in NFC."""
    captions = CAPTIONS[language]
    photos = [drawn_photo(*shape)[0] for shape in SHAPES]
    rows = []
    for number, (photo, caption) in enumerate(zip(photos, captions, strict=True)):
        photo.save(tmp_path / f"{number}.png")
        rows.append({"file_name": f"{number}.png", "caption": unicodedata.normalize("NFD", caption)})
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"data_dir": tmp_path, "output_dir": tmp_path / "run", "validation_fraction": 0, "max_new_tokens": 14}
    options |= {"encoder_trainable_from": "all", "encoder_learning_rate": 1e-3, "learning_rate": 0.01}
    options |= {"dropout": 0, "word_dropout": 0, "label_smoothing": 0, "num_train_epochs": 60, "eval_steps": 60}
    run(resolve(arguments(**options)))
    assert caption_folder(tmp_path / "run", photos, 14) == [unicodedata.normalize("NFC", text) for text in captions]
    *_, validation = map(json.loads, (tmp_path / "run" / "history.jsonl").read_text().splitlines())
    assert validation["CIDEr-D"] == pytest.approx(10, abs=0.01)
    assert validation["BLEU-4"] == pytest.approx(1)
