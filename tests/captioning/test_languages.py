"""`caption.py --language`: one or several languages, in every output, with both engines."""

import json

import pytest

from caption import main
from modeling_captioner import explain
from tests.helpers.captioners import speak_both


@pytest.fixture(scope="module")
def bilingual(tiny_captioner, tmp_path_factory):
    """The model, the processor and the folder of a tiny captioner of English and Vietnamese."""
    model, processor = speak_both(*tiny_captioner(dropout=0.0, word_dropout=0.0))
    folder = tmp_path_factory.mktemp("bilingual")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor, folder


@pytest.fixture
def expected(bilingual, drawn_photos):
    """{language: captions} of the drawn photos."""
    model, processor, _ = bilingual
    return {
        language: [explain(model, processor, photo, language=language).caption for photo, _ in drawn_photos]
        for language in ("en", "vi")
    }


@pytest.fixture
def run_here(capsys, bilingual):
    def run_here(*arguments):
        status = main([*map(str, arguments), "--model", str(bilingual[2]), "--engine", "torch"])
        lines, errors = capsys.readouterr()
        return status, lines.splitlines(), errors.splitlines()

    return run_here


def test_one_language_looks_as_without_the_option(files, expected, run_here):
    english, vietnamese = (
        [f"{file}\t{caption}" for file, caption in zip(files, expected[language], strict=True)]
        for language in ("en", "vi")
    )
    assert english != vietnamese
    assert run_here(*files) == (0, english, []), "the first is the default"
    assert run_here(*files, "--language", "vi") == (0, vietnamese, [])
    assert run_here("--language", "en", "--recursive", *files) == (0, english, [])


def test_several_languages_have_a_column_a_field_or_a_file_each(files, expected, run_here, tmp_path):
    both = list(zip(files, expected["en"], expected["vi"], strict=True))
    status, lines, _ = run_here(*files, "--language", "en", "vi", "en")
    assert (status, lines) == (0, [f"{file}\t{english}\t{vietnamese}" for file, english, vietnamese in both])
    status, lines, _ = run_here(*files, "--json", "--language", "vi", "--language", "en")
    rows = [json.loads(line) for line in lines]
    assert [(row["file"], row["caption_en"], row["caption_vi"]) for row in rows] == [(str(f), e, v) for f, e, v in both]
    assert list(rows[0]) == ["file", "caption_vi", "caption_en", "log_probability_vi", "log_probability_en"]
    assert all(row["log_probability_en"] < 0 for row in rows)
    assert run_here(*files, "--txt", "--language", "en", "vi", "--prefix", "photo: ") == (0, [], [])
    assert files[3].with_suffix(".en.txt").read_text() == f"photo: {expected['en'][3]}\n"
    assert files[3].with_suffix(".vi.txt").read_text() == f"photo: {expected['vi'][3]}\n"
    name, languages = tmp_path / "a.jsonl", ("--language", "en", "vi")
    assert run_here(*files[:5], "--output", name, *languages) == (0, [], [])
    status, _, (error,) = run_here(*files, "--output", name, "--resume", "--language", "vi")
    assert (status, error.partition(" contains ")[0]) == (1, f"error: {name}")
    assert run_here(*files, "--output", name, "--resume", *languages) == (0, [], [])
    rows = [json.loads(line) for line in name.read_text().splitlines()]
    assert [(row["caption_en"], row["caption_vi"]) for row in rows] == [(e, v) for _, e, v in both]


def test_maps_are_drawn_for_each_language(files, expected, run_here, tmp_path):
    given = ("--attention", tmp_path / "a.svg", "--language", "vi", "en")
    status, lines, _ = run_here(*files[:2], *given)
    assert (status, lines) == (0, [f"{files[n]}\t{expected['vi'][n]}\t{expected['en'][n]}" for n in (0, 1)])
    drawn = (tmp_path / "a.svg").read_text()
    assert [f"<!-- {expected[name][0]} -->" in drawn for name in ("en", "vi")] == [True, True]


@pytest.mark.parametrize("languages", [["xx"], ["en", "xx"]])
def test_an_unknown_language_is_told_with_those_there_are(files, run_here, tmp_path, languages):
    output = tmp_path / "a.csv"
    told = run_here(*files, "--language", *languages, "--output", output)
    assert told == (1, [], ["error: language='xx' is unknown; choose one of en, vi."])
    assert not output.exists()


def test_a_captioner_of_one_language_says_so(files, learnt_captioner, capsys):
    assert main([str(files[0]), "--model", str(learnt_captioner), "--engine", "torch", "--language", "vi"]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error == "error: language='vi' is unknown; this captioner has only one; leave it out."


@pytest.mark.parametrize("language", ["../x", "", "a b", "vi/en"])
def test_what_is_no_name_of_a_language_is_wrong_usage(files, capsys, language):
    with pytest.raises(SystemExit, match="2"):
        main([str(files[0]), "--language", language])
    assert f"argument --language: {language!r} is not the name of a language, such as en" in capsys.readouterr().err
