"""`captioning/saving.py`: kills, full disks and folders of others while a captioner is saved."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from captioning.loading import check_model
from captioning.saving import MARK, save_captioner, write_file
from tests.helpers.captioners import build_tiny


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("earlier")
    save_captioner(*build_tiny(), folder)
    return folder


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def killed_after(changes, save):
    """Call `save` in a child process, which is killed before its file-system change number `changes`. Returns whether
    it was."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == signal.SIGKILL
    try:
        for owner, name in ((os, "replace"), (Path, "unlink")):
            original = getattr(owner, name)

            def count(*args, original=original, **kwargs):
                nonlocal changes
                changes -= 1
                if changes < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*args, **kwargs)

            setattr(owner, name, count)
        save()
    finally:
        os._exit(0)


@pytest.mark.slow
def test_a_kill_never_leaves_settings_with_the_weights_of_another(earlier, tmp_path):
    """Another width: the earlier captioner, the new one, or no captioner, which is told."""
    model, processor = build_tiny(hidden_size=48)
    save_captioner(model, processor, tmp_path / "new")
    before, after, seen = contents(earlier), contents(tmp_path / "new"), []
    assert before["config.json"] != after["config.json"]
    for changes in range(100):
        folder = tmp_path / str(changes)
        shutil.copytree(earlier, folder)
        killed = killed_after(changes, lambda folder=folder: save_captioner(model, processor, folder))
        found = contents(folder)
        seen.append("before" if found == before else "after" if found == after else "none")
        if seen[-1] == "none":
            assert "model.safetensors" not in found
            with pytest.raises(ValueError, match=r"model\*\.safetensors is missing"):
                check_model(str(folder))
        save_captioner(model, processor, folder)
        assert contents(folder) == after
        assert list(folder.glob(".part-*")) == [], "what the killed process left is gone"
        if not killed:
            break
    assert (seen[0], seen[-1], killed) == ("before", "after", False)
    assert "none" in seen


@pytest.mark.slow
def test_new_weights_with_the_same_settings_are_there_at_any_time(earlier, tmp_path):
    """As while a training saves its best captioner again and again."""
    model, processor = build_tiny()
    for parameter in model.parameters():
        parameter.data += 1
    for changes in range(100):
        folder = tmp_path / str(changes)
        shutil.copytree(earlier, folder)
        killed = killed_after(changes, lambda folder=folder: save_captioner(model, processor, folder))
        check_model(str(folder))
        if not killed:
            break
    assert (folder / "model.safetensors").read_bytes() != (earlier / "model.safetensors").read_bytes()


def test_what_cannot_be_replaced_in_the_last_step_is_told(tmp_path):
    (tmp_path / "tokenizer.json" / "full").mkdir(parents=True)
    with pytest.raises(OSError, match=r"model\.safetensors could not be written \(.*\); free disk space"):
        save_captioner(*build_tiny(), tmp_path)
    assert list(tmp_path.glob(".part-*")) == []


def test_folders_of_others_are_kept(tmp_path):
    """Also one that looks like a temporary one, but was not written by the program."""
    mine = [tmp_path / "part" / "a.txt", tmp_path / ".part-mine" / "a.txt"]
    for file in mine:
        file.parent.mkdir()
        file.write_text("mine")
    (tmp_path / ".part-left").mkdir()
    (tmp_path / ".part-left" / MARK).touch()
    save_captioner(*build_tiny(), tmp_path)
    assert [file.read_text() for file in mine] == ["mine", "mine"]
    assert not (tmp_path / ".part-left").exists()


def test_a_file_that_cannot_be_written_leaves_the_earlier_one(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_file(tmp_path / "folder", b"a")
    (tmp_path / "a.txt").write_bytes(b"before")
    write_file(tmp_path / "a.txt", b"after")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.txt", "folder"]
    assert (tmp_path / "a.txt").read_bytes() == b"after"
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    umask = os.umask(0)
    os.umask(umask)
    return umask
