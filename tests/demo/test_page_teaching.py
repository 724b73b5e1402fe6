"""Teaching a copy of the captioner from the corrections: in a browser, by direct requests, and what ends a training."""

import contextlib
import hashlib
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from captioning.loading import load_captioner
from demo.corrections import save_correction
from demo.teaching import Teacher, TeachingError, unknown_words
from modeling_captioner import explain, open_photo
from tests.helpers.page_client import SETTINGS, PageClient
from tests.helpers.page_fixtures import (
    EXAMPLES,
    TIMEOUT,
    assert_no_serious_violations,
    caption_words,
    needs_browser,
    running_app,
    upload_photo,
)

TIGER = "a tiger is looking at the camera"
BEAMS = [3, 20, 0, 1]  # the settings of the page


def checksums(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(folder).iterdir() if path.is_file()
    }


def crop(left, top, right, bottom):
    photo = open_photo(EXAMPLES / "chelsea.jpg")
    width, height = photo.size
    return photo.crop([round(left * width), round(top * height), round(right * width), round(bottom * height)])


def trainers(corrections):
    """The process ids of the trainers that learn from this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:  # has ended in the meantime
            continue
        if str(corrections).encode() in command and b"--max_train_steps" in command:
            found.append(int(process.name))
    return found


def wait_until(condition):
    deadline = time.monotonic() + TIMEOUT / 1000
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def open_teaching(browser):
    """Open a page and its panel for teaching."""
    contexts = []

    def open_(address, **options):
        contexts.append(browser.new_context(reduced_motion="reduce", **options))
        contexts[-1].set_default_timeout(TIMEOUT)
        page = contexts[-1].new_page()
        page.goto(address)
        page.locator("#photo").wait_for()
        return page

    yield open_
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def axe():
    return pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()


@pytest.fixture(scope="module")
def site(learnt_captioner, tmp_path_factory):
    """A page with a tiny captioner and a folder for corrections."""
    folder = tmp_path_factory.mktemp("site")
    options = ["--corrections", str(folder / "corrections")]
    with running_app(SimpleNamespace(folder=learnt_captioner), folder, *options) as address:
        yield SimpleNamespace(address=address, corrections=folder / "corrections")


@pytest.fixture
def school(site, drawn_photos):
    """The page with three corrections that contradict its captioner."""
    save_corrections(site.corrections, drawn_photos)
    return site


def save_corrections(folder, drawn_photos):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for photo, _ in drawn_photos[:3]:
        save_correction(folder, photo.copy(), "a square on a red ground")


@pytest.mark.slow
@needs_browser
def test_three_corrections_change_the_caption_of_a_fourth_photo(open_teaching, captioner, axe, tmp_path):
    """The copy learns, is kept, answers, and is thrown away; the served captioner's files are what they were."""
    if unknown_words(captioner.processor.tokenizer, [TIGER]):
        pytest.skip("needs the shipped weights")
    language = next(iter(captioner.model.config.languages or []), None)
    folder = tmp_path / "corrections"
    folder.mkdir()
    for box in ((0, 0, 0.9, 1), (0.1, 0, 1, 1), (0.05, 0.05, 0.95, 1)):
        save_correction(folder, crop(*box), TIGER, language)
    crop(0.06, 0, 1, 0.95).save(tmp_path / "fourth.jpg")
    before = checksums(captioner.folder)
    with running_app(captioner, tmp_path, "--corrections", str(folder)) as address:
        page = open_teaching(address)
        upload_photo(page, tmp_path / "fourth.jpg")
        first = " ".join(caption_words(page))
        assert "tiger" not in first
        page.locator("#caption_tab button.correct").click()
        page.locator("#teach").click()
        page.locator("#teach_status progress").wait_for()
        page.locator("#teach_curve svg[role=img]").wait_for()
        assert not page.locator("#teach").is_enabled()
        page.locator("#teach_status .teach_after").wait_for()
        assert page.locator("#teach_curve svg[role=img]").is_visible()  # stays after the training
        assert page.locator("#teach_status .teach_before").text_content() == first
        assert page.locator("#teach_status .teach_after").text_content() == TIGER
        assert_no_serious_violations(axe, page)
        page.locator("#teach_keep").click()
        page.locator("#teach_answer").get_by_text("The copy is kept in").wait_for()
        (kept,) = tmp_path.glob("corrections-taught/*")
        assert str(kept) in page.locator("#teach_answer").text_content()
        model, processor = load_captioner(str(kept), "cpu", "float32")
        assert explain(model, processor, open_photo(tmp_path / "fourth.jpg")).caption == TIGER

        other = PageClient(address)  # another visitor
        photo = other.upload_photo("fourth.jpg", (tmp_path / "fourth.jpg").read_bytes())
        assert other.caption(photo, *BEAMS, language=language)[1]["caption"] != TIGER
        page.locator("#teach_serve").click()
        page.locator("#teach_answer").get_by_text("From now on").wait_for()
        assert other.caption(photo, *BEAMS, language=language)[1]["caption"] == TIGER
        page.locator("#teach_discard").click()
        page.locator("#teach_answer").get_by_text("Thrown away.", exact=True).wait_for()
        assert other.caption(photo, *BEAMS, language=language)[1]["caption"] != TIGER
        page.locator("#teach_keep").wait_for(state="hidden")

        messages = other.stream("teach", "click", None, *SETTINGS, *([language] if language else []))
        next(message for message in messages if message.get("msg") == "process_generating")
        assert len(trainers(folder)) == 1
    assert trainers(folder) == []  # the server has ended its training
    assert checksums(captioner.folder) == before
    assert (kept / "model.safetensors").exists()


