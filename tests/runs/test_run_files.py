"""Atomic writes leave the old file or the new one; freed memory that glibc keeps costs no page faults when it is taken again."""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from sr_nas.errors import UserError, reason
from sr_nas.runs.files import kind_of, replacing, sweep, wait_briefly, write_json, write_text


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


def test_a_failed_write_names_the_file_that_was_meant(tmp_path: Path) -> None:
    def fail() -> None:
        with replacing(tmp_path / "a.txt") as temporary:
            temporary.write_text("ne")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left") as caught:
        fail()
    assert reason(caught.value) == (
        f"{tmp_path / 'a.txt'}: No space left on device. Free some space there, and run the command again."
    )
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError) as caught:
        write_text(tmp_path / "gone" / "a.txt", "new")
    assert caught.value.filename == str(tmp_path / "gone" / "a.txt")
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "a.txt"):
        (tmp_path / "other").read_text()
    assert caught.value.filename == str(tmp_path / "other")


ZIP = io.BytesIO()
with zipfile.ZipFile(ZIP, "w") as _archive:
    _archive.writestr("photos/a.png", b"1")
BOMB = io.BytesIO()
with zipfile.ZipFile(BOMB, "w", zipfile.ZIP_DEFLATED) as _archive:
    _archive.writestr("x/data.pkl", bytes(2**20))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a Git LFS pointer, .*git lfs pull"),
        (b"/annex/objects/MD5E-s1--2.pth\n", "git annex get"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><html>", "an HTML or XML page"),
        (b'{"error": "not found"}', "is JSON"),
        (b"GIF89a\1\0", "is an image"),
        (b"\x1f\x8b\x08", "compressed; unpack it first"),
        (b"\x89HDF\r\n", "another framework"),
        (b"Not Found", "text, which begins with 'Not Found'"),
        (bytes(range(200, 256)), "damaged, or of a kind that is not known"),
        ((2**60).to_bytes(8, "little") + b"{}", "header is longer than the file"),
        (b"PK\3\4 cut", "cut off or damaged"),
        (ZIP.getvalue(), r"a zip archive of photos/a\.png, and no model"),
        (BOMB.getvalue(), "far larger than PyTorch's own files"),
    ],
)
def test_what_is_no_model_is_told_by_its_content(content: bytes, words: str, tmp_path: Path) -> None:
    for name in ("net.pth", "net.SAFETENSORS", "net.onnx", "net.pt2", "net"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} .*{words}"):
            kind_of(tmp_path / name)


def test_a_model_that_is_no_file_or_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="is a folder"):
        kind_of(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        kind_of(tmp_path / "gone")
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(UserError, match=r"link is a link to gone, which is not there\.$"):
        kind_of(tmp_path / "link")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(UserError, match="is no regular file"):
            kind_of(tmp_path / "pipe")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    (tmp_path / "net.pth").touch()
    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(UserError, match=r"net\.pth cannot be read: Permission denied"):
        kind_of(tmp_path / "net.pth")


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "new")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_bytes_that_are_not_utf8_come_back_from_json(tmp_path: Path) -> None:
    content = {os.fsdecode(b"b\xff\xfed"): "\u65e5"}
    write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == content and "b\\udcff\\udcfed" in text and "\u65e5" in text


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


needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")

CODE = """
import resource
import numpy as np
from sr_nas.runs.files import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        np.ones(2**24, np.uint8).fill(1)  # 16 MiB are 4,096 pages
        np.ones(2**26, np.uint8).fill(1)  # 64 MiB are 16,384
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
by_default = faults()
print(keep_freed_memory())
faults()
print(by_default, faults())
"""


def allocations(**environment: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, env=environment)
    return done.stdout.split()


@needs_linux
def test_kept_memory_costs_no_page_faults() -> None:
    changed, before, after = allocations()
    if changed == "False":
        pytest.skip("this system's C library is not glibc")
    assert int(after) < 1000 < int(before)


@needs_linux
def test_settings_in_the_environment_are_left_alone() -> None:
    assert allocations(MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"


def test_threads_wait_briefly_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for before, after in (({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)):
        environment = dict(before)
        monkeypatch.setattr("sr_nas.runs.files.os.environ", environment)
        wait_briefly()
        assert environment.get("GOMP_SPINCOUNT") == after
