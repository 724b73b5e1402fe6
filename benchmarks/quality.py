"""Caption quality: metrics on the validation photos of each dataset.

    python -m benchmarks.quality FLICKR8K COCO

Also counts what the metrics do not show: distinct captions, captions with `<unk>`, captions that repeat a content word,
and captions that mention a gender, an age or a race that no reference caption of the photo mentions.
"""

import argparse
import re
import tempfile
from pathlib import Path

from accelerate import Accelerator

from train.evaluation import evaluate_captioner, write_evaluation
from train.preparation import load_captioner
from train.settings import Settings
from train.stages.captions import group_rows
from train.stages.self_critical import repeated_words

ECHO = re.compile(r"\b(\w+) (?:and|và) (?:an? )?\1\b", re.IGNORECASE)

PEOPLE = {
    "gender": r"man|men|woman|women|boys?|girls?|guys?|lady|ladies|male|female|gentlem[ae]n",
    "age": r"child|children|kids?|toddlers?|bab(?:y|ies)|boys?|girls?|teen\w*|adults?|young|old|elderly",
    "race": r"black (?:man|woman|boy|girl|people)|white (?:man|woman|boy|girl|people)|asian|african|caucasian|hispanic",
}


def count_unfounded(captions, references, words):
    """The number of captions that use one of `words` but none of whose references does, and that use one at all."""
    words = re.compile(rf"\b(?:{words})\b", re.IGNORECASE)
    used = [texts for caption, texts in zip(captions, references, strict=True) if words.search(caption)]
    return sum(not any(words.search(text) for text in texts) for texts in used), len(used)


def describe(name, rows, scores):
    """Print the metrics of a data set in a language, and what they do not show."""
    captions, references = ([row[key] for row in rows] for key in ("caption", "references"))
    print(f"{name}: {len(captions)} photos, {len(set(captions))} distinct captions")
    for metric, value in scores.items():
        print(f"  {metric:8} {value:.4g}")
    print(f"  <unk>    {sum('<unk>' in caption for caption in captions)}")
    people = [text for texts in references for text in texts]
    for whose, texts in (("captions", captions), ("references", people)):
        repeated = sum(map(bool, map(repeated_words, texts))) / len(texts)
        echoes = sum(bool(ECHO.search(text)) for text in texts)
        print(f'  {whose} that repeat a content word: {repeated:.1%}; with an echo ("X and X"): {echoes}')
    for kind, words in PEOPLE.items():
        wrong, used = count_unfounded(captions, references, words)
        print(f"  {kind}: mentioned in {used} captions, in {wrong} of them without a reference")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", nargs="+")
    parser.add_argument("--model", default=str(Path(__file__).parents[1] / "modeling_captioner"))
    parser.add_argument("--data_languages", nargs="+", default=[], help="As the trainer's, for several languages.")
    parser.add_argument("--eval_split", help="The split to score. Default: validation.")
    parser.add_argument("--num_beams", type=int, default=3)
    parser.add_argument("--max_new_tokens", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--output_dir", type=Path, help="Write predictions.json and scores.json here.")
    options = parser.parse_args()
    settings = Settings(
        data_dir=options.data_dir,
        data_languages=options.data_languages,
        eval_split=options.eval_split,
        evaluate_only=True,
        num_beams=options.num_beams,
        max_new_tokens=options.max_new_tokens,
        per_device_eval_batch_size=options.batch_size,
    )
    results = evaluate_captioner(Accelerator(), *load_captioner(options.model), settings)
    with tempfile.TemporaryDirectory() as temporary:
        scores = write_evaluation(results, options.output_dir or temporary)
    for name, rows in group_rows(results.values()).items():
        describe(name, rows, scores[name])


if __name__ == "__main__":
    main()
