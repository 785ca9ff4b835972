"""Disks that fill up, may not be written, or vanish: one message, nothing half written, and the job goes on afterwards."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.campaigns.jobs import DISK, JOBS, content, prepare
from tests.campaigns.machinery import MESSAGE, OK, Campaign, Outcome, before_writes, call, command, fork
from tests.jobs.test_search_runs import assert_equal

pytestmark = pytest.mark.campaign

NEW_NAMES, NEW_USER, READ_ONLY, REMOUNT, PRIVATE = 0x20000, 0x10000000, 1, 32, 0x44000  # linux/sched.h, linux/mount.h
LIMITS: dict[str, Any] = {"memory": None}  # LMDB maps more than there is


def mount(folder: Path, flags: int, size: int) -> None:
    """Mount, or change, a disk of so many KiB on a folder, in this process and its children alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    # An ordinary user may where the system lets them have a namespace in which they are root.
    if not flags & REMOUNT and libc.unshare(NEW_NAMES) and libc.unshare(NEW_NAMES | NEW_USER):
        raise PermissionError(ctypes.get_errno(), "no namespace of its own")
    if not flags & REMOUNT and libc.mount(b"none", b"/", None, PRIVATE, None):
        raise PermissionError(ctypes.get_errno(), "no mount")
    if libc.mount(b"none", os.fsencode(folder), b"tmpfs", flags, f"size={size}k".encode()):
        raise PermissionError(ctypes.get_errno(), "no mount")


@pytest.fixture(autouse=True)
def may_mount(tmp_path: Path) -> None:
    """Skip where this user may mount nothing."""
    (tmp_path / "mounted").mkdir()
    if fork(partial(mount, tmp_path / "mounted", 0, 64)).verdict != OK:
        pytest.skip("needs the right to mount a small disk")


def interrupted(name: str, root: Path, expected: dict[str, Any], size: int) -> int:
    """Run a job on a disk of so many KiB, or on one that may not be written (0), then on one with room; in a child."""
    disk, job = root / DISK, JOBS[name]
    mount(disk, 0 if size else READ_ONLY, size or 64)
    first = command(*job.words, folder=root, **LIMITS)
    print(first.text, f"VERDICT {first.verdict}", sep="\n")
    if first.verdict == MESSAGE:
        assert re.search(r"no space|disk|file system|Is it full", first.text, re.I), "the message does not name the disk"
        finished = {file: value for file, value in content(disk).items() if "runs/" not in file}
        assert_equal({file: expected[file] for file in finished}, finished)
    mount(disk, REMOUNT, 1 << 20)
    again = command(*job.words, folder=root, **LIMITS)
    print(again.text, f"AGAIN {again.verdict}", sep="\n")
    assert again.verdict == OK or "out.lmdb exists" in again.text
    assert_equal(expected, content(disk))
    return 0


def straight_run(name: str, root: Path, model: Path) -> tuple[dict[str, Any], int]:
    """Run a job as it should be; return its result, and the KiB that this takes."""
    prepare(root, model)
    outcome = command(*JOBS[name].words, folder=root, **LIMITS)
    assert outcome.verdict == OK, outcome.text
    return content(root / DISK), sum(file.stat().st_blocks // 2 for file in (root / DISK).rglob("*"))


def counted(campaign: Campaign, outcome: Outcome, what: str) -> None:
    """Count the verdict on the first run of :func:`interrupted`, or what is wrong with all of it."""
    first = re.search(r"^VERDICT (\w+)$", outcome.text, re.M)
    campaign.counted(outcome._replace(verdict=first[1]) if first and outcome.verdict == OK else outcome, what)


@pytest.mark.parametrize("name", JOBS)
def test_full_and_read_only(name: str, campaign: Campaign, model: Path, tmp_path: Path) -> None:
    expected, taken = straight_run(name, tmp_path / "straight", model)
    # Unfinished files come on top of what a result takes in the end.
    sizes = range(4, int(1.5 * taken) + 32, 4)
    for size in (0, *campaign.random.sample(sizes, min(len(sizes), campaign.count(2)))):
        root = prepare(tmp_path / str(size), model)
        counted(campaign, fork(partial(interrupted, name, root, expected, size), seconds=300, **LIMITS), f"{name}, {size} KiB")
        shutil.rmtree(root)


def vanishing(words: tuple[str | Path, ...], number: int) -> int:
    """Run a command whose output folder is removed before it changes a file for that time."""
    before_writes(Path.cwd(), lambda count: shutil.rmtree(DISK, ignore_errors=True) if count == number else None)
    return call(*words)


@pytest.mark.parametrize("name", JOBS)
def test_vanishing(name: str, campaign: Campaign, model: Path, tmp_path: Path) -> None:
    for _ in range(campaign.count(2)):
        root = prepare(tmp_path / "job", model)
        number = Random(campaign.random.random()).randint(1, 30)
        campaign.call(partial(vanishing, JOBS[name].words, number), folder=root, **LIMITS)
        shutil.rmtree(root)
