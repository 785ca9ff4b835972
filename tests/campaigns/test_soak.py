"""Long work in one process: memory and open files stay as they are after the first fifth of it."""

from __future__ import annotations

import gc
import json
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from tests.campaigns.jobs import DISK, JOBS, prepare
from tests.campaigns.machinery import OK, Campaign, Outcome, call
from tests.campaigns.test_kills import killed_before

pytestmark = pytest.mark.campaign

GROWTH = 48 << 20
"""Bytes by which memory may differ from one moment to another: pages that the allocator has and does not need."""
Sample = tuple[int, int]
"""Bytes of memory, and open files."""


def sample() -> Sample:
    process = psutil.Process()
    return process.memory_info().rss, process.num_fds()


@contextmanager
def watched(interval: float) -> Iterator[list[Sample]]:
    """Take samples of this process all the time, in a thread."""
    samples, ended = [sample()], threading.Event()

    def watch() -> None:
        while not ended.wait(interval):
            samples.append(sample())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def check_flat(outcome: Outcome, campaign: Campaign) -> None:
    """Compare the samples that a child has printed: the most of the second fifth, and of the last."""
    assert outcome.verdict == OK, outcome.text[-3000:]
    samples = json.loads(re.findall(r"^samples (.*)$", outcome.text, re.M)[-1])
    fifth = len(samples) // 5
    assert fifth, "too quick to be watched"
    (memory, files), (memory_last, files_last) = (
        (max(column) for column in zip(*part, strict=True)) for part in (samples[fifth : 2 * fifth], samples[-fifth:])
    )
    campaign.outcomes[f"MB at first, {memory_last >> 20} at last"] = memory >> 20
    campaign.outcomes[f"files open at first, {files_last} at last"] = files
    assert memory_last < memory + GROWTH and files_last <= files + 1  # the sampling opens one


def upscale(count: int) -> int:
    """Upscale so many images of five formats, a few of them damaged, in this process."""
    random = np.random.default_rng(0)
    for number in range(count):
        pixels = random.integers(0, 256, (40 + number % 7, 56, 3), np.uint8)
        data = cv2.imencode(suffix := (".png", ".jpg", ".webp", ".bmp", ".tif")[number % 5], pixels)[1].tobytes()
        Path("photos", f"more{number}{suffix}").write_bytes(data[:300] if number % 10 == 9 else data)
    with watched(0.05) as samples:
        call(*JOBS["inference"].words)
    print(f"samples {json.dumps(samples)}")
    print(f"outputs {sum(1 for _ in Path(DISK, 'out').iterdir())}")
    return 0


def resume(begun: Path, count: int) -> int:
    """Resume a search so many times from the same moment, in this process."""
    samples = []
    for _ in range(count):
        shutil.rmtree(DISK)
        shutil.copytree(begun, DISK)
        assert call(*JOBS["search"].words) == 0
        gc.collect()
        samples.append(sample())
    print(f"samples {json.dumps(samples)}")
    return 0


def test_inference_of_many_images(campaign: Campaign, model: Path, tmp_path: Path) -> None:
    count = max(100, campaign.count(40))
    outcome = campaign.call(partial(upscale, count), folder=prepare(tmp_path / "job", model), seconds=3600)
    check_flat(outcome, campaign)
    assert f"outputs {8 + count - count // 10}" in outcome.text


def test_many_resumed_searches(campaign: Campaign, model: Path, tmp_path: Path) -> None:
    begun = prepare(tmp_path / "begun", model)
    for number in range(12, 200):  # killed at a moment when there is a checkpoint, and no result yet
        shutil.rmtree(begun / DISK)
        (begun / DISK).mkdir()
        killed_before(JOBS["search"].words, number, folder=begun)
        if list(begun.glob(f"{DISK}/runs/*/checkpoint.pt")):
            break
    assert not list(begun.glob(f"{DISK}/runs/*/genotype.json"))
    count = max(10, campaign.count(4))
    outcome = campaign.call(partial(resume, begun / DISK, count), folder=prepare(tmp_path / "job", model), seconds=3600)
    check_flat(outcome, campaign)
    assert outcome.text.count("going on in") == count
