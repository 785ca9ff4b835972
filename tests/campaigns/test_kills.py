"""Killed at random moments and started again until they are done, jobs leave what a straight run leaves, to the bit."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.campaigns.jobs import DISK, JOBS, content, prepare
from tests.campaigns.machinery import OK, STOPPED, Campaign, Outcome, before_writes, call, command, fork
from tests.jobs.test_search_runs import assert_equal

pytestmark = pytest.mark.campaign


def killed_before(words: tuple[str | Path, ...], number: int, **limits: Any) -> Outcome:
    """Run a command that is killed before it changes a file for that time; its output says how many changes there were."""

    def run() -> int:
        changes = 0

        def action(count: int) -> None:
            nonlocal changes
            changes = count
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

        before_writes(Path.cwd(), action)
        code = call(*words)
        print(f"changes: {changes}")
        return code

    outcome = fork(run, **limits)
    return outcome._replace(verdict=STOPPED) if outcome.code == -signal.SIGKILL else outcome


@pytest.mark.parametrize("name", [name for name, job in JOBS.items() if job.kills])
def test_jobs(name: str, campaign: Campaign, model: Path, tmp_path: Path) -> None:
    job, random = JOBS[name], campaign.random
    limits: dict[str, Any] = {"memory": None if name == "lmdb" else 4 << 30}

    straight = killed_before(job.words, -1, folder=prepare(tmp_path / "straight", model), **limits)
    assert straight.verdict == OK, straight.text
    changes, expected = int(re.findall(r"^changes: (\d+)$", straight.text, re.M)[-1]), content(tmp_path / "straight" / DISK)
    assert expected and changes > 1
    wanted, number = campaign.count(job.kills), 0
    while campaign.outcomes[STOPPED] < wanted:
        folder, number = prepare(tmp_path / str(number), model), number + 1
        for _ in range(random.randint(1, 8)):
            if random.random() < 0.5:
                outcome = killed_before(job.words, random.randint(1, changes), folder=folder, **limits)
            else:
                kill = (signal.SIGTERM if random.random() < 0.2 else signal.SIGKILL, random.uniform(0, straight.seconds))
                outcome = command(*job.words, folder=folder, kill=kill, **limits)
            if campaign.counted(outcome, name).verdict == OK:
                break
        else:
            outcome = campaign.run(*job.words, folder=folder, **limits)
        # An LMDB that was finished before a kill is not written again.
        assert outcome.verdict == OK or (name == "lmdb" and "out.lmdb exists" in outcome.text), outcome.text
        assert_equal(expected, content(folder / DISK))
        shutil.rmtree(folder)
