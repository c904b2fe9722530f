"""One way to write a small file: whole or not at all, durable, and with nothing left behind."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from patron_core.rundir import files as rundir_files
from patron_core.rundir.places import Folder
from trainer.contract.files import read_json, temporary_beside, write_atomic, write_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("refused", ["fsync", "replace"])
def test_a_disk_that_refuses_leaves_what_was_there_and_nothing_else(
    refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"step": 1})

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os if refused == "fsync" else Path, refused, refuse)
    for write in (write_json, rundir_files.write_json):
        with pytest.raises(OSError, match="No space"):
            write(path, {"step": 2})
    with pytest.raises(OSError, match="No space"):
        Folder(tmp_path).write("result.json", b"{}")
    monkeypatch.undo()
    assert read_json(path) == {"step": 1}
    assert names(tmp_path) == ["result.json"]


def test_durable_syncs_the_file_before_it_gets_its_name_and_a_heartbeat_syncs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (done.append("sync"), real_fsync(descriptor)))
    monkeypatch.setattr(Path, "replace", lambda self, target: (done.append("name"), real_replace(self, target))[1])
    write_atomic(tmp_path / "a", "one")
    assert done == ["sync", "name", "sync"]  # the file, its name, the folder that holds the name
    done.clear()
    rundir_files.write_json(tmp_path / "heartbeat.json", {}, durable=False)
    assert done == ["name"]


def test_a_run_directorys_files_are_for_all_and_an_executors_own_for_its_user(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", {})
    rundir_files.write_json(tmp_path / "job.json", {})
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in names(tmp_path)}
    assert modes == {"result.json": 0o644, "job.json": 0o600}


def test_what_gets_no_name_goes_again_and_a_name_that_is_taken_stays(tmp_path: Path) -> None:
    with temporary_beside(tmp_path / "spec.json", b"one") as temporary:
        assert temporary.read_bytes() == b"one"
    assert names(tmp_path) == []
    assert Folder(tmp_path).create("spec.json", b"one")
    assert not Folder(tmp_path).create("spec.json", b"two")
    assert (names(tmp_path), (tmp_path / "spec.json").read_bytes()) == (["spec.json"], b"one")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"7"])
def test_what_is_no_whole_object_is_read_as_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(content)
    assert read_json(tmp_path / "x.json") is None
    assert rundir_files.read_json(tmp_path / "x.json") is None
