"""Captions in all the formats found in data sets, and words in languages other than English."""

import io
import json
import logging
import unicodedata

import pytest
from datasets import ClassLabel, Dataset, Features, Translation, TranslationVariableLanguages
from datasets import config as datasets_config
from transformers import PreTrainedTokenizerFast

from tests.helpers.training import single_dataset, single_stream
from train.data import make_tokenizer, read_captions
from train.data.captions import clean
from train.settings import Settings


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def photo(drawn_photos):
    file = io.BytesIO()
    drawn_photos[0][0].save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def read(tmp_path, photo):
    """Write rows to a data set, and return their captions as the trainer loads or streams them."""

    def read(rows, features=None, streaming=False, **options):
        photos = [{"image": {"bytes": photo + bytes([number]), "path": None}} for number in range(len(rows))]
        rows = Dataset.from_list(rows, features=features and Features(features))
        (tmp_path / "set").mkdir(exist_ok=True)
        rows.add_column("image", [one["image"] for one in photos]).to_parquet(tmp_path / "set" / "train.parquet")
        options = {"data_dir": [str(tmp_path / "set")], "streaming": streaming, "validation_fraction": 0} | options
        settings = Settings(**options)
        split = single_stream(settings, "train") if streaming else single_dataset(settings, ["train"])["train"]
        return sorted(row["captions"] for row in split)

    return read


DOG = ["a dog runs", "the dog"]
WORDS = [text.split() for text in DOG]
CELLS = {
    "words": ({"captions": [*WORDS[0], None]}, DOG[:1]),
    "one-word captions": ({"captions": ["dogs", "puppies"]}, ["dogs", "puppies"]),
    "lists of words": ({"captions": WORDS}, DOG),
    "nested captions": ({"captions": [DOG]}, DOG),
    "Karpathy's tokens": ({"sentences": [{"tokens": words, "sentid": 7} for words in WORDS]}, DOG),
    "Chinese words": ({"caption": ["一只", "狗", "在", "跑"]}, ["一只狗在跑"]),
    "Chinese captions": ({"captions": ["一只狗在草地上跑", "草地上的狗"]}, ["一只狗在草地上跑", "草地上的狗"]),
    "Thai words": ({"captions": [["สุนัข", "กำลัง", "วิ่ง"]]}, ["สุนัขกำลังวิ่ง"]),
    "bytes": ({"caption": "một con chó".encode()}, ["một con chó"]),
    "lists of bytes": ({"captions": [b"a dog runs", b"\xef\xbb\xbfthe dog"]}, DOG),
    "JSON in CSV": ({"text": json.dumps(DOG)}, DOG),
    "Python in CSV": ({"text": str(DOG)}, DOG),
    "brackets": ({"text": "[a dog]"}, ["[a dog]"]),
    "dictionaries": ({"captions": [{"text": text, "id": 3} for text in DOG]}, DOG),
    "numbered": ({"caption1": DOG[0], "caption2": DOG[1], "caption_id": 3}, DOG),
    "capital letters": ({"Caption": DOG[0]}, DOG[:1]),
    "an ID before the text": ({"caption": 5, "text": DOG[0]}, DOG[:1]),
    "decomposed": ({"caption": unicodedata.normalize("NFD", "một con chó")}, ["một con chó"]),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("cells", "expected"), CELLS.values(), ids=CELLS)
def test_captions_are_read_from_all_types_of_cells(read, cells, expected, streaming):
    assert read([cells, cells], streaming=streaming) == [expected, expected]


def test_class_labels_are_read_by_name(read):
    assert read([{"text": 1}, {"text": 0}], {"text": ClassLabel(names=["cat", "dog"])}) == [["cat"], ["dog"]]


LANGUAGES = {
    "strings": ([{"caption": {"en": "a dog", "vi": "con chó"}}, {"caption": {"en": "a cat", "vi": None}}], None),
    "lists": ([{"captions": {"en-US": ["a dog"], "vi-VN": ["con chó"]}}], None),
    "dictionaries": (
        [{"captions": [{"lang": "en", "text": "a dog"}, {"lang": "vi", "text": "con chó"}]}],
        None,
    ),
    "Translation": ([{"text": {"en": "a dog", "vi": "con chó"}}], {"text": Translation(["en", "vi"])}),
    "TranslationVariableLanguages": (
        [{"text": {"en": "a dog", "vi": "con chó"}}, {"text": {"en": "a cat"}}],
        {"text": TranslationVariableLanguages(languages=["en", "vi"])},
    ),
    "JSON in CSV": ([{"text": '{"en": "a dog", "vi": "con chó"}'}], None),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("rows", "features"), LANGUAGES.values(), ids=LANGUAGES)
