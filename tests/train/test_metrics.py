"""The metrics, against known values and against COCO's own evaluation."""

import math
import shutil
import unicodedata

import numpy as np
import pytest
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from tests.helpers.paths import SHARED
from tests.helpers.scored_captions import MODEL, PEOPLE
from train.metrics import CiderReward, caption_metrics, tokenize


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A man's dog .", "a man 's dog"),
        ("They don\N{RIGHT SINGLE QUOTATION MARK}t look; it's a T-shirt!", "they do n't look it 's a t-shirt"),
        ('"Stop" , he said (twice) ...', "stop he said twice"),
        ("1,000 balloons,red and blue", "1,000 balloons red and blue"),
        ("rock & roll #1", "rock & roll # 1"),
        ("", ""),
    ],
)
def test_words_are_those_of_the_treebank(caption, words):
    assert tokenize(caption) == words


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("लड़की पानी पीती है।", "लड़की पानी पीती है"),
        ("الْكَلْبُ يَجْرِي، سريعًا", "الْكَلْبُ يَجْرِي سريعًا"),
        ("Một con chó đang chạy.", "một con chó đang chạy"),
        ("মেয়েটি பந்து కుక్క", "মেয়েটি பந்து కుక్క"),
        ("سگ می\N{ZERO WIDTH NON-JOINER}دود", "سگ می\N{ZERO WIDTH NON-JOINER}دود"),
        ("一只狗在玩 iPhone 12。", "一 只 狗 在 玩 iphone 12"),
        ("データを見る", "デ ー タ を 見 る"),
        ("น้ำใส", "น้ ำ ใ ส"),
    ],
)
def test_words_of_other_scripts_keep_their_marks(caption, words):
    assert tokenize(caption) == words
    assert tokenize(unicodedata.normalize("NFD", caption)) == tokenize(unicodedata.normalize("NFC", caption))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("लड़की पानी पीती है", "लड़का पीना पाती हो"),
        ("الْكَلْبُ يَجْرِي هنا الآن", "الْكُلْبِ يُجَرَّ هنا الآن"),
        ("一只狗在草地上", "一只猫在雪地里"),
    ],
)
def test_other_words_have_another_score(right, wrong):
    """Hindi words that differ in their vowel signs alone; Chinese captions that are not single words."""
    references = [[right], ["something else entirely here"]]
    for metric in (CiderReward(references), lambda texts, people: [caption_metrics(people, texts)["CIDEr-D"]]):
        perfect, other = (metric([text, "something else"], references)[0] for text in (right, wrong))
        assert other < perfect / 2


@pytest.mark.skipif(not shutil.which("java"), reason="PTBTokenizer needs Java")
@pytest.mark.skipif(not SHARED.is_dir(), reason="the captions lie in ../shared")
def test_words_equal_those_of_coco_evaluation():
    captions = (SHARED / "data" / "captions.txt").read_text().splitlines()[::20]
    theirs = PTBTokenizer().tokenize({number: [{"caption": text}] for number, text in enumerate(captions)})
    equal = [theirs[number][0] == tokenize(text) for number, text in enumerate(captions)]
    assert len(equal) > 2000
    assert np.mean(equal) > 0.998


def test_bleu_by_hand():
    """Papineni et al. 2002: clipped precisions, and the brevity penalty exp(1 - r / c) with the closest length."""
    scores = caption_metrics([["the cat sat on the mat"]], ["the cat the cat on"])
    assert scores["BLEU-1"] == pytest.approx(4 / 5 * math.exp(1 - 6 / 5), rel=1e-6)
    assert scores["BLEU-2"] == pytest.approx(math.sqrt(4 / 5 * 1 / 4) * math.exp(1 - 6 / 5), rel=1e-6)


def test_a_perfect_caption_has_perfect_scores():
    scores = caption_metrics(PEOPLE, [texts[0] for texts in PEOPLE])
    assert scores["BLEU-4"] == pytest.approx(1)
    assert scores["ROUGE-L"] == pytest.approx(1)
    alone = caption_metrics([texts[:1] for texts in PEOPLE], [texts[0] for texts in PEOPLE])
    assert alone["CIDEr-D"] == pytest.approx(10)


def test_the_reward_is_cider_d_with_the_end_as_a_word():
    ended = {photo: [f"{tokenize(text)} <end>" for text in texts] for photo, texts in enumerate(PEOPLE)}
    _, expected = Cider().compute_score(ended, {photo: [f"{text} <end>"] for photo, text in enumerate(MODEL)})
    np.testing.assert_allclose(CiderReward(PEOPLE)(MODEL, PEOPLE), expected, rtol=1e-9)


def test_the_reward_does_not_favour_captions_that_break_off():
    reward = CiderReward(PEOPLE)
    whole, broken = reward(["a girl stands on a beach", "a girl stands on a"], [PEOPLE[2], PEOPLE[2]])
    assert whole > broken


def test_an_empty_caption_is_worth_nothing():
    assert CiderReward(PEOPLE)([""], [PEOPLE[0]])[0] < 0.1
    assert caption_metrics(PEOPLE, ["", *MODEL[1:]])["CIDEr-D"] < caption_metrics(PEOPLE, MODEL)["CIDEr-D"]