@needs_browser
@pytest.mark.parametrize("end", ["stop", "close"])
def test_a_stopped_training_leaves_nothing_running(open_teaching, school, axe, end):
    page = open_teaching(school.address, viewport={"width": 360, "height": 800}, locale="vi-VN")
    page.locator("#caption_tab button.correct").click()
    page.locator("#teach").focus()
    page.keyboard.press("Enter")
    page.locator("#teach_stop").wait_for()
    wait_until(lambda: trainers(school.corrections))
    assert page.evaluate("document.documentElement.scrollWidth") <= 360

    second = PageClient(school.address)  # only one at a time
    assert "already running" in str(second.trigger("teach", "click", None, *SETTINGS))
    assert len(trainers(school.corrections)) == 1
    if end == "stop":
        assert_no_serious_violations(axe, page)
    assert "no copy of yours" in str(second.trigger("teach_serve", "click"))
    second.trigger("teach_stop", "click")  # only who began it may stop it
    assert len(trainers(school.corrections)) == 1
    if end == "stop":
        page.locator("#teach_stop").focus()
        page.keyboard.press("Enter")
        page.locator("#teach_status").get_by_text("Đã dừng").wait_for()
        assert page.locator("#teach").is_enabled()
    else:
        page.close()
    wait_until(lambda: not trainers(school.corrections))


def test_a_failed_training_is_one_sentence(school):
    (school.corrections / "metadata.jsonl").write_text('{"file_name": "lost.jpg", "captions": ["a lost photo"]}\n' * 3)
    answer = str(PageClient(school.address).trigger("teach", "click", None, *SETTINGS))
    assert "The training has failed" in answer
    assert "lost.jpg" in answer
    assert "Traceback" not in answer
    assert trainers(school.corrections) == []


def python(script):
    """A command of a `Teacher` that runs a script with the source and the folder of the copy."""
    return lambda model, corrections, folder, steps: [sys.executable, "-c", script, str(model), str(folder)]


COPY = python("import shutil, sys; shutil.copytree(*sys.argv[1:])")


@pytest.fixture
def make_teacher(drawn_photos, learnt_captioner, tmp_path):
    """Make a `Teacher` with three corrections whose trainer is a script; it is closed at the end."""
    save_corrections(tmp_path / "corrections", drawn_photos)
    with contextlib.ExitStack() as stack:
        yield lambda command: stack.enter_context(
            contextlib.closing(Teacher(learnt_captioner, tmp_path / "corrections", command))
        )


def learn(teacher, owner):
    training = teacher.start(owner)
    list(training.progress())
    training.finish()
    return training


def test_a_killed_training_and_its_copy_are_gone(make_teacher):
    teacher = make_teacher(python("import os, sys; os.mkdir(sys.argv[2]); os.kill(os.getpid(), 9)"))
    training = teacher.start("visitor")
    assert list(training.progress()) == []
    with pytest.raises(TeachingError, match="teach_killed") as error:
        training.finish()
    assert error.value.values == {"status": -9}
    assert not training.folder.exists()
    assert teacher.training("visitor") is None
    teacher.close()
    assert not teacher.folder.exists()


