"""Caption quality: metrics on the validation photos of each dataset.

    python benchmarks/quality.py ../shared/data/flickr8k ../shared/data/coco-mini

Also counts what the metrics do not show: distinct captions, captions with `<unk>`, and captions that mention a gender,
an age or a race that no reference caption of the photo mentions.
"""

import argparse
import re
import sys
from pathlib import Path

from accelerate import Accelerator

sys.path.insert(0, str(Path(__file__).parents[1]))

from train.cli import load_captioner
from train.evaluation import evaluate_captioner, write_evaluation
from train.settings import Settings

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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", nargs="+")
    parser.add_argument("--model", default=str(Path(__file__).parents[1] / "modeling_captioner"))
    parser.add_argument("--num_beams", type=int, default=3)
    parser.add_argument("--max_new_tokens", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument(
        "--output_dir", type=Path, help="Write predictions.json and scores.json to a subfolder per dataset."
    )
    options = parser.parse_args()
    for folder in options.data_dir:
        settings = Settings(
            data_dir=folder,
            evaluate_only=True,
            num_beams=options.num_beams,
            max_new_tokens=options.max_new_tokens,
            per_device_eval_batch_size=options.batch_size,
        )
        results, scores = evaluate_captioner(Accelerator(), *load_captioner(options.model), settings)
        captions, references = ([row[name] for row in results.values()] for name in ("caption", "references"))
        print(f"{folder}: {len(captions)} photos, {len(set(captions))} distinct captions")
        for name, value in scores.items():
            print(f"  {name:8} {value:.4g}")
        print(f"  <unk>    {sum('<unk>' in caption for caption in captions)}")
        for name, words in PEOPLE.items():
            wrong, used = count_unfounded(captions, references, words)
            print(f"  {name}: mentioned in {used} captions, in {wrong} of them without a reference")
        if options.output_dir:
            write_evaluation(results, scores, options.output_dir / Path(folder).name)


if __name__ == "__main__":
    main()