def test_captions_are_selected_by_language(read, rows, features, streaming):
    assert read(rows, features, streaming, caption_language="vi") == [["con chó"]]


def test_an_ambiguous_or_missing_language_is_an_error(read):
    rows = [{"caption": {"en": "a dog", "vi": "con chó"}}]
    for options in ({}, {"caption_language": "fr"}):
        with pytest.raises(
            ValueError, match=r"'caption' contains dictionaries with the keys en, vi; .*--caption_language"
        ):
            read(rows, **options)
    assert read([{"caption": {"en": "a dog"}}]) == [["a dog"]]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("cell", [5, 2.5, True, [1, 2], [[3.0]], {"x": 1, "y": 2}, b"\xff\xd8\xff"], ids=str)
def test_cells_that_are_not_text_are_an_error(read, cell, streaming):
    with pytest.raises(ValueError, match=r"The column 'caption' contains .*, which is not text; .*--caption_column"):
        read([{"caption": cell}], streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_with_captions_in_different_columns_keep_them(read, streaming, caplog):
    """`caption.py --output metadata.jsonl` and corrections on the page may write to the same file."""
    rows = [{"text": f"number {number}", "captions": None, "caption_0": ""} for number in range(6)]
    rows += [{"text": None, "captions": ["corrected"]}, {"text": "overruled", "captions": ["again", " "]}]
    rows += [{"text": " ", "captions": []}, {"text": None, "caption_0": "numbered"}]
    expected = [["again"], ["corrected"], *([f"number {number}"] for number in range(6)), ["numbered"]]
    with caplog.at_level(logging.WARNING):
        assert read(rows, streaming=streaming) == expected
    assert [line for line in caplog.messages if "no caption" in line] == [
        "1 rows of the stream have no caption."
        if streaming
        else "1 of 10 rows have no caption in captions or text or caption_0."
    ]


WITH_SPECIAL_TOKENS = [
    "<start> two black cats <end>", "<s>two black cats</s>", "[CLS] two black cats [SEP] [PAD] [PAD]",
    "startseq two black cats endseq",
    "<START> two black cats <END> <pad>",
    "<|startoftext|>two black cats<|endoftext|>", "<sos> two black cats <eos>",
    "[START] two black cats [END]",
    "<start_of_text> two black cats <end_of_text>", "ssss two black cats eeee",
    "<bos> two <pad> black cats", "two black cats",
]  # fmt: skip


@pytest.mark.parametrize("text", WITH_SPECIAL_TOKENS)
def test_special_tokens_of_other_tools_are_removed(read, tmp_path, text):
    rows = [{"caption": text, "captions": None}, {"caption": None, "captions": text.split()}]
    assert read(rows) == [["two black cats"], ["two black cats"]]
    (tmp_path / "captions.txt").write_text(f"{text}\n<start> <end>\n")
    assert read_captions([str(tmp_path / "captions.txt")]) == [(None, "two black cats")]


@pytest.mark.parametrize("text", ["the start of a race", "cats > dogs [1]", "a <3 b", "the end", "a dog's endseqs"])
def test_text_similar_to_special_tokens_is_kept(text):
    assert clean(text) == text


def test_a_captions_file_must_be_utf_8(tmp_path):
    (tmp_path / "captions.txt").write_text("con chó\n", encoding="utf-16")
    with pytest.raises(ValueError, match=r"captions\.txt' is not UTF-8"):
        read_captions([str(tmp_path / "captions.txt")])
    (tmp_path / "captions.txt").write_text("con chó\n", encoding="utf-8-sig")
    assert read_captions([str(tmp_path / "captions.txt")]) == [(None, "con chó")]


SENTENCES = {
    "Vietnamese": "Một con chó đang chạy",
    "Chinese": "一只狗在玩",
    "Japanese": "データを見る",
    "Hindi": "लड़की पानी पीती है",
    "Arabic": "الْكَلْبُ يَجْرِي",
    "Persian": "سگ می\N{ZERO WIDTH NON-JOINER}دود",
    "Thai": "น้ำใส",
    "mixed": "一只狗在玩 iphone 12",
}


@pytest.mark.parametrize("sentence", SENTENCES.values(), ids=SENTENCES)
def test_captions_survive_tokenization_in_all_scripts(sentence, tmp_path):
    make_tokenizer([sentence, "other words"], min_count=1).save_pretrained(tmp_path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    for form in ("NFC", "NFD"):
        ids = tokenizer(unicodedata.normalize(form, sentence)).input_ids
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == unicodedata.normalize("NFC", sentence.lower())