def test_each_visitor_keeps_their_own_copy(make_teacher):
    """Also while another one learns, answers or is thrown away."""
    teacher = make_teacher(COPY)
    first, second = learn(teacher, "first"), learn(teacher, "second")
    assert (teacher.training("first"), teacher.training("second")) == (first, second)
    assert teacher.training("third") is None
    assert teacher.serve(first) is first.model
    teacher.leave("second")
    assert (first.folder.exists(), second.folder.exists()) == (True, False)
    assert teacher.training("third") is None  # what answers is still the first visitor's
    teacher.leave("first")
    assert teacher.training("third") is first


def test_stopping_late_keeps_what_was_learned(make_teacher):
    teacher = make_teacher(COPY)
    training = teacher.start("visitor")
    training.process.wait()
    training.stop()
    assert training.finish() is training.model is not None
    training.stop()
    assert teacher.training("visitor") is training
    assert training.folder.exists()


def test_one_training_runs_at_a_time_and_stopping_it_lets_the_next_begin(make_teacher):
    teacher = make_teacher(python("import time; time.sleep(600)"))
    training = teacher.start("first")
    with pytest.raises(TeachingError, match="teach_busy"):
        teacher.start("second")
    training.stop()
    with pytest.raises(TeachingError, match="teach_stopped"):
        training.finish()
    teacher.start("second").stop()


def test_copies_are_served_kept_and_deleted(make_teacher, learnt_captioner, tmp_path):
    """Throwing away a copy leaves what answers now; the copy that answers outlives its visitor's page."""
    teacher = make_teacher(COPY)
    first = learn(teacher, "visitor")
    assert teacher.serve(first) is first.model
    second = learn(teacher, "visitor")
    assert first.folder.exists()
    assert teacher.training("visitor") is second
    assert teacher.discard(second) is False  # the first copy still answers, and can be decided about again
    assert (teacher.training("visitor"), teacher.served, second.folder.exists()) == (first, first, False)
    third = learn(teacher, "visitor")
    teacher.leave("someone else")
    assert third.folder.exists()
    teacher.leave("visitor")
    assert not third.folder.exists()
    assert teacher.keep(first).parent == tmp_path / "corrections-taught"
    assert teacher.keep(first) == teacher.keep(first)
    assert teacher.discard(first) is True
    assert (teacher.served, teacher.training("visitor"), first.folder.exists()) == (None, None, False)
    last = learn(teacher, "visitor")
    (tmp_path / "corrections-taught").rename(tmp_path / "elsewhere")
    (tmp_path / "corrections-taught").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="exists"):
        teacher.keep(last)
    teacher.close()
    assert not teacher.folder.exists()
    assert (learnt_captioner / "model.safetensors").exists()


@pytest.mark.parametrize("public", ["host", "root path"])
def test_a_public_page_offers_no_teaching(learnt_captioner, tmp_path, monkeypatch, public):
    options = ["--corrections", str(tmp_path / "corrections")]
    if public == "host":
        options += ["--host", "0.0.0.0"]
    else:  # a proxy is in front of it
        monkeypatch.setenv("GRADIO_ROOT_PATH", "/captioner")
    with running_app(SimpleNamespace(folder=learnt_captioner), tmp_path, *options) as address:
        config = PageClient(address).http.get("config").json()
    names = {component["props"].get("elem_id") or "" for component in config["components"]}
    assert "save_correction" in names
    assert not any(name.startswith("teach") for name in names)
    assert not any(target[1] == "unload" for event in config["dependencies"] for target in event["targets"])


def test_requests_through_a_proxy_cannot_teach(school):
    client = PageClient(school.address)
    client.http.headers["X-Forwarded-For"] = "203.0.113.7"
    others = ["teach_stop", "teach_keep", "teach_serve", "teach_discard"]
    events = {"teach": [None, *SETTINGS]} | {name: [] for name in others}
    for button, data in events.items():
        assert "through a proxy" in str(client.trigger(button, "click", *data))
    assert trainers(school.corrections) == []


def test_words_that_cannot_be_learnt_are_named(tiny_captioner):
    _, processor = tiny_captioner()
    captions = ["A zyzzyva on a Red circle", "a zyzzyva, a quokka"]
    assert unknown_words(processor.tokenizer, captions) == ["zyzzyva", "quokka"]
