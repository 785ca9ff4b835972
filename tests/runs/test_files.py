"""Atomic writes leave the old file or the new one."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from sr_nas.runs.files import replacing, sweep, write_text


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")

    def fail() -> None:
        with replacing(tmp_path / "a.txt") as temporary:
            temporary.write_text("ne")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "new")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_what_a_kill_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".hidden").touch()
    (tmp_path / ".checkpoint-unfinished-abc.pt").touch()
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".hidden"]


def test_sweeping_by_age_leaves_what_others_are_writing(tmp_path: Path) -> None:
    with replacing(tmp_path / "new.txt"), replacing(tmp_path / "old.txt") as old:
        os.utime(old, (time.time() - 100,) * 2)
        sweep(tmp_path, 50)
        assert [path.name.split("-")[0] for path in tmp_path.iterdir()] == [".new"]
        old.touch()


def test_a_name_as_long_as_names_may_be_is_written(tmp_path: Path) -> None:
    for name in ("画" * 83 + ".txt", "n" * 251 + ".txt"):
        write_text(tmp_path / name, "new")
        with replacing(tmp_path / name) as temporary:
            os.utime(temporary, (time.time() - 100,) * 2)
            sweep(tmp_path, 50)
            assert not temporary.exists()
            temporary.touch()
        assert [path.name for path in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()
